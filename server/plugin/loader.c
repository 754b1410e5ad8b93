/*
 * Any number of threads wait at one queue, but only one runs a job that has not been given up, so
 * that plugins are loaded and unloaded one at a time. A thread that was left to a hanging callback
 * comes back to the queue when that returns; none ever ends, because a thread's end runs
 * destructors that may belong to a plugin that is gone.
 */
#include "plugin/loader.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "plugin/tasks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LOADER_MAGIC 0x6c646572u

struct loader {
    unsigned magic;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct list queue;   /* protected by lock, as all that follows */
    struct job *current; /* being done, not given up */
    struct job *blocked; /* given up inside dlopen or dlclose */
    unsigned idle;       /* threads that wait here */
    /* Control's. */
    struct inbox *control;
    struct event *timer;
    unsigned timeout_ms;
    bool timer_set;
};

static struct job *job_of_answer(struct msg *m)
{
    return container_of(m, struct job, answer);
}

static void answered(struct msg *m)
{
    ON_CONTROL();
    struct job *job = job_of_answer(m);
    job->done(job);
}

/* With the lock: the first job that may run. */
static struct job *next_job(struct loader *l)
{
    if (l->current != NULL)
        return NULL;
    list_each (it, &l->queue) {
        struct job *job = list_entry(it, struct job, node);
        if (!job->loads || l->blocked == NULL)
            return job;
    }
    return NULL;
}

static struct job *take(struct loader *l)
{
    struct job *job;
    pthread_mutex_lock(&l->lock);
    l->idle++;
    while ((job = next_job(l)) == NULL)
        pthread_cond_wait(&l->work, &l->lock);
    l->idle--;
    list_del(&job->node);
    l->current = job;
    pthread_mutex_unlock(&l->lock);
    return job;
}

static void finish(struct loader *l, struct job *job)
{
    pthread_mutex_lock(&l->lock);
    if (l->current == job)
        l->current = NULL;
    job->late = job->given_up;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
    inbox_send(l->control, &job->answer); /* the job is control's from here on */
}

bool job_is_late(struct job *job)
{
    struct loader *l = job->loader;
    pthread_mutex_lock(&l->lock);
    bool late = job->given_up;
    pthread_mutex_unlock(&l->lock);
    return late;
}

static void *loader_main(void *arg)
{
    struct loader *l = arg;
    CHECK(l, LOADER_MAGIC);
    thread_kind = THREAD_LOADER;
    tasks_ours();
    for (;;) {
        struct job *job = take(l);
        job->work(job);
        finish(l, job);
    }
    return NULL;
}

void job_step(struct job *job, const char *step)
{
    struct loader *l = job->loader;
    pthread_mutex_lock(&l->lock);
    job->step = step;
    job->step_us = clock_us();
    pthread_mutex_unlock(&l->lock);
}

bool job_step_end(struct job *job)
{
    struct loader *l = job->loader;
    pthread_mutex_lock(&l->lock);
    job->step = NULL;
    if (l->blocked == job) {
        l->blocked = NULL;
        pthread_cond_signal(&l->work);
    }
    bool in_time = !job->given_up;
    pthread_mutex_unlock(&l->lock);
    return in_time;
}

/* ---- Control --------------------------------------------------------------------------------- */

static void timer_arm(struct loader *l, uint64_t us)
{
    struct timeval tv = { .tv_sec = (time_t)(us / 1000000u),
                          .tv_usec = (suseconds_t)(us % 1000000u) };
    l->timer_set = event_add(l->timer, &tv) == 0;
}

/* With the lock. Leaves the current job to its thread; true when another thread must be made. */
static bool give_up(struct loader *l, struct job *job)
{
    job->given_up = true;
    l->current = NULL;
    if (strcmp(job->step, "dlopen") == 0 || strcmp(job->step, "dlclose") == 0)
        l->blocked = job;
    pthread_cond_signal(&l->work);
    return l->idle == 0;
}

