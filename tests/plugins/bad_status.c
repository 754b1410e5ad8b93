/* GET /bad-status?code=999 sets a status outside 200..599: -1, and a 500 that blames the plugin. */
#include "contract.h"

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    int rc = graft_status(req, (int)query_number(req, "code", 999));
    graft_log(graft_self_of(req), GRAFT_INFO, "bad_status %d", rc);
    graft_printf(req, "bad-status %d\n", rc);
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "bad-status",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/bad-status", handler, 0 }, { 0 } },
)
