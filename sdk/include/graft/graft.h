/*
 * graft.h: the plugin contract.
 *
 * A plugin is a shared object that exports one object, graft_plugin_v1, which GRAFT_PLUGIN()
 * defines. The server exports nothing: its functions reach the plugin in a table, struct
 * graft_host, to which every handle points; the functions below are inline wrappers around that
 * table.
 *
 * Every comment carries the threads on which a call is made or may be made:
 *
 * - [loader] the thread that loads and unloads; one plugin at a time; may block
 * - [worker] the thread that owns the request (or, for worker_init, the worker itself); must not
 *   block
 * - [pool] the threads for offloaded work and graft_every
 * - [any] all of them, and threads that the plugin made
 *
 * Two rules hold everywhere. A plugin is never called from inside a call that it made itself:
 * graft_done, graft_continue, graft_flush and graft_abort only mark, and what follows from them
 * runs after every plugin frame has returned. And a handle belongs to the plugin that was given it;
 * it is never passed to another.
 *
 * C11, and C++17 with GNU designated initialisers or C++20.
 */
#ifndef GRAFT_GRAFT_H
#define GRAFT_GRAFT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The contract's number; it is in the name of the entry symbol, graft_plugin_v1. */
#define GRAFT_ABI 1

/* Rises each time a struct or the table gains a member at its end. */
#define GRAFT_MINOR 1

/*
 * The smallest minor of a server that may load this plugin. Define it on the command line
 * (-DGRAFT_NEEDS=n) to ask for less than GRAFT_MINOR: wrappers newer than n are then not declared.
 * Asking for more is possible, and then every server that is older refuses the plugin.
 */
#ifndef GRAFT_NEEDS
#define GRAFT_NEEDS GRAFT_MINOR
#endif

/*
 * True when the server's table reaches as far as `member`: for what is newer than GRAFT_NEEDS.
 *     if (GRAFT_HAS(req->host, graft_host, flush)) …
 */
#define GRAFT_HAS(table, type, member)                                                             \
    ((table)->size >= offsetof(type, member) + sizeof((table)->member))

#if defined(__GNUC__) || defined(__clang__)
#define GRAFT_PRINTF_(fmt, args) __attribute__((__format__(__printf__, fmt, args)))
#define GRAFT_EXPORT_            __attribute__((__visibility__("default")))
#else
#define GRAFT_PRINTF_(fmt, args)
#define GRAFT_EXPORT_
#endif

struct event_base; /* libevent's; see graft_loop() */

/* ---- Types --------------------------------------------------------------------------------- */

typedef struct graft_host graft_host;

/* One request, as one plugin in its chain sees it. */
typedef struct graft_req {
    const graft_host *host; /* the server's functions; for the wrappers below */
} graft_req;

/* This version of this plugin. */
typedef struct graft_self {
    const graft_host *host; /* the server's functions; for the wrappers below */
} graft_self;

/* A counter made by graft_counter(). */
typedef struct graft_metric {
    const graft_host *host; /* the server's functions; for the wrappers below */
} graft_metric;

/* What export_state writes into, with graft_buf_add(). Valid during that call. (minor 1) */
typedef struct graft_buf {
    const graft_host *host; /* the server's functions; for the wrappers below */
} graft_buf;

/* Borrowed bytes; not NUL-terminated; {NULL, 0} means absent. */
typedef struct graft_str {
    const char *ptr; /* the first of them; NULL when absent */
    size_t len;      /* how many; may be 0 when there is a ptr: empty, not absent */
} graft_str;

/* What a handler or a middleware answers. Anything outside the enum counts as GRAFT_ERROR. */
typedef enum graft_next {
    GRAFT_NEXT = 0, /* middleware: go on. Handler: same as GRAFT_DONE. */
    GRAFT_DONE =
        1, /* the response is what has been set: answer; the rest of the chain is skipped */
    GRAFT_LATER = 2, /* not finished: exactly one graft_done() (handler) or graft_continue()
                        (middleware), or graft_abort(), follows */
    GRAFT_ERROR = 3  /* answer 500; the reason given to graft_fail_req() goes to the log */
} graft_next;

/* [worker] A handler or a middleware; `state` is what init stored. Must not block. */
typedef graft_next graft_handler(graft_req *req, void *state);

/* graft_route.flags: called when the head is in; the body comes through graft_on_body(). */
#define GRAFT_STREAM 1u

