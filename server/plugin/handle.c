/* See handle.h. */
#include "plugin/handle.h"

#include "base/log.h"
#include "plugin/chain_shadow.h"
#include "plugin/work.h"

#include <stdio.h>
#include <stdlib.h>

#define SLAB 64

static void on_answer(struct msg *m, enum role role);

static void on_handler_answer(struct msg *m)
{
    on_answer(m, AS_HANDLER);
}

static void on_middleware_answer(struct msg *m)
{
    on_answer(m, AS_MIDDLEWARE);
}

/* The turn was given to us: use it, or give it back when what it was wanted for is gone. */
static void on_granted(struct msg *m)
{
    struct handle *h = container_of(m, struct handle, granted);
    CHECK(h, HANDLE_MAGIC);
    struct exchange *x = h->x;
    h->parked = false;
    h->has_turn = true;
    exchange_run_now(x);
    if (!h->has_turn)
        return;
    h->has_turn = false;
    h->outstanding--;
    serial_leave(h->version->serial);
    exchange_run(x);
}

static void waiter_granted(struct serial_waiter *w)
{
    struct handle *h = container_of(w, struct handle, waiter);
    loop_post(h->chain->loop, &h->granted);
}

static NOINLINE int slab_new(struct chain *c)
{
    struct handle *slab = calloc(SLAB, sizeof *slab);
    if (!slab)
        return -1;
    for (int i = 0; i < SLAB; i++) {
        struct handle *h = &slab[i];
        h->magic = HANDLE_MAGIC;
        h->chain = c;
        h->answer[AS_HANDLER].fn = on_handler_answer;
        h->answer[AS_MIDDLEWARE].fn = on_middleware_answer;
        h->waiter.granted = waiter_granted;
        h->granted.fn = on_granted;
        list_init(&h->tasks);
        list_init(&h->timers);
        list_init(&h->waiter.node);
        list_add_tail(&c->handles, &h->node);
    }
    return 0;
}

int handle_prepare(struct chain *c)
{
    for (unsigned n = 0; n <= HANDLES_REST; n += SLAB)
        if (slab_new(c) != 0)
            return -1;
    return 0;
}

HOT struct handle *handle_new(struct chain *c)
{
    if (UNLIKELY(list_empty(&c->handles))) {
        if (c->nresting > HANDLES_REST) {
            c->nresting--;
            return list_entry(list_pop(&c->resting), struct handle, node);
        }
        if (slab_new(c) != 0)
            return NULL;
    }
    return list_entry(list_pop(&c->handles), struct handle, node);
}

HOT void handle_free(struct handle *h)
{
    HOT_CHECK(h, HANDLE_MAGIC);
    struct chain *c = h->chain;
    h->x = NULL;
    h->on_abort = NULL;
    h->on_writable = NULL;
    h->scratch = NULL;
    h->abort_due = h->aborted = h->writable_due = h->blocked = false;
    if (UNLIKELY(h->was_later)) {
        h->was_later = false;
        c->nresting++;
        list_add_tail(&c->resting, &h->node);
    } else {
        list_add_head(&c->handles, &h->node);
    }
}

/* ---- What is owed ---------------------------------------------------------------------------- */

static unsigned how_of(uint32_t owed)
{
    return (owed & OWED_HOW_MASK) >> OWED_HOW_SHIFT;
}

/* An answer that was given off the worker and is of no use: its message must come home before the
   handle may rest. */
static COLD void await_stray(struct handle *h, enum role role)
{
    h->stray[role] = true;
    h->was_later = true;
    h->outstanding++;
}

HOT unsigned handle_close(struct handle *h, enum role role)
{
    uint32_t was = atomic_exchange_explicit(&h->owed[role], OWED_NOTHING, memory_order_acq_rel);
    if ((was & OWED_STATE) != OWED_TAKEN)
        return 0;
    if (was & OWED_FOREIGN)
        await_stray(h, role);
    if (how_of(was) == HOW_ABORT)
        return HOW_ABORT;
    handle_misuse(h, "%s was called but the callback did not return GRAFT_LATER",
                  role == AS_HANDLER ? "graft_done" : "graft_continue");
    return 0;
}

