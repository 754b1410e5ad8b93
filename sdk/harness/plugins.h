/* What plugins.c (one version's life) and swap.c (which of them serve) know of each other. */
#ifndef GRAFT_HARNESS_PLUGINS_H
#define GRAFT_HARNESS_PLUGINS_H

#include "bottle.h"

/* dlopen (path) or the descriptor as it is, configuration, init; not ready. NULL: err, undone. */
struct version *version_load(const graft_plugin *plugin, const char *path, const char *config,
                             struct err *err);
int version_ready(struct version *v, struct err *err);
int version_start(struct version *v, struct err *err);
int version_export(struct version *old, struct err *err);
int version_import(struct version *v, struct version *old, struct err *err);
/* Its way out: cool, worker_fini where it is owed, and when its last request is over fini. */
void version_cool(struct version *v);
void version_leave(struct version *v);

extern struct list leaving; /* those that are on it */

#endif
