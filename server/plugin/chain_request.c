/*
 * The way in: on_request of each middleware, then the handler, and what they answer, at once or
 * after GRAFT_LATER.
 */
#include "plugin/exchange.h"
#include "plugin/handle.h"
#include "plugin/work.h"

#include <stdio.h>

/* A plugin said GRAFT_ERROR, or something that is no answer. */
void exchange_fail(struct exchange *x, struct handle *h, const char *where)
{
    char why[600];
    snprintf(why, sizeof why, "%s: %s", where,
             x->fail_text ? x->fail_text : "GRAFT_ERROR without a reason (graft_fail_req)");
    exchange_log(x, h, LOG_ERROR, "request_failed", why);
    if (x->request.response.head_sent) {
        x->cut_why = "the plugin failed after the head had left";
        return;
    }
    response_problem(&x->request, 500, NULL);
}

graft_next exchange_checked(struct handle *h, const char *where, unsigned next)
{
    if (next <= GRAFT_ERROR)
        return (graft_next)next;
    handle_misuse(h, "%s answered %u, which is no graft_next", where, next);
    return GRAFT_ERROR;
}

/* ---- The chain ------------------------------------------------------------------------------- */

/* Calls a handler or middleware function in its role; what it answered, or GRAFT_LATER when the
   answer is still owed. An abort has been marked. */
HOT unsigned exchange_call(struct exchange *x, struct handle *h, enum role role, graft_handler *fn,
                           const char *where)
{
    bool nested = handle_owes_as(h, role); /* on_response while its on_request is LATER */
    if (!nested)
        handle_open(h, role);
    handle_doing(h, where, x->chain->http->now_us);
    unsigned next = (unsigned)fn(&h->pub, h->version->state_ptr);
    handle_done_doing(h);
    handle_leave(h);
    if (UNLIKELY(nested)) {
        if (next != GRAFT_LATER)
            return next;
        handle_misuse(h, "%s returned GRAFT_LATER while its on_request still owes", where);
        return GRAFT_NEXT;
    }
    unsigned how = next;
    if (next == GRAFT_LATER) {
        if (!handle_later(h, role, &how))
            return GRAFT_LATER;
        work_drop_timers(h);
    } else {
        how = handle_close(h, role);
        if (how != HOW_ABORT)
            return next;
        work_drop_timers(h);
    }
    if (how == HOW_ABORT) {
        x->cut_why = "graft_abort";
        end_chain(x);
        return GRAFT_DONE;
    }
    return how;
}

NOINLINE void exchange_middleware_result(struct exchange *x, struct handle *h, unsigned next)
{
    x->state = CHAIN_RUN;
    if (x->cut_why) {
        end_chain(x);
        return;
    }
    switch (exchange_checked(h, "on_request", next)) {
    case GRAFT_NEXT:
        x->at++;
        break;
    case GRAFT_DONE:
        end_chain(x);
        break;
    case GRAFT_LATER:
        x->state = CHAIN_LATER;
        break;
    case GRAFT_ERROR:
        exchange_fail(x, h, "on_request");
        end_chain(x);
        break;
    }
}

static void handler_result(struct exchange *x, struct handle *h, unsigned next)
{
    switch (exchange_checked(h, "handler", next)) {
    case GRAFT_LATER:
        x->state = CHAIN_LATER;
        return;
    case GRAFT_ERROR:
        if (!x->cut_why)
            exchange_fail(x, h, "handler");
        break;
    default:
        break;
    }
    end_chain(x);
}

/* False: the chain waits. */
static NOINLINE bool step_middleware(struct exchange *x, struct handle *h)
{
    const struct descriptor *d = &h->version->desc;
    if (d->flags & GRAFT_NEED_BODY)
        x->need_body = true;
    if (x->need_body && !exchange_body_ready(x)) {
        x->state = CHAIN_BODY;
        return false;
    }
    if (!d->on_request) {
        x->called = ++x->at;
        return true;
    }
    if (!handle_enter(h)) {
        x->state = CHAIN_PARKED;
        return false;
    }
    x->called = x->at + 1;
    exchange_middleware_result(x, h,
                               exchange_call(x, h, AS_MIDDLEWARE, d->on_request, "on_request"));
    return x->state == CHAIN_RUN;
}

static void step_handler(struct exchange *x, struct handle *h)
{
    const struct link *link = &x->links[x->at];
    bool stream = (link->route_flags & GRAFT_STREAM) && !x->need_body;
    if (!stream && !exchange_body_ready(x)) {
        x->state = CHAIN_BODY;
        return;
    }
    if (!handle_enter(h)) {
        x->state = CHAIN_PARKED;
        return;
    }
    if (stream)
        request_want_body(&x->request, BODY_STREAMED);
    handler_result(x, h, exchange_call(x, h, AS_HANDLER, link->handler, "handler"));
}

static COLD void no_route(struct exchange *x)
{
    struct request *r = &x->request;
    if (x->route_status == 204) {
        response_reset(r);
        r->response.status = 204;
    } else {
        response_problem_keep(r, x->route_status, NULL);
    }
    if (x->allow.ptr)
        response_field(r, FIELD_SET, STR("Allow"), x->allow, NULL);
    end_chain(x);
}

HOT void exchange_run_chain(struct exchange *x)
{
    if (UNLIKELY(x->state == CHAIN_PARKED) || (x->state == CHAIN_BODY && x->request.body_complete))
        x->state = CHAIN_RUN;
    while (x->state == CHAIN_RUN && !x->over) {
        if (UNLIKELY(x->at == x->nlinks)) {
            no_route(x);
            return;
        }
        struct handle *h = x->by_link[x->at];
        if (x->links[x->at].handler) {
            step_handler(x, h);
            return;
        }
        if (!step_middleware(x, h))
            return;
    }
}

/* ---- Answers of LATER ------------------------------------------------------------------------ */

NOINLINE void exchange_answered(struct exchange *x, struct handle *h, enum role role, unsigned how)
{
    work_drop_timers(h);
    if (!handle_owes(h))
        h->abort_due = h->writable_due = false; /* never after the answer was taken */
    exchange_wake(x);
    bool responds =
        x->response_state == RESPONSE_WAITING && x->responding == h && role == AS_MIDDLEWARE;
    if (x->over || (x->replaced && !responds))
        return;
    if (how == HOW_ABORT) {
        x->cut_why = "graft_abort";
        if (x->state == CHAIN_LATER)
            end_chain(x); /* nobody is told: the plugin itself has ended it */
        return;
    }
    bool here = x->state == CHAIN_LATER && x->at < x->nlinks && x->by_link[x->at] == h;
    if (here && role == AS_HANDLER && x->links[x->at].handler)
        end_chain(x);
    else if (here && role == AS_MIDDLEWARE && !x->links[x->at].handler)
        exchange_middleware_result(x, h, how);
    else if (responds)
        exchange_response_result(x, h, how);
}

HOT void exchange_take_answers(struct exchange *x)
{
    unsigned how;
    if (LIKELY(!x->answered))
        return;
    x->answered = false;
    for (unsigned i = 0; i < x->nhandles; i++)
        for (unsigned role = 0; role < ROLES; role++)
            if (handle_take(x->handles[i], (enum role)role, &how))
                exchange_answered(x, x->handles[i], (enum role)role, how);
}
