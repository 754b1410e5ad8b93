/*
 * The pool's queue and threads. Submitters push onto `pushed` (newest first) and post the
 * semaphore; a pool thread that got a token moves what was pushed, turned around, behind `ready`
 * and takes the first. Invariant: tokens of the semaphore = jobs on `pushed` and `ready` that no
 * thread has claimed, so a thread with a token always finds a job. A low job beyond their share is
 * put aside, without a token, until one of its kind has ended.
 */
#include "base/pool.h"

#include "base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POOL_MAGIC 0x706f6f6cu

struct pool {
    unsigned magic;
    unsigned queue;      /* most jobs that may wait */
    unsigned first_slot; /* thread_slot of the first thread */
    _Alignas(CACHE_LINE) _Atomic(struct pool_job *) pushed;
    atomic_uint waiting; /* counted jobs that no thread has taken */
    atomic_uint running;
    atomic_uint low_waiting;
    sem_t tokens;
    _Alignas(CACHE_LINE) pthread_mutex_t lock; /* pool threads only */
    struct pool_job *ready, **ready_tail; /* oldest first; protected by lock, as what follows */
    struct pool_job *aside, **aside_tail; /* low jobs, oldest first */
    unsigned low_running, low_max;
};

struct member { /* what a new thread needs to know */
    struct pool *pool;
    unsigned number;
};

static void push(struct pool *pool, struct pool_job *job)
{
    struct pool_job *head = atomic_load_explicit(&pool->pushed, memory_order_relaxed);
    do {
        job->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&pool->pushed, &head, job, memory_order_release,
                                                    memory_order_relaxed));
    REQUIRE(sem_post(&pool->tokens) == 0); /* fails only past SEM_VALUE_MAX */
}

int pool_submit(struct pool *pool, struct pool_job *job)
{
    HOT_CHECK(pool, POOL_MAGIC);
    if (atomic_fetch_add_explicit(&pool->waiting, 1, memory_order_relaxed) >= pool->queue) {
        atomic_fetch_sub_explicit(&pool->waiting, 1, memory_order_relaxed);
        return -1;
    }
    job->counted = true;
    job->low = false;
    push(pool, job);
    return 0;
}

void pool_submit_always(struct pool *pool, struct pool_job *job)
{
    HOT_CHECK(pool, POOL_MAGIC);
    job->counted = job->low = false;
    push(pool, job);
}

int pool_submit_low(struct pool *pool, struct pool_job *job)
{
    HOT_CHECK(pool, POOL_MAGIC);
    if (atomic_fetch_add_explicit(&pool->low_waiting, 1, memory_order_relaxed) >= pool->queue) {
        atomic_fetch_sub_explicit(&pool->low_waiting, 1, memory_order_relaxed);
        return -1;
    }
    job->counted = false;
    job->low = true;
    push(pool, job);
    return 0;
}

/* Appends what was pushed to `ready`, oldest first. With the lock. */
static void gather(struct pool *pool)
{
    struct pool_job *newest = atomic_exchange_explicit(&pool->pushed, NULL, memory_order_acquire);
    struct pool_job *oldest = NULL, *last = newest;
    while (newest != NULL) {
        struct pool_job *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    if (oldest == NULL)
        return;
    *pool->ready_tail = oldest;
    pool->ready_tail = &last->next;
}

static struct pool_job *pop(struct pool_job **first, struct pool_job ***tail)
{
    struct pool_job *job = *first;
    *first = job->next;
    if (*first == NULL)
        *tail = first;
    return job;
}

static void append(struct pool_job ***tail, struct pool_job *job)
{
    job->next = NULL;
    **tail = job;
    *tail = &job->next;
}

/* May this one run now? Else it is put aside. With the lock. */
static bool admit(struct pool *pool, struct pool_job *job)
{
    if (!job->low)
        return true;
    if (pool->low_running == pool->low_max) {
        append(&pool->aside_tail, job);
        return false;
    }
    pool->low_running++;
    atomic_fetch_sub_explicit(&pool->low_waiting, 1, memory_order_relaxed);
    return true;
}

static struct pool_job *take(struct pool *pool)
{
    struct pool_job *job;
    bool mine;
    do {
        while (sem_wait(&pool->tokens) != 0)
            REQUIRE(errno == EINTR);
        pthread_mutex_lock(&pool->lock);
        if (pool->ready == NULL)
            gather(pool);
        REQUIRE(pool->ready != NULL);
        job = pop(&pool->ready, &pool->ready_tail);
        mine = admit(pool, job);
        pthread_mutex_unlock(&pool->lock);
    } while (!mine);
    if (job->counted)
        atomic_fetch_sub_explicit(&pool->waiting, 1, memory_order_relaxed);
    return job;
}

/* A low job has ended: the next of its kind lines up behind what waits. */
static void low_ended(struct pool *pool)
{
    bool more;
    pthread_mutex_lock(&pool->lock);
    pool->low_running--;
    more = pool->aside != NULL;
    if (more) {
        gather(pool);
        append(&pool->ready_tail, pop(&pool->aside, &pool->aside_tail));
    }
    pthread_mutex_unlock(&pool->lock);
    if (more)
        REQUIRE(sem_post(&pool->tokens) == 0);
}

static void *member_main(void *arg)
{
    struct member *member = arg;
    struct pool *pool = member->pool;
    CHECK(pool, POOL_MAGIC);
    thread_kind = THREAD_POOL;
    thread_slot = pool->first_slot + member->number;
    free(member);
    for (;;) {
        struct pool_job *job = take(pool);
        bool low = job->low;
        atomic_fetch_add_explicit(&pool->running, 1, memory_order_relaxed);
        job->run(job);
        atomic_fetch_sub_explicit(&pool->running, 1, memory_order_relaxed);
        if (low)
            low_ended(pool);
    }
    return NULL;
}

static int add_member(struct pool *pool, unsigned number, struct err *err)
{
    struct member *member = malloc(sizeof *member);
    if (member == NULL)
        return err_set(err, "out of memory for a pool thread");
    *member = (struct member){ .pool = pool, .number = number };
    char name[THREAD_NAME_SIZE];
    snprintf(name, sizeof name, "pool-%u", number);
    if (thread_start(name, member_main, member, err) != 0) {
        free(member);
        return -1;
    }
    return 0;
}

int pool_open(struct pool **out, unsigned threads, unsigned queue, unsigned first_slot,
              struct err *err)
{
    struct pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    if (pool == NULL)
        return err_set(err, "out of memory for the pool");
    memset(pool, 0, sizeof *pool);
    pool->magic = POOL_MAGIC;
    pool->queue = queue;
    pool->first_slot = first_slot;
    pool->ready_tail = &pool->ready;
    pool->aside_tail = &pool->aside;
    pool->low_max = threads / 4 > 0 ? threads / 4 : 1;
    sem_init(&pool->tokens, 0, 0);
    pthread_mutex_init(&pool->lock, NULL);
    *out = pool; /* threads that did start use it: from here on it is never freed */
    for (unsigned i = 0; i < threads; i++)
        if (add_member(pool, i, err) != 0)
            return err_prefix(err, "pool thread %u of %u", i + 1, threads);
    return 0;
}

unsigned pool_waiting(const struct pool *pool)
{
    CHECK(pool, POOL_MAGIC);
    return atomic_load_explicit(&pool->waiting, memory_order_relaxed);
}

unsigned pool_running(const struct pool *pool)
{
    CHECK(pool, POOL_MAGIC);
    return atomic_load_explicit(&pool->running, memory_order_relaxed);
}
