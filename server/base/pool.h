/*
 * Threads for work that may block: graft_offload, graft_every. Giving work never waits for
 * another thread: the queue is a lock-free list in front of a semaphore, and only the pool's own
 * threads take a lock, among themselves. The threads live until _exit.
 */
#ifndef GRAFT_BASE_POOL_H
#define GRAFT_BASE_POOL_H

#include "base/base.h"
#include "base/err.h"

struct pool;

/* Lies inside what the work is about; not submitted again before `run` has begun. */
struct pool_job {
    struct pool_job *next;
    void (*run)(struct pool_job *job); /* on a pool thread; may free or submit the job again */
    bool counted;                      /* the pool's: it holds a place in the bounded queue */
    bool low;                          /* the pool's, by pool_submit_low */
};

/* Starts `threads` threads named pool-0, pool-1, ... whose thread_slot counts from `first_slot`.
   At most `queue` jobs wait at a time. 0, or -1 with the reason. */
int pool_open(struct pool **out, unsigned threads, unsigned queue, unsigned first_slot,
              struct err *err);

/* Any thread. -1: the queue is full and the job was not taken. */
int pool_submit(struct pool *pool, struct pool_job *job);

/* Any thread. For work that nobody waits for: a quarter of the threads do such jobs, one at least;
   as many as `queue` wait beside the others. -1: they do already. */
int pool_submit_low(struct pool *pool, struct pool_job *job);

/* Any thread. Takes the job always and does not count it: for the server's own work, of which
   there is a bounded amount. */
void pool_submit_always(struct pool *pool, struct pool_job *job);

/* Any thread: jobs that wait in the bounded queue; jobs that run. */
unsigned pool_waiting(const struct pool *pool);
unsigned pool_running(const struct pool *pool);

#endif
