/* See host.h. Here: the request, and work that takes time. */
#include "plugin/host.h"

#include "plugin/shadows.h"
#include "plugin/suspended.h"
#include "plugin/work.h"

static const graft_str absent = { NULL, 0 };

HOT struct exchange *host_exchange(const graft_req *req, const char *function)
{
    struct handle *h = handle_of(req);
#ifdef GRAFT_CHECKS
    if (loop_current != h->chain->loop) {
        handle_misuse(h, "%s was called off the request's worker", function);
        return NULL;
    }
#endif
    if (!h->x)
        handle_misuse(h, "%s was called after the request was over", function);
    return h->x;
}

/* ---- The request: [any] while LATER, so nothing here allocates or writes -----------------------
 */

/* Off the request's worker this is allowed between GRAFT_LATER and its answer. */
static struct exchange *any_exchange(const graft_req *req, const char *function)
{
    struct handle *h = handle_of(req);
#ifdef GRAFT_CHECKS
    if (loop_current != h->chain->loop && !handle_is_open(h))
        handle_misuse(h, "%s was called off the request's worker, and not while LATER", function);
#else
    (void)function;
#endif
    return h->x;
}

static graft_str host_method(const graft_req *req)
{
    const struct exchange *x = any_exchange(req, "graft_method");
    return x ? to_graft(x->request.head.method) : absent;
}

static graft_str host_path(const graft_req *req)
{
    const struct exchange *x = any_exchange(req, "graft_path");
    return x ? to_graft(x->request.target.path) : absent;
}

static graft_str host_target(const graft_req *req)
{
    const struct exchange *x = any_exchange(req, "graft_target");
    return x ? to_graft(x->request.head.target) : absent;
}

static graft_str host_param(const graft_req *req, const char *name)
{
    const struct exchange *x = any_exchange(req, "graft_param");
    struct router_param_ref ref;
    if (!x || !x->pattern || !name || !router_pattern_param(x->pattern, name, &ref))
        return absent;
    for (unsigned i = 0; i < x->nparams; i++)
        if (x->params[i].segment == ref.segment && x->params[i].rest == ref.rest)
            return to_graft(x->param_values[i]);
    return absent;
}

static graft_str host_query(graft_req *req, const char *name)
{
    struct exchange *x = host_exchange(req, "graft_query");
    if (!x || !name)
        return absent;
    return to_graft(target_query_get(&x->request.arena, x->request.target.query, name));
}

static graft_str host_header(const graft_req *req, const char *name)
{
    struct exchange *x = any_exchange(req, "graft_header");
    if (!x || !name)
        return absent;
    if (UNLIKELY(x->aside & ASIDE_SHADOW) && str_case_eq(str_of(name), STR(SHADOW_FIELD)))
        return to_graft(STR("1"));
    if (!suspended_is_prepared(x))
        return loop_current ? to_graft(request_field(&x->request, name)) : absent;
    /* Another thread may be reading: what is joined was joined when the request was suspended. */
    for (unsigned i = 0; i < x->njoined; i++)
        if (str_case_eq(x->joined[i].name, str_of(name)))
            return to_graft(x->joined[i].value);
    return to_graft(head_field(&x->request.head, name));
}

static size_t host_header_count(const graft_req *req)
{
    const struct exchange *x = any_exchange(req, "graft_header_count");
    return x ? x->request.head.nheaders : 0;
}

static bool host_header_at(const graft_req *req, size_t i, graft_str *name, graft_str *value)
{
    const struct exchange *x = any_exchange(req, "graft_header_at");
    if (!x || i >= x->request.head.nheaders)
        return false;
    const struct header *h = &x->request.head.headers[i];
    if (name)
        *name = to_graft(h->name);
    if (value)
        *value = to_graft(h->value);
    return true;
}

