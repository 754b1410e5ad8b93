/*
 * The workers: evthr threads, each with a loop, its listeners and its connections. The control
 * thread opens them and talks to them by messages; worker threads live until _exit.
 */
#ifndef GRAFT_RUN_WORKER_H
#define GRAFT_RUN_WORKER_H

#include "base/config.h"
#include "base/err.h"
#include "net/listener.h"
#include "net/loop.h"
#include "base/pool.h"

struct workers;

/* Starts the threads; they answer messages at once and accept nothing yet. `control` is the control
   thread's inbox. */
int workers_open(struct workers **out, const struct config *cfg, struct listeners *listeners,
                 struct pool *pool, struct inbox *control, unsigned count, struct err *err);
unsigned workers_count(const struct workers *ws);
struct loop **workers_loops(struct workers *ws); /* [workers_count] */

/* From now on connections are accepted. Control. */
void workers_accept(struct workers *ws);

/* The steps of a drain (run/drain.c), each a message to every worker; `done` runs on the control
   thread when all have answered. One at a time. The second ends when no request can begin any
   more. */
void workers_stop_accepting(struct workers *ws, void (*done)(void *arg), void *arg);
void workers_close_idle(struct workers *ws, void (*done)(void *arg), void *arg);
/* While listeners close: when a worker has no descriptors, those who idle make room. Any time. */
void workers_make_room(struct workers *ws);
/* Its deadline, once: also while a step is not answered. */
void workers_cut_all(struct workers *ws);

bool workers_busy(const struct workers *ws); /* a step has not been answered by all */

/* Figures for status and metrics; control, no waiting. */
uint64_t workers_in_flight(const struct workers *ws);   /* requests that are not over */
uint64_t workers_connections(const struct workers *ws); /* open now; any thread */
uint64_t workers_answered(const struct workers *ws);    /* responses that were finished */

#endif
