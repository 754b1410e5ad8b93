/* See session.h. */
#include "http/session.h"
#include "http/session_private.h"

#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define NOW_MS(h) ((h)->now_us / 1000u)

static struct session *session_of(struct conn *c)
{
    struct session *s = container_of(c, struct session, conn);
    HOT_CHECK(s, SESSION_MAGIC);
    return s;
}

/* ---- Input ----------------------------------------------------------------------------------- */

/* What is left in the scratch buffer when its session has to wait becomes the session's own. */
static int keep_rest(struct session *s)
{
    struct http *h = s->http;
    if (h->scratch_of != s)
        return 0;
    struct str rest = session_view(s);
    h->scratch_of = NULL;
    return rest.len ? buf_add(&s->in, rest.ptr, rest.len) : 0;
}

HOT ssize_t session_read(struct session *s)
{
    struct http *h = s->http;
    if (LIKELY(!s->in.data)) {
        ssize_t n = conn_recv(&s->conn, h->scratch, HTTP_SCRATCH);
        if (n > 0) {
            h->scratch_of = s;
            h->scratch_at = 0;
            h->scratch_len = (size_t)n;
        }
        return n;
    }
    if (s->in_at > 0) {
        buf_consume(&s->in, s->in_at);
        s->in_at = 0;
    }
    if (buf_reserve(&s->in, SESSION_INPUT_MAX / 4) != 0)
        return -2;
    ssize_t n = conn_recv(&s->conn, s->in.data + s->in.len, s->in.cap - s->in.len - 1);
    if (n > 0)
        s->in.len += (size_t)n;
    return n;
}

/* ---- Ends ------------------------------------------------------------------------------------ */

static void let_go(struct session *s)
{
    if (s->request) {
        s->request->session = NULL;
        s->request = NULL;
    }
}

static COLD void abandon_how(struct session *s, const char *why, bool by_us, bool reset)
{
    struct request *r = s->request;
    let_go(s);
    conn_close(&s->conn, reset, by_us);
    if (r)
        s->http->app->cut(r, why);
}

void session_abandon(struct session *s, const char *why, bool by_us)
{
    const struct request *r = s->request;
    abandon_how(s, why, by_us, r && r->response.until_eof && !r->response.done);
}

void session_fail(struct session *s)
{
    let_go(s);
    conn_close(&s->conn, false, false);
}

void request_cut(struct request *r)
{
    struct session *s = r->session;
    if (!s)
        return;
    bool reset = r->response.until_eof && r->response.head_sent;
    let_go(s);
    conn_close(&s->conn, reset, true);
}

static NOINLINE void end_after(struct session *s, const struct request *r)
{
    struct http *h = s->http;
    bool plain = !r->head.keep_alive && r->body_complete && !h->closing && session_view(s).len == 0;
    if (plain || s->eof)
        conn_close(&s->conn, false, !s->eof);
    else
        conn_linger(&s->conn, h->closing ? DRAIN_LINGER_MS : LINGER_MS);
}

/* The response is in the kernel: on to the next request, or to the end of the connection. */
static void response_over(struct session *s, struct request *r)
{
    struct http *h = s->http;
    bool last = h->idle_over && s->owed == 0; /* also when its head has left without saying so */
    bool keep = r->head.keep_alive && !r->response.close && r->body_complete && !last;
    let_go(s);
    if (UNLIKELY(!keep)) {
        end_after(s, r);
        return;
    }
    if (!s->busy && list_empty(&s->resume)) {
        list_add_tail(&h->resume, &s->resume);
        loop_mark(h->conns.loop);
    }
}

/*
 * Has the client taken anything since this was last asked? The socket says that it is writable only
 * when a third of its buffer, megabytes, is free; a slow client's progress is smaller than that.
 */
static bool client_takes(struct session *s)
{
    int untaken;
    if (ioctl(s->conn.fd, SIOCOUTQ, &untaken) != 0)
        return false;
    bool fewer = untaken < s->untaken;
    s->untaken = untaken;
    return fewer;
}

static NOINLINE void write_deadline(struct session *s)
{
    client_takes(s);
    conn_deadline(&s->conn, CONN_WRITE_TIMEOUT, clock_ms() + s->http->timeouts_ms.write);
}

HOT bool session_sent(struct session *s, struct request *r)
{
    if (UNLIKELY(s->conn.out.bytes > 0)) {
        if (!s->conn.write_deadline_ms) /* what a handler adds is not the client's progress */
            write_deadline(s);
        return false;
    }
    if (UNLIKELY(s->conn.write_deadline_ms))
        conn_deadline(&s->conn, CONN_WRITE_TIMEOUT, 0);
    if (UNLIKELY(!r->response.done))
        return false;
    response_over(s, r);
    return true;
}

/* ---- Heads ----------------------------------------------------------------------------------- */