static void another_thread(struct loader *l)
{
    struct err err;
    if (thread_start("loader", loader_main, l, &err) != 0)
        log_msg(LOG_ERROR, "loader", "no loader thread is left: %s", err.text);
}

static void look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct loader *l = arg;
    uint64_t limit_us = (uint64_t)l->timeout_ms * 1000u, again_us = 0, elapsed_us = 0;
    struct job *hung = NULL;
    const char *step = NULL;
    bool spawn = false;
    l->timer_set = false;
    pthread_mutex_lock(&l->lock);
    struct job *job = l->current;
    if (job != NULL && job->step != NULL)
        elapsed_us = clock_us() - job->step_us;
    if (job != NULL && job->step != NULL && elapsed_us >= limit_us && job->hung != NULL) {
        hung = job;
        step = job->step;
        spawn = give_up(l, job);
    } else if (job != NULL) {
        again_us = elapsed_us < limit_us ? limit_us - elapsed_us : limit_us;
    }
    if (!list_empty(&l->queue) && again_us == 0) {
        again_us = limit_us;
        spawn = spawn || (l->idle == 0 && l->current == NULL); /* it failed before: try again */
    }
    pthread_mutex_unlock(&l->lock);
    if (spawn)
        another_thread(l);
    if (again_us > 0)
        timer_arm(l, again_us + 1000);
    if (hung != NULL)
        hung->hung(hung, step, elapsed_us);
}

bool loader_leave(struct loader *l, struct job *job)
{
    ON_CONTROL();
    CHECK(l, LOADER_MAGIC);
    const char *step = NULL;
    uint64_t elapsed_us = 0;
    bool spawn = false;
    pthread_mutex_lock(&l->lock);
    if (l->current == job && job->step != NULL && job->hung != NULL) {
        step = job->step;
        elapsed_us = clock_us() - job->step_us;
        spawn = give_up(l, job);
    }
    pthread_mutex_unlock(&l->lock);
    if (step == NULL)
        return false;
    if (spawn)
        another_thread(l);
    job->hung(job, step, elapsed_us);
    return true;
}

int loader_open(struct loader **out, struct event_base *base, struct inbox *control,
                unsigned timeout_ms, struct err *err)
{
    ON_CONTROL();
    struct loader *l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_set(err, "out of memory for the loader");
    l->magic = LOADER_MAGIC;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    list_init(&l->queue);
    l->control = control;
    l->timeout_ms = timeout_ms;
    l->timer = evtimer_new(base, look, l);
    if (l->timer == NULL) {
        free(l);
        return err_set(err, "out of memory for the loader");
    }
    if (thread_start("loader", loader_main, l, err) != 0) {
        event_free(l->timer);
        free(l);
        return -1;
    }
    *out = l;
    return 0;
}

void loader_timeout(struct loader *l, unsigned timeout_ms)
{
    ON_CONTROL();
    l->timeout_ms = timeout_ms;
}

void loader_submit(struct loader *l, struct job *job)
{
    ON_CONTROL();
    CHECK(l, LOADER_MAGIC);
    job->loader = l;
    job->answer.fn = answered;
    job->step = NULL;
    job->given_up = job->late = false;
    job->rc = 0;
    job->stage = NULL;
    job->err.text[0] = '\0';
    pthread_mutex_lock(&l->lock);
    list_add_tail(&l->queue, &job->node);
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
    if (!l->timer_set)
        timer_arm(l, (uint64_t)l->timeout_ms * 1000u);
}

struct job *loader_blocked(struct loader *l)
{
    ON_CONTROL();
    pthread_mutex_lock(&l->lock);
    struct job *job = l->blocked;
    pthread_mutex_unlock(&l->lock);
    return job;
}

/* The threads wait at the lock and the queue for ever: only what is control's is freed. */
void loader_close(struct loader **lp)
{
    struct loader *l = *lp;
    *lp = NULL;
    if (l == NULL)
        return;
    event_free(l->timer);
    l->timer = NULL;
}
