/*
 * Where a request head ends, and whether its framing is sound: the first code that meets bytes from
 * outside. Accepts only `METHOD SP target SP HTTP/1.x CRLF *( name ":" value CRLF ) CRLF`, every
 * byte of the class that its place allows; refuses everything else as soon as the first wrong byte
 * is there. One pass however the bytes arrive: what was scanned is not looked at again. Pure, any
 * thread; the caller owns the state.
 */
#ifndef GRAFT_HTTP_GUARD_H
#define GRAFT_HTTP_GUARD_H

#include "base/base.h"

#define GUARD_METHOD_MAX  32 /* longer methods are 501 (RFC 9112 3) */
#define GUARD_EMPTY_LINES 2  /* ignored before a request line (RFC 9112 2.2); more are 400 */

struct guard_limits {
    size_t head_bytes;   /* the whole head, empty lines before it aside; more is 431 */
    size_t field_bytes;  /* one field line without its CRLF, at most 8191; more is 431 */
    size_t target_bytes; /* at most 8191; more is 414 */
    unsigned headers;    /* field lines; more are 431 */
};

enum guard_result {
    GUARD_MORE, /* sound so far, not complete */
    GUARD_HEAD, /* a whole head: verdict.skip and .head_len */
    GUARD_BAD   /* verdict.status and .why; the connection cannot go on */
};

struct guard {
    size_t scanned;  /* where the next scan resumes */
    size_t skip;     /* bytes of empty lines */
    size_t part;     /* where the method, target, version or field line in hand begins */
    unsigned fields; /* field lines begun */
    unsigned state;
};

struct guard_verdict {
    size_t skip;     /* bytes of empty lines before the request line */
    size_t head_len; /* through CRLF CRLF, counted after skip */
    unsigned status; /* 400, 414, 431, 501 or 505 */
    const char *why; /* static */
};

/* For each head anew. */
static inline void guard_init(struct guard *g)
{
    *g = (struct guard){ 0 };
}

/* `data` is everything that has arrived since guard_init: the same bytes again, and more behind
   them (they may have moved). Reads nothing behind data[len-1] or behind the end of the head. */
enum guard_result guard_scan(struct guard *g, const struct guard_limits *lim, const char *data,
                             size_t len, struct guard_verdict *v);

#endif
