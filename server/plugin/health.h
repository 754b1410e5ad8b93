/*
 * What plugins say of themselves: each `health` callback runs on the pool when /readyz is asked, at
 * most once a second, and only of versions that serve and do not cool. Of one plugin only one runs
 * at a time, so that a plugin that hangs holds one thread of the pool, however often it is
 * replaced. Nobody waits for one: the answer is what was said last, or that it is overdue. Control
 * thread.
 */
#ifndef GRAFT_PLUGIN_HEALTH_H
#define GRAFT_PLUGIN_HEALTH_H

#include "base/buf.h"
#include "base/pool.h"
#include "plugin/version.h"

/* Once. */
void health_init(struct inbox *control, struct pool *pool);

/* Asks those versions that have a health callback and were not asked within the last second. */
void health_ask(struct version *const *versions, unsigned n);

/* True: all said that they are well, or have not answered for the first time yet. Else a line for
   each into `why`; one whose callback has not returned within limit_ms, has not begun within that
   time, or waits for that of the version before, is told as such. */
bool health_is_well(struct version *const *versions, unsigned n, unsigned limit_ms,
                    struct buf *why);

/* Whether somebody is being asked now. */
bool health_is_asking(struct version *const *versions, unsigned n);

/* Whether nobody is being asked now, and everybody has been. */
bool health_is_known(struct version *const *versions, unsigned n);

/* The version leaves, and is not asked again: `done` when its callback has returned, perhaps at
   once. */
void health_stop(struct version *v, void (*done)(struct version *v));

#endif
