/* GET /double-done is finished twice, on the timer's stack; GET /double-done/now, in the handler's.
 */
#include "contract.h"

static void twice(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "double-done\n");
    int first = graft_done(req), second = graft_done(req);
    graft_log(graft_self_of(req), GRAFT_INFO, "double_done %d %d", first, second);
}

static graft_next later(graft_req *req, void *state)
{
    (void)state;
    return graft_after(req, 5, twice, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static graft_next now(graft_req *req, void *state)
{
    (void)state;
    twice(req, NULL);
    return GRAFT_LATER;
}

GRAFT_PLUGIN(
    .name    = "double-done",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/double-done", later, 0 },
                                      { "GET", "/double-done/now", now, 0 },
                                      { 0 } },
)