static NOINLINE void settings(struct http *h)
{
    const struct config *c = h->app->config(h->arg);
    h->config_number = h->conns.loop->config_number;
    h->log_access = c->log_access;
    h->guard = (struct guard_limits){ c->limits.head_bytes, c->limits.field_bytes,
                                      c->limits.target_bytes, (unsigned)c->limits.headers };
    h->limits = c->limits;
    h->timeouts_ms = c->timeouts_ms;
    int n = c->server_header[0]
                ? snprintf(h->lines, sizeof h->lines, "Server: %s\r\n", c->server_header)
                : 0;
    if (n < 0 || (size_t)n > sizeof h->lines - 50)
        n = 0;
    h->lines[n] = 0; /* the date is made anew */
    h->server_len = (size_t)n;
}

static void begin(struct session *s, struct str head)
{
    struct http *h = s->http;
    struct request *r = h->app->open(h->arg);
    if (UNLIKELY(!r)) {
        session_refuse(s, 503, "no memory for the request", head);
        return;
    }
    struct head_verdict v = { 0 };
    if (head_parse(h->parser, &r->arena, head.ptr, head.len, &r->head, &v) != 0 ||
        target_parse(&r->arena, r->head.target, &r->target, &v) != 0) {
        h->app->close(h->arg, r);
        session_refuse(s, v.status, v.why, head);
        return;
    }
    session_consume(s, head.len);
    s->in_head = false;
    s->request = r;
    s->answered++;
    r->session = s;
    r->start_us = h->now_us;
    session_body_begin(r);
    COUNTER_ADD(h->conns.loop->stats.requests, 1);
    h->app->head(r);
}

/* False: the head is not complete, or was refused. */
static bool next_head(struct session *s)
{
    struct http *h = s->http;
    if (UNLIKELY(h->config_number != h->conns.loop->config_number))
        settings(h);
    struct str in = session_view(s);
    struct guard_verdict v;
    switch (guard_scan(&s->guard, &h->guard, in.ptr, in.len, &v)) {
    case GUARD_MORE:
        return false;
    case GUARD_BAD:
        session_refuse(s, v.status, v.why, in);
        return false;
    case GUARD_HEAD:
        break;
    }
    guard_init(&s->guard);
    session_consume(s, v.skip);
    in = session_view(s);
    begin(s, (struct str){ in.ptr, v.head_len });
    return true;
}

/* ---- The turn of a session ------------------------------------------------------------------- */

static NOINLINE void later(struct session *s)
{
    struct http *h = s->http;
    list_add_tail(&h->later, &s->resume);
    if (!h->later_sent)
        loop_post(h->conns.loop, &h->later_msg);
    h->later_sent = true;
}

/* What to wait for, now that no more can be done with what has arrived. */
static HOT void settle(struct session *s)
{
    struct http *h = s->http;
    struct request *r = s->request;
    size_t unread = s->in.len - s->in_at;
    if (UNLIKELY(unread == 0 && s->in.data != NULL)) {
        buf_fini(&s->in);
        s->in_at = 0;
    }
    if (UNLIKELY(r != NULL)) {
        bool paused = r->body_paused && !r->body_complete;
        conn_want_read(&s->conn, !s->eof && !paused && unread < SESSION_INPUT_MAX);
        return;
    }
    if (UNLIKELY(s->eof)) {
        if (list_empty(&s->resume)) /* else complete requests are still to be answered */
            conn_close(&s->conn, false, false);
        return;
    }
    if (UNLIKELY(unread == 0 && h->idle_over)) {
        if (list_empty(&s->resume))
            conn_linger(&s->conn, DRAIN_LINGER_MS);
        return;
    }
    /* Requests that wait for the next turn are answered before more of them are read. */
    conn_want_read(&s->conn, unread < SESSION_INPUT_MAX || list_empty(&s->resume));
    if (unread == 0) {
        s->in_head = false;
        /* Not moved for a few milliseconds: that would be work for every request. */
        uint64_t deadline = NOW_MS(h) + h->timeouts_ms.idle;
        if (deadline - s->conn.read_deadline_ms > WHEEL_TICK_MS)
            conn_deadline(&s->conn, CONN_READ_TIMEOUT, deadline);
    } else if (!s->in_head && list_empty(&s->resume)) {
        s->in_head = true;
        conn_deadline(&s->conn, CONN_READ_TIMEOUT, NOW_MS(h) + h->timeouts_ms.head);
    }
}

HOT void session_input(struct session *s)
{
    struct http *h = s->http;
    s->busy = true;
    while (conn_is_open(&s->conn)) {
        if (UNLIKELY(s->request != NULL)) {
            if (!session_body_feed(s, s->request))
                break;
            continue;
        }
        if (session_view(s).len == 0)
            break;
        if (UNLIKELY(s->answered >= h->limits.pipeline)) {
            if (list_empty(&s->resume))
                later(s);
            break;
        }
        if (!next_head(s))
            break;
    }
    s->busy = false;
    if (conn_is_open(&s->conn)) {
        if (UNLIKELY(keep_rest(s) != 0)) {
            session_abandon(s, "no memory for unread input", true);
            return;
        }
        settle(s);
    } else if (h->scratch_of == s) {
        h->scratch_of = NULL;
    }
}

