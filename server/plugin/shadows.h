/*
 * A worker's shadows: copies of requests, tried on a canary when the client has had its answer from
 * the stable version. What the rest of the server needs to know of them; how they are made and run:
 * chain_shadow.h. The worker's thread alone.
 */
#ifndef GRAFT_PLUGIN_SHADOWS_H
#define GRAFT_PLUGIN_SHADOWS_H

#include "base/inbox.h"
#include "base/list.h"

#include <event2/event_struct.h>

struct loop;
struct version;

#define SHADOWS_MAX 16 /* of a worker, at once */
#define SHADOWS_HELD                                                                               \
    (4u * 1024 * 1024) /* bytes of clients' answers kept for comparing, at once                    \
                        */
/* What graft_header finds in a shadow, and in nothing that a client can send: no field's name
   begins with a colon. */
#define SHADOW_FIELD ":shadow"

struct shadows {
    struct loop *loop;
    struct list waiting; /* exchange.node: not begun */
    struct list live;
    unsigned n, nlive; /* both; those of `live` that have begun */
    unsigned allowed;  /* of nlive: 1 at first and behind one that took long, then twice as many */
    struct msg turn;   /* begins one of them: at most one in a turn of the loop */
    struct event rest; /* while it is pending none begins */
    bool turn_sent, resting, stopped;
    uint64_t rest_until_us, window, spent_us; /* of the worker's time, in this window */
    uint64_t held;                            /* bytes of answers in progress */
    unsigned files;                           /* descriptors of files in them */
    unsigned logged;
    uint64_t logged_second;
};

void shadows_init(struct shadows *s, struct loop *l);
/* The version is to go, or to stand still: what shadows use it here are ended at once. */
void shadows_leave(struct loop *l, const struct version *v);
/* A drain: all are ended, and no more are made. */
void shadows_stop(struct shadows *s);

#endif
