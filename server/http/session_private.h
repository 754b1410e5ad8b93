/* What session.c and response.c know of each other. */
#ifndef GRAFT_HTTP_SESSION_PRIVATE_H
#define GRAFT_HTTP_SESSION_PRIVATE_H

#include "http/session.h"

/* Drops the part of the body that has already arrived, so that the connection can be kept. */
void session_discard_available(struct session *s, struct request *r);

/* After output was queued or left: deadlines; true when the response is over and was let go of. */
bool session_sent(struct session *s, struct request *r);

/* A drain: is `r`, whose answer's head is being composed, the last request of its connection? */
bool session_ends_with(const struct session *s, const struct request *r);

/* The connection failed while the layer above was calling: closed, and its request let go of. */
void session_fail(struct session *s);

/* The Server line (server_len bytes, may be none) and the Date line of this second. */
const char *http_lines(struct http *h);

#endif
