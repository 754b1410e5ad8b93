/*
 * A request in the hands of plugins: its chain, one handle for each plugin in it, where it stands.
 * Shared by the files of the chain (chain.c, chain_body.c, handle.c, work.c, suspended.c, host*.c);
 * nobody else includes it. All of it is its worker's alone, but for what says otherwise.
 *
 *   chain:     RUN -> (LATER | BODY | PARKED) -> RUN ... -> ENDED     on_request, handler
 *   response:  BEFORE -> ON_RESPONSE <-> WAITING -> OPEN -> SEALED    on_response, sending
 *   over:      the response is in the kernel or was cut; the connection has gone on
 *   finishing: nothing is owed and nothing runs: on_finish, then pins drop and it is pooled
 */
#ifndef GRAFT_PLUGIN_EXCHANGE_H
#define GRAFT_PLUGIN_EXCHANGE_H

#include "http/session.h"
#include "plugin/chain.h"
#include "plugin/generation.h"
#include "plugin/serial.h"
#include "plugin/version.h"

#include <stdatomic.h>

#define REQUEST_ID_LEN 32

/* A handle owes at most one answer in each role. */
enum role { AS_HANDLER, AS_MIDDLEWARE, ROLES };

/* The low byte of handle.owed; above it, once TAKEN, what was answered and by whom. */
enum {
    OWED_NOTHING = 0,
    OWED_OPEN = 1,  /* the callback has begun, or returned LATER: an answer is accepted */
    OWED_TAKEN = 2, /* it was given, and its consequences have not been drawn */
    OWED_STATE = 0xff,
    OWED_HOW_SHIFT = 8, /* a graft_next, or HOW_ABORT */
    OWED_HOW_MASK = 0xff00,
    OWED_FOREIGN = 1 << 16 /* given off the worker: a message is on its way */
};
#define HOW_ABORT 0x7fu

#define HANDLE_MAGIC 0x68616e64u

struct handle {
    graft_req pub; /* .host: the version's table */
    unsigned magic;
    struct chain *chain; /* its worker's, for good */
    struct exchange *x;  /* NULL once the request is over */
    struct version *version;
    const char *route; /* interned; kept after the end, for naming a late call */

    _Atomic uint32_t owed[ROLES]; /* [any] */
    struct msg answer[ROLES];     /* carries an answer that was given off the worker */
    bool stray[ROLES];            /* the answer was not owed; its message is still awaited */
    _Atomic uint32_t posts;       /* [any] posts that have not run */
    _Atomic bool gone;            /* [any] what graft_gone says */

    uint32_t offloads;    /* of `outstanding`: on the pool or on their way back */
    uint32_t outstanding; /* offloads, waiting timers, tasks, strays, a place in a serial queue */
    struct list node;     /* version_cell.suspended, or a pool */
    struct list tasks;    /* work.c: callbacks that are due, in order */
    struct list timers;   /* work.c: graft_after that have not fired */
    struct serial_waiter waiter;
    struct msg granted;
    bool parked, has_turn; /* waits for the plugin's turn; was granted it and has not used it */
    bool was_later;
    bool suspended;

    void (*on_abort)(graft_req *, void *);
    void *on_abort_arg;
    void (*on_writable)(graft_req *, void *);
    void *on_writable_arg;
    bool abort_due, aborted, writable_due, blocked;
    void *scratch;
};

enum chain_state { CHAIN_RUN, CHAIN_LATER, CHAIN_BODY, CHAIN_PARKED, CHAIN_HELD, CHAIN_ENDED };
enum response_state {
    RESPONSE_BEFORE,
    RESPONSE_ON_RESPONSE,
    RESPONSE_WAITING, /* an on_response is LATER */
    RESPONSE_OPEN,    /* the head may leave, or has left */
    RESPONSE_SEALED   /* complete: given to the session as such */
};

/* What few requests have that others do without, and what is to be done about it at their end. */
enum {
    ASIDE_LOG = 1,   /* an access line */
    ASIDE_TAP = 2,   /* its answer may be compared with a canary's: exchange.tap */
    ASIDE_SHADOW = 4 /* it is a copy, tried on a canary: exchange.shadow; it has no session */
};
struct tap;
struct shadow;

#define EXCHANGE_MAGIC 0x65786368u

struct exchange {
    _Alignas(CACHE_LINE) struct request request; /* first: the http layer's half */
    unsigned magic;
    struct chain *chain;
    struct list node;  /* chain->live or ->free */
    struct list ready; /* chain->ready */

    unsigned nlinks, nhandles;
    unsigned at;     /* the link that runs or is next */
    unsigned called; /* links whose on_request was called (or that have none): from the front */
    unsigned resp_at, finish_at; /* one more than the link whose turn is next, going outwards */
    struct link links[CHAIN_MAX];
    struct handle *by_link[CHAIN_MAX]; /* a plugin that stands twice has one handle */
    struct handle *handles[CHAIN_MAX];
    const char *pattern; /* interned; NULL: no route */
    unsigned route_status;
    struct router_param_ref params[ROUTER_MAX_PARAMS];
    struct str param_values[ROUTER_MAX_PARAMS];
    unsigned nparams;

