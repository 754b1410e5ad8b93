/*
 * Requests that outlive a turn of the loop: they are put on the lists of the versions they use, so
 * that status can tell each version's oldest and what it waits for, and made ready for being read
 * by other threads.
 */
#ifndef GRAFT_PLUGIN_SUSPENDED_H
#define GRAFT_PLUGIN_SUSPENDED_H

#include "plugin/exchange.h"

void suspended_add(struct exchange *x, const char *waits_for); /* again: what it waits for now */
void suspended_remove(struct handle *h);
/* Fills what is made on demand, so that other threads may read it. [worker] */
void suspended_prepare(struct exchange *x);
/* Whether that has been done. [any] Off the worker it is waited for, at most a tenth of a second. */
bool suspended_is_prepared(struct exchange *x);
const char *exchange_id(struct exchange *x); /* makes it when there is none yet; [worker] */
struct str exchange_peer(struct exchange *x);

#endif