/* graft_plugin.flags */
#define GRAFT_SERIAL                                                                               \
    1u                     /* request callbacks and graft_every run one at a time per plugin name, \
                              across versions; held for one callback, not across GRAFT_LATER */
#define GRAFT_NEED_BODY 2u /* on_request waits for the whole body, and so does all after it */

/* The levels of graft_log(). */
enum { GRAFT_DEBUG = 0, GRAFT_INFO = 1, GRAFT_WARN = 2, GRAFT_ERR = 3 };

/* What a plugin serves: one entry of its table. */
typedef struct graft_route {
    const char *method;     /* "GET"; NULL = every method. GET also serves HEAD. */
    const char *pattern;    /* "/a", "/users/:id" (one segment), "/files/" "*rest" (all that
                               follows); starts with '/' */
    graft_handler *handler; /* [worker] answers what matches */
    unsigned flags;         /* GRAFT_STREAM or 0 */
} graft_route;

/*
 * The descriptor. The order of its members is part of the contract: designated initialisers in
 * C++ follow it. What is not needed is left out. The server copies the descriptor and its
 * strings before it runs any of the plugin's code.
 *
 * A life: init, ready, worker_init on each worker, start, requests …, cool, worker_fini on each
 * worker, fini. When ready, worker_init or start fails: cool where start had returned 0,
 * worker_fini where worker_init had, then fini.
 */
typedef struct graft_plugin {
    uint32_t size, needs, route_size; /* set by GRAFT_PLUGIN() */
    uint32_t flags;                   /* GRAFT_SERIAL, GRAFT_NEED_BODY */

    const char *name;    /* [a-z][a-z0-9-]*, unique in a server */
    const char *version; /* free text, for people */
    const char *summary; /* one line, for people */
    size_t scratch_size; /* zeroed bytes per request for graft_scratch() */

    /* [loader] May block. 0, or -1 after graft_fail(): then nothing more is called. What it
     * stores in *state is handed to every other function. */
    int (*init)(graft_self *self, void **state);

    /* [loader] The gate: 0 = fit to serve, -1 (after graft_fail()) = keep the old version. */
    int (*ready)(graft_self *self, void *state);

    /* [worker] On each worker, before it meets this version. Must not block. -1 fails the swap. */
    int (*worker_init)(graft_self *self, void *state);

    /* [loader] This version begins to serve: just before it is published. -1 fails the swap. The
     * old version's cool comes after this, so for a moment both are started. */
    int (*start)(graft_self *self, void *state);

    /* [loader] No new request will come: end what must not run twice. */
    void (*cool)(graft_self *self, void *state);

    /* [worker] On each worker where worker_init returned 0, after its last request here. */
    void (*worker_fini)(graft_self *self, void *state);

    /* [loader] Last of all: stop and join every thread that this plugin started. */
    void (*fini)(graft_self *self, void *state);

    const graft_route *routes; /* ends with { 0 }; NULL for pure middleware */

    graft_handler *on_request;  /* [worker] middleware, in chain order, before the body is read */
    graft_handler *on_response; /* [worker] middleware, in reverse order, once, just before the
                                   head is composed */

    /* [worker] Last of all, when the request is over: logs, metrics. Runs for exactly those
     * middlewares whose on_request was called, also after an abort. */
    void (*on_finish)(graft_req *req, void *state);

    /* GRAFT_MINOR 0 ends here. */

    /* What the two functions below hand over; a number of the plugin's own, for import_state. */
    uint32_t state_schema;

    /* [loader] Hand-over, on the old version: writes its state into `out`. None of its requests and
     * no graft_every runs meanwhile. Must not change the state: the old version may go on. 0, or -1
     * (after graft_fail()): the swap is undone. */
    int (*export_state)(graft_self *self, void *state, graft_buf *out);

    /* [loader] Hand-over, on the new version: after init, before ready. `schema` is the old
     * version's; `data` is valid during the call. 0, or -1 (after graft_fail()): undone. */
    int (*import_state)(graft_self *self, void *state, uint32_t schema, graft_str data);

    /* [pool] Asked by /readyz in the background, at most once a second, between the moment when
     * this version serves and its cool: 0 = well, -1 after graft_fail(). Runs beside requests. */
    int (*health)(graft_self *self, void *state);
} graft_plugin;

/*
 * The server's side. Members bear their function's name without `graft_`; graft_continue is
 * `resume`, and the printf-like ones take a va_list. It grows at its end; `size` says how far this
 * server's reaches. Plugins call the wrappers below; a test may pass a table of its own.
 */
