/*
 * One kind for the other. GET /wrong-kind: a handler that calls graft_continue, then graft_done. As
 * middleware, for ?wrong-kind=1: graft_done, then graft_continue. Both end well, with a log line. For
 * ?wrong-kind=now and =timer: graft_continue with GRAFT_LATER, before it returns and from a timer.
 */
#include "contract.h"

static void end_handler(graft_req *req, void *arg)
{
    (void)arg;
    int rc = graft_continue(req, GRAFT_NEXT);
    graft_set_header(req, "Content-Type", "text/plain");
    graft_printf(req, "wrong-kind %d\n", rc);
    graft_done(req);
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_after(req, 5, end_handler, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static void end_request(graft_req *req, void *arg)
{
    (void)arg;
    int rc = graft_done(req);
    graft_log(graft_self_of(req), GRAFT_INFO, "wrong_kind done %d", rc);
    graft_continue(req, GRAFT_NEXT);
}

static void not_yet(graft_req *req, void *arg)
{
    (void)arg;
    int rc = graft_continue(req, GRAFT_LATER);
    graft_log(graft_self_of(req), GRAFT_INFO, "wrong_kind later %d", rc);
}

static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    graft_str how = graft_query(req, "wrong-kind");
    if (!how.ptr)
        return GRAFT_NEXT;
    if (str_is(how, "timer"))
        return graft_after(req, 5, not_yet, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
    if (str_is(how, "now")) {
        not_yet(req, NULL);
        return GRAFT_LATER;
    }
    return graft_after(req, 5, end_request, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

GRAFT_PLUGIN(
    .name       = "wrong-kind",
    .version    = "1.0.0",
    .routes     = (const graft_route[]){ { "GET", "/wrong-kind", handler, 0 }, { 0 } },
    .on_request = on_request,
)
