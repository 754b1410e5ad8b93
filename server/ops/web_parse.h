/*
 * The request of the small HTTP server: strict where it matters (framing, line ends), and cut down
 * to what its clients send. No allocation; works in the text that it is given.
 */
#ifndef GRAFT_OPS_WEB_PARSE_H
#define GRAFT_OPS_WEB_PARSE_H

#include "ops/web.h"

struct web_head {
    const char *method, *path;
    struct web_field fields[WEB_FIELDS_MAX];
    size_t nfields;
    size_t body_len; /* Content-Length */
};

#define WEB_BODY_MAX 65536 /* read and thrown away: no verb takes a body */

/* `text` is a head of `len` bytes that ends in CRLF CRLF; it is cut up in place. 0, or the status
   to answer with and *why, a literal. */
int web_parse(char *text, size_t len, struct web_head *out, const char **why);

#endif
