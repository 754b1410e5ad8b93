/* GET /never-done owes its graft_done for ever: a version that cannot retire, and a reason to say
 * why. */
#include "contract.h"

static graft_next handler(graft_req *req, void *state)
{
    (void)req;
    (void)state;
    return GRAFT_LATER;
}

GRAFT_PLUGIN(
    .name    = "never-done",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/never-done", handler, 0 }, { 0 } },
)