struct graft_host {
    uint32_t size;     /* bytes of this table, as the server knows it */
    uint32_t reserved; /* 0 */

    /* The request */
    graft_str (*method)(const graft_req *req);                   /* [worker] [any] in LATER */
    graft_str (*path)(const graft_req *req);                     /* [worker] [any] in LATER */
    graft_str (*target)(const graft_req *req);                   /* [worker] [any] in LATER */
    graft_str (*param)(const graft_req *req, const char *name);  /* [worker] [any] in LATER */
    graft_str (*query)(graft_req *req, const char *name);        /* [worker] */
    graft_str (*header)(const graft_req *req, const char *name); /* [worker] [any] in LATER */
    size_t (*header_count)(const graft_req *req);                /* [worker] [any] in LATER */
    bool (*header_at)(const graft_req *req, size_t i, graft_str *name,
                      graft_str *value);              /* [worker] [any] in LATER */
    graft_str (*body)(graft_req *req);                /* [worker] */
    graft_str (*peer)(const graft_req *req);          /* [worker] [any] in LATER */
    graft_str (*request_id)(const graft_req *req);    /* [worker] [any] in LATER */
    graft_str (*route_pattern)(const graft_req *req); /* [worker] [any] in LATER */
    bool (*is_tls)(const graft_req *req);             /* [worker] [any] in LATER */

    /* The response */
    int (*status)(graft_req *req, int code);                                /* [worker] */
    int (*set_header)(graft_req *req, const char *name, const char *value); /* [worker] */
    int (*add_header)(graft_req *req, const char *name, const char *value); /* [worker] */
    int (*remove_header)(graft_req *req, const char *name);                 /* [worker] */
    int (*write)(graft_req *req, const void *data, size_t len);             /* [worker] */
    int (*write_static)(graft_req *req, const void *data, size_t len);      /* [worker] */
    int (*vprintf)(graft_req *req, const char *fmt, va_list args)
        GRAFT_PRINTF_(2, 0);                                                    /* [worker] */
    int (*send_file)(graft_req *req, int fd, int64_t offset, uint64_t len);     /* [worker] */
    int (*flush)(graft_req *req);                                               /* [worker] */
    graft_next (*text)(graft_req *req, int code, const char *text);             /* [worker] */
    graft_next (*json)(graft_req *req, int code, const char *json, size_t len); /* [worker] */
    graft_next (*error)(graft_req *req, int code, const char *detail);          /* [worker] */
    int (*response_status)(const graft_req *req);                               /* [worker] */
    graft_str (*response_header)(const graft_req *req, const char *name);       /* [worker] */
    graft_str (*response_body)(graft_req *req);                                 /* [worker] */
    int (*reset_response)(graft_req *req);                                      /* [worker] */
    bool (*streaming)(const graft_req *req);                                    /* [worker] */
    uint64_t (*response_bytes)(const graft_req *req);                           /* [worker] */
    uint64_t (*elapsed_us)(const graft_req *req);                               /* [worker] */

    /* Work that takes time */
    int (*done)(graft_req *req);                                             /* [any] */
    int (*resume)(graft_req *req, graft_next how);                           /* [any] */
    void (*abort)(graft_req *req);                                           /* [any] */
    bool (*gone)(const graft_req *req);                                      /* [any] */
    int (*post)(graft_req *req, void (*fn)(graft_req *, void *), void *arg); /* [any] */
    int (*offload)(graft_req *req, void (*work)(void *), void (*then)(graft_req *, void *),
                   void *arg); /* [worker] */
    int (*after)(graft_req *req, unsigned ms, void (*fn)(graft_req *, void *),
                 void *arg);                                                      /* [worker] */
    int (*deadline)(graft_req *req, unsigned ms);                                 /* [worker] */
    void (*on_abort)(graft_req *req, void (*fn)(graft_req *, void *), void *arg); /* [worker] */
    void (*on_body)(graft_req *req, void (*fn)(graft_req *, graft_str chunk, bool last, void *arg),
                    void *arg);                                                      /* [worker] */
    void (*body_pause)(graft_req *req);                                              /* [worker] */
    void (*body_resume)(graft_req *req);                                             /* [worker] */
    void (*on_writable)(graft_req *req, void (*fn)(graft_req *, void *), void *arg); /* [worker] */
    size_t (*pending)(const graft_req *req);                                         /* [worker] */
    void *(*alloc)(graft_req *req, size_t size);                                     /* [worker] */
    void *(*scratch)(graft_req *req);                                                /* [worker] */

