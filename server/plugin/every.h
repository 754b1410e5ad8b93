/*
 * graft_every: functions of a version that run on the pool again and again, one run of each at a
 * time, only between start and cool. The timers are the control thread's.
 */
#ifndef GRAFT_PLUGIN_EVERY_H
#define GRAFT_PLUGIN_EVERY_H

#include "base/pool.h"
#include "plugin/version.h"

/* Once. */
void every_init(struct event_base *base, struct inbox *control, struct pool *pool);

/* What graft_every does. 0, or -1: ms is 0, the version cools, or no memory. [loader, in a callback
   of that version] */
int every_add(struct version *v, unsigned ms, void (*fn)(void *state), void *state);

/* [control] Begins; harmless again. */
void every_start(struct version *v);
/* [control] No run begins from now on; `done` when none is left on the pool, perhaps at once. */
void every_stop(struct version *v, void (*done)(struct version *v));
/* [control] What every_stop was called for is not to be: `done` will not come. */
void every_go_on(struct version *v);
/* [control] Another callback of the version begins and ends outside of the control thread; it counts
   as a run. */
void every_borrow(struct version *v);
void every_returned(struct version *v);
/* [control] Frees what is stopped. */
void every_free(struct version *v);

#endif
