/*
 * The chunked transfer coding, RFC 9112 section 7.1. The decoder takes bytes as they arrive and
 * hands out pieces of the body in place, without copying; trailer fields are checked like any
 * field and dropped. The encoder is a size line. Pure, any thread; the caller owns the state.
 *
 *     SIZE → (BWS → EXT) → SIZE_LF → DATA → DATA_CR → DATA_LF → SIZE …
 *                             └ size 0 → TRAILER lines → END_LF → END        anything else → BAD
 */
#ifndef GRAFT_HTTP_CHUNKED_H
#define GRAFT_HTTP_CHUNKED_H

#include "base/base.h"
#include "base/str.h"

#define CHUNKED_EXT_MAX    4096  /* bytes of extensions on one size line */
#define CHUNKED_EXCESS_MAX 16384 /* framing bytes beyond a fair share of the body so far */

enum chunked_result {
    CHUNKED_MORE, /* everything was consumed, the body goes on */
    CHUNKED_DATA, /* *body is the next piece: call again with what is left */
    CHUNKED_END,  /* the last CRLF was consumed: what follows is the next request */
    CHUNKED_BAD   /* c->status and c->why; the connection cannot go on */
};

struct chunked {
    uint64_t left;       /* of the chunk in hand */
    uint64_t total;      /* body bytes handed out so far */
    size_t line;         /* bytes of the line in hand */
    size_t excess;       /* see CHUNKED_EXCESS_MAX */
    size_t trailer_left; /* bytes that trailers may still take */
    unsigned state, digits;
    unsigned status; /* 400, or 431 for trailers */
    const char *why; /* static */
};

/* `trailer_bytes`: how much trailer is put up with (limits.field_bytes). */
void chunked_init(struct chunked *c, size_t trailer_bytes);

/*
 * Decodes from data[0..len). *used: bytes consumed (the piece itself included); *body: the piece,
 * inside data, never empty, on CHUNKED_DATA only. After END or BAD the same answer comes again and
 * nothing is consumed.
 */
enum chunked_result chunked_next(struct chunked *c, const char *data, size_t len, size_t *used,
                                 struct str *body);

/* Encoding: size line, data, CHUNKED_CRLF; in the end CHUNKED_LAST. */
#define CHUNKED_HEAD_MAX 18
#define CHUNKED_CRLF     "\r\n"
#define CHUNKED_LAST     "0\r\n\r\n"
/* Writes "<hex>\r\n" without a NUL; returns its length. len must not be 0: that would end the body.
 */
size_t chunked_head(char out[CHUNKED_HEAD_MAX], size_t len);

#endif
