/* GET /done-without-later calls graft_done and then returns GRAFT_DONE: one answer, one log line.
 */
#include "contract.h"

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_text(req, 200, "done-without-later\n");
    graft_done(req);
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "done-without-later",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/done-without-later", handler, 0 }, { 0 } },
)
