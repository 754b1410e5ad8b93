/*
 * The watchdog: a worker whose loop has not turned for watchdog_ms is reported once, with the
 * callback that it stands in and where in it; with watchdog_kill the process is ended as by a
 * crash, so that the supervisor starts another one. Control thread; the looking into the worker is
 * done by a thread that lives as long as that takes, and disturbs only a worker that computes.
 */
#ifndef GRAFT_RUN_WATCHDOG_H
#define GRAFT_RUN_WATCHDOG_H

#include "base/config.h"
#include "base/inbox.h"
#include "net/loop.h"

struct watchdog;

struct watchdog_deps {
    struct event_base *base;
    struct inbox *inbox; /* the control thread's */
    struct loop **loops;
    unsigned nloops;
    const char *stage;         /* the stage folder's path */
    bool (*spared)(void *arg); /* the process is not to be ended: it ends by itself (a drain) */
    void *arg;
};

/* Before workers start: the handler by which a worker that computes says where it is. */
void watchdog_prepare(void);
void watchdog_worker(void); /* on each worker's thread: it may be asked */

int watchdog_open(struct watchdog **out, const struct watchdog_deps *deps, struct err *err);
void watchdog_configure(struct watchdog *dog, const struct config *cfg); /* takes effect at once */

#endif
