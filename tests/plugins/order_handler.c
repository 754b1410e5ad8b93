/*
 * The handler inside order_mw: logs "order handler", answers every method on /order, and on
 * /order/up with GRAFT_STREAM, reading no body. ?h=done|next|later|error|flush says how it ends.
 */
#include "contract.h"

static void over(graft_req *req, void *arg)
{
    (void)arg;
    graft_write(req, "handler\n", 8);
    graft_done(req);
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_str how = graft_query(req, "h"), body = graft_body(req);
    graft_log(graft_self_of(req), GRAFT_INFO, "order handler body=%s/%zu",
              body.ptr ? "in" : "absent", body.len);
    graft_set_header(req, "Content-Type", "text/plain");
    if (str_is(how, "error"))
        return graft_fail_req(req, "the handler was asked to fail");
    if (str_is(how, "later"))
        return graft_after(req, query_number(req, "ms", 10), over, NULL) == 0 ? GRAFT_LATER
                                                                              : GRAFT_ERROR;
    graft_write(req, "handler\n", 8);
    if (str_is(how, "flush")) {
        graft_flush(req);
        return graft_after(req, query_number(req, "ms", 10), over, NULL) == 0 ? GRAFT_LATER
                                                                              : GRAFT_ERROR;
    }
    return str_is(how, "next") ? GRAFT_NEXT : GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "order",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { NULL, "/order", handler, 0 },
                                      { NULL, "/order/up", handler, GRAFT_STREAM },
                                      { 0 } },
)
