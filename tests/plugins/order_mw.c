/*
 * Middleware that logs each of its callbacks ("order NAME.on_request …") and does what the query
 * asks for. Built as order_a.so, order_b.so and order_body.so (GRAFT_NEED_BODY), plugins order-a,
 * order-b and order-body; their query keys are a, b and body for on_request, and a-res, b-res and
 * body-res for on_response: done | error | bad | text              return that (text: 403 and
 * GRAFT_DONE) later | later-done | later-error       GRAFT_LATER, continued by a timer (ms=, 10)
 *     now | now-done                         continued before GRAFT_LATER is returned
 *     post | offload | thread                continued from there
 *     twice                                  continued twice
 *     abort                                  graft_abort
 *     never                                  not continued before the request is gone
 */
#include "contract.h"
#include "foreign.h"

#ifndef NAME
#define NAME "a"
#endif
#ifndef FLAGS
#define FLAGS 0
#endif

struct plan {
    graft_req *req;
    graft_next how;
    int times;
};

static void note(graft_req *req, const char *callback)
{
    graft_str path = graft_path(req), body = graft_body(req);
    graft_log(graft_self_of(req), GRAFT_INFO,
              "order " NAME ".%s path=%.*s body=%s/%zu status=%d bytes=%llu streaming=%d", callback,
              (int)path.len, path.ptr, body.ptr ? "in" : "absent", body.len,
              graft_response_status(req), (unsigned long long)graft_response_bytes(req),
              graft_streaming(req));
}

static void resume(graft_req *req, void *arg)
{
    struct plan *plan = arg;
    graft_next how = plan->how;
    for (int left = plan->times; left > 0; left--)
        graft_continue(req, how);
}

static void thread_main(void *arg)
{
    struct plan *plan = arg;
    sleep_ms(5);
    graft_continue(plan->req, plan->how);
}

static void nothing(void *arg)
{
    (void)arg;
}

static void gone(graft_req *req, void *arg)
{
    struct plan *plan = arg;
    note(req, "on_abort");
    if (plan->times == 0) /* never: until now */
        graft_continue(req, GRAFT_NEXT);
}

static graft_next later(graft_req *req, graft_str what, struct plan *plan)
{
    int rc = 0;
    graft_on_abort(req, gone, plan);
    if (str_is(what, "never"))
        plan->times = 0;
    else if (str_begins(what, "now"))
        resume(req, plan);
    else if (str_is(what, "post"))
        rc = graft_post(req, resume, plan);
    else if (str_is(what, "offload"))
        rc = graft_offload(req, nothing, resume, plan);
    else if (str_is(what, "thread"))
        rc = foreign_start(thread_main, plan);
    else
        rc = graft_after(req, query_number(req, "ms", 10), resume, plan);
    return rc == 0 ? GRAFT_LATER : graft_fail_req(req, "nothing to continue with");
}

static graft_next act(graft_req *req, graft_str what)
{
    if (!what.ptr)
        return GRAFT_NEXT;
    if (str_is(what, "done"))
        return GRAFT_DONE;
    if (str_is(what, "text"))
        return graft_text(req, 403, NAME " refuses\n");
    if (str_is(what, "error"))
        return graft_fail_req(req, NAME " was asked to fail");
    if (str_is(what, "abort")) {
        graft_abort(req);
        return GRAFT_LATER;
    }
    if (str_is(what, "bad")) {
        const int forty_two = 42;
        graft_next next;
        memcpy(&next, &forty_two, sizeof next);
        return next;
    }
    struct plan *plan = graft_alloc(req, sizeof *plan);
    if (!plan)
        return GRAFT_ERROR;
    *plan = (struct plan){ req, GRAFT_NEXT, str_is(what, "twice") ? 2 : 1 };
    if (str_is(what, "later-done") || str_is(what, "now-done"))
        plan->how = GRAFT_DONE;
    else if (str_is(what, "later-error"))
        plan->how = GRAFT_ERROR;
    return later(req, what, plan);
}

static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    note(req, "on_request");
    return act(req, graft_query(req, NAME));
}

static graft_next on_response(graft_req *req, void *state)
{
    (void)state;
    note(req, "on_response");
    graft_add_header(req, "X-Order", NAME);
    return act(req, graft_query(req, NAME "-res"));
}

static void on_finish(graft_req *req, void *state)
{
    (void)state;
    note(req, "on_finish");
}

static void fini(graft_self *self, void *state)
{
    (void)self;
    (void)state;
    foreign_join();
}

GRAFT_PLUGIN(
    .flags       = FLAGS,
    .name        = "order-" NAME,
    .version     = "1.0.0",
    .fini        = fini,
    .on_request  = on_request,
    .on_response = on_response,
    .on_finish   = on_finish,
)
