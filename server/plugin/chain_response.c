/*
 * The way out: on_response in reverse, then the head and what there is of the body; and the answers
 * that the server gives by itself in the response's place.
 */
#include "plugin/chain_shadow.h"
#include "plugin/exchange.h"
#include "plugin/handle.h"

/* ---- Answers of the server's own ------------------------------------------------------------- */

/* The response becomes the server's: who still owes can no longer write, and is told. */
static COLD void exchange_replace(struct exchange *x, unsigned status, const char *detail)
{
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        if (exchange_wants_abort(x, h))
            h->abort_due = true;
        if (handle_is_open(h) && h->on_writable)
            h->writable_due = true;
        if (handle_owes(h) && x->timed_out)
            atomic_store_explicit(&h->gone, true, memory_order_release);
    }
    x->replaced = true;
    x->flush = false;
    if (x->state == CHAIN_BODY) /* no handler has run: what on_request set is for this answer too */
        response_problem_keep(&x->request, status, detail);
    else
        response_problem(&x->request, status, detail);
    end_chain(x);
}

void exchange_answer_now(struct exchange *x)
{
    unsigned status = x->answer_status;
    x->answer_status = 0;
    if (x->over || x->response_state == RESPONSE_SEALED)
        return;
    exchange_log(x, exchange_culprit(x), status >= 500 ? LOG_ERROR : LOG_INFO, "request_failed",
                 x->answer_why);
    if (x->request.response.head_sent) {
        x->cut_why = x->answer_why;
        exchange_cut_now(x);
        return;
    }
    exchange_replace(x, status, x->answer_why);
    if (x->response_state == RESPONSE_WAITING)
        x->response_state = RESPONSE_ON_RESPONSE; /* past the one that still owes */
}
/* ---- The response ---------------------------------------------------------------------------- */

void exchange_response_result(struct exchange *x, struct handle *h, unsigned next)
{
    x->response_state = RESPONSE_ON_RESPONSE;
    switch (exchange_checked(h, "on_response", next)) {
    case GRAFT_LATER:
        x->response_state = RESPONSE_WAITING;
        return;
    case GRAFT_ERROR:
        exchange_fail(x, h, "on_response");
        exchange_replace(x, 500, NULL);
        x->resp_at = 0;
        break;
    default:
        break;
    }
    x->responding = NULL;
}

/* Whether this plugin is left out when the server answers by itself. */
static bool skipped(const struct exchange *x, struct handle *h)
{
    return x->replaced && handle_owes(h);
}

static NOINLINE void run_on_response(struct exchange *x)
{
    while (x->response_state == RESPONSE_ON_RESPONSE && !x->over && !x->cut_why) {
        if (x->resp_at == 0) {
            x->response_state = RESPONSE_OPEN;
            return;
        }
        struct handle *h = x->by_link[x->resp_at - 1];
        graft_handler *fn = h->version->desc.on_response;
        if (fn && h->stray[AS_MIDDLEWARE])
            return; /* its message, sent again, would be on the list twice: on_answer comes back */
        if (fn && !skipped(x, h)) {
            if (x->replaced ? !handle_try_enter(h) : !handle_enter(h)) {
                if (!x->replaced)
                    return; /* parked */
            } else {
                x->resp_at--;
                x->responding = h;
                exchange_response_result(x, h,
                                         exchange_call(x, h, AS_MIDDLEWARE, fn, "on_response"));
                continue;
            }
        }
        x->resp_at--;
    }
}

static HOT enum response_result send_how(struct exchange *x, bool final, const char **why)
{
    if (UNLIKELY(x->aside & (ASIDE_TAP | ASIDE_SHADOW)))
        return shadow_send(x, final, why);
    return response_send(&x->request, final, why);
}

static HOT void send_response(struct exchange *x, bool final)
{
    const char *why = NULL;
    x->flush = false;
    switch (send_how(x, final, &why)) {
    case RESPONSE_OVER:
        exchange_response_over(x);
        break;
    case RESPONSE_ON_ITS_WAY:
        if (final)
            x->response_state = RESPONSE_SEALED;
        break;
    case RESPONSE_IMPOSSIBLE:
        if (exchange_culprit(x))
            handle_misuse(exchange_culprit(x), "%s", why);
        x->cut_why = why;
        exchange_cut_now(x);
        break;
    case RESPONSE_BROKEN:
        exchange_cut(x, "the client reset the connection");
        break;
    }
}

/* A writer that was told to wait, and will be told when to go on (run_notices), needs what it wrote
   to leave. */
static void flush_for_waiting(struct exchange *x)
{
    if (LIKELY(x->state != CHAIN_LATER) || x->flush ||
        x->request.response.body.bytes <= x->chain->http->limits.send_bytes / 2)
        return;
    for (unsigned i = 0; i < x->nhandles; i++)
        if (x->handles[i]->blocked && x->handles[i]->on_writable)
            x->flush = true;
}

HOT void exchange_run_response(struct exchange *x)
{
    if (x->over || x->response_state == RESPONSE_SEALED || x->cut_why || x->answer_status)
        return; /* what is due is done first: `again` is set */
    flush_for_waiting(x);
    if (x->response_state == RESPONSE_BEFORE && (x->state == CHAIN_ENDED || x->flush)) {
        x->response_state = RESPONSE_ON_RESPONSE;
        x->resp_at = x->called;
    }
    run_on_response(x);
    if (x->response_state != RESPONSE_OPEN || x->over || x->cut_why || x->answer_status)
        return;
    if (UNLIKELY(x->flush) && (x->request.response.body.bytes || !x->request.response.head_sent))
        send_response(x, false);
    if (x->state == CHAIN_ENDED && !x->over)
        send_response(x, true);
}
