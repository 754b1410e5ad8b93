/*
 * graftd's first process. It binds and keeps the listening sockets (listen, ops, control), holds
 * the stage folder and its lock, starts the server process, and starts another one on the same
 * sockets when that crashes. It passes signals on, takes away the dead (also as PID 1), and exits
 * as the server did. No plugin's code ever runs in it; it has one thread.
 *
 *   STARTING -> SERVING -> LEAVING -> exit       a signal, graftctl drain
 *       ^          |
 *       `- WAITING <  a crash (back-off)
 */
#ifndef GRAFT_RUN_SUPERVISOR_H
#define GRAFT_RUN_SUPERVISOR_H

#include "options.h"

/* Serves: in this process when `supervise` is false or when a supervisor has started us; else as
   the supervisor. Returns an exit status, with the reason on stderr when it could not start. */
int supervisor_run(const struct options *options, char **argv);

#endif
