/*
 * Each registration is a timer on the control thread's loop, a job for the pool and a message back.
 * Invariant: a registration is either waiting for its timer or on the pool, never both; `outside`
 * counts those on the pool.
 */
#include "plugin/every.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/doing.h"
#include "plugin/serial.h"

#include <stdlib.h>

struct every {
    struct list node;
    struct version *version;
    unsigned ms;
    void (*fn)(void *state);
    void *state;
    struct event *timer; /* made by every_start */
    uint64_t due_us;
    struct pool_job job;
    struct msg back;
    bool running; /* on the pool */
};

static struct {
    struct event_base *base;
    struct inbox *control;
    struct pool *pool;
} deps;

void every_init(struct event_base *base, struct inbox *control, struct pool *pool)
{
    deps.base = base;
    deps.control = control;
    deps.pool = pool;
}

int every_add(struct version *v, unsigned ms, void (*fn)(void *state), void *state)
{
    ON_LOADER();
    CHECK(v, VERSION_MAGIC);
    if (ms == 0 || fn == NULL || __atomic_load_n(&v->cooling, __ATOMIC_RELAXED) != 0)
        return -1;
    struct every *e = calloc(1, sizeof *e);
    if (e == NULL)
        return -1;
    e->version = v;
    e->ms = ms;
    e->fn = fn;
    e->state = state;
    list_init(&e->node);
    list_add_tail(&v->every, &e->node);
    return 0;
}

static void arm(struct every *e)
{
    uint64_t now = clock_us();
    e->due_us += (uint64_t)e->ms * 1000u;
    if (e->due_us < now)
        e->due_us = now; /* a run took longer than the interval: runs are not made up for */
    uint64_t wait = e->due_us - now;
    struct timeval tv = { .tv_sec = (time_t)(wait / 1000000u),
                          .tv_usec = (suseconds_t)(wait % 1000000u) };
    if (event_add(e->timer, &tv) != 0)
        log_msg(LOG_ERROR, "misuse", "out of memory: a graft_every of %s %s stands still",
                e->version->plugin, e->version->id);
}

void every_borrow(struct version *v)
{
    ON_CONTROL();
    __atomic_fetch_add(&v->outside, 1, __ATOMIC_RELAXED);
    v->every_running++;
}

void every_returned(struct version *v)
{
    ON_CONTROL();
    __atomic_fetch_sub(&v->outside, 1, __ATOMIC_RELAXED);
    if (--v->every_running > 0 || v->every_stopped == NULL)
        return;
    void (*done)(struct version *) = v->every_stopped;
    v->every_stopped = NULL;
    done(v);
}

static void returned(struct msg *m)
{
    ON_CONTROL();
    struct every *e = container_of(m, struct every, back);
    struct version *v = e->version;
    CHECK(v, VERSION_MAGIC);
    e->running = false;
    if (v->every_on)
        arm(e);
    every_returned(v);
}

static void run(struct pool_job *job)
{
    struct every *e = container_of(job, struct every, job);
    struct serial *serial = e->version->serial;
    if (serial != NULL)
        serial_enter_pool(serial);
    doing_begin(e->version, NULL, "every");
    e->fn(e->state);
    doing_end();
    if (serial != NULL)
        serial_leave(serial);
    inbox_send(deps.control, &e->back);
}

static void fire(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct every *e = arg;
    struct version *v = e->version;
    CHECK(v, VERSION_MAGIC);
    every_borrow(v);
    e->running = true;
    e->job.run = run;
    e->back.fn = returned;
    pool_submit_always(deps.pool, &e->job);
}

void every_start(struct version *v)
{
    ON_CONTROL();
    CHECK(v, VERSION_MAGIC);
    if (v->every_on)
        return;
    v->every_on = true;
    list_each (it, &v->every) {
        struct every *e = list_entry(it, struct every, node);
        if (e->timer == NULL)
            e->timer = evtimer_new(deps.base, fire, e);
        e->due_us = clock_us();
        if (e->timer != NULL && e->running)
            continue; /* it is armed when it returns */
        if (e->timer != NULL)
            arm(e);
        else
            log_msg(LOG_ERROR, "misuse", "out of memory: a graft_every of %s %s stands still",
                    v->plugin, v->id);
    }
}

void every_stop(struct version *v, void (*done)(struct version *v))
{
    ON_CONTROL();
    CHECK(v, VERSION_MAGIC);
    v->every_on = false;
    list_each (it, &v->every) {
        struct every *e = list_entry(it, struct every, node);
        if (e->timer != NULL)
            event_del(e->timer);
    }
    if (v->every_running == 0)
        done(v);
    else
        v->every_stopped = done;
}

void every_go_on(struct version *v)
{
    ON_CONTROL();
    v->every_stopped = NULL;
    v->handing = false;
}

void every_free(struct version *v)
{
    REQUIRE(!v->every_on && v->every_running == 0);
    for (struct list *it; (it = list_pop(&v->every)) != NULL;) {
        struct every *e = list_entry(it, struct every, node);
        if (e->timer != NULL)
            event_free(e->timer);
        free(e);
    }
}
