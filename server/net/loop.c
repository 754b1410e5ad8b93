/* See loop.h. */
#include "net/loop.h"

#include <limits.h>
#include <unistd.h>

#define BEAT_MS 500

_Thread_local struct loop *loop_current;

static void on_inbox(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct loop *l = arg;
    loop_enter(l);
    inbox_run(&l->inbox);
    loop_leave(l);
}

static void on_step(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct loop *l = arg;
    loop_enter(l);
    loop_leave(l);
}

void loop_step(struct loop *l)
{
    while (l->marked) {
        l->marked = false;
        if (l->step)
            l->step(l->step_arg);
    }
}

void loop_mark(struct loop *l)
{
    l->marked = true;
    if (l->depth == 0)
        event_active(&l->step_event, 0, 0);
}

/* Comes behind all that is ready in this turn. */
static void on_turn_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct loop *l = arg;
    l->turn_us = 0;
}

NOINLINE void loop_turn_begins(struct loop *l)
{
    l->turn_us = clock_us();
    event_active(&l->turn_event, 0, 0);
}

/* The wheel turns only while something is on it. */
static void tick_arm(struct loop *l)
{
    static const struct timeval tick = { 0, WHEEL_TICK_MS * 1000 };
    if (!l->tick_set && l->wheel.set > 0 && event_add(&l->tick_event, &tick) == 0)
        l->tick_set = true;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct loop *l = arg;
    l->tick_set = false;
    loop_enter(l);
    wheel_run(&l->wheel, clock_ms(), l->expired, l->expired_arg);
    loop_leave(l);
    tick_arm(l);
}

static void on_beat(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct loop *l = arg;
    uint64_t now = clock_us();
    uint64_t lag = now > l->beat_due_us ? now - l->beat_due_us : 0;
    __atomic_store_n(&l->stats.lag_us, lag, __ATOMIC_RELAXED);
    __atomic_store_n(&l->stats.turned_us, now, __ATOMIC_RELAXED);
    l->beat_due_us = now + BEAT_MS * 1000u;
    static const struct timeval beat = { 0, BEAT_MS * 1000 };
    event_add(&l->beat_event, &beat);
}

int loop_init(struct loop *l, unsigned number)
{
    *l = (struct loop){ .magic = LOOP_MAGIC, .number = number };
    list_init(&l->held);
    wheel_init(&l->wheel, clock_ms());
    l->stats.turned_us = clock_us();
    return inbox_open(&l->inbox);
}

int loop_attach(struct loop *l, struct event_base *base)
{
    CHECK(l, LOOP_MAGIC);
    loop_current = l;
    thread_kind = THREAD_WORKER;
    thread_slot = l->number;
    l->base = base;
    __atomic_store_n(&l->tid, (int)gettid(), __ATOMIC_RELAXED);
    l->beat_due_us = clock_us();
    event_assign(&l->inbox_event, base, l->inbox.fd, EV_READ | EV_PERSIST, on_inbox, l);
    event_assign(&l->tick_event, base, -1, 0, on_tick, l);
    event_assign(&l->step_event, base, -1, 0, on_step, l);
    event_assign(&l->beat_event, base, -1, 0, on_beat, l);
    event_assign(&l->turn_event, base, -1, 0, on_turn_over, l);
    if (event_add(&l->inbox_event, NULL) != 0)
        return -1;
    on_beat(-1, 0, l);
    tick_arm(l);
    return 0;
}

void loop_timer(struct loop *l, struct wheel_timer *t, uint64_t deadline_ms)
{
    wheel_set(&l->wheel, t, deadline_ms);
    if (!l->tick_set)
        tick_arm(l);
}
