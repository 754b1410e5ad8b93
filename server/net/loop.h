/*
 * One worker's event loop as everything below run/ sees it: its number, its libevent base, its
 * inbox and wheel, and the figures that the control thread reads. Only the worker's own thread
 * touches it, but for the inbox (anyone may send) and the fields marked [read by any].
 */
#ifndef GRAFT_NET_LOOP_H
#define GRAFT_NET_LOOP_H

#include "base/base.h"
#include "base/clock.h"
#include "base/inbox.h"
#include "base/list.h"
#include "base/wheel.h"

#include <event2/event.h>
#include <event2/event_struct.h>

struct version;
struct generation;
struct shadows;
struct handover;

/* What runs on this worker right now, for naming a callback that does not return. Written before
   and after each plugin callback; pointers are to things that only the control thread frees.
   [read by any, relaxed; only the control thread may follow the pointers] */
struct loop_doing {
    _Alignas(CACHE_LINE) struct version *version; /* NULL: no plugin code */
    const char *route;                            /* interned pattern; NULL: none */
    const char *callback;                         /* "handler", "on_request", ...; a literal */
    uint64_t since_us;
};

/* Counters of this worker [read by any through COUNTER_READ]. */
struct loop_stats {
    _Alignas(CACHE_LINE) uint64_t accepted, closed; /* connections; now = accepted - closed */
    uint64_t closed_by_us; /* of `closed`: the server ended it (timeout, error, drain) */
    uint64_t requests;     /* requests whose head was complete */
    uint64_t in_flight;    /* of them, not yet over */
    uint64_t responses[6]; /* by status class; [0] = cut without an answer */
    uint64_t refused;      /* the guard's refusals */
    uint64_t bytes_in, bytes_out;
    uint64_t accept_paused; /* times accepting stood still for want of descriptors or limits */
    uint64_t misuse;        /* contract violations seen */
    uint64_t turned_us;     /* clock_us() when the loop last turned; a heartbeat twice a second */
    uint64_t lag_us;        /* how late the last heartbeat came */
};

/* wheel_timer.kind: what a timer on the loop's wheel belongs to. */
enum { TIMER_CONN = 0, TIMER_EXCHANGE = 1 };

#define LOOP_MAGIC 0x6c6f6f70u

struct loop {
    unsigned magic;
    unsigned number;
    int tid; /* of its thread [read by any, relaxed] */
    struct event_base *base;
    struct inbox inbox;
    struct wheel wheel;
    struct generation *generation; /* what new requests here are given; see plugin/adopt.h */
    struct handover *handover;     /* plugin/handover.h: some new requests are held; else NULL */
    struct list held;              /* these */
    struct shadows *shadows;       /* plugin/shadows.h; NULL: none are made here */
    unsigned config_number;        /* of its configuration: of no other one; 0 before the first */
    struct loop_doing doing;
    struct loop_stats stats;
    struct event inbox_event, tick_event, beat_event, turn_event;
    bool tick_set;
    uint64_t turn_us; /* the clock as last read in this turn of the loop; 0: not yet */
    uint64_t beat_due_us;
    void (*expired)(struct wheel_timer *t, void *arg); /* the wheel's, given by the worker */
    void *expired_arg;

    /* What was only marked while plugin code ran is done by `step`, when no frame of ours (and so
       none of a plugin's that we called) is on the stack: see loop_enter. */
    unsigned depth;
    bool marked;
    void (*step)(void *arg);
    void *step_arg;
    struct event step_event;
};

extern _Thread_local struct loop *loop_current; /* NULL off the workers */

#define ON_LOOP(l) REQUIRE(loop_current == (l))

int loop_init(struct loop *l, unsigned number);           /* before its thread starts */
int loop_attach(struct loop *l, struct event_base *base); /* on its thread: events are added */
/* Around everything that an event makes us do; the outermost loop_leave runs `step` if something
   was marked. */
static inline void loop_enter(struct loop *l)
{
    l->depth++;
}
void loop_step(struct loop *l);
static inline void loop_leave(struct loop *l)
{
    if (l->marked && l->depth == 1)
        loop_step(l);
    l->depth--;
}
/* Something was marked: `step` will run, now at the end of what we are in, or, when a plugin's own
   event called us, as an event of its own. */
void loop_mark(struct loop *l);

void loop_timer(struct loop *l, struct wheel_timer *t, uint64_t deadline_ms);

/*
 * The time. Reading the clock is a twentieth of what a plain request costs, and the connections
 * that are ready in one turn of the loop are served one after the other: the time at which one was
 * done with is when the next begins. So loop_now_us reads the clock once a turn, and else answers
 * what loop_clock_us, which always reads it, has last told; who has let plugin code run reads it.
 */
void loop_turn_begins(struct loop *l);
static inline uint64_t loop_clock_us(struct loop *l)
{
    uint64_t now = clock_us();
    if (LIKELY(l->turn_us))
        l->turn_us = now;
    return now;
}
static inline uint64_t loop_now_us(struct loop *l)
{
    if (UNLIKELY(!l->turn_us))
        loop_turn_begins(l);
    return l->turn_us;
}

static inline void loop_post(struct loop *l, struct msg *m)
{
    inbox_send(&l->inbox, m);
}

#endif
