/*
 * graft_every, counters, worker numbers and the getters of the configuration. Built as
 * every_metrics_v1.so and every_metrics_v2.so.
 *
 *     GET /every {"version":…,"ticks":N,"overlaps":N,"outside":N,"worker":N,"workers":N} outside:
 * ticks before start or after cool GET /every/add?n=1     adds to the counter things-done, on the
 * worker GET /every/pool?n=1    the same on the pool GET /every/config      what the getters say of
 * config: s, i, b, and the whole object GET /every/counters    which counters could be made: good
 * name, same name, bad name Config: every_ms (20), tick_ms (0): how long a tick takes.
 */
#include "contract.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

#ifndef VERSION
#define VERSION "v1"
#endif

struct every {
    graft_self *self;
    graft_metric *things, *same, *bad;
    unsigned tick_ms;
    atomic_uint ticks, overlaps, outside;
    atomic_bool busy, started;
};

static void tick(void *state)
{
    struct every *e = state;
    if (atomic_exchange(&e->busy, true))
        atomic_fetch_add(&e->overlaps, 1);
    if (!atomic_load(&e->started)) {
        atomic_fetch_add(&e->outside, 1);
        graft_log(e->self, GRAFT_WARN, "every " VERSION " OUTSIDE");
    }
    sleep_ms(e->tick_ms);
    unsigned ticks = atomic_fetch_add(&e->ticks, 1) + 1;
    graft_log(e->self, GRAFT_DEBUG, "every " VERSION " tick %u", ticks);
    atomic_store(&e->busy, false);
}

static int init(graft_self *self, void **state)
{
    struct every *e = calloc(1, sizeof *e);
    if (!e)
        return graft_fail(self, "no memory");
    e->self = self;
    e->tick_ms = (unsigned)graft_config_int(self, "tick_ms", 0);
    e->things = graft_counter(self, "things-done", "How many things were done.");
    e->same = graft_counter(self, "things-done", "How many things were done.");
    e->bad = graft_counter(self, "bad name\n", "Not a name.");
    *state = e;
    return graft_every(self, (unsigned)graft_config_int(self, "every_ms", 20), tick, e);
}

static int start(graft_self *self, void *state)
{
    struct every *e = state;
    (void)self;
    atomic_store(&e->started, true);
    return 0;
}

static void cool(graft_self *self, void *state)
{
    struct every *e = state;
    atomic_store(&e->started, false);
    graft_log(self, GRAFT_INFO, "every " VERSION " cool ticks=%u", atomic_load(&e->ticks));
}

static void fini(graft_self *self, void *state)
{
    struct every *e = state;
    graft_log(self, GRAFT_INFO, "every " VERSION " fini ticks=%u overlaps=%u outside=%u",
              atomic_load(&e->ticks), atomic_load(&e->overlaps), atomic_load(&e->outside));
    free(e);
}

static graft_next report(graft_req *req, void *state)
{
    struct every *e = state;
    graft_set_header(req, "Content-Type", "application/json");
    graft_printf(req,
                 "{\"version\":\"" VERSION "\",\"ticks\":%u,\"overlaps\":%u,\"outside\":%u,"
                 "\"worker\":%u,\"workers\":%u}\n",
                 atomic_load(&e->ticks), atomic_load(&e->overlaps), atomic_load(&e->outside),
                 graft_worker(e->self), graft_workers(e->self));
    return GRAFT_DONE;
}

static graft_next add(graft_req *req, void *state)
{
    struct every *e = state;
    graft_add(e->things, query_u64(req, "n", 1));
    return graft_text(req, 200, "added\n");
}

struct job {
    graft_metric *metric;
    uint64_t n;
};

static void pool_work(void *arg)
{
    struct job *job = arg;
    graft_add(job->metric, job->n);
}

static void pool_then(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "added\n");
    graft_done(req);
}

static graft_next pool_add(graft_req *req, void *state)
{
    struct every *e = state;
    struct job *job = graft_alloc(req, sizeof *job);
    if (!job)
        return GRAFT_ERROR;
    *job = (struct job){ e->things, query_u64(req, "n", 1) };
    return graft_offload(req, pool_work, pool_then, job) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static graft_next config(graft_req *req, void *state)
{
    graft_self *self = ((struct every *)state)->self;
    graft_str all = graft_config(self);
    graft_set_header(req, "Content-Type", "application/json");
    graft_printf(req, "{\"s\":\"%s\",\"i\":%" PRId64 ",\"b\":%s,\"config\":%.*s}\n",
                 graft_config_str(self, "s", "fallback"), graft_config_int(self, "i", -7),
                 graft_config_bool(self, "b", false) ? "true" : "false", (int)all.len, all.ptr);
    return GRAFT_DONE;
}

static graft_next counters(graft_req *req, void *state)
{
    struct every *e = state;
    graft_add(e->bad, 1); /* takes NULL */
    graft_printf(req, "good=%s same=%s bad=%s\n", e->things ? "made" : "NULL",
                 e->same ? "made" : "NULL", e->bad ? "made" : "NULL");
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "every-metrics",
    .version = VERSION,
    .init    = init,
    .start   = start,
    .cool    = cool,
    .fini    = fini,
    .routes  = (const graft_route[]){ { "GET", "/every", report, 0 },
                                      { "GET", "/every/add", add, 0 },
                                      { "GET", "/every/pool", pool_add, 0 },
                                      { "GET", "/every/config", config, 0 },
                                      { "GET", "/every/counters", counters, 0 },
                                      { 0 } },
)