bool handle_take(struct handle *h, enum role role, unsigned *how)
{
    uint32_t owed = atomic_load_explicit(&h->owed[role], memory_order_acquire);
    if ((owed & OWED_STATE) != OWED_TAKEN || (owed & OWED_FOREIGN))
        return false;
    atomic_store_explicit(&h->owed[role], OWED_NOTHING, memory_order_relaxed);
    *how = how_of(owed);
    return true;
}

bool handle_later(struct handle *h, enum role role, unsigned *how)
{
    h->was_later = true;
    return handle_take(h, role, how);
}

/* On the worker: an answer that another thread gave has arrived. */
static void on_answer(struct msg *m, enum role role)
{
    struct handle *h = role == AS_HANDLER ? container_of(m, struct handle, answer[AS_HANDLER])
                                          : container_of(m, struct handle, answer[AS_MIDDLEWARE]);
    CHECK(h, HANDLE_MAGIC);
    struct exchange *x = h->x;
    if (h->stray[role]) {
        h->stray[role] = false;
        h->outstanding--;
    } else {
        uint32_t owed =
            atomic_exchange_explicit(&h->owed[role], OWED_NOTHING, memory_order_acq_rel);
        exchange_answered(x, h, role, how_of(owed));
    }
    exchange_run_now(x);
}

/* [any] Takes the open place; false: there is none. */
static bool take_open(struct handle *h, enum role role, unsigned how)
{
    bool foreign = loop_current != h->chain->loop;
    uint32_t open = OWED_OPEN;
    uint32_t taken = OWED_TAKEN | how << OWED_HOW_SHIFT | (foreign ? (uint32_t)OWED_FOREIGN : 0u);
    if (!atomic_compare_exchange_strong_explicit(&h->owed[role], &open, taken, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return false;
    if (foreign) {
        loop_post(h->chain->loop, &h->answer[role]);
    } else {
        h->x->answered = true;
        exchange_wake(h->x);
    }
    return true;
}

int handle_answer(struct handle *h, enum role role, unsigned how, const char *function)
{
    if (take_open(h, role, how))
        return 0;
    handle_misuse(h,
                  "%s: nothing is owed: it was answered already, is not LATER, or is owed by "
                  "the other function",
                  function);
    return -1;
}

void handle_abort(struct handle *h)
{
    if (!take_open(h, AS_HANDLER, HOW_ABORT) && !take_open(h, AS_MIDDLEWARE, HOW_ABORT))
        handle_misuse(h, "graft_abort: nothing is owed: it was answered already or is not LATER");
}

/* ---- The plugin's turn ----------------------------------------------------------------------- */

NOINLINE bool handle_enter_serial(struct handle *h, struct serial *s)
{
    if (h->has_turn) {
        h->has_turn = false;
        h->outstanding--;
        return true;
    }
    if (h->parked)
        return false;
    h->parked = true; /* before: the grant may come at once, from another thread */
    h->outstanding++;
    if (!serial_enter(s, &h->waiter))
        return false;
    h->parked = false;
    h->outstanding--;
    return true;
}

bool handle_try_enter(struct handle *h)
{
    struct serial *s = h->version->serial;
    if (!s)
        return true;
    if (h->has_turn)
        return handle_enter(h);
    return !h->parked && serial_try(s);
}

/* ---- Misuse ---------------------------------------------------------------------------------- */

void handle_misuse(const struct handle *h, const char *fmt, ...)
{
    char what[512];
    va_list ap;
    bool here = loop_current == h->chain->loop && h->x != NULL;
    if (here && (h->x->aside & ASIDE_SHADOW) && !shadow_may_log(h->x))
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    /* The version through the table that the caller came by: h may be resting. */
    const struct version *v = container_of(h->pub.host, const struct version, host);
    if (loop_current)
        COUNTER_ADD(loop_current->stats.misuse, 1);
    struct log_line l;
    log_begin(&l, LOG_ERROR, "misuse", "plugin %s broke the contract: %s", v->plugin, what);
    log_z(&l, "plugin", v->plugin);
    log_z(&l, "version", v->desc.version);
    log_z(&l, "id", v->id);
    log_z(&l, "route", h->route);
    log_z(&l, "what", what);
    log_end(&l);
}
