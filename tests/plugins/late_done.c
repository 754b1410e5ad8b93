/*
 * GET /late-done keeps its handle past the end; GET /late-done/again calls graft_done on the handle
 * that was kept. Other clients' requests must not notice; the log does.
 */
#include "contract.h"

#include <stdatomic.h>

static _Atomic(graft_req *) kept;

static void over(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "late-done\n");
    graft_done(req);
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    atomic_store(&kept, req);
    return graft_after(req, 5, over, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static graft_next again(graft_req *req, void *state)
{
    (void)state;
    graft_req *old = atomic_load(&kept);
    int rc = old ? graft_done(old) : 0;
    graft_printf(req, "late-done again %d\n", rc);
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "late-done",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/late-done", handler, 0 },
                                      { "GET", "/late-done/again", again, 0 },
                                      { 0 } },
)