    /* The plugin itself */
    graft_str (*config)(graft_self *self);                                              /* [any] */
    const char *(*config_str)(graft_self *self, const char *key, const char *fallback); /* [any] */
    int64_t (*config_int)(graft_self *self, const char *key, int64_t fallback);         /* [any] */
    bool (*config_bool)(graft_self *self, const char *key, bool fallback);              /* [any] */
    int (*vfail)(graft_self *self, const char *fmt, va_list args)
        GRAFT_PRINTF_(2, 0); /* [loader], worker_init, health */
    graft_next (*vfail_req)(graft_req *req, const char *fmt, va_list args)
        GRAFT_PRINTF_(2, 0); /* [worker] */
    void (*vlog)(graft_self *self, int level, const char *fmt, va_list args)
        GRAFT_PRINTF_(3, 0);                      /* [any] */
    graft_self *(*self_of)(graft_req *req);       /* [any] */
    unsigned (*worker)(graft_self *self);         /* [worker] */
    unsigned (*workers)(graft_self *self);        /* [any] */
    struct event_base *(*loop)(graft_self *self); /* [worker] */
    bool (*cooling)(graft_self *self);            /* [any] */
    int (*every)(graft_self *self, unsigned ms, void (*fn)(void *state),
                 void *state);                                                      /* [loader] */
    graft_metric *(*counter)(graft_self *self, const char *name, const char *help); /* [loader] */
    void (*add)(graft_metric *metric, uint64_t n); /* [worker] [pool] */

    /* GRAFT_MINOR 0 ends here. */

    void *(*shared)(graft_self *self, const char *name, size_t size, uint32_t schema,
                    bool *fresh); /* [loader] in init */
    const void *(*shared_old)(graft_self *self, const char *name, size_t *size,
                              uint32_t *schema);                  /* [loader] */
    int (*buf_add)(graft_buf *buf, const void *data, size_t len); /* [loader] in export_state */

    /* GRAFT_MINOR 1 ends here. */
};

/* ---- The request: valid until on_finish returns; all strings live as long -------------------- */

/* [worker], and [any] between GRAFT_LATER and its done. The method as sent, "GET". */
static inline graft_str graft_method(const graft_req *req)
{
    return req->host->method(req);
}

/* [worker], and [any] between GRAFT_LATER and its done. The target's path: split at '/' first,
 * then percent-decoded, dot segments removed. "%2F" stays encoded (decoded only inside a :param).
 */
static inline graft_str graft_path(const graft_req *req)
{
    return req->host->path(req);
}

/* [worker], and [any] between GRAFT_LATER and its done. The request target as sent. */
static inline graft_str graft_target(const graft_req *req)
{
    return req->host->target(req);
}

/* [worker], and [any] between GRAFT_LATER and its done. What ":name" or "*name" of the route
 * matched, decoded; absent when the route has no such name. */
static inline graft_str graft_param(const graft_req *req, const char *name)
{
    return req->host->param(req, name);
}

/* [worker] The first query field of that name, decoded; absent when there is none. Allocates in
 * the request's arena. */
static inline graft_str graft_query(graft_req *req, const char *name)
{
    return req->host->query(req, name);
}

/* [worker], and [any] between GRAFT_LATER and its done. The header field of that name, compared
 * without case; several fields are joined by ", "; absent when there is none. */
static inline graft_str graft_header(const graft_req *req, const char *name)
{
    return req->host->header(req, name);
}

/* [worker], and [any] between GRAFT_LATER and its done. How many header fields were sent. */
static inline size_t graft_header_count(const graft_req *req)
{
    return req->host->header_count(req);
}

/* [worker], and [any] between GRAFT_LATER and its done. The i-th field as sent, from 0; false past
 * the last. */
static inline bool graft_header_at(const graft_req *req, size_t i, graft_str *name,
                                   graft_str *value)
{
    return req->host->header_at(req, i, name, value);
}

/* [worker] The whole body; {"", 0} when it is empty; absent before it is in, and for
 * GRAFT_STREAM routes. */
static inline graft_str graft_body(graft_req *req)
{
    return req->host->body(req);
}

/* [worker], and [any] between GRAFT_LATER and its done. "192.0.2.1:4711", "[2001:db8::1]:80" or
 * "unix". */
static inline graft_str graft_peer(const graft_req *req)
{
    return req->host->peer(req);
}

/* [worker], and [any] between GRAFT_LATER and its done. The id that the server gave this request;
 * the same for every plugin in the chain. */
