/*
 * The pool without threads: jobs wait in one line and run one after the other, as the pool's
 * thread, when nothing else can happen; or when the test says so.
 */
#include "bottle.h"

#include "base/pool.h"

#include <stdlib.h>

struct pool {
    struct pool_job *first, **last;
    unsigned queue, waiting, running;
    bool held;
};

static struct pool the_pool;

void pool_make(unsigned queue)
{
    the_pool = (struct pool){ .queue = queue, .last = &the_pool.first };
    bottle.pool = &the_pool;
}

static void add(struct pool *p, struct pool_job *job, bool counted)
{
    job->next = NULL;
    job->counted = counted;
    p->waiting += counted;
    *p->last = job;
    p->last = &job->next;
}

int pool_submit(struct pool *p, struct pool_job *job)
{
    if (p->waiting >= p->queue)
        return -1;
    add(p, job, true);
    return 0;
}

int pool_submit_low(struct pool *p, struct pool_job *job)
{
    return pool_submit(p, job);
}

void pool_submit_always(struct pool *p, struct pool_job *job)
{
    add(p, job, false);
}

unsigned pool_waiting(const struct pool *p)
{
    return p->waiting;
}

unsigned pool_running(const struct pool *p)
{
    return p->running;
}

/* The job may be gone when `run` returns. */
static bool run_one(struct pool *p)
{
    struct pool_job *job = p->first;
    if (job == NULL)
        return false;
    p->first = job->next;
    if (p->first == NULL)
        p->last = &p->first;
    p->waiting -= job->counted;
    p->running++;
    struct played was = play(ON_POOL_THREAD, 0);
    job->run(job);
    play_again(was);
    p->running--;
    return true;
}

bool pool_turn(void)
{
    return !the_pool.held && run_one(&the_pool);
}

void graft_test_hold_pool(bool hold)
{
    bottle_enter("graft_test_hold_pool");
    the_pool.held = hold;
    settle();
}

unsigned graft_test_run_pool(unsigned n)
{
    unsigned ran = 0;
    bottle_enter("graft_test_run_pool");
    while (ran < n && run_one(&the_pool)) {
        ran++;
        settle();
    }
    return ran;
}
