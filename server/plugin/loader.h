/*
 * The loader thread and its queue. The control thread gives it jobs, one is done at a time, and
 * each comes back as a message to the control thread. A job marks the steps in which foreign code
 * runs; when such a step takes longer than timeouts_ms.load, the thread is left to it, another
 * loader thread goes on with the next job, and the job comes back late.
 */
#ifndef GRAFT_PLUGIN_LOADER_H
#define GRAFT_PLUGIN_LOADER_H

#include "base/base.h"
#include "base/err.h"
#include "base/inbox.h"
#include "base/list.h"

#include <event2/event.h>

struct loader;

/* Lies inside what it is about. Between loader_submit and `done` (or, once it hung, the late
   `done`) it belongs to the loader. */
struct job {
    void (*work)(struct job *job); /* [loader] */
    void (*done)(struct job *job); /* [control] once; may free the job or submit it again */
    void (*hung)(struct job *job, const char *step, uint64_t elapsed_us); /* [control] `done`
                                      follows if the step ever returns; NULL: has no steps */
    bool loads; /* it calls dlopen or dlclose: waits while such a call hangs */

    /* The work's outcome, for `done`. */
    int rc;
    const char *stage; /* what failed: "dlopen", "init", ... a literal */
    struct err err;
    bool late; /* a step took too long; what came after it has not been done */

    /* The loader's; protected by its lock. */
    struct list node;
    struct msg answer;
    struct loader *loader;
    const char *step; /* NULL: none */
    uint64_t step_us;
    bool given_up;
};

/* Starts the thread. [control] */
int loader_open(struct loader **out, struct event_base *base, struct inbox *control,
                unsigned timeout_ms, struct err *err);
void loader_timeout(struct loader *l, unsigned timeout_ms); /* [control] */
void loader_submit(struct loader *l, struct job *job);      /* [control] cannot fail */

/* [control] Leaves the job to its thread if a step of it runs, as if that had taken too long:
   `hung` is called from inside. False: no step of it runs, or it has no `hung`. */
bool loader_leave(struct loader *l, struct job *job);

/* [control] The job that hangs in dlopen or dlclose and thereby holds glibc's lock, or NULL. */
struct job *loader_blocked(struct loader *l);

/* [loader] Foreign code follows; `step` is a literal. */
void job_step(struct job *job, const char *step);
/* [loader] It has returned. False: too late, the work must end here. */
bool job_step_end(struct job *job);
/* [loader] One of its steps took too long: others are done meanwhile. */
bool job_is_late(struct job *job);

/* Ends the timer; threads stay. [control] */
void loader_close(struct loader **lp);

#endif
