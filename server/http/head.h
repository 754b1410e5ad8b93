/*
 * A guarded head made into a request head: htparser (libevhtp) tokenizes, our hooks keep the
 * tokens in the request's arena, and RFC 9112 section 6 decides how the body is framed. htparser
 * is fed whole heads only, its own idea of framing is not asked, and every token it hands out is
 * compared with the guarded bytes: a disagreement is a 400, never a guess.
 */
#ifndef GRAFT_HTTP_HEAD_H
#define GRAFT_HTTP_HEAD_H

#include "base/arena.h"
#include "base/base.h"
#include "base/str.h"

/* The methods that IANA has registered, the commonest first. All others are answered 501. CONNECT
   and PRI are known, so as to be refused in words. */
#define HEAD_METHODS(X)                                                                            \
    X(GET, "GET")                                                                                  \
    X(HEAD, "HEAD")                                                                                \
    X(POST, "POST")                                                                                \
    X(PUT, "PUT")                                                                                  \
    X(DELETE, "DELETE")                                                                            \
    X(OPTIONS, "OPTIONS")                                                                          \
    X(PATCH, "PATCH")                                                                              \
    X(TRACE, "TRACE")                                                                              \
    X(CONNECT, "CONNECT")                                                                          \
    X(QUERY, "QUERY")                                                                              \
    X(ACL, "ACL")                                                                                  \
    X(BASELINE_CONTROL, "BASELINE-CONTROL")                                                        \
    X(BIND, "BIND")                                                                                \
    X(CHECKIN, "CHECKIN")                                                                          \
    X(CHECKOUT, "CHECKOUT")                                                                        \
    X(COPY, "COPY")                                                                                \
    X(LABEL, "LABEL")                                                                              \
    X(LINK, "LINK")                                                                                \
    X(LOCK, "LOCK")                                                                                \
    X(MERGE, "MERGE")                                                                              \
    X(MKACTIVITY, "MKACTIVITY")                                                                    \
    X(MKCALENDAR, "MKCALENDAR")                                                                    \
    X(MKCOL, "MKCOL")                                                                              \
    X(MKREDIRECTREF, "MKREDIRECTREF")                                                              \
    X(MKWORKSPACE, "MKWORKSPACE")                                                                  \
    X(MOVE, "MOVE")                                                                                \
    X(ORDERPATCH, "ORDERPATCH")                                                                    \
    X(PRI, "PRI")                                                                                  \
    X(PROPFIND, "PROPFIND")                                                                        \
    X(PROPPATCH, "PROPPATCH")                                                                      \
    X(REBIND, "REBIND")                                                                            \
    X(REPORT, "REPORT")                                                                            \
    X(SEARCH, "SEARCH")                                                                            \
    X(UNBIND, "UNBIND")                                                                            \
    X(UNCHECKOUT, "UNCHECKOUT")                                                                    \
    X(UNLINK, "UNLINK")                                                                            \
    X(UNLOCK, "UNLOCK")                                                                            \
    X(UPDATE, "UPDATE")                                                                            \
    X(UPDATEREDIRECTREF, "UPDATEREDIRECTREF")                                                      \
    X(VERSION_CONTROL, "VERSION-CONTROL")

#define HEAD_METHOD_ENUM(id, text) HEAD_##id,
enum head_method {
    HEAD_METHODS(HEAD_METHOD_ENUM) HEAD_OTHER /* not registered; also: how many there are */
};

unsigned head_method_id(struct str method); /* case matters; HEAD_OTHER when not registered */
struct str head_method_name(unsigned id);   /* static; absent for HEAD_OTHER */

struct header {
    struct str name, value; /* value without white space at its ends */
};

enum body_framing {
    BODY_NONE,   /* also for Content-Length: 0 */
    BODY_LENGTH, /* content_length bytes, at least 1 */
    BODY_CHUNKED
};

struct head {
    struct str method; /* static storage */
    struct str target; /* as sent */
    unsigned method_id;
    unsigned minor; /* of HTTP/1.x: 0 or 1 */
    struct header *headers;
    unsigned nheaders;
    enum body_framing framing;
    uint64_t content_length;
    bool keep_alive;      /* from the version and Connection */
    bool expect_continue; /* 1.1, a body follows, and the client waits for 100 */
    struct str host;      /* with its port; of an absolute-form target, else of Host; may be "" */
};

struct head_verdict {
    unsigned status;
    const char *why; /* static */
};

struct head_parser; /* one per worker: holds the htparser and scratch room for its tokens */
struct head_parser *head_parser_new(void); /* NULL: no memory */
void head_parser_free(struct head_parser *p);

/*
 * data[0..len) is exactly one head that the guard has passed (verdict.skip left out). 0, or -1 with
 * the verdict: 400 framing, Host or target; 501 method or transfer coding; 417; 500 no memory.
 * On 417 `out` is complete, so that the caller may go on with the connection; on all others the
 * connection cannot go on. The strings of `out` live in the arena.
 */
int head_parse(struct head_parser *p, struct arena *a, const char *data, size_t len,
               struct head *out, struct head_verdict *v);

/* The value of the first field of that name (ASCII case aside), or absent. */
struct str head_field(const struct head *h, const char *name);

/* uri-host [ ":" port ] of RFC 9110 7.2: a registered name, IPv4 or [IPv6] and a port of at most
   65535. "" is sound (the authority is empty); ":80" is not. */
bool head_host_ok(struct str host);

#endif
