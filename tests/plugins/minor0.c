/*
 * Built against the header of the first issue, kept in tests/abi/1.0: what was compiled then
 * must load and serve for ever. Uses every kind of callback and the table's last member of then.
 *
 *     GET /minor0    what it sees
 */
#include "../abi/1.0/graft/graft.h"

#include <stdlib.h>

#if GRAFT_MINOR != 0
#error "this is to be compiled with the header of minor 0"
#endif

struct state {
    graft_metric *counted;
    unsigned ready, workers;
};

static int init(graft_self *self, void **state)
{
    struct state *s = calloc(1, sizeof *s);
    if (s == NULL)
        return graft_fail(self, "no memory");
    s->counted = graft_counter(self, "counted", "Requests that were counted.");
    *state = s;
    return 0;
}

static int ready(graft_self *self, void *state)
{
    struct state *s = state;
    s->ready++;
    s->workers = graft_workers(self);
    return 0;
}

static void fini(graft_self *self, void *state)
{
    graft_log(self, GRAFT_INFO, "minor0 fini");
    free(state);
}

static graft_next answer(graft_req *req, void *state)
{
    struct state *s = state;
    graft_add(s->counted, 1);
    graft_printf(req, "minor %d: host %s, ready %u, workers %u\n", GRAFT_MINOR,
                 req->host->size >= sizeof(graft_host) ? "long enough" : "too short", s->ready,
                 s->workers);
    return GRAFT_DONE;
}

static void on_finish(graft_req *req, void *state)
{
    (void)state;
    graft_log(graft_self_of(req), GRAFT_INFO, "minor0 on_finish %d", graft_response_status(req));
}

GRAFT_PLUGIN(
    .name      = "minor0",
    .version   = "1",
    .summary   = "Was built with the first header.",
    .init      = init,
    .ready     = ready,
    .fini      = fini,
    .routes    = (const graft_route[]){ { "GET", "/minor0", answer, 0 }, { 0 } },
    .on_finish = on_finish,
)
