/*
 * The control thread: main's. It owns signals, the control socket, the ops endpoints, generations
 * and every decision about a version's life; it never blocks.
 *
 *   STARTING -> SERVING -> DRAINING -> LEAVING (answers under way, then the log) -> _exit
 */
#ifndef GRAFT_RUN_CONTROL_H
#define GRAFT_RUN_CONTROL_H

#include "options.h"

struct config;
struct buf;

/* Starts the server and serves, with this configuration (which is its own then). Returns only when
   it could not start: an exit status, with the reason on stderr. Everything else ends in _exit. */
int control_run(const struct options *options, char **envp, struct config *config);

/* The same under a supervisor, at the other end of `wire` (run/boss.h), which says everything. */
int control_run_supervised(const struct options *options, char **envp, int wire);

/* graftd -t: checks the configuration and every plugin, says what it found on stdout; 0 or 1. */
int control_test(const struct options *options, char **envp);

#endif
