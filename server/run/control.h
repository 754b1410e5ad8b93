/*
 * The control thread: main's. It owns signals, the control socket, the ops endpoints, generations
 * and every decision about a version's life; it never blocks.
 *
 *   STARTING -> SERVING -> DRAINING -> LEAVING (answers under way, then the log) -> _exit
 */
#ifndef GRAFT_RUN_CONTROL_H
#define GRAFT_RUN_CONTROL_H

#include "options.h"

/* Starts the server and serves. Returns only when it could not start: an exit status, with the
   reason on stderr. Everything else ends in _exit. */
int control_run(const struct options *options, char **envp);

/* graftd -t: checks the configuration and every plugin, says what it found on stdout; 0 or 1. */
int control_test(const struct options *options, char **envp);

#endif