static inline graft_str graft_request_id(const graft_req *req)
{
    return req->host->request_id(req);
}

/* [worker], and [any] between GRAFT_LATER and its done. The pattern of the route that serves this
 * request, "/users/:id"; absent on 404. */
static inline graft_str graft_route_pattern(const graft_req *req)
{
    return req->host->route_pattern(req);
}

/* [worker], and [any] between GRAFT_LATER and its done. Whether the connection is encrypted. */
static inline bool graft_is_tls(const graft_req *req)
{
    return req->host->is_tls(req);
}

/* ---- The response: [worker], all of it; another thread that wants to write uses graft_post() ---
 *
 * Header functions return 0; -1 for a bad name or value (CR, LF, NUL, not a token), after the head
 * has left, and for the fields that framing owns: Connection (except `close`), Transfer-Encoding,
 * Keep-Alive, Upgrade, Trailer. Content-Length is a promise: more is refused (-1), less cuts the
 * connection and blames the plugin.
 *
 * Body functions return 0; 1 = taken, but more than limits.send_bytes waits: stop until
 * graft_on_writable(); -1 = the response is over or the client gone (needs no handling). A length
 * of 0 is allowed, also with NULL, and does nothing. For HEAD, 204 and 304 a body is counted and
 * not sent.
 */

/* [worker] 200..599; 200 unless set. Else -1, and the plugin is blamed with a 500. */
static inline int graft_status(graft_req *req, int code)
{
    return req->host->status(req, code);
}

/* [worker] Replaces every field of that name; both strings are copied. 0 or -1. */
static inline int graft_set_header(graft_req *req, const char *name, const char *value)
{
    return req->host->set_header(req, name, value);
}

/* [worker] Adds a field beside those of that name; both strings are copied. 0 or -1. */
static inline int graft_add_header(graft_req *req, const char *name, const char *value)
{
    return req->host->add_header(req, name, value);
}

/* [worker] Removes every field of that name. 0, also when there was none, or -1. */
static inline int graft_remove_header(graft_req *req, const char *name)
{
    return req->host->remove_header(req, name);
}

/* [worker] Appends a copy of len bytes to the body. 0, 1 or -1. */
static inline int graft_write(graft_req *req, const void *data, size_t len)
{
    return req->host->write(req, data, len);
}

/* [worker] Appends len bytes without copying them. They must live as long as the version: it stays
 * pinned until they are sent. 0, 1 or -1. */
static inline int graft_write_static(graft_req *req, const void *data, size_t len)
{
    return req->host->write_static(req, data, len);
}

/* [worker] Appends formatted text to the body. 0, 1 or -1. */
GRAFT_PRINTF_(2, 3) static inline int graft_printf(graft_req *req, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int rc = req->host->vprintf(req, fmt, args);
    va_end(args);
    return rc;
}

/* [worker] Appends len bytes of the file from offset on. Owns the fd from the call on, also when it
 * fails. 0, 1 or -1. */
static inline int graft_send_file(graft_req *req, int fd, int64_t offset, uint64_t len)
{
    return req->host->send_file(req, fd, offset, len);
}

/* [worker] Send what there is: streaming starts, chunked if no Content-Length was set. on_response
 * of the middlewares runs first, from the worker's own step. 0, 1 or -1. */
static inline int graft_flush(graft_req *req)
{
    return req->host->flush(req);
}

/* [worker] Replaces what has not left with this text, as text/plain. Returns GRAFT_DONE. */
static inline graft_next graft_text(graft_req *req, int code, const char *text)
{
    return req->host->text(req, code, text);
}

/* [worker] Replaces what has not left with these len bytes, as application/json. Returns
 * GRAFT_DONE. */
static inline graft_next graft_json(graft_req *req, int code, const char *json, size_t len)
{
    return req->host->json(req, code, json, len);
}

/* [worker] Replaces what has not left with an application/problem+json (RFC 9457) that carries
 * `detail`. Returns GRAFT_DONE. */
static inline graft_next graft_error(graft_req *req, int code, const char *detail)
{
    return req->host->error(req, code, detail);
}

/* [worker] The status as set so far. */
static inline int graft_response_status(const graft_req *req)
{
    return req->host->response_status(req);
}

/* [worker] The field of that name as set so far; absent when there is none. */
static inline graft_str graft_response_header(const graft_req *req, const char *name)
{
    return req->host->response_header(req, name);
}

/* [worker] The part of the body that has not been sent; absent for files. */
static inline graft_str graft_response_body(graft_req *req)
{
    return req->host->response_body(req);
}

