/*
 * Running a request's chain: on_request, handler, on_response, on_finish, and all that a plugin may
 * do in between. One struct chain for each worker; the worker's thread alone uses it.
 */
#ifndef GRAFT_PLUGIN_CHAIN_H
#define GRAFT_PLUGIN_CHAIN_H

#include "base/config.h"
#include "base/err.h"
#include "base/pool.h"
#include "http/session.h"
#include "net/loop.h"
#include "plugin/canary.h"
#include "plugin/shadows.h"
#include "plugin/version.h"

#define HANDLES_REST 4096 /* a handle of a LATER request rests behind at least so many others */

struct chain {
    struct loop *loop;
    struct http *http;
    struct pool *pool;
    unsigned nworkers;
    const struct config *fallback; /* before the first generation */
    struct list ready;             /* exchanges with something marked */
    struct list later;             /* the same, in the next turn of the loop */
    struct msg later_msg;          /* brings it: a timer would need memory */
    bool later_sent;
    struct list live; /* that have not finished */
    struct list free;
    unsigned nfree;
    struct list handles; /* free, last in first out */
    struct list resting; /* freed after LATER, first in first out */
    unsigned nresting;
    uint64_t id_seed[2], id_next;
    struct canary_dice dice;
    struct shadows shadows;
};

extern const struct http_app chain_app; /* its arg is a struct chain */

int chain_init(struct chain *c, struct loop *loop, struct http *http, struct pool *pool,
               unsigned nworkers, const struct config *fallback, struct err *err);
/* In the loop's step: exchanges with something marked. True: something was done. */
bool chain_step(struct chain *c);
void chain_expired(struct wheel_timer *t, uint64_t now_ms); /* of kind TIMER_EXCHANGE */

/* For struct swap_deps. */
void chain_host_init(struct version *v);
void chain_cut_version(struct version *v, struct loop *l);
void chain_resume(struct loop *l); /* opens what loop->held has, on this worker's generation */

/* The drain has closed the listeners: graft_cooling() is true for every version from now on. Any
   thread. */
void chain_set_cooling(void);

#endif
