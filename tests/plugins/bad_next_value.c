/* GET /bad-next-value returns 42: counts as GRAFT_ERROR, with the plugin's name in the log. */
#include "contract.h"

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    static const int forty_two = 42;
    graft_next next = GRAFT_DONE;
    graft_text(req, 200, "not to be seen\n");
    memcpy(&next, &forty_two, sizeof next); /* as a plugin in another language would */
    return next;
}

GRAFT_PLUGIN(
    .name    = "bad-next-value",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/bad-next-value", handler, 0 }, { 0 } },
)
