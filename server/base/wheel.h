/*
 * Deadlines by the ten thousand: a hashed timing wheel, O(1) to set and clear, no allocation.
 * Coarse (WHEEL_TICK_MS): for timeouts of connections, not for graft_after. Postponing a timer
 * that is set only writes its deadline; the slot is looked at again when it comes by. One thread.
 */
#ifndef GRAFT_BASE_WHEEL_H
#define GRAFT_BASE_WHEEL_H

#include "base/base.h"
#include "base/list.h"

#define WHEEL_SLOTS   512
#define WHEEL_TICK_MS 50

struct wheel_timer {
    struct list node;     /* on a slot, or alone */
    uint64_t deadline_ms; /* clock_ms(); 0 = not set */
    uint64_t slot_ms;     /* when its slot is looked at */
    unsigned kind;        /* the owner's: what it lies in; the wheel leaves it alone */
};

struct wheel {
    struct list slots[WHEEL_SLOTS];
    uint64_t now_ms; /* the tick that was last run */
    size_t set;      /* timers on slots */
};

void wheel_init(struct wheel *w, uint64_t now_ms);
void wheel_timer_init(struct wheel_timer *t);
void wheel_set(struct wheel *w, struct wheel_timer *t, uint64_t deadline_ms); /* again = moves it */
void wheel_clear(struct wheel *w, struct wheel_timer *t);
/* Calls `expired` for every timer whose deadline has come (it is clear by then, and may be set
   again inside). */
void wheel_run(struct wheel *w, uint64_t now_ms, void (*expired)(struct wheel_timer *t, void *arg),
               void *arg);

#endif
