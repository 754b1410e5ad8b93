/*
 * One thread that plays all of the server's, in turn: which one it is stands in thread_kind,
 * thread_slot and loop_current, as on the real ones, so that calls on a wrong thread are found. And
 * the making of the workers, and their turns.
 */
#include "bottle.h"

#include "plugin/adopt.h"
#include "plugin/every.h"
#include "plugin/handover.h"
#include "plugin/load.h"
#include "plugin/metric.h"
#include "run/turn.h"

#include <event2/event.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS_MAX 64

struct bottle bottle;

void give_up(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("Bail out! graft-harness: ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    fflush(stdout);
    _Exit(2);
}

/* ---- Parts ----------------------------------------------------------------------------------- */

struct played play(enum role_on who, unsigned number)
{
    static const enum thread_kind kinds[] = { THREAD_OTHER, THREAD_CONTROL, THREAD_LOADER,
                                              THREAD_WORKER, THREAD_POOL };
    struct played was = { thread_kind, thread_slot, loop_current };
    thread_kind = kinds[who];
    thread_slot = who == ON_WORKER_THREAD ? number
                  : who == ON_POOL_THREAD ? bottle.nworkers
                                          : UINT_MAX;
    loop_current = who == ON_WORKER_THREAD ? bottle.loops[number] : NULL;
    return was;
}

void play_again(struct played was)
{
    thread_kind = was.kind;
    thread_slot = was.slot;
    loop_current = was.loop;
}

void bottle_enter(const char *function)
{
    char what[300];
    bottle_open();
    if (blame_running(what, sizeof what))
        give_up("%s was called from inside a callback (%s): only the test's main may call it",
                function, what);
}

/* ---- Workers --------------------------------------------------------------------------------- */

static void step(void *arg)
{
    struct worker *w = arg;
    turn_step(&w->chain, &w->http);
}

static void expired(struct wheel_timer *t, void *arg)
{
    struct worker *w = arg;
    turn_expired(t, w->loop.wheel.now_ms);
}

static struct worker *worker_new(unsigned number)
{
    struct worker *w =
        aligned_alloc(CACHE_LINE, (sizeof *w + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (w == NULL)
        give_up("no memory for a worker");
    memset(w, 0, sizeof *w);
    if (loop_init(&w->loop, number) != 0)
        give_up("no eventfd for a worker");
    bottle.workers[number] = w;
    bottle.loops[number] = &w->loop;
    return w;
}

static void worker_open(struct worker *w)
{
    struct err err;
    w->loop.step = step;
    w->loop.step_arg = w;
    w->loop.expired = expired;
    w->loop.expired_arg = w;
    struct event_base *base = event_base_new();
    if (base == NULL || loop_attach(&w->loop, base) != 0)
        give_up("libevent makes no loop");
    if (chain_init(&w->chain, &w->loop, &w->http, bottle.pool, bottle.nworkers, bottle.fallback,
                   &err) != 0 ||
        http_init(&w->http, &w->loop, &chain_app, &w->chain, &err) != 0)
        give_up("%s", err.text);
}

static void workers_open(void)
{
    bottle.nworkers = bottle.fallback->workers ? bottle.fallback->workers : 1;
    if (bottle.nworkers > WORKERS_MAX)
        give_up("settings: \"workers\" is %u, expected %d at most", bottle.nworkers, WORKERS_MAX);
    bottle.workers = xcalloc(bottle.nworkers, sizeof *bottle.workers);
    bottle.loops = xcalloc(bottle.nworkers, sizeof *bottle.loops);
    for (unsigned i = 0; i < bottle.nworkers; i++)
        worker_new(i);
    pool_make(bottle.fallback->offload_queue);
    for (unsigned i = 0; i < bottle.nworkers; i++) {
        struct played was = play(ON_WORKER_THREAD, i);
        worker_open(bottle.workers[i]);
        play_again(was);
    }
}

void bottle_open(void)
{
    struct err err;
    if (bottle.open)
        return;
    bottle.open = true;
    tap_open();
    blame_open();
    const char *text = bottle.settings ? bottle.settings : "{}";
    bottle.fallback = config_from_text("settings", text, strlen(text), &err);
    if (bottle.fallback == NULL)
        give_up("%s", err.text);
    atomic_store(&log_level_now, (int)bottle.fallback->log.level);
    if (inbox_open(&bottle.control) != 0)
        give_up("no eventfd");
    workers_open();
    metric_init(bottle.nworkers + 1);
    adopt_init(bottle.loops, bottle.nworkers, &bottle.control, chain_cut_version);
    handover_init(bottle.loops, bottle.nworkers, &bottle.control, chain_resume);
    every_init(control_base(), &bottle.control, bottle.pool);
}

void graft_test_settings(const char *json)
{
    if (bottle.open)
        give_up("graft_test_settings comes before all other calls");
    free(bottle.settings);
    bottle.settings = json ? xstrdup(json) : NULL;
    bottle_open();
}

void graft_test_worker(unsigned number)
{
    bottle_enter("graft_test_worker");
    if (number >= bottle.nworkers)
        give_up("graft_test_worker(%u): there are %u (settings: \"workers\")", number,
                bottle.nworkers);
    bottle.next_worker = number;
}

/* ---- Turns ----------------------------------------------------------------------------------- */

/* What libraries have put on the workers' loops, in real time. */
static void foreign_turn(void)
{
    for (unsigned i = 0; i < bottle.nworkers; i++) {
        struct played was = play(ON_WORKER_THREAD, i);
        event_base_loop(bottle.loops[i]->base, EVLOOP_NONBLOCK);
        play_again(was);
    }
}

static bool control_turn(void)
{
    struct played was = play(ON_CONTROL_THREAD, 0);
    bool some = inbox_run(&bottle.control) > 0;
    play_again(was);
    return some;
}

void settle(void)
{
    bool more;
    do {
        foreign_turn();
        more = events_turn();
        more = control_turn() || more;
        more = clients_turn() || more;
        more = pool_turn() || more;
        if (!more)
            plugins_turn();
    } while (more);
    blame_tell();
}

void graft_test_advance(unsigned ms)
{
    bottle_enter("graft_test_advance");
    uint64_t target = bottle_now_us() + (uint64_t)ms * 1000u, next;
    settle();
    while (events_next(&next) && next <= target) {
        if (next > bottle_now_us())
            bottle_clock_set(next);
        settle();
    }
    bottle_clock_set(target);
    settle();
}

uint64_t graft_test_now(void)
{
    return bottle_now_us() / 1000u;
}

bool graft_test_wait(graft_test_req *req, unsigned ms)
{
    bottle_enter("graft_test_wait");
    client_check(req, "graft_test_wait");
    for (unsigned waited = 0;; waited++) {
        settle();
        if (graft_test_complete(req) || graft_test_cut(req))
            return true;
        if (waited == ms)
            return false;
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
}

unsigned graft_test_unfinished(void)
{
    uint64_t sum = 0;
    bottle_open();
    for (unsigned i = 0; i < bottle.nworkers; i++)
        sum += COUNTER_READ(bottle.loops[i]->stats.in_flight);
    return (unsigned)sum;
}
