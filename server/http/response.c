/*
 * Response heads and body framing onto a connection's queue. The common case, a short answer to a
 * connection with nothing queued, is composed in one buffer on the stack and leaves in one send.
 */
#include "http/session.h"
#include "http/session_private.h"

#include "http/field.h"
#include "http/status.h"

#include <time.h>

#define ONE_SEND_MAX 4096u /* head and body composed together up to this size */
#define SMALL_BODY   4096u

#define DATE_LEN 37u /* "Date: Sun, 22 Nov 2026 18:00:00 GMT\r\n" */

HOT const char *http_lines(struct http *h)
{
    uint64_t second = h->now_us / 1000000u;
    if (LIKELY(second == h->date_s && h->lines[h->server_len]))
        return h->lines;
    h->date_s = second;
    struct tm tm;
    time_t now = time(NULL);
    gmtime_r(&now, &tm);
    strftime(h->lines + h->server_len, DATE_LEN + 1, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
    return h->lines;
}

#define PUT(at, literal)                                                                           \
    ((char *)memcpy((at), "" literal, sizeof(literal) - 1) + sizeof(literal) - 1)

static char *put_number(char *at, uint64_t n)
{
    char digits[20];
    size_t len = 0;
    do
        digits[len++] = (char)('0' + n % 10);
    while (n /= 10);
    while (len)
        *at++ = digits[--len];
    return at;
}

/* Bytes that the head can take at most. */
static size_t head_bound(const struct request *r)
{
    size_t n = 256 + r->http->server_len;
    for (unsigned i = 0; i < r->response.nfields; i++)
        n += r->response.fields[i].name.len + r->response.fields[i].value.len + 4;
    return n;
}

static bool keeps_alive(const struct request *r)
{
    return r->head.keep_alive && !r->response.close;
}

static char *put_framing(char *at, const struct request *r, bool final)
{
    const struct response *p = &r->response;
    if (p->status == 204)
        return at;
    if (UNLIKELY(p->promised >= 0)) {
        at = PUT(at, "Content-Length: ");
        at = put_number(at, (uint64_t)p->promised);
        return PUT(at, "\r\n");
    }
    if (p->chunked)
        return PUT(at, "Transfer-Encoding: chunked\r\n");
    if (!final || (p->status == 304 && p->written == 0))
        return at;
    at = PUT(at, "Content-Length: ");
    at = put_number(at, p->written);
    return PUT(at, "\r\n");
}

static HOT char *put_head(char *at, const struct request *r, bool final)
{
    const struct response *p = &r->response;
    struct http *h = r->http;
    size_t len;
    const char *line = status_line(p->status, &len);
    if (LIKELY(line != NULL)) {
        at = bytes_copy(at, line, len);
    } else {
        at = PUT(at, "HTTP/1.1 ");
        at = put_number(at, p->status);
        at = PUT(at, " \r\n");
    }
    bool server = true, date = true;
    for (unsigned i = 0; i < p->nfields; i++) {
        const struct response_field *f = &p->fields[i];
        if (!f->name.ptr || f->owner == FIELD_CONTENT_LENGTH || f->owner == FIELD_CONNECTION)
            continue; /* those two are said below, by what they mean */
        server = server && f->owner != FIELD_SERVER;
        date = date && f->owner != FIELD_DATE;
        at = bytes_copy(at, f->name.ptr, f->name.len + f->value.len + 4); /* stored as one line */
    }
    const char *lines = http_lines(h);
    at = bytes_copy(at, server ? lines : lines + h->server_len,
                    (server ? h->server_len : 0) + (date ? DATE_LEN : 0));
    at = put_framing(at, r, final);
    if (UNLIKELY(!keeps_alive(r)))
        at = PUT(at, "Connection: close\r\n");
    else if (UNLIKELY(r->head.minor == 0))
        at = PUT(at, "Connection: keep-alive\r\n");
    return PUT(at, "\r\n");
}

static bool bodyless(const struct request *r)
{
    return request_is_head(r) || r->response.status == 204 || r->response.status == 304;
}

/* How the body will be delimited, and whether the connection can go on after it. */
static void decide(struct request *r, bool final)
{
    struct response *p = &r->response;
    p->bodyless = bodyless(r);
    if (!final && p->promised < 0 && p->status != 204) {
        if (r->head.minor >= 1) {
            p->chunked = true;
        } else if (!p->bodyless) {
            p->until_eof = true;
            p->close = true;
        }
    }
    /* A body that nobody will read up to its end would be taken for the next request. */
    if (!r->body_complete && (final || r->body_mode == BODY_UNWANTED))
        p->close = true;
    if (session_ends_with(r->session, r))
        p->close = true;
}

/* Head and body in one buffer and one send. -1: does not apply; 0 sent or queued; 1 broken. */
static HOT int send_at_once(struct request *r)
{
    struct response *p = &r->response;
    struct conn *c = &r->session->conn;
    uint64_t body = p->bodyless ? 0 : p->body.bytes;
    size_t bound = head_bound(r);
    if (c->out.first || body > ONE_SEND_MAX || bound + body > ONE_SEND_MAX ||
        out_has_file(&p->body))
        return -1;
    char buffer[ONE_SEND_MAX];
    char *at = put_head(buffer, r, true);
    if (body) {
        out_gather(&p->body, at);
        at += body;
    }
    p->sent += body;
    out_drop(&p->body);
    p->head_sent = p->done = true;
    return conn_send(c, buffer, (size_t)(at - buffer)) == 0 ? 0 : 1;
}

/* Small pieces are copied behind what waits already, so that a slow reader of many of them does not
   hold a segment for each. */
static bool is_small(const struct outq *body)
{
    return body->bytes <= SMALL_BODY && !out_has_file(body);
}

static int copy_all(struct outq *out, const struct outq *body)
{
    char *at = body->bytes ? out_room(out, NULL, (size_t)body->bytes) : NULL;
    if (body->bytes && !at)
        return -1;
    if (at) {
        out_gather(body, at);
        out_commit(out, (size_t)body->bytes);
    }
    return 0;
}

static int enqueue_head(struct request *r, bool final)
{
    struct outq *out = &r->session->conn.out;
    char *at = out_room(out, NULL, head_bound(r));
    if (!at)
        return -1;
    out_commit(out, (size_t)(put_head(at, r, final) - at));
    r->response.head_sent = true;
    return 0;
}

static int enqueue_body(struct request *r, bool framed)
{
    struct response *p = &r->response;
    struct outq *out = &r->session->conn.out;
    char line[CHUNKED_HEAD_MAX];
    uint64_t body = p->body.bytes;
    if (framed && out_copy(out, NULL, line, chunked_head(line, (size_t)body)) != 0)
        return -1;
    if (is_small(&p->body)) {
        if (copy_all(out, &p->body) != 0)
            return -1;
        out_drop(&p->body);
    } else {
        out_append(out, &p->body);
    }
    p->sent += body;
    return framed ? out_copy(out, NULL, CHUNKED_CRLF, 2) : 0;
}

/* Puts the head, if it has not left, and what is in p->body, framed, into the queue. On -1 the
   connection must be cut: half of it may be there. */
static NOINLINE int enqueue(struct request *r, bool final)
{
    struct response *p = &r->response;
    bool framed = p->chunked && !p->bodyless;
    if (!p->head_sent && enqueue_head(r, final) != 0)
        return -1;
    if (p->bodyless)
        out_drop(&p->body);
    if (p->body.bytes > 0 && enqueue_body(r, framed) != 0)
        return -1;
    if (final && framed && out_copy(&r->session->conn.out, NULL, CHUNKED_LAST, 5) != 0)
        return -1;
    p->done = final;
    return 0;
}

HOT enum response_result response_send(struct request *r, bool final, const char **why)
{
    struct response *p = &r->response;
    struct session *s = r->session;
    HOT_CHECK(s, SESSION_MAGIC);
    if (UNLIKELY(final && !r->body_complete))
        session_discard_available(s, r);
    if (!p->head_sent)
        decide(r, final);
    if (final && p->promised >= 0 && !p->bodyless && (uint64_t)p->promised != p->written) {
        *why = "less was written than Content-Length promised";
        return RESPONSE_IMPOSSIBLE;
    }
    s->flushing = true;
    int once = final && !p->head_sent ? send_at_once(r) : -1;
    s->flushing = false;
    if (UNLIKELY(once == 1 || !r->session)) {
        session_fail(s);
        return RESPONSE_BROKEN;
    }
    if (once < 0) {
        if (enqueue(r, final) != 0) {
            *why = "no memory for the response";
            return RESPONSE_IMPOSSIBLE;
        }
        s->flushing = true;
        conn_flush(&s->conn);
        s->flushing = false;
        if (!r->session)
            return RESPONSE_BROKEN;
    }
    return session_sent(s, r) ? RESPONSE_OVER : RESPONSE_ON_ITS_WAY;
}
