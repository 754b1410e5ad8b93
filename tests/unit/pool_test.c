/* base/pool.c: every job runs once, the bounded queue says when it is full. */
#include "tap.h"

#include "base/pool.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define JOBS 2000

struct counted {
    struct pool_job job;
    atomic_int *ran;
};

static void count(struct pool_job *job)
{
    struct counted *c = (struct counted *)job;
    atomic_fetch_add(c->ran, 1);
}

static void wait_until(const atomic_int *n, int want)
{
    while (atomic_load(n) < want)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

TEST(runs_every_job_once)
{
    struct pool *pool;
    struct err err;
    atomic_int ran = 0;
    struct counted *jobs = calloc(JOBS, sizeof *jobs);
    must(jobs != NULL && pool_open(&pool, 4, JOBS, 0, &err) == 0);
    for (int i = 0; i < JOBS; i++) {
        jobs[i].job.run = count;
        jobs[i].ran = &ran;
        is(pool_submit(pool, &jobs[i].job), 0);
    }
    wait_until(&ran, JOBS);
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    is(atomic_load(&ran), JOBS);
    is(pool_waiting(pool), 0);
    free(jobs);
}

struct submitter {
    struct pool *pool;
    struct counted *jobs;
    int n;
};

static void *submit(void *arg)
{
    struct submitter *s = arg;
    for (int i = 0; i < s->n; i++)
        pool_submit_always(s->pool, &s->jobs[i].job);
    return NULL;
}

TEST(takes_jobs_from_many_threads)
{
    struct pool *pool;
    struct err err;
    atomic_int ran = 0;
    pthread_t threads[4];
    struct submitter s[4];
    struct counted *jobs = calloc(4 * JOBS, sizeof *jobs);
    must(jobs != NULL && pool_open(&pool, 3, 1, 0, &err) == 0);
    for (int i = 0; i < 4 * JOBS; i++) {
        jobs[i].job.run = count;
        jobs[i].ran = &ran;
    }
    for (int i = 0; i < 4; i++) {
        s[i] = (struct submitter){ pool, jobs + i * JOBS, JOBS };
        pthread_create(&threads[i], NULL, submit, &s[i]);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    wait_until(&ran, 4 * JOBS);
    is(atomic_load(&ran), 4 * JOBS);
    free(jobs);
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static atomic_int stood, passed;

static void stand(struct pool_job *job)
{
    (void)job;
    atomic_fetch_add(&stood, 1);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    atomic_fetch_add(&passed, 1);
}

TEST(refuses_what_is_past_the_queue)
{
    static struct pool_job jobs[6];
    struct pool *pool;
    struct err err;
    must(pool_open(&pool, 1, 2, 0, &err) == 0);
    pthread_mutex_lock(&gate);
    for (int i = 0; i < 6; i++)
        jobs[i].run = stand;
    is(pool_submit(pool, &jobs[0]), 0);
    wait_until(&stood, 1); /* it runs: the two places are free */
    while (pool_waiting(pool) != 0)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    is(pool_submit(pool, &jobs[1]), 0);
    is(pool_submit(pool, &jobs[2]), 0);
    is(pool_submit(pool, &jobs[3]), -1);
    is(pool_waiting(pool), 2);
    pool_submit_always(pool, &jobs[4]);
    is(pool_submit(pool, &jobs[5]), -1);
    is(pool_running(pool), 1);
    pthread_mutex_unlock(&gate);
    wait_until(&passed, 4);
    is(pool_submit(pool, &jobs[3]), 0);
    wait_until(&passed, 5);
}

static atomic_int order[64], norder;

struct numbered {
    struct pool_job job;
    int number;
};

static void note(struct pool_job *job)
{
    order[atomic_fetch_add(&norder, 1)] = ((struct numbered *)job)->number;
}

TEST(one_thread_keeps_the_order)
{
    static struct numbered jobs[64];
    struct pool *pool;
    struct err err;
    must(pool_open(&pool, 1, 64, 0, &err) == 0);
    for (int i = 0; i < 64; i++) {
        jobs[i] = (struct numbered){ { .run = note }, i };
        is(pool_submit(pool, &jobs[i].job), 0);
    }
    wait_until(&norder, 64);
    for (int i = 0; i < 64; i++)
        is(order[i], i);
}

static atomic_int slots_seen[8];

static void see_slot(struct pool_job *job)
{
    (void)job;
    static atomic_int at;
    char name[16];
    pthread_getname_np(pthread_self(), name, sizeof name);
    ok(thread_kind == THREAD_POOL);
    ok(strncmp(name, "pool-", 5) == 0);
    atomic_fetch_add(&slots_seen[thread_slot < 8 ? thread_slot : 7], 1);
    atomic_fetch_add(&at, 1);
    while (atomic_load(&at) < 3) /* all three threads, one job each */
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    atomic_fetch_add(&passed, 1);
}

TEST(threads_have_slots_of_their_own)
{
    static struct pool_job jobs[3];
    struct pool *pool;
    struct err err;
    ok(thread_slot == UINT_MAX);
    must(pool_open(&pool, 3, 3, 2, &err) == 0);
    for (int i = 0; i < 3; i++) {
        jobs[i].run = see_slot;
        is(pool_submit(pool, &jobs[i]), 0);
    }
    wait_until(&passed, 3);
    for (int i = 2; i < 5; i++)
        is(atomic_load(&slots_seen[i]), 1);
}

static atomic_int low_at_once, low_most, low_done;

static void low(struct pool_job *job)
{
    (void)job;
    int now = atomic_fetch_add(&low_at_once, 1) + 1;
    if (now > atomic_load(&low_most))
        atomic_store(&low_most, now);
    nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    atomic_fetch_sub(&low_at_once, 1);
    atomic_fetch_add(&low_done, 1);
}

/* However many there are, three quarters of the threads are free for the others. */
TEST(low_jobs_get_a_quarter_of_the_threads)
{
    static struct pool_job lows[60];
    static struct counted others[JOBS];
    struct pool *pool;
    struct err err;
    atomic_int ran = 0;
    must(pool_open(&pool, 8, JOBS, 0, &err) == 0);
    for (int i = 0; i < 60; i++) {
        lows[i].run = low;
        is(pool_submit_low(pool, &lows[i]), 0);
    }
    for (int i = 0; i < JOBS; i++) {
        others[i].job.run = count;
        others[i].ran = &ran;
        is(pool_submit(pool, &others[i].job), 0);
    }
    wait_until(&ran, JOBS);
    wait_until(&low_done, 60);
    is(atomic_load(&low_done), 60);
    ok(atomic_load(&low_most) <= 2);
}

TEST(low_jobs_that_stand_hold_up_no_others)
{
    static struct pool_job lows[5];
    static struct counted others[10];
    struct pool *pool;
    struct err err;
    atomic_int ran = 0;
    must(pool_open(&pool, 2, 4, 0, &err) == 0);
    pthread_mutex_lock(&gate);
    for (int i = 0; i < 5; i++) {
        lows[i].run = stand;
        is(pool_submit_low(pool, &lows[i]), 0);
        if (i == 0)
            wait_until(&stood, 1); /* it does not wait any more: there is room for four */
    }
    static struct pool_job one_more = { .run = stand };
    is(pool_submit_low(pool, &one_more), -1);
    for (int i = 0; i < 10; i++) {
        others[i].job.run = count;
        others[i].ran = &ran;
        while (pool_submit(pool, &others[i].job) != 0)
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    wait_until(&ran, 10);
    is(atomic_load(&passed), 0);
    pthread_mutex_unlock(&gate);
    wait_until(&passed, 5);
    is(pool_submit_low(pool, &one_more), 0);
    wait_until(&passed, 6);
}