/* [worker] Back to status 200, no headers, no body. 0; -1 after the head has left. */
static inline int graft_reset_response(graft_req *req)
{
    return req->host->reset_response(req);
}

/* [worker] Whether graft_flush() has begun a stream. */
static inline bool graft_streaming(const graft_req *req)
{
    return req->host->streaming(req);
}

/* [worker] Body bytes that have been sent. Stops when the response is over. */
static inline uint64_t graft_response_bytes(const graft_req *req)
{
    return req->host->response_bytes(req);
}

/* [worker] Microseconds since the request began. Stops when the response is over. */
static inline uint64_t graft_elapsed_us(const graft_req *req)
{
    return req->host->elapsed_us(req);
}

/* ---- Work that takes time ----------------------------------------------------------------------
 *
 * A callback that returned GRAFT_LATER owes exactly one graft_done (handler), graft_continue
 * (middleware) or graft_abort, always: also after on_abort, a 504 or a retired version. It is legal
 * from the moment the callback begins, even before it returns. Until then the handle, the arena
 * and the version live, and writes to a response that is over answer -1. A second one, one
 * without GRAFT_LATER, or one kind for the other does nothing but a log line.
 */

/* [any] Ends a GRAFT_LATER handler. 0, or -1 when it was not owed. */
static inline int graft_done(graft_req *req)
{
    return req->host->done(req);
}

/* [any] Resumes after a GRAFT_LATER middleware, with GRAFT_NEXT, GRAFT_DONE or GRAFT_ERROR. 0, or
 * -1 when it was not owed. */
static inline int graft_continue(graft_req *req, graft_next how)
{
    return req->host->resume(req, how);
}

/* [any] Cut the connection: a stream that cannot be finished must not look complete. Counts as
 * graft_done/graft_continue. */
static inline void graft_abort(graft_req *req)
{
    req->host->abort(req);
}

/* [any] The client left or the deadline passed. */
static inline bool graft_gone(const graft_req *req)
{
    return req->host->gone(req);
}

/* [any] Runs fn on the request's worker; posts of one request run in order. 0; -1 no memory: fn
 * will not be called. */
static inline int graft_post(graft_req *req, void (*fn)(graft_req *req, void *arg), void *arg)
{
    return req->host->post(req, fn, arg);
}

/* [worker] Runs work on the pool, then `then` on the request's worker, each exactly once whatever
 * happened to the client. 0; -1 the pool's queue is full: neither will be called. */
static inline int graft_offload(graft_req *req, void (*work)(void *arg),
                                void (*then)(graft_req *req, void *arg), void *arg)
{
    return req->host->offload(req, work, then, arg);
}

/* [worker] Runs fn in ms milliseconds, also when the client is gone by then; dropped when it still
 * waits as done, continue or abort is taken. 0; -1: fn will not be called. */
static inline int graft_after(graft_req *req, unsigned ms, void (*fn)(graft_req *req, void *arg),
                              void *arg)
{
    return req->host->after(req, ms, fn, arg);
}

/* [worker] Replaces timeouts_ms.handler for this request: milliseconds from now until the
 * response's head must be sent; 0 = none. 0 or -1. */
static inline int graft_deadline(graft_req *req, unsigned ms)
{
    return req->host->deadline(req, ms);
}

/* [worker] fn runs at most once, when the server cuts or replaces the response: the client left,
 * any timeout, a broken body, retire, the end of a drain. Never after graft_done was taken. */
static inline void graft_on_abort(graft_req *req, void (*fn)(graft_req *req, void *arg), void *arg)
{
    req->host->on_abort(req, fn, arg);
}

/* [worker] For GRAFT_STREAM routes: fn gets the body as it arrives. `chunk` lives for the call;
 * `last` is true exactly once, unless the request is aborted (who waits for a body also sets
 * graft_on_abort). Registered late it gets what has arrived. */
static inline void graft_on_body(graft_req *req,
                                 void (*fn)(graft_req *req, graft_str chunk, bool last, void *arg),
                                 void *arg)
{
    req->host->on_body(req, fn, arg);
}

/* [worker] Stop reading the body from the socket. */
static inline void graft_body_pause(graft_req *req)
{
    req->host->body_pause(req);
}

/* [worker] Go on reading it. */
static inline void graft_body_resume(graft_req *req)
{
    req->host->body_resume(req);
}

/* [worker] fn runs when there is room again after a body function returned 1, and once more when
 * the response is cut (writes then answer -1). */
