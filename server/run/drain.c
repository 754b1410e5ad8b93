/* See drain.h. */
#include "run/drain.h"

#include "base/log.h"
#include "plugin/chain.h"

#include <stdlib.h>

#define LOOK_MS      10  /* how often the end of the last requests is looked for */
#define ROOM_MS      100 /* at least, before idle connections make room for a queue */
#define LAST_WORD_MS 300 /* how long workers have to cut, at the deadline */

enum phase {
    PHASE_OFF,
    PHASE_DELAY,
    PHASE_LISTENERS,
    PHASE_IDLE,
    PHASE_COOL,
    PHASE_REQUESTS,
    PHASE_CUT,
    PHASE_OVER
};

static const char *const phase_names[] = { "off",  "delay",    "listeners", "idle",
                                           "cool", "requests", "cut",       "over" };

struct drain {
    struct drain_deps deps;
    enum phase phase;
    unsigned idle_ms;
    struct event next, deadline;
    uint64_t answered_before;
    uint64_t cut;
    bool versions_gone;
};

static void on_next(evutil_socket_t fd, short what, void *arg);
static void on_deadline(evutil_socket_t fd, short what, void *arg);

static void next_in(struct drain *d, unsigned ms)
{
    struct timeval tv = { ms / 1000, (ms % 1000) * 1000 };
    event_add(&d->next, &tv);
}

struct drain *drain_open(const struct drain_deps *deps)
{
    struct drain *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->deps = *deps;
    event_assign(&d->next, deps->base, -1, 0, on_next, d);
    event_assign(&d->deadline, deps->base, -1, 0, on_deadline, d);
    return d;
}

bool drain_is_on(const struct drain *d)
{
    return d->phase != PHASE_OFF;
}

const char *drain_phase(const struct drain *d)
{
    return phase_names[d->phase];
}

static void begin(struct drain *d, const struct config *cfg, const char *why, unsigned delay_ms)
{
    ON_CONTROL();
    if (d->phase != PHASE_OFF)
        return;
    struct log_line l;
    log_begin(&l, LOG_INFO, "drain_start", "draining: %s", why);
    log_z(&l, "why", why);
    log_u64(&l, "in_flight", workers_in_flight(d->deps.workers));
    log_u64(&l, "connections", workers_connections(d->deps.workers));
    log_u64(&l, "timeout_ms", cfg->drain.timeout_ms);
    log_end(&l);
    d->phase = PHASE_DELAY;
    d->idle_ms = cfg->drain.idle_ms;
    d->answered_before = workers_answered(d->deps.workers);
    struct timeval tv = { cfg->drain.timeout_ms / 1000, (cfg->drain.timeout_ms % 1000) * 1000 };
    event_add(&d->deadline, &tv);
    swap_drain_begin(d->deps.swap);
    next_in(d, delay_ms);
}

void drain_begin(struct drain *d, const struct config *cfg, const char *why)
{
    begin(d, cfg, why, cfg->drain.delay_ms);
}

void drain_begin_at_once(struct drain *d, const struct config *cfg, const char *why)
{
    begin(d, cfg, why, 0);
}

static void over(struct drain *d, int status)
{
    d->phase = PHASE_OVER;
    event_del(&d->next);
    event_del(&d->deadline);
    struct log_line l;
    uint64_t finished = workers_answered(d->deps.workers) - d->answered_before;
    log_begin(&l, status ? LOG_ERROR : LOG_INFO, "drain_end", "drained: %llu finished, %llu cut",
              (unsigned long long)finished, (unsigned long long)d->cut);
    log_u64(&l, "finished", finished);
    log_u64(&l, "cut", d->cut);
    log_end(&l);
    d->deps.over(status, d->deps.arg);
}

static void on_listeners_empty(void *arg)
{
    struct drain *d = arg;
    d->deps.closing(d->deps.arg);
    listeners_close(d->deps.listeners);
    if (d->phase != PHASE_LISTENERS)
        return;
    d->phase = PHASE_IDLE;
    chain_set_cooling();
    swap_drain_cooling(d->deps.swap);
    next_in(d, d->idle_ms);
}

static void on_versions_gone(void *arg)
{
    struct drain *d = arg;
    d->versions_gone = true;
}

static void on_cooled(void *arg)
{
    struct drain *d = arg;
    if (d->phase != PHASE_COOL)
        return;
    d->phase = PHASE_REQUESTS;
    swap_drain_fini(d->deps.swap, on_versions_gone, d);
    next_in(d, LOOK_MS);
}

static void on_idle_closed(void *arg)
{
    struct drain *d = arg;
    if (d->phase != PHASE_IDLE)
        return;
    d->phase = PHASE_COOL;
    swap_drain_cool(d->deps.swap, on_cooled, d);
}

/* Clients that idle may hold the descriptors that a queue waits for: each has idle_ms. */
static unsigned room_ms(const struct drain *d)
{
    return d->idle_ms > ROOM_MS ? d->idle_ms : ROOM_MS;
}

static void on_next(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct drain *d = arg;
    if (workers_busy(d->deps.workers) && (d->phase == PHASE_DELAY || d->phase == PHASE_IDLE)) {
        next_in(d, LOOK_MS); /* the step before has not been answered by all */
    } else if (d->phase == PHASE_DELAY) {
        d->phase = PHASE_LISTENERS;
        workers_stop_accepting(d->deps.workers, on_listeners_empty, d);
        next_in(d, room_ms(d));
    } else if (d->phase == PHASE_LISTENERS) {
        workers_make_room(d->deps.workers);
        next_in(d, room_ms(d));
    } else if (d->phase == PHASE_IDLE) {
        workers_close_idle(d->deps.workers, on_idle_closed, d);
    } else if (d->phase == PHASE_REQUESTS) {
        if (d->versions_gone && workers_in_flight(d->deps.workers) == 0 &&
            workers_connections(d->deps.workers) == 0)
            over(d, 0);
        else
            next_in(d, LOOK_MS);
    } else if (d->phase == PHASE_CUT) {
        over(d, 3);
    }
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct drain *d = arg;
    d->phase = PHASE_CUT;
    d->cut = workers_in_flight(d->deps.workers);
    swap_drain_cut(d->deps.swap);
    workers_cut_all(d->deps.workers);
    next_in(d, LAST_WORD_MS);
}