static graft_str host_body(graft_req *req)
{
    struct exchange *x = host_exchange(req, "graft_body");
    if (!x || !x->request.body_complete || x->request.body_mode == BODY_STREAMED)
        return absent;
    const struct link *last = x->nlinks ? &x->links[x->nlinks - 1] : NULL;
    bool stream = last && last->handler && (last->route_flags & GRAFT_STREAM) && !x->need_body;
    if (stream || (x->request.body_mode == BODY_UNWANTED && x->request.head.framing != BODY_NONE))
        return absent;
    return to_graft(request_body(&x->request));
}

static graft_str host_peer(const graft_req *req)
{
    struct exchange *x = any_exchange(req, "graft_peer");
    if (!x)
        return absent;
    if (!suspended_is_prepared(x))
        return loop_current ? to_graft(exchange_peer(x)) : absent;
    return (graft_str){ x->peer, x->peer_len };
}

static graft_str host_request_id(const graft_req *req)
{
    struct exchange *x = any_exchange(req, "graft_request_id");
    if (!x)
        return absent;
    if (!suspended_is_prepared(x))
        return loop_current ? (graft_str){ exchange_id(x), REQUEST_ID_LEN } : absent;
    return (graft_str){ x->id, REQUEST_ID_LEN };
}

static graft_str host_route_pattern(const graft_req *req)
{
    const struct exchange *x = any_exchange(req, "graft_route_pattern");
    return x && x->pattern ? to_graft(str_of(x->pattern)) : absent;
}

static bool host_is_tls(const graft_req *req)
{
    any_exchange(req, "graft_is_tls");
    return false; /* there is no TLS yet */
}

/* ---- Work that takes time ----------------------------------------------------------------------
 */

static int host_done(graft_req *req)
{
    return handle_answer(handle_of(req), AS_HANDLER, GRAFT_DONE, "graft_done");
}

/* Any value that fits in OWED_HOW_MASK goes through: what is no answer is judged where the answer
   is used, with the middleware's name. GRAFT_LATER is judged here: there it would mean that the
   answer is still owed. */
static int host_resume(graft_req *req, graft_next how)
{
    if (how == GRAFT_LATER) {
        handle_misuse(handle_of(req), "graft_continue was given GRAFT_LATER: expected GRAFT_NEXT, "
                                      "GRAFT_DONE or GRAFT_ERROR; it counts as GRAFT_ERROR");
        how = GRAFT_ERROR;
    }
    unsigned value = (unsigned)how < HOW_ABORT ? (unsigned)how : HOW_ABORT - 1;
    return handle_answer(handle_of(req), AS_MIDDLEWARE, value, "graft_continue");
}

static void host_abort(graft_req *req)
{
    handle_abort(handle_of(req));
}

static bool host_gone(const graft_req *req)
{
    return atomic_load_explicit(&handle_of(req)->gone, memory_order_acquire);
}

static int host_post(graft_req *req, void (*fn)(graft_req *, void *), void *arg)
{
    struct handle *h = handle_of(req);
    if (fn && h->x && !h->x->finishing)
        return work_post(h, fn, arg);
    handle_misuse(h, "graft_post: %s", fn ? "the request is over" : "no function");
    return -1;
}

static int host_offload(graft_req *req, void (*work)(void *), void (*then)(graft_req *, void *),
                        void *arg)
{
    struct exchange *x = host_exchange(req, "graft_offload");
    if (x && work && !x->finishing)
        return work_offload(handle_of(req), work, then, arg);
    if (x)
        handle_misuse(handle_of(req), "graft_offload: %s",
                      work ? "the request is over" : "no function");
    return -1;
}

static int host_after(graft_req *req, unsigned ms, void (*fn)(graft_req *, void *), void *arg)
{
    struct exchange *x = host_exchange(req, "graft_after");
    if (x && fn && !x->finishing)
        return work_after(handle_of(req), ms, fn, arg);
    if (x)
        handle_misuse(handle_of(req), "graft_after: %s",
                      fn ? "the request is over" : "no function");
    return -1;
}

static int host_deadline(graft_req *req, unsigned ms)
{
    struct exchange *x = host_exchange(req, "graft_deadline");
    if (!x || x->over || x->request.response.head_sent)
        return -1;
    x->user_deadline = true;
    x->user_deadline_ms = ms ? clock_ms() + ms : 0;
    exchange_wake(x);
    return 0;
}

