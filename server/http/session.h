/*
 * HTTP/1.x on one connection: reading heads and bodies, one response at a time in the order of the
 * requests, keep-alive, timeouts, refusals, the end. One worker owns it.
 *
 *   IDLE (no request, no byte) -> HEAD (bytes of one) -> REQUEST -> IDLE ...
 *
 * What a request means is asked of the http_app above; it is called from the loop's events and may
 * call back everything here.
 */
#ifndef GRAFT_HTTP_SESSION_H
#define GRAFT_HTTP_SESSION_H

#include "base/config.h"
#include "http/guard.h"
#include "http/request.h"
#include "net/conn.h"

struct http_app {
    struct request *(*open)(void *arg);          /* a reset request, or NULL: no memory */
    void (*close)(void *arg, struct request *r); /* one that never reached `head` */
    void (*head)(struct request *r);             /* its head is in: choose, start */
    void (*body_piece)(struct request *r, struct str piece);
    void (*body_in)(struct request *r); /* body_complete just became true */
    /* The body can go no further: 400, 408, 413, 431, or 0 when the client left. */
    void (*body_broken)(struct request *r, unsigned status, const char *why);
    void (*sent)(struct request *r); /* some output left; response_pending() says what remains */
    void (*over)(struct request *r); /* the response is in the kernel; session is NULL */
    void (*cut)(struct request *r, const char *why); /* will never be; session is NULL */
    void (*gone)(struct request *r); /* the client's FIN: cut, unless the response is done */
    /* The configuration in force for this worker: asked for when the loop's config_number has
       changed. */
    const struct config *(*config)(void *arg);
};

/* All sessions of one worker and what they share. */
struct http {
    struct conns conns;
    const struct http_app *app;
    void *arg;
    struct head_parser *parser;
    unsigned config_number; /* of the configuration that the settings below were taken from */
    bool log_access;
    struct guard_limits guard;
    struct config_limits limits;
    struct config_timeouts timeouts_ms;
    char lines[350]; /* "Server: graft\r\n" or "", then "Date: ...\r\n", anew each second */
    size_t server_len;
    uint64_t date_s;
    char *scratch; /* input of the session in hand */
    struct session *scratch_of;
    size_t scratch_at, scratch_len;
    struct list resume;   /* sessions whose leftover input is to be looked at in the step */
    struct list later;    /* the same, in the next turn of the loop */
    struct msg later_msg; /* brings it: a timer would need memory */
    bool later_sent;
    struct session *spare; /* for the next connection: made before it is accepted */
    uint64_t now_us;       /* of the event in hand */
    bool closing;          /* a drain: the last answer of a connection carries Connection: close */
    bool idle_over;        /* later in it: who has sent nothing is not waited for any more */
    unsigned refused_logged;
    uint64_t refused_second;
};

#define SESSION_MAGIC     0x73657373u
#define HTTP_SCRATCH      65536u
#define SESSION_INPUT_MAX 65536u /* unread input kept while a request is answered */

struct session {
    struct conn conn;
    unsigned magic;
    uint16_t answered; /* in this turn of the loop */
    bool eof;          /* the client's FIN was read */
    bool busy;         /* session_input is on the stack */
    bool flushing;     /* response_send is on the stack: it reports by its result */
    bool in_head;      /* bytes of a head are there: its deadline runs */
    bool known_idle;   /* it was here when the drain, or the last http_make_room, looked */
    int untaken;       /* bytes in the kernel when the write deadline began */
    struct http *http;
    struct request *request; /* the one whose response is being made */
    struct guard guard;
    struct buf in; /* only while a head or a body is unfinished, or input waits */
    size_t in_at;  /* consumed of it */
    size_t owed;   /* while closing: input that was here in time; its requests are answered */
    struct list resume;
    size_t owed_seen; /* at the last look of http_is_quiet */
    unsigned looks;   /* since then, at a body that nobody took of */
};

int http_init(struct http *h, struct loop *loop, const struct http_app *app, void *arg,
              struct err *err);
/* In the loop's step: leftover input, closed sessions. True: something was done. */
bool http_step(struct http *h);
void http_reap(struct http *h);

/* Before a connection is accepted: -1 when there is no memory for one. */
int session_prepare(struct http *h);
/* A fresh connection, after session_prepare; fd becomes the session's. -1: it had to be closed, for
   the kernel or libevent has no room to watch it. */
int session_open(struct http *h, int fd, const struct sockaddr *peer);

/* ---- For the layer above --------------------------------------------------------------------- */

/* The body is wanted; pieces come from the step on. BODY_BUFFERED: 100 is sent if the client waits
   for it; BODY_STREAMED: when request_continue says that somebody takes the pieces. */
void request_want_body(struct request *r, enum body_mode mode);
void request_continue(struct request *r);
void request_pause_body(struct request *r, bool pause);

/* Sends what there is. Not `final`: streaming starts with the first call. `final`: the response is
   complete. RESPONSE_OVER: it is all in the kernel and `session` is NULL (http_app.over is not
   called); RESPONSE_ON_ITS_WAY: over follows, or sent, when it has left; RESPONSE_IMPOSSIBLE and
   why: a promise of Content-Length that was not kept, or no memory: the caller cuts;
   RESPONSE_BROKEN: the connection failed and is closed, `session` is NULL (cut is not called). */
enum response_result { RESPONSE_OVER, RESPONSE_ON_ITS_WAY, RESPONSE_IMPOSSIBLE, RESPONSE_BROKEN };
enum response_result response_send(struct request *r, bool final, const char **why);
/* Bytes of this response that are not in the kernel. */
static inline uint64_t response_pending(const struct request *r)
{
    return r->response.body.bytes + (r->session ? r->session->conn.out.bytes : 0);
}

/* Ends the connection without finishing the response; http_app.cut is not called. */
COLD void request_cut(struct request *r);
/* What nobody will read of the body: from now on its bytes are dropped. */
void request_discard_body(struct request *r);

/* ---- Drain ----------------------------------------------------------------------------------- */

void http_set_closing(struct http *h);
/* Sessions without a request and without unread input end: shut for writing, read to the end. */
void http_close_idle(struct http *h);
/* The same while a drain still accepts, for want of descriptors, and only for those that were here
   at the last look: called every idle_ms, each has had that long. */
void http_make_room(struct http *h);
/* After that, again and again: will no request begin any more? What may stand behind a body that
   nobody takes for STILL_LOOKS looks is given up: its handler may wait for this very answer. */
#define STILL_LOOKS 25u
bool http_is_quiet(struct http *h);
void http_close_all(struct http *h); /* whatever they do */

#endif
