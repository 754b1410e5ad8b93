/*
 * Request bodies of a session: taken from its input by their framing, kept or handed on as they are
 * wanted, and their deadlines.
 */
#include "http/session.h"
#include "http/session_private.h"

bool session_body_awaited(const struct request *r)
{
    return r->body_mode != BODY_UNWANTED && !r->body_complete && !r->body_paused && !r->body_dead;
}

static void body_deadline(struct session *s, struct request *r)
{
    conn_deadline(&s->conn, CONN_READ_TIMEOUT,
                  session_body_awaited(r) ? clock_ms() + s->http->timeouts_ms.body : 0);
}

HOT void session_body_begin(struct request *r)
{
    r->body_complete = r->head.framing == BODY_NONE;
    r->body_left = r->head.content_length;
    if (UNLIKELY(r->head.framing == BODY_CHUNKED))
        chunked_init(&r->chunked, r->http->limits.field_bytes);
}

#define SMALL_BODY 4096u

void session_body_broken(struct request *r, unsigned status, const char *why)
{
    r->response.close = true;
    r->body_dead = true;
    if (!r->body_discard)
        r->http->app->body_broken(r, status, why);
}

/* One piece of the body: to where it is wanted. -1: it went wrong and the app was told. */
static int body_take(struct request *r, struct str piece)
{
    r->body_seen += piece.len;
    if (r->body_discard || piece.len == 0)
        return 0;
    if (r->body_mode == BODY_STREAMED) {
        r->http->app->body_piece(r, piece);
        return 0;
    }
    if (r->body_seen > r->http->limits.body_bytes) {
        session_body_broken(r, 413, "the body is larger than limits.body_bytes");
        return -1;
    }
    if (r->head.framing == BODY_LENGTH && r->head.content_length <= SMALL_BODY) {
        if (!r->body_fixed)
            r->body_fixed = arena_alloc(&r->arena, (size_t)r->head.content_length + 1);
        if (r->body_fixed) {
            memcpy(r->body_fixed + r->body_seen - piece.len, piece.ptr, piece.len);
            return 0;
        }
    } else if (buf_add(&r->body_heap, piece.ptr, piece.len) == 0) {
        return 0;
    }
    session_body_broken(r, 503, "no memory for the body");
    return -1;
}

static void body_done(struct session *s, struct request *r)
{
    r->body_complete = true;
    conn_deadline(&s->conn, CONN_READ_TIMEOUT, 0);
    if (!r->body_discard)
        r->http->app->body_in(r);
}

static void body_chunked(struct session *s, struct request *r)
{
    struct str piece, in = session_view(s);
    size_t used = 0;
    enum chunked_result res = chunked_next(&r->chunked, in.ptr, in.len, &used, &piece);
    session_consume(s, used);
    if (res == CHUNKED_BAD) {
        session_body_broken(r, r->chunked.status, r->chunked.why);
    } else if (r->body_mode == BODY_BUFFERED && !r->body_discard && r->chunked.digits == 0 &&
               r->chunked.left > r->http->limits.body_bytes) {
        /* its size is known: its bytes need not be waited for */
        session_body_broken(r, 413, "a chunk is larger than limits.body_bytes");
    } else if (res == CHUNKED_END) {
        body_done(s, r);
    } else if (res == CHUNKED_DATA) {
        body_take(r, piece);
    }
}

static void body_length(struct session *s, struct request *r)
{
    struct str in = session_view(s);
    size_t n = in.len < r->body_left ? in.len : (size_t)r->body_left;
    r->body_left -= n;
    bool last = r->body_left == 0;
    session_consume(s, n);
    if (body_take(r, (struct str){ in.ptr, n }) == 0 && last && s->request == r)
        body_done(s, r);
}

/* Takes from the input what belongs to the body. False: nothing can be taken now. */
NOINLINE bool session_body_feed(struct session *s, struct request *r)
{
    bool wanted = r->body_mode != BODY_UNWANTED || r->body_discard;
    if (r->body_complete || r->body_dead || !wanted || (r->body_paused && !r->body_discard) ||
        session_view(s).len == 0)
        return false;
    if (r->head.framing == BODY_CHUNKED)
        body_chunked(s, r);
    else
        body_length(s, r);
    if (s->request == r && !r->body_complete && r->body_mode == BODY_STREAMED)
        body_deadline(s, r);
    return true;
}

NOINLINE void session_discard_available(struct session *s, struct request *r)
{
    r->body_discard = true;
    while (s->request == r && session_body_feed(s, r))
        ;
    /* its last piece may be the one in hand: body_length is on the stack */
    if (r->head.framing == BODY_LENGTH && r->body_left == 0 && !r->body_dead)
        r->body_complete = true;
}

void request_discard_body(struct request *r)
{
    r->body_discard = true;
}

void request_continue(struct request *r)
{
    struct session *s = r->session;
    if (!s || !r->head.expect_continue || r->continue_sent || r->body_complete ||
        r->response.head_sent || r->body_seen > 0 || session_view(s).len > 0)
        return;
    r->continue_sent = true;
    static const char go[] = "HTTP/1.1 100 Continue\r\n\r\n";
    conn_send(&s->conn, go, sizeof go - 1); /* a failure shows at the next read or write */
}

void request_want_body(struct request *r, enum body_mode mode)
{
    struct session *s = r->session;
    if (!s || r->body_complete || r->body_mode != BODY_UNWANTED)
        return;
    r->body_mode = mode;
    body_deadline(s, r);
    if (mode == BODY_BUFFERED)
        request_continue(r);
    if (!s->busy && list_empty(&s->resume)) {
        list_add_tail(&r->http->resume, &s->resume);
        loop_mark(r->http->conns.loop);
    }
}

void request_pause_body(struct request *r, bool pause)
{
    struct session *s = r->session;
    if (r->body_paused == pause)
        return;
    r->body_paused = pause;
    if (!s)
        return;
    body_deadline(s, r);
    if (!s->busy && list_empty(&s->resume)) {
        list_add_tail(&r->http->resume, &s->resume);
        loop_mark(r->http->conns.loop);
    }
}
