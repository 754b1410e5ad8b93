/*
 * How the workers come to a generation, and away from a version. All of it by messages whose
 * nodes lie inside what they are about, so that none can fail:
 *
 *   prepare   control -> worker: worker_init of the new versions; answered
 *   adopt     control -> worker: one pointer is stored between two events; answered
 *   release   control -> worker: when no request of this worker uses the version, worker_fini
 *             where it is owed, and one turn of the loop later the report
 *   cut       control -> worker: what still uses the version is aborted; answered
 *
 * A prepare that was cancelled does nothing where it had not been taken; the adoption frees itself
 * when every worker has answered.
 */
#ifndef GRAFT_PLUGIN_ADOPT_H
#define GRAFT_PLUGIN_ADOPT_H

#include "base/inbox.h"
#include "net/loop.h"
#include "plugin/generation.h"
#include "plugin/version.h"

struct adoption;

/* The workers and where they answer; once. `cut`: see swap_deps. */
void adopt_init(struct loop **loops, unsigned nloops, struct inbox *control,
                void (*cut)(struct version *v, struct loop *l));

/* [control] all from here on. `done` is called when every worker has answered, or at the first
   failure. Takes over the generation until adoption_free. NULL: no memory. */
struct adoption *adoption_new(struct generation *g, struct version *const *fresh, size_t nfresh,
                              void (*done)(struct adoption *a, void *arg), void *arg);
void adoption_prepare(struct adoption *a);
/* The version whose worker_init failed, with its reason; NULL: none did. */
struct version *adoption_failed(const struct adoption *a, struct err *err);
/* After a complete prepare. */
void adoption_publish(struct adoption *a);
/* Names the first worker that has not answered and what it does: plugin, route, age. */
void adoption_blame(const struct adoption *a, unsigned timeout_ms, struct err *err);
/* Before publishing: `done` is not called any more; frees itself and the generation in time. */
void adoption_cancel(struct adoption *a);
struct generation *adoption_generation(const struct adoption *a);
/* Never sent, or everything answered: frees it, gives the generation back. */
struct generation *adoption_free(struct adoption *a);

/* `done` when all workers have reported: v->waiting is 0. Once for each version. */
void adopt_release(struct version *v, void (*done)(struct version *v));
/* Aborts on every worker; harmless when such messages are on their way. `done` (may be NULL) when
   the last has answered. */
void adopt_cut(struct version *v, void (*done)(struct version *v));

/* Runs one callback of a version on this worker under loop->doing's eyes. [worker] */
void adopt_doing(struct loop *l, struct version *v, const char *callback);

#endif