static HOT void on_readable(struct conn *c)
{
    struct session *s = session_of(c);
    s->http->now_us = loop_now_us(c->all->loop);
    s->answered = 0;
    ssize_t n = session_read(s);
    if (n == -1)
        return;
    if (UNLIKELY(n == -2)) {
        session_abandon(s, "the client reset the connection", false);
        return;
    }
    if (n > 0) {
        session_note_owed(s);
        session_input(s);
        return;
    }
    s->eof = true;
    c->hung_up = true;
    conn_want_read(c, false);
    if (s->request)
        s->http->app->gone(s->request);
    else
        settle(s);
}

static void on_hangup(struct conn *c)
{
    struct session *s = session_of(c);
    s->http->now_us = loop_clock_us(s->http->conns.loop);
    if (s->request) /* what came before the FIN is read, and the FIN, if that is not the end */
        s->http->app->gone(s->request);
}

static void on_sent(struct conn *c)
{
    struct session *s = session_of(c);
    struct request *r = s->request;
    if (c->out.bytes > 0)
        write_deadline(s);
    if (!r || s->flushing)
        return;
    s->http->now_us = loop_clock_us(s->http->conns.loop);
    if (session_sent(s, r))
        s->http->app->over(r);
    else
        s->http->app->sent(r);
}

static void on_broken(struct conn *c, enum out_result how, const char *why)
{
    struct session *s = session_of(c);
    if (s->request)
        s->request->response.file_cut = how == OUT_CUT;
    if (s->flushing)
        session_fail(s);
    else
        session_abandon(s, why, false);
}

static void on_timeout(struct conn *c, enum conn_timeout which)
{
    struct session *s = session_of(c);
    struct http *h = s->http;
    h->now_us = loop_clock_us(h->conns.loop);
    if (which == CONN_WRITE_TIMEOUT && client_takes(s))
        write_deadline(s);
    else if (which == CONN_WRITE_TIMEOUT)
        /* a reset, or the kernel would keep the megabytes that it holds for this client */
        abandon_how(s, "the client took nothing for timeouts_ms.write", true, true);
    else if (s->request) {
        if (session_body_awaited(s->request)) /* else it is what was left of the idle deadline */
            session_body_broken(s->request, 408, "the body did not come within timeouts_ms.body");
    } else if (s->in_head)
        session_refuse(s, 408, "the head did not come within timeouts_ms.head", session_view(s));
    else
        conn_close(c, false, true);
}

static void on_reap(struct conn *c)
{
    struct session *s = session_of(c);
    list_del(&s->resume);
    buf_fini(&s->in);
    s->magic = 0;
    free(s);
}

static const struct conn_ops ops = { .readable = on_readable,
                                     .hangup = on_hangup,
                                     .sent = on_sent,
                                     .broken = on_broken,
                                     .timeout = on_timeout,
                                     .reap = on_reap };

/* ---- All of them ----------------------------------------------------------------------------- */

int session_prepare(struct http *h)
{
    if (!h->spare)
        h->spare = calloc(1, sizeof *h->spare);
    return h->spare ? 0 : -1;
}

int session_open(struct http *h, int fd, const struct sockaddr *peer)
{
    struct session *s = h->spare;
    s->magic = SESSION_MAGIC;
    s->http = h;
    guard_init(&s->guard);
    list_init(&s->resume);
    if (conn_open(&s->conn, &h->conns, fd, peer) != 0)
        return -1;
    h->spare = NULL;
    conn_deadline(&s->conn, CONN_READ_TIMEOUT, clock_ms() + h->timeouts_ms.idle);
    return 0;
}

static void on_later(struct msg *m)
{
    struct http *h = container_of(m, struct http, later_msg);
    h->later_sent = false;
    list_splice_tail(&h->resume, &h->later);
    loop_mark(h->conns.loop);
    list_each (n, &h->resume)
        list_entry(n, struct session, resume)->answered = 0;
}

int http_init(struct http *h, struct loop *loop, const struct http_app *app, void *arg,
              struct err *err)
{
    h->app = app;
    h->arg = arg;
    h->parser = head_parser_new();
    h->scratch = malloc(HTTP_SCRATCH);
    if (!h->parser || !h->scratch)
        return err_set(err, "no memory for a worker's buffers");
    conns_init(&h->conns, loop, &ops);
    list_init(&h->resume);
    list_init(&h->later);
    h->later_msg.fn = on_later;
    h->config_number = ~0u; /* none */
    settings(h);
    return 0;
}

bool http_step(struct http *h)
{
    if (list_empty(&h->resume))
        return false;
    h->now_us = loop_clock_us(h->conns.loop);
    struct list *n;
    while ((n = list_pop(&h->resume)))
        session_input(list_entry(n, struct session, resume));
    return true;
}

void http_reap(struct http *h)
{
    conns_reap(&h->conns);
}
