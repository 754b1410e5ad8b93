/*
 * A timer lies on the slot of the tick at which it will be looked at: the one that its deadline
 * falls into, or, when that is more than a turn away, the last one before the wheel comes round.
 * A timer that was postponed is moved when its slot is looked at, not before. One thread.
 */
#include "base/wheel.h"

void wheel_init(struct wheel *w, uint64_t now_ms)
{
    for (size_t i = 0; i < WHEEL_SLOTS; i++)
        list_init(&w->slots[i]);
    w->now_ms = now_ms / WHEEL_TICK_MS * WHEEL_TICK_MS;
    w->set = 0;
}

void wheel_timer_init(struct wheel_timer *t)
{
    *t = (struct wheel_timer){ 0 };
    list_init(&t->node);
}

/* The first tick that is not before the deadline, but after now and within one turn. */
static void put_on_slot(struct wheel *w, struct wheel_timer *t)
{
    uint64_t now = w->now_ms / WHEEL_TICK_MS;
    uint64_t tick = t->deadline_ms / WHEEL_TICK_MS + (t->deadline_ms % WHEEL_TICK_MS != 0);
    if (tick <= now)
        tick = now + 1;
    if (tick >= now + WHEEL_SLOTS)
        tick = now + WHEEL_SLOTS - 1;
    t->slot_ms = tick * WHEEL_TICK_MS;
    list_add_tail(&w->slots[tick % WHEEL_SLOTS], &t->node);
}

void wheel_set(struct wheel *w, struct wheel_timer *t, uint64_t deadline_ms)
{
    bool was_set = t->deadline_ms != 0;
    t->deadline_ms = deadline_ms ? deadline_ms : 1; /* 0 says "not set" */
    if (was_set && t->slot_ms <= t->deadline_ms)
        return; /* postponed: its slot comes by in time */
    if (was_set)
        list_del(&t->node);
    else
        w->set++;
    put_on_slot(w, t);
}

void wheel_clear(struct wheel *w, struct wheel_timer *t)
{
    if (t->deadline_ms == 0)
        return;
    list_del(&t->node);
    t->deadline_ms = 0;
    w->set--;
}

static void run_slot(struct wheel *w, struct list *slot, uint64_t now_ms,
                     void (*expired)(struct wheel_timer *, void *), void *arg)
{
    struct list due, *node;
    list_init(&due);
    list_splice_tail(&due, slot);
    while ((node = list_pop(&due)) != NULL) {
        struct wheel_timer *t = list_entry(node, struct wheel_timer, node);
        if (t->deadline_ms > now_ms || t->slot_ms > w->now_ms) { /* later, or set in this run */
            put_on_slot(w, t);
            continue;
        }
        t->deadline_ms = 0;
        w->set--;
        expired(t, arg);
    }
}

void wheel_run(struct wheel *w, uint64_t now_ms, void (*expired)(struct wheel_timer *t, void *arg),
               void *arg)
{
    uint64_t from = w->now_ms / WHEEL_TICK_MS, to = now_ms / WHEEL_TICK_MS;
    if (to <= from)
        return;
    w->now_ms = to * WHEEL_TICK_MS; /* first: what is set inside must land behind this run */
    uint64_t ticks = to - from < WHEEL_SLOTS ? to - from : WHEEL_SLOTS;
    for (uint64_t i = 1; i <= ticks && w->set > 0; i++)
        run_slot(w, &w->slots[(from + i) % WHEEL_SLOTS], now_ms, expired, arg);
}