static void host_on_abort(graft_req *req, void (*fn)(graft_req *, void *), void *arg)
{
    struct exchange *x = host_exchange(req, "graft_on_abort");
    if (!x)
        return;
    struct handle *h = handle_of(req);
    h->on_abort = fn;
    h->on_abort_arg = arg;
    /* Too late to wait for it: the response is gone already and this plugin has not heard. */
    if (fn && (x->cut || x->replaced) && !h->aborted && handle_is_open(h) && x->responding != h) {
        h->abort_due = true;
        exchange_wake(x);
    }
}

static void host_on_body(graft_req *req, void (*fn)(graft_req *, graft_str, bool, void *),
                         void *arg)
{
    struct exchange *x = host_exchange(req, "graft_on_body");
    if (!x)
        return;
    x->body_of = handle_of(req);
    x->on_body = fn;
    x->on_body_arg = arg;
    if (fn)
        exchange_ask_body(x);
    exchange_wake(x);
}

static void host_body_pause(graft_req *req)
{
    struct exchange *x = host_exchange(req, "graft_body_pause");
    if (x)
        exchange_body_pause(x, true);
}

static void host_body_resume(graft_req *req)
{
    struct exchange *x = host_exchange(req, "graft_body_resume");
    if (x)
        exchange_body_pause(x, false);
}

static void host_on_writable(graft_req *req, void (*fn)(graft_req *, void *), void *arg)
{
    struct exchange *x = host_exchange(req, "graft_on_writable");
    if (!x)
        return;
    struct handle *h = handle_of(req);
    h->on_writable = fn;
    h->on_writable_arg = arg;
    if (fn && (x->cut || x->replaced) && handle_is_open(h) && x->responding != h)
        h->writable_due = true;
    exchange_wake(x);
}

static size_t host_pending(const graft_req *req)
{
    const struct exchange *x = host_exchange(req, "graft_pending");
    return x && !x->over ? (size_t)response_pending(&x->request) : 0;
}

static void *host_alloc(graft_req *req, size_t size)
{
    struct exchange *x = host_exchange(req, "graft_alloc");
    return x ? arena_alloc(&x->request.arena, size) : NULL;
}

static void *host_scratch(graft_req *req)
{
    struct exchange *x = host_exchange(req, "graft_scratch");
    struct handle *h = handle_of(req);
    size_t size = h->version->desc.scratch_size;
    if (!x || size == 0)
        return NULL;
    if (!h->scratch && (h->scratch = arena_alloc(&x->request.arena, size)))
        memset(h->scratch, 0, size);
    return h->scratch;
}

void host_fill_request(graft_host *host)
{
    host->method = host_method;
    host->path = host_path;
    host->target = host_target;
    host->param = host_param;
    host->query = host_query;
    host->header = host_header;
    host->header_count = host_header_count;
    host->header_at = host_header_at;
    host->body = host_body;
    host->peer = host_peer;
    host->request_id = host_request_id;
    host->route_pattern = host_route_pattern;
    host->is_tls = host_is_tls;
    host->done = host_done;
    host->resume = host_resume;
    host->abort = host_abort;
    host->gone = host_gone;
    host->post = host_post;
    host->offload = host_offload;
    host->after = host_after;
    host->deadline = host_deadline;
    host->on_abort = host_on_abort;
    host->on_body = host_on_body;
    host->body_pause = host_body_pause;
    host->body_resume = host_body_resume;
    host->on_writable = host_on_writable;
    host->pending = host_pending;
    host->alloc = host_alloc;
    host->scratch = host_scratch;
}

void chain_host_init(struct version *v)
{
    v->host = (graft_host){ .size = sizeof v->host };
    host_fill_request(&v->host);
    host_fill_response(&v->host);
    host_fill_self(&v->host);
    v->self.host = &v->host;
    if (v->desc.flags & GRAFT_SERIAL)
        v->serial = serial_of(v->plugin);
}
