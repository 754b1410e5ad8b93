/* What one turn of a worker's loop is made of, also in the SDK's harness. [worker] */
#ifndef GRAFT_RUN_TURN_H
#define GRAFT_RUN_TURN_H

#include "http/session.h"
#include "plugin/chain.h"

/* At the end of a turn: until neither callbacks nor connections have anything left to do. */
static inline void turn_step(struct chain *chain, struct http *http)
{
    bool more;
    do {
        more = chain_step(chain);
        more = http_step(http) || more;
    } while (more);
    http_reap(http);
}

/* A timer of the worker's wheel is due. */
static inline void turn_expired(struct wheel_timer *t, uint64_t now_ms)
{
    if (t->kind == TIMER_EXCHANGE)
        chain_expired(t, now_ms);
    else
        conn_expired(t, now_ms);
}

#endif
