/* See work.h. */
#include "plugin/work.h"

#include "plugin/doing.h"
#include "plugin/handle.h"
#include "plugin/suspended.h"

#include <stdlib.h>

enum work_kind { WORK_POST, WORK_THEN, WORK_AFTER };

struct work {
    struct list node; /* handle.tasks (due) or handle.timers */
    enum work_kind kind;
    struct handle *h;
    void (*fn)(graft_req *, void *);
    void *arg;
    struct msg msg;       /* POST: comes to the worker; THEN: work has returned */
    void (*work)(void *); /* THEN */
    struct pool_job job;  /* THEN */
    struct event event;   /* AFTER */
    uint64_t due_us;      /* AFTER */
};

static struct work *work_new(struct handle *h, enum work_kind kind, void (*fn)(graft_req *, void *),
                             void *arg)
{
    struct work *t = malloc(sizeof *t);
    if (!t)
        return NULL;
    t->kind = kind;
    t->h = h;
    t->fn = fn;
    t->arg = arg;
    list_init(&t->node);
    return t;
}

static void due(struct work *t)
{
    list_add_tail(&t->h->tasks, &t->node);
}

static void on_message(struct msg *m)
{
    struct work *t = container_of(m, struct work, msg);
    struct exchange *x = t->h->x;
    if (t->kind == WORK_POST) {
        t->h->outstanding++; /* before posts drops: it is the worker's to count from now on */
        atomic_fetch_sub_explicit(&t->h->posts, 1, memory_order_acq_rel);
    }
    due(t);
    exchange_run_now(x);
}

int work_post(struct handle *h, void (*fn)(graft_req *, void *), void *arg)
{
    struct work *t = work_new(h, WORK_POST, fn, arg);
    if (!t)
        return -1;
    t->msg.fn = on_message;
    atomic_fetch_add_explicit(&h->posts, 1, memory_order_acq_rel);
    loop_post(h->chain->loop, &t->msg);
    return 0;
}

/* [pool] */
static void run_work(struct pool_job *job)
{
    struct work *t = container_of(job, struct work, job);
    doing_begin(t->h->version, t->h->route, "offload");
    t->work(t->arg);
    doing_end();
    loop_post(t->h->chain->loop, &t->msg);
}

int work_offload(struct handle *h, void (*work)(void *), void (*then)(graft_req *, void *),
                 void *arg)
{
    struct work *t = work_new(h, WORK_THEN, then, arg);
    if (!t)
        return -1;
    suspended_prepare(h->x);
    t->msg.fn = on_message;
    t->work = work;
    t->job = (struct pool_job){ .run = run_work };
    h->outstanding++;
    h->offloads++;
    bool shadow = h->x->aside & ASIDE_SHADOW;
    if ((shadow ? pool_submit_low : pool_submit)(h->chain->pool, &t->job) == 0)
        return 0;
    h->outstanding--;
    h->offloads--;
    free(t);
    return -1;
}

static int after_add(struct work *t, uint64_t us)
{
    struct timeval tv = { (time_t)(us / 1000000u), (suseconds_t)(us % 1000000u) };
    return event_add(&t->event, &tv);
}

/* libevent counts from a time that it read at the turn's begin, and coarsely: what comes too early
   waits for the rest. */
static void on_after(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct work *t = arg;
    struct loop *l = t->h->chain->loop;
    uint64_t now = clock_us();
    if (now < t->due_us && after_add(t, t->due_us - now) == 0)
        return;
    loop_enter(l);
    list_del(&t->node);
    due(t);
    exchange_run_now(t->h->x);
    loop_leave(l);
}

int work_after(struct handle *h, unsigned ms, void (*fn)(graft_req *, void *), void *arg)
{
    struct work *t = work_new(h, WORK_AFTER, fn, arg);
    if (!t)
        return -1;
    t->due_us = clock_us() + 1 + (uint64_t)ms * 1000u;
    event_assign(&t->event, h->chain->loop->base, -1, 0, on_after, t);
    if (after_add(t, (uint64_t)ms * 1000u) != 0) {
        free(t);
        return -1;
    }
    h->outstanding++;
    list_add_tail(&h->timers, &t->node);
    return 0;
}

NOINLINE void work_drop_timers(struct handle *h)
{
    struct list *n;
    while ((n = list_pop(&h->timers))) {
        struct work *t = list_entry(n, struct work, node);
        event_del(&t->event);
        h->outstanding--;
        free(t);
    }
    /* Fired but not yet run: it waits too. */
    list_each_safe (it, &h->tasks) {
        struct work *t = list_entry(it, struct work, node);
        if (t->kind != WORK_AFTER)
            continue;
        list_del(&t->node);
        h->outstanding--;
        free(t);
    }
}

static const char *name_of(enum work_kind kind)
{
    static const char *const names[] = { "post", "then", "after" };
    return names[kind];
}

NOINLINE void work_run(struct handle *h)
{
    while (!list_empty(&h->tasks)) {
        if (!handle_enter(h))
            return;
        struct work *t = list_entry(list_pop(&h->tasks), struct work, node);
        if (t->kind == WORK_THEN)
            h->offloads--;
        /* An answer from another thread, whose message is on its way, drops it too. */
        bool dropped = t->kind == WORK_AFTER && handle_answered(h);
        if (t->fn && !dropped) {
            handle_doing(h, name_of(t->kind), clock_us());
            t->fn(&h->pub, t->arg);
            handle_done_doing(h);
        }
        handle_leave(h);
        free(t);
        h->outstanding--;
        exchange_take_answers(h->x); /* `after`s behind this one are dropped by an answer */
    }
}

const char *work_waits_for(const struct handle *h)
{
    if (h->offloads)
        return "offload";
    if (!list_empty(&h->timers))
        return "timer";
    if (atomic_load_explicit(&h->posts, memory_order_relaxed) || !list_empty(&h->tasks))
        return "post";
    return h->parked ? "turn" : NULL;
}