    enum chain_state state;
    enum response_state response_state;
    bool answered;       /* a handle was answered on this thread: take_answers has work */
    bool running, again; /* exchange_run is on the stack; something was marked meanwhile */
    bool need_body;      /* a middleware asked for all of it */
    bool flush;          /* asked for and not done */
    bool told;           /* on_writable was called since exchange_run began */
    bool replaced;       /* the server answers by itself: plugins that owe cannot write */
    bool over, cut, finishing, counted;
    uint8_t aside;          /* ASIDE_ */
    _Atomic bool prepared;  /* [any] what other threads read is in place (suspended.c) */
    unsigned answer_status; /* the server's own answer that is due; 0 none */
    const char *answer_why;
    const char *cut_why;       /* the connection is to be cut */
    struct handle *responding; /* whose on_response runs */
    const char *fail_text;     /* graft_fail_req's, in the arena */

    struct handle *body_of; /* who registered on_body */
    void (*on_body)(graft_req *, graft_str, bool, void *);
    void *on_body_arg;
    struct buf backlog; /* pieces that nobody has taken yet */
    bool body_user_pause, body_backlog_pause, body_last;

    struct wheel_timer deadline;
    bool user_deadline;
    uint64_t user_deadline_ms; /* clock_ms(); 0: none at all */
    bool timed_out;

    struct str allow;      /* for 405 */
    struct header *joined; /* fields that came several times, once `prepared`; in the arena */
    unsigned njoined;
    uint64_t over_us, bytes_out;
    struct tap *tap; /* NULL: its answer has not begun */
    struct shadow *shadow;
    const char *waits_for;
    char id[REQUEST_ID_LEN + 1]; /* "" until asked for */
    struct peer from;            /* copied: the connection may be gone when the request ends */
    char peer[ADDR_TEXT_MAX];
    size_t peer_len;
};

static inline struct exchange *exchange_of(struct request *r)
{
    struct exchange *x = container_of(r, struct exchange, request);
    HOT_CHECK(x, EXCHANGE_MAGIC);
    return x;
}

static inline void end_chain(struct exchange *x)
{
    x->state = CHAIN_ENDED;
}

/* chain_shadow.c: the same of a shadow, whose time is measured. */
NOINLINE void shadow_run(struct exchange *x);

/* chain.c */
void exchange_run(struct exchange *x);
/* The same from an event that was not the socket's: with the time of now. */
static inline void exchange_run_now(struct exchange *x)
{
    if (UNLIKELY(x->aside & ASIDE_SHADOW)) {
        shadow_run(x);
        return;
    }
    x->chain->http->now_us = loop_clock_us(x->chain->loop);
    exchange_run(x);
}
/* Something was marked: exchange_run will look at it, soon, with no plugin frame on the stack. */
void exchange_wake(struct exchange *x);
void exchange_answer(struct exchange *x, unsigned status, const char *why); /* the server's own */

/* chain_open.c */
struct exchange *exchange_new(struct chain *c); /* NULL: no memory; its request is reset */
void exchange_close(struct exchange *x);        /* back to the pool, never run */
void exchange_reset(struct exchange *x);
void exchange_choose(struct exchange *x); /* route and chain by this worker's generation */

/* chain_request.c */
void exchange_run_chain(struct exchange *x);
/* Calls a handler or middleware function in its role; what it answered, or GRAFT_LATER when the
   answer is still owed. An abort has been marked. */
unsigned exchange_call(struct exchange *x, struct handle *h, enum role role, graft_handler *fn,
                       const char *where);
graft_next exchange_checked(struct handle *h, const char *where, unsigned next);
COLD void exchange_fail(struct exchange *x, struct handle *h,
                        const char *where); /* 500, or a cut */
/* An answer of a LATER handler or middleware was taken; `how` as it was given. */
void exchange_answered(struct exchange *x, struct handle *h, enum role role, unsigned how);
void exchange_take_answers(struct exchange *x); /* those that were given on this thread */

/* chain_response.c */
void exchange_run_response(struct exchange *x);
void exchange_response_result(struct exchange *x, struct handle *h, unsigned next);
COLD void exchange_answer_now(struct exchange *x); /* what exchange_answer has marked */

/* chain_end.c */
void exchange_response_over(struct exchange *x);             /* it is in the kernel */
COLD void exchange_cut(struct exchange *x, const char *why); /* over, unfinished; session is gone */
COLD void exchange_cut_now(struct exchange *x);              /* what cut_why has marked */
bool exchange_wants_abort(const struct exchange *x, const struct handle *h);
bool exchange_is_quiet(const struct exchange *x); /* nothing is owed, nothing runs */
bool exchange_finish(struct exchange *x); /* on_finish; false: a GRAFT_SERIAL plugin is busy */
void exchange_release(struct exchange *x);
void exchange_put_back(struct exchange *x);       /* the same, of one that was not counted in */
COLD void exchange_end_aside(struct exchange *x); /* the same, with what `aside` says */
const char *exchange_waits_for(const struct exchange *x);
struct handle *exchange_culprit(const struct exchange *x); /* where the chain stands; or NULL */
COLD void exchange_log(struct exchange *x, struct handle *h, enum log_level level,
                       const char *event, const char *why);
void exchange_log_access(struct exchange *x);

/* host_response.c */
bool exchange_is_writable(const struct exchange *x, const struct handle *h);

/* chain_body.c */
void exchange_ask_body(struct exchange *x);
void exchange_body_piece(struct exchange *x, struct str piece);
void exchange_run_body(struct exchange *x);
void exchange_body_pause(struct exchange *x, bool pause);
bool exchange_body_ready(struct exchange *x); /* the whole body is in; else it is asked for */

#endif
