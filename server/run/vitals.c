/* See vitals.h. */
#include "run/vitals.h"

#include "base/clock.h"
#include "run/boss.h"
#include "run/notify.h"

#include <stdio.h>

static unsigned count_plugins(struct swap *swap)
{
    const struct generation *g = swap_current(swap);
    return g != NULL ? (unsigned)g->nversions : 0;
}

static enum vitals_state state_of(const struct server *s)
{
    if (drain_is_on(s->drain))
        return VITALS_LEAVING;
    if (s->failed || !s->ops.live)
        return VITALS_STARTING;
    return s->reloads > 0 ? VITALS_RELOADING : VITALS_SERVING;
}

static void read_vitals(struct server *s, struct vitals *v)
{
    struct buf why = { 0 };
    *v = (struct vitals){ .state = state_of(s), .since_us = clock_us() };
    v->live = ops_is_live(&s->ops, &why);
    v->generation = swap_generation(s->swap);
    v->in_flight = workers_in_flight(s->workers);
    v->plugins = count_plugins(s->swap);
    snprintf(v->drain, sizeof v->drain, "%s", drain_phase(s->drain));
    buf_fini(&why);
}

void vitals_changed(struct server *s)
{
    struct vitals v;
    ON_CONTROL();
    if (s->vitals_ms == 0)
        return;
    read_vitals(s, &v);
    if (s->boss != NULL)
        boss_vitals(s->boss, &v);
    else
        notify_vitals(&v);
}

static void on_time(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct server *s = arg;
    CHECK(s, SERVER_MAGIC);
    vitals_changed(s);
}

void vitals_reload_begin(struct server *s)
{
    if (s->reloads++ == 0)
        vitals_changed(s);
}

void vitals_reload_end(struct server *s)
{
    REQUIRE(s->reloads > 0);
    if (--s->reloads == 0)
        vitals_changed(s);
}

int vitals_open(struct server *s, struct err *err)
{
    s->vitals_ms = s->boss != NULL ? boss_vitals_ms(s->boss) : notify_every_ms();
    if (s->vitals_ms == 0)
        return 0;
    struct timeval every = { s->vitals_ms / 1000, (s->vitals_ms % 1000) * 1000 };
    event_assign(&s->vitals_event, s->base, -1, EV_PERSIST, on_time, s);
    if (event_add(&s->vitals_event, &every) != 0)
        return err_set(err, "cannot set the timer of the signs of life");
    vitals_changed(s);
    return 0;
}
