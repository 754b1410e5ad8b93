/* GET /blocking?ms=1000 sleeps on the worker: nothing else moves there meanwhile. */
#include "contract.h"

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    sleep_ms(query_number(req, "ms", 1000));
    return graft_text(req, 200, "blocking\n");
}

GRAFT_PLUGIN(
    .name    = "blocking-handler",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/blocking", handler, 0 }, { 0 } },
)
