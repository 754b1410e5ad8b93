/*
 * All sessions of a worker in a drain. It answers what came in time: what is here when closing
 * begins and, on a connection that has no request then, what comes first. The answer to the last
 * request of that says close; a client that goes on and on pipelining is not followed.
 */
#include "http/session_private.h"

#include <sys/ioctl.h>

void http_set_closing(struct http *h)
{
    h->closing = true;
    list_each (n, &h->conns.open) {
        struct session *s = list_entry(list_entry(n, struct conn, node), struct session, conn);
        int in_kernel = 0;
        s->known_idle = true;
        if (conn_is_open(&s->conn) && ioctl(s->conn.fd, FIONREAD, &in_kernel) == 0 && in_kernel > 0)
            s->owed = (size_t)in_kernel;
        s->owed += session_view(s).len;
    }
}

/* Has the body stood still for long because its plugin does not want it, or not now? */
static bool stands_still(struct session *s)
{
    const struct request *r = s->request;
    bool taken =
        r->body_complete || r->body_discard || (r->body_mode != BODY_UNWANTED && !r->body_paused);
    if (taken || s->owed != s->owed_seen)
        s->looks = 0;
    s->owed_seen = s->owed;
    return !taken && ++s->looks >= STILL_LOOKS;
}

/* Will another request begin on it? What is owed may all be the body of the one in hand. */
static bool goes_on(struct session *s)
{
    const struct request *r = s->request;
    if (!r)
        return true;
    if (s->owed == 0 || !r->head.keep_alive)
        return false;
    if (!r->body_complete && r->head.framing == BODY_LENGTH && s->owed <= r->body_left)
        return false;
    if (stands_still(s))
        s->owed = 0; /* from now on this request is the last */
    return s->owed > 0;
}

bool http_is_quiet(struct http *h)
{
    bool quiet = true;
    list_each (n, &h->conns.open) {
        struct session *s = list_entry(list_entry(n, struct conn, node), struct session, conn);
        if (conn_is_open(&s->conn) && goes_on(s))
            quiet = false;
    }
    return quiet;
}

static void end_idle(struct http *h, bool all)
{
    h->now_us = loop_clock_us(h->conns.loop);
    list_each_safe (n, &h->conns.open) {
        struct session *s = list_entry(list_entry(n, struct conn, node), struct session, conn);
        if (s->request || !conn_is_open(&s->conn) || s->in.len > s->in_at)
            continue;
        if (!all && !s->known_idle) {
            s->known_idle = true;
            continue;
        }
        ssize_t got = session_read(s); /* once more: a request may have arrived meanwhile */
        session_note_owed(s);
        if (got > 0)
            session_input(s);
        else
            conn_linger(&s->conn, DRAIN_LINGER_MS);
    }
}

void http_make_room(struct http *h)
{
    end_idle(h, false);
}

void http_close_idle(struct http *h)
{
    h->idle_over = true;
    end_idle(h, true);
}

void http_close_all(struct http *h)
{
    list_each_safe (n, &h->conns.open) {
        struct session *s = list_entry(list_entry(n, struct conn, node), struct session, conn);
        session_abandon(s, "the server cut what was left at the end of its drain", true);
    }
}
