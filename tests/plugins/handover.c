/*
 * Counts in memory of its own and hands the number over. Fields of the configuration say what goes
 * wrong: "export", "import", "ready", "start": "fail" or "slow", "ms": how slow.
 * -DVERSION, -DSCHEMA.
 *
 *     GET  /count          one more: the number, X-Version
 *     GET  /value          the number
 *     GET  /count/timer    LATER for ?ms=, then as /count
 *     GET  /count/stream   a piece now, the end after ?ms=
 *     POST /count/body     as /count, after its body
 */
#include "contract.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "v1"
#endif
#ifndef SCHEMA
#define SCHEMA 1
#endif

static _Atomic uint64_t value, ticks;
static uint64_t imported_schema;

/* What the configuration says is to go wrong here. */
static int trouble(graft_self *self, const char *key)
{
    const char *how = graft_config_str(self, key, "");
    if (strcmp(how, "fail") == 0)
        return graft_fail(self, "%s as configured", key);
    if (strcmp(how, "slow") == 0)
        usleep((useconds_t)graft_config_int(self, "ms", 100) * 1000);
    return 0;
}

static int export_state(graft_self *self, void *state, graft_buf *out)
{
    (void)state;
    char text[32];
    uint64_t before = atomic_load(&value), tick = atomic_load(&ticks);
    if (trouble(self, "export") != 0)
        return -1;
    if (graft_config_bool(self, "look", false))
        usleep(30000);
    if (atomic_load(&value) != before || atomic_load(&ticks) != tick)
        return graft_fail(self, "something ran during export_state");
    int len = snprintf(text, sizeof text, "%llu", (unsigned long long)before);
    return graft_buf_add(out, text, 1) != 0 || graft_buf_add(out, text + 1, (size_t)len - 1) != 0 ||
                   graft_buf_add(out, NULL, 0) != 0
               ? graft_fail(self, "no memory")
               : 0;
}

static int import_state(graft_self *self, void *state, uint32_t schema, graft_str data)
{
    (void)state;
    char text[32] = "";
    if (trouble(self, "import") != 0)
        return -1;
    if (schema > SCHEMA)
        return graft_fail(self, "schema %u is newer than mine, %d", schema, SCHEMA);
    if (data.len >= sizeof text)
        return graft_fail(self, "%zu bytes", data.len);
    memcpy(text, data.ptr, data.len);
    imported_schema = schema;
    atomic_store(&value, strtoull(text, NULL, 10));
    return 0;
}

static int ready(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, "handover " VERSION " ready with %llu",
              (unsigned long long)atomic_load(&value));
    return trouble(self, "ready");
}

static int start(graft_self *self, void *state)
{
    (void)state;
    return trouble(self, "start");
}

static void tick(void *state)
{
    (void)state;
    atomic_fetch_add(&ticks, 1);
}

static int init(graft_self *self, void **state)
{
    *state = self;
    return graft_every(self, 5, tick, NULL);
}

static graft_next count(graft_req *req, void *state)
{
    (void)state;
    graft_set_header(req, "X-Version", VERSION);
    graft_printf(req, "%llu\n", (unsigned long long)atomic_fetch_add(&value, 1) + 1);
    return GRAFT_DONE;
}

static graft_next tell(graft_req *req, void *state)
{
    (void)state;
    graft_set_header(req, "X-Version", VERSION);
    graft_printf(req, "{\"value\": %llu, \"ticks\": %llu, \"schema\": %llu}\n",
                 (unsigned long long)atomic_load(&value), (unsigned long long)atomic_load(&ticks),
                 (unsigned long long)imported_schema);
    return GRAFT_DONE;
}

static void timer_over(graft_req *req, void *arg)
{
    count(req, arg);
    graft_done(req);
}

static graft_next timer(graft_req *req, void *state)
{
    graft_after(req, query_number(req, "ms", 100), timer_over, state);
    return GRAFT_LATER;
}

static void stream_over(graft_req *req, void *arg)
{
    (void)arg;
    graft_write(req, "end\n", 4);
    graft_done(req);
}

static graft_next stream(graft_req *req, void *state)
{
    graft_write(req, "begin\n", 6);
    graft_flush(req);
    graft_after(req, query_number(req, "ms", 100), stream_over, state);
    return GRAFT_LATER;
}

GRAFT_PLUGIN(
    .name         = "handover",
    .version      = VERSION,
    .summary      = "Counts, and hands the number over.",
    .init         = init,
    .ready        = ready,
    .start        = start,
    .routes       = (const graft_route[]){ { "GET", "/count", count, 0 },
                                           { "GET", "/value", tell, 0 },
                                           { "GET", "/count/timer", timer, 0 },
                                           { "GET", "/count/stream", stream, 0 },
                                           { "POST", "/count/body", count, 0 },
                                           { 0 } },
    .state_schema = SCHEMA,
    .export_state = export_state,
    .import_state = import_state,
)
