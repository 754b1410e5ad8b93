/*
 * The server process's signs of life for systemd: what it does, whether its workers turn, how much
 * is in flight. By the wire to the supervisor, or straight to the notifier when there is none.
 * Nobody is told, and no timer runs, where nobody asked. Control thread.
 */
#ifndef GRAFT_RUN_VITALS_H
#define GRAFT_RUN_VITALS_H

#include "run/server.h"

int vitals_open(struct server *s, struct err *err); /* before the first load */
void vitals_changed(struct server *s);              /* the drain, or readiness */
void vitals_reload_begin(struct server *s);
void vitals_reload_end(struct server *s); /* once for each begin */

#endif