static inline void graft_on_writable(graft_req *req, void (*fn)(graft_req *req, void *arg),
                                     void *arg)
{
    req->host->on_writable(req, fn, arg);
}

/* [worker] Response bytes that are not yet in the kernel. */
static inline size_t graft_pending(const graft_req *req)
{
    return req->host->pending(req);
}

/* [worker] Memory that is freed with the request, aligned for any type; NULL when there is none. */
static inline void *graft_alloc(graft_req *req, size_t size)
{
    return req->host->alloc(req, size);
}

/* [worker] This plugin's scratch_size bytes in this request, zeroed when the request began; NULL
 * when scratch_size is 0. */
static inline void *graft_scratch(graft_req *req)
{
    return req->host->scratch(req);
}

/* ---- The plugin itself --------------------------------------------------------------------- */

/* [any] This plugin's "config" object as JSON text; "{}" when there is none. Lives as long as the
 * version. */
static inline graft_str graft_config(graft_self *self)
{
    return self->host->config(self);
}

/* [any] One string of that object, NUL-terminated; fallback when the key is absent or of another
 * type. Lives as long as the version. */
static inline const char *graft_config_str(graft_self *self, const char *key, const char *fallback)
{
    return self->host->config_str(self, key, fallback);
}

/* [any] One integer of that object; fallback when the key is absent or of another type. */
static inline int64_t graft_config_int(graft_self *self, const char *key, int64_t fallback)
{
    return self->host->config_int(self, key, fallback);
}

/* [any] One boolean of that object; fallback when the key is absent or of another type. */
static inline bool graft_config_bool(graft_self *self, const char *key, bool fallback)
{
    return self->host->config_bool(self, key, fallback);
}

/* [loader], and inside worker_init and health. Records why (per thread); say what, expected, found,
 * next step. Returns -1, for `return graft_fail(self, …)`. */
GRAFT_PRINTF_(2, 3) static inline int graft_fail(graft_self *self, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int rc = self->host->vfail(self, fmt, args);
    va_end(args);
    return rc;
}

/* [worker] Records why in the request. Returns GRAFT_ERROR, for `return graft_fail_req(req, …)`. */
GRAFT_PRINTF_(2, 3) static inline graft_next graft_fail_req(graft_req *req, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    graft_next next = req->host->vfail_req(req, fmt, args);
    va_end(args);
    return next;
}

/* [any] One line in the server's log, with the plugin's name and version. Never waits. */
GRAFT_PRINTF_(3, 4) static inline void graft_log(graft_self *self, int level, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    self->host->vlog(self, level, fmt, args);
    va_end(args);
}

/* [any] The version that this handle belongs to. */
static inline graft_self *graft_self_of(graft_req *req)
{
    return req->host->self_of(req);
}

/* [worker] This worker's number, 0 to graft_workers() - 1. Elsewhere it is misuse and UINT_MAX. */
static inline unsigned graft_worker(graft_self *self)
{
    return self->host->worker(self);
}

/* [any] How many workers there are: to shard state without locks. */
static inline unsigned graft_workers(graft_self *self)
{
    return self->host->workers(self);
}

/* [worker] This worker's loop, for libraries that speak libevent. What is added to it in
 * worker_init must be gone when worker_fini returns. */
static inline struct event_base *graft_loop(graft_self *self)
{
    return self->host->loop(self);
}

/* [any] No new requests come here: long streams may want to end. */
static inline bool graft_cooling(graft_self *self)
{
    return self->host->cooling(self);
}

/* [loader] Runs fn(state) on the pool every ms milliseconds, never twice at once, only between
 * start and cool. 0 or -1. */
static inline int graft_every(graft_self *self, unsigned ms, void (*fn)(void *state), void *state)
{
    return self->host->every(self, ms, fn, state);
}

/* [loader] A counter in /metrics, graft_plugin_<plugin>_<name>, '-' as '_'. Kept by the plugin's
 * name: no swap resets it. NULL for a bad name or without memory; graft_add() takes NULL. */
static inline graft_metric *graft_counter(graft_self *self, const char *name, const char *help)
{
    return self->host->counter(self, name, help);
}

/* [worker] [pool] Adds n; no cache line is shared between workers. */
static inline void graft_add(graft_metric *metric, uint64_t n)
{
    if (metric)
        metric->host->add(metric, n);
}

/* ---- Minor 1: handing state to the next version --------------------------------------------- */

#if GRAFT_NEEDS >= 1

