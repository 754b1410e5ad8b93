/*
 * The counters that plugins make. A counter belongs to the plugin's name, so no swap resets it and
 * two versions side by side count into the same cells; it is never freed. What a plugin holds is a
 * handle: a graft_metric whose host is that version's table, freed with the version.
 */
#ifndef GRAFT_PLUGIN_METRIC_H
#define GRAFT_PLUGIN_METRIC_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"

#include <graft/graft.h>

/* Once, before any plugin is loaded: how many threads have a thread_slot (workers and pool). */
void metric_init(unsigned slots);

/* graft_counter: a handle of `plugin`'s counter `name` for the version whose table is `host`; the
   same one when it is asked for again. NULL: bad name, the name means another plugin's counter, or
   no memory. [any; the loader's in practice] */
graft_metric *metric_counter(const graft_host *host, const char *plugin, const char *name,
                             const char *help, struct err *err);

/* graft_add; NULL is allowed. Threads without a slot (misuse) share one cell, atomically. [any] */
void metric_add(graft_metric *metric, uint64_t n);

/* Frees the handles of a version; its counters stay. After its last callback has returned. [any] */
void metric_release(const graft_host *host);

/* Appends all counters in Prometheus text. 0, or -1: no memory. [control] */
int metric_write(struct buf *out);

/* The sum of one counter, by its full name (graft_plugin_...); 0 when there is none. [any] */
uint64_t metric_value(const char *full_name);

#endif
