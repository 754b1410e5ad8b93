/* GET /crash ends the server process by SIGSEGV; GET /crash/abort by SIGABRT. */
#include "contract.h"

#include <signal.h>
#include <stdlib.h>

static graft_next segv(graft_req *req, void *state)
{
    (void)req;
    (void)state;
    raise(SIGSEGV);
    return GRAFT_DONE;
}

static graft_next aborts(graft_req *req, void *state)
{
    (void)req;
    (void)state;
    abort();
}

GRAFT_PLUGIN(
    .name    = "crash",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/crash", segv, 0 },
                                      { "GET", "/crash/abort", aborts, 0 },
                                      { 0 } },
)
