/* What session*.c, refuse.c and response.c know of each other. */
#ifndef GRAFT_HTTP_SESSION_PRIVATE_H
#define GRAFT_HTTP_SESSION_PRIVATE_H

#include "http/session.h"

/* Input: what was read and not consumed, in the worker's scratch or the session's own. */
static inline struct str session_view(const struct session *s)
{
    const struct http *h = s->http;
    if (LIKELY(h->scratch_of == s))
        return (struct str){ h->scratch + h->scratch_at, h->scratch_len - h->scratch_at };
    return (struct str){ s->in.data ? s->in.data + s->in_at : "", s->in.len - s->in_at };
}

static inline void session_consume(struct session *s, size_t n)
{
    struct http *h = s->http;
    if (UNLIKELY(s->owed))
        s->owed -= n < s->owed ? n : s->owed;
    if (LIKELY(h->scratch_of == s)) {
        h->scratch_at += n;
        return;
    }
    s->in_at += n; /* the memory stays until the session settles: pieces may point into it */
}

#define DRAIN_LINGER_MS 1000u

/* Reads once; level-triggered events bring us back for more. As conn_recv, and -2 without memory.
 */
ssize_t session_read(struct session *s);
/* Serves what was read, as far as it goes. */
void session_input(struct session *s);

/* The connection is of no more use: its request, if any, learns that it was cut. */
COLD void session_abandon(struct session *s, const char *why, bool by_us);

/* What has no request gets a plain answer, and the connection ends. `in` is what it began with. */
COLD void session_refuse(struct session *s, unsigned status, const char *why, struct str in);

/* A drain (session_closing.c): what was just read came in time, if the connection was idle. */
static inline void session_note_owed(struct session *s)
{
    if (UNLIKELY(s->http->closing) && !s->request && s->owed == 0)
        s->owed = session_view(s).len;
}

/* A drain: is `r`, whose answer's head is being composed, the last request of its connection? */
static inline bool session_ends_with(const struct session *s, const struct request *r)
{
    return UNLIKELY(s->http->closing) && (s->owed == 0 || !r->body_complete);
}

/* The body of the request in hand (session_body.c). */
void session_body_begin(struct request *r);
bool session_body_feed(struct session *s, struct request *r); /* false: nothing can be taken now */
bool session_body_awaited(const struct request *r);           /* the client is to send more */
void session_body_broken(struct request *r, unsigned status, const char *why);

/* Drops the part of the body that has already arrived, so that the connection can be kept. */
void session_discard_available(struct session *s, struct request *r);

/* After output was queued or left: deadlines; true when the response is over and was let go of. */
bool session_sent(struct session *s, struct request *r);

/* The connection failed while the layer above was calling: closed, and its request let go of. */
COLD void session_fail(struct session *s);

/* The Server line (server_len bytes, may be none) and the Date line of this second. */
const char *http_lines(struct http *h);

#endif