/* [loader] In init only (elsewhere: misuse, NULL). A block of memory that the server owns: 64-byte
 * aligned, zeroed when it is first asked for (*fresh says so; fresh may be NULL). The same memory
 * for every later version of this plugin that asks for the same name, size and schema, also while
 * two versions run side by side, and after a crash of the server process: so no pointers and no
 * locks in it; C11 atomics in it lose nothing in a swap. Another size or schema gives a new block.
 * The name: letters, digits, '_', '-' and '.', at most 64. NULL: no memory (or a limit: 64 blocks,
 * 1 GiB in all; the log tells). It is the server's to free. */
static inline void *graft_shared(graft_self *self, const char *name, size_t size, uint32_t schema,
                                 bool *fresh)
{
    return self->host->shared(self, name, size, schema, fresh);
}

/* [loader] The block of that name that a new one (of another size or schema) takes the place of, to
 * be read until this version has been promoted; then, and when there is none, NULL. What it pointed
 * to stays mapped as long as this version is loaded. size and schema may be NULL. */
static inline const void *graft_shared_old(graft_self *self, const char *name, size_t *size,
                                           uint32_t *schema)
{
    return self->host->shared_old(self, name, size, schema);
}

/* [loader] In export_state: appends a copy. 0, or -1: no memory, or more than 1 GiB in all. */
static inline int graft_buf_add(graft_buf *buf, const void *data, size_t len)
{
    return buf->host->buf_add(buf, data, len);
}

#endif

/* Wrappers of later minors come here, each in `#if GRAFT_NEEDS >= n`. */

#ifdef __cplusplus
}
#endif

/* ---- The entry symbol ---------------------------------------------------------------------- */

/*
 * GRAFT_PLUGIN(.name = "hello", .version = "1.0.0", .routes = …) at the end of one source file,
 * without a semicolon. In C++ the route table is a named array (there are no compound literals) and
 * the members follow the order of struct graft_plugin.
 */
#define GRAFT_PLUGIN(...)                                                                          \
    GRAFT_QUIET_                                                                                   \
    GRAFT_EXTERN_C_ GRAFT_EXPORT_ const graft_plugin graft_plugin_v1;                              \
    const graft_plugin graft_plugin_v1 = { .size = sizeof(graft_plugin),                           \
                                           .needs = GRAFT_NEEDS,                                   \
                                           .route_size = sizeof(graft_route),                      \
                                           __VA_ARGS__ };                                          \
    GRAFT_LOUD_

#ifdef __cplusplus
#define GRAFT_EXTERN_C_ extern "C"
#else
#define GRAFT_EXTERN_C_ extern
#endif

/* Members that are left out are zero on purpose, and GNU designated initialisers are what C++17
 * has. */
#if defined(__clang__)
#define GRAFT_QUIET_                                                                               \
    _Pragma("clang diagnostic push")                                                               \
        _Pragma("clang diagnostic ignored \"-Wmissing-field-initializers\"") GRAFT_QUIET_CXX_
#define GRAFT_LOUD_ _Pragma("clang diagnostic pop")
#ifdef __cplusplus
#define GRAFT_QUIET_CXX_                                                                           \
    _Pragma("clang diagnostic ignored \"-Wunknown-warning-option\"")                               \
        _Pragma("clang diagnostic ignored \"-Wc++20-designator\"")                                 \
            _Pragma("clang diagnostic ignored \"-Wc++20-extensions\"")                             \
                _Pragma("clang diagnostic ignored \"-Wc99-designator\"")
#else
#define GRAFT_QUIET_CXX_
#endif
#elif defined(__GNUC__)
#define GRAFT_QUIET_                                                                               \
    _Pragma("GCC diagnostic push")                                                                 \
        _Pragma("GCC diagnostic ignored \"-Wmissing-field-initializers\"") GRAFT_QUIET_CXX_
#if defined(__cplusplus) && __GNUC__ >= 12
#define GRAFT_QUIET_CXX_ _Pragma("GCC diagnostic ignored \"-Wc++20-extensions\"")
#elif defined(__cplusplus)
#define GRAFT_QUIET_CXX_ _Pragma("GCC diagnostic ignored \"-Wpedantic\"")
#else
#define GRAFT_QUIET_CXX_
#endif
#define GRAFT_LOUD_ _Pragma("GCC diagnostic pop")
#else
#define GRAFT_QUIET_
#define GRAFT_LOUD_
#endif

#endif /* GRAFT_GRAFT_H */
