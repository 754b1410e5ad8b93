/*
 * Callbacks that a plugin asked for: graft_post, graft_offload, graft_after. Each runs exactly once
 * on the request's worker (an `after` that waits when its plugin answers is dropped instead), in
 * order, when no plugin frame is on the stack and, for GRAFT_SERIAL, in the plugin's turn.
 */
#ifndef GRAFT_PLUGIN_WORK_H
#define GRAFT_PLUGIN_WORK_H

#include "plugin/exchange.h"

/* 0, or -1: nothing will be called. */
int work_post(struct handle *h, void (*fn)(graft_req *, void *), void *arg); /* [any] */
int work_offload(struct handle *h, void (*work)(void *), void (*then)(graft_req *, void *),
                 void *arg);
int work_after(struct handle *h, unsigned ms, void (*fn)(graft_req *, void *), void *arg);

/* Runs what is due. */
void work_run(struct handle *h);
/* Timers that have not fired are dropped: the plugin has answered. */
void work_drop_timers(struct handle *h);
/* "offload", "timer", "post" or NULL: what a handle waits for. */
const char *work_waits_for(const struct handle *h);

#endif
