/*
 * graftctl upgrade, as the two server processes see it. The one that serves reads the
 * configuration, holds its swaps back and asks the supervisor; when the other one is ready it gives
 * up the store, ops and control, and drains once that one serves. The one in waiting loads its
 * plugins, accepts nothing and writes nothing, says that it is ready, and serves when it is told.
 *
 *   serves:   OFF -> READING -> WRITING (the store) -> ASKED -> YIELDING -> draining
 *              ^________________________________|  refused, or the other one does not get ready
 *   waiting:  HEALTH -> READY -> serving
 *
 * Control thread.
 */
#ifndef GRAFT_RUN_UPGRADE_H
#define GRAFT_RUN_UPGRADE_H

#include "run/server.h"

void upgrade_verb(struct server *s, const char *binary, struct web_request *req);
/* Once, where there is a supervisor. */
int upgrade_open(struct server *s, struct err *err);
/* The first load of a process in waiting is done. */
void upgrade_wait(struct server *s);

/* control.c: connections are accepted from here on. */
void control_serve(struct server *s);

#endif
