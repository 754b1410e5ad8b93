/*
 * A version's way out, for those that served and those that failed alike; what is owed is done, in
 * this order, and nothing else:
 *
 *   graft_every runs come back -> cool (where start returned 0) -> on each worker: last request,
 *   worker_fini, one turn -> fini (where init returned 0) -> dlclose -> verify -> staged file ->
 * free
 *
 * Control thread; never blocks.
 */
#ifndef GRAFT_PLUGIN_RETIRE_H
#define GRAFT_PLUGIN_RETIRE_H

#include "base/log.h"
#include "plugin/loader.h"
#include "plugin/version.h"

struct retire_hooks {
    void (*cooled)(struct version *v, void *arg);  /* cool has returned, or was not owed */
    void (*stuck)(struct version *v, void *arg);   /* it became so: v->reason */
    void (*blocked)(struct version *v, void *arg); /* all is done but dlclose, behind a hang */
    void (*gone)(struct version *v, void *arg);    /* unloaded, off the list; freed behind it */
    void *arg;
};
void retire_init(struct loader *loader, struct event_base *base, const struct retire_hooks *hooks);

/* timeouts_ms.retire, for those that begin to cool from now on; timeouts_ms.load, after which a
   worker_init or worker_fini that has not returned makes its version stuck. */
void retire_timeouts(unsigned retire_ms, unsigned load_ms);

/* Begins. A version whose callback has not returned (v->hung) comes here when it has. */
void retire_begin(struct version *v);
/* As far as cool only; retire_begin goes on from there. */
void retire_cool(struct version *v);
/* Aborts what it still serves; says why. */
void retire_cut(struct version *v, const char *why);
void retire_abort(struct version *v); /* the same without a word */

/* A callback of the version takes too long: for jobs that others submit. */
void retire_hung(struct version *v, const char *callback, uint64_t elapsed_us);

/* False: it is stuck, or waits behind a hanging dlopen; nobody can say for how long. */
bool retire_can_end(const struct version *v);

/* What it waits for, for people: "requests", "cool", ...; NULL when it is not on its way out. */
const char *retire_waits_for(const struct version *v);

/* plugin, version, id, sha256, config_sha256: in every log line about a version. */
void retire_log_identity(struct log_line *line, const struct version *v);

#endif
