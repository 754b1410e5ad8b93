/*
 * From SIGTERM to the exit: delay, close the listeners without losing what waits in them, let idle
 * connections go, cool and finish every version, or cut at the deadline. Control thread.
 *
 *   OFF -> DELAY (readiness 503, still accepting) -> LISTENERS -> IDLE -> COOL -> REQUESTS -> FINI
 *                                                                 (deadline: CUT) -> over
 */
#ifndef GRAFT_RUN_DRAIN_H
#define GRAFT_RUN_DRAIN_H

#include "base/config.h"
#include "net/listener.h"
#include "plugin/swap.h"
#include "run/worker.h"

struct drain;

struct drain_deps {
    struct event_base *base;
    struct workers *workers;
    struct listeners *listeners;
    struct swap *swap;
    void (*closing)(void *arg); /* the listeners close now */
    /* Drained: 0 clean, 3 the deadline cut requests. The caller closes ops, flushes, leaves. */
    void (*over)(int exit_status, void *arg);
    void *arg;
};

struct drain *drain_open(const struct drain_deps *deps);
void drain_begin(struct drain *d, const struct config *cfg, const char *why); /* again: nothing */
/* The same without drain.delay_ms: somebody else serves already. */
void drain_begin_at_once(struct drain *d, const struct config *cfg, const char *why);
bool drain_is_on(const struct drain *d);
const char *drain_phase(const struct drain *d); /* "off", "delay", "idle", ... for status */

#endif
