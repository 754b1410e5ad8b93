/*
 * Request bodies on their way to plugins: buffered for those that want the whole, piece by piece to
 * graft_on_body for GRAFT_STREAM routes. What nobody can take yet is kept up to BACKLOG_MAX and
 * then left on the wire.
 */
#include "plugin/exchange.h"
#include "plugin/handle.h"

#define BACKLOG_MAX (64u * 1024u)

HOT bool exchange_body_ready(struct exchange *x)
{
    struct request *r = &x->request;
    if (r->body_complete)
        return true;
    if (r->head.framing == BODY_LENGTH &&
        r->head.content_length > x->chain->http->limits.body_bytes)
        exchange_answer(x, 413, "the body is larger than limits.body_bytes");
    else
        request_want_body(r, BODY_BUFFERED);
    return false;
}

/* Somebody will take pieces of it: read it as the route wants it, all of it or as it comes. */
void exchange_ask_body(struct exchange *x)
{
    const struct link *last = x->nlinks ? &x->links[x->nlinks - 1] : NULL;
    bool stream = last && last->handler && (last->route_flags & GRAFT_STREAM) && !x->need_body;
    if (x->request.body_mode == BODY_UNWANTED && !x->over) {
        if (stream)
            request_want_body(&x->request, BODY_STREAMED);
        else
            exchange_body_ready(x);
    }
    request_continue(&x->request);
}

static void apply_pause(struct exchange *x)
{
    request_pause_body(&x->request, x->body_user_pause || x->body_backlog_pause);
}

void exchange_body_pause(struct exchange *x, bool pause)
{
    if (x->body_user_pause == pause)
        return;
    x->body_user_pause = pause;
    apply_pause(x);
    if (!pause)
        exchange_wake(x);
}

static void deliver(struct exchange *x, struct str piece, bool last)
{
    struct handle *h = x->body_of;
    x->body_last = last;
    handle_doing(h, "on_body", x->chain->http->now_us);
    x->on_body(&h->pub, (graft_str){ piece.ptr, piece.len }, last, x->on_body_arg);
    handle_done_doing(h);
    handle_leave(h);
}

/* Nobody waits for the body any more: its plugin has answered, or the response is another's. */
static bool unwanted(const struct exchange *x)
{
    return x->over || x->replaced || x->body_last ||
           (x->state == CHAIN_ENDED && !handle_owes(x->body_of));
}

static void keep(struct exchange *x, struct str piece)
{
    if (buf_add(&x->backlog, piece.ptr, piece.len) != 0) {
        exchange_answer(x, 503, "no memory for the body");
        return;
    }
    if (x->backlog.len > BACKLOG_MAX && !x->body_backlog_pause) {
        x->body_backlog_pause = true;
        apply_pause(x);
    }
}

void exchange_body_piece(struct exchange *x, struct str piece)
{
    if (x->over || x->replaced || x->state == CHAIN_ENDED)
        return;
    bool direct = x->on_body && !x->running && !x->body_user_pause && x->backlog.len == 0;
    if (!direct || !handle_enter(x->body_of)) {
        keep(x, piece);
        return;
    }
    x->running = true; /* what the plugin marks is done right after */
    deliver(x, piece, false);
    x->running = false;
    exchange_run(x);
}

NOINLINE void exchange_run_body(struct exchange *x)
{
    struct request *r = &x->request;
    while (x->on_body && !unwanted(x) && !x->body_user_pause) {
        bool buffered = r->body_mode == BODY_BUFFERED || r->head.framing == BODY_NONE;
        if (buffered ? !r->body_complete : !x->backlog.len && !r->body_complete)
            return;
        if (!handle_enter(x->body_of))
            return;
        if (buffered) {
            deliver(x, request_body(r), true);
        } else if (x->backlog.len > 0) {
            struct buf piece = x->backlog;
            x->backlog = (struct buf){ 0 };
            if (x->body_backlog_pause) {
                x->body_backlog_pause = false;
                apply_pause(x);
            }
            deliver(x, buf_str(&piece), false);
            buf_fini(&piece);
        } else {
            deliver(x, (struct str){ "", 0 }, true);
        }
    }
}
