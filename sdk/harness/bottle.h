/*
 * The harness's own: a server in a bottle. The engine is the server's (server/http, server/plugin
 * and what they stand on, compiled again with rename.h); the files here stand in for sockets,
 * clock, libevent's loop, pool, log and swaps. One bottle to a process, on one thread, which plays
 * control, loader, worker and pool in turn (play.c).
 */
#ifndef GRAFT_HARNESS_BOTTLE_H
#define GRAFT_HARNESS_BOTTLE_H

#include "rename.h"

#include "base/config.h"
#include "base/inbox.h"
#include "http/session.h"
#include "net/loop.h"
#include "plugin/chain.h"
#include "plugin/version.h"

#include <graft/harness.h>

/* ---- play.c: who this thread is, and the turn of all loops ------------------------------------
 */

struct worker {
    struct loop loop; /* first */
    struct http http;
    struct chain chain;
};

extern struct bottle {
    bool open;
    unsigned nworkers, next_worker;
    struct worker **workers;
    struct loop **loops;
    struct inbox control;
    struct pool *pool;
    char *settings; /* graft.json's text */
    struct config *fallback;
} bottle;

/* Makes the workers, once; whatever the test calls first. */
void bottle_open(void);
/* `text` on one line of comment, cut when it is long; NULL: absent. */
void tap_comment(const char *name, const char *text, size_t len);
void tap_open(void); /* from now on the program is to end with graft_test_end() */
/* Refuses a call of the harness from inside a plugin's callback. */
void bottle_enter(const char *function);

enum role_on { ON_TEST, ON_CONTROL_THREAD, ON_LOADER_THREAD, ON_WORKER_THREAD, ON_POOL_THREAD };
struct played {
    enum thread_kind kind;
    unsigned slot;
    struct loop *loop;
};
/* This thread is another one from now on; `number`: which worker. What it was is given back. */
struct played play(enum role_on who, unsigned number);
void play_again(struct played was);

/* All that can happen without time passing. */
void settle(void);

/* ---- events.c: libevent on a clock of ours ----------------------------------------------------
 */

bool events_turn(void);            /* one look at all; true: something was done */
bool events_next(uint64_t *at_us); /* when the earliest timer is due; false: there is none */
uint64_t bottle_now_us(void);      /* since the beginning */
void bottle_clock_set(uint64_t at_us);
struct event_base *control_base(void); /* a name for the control thread's loop */

/* ---- client.c: connections --------------------------------------------------------------------
 */

struct graft_test_req {
    struct list node;
    struct worker *worker;
    struct conn *conn; /* NULL: the server has closed it */
    struct buf in;     /* what the client has sent, not read yet */
    struct buf out;    /* what it got */
    size_t window;     /* bytes that it still takes */
    bool fin, reset, chunked, is_head;
    struct answer *answer; /* what answer.c makes of `out` */
};
extern struct list clients;
graft_test_req *client_new(size_t window);
/* Refuses what is no request, or one that graft_test_forget() has freed. */
void client_check(const graft_test_req *r, const char *function);
bool clients_turn(void); /* input, leaving, room: true when something was done */

/* answer.c */
void answer_free(struct answer *a);

/* ---- pool.c ---------------------------------------------------------------------------------- */

bool pool_turn(void);
void pool_make(unsigned queue);

/* ---- plugins.c, swap.c ------------------------------------------------------------------------
 */

void plugins_turn(void); /* the end of versions whose last request is over */
void plugins_end(void);

/* ---- blame.c: log, misuse, crashes -------------------------------------------------------------
 */

void blame_open(void);
/* A failed check without a test of its own, for what no check looks at. */
void blame(const char *fmt, ...) PRINTF_LIKE(1, 2);
void blame_tell(void); /* what the log told of misuse: failed checks */
void blame_end(void);
/* What runs: "handler of GET /x of plugin hello 1.0.0"; false: no plugin's code. */
bool blame_running(char *out, size_t size);

/* tap.c */
void tap_line(bool held, const char *what);

_Noreturn void give_up(const char *fmt, ...) PRINTF_LIKE(1, 2);

#endif
