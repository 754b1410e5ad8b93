/*
 * Handles: what a plugin holds of a request. Their memory is type-stable (never given back), and a
 * handle that was LATER rests behind at least HANDLES_REST others before it is used again, so that
 * a late call from another thread finds a dead handle and not another client's request.
 *
 * What is owed lies in one atomic word for each role: a plugin may answer from any thread, from the
 * moment its callback begins. The worker alone draws the consequences.
 */
#ifndef GRAFT_PLUGIN_HANDLE_H
#define GRAFT_PLUGIN_HANDLE_H

#include "plugin/exchange.h"

/* All that may ever rest, so that serving does not grow the process. 0, or -1: no memory. */
int handle_prepare(struct chain *c);
struct handle *handle_new(struct chain *c); /* NULL: no memory */
void handle_free(struct handle *h);

/* The callback begins: an answer in this role is accepted from now on. */
static inline void handle_open(struct handle *h, enum role role)
{
    HOT_REQUIRE((atomic_load_explicit(&h->owed[role], memory_order_relaxed) & OWED_STATE) ==
                OWED_NOTHING);
    atomic_store_explicit(&h->owed[role], OWED_OPEN, memory_order_release);
}
/* It returned, not LATER: an answer that was given all the same is misuse. HOW_ABORT if it was
   graft_abort, which holds nevertheless; else 0. */
unsigned handle_close(struct handle *h, enum role role);
/* It returned LATER. True: the answer is here already (*how). */
bool handle_later(struct handle *h, enum role role, unsigned *how);
static inline uint32_t handle_owed(const struct handle *h, enum role role) /* its OWED_STATE */
{
    return atomic_load_explicit(&h->owed[role], memory_order_acquire) & OWED_STATE;
}

static inline bool handle_owes_as(const struct handle *h, enum role role)
{
    return handle_owed(h, role) != OWED_NOTHING;
}

static inline bool handle_owes(const struct handle *h)
{
    return handle_owes_as(h, AS_HANDLER) || handle_owes_as(h, AS_MIDDLEWARE);
}

/* Of what it owes, something was not answered. */
static inline bool handle_is_open(const struct handle *h)
{
    return handle_owed(h, AS_HANDLER) == OWED_OPEN || handle_owed(h, AS_MIDDLEWARE) == OWED_OPEN;
}

/* An answer was taken, and not yet drawn. */
static inline bool handle_answered(const struct handle *h)
{
    return handle_owed(h, AS_HANDLER) == OWED_TAKEN || handle_owed(h, AS_MIDDLEWARE) == OWED_TAKEN;
}

/* The worker's own look for answers that were given on this thread after LATER. */
bool handle_take(struct handle *h, enum role role, unsigned *how);

/* [any] graft_done, graft_continue, graft_abort. 0, or -1: nothing was owed (logged). */
int handle_answer(struct handle *h, enum role role, unsigned how, const char *function);
void handle_abort(struct handle *h);

/* The plugin's turn (GRAFT_SERIAL). False: parked, exchange_run comes again when it is granted. */
bool handle_enter_serial(struct handle *h, struct serial *s);
static inline bool handle_enter(struct handle *h)
{
    struct serial *s = h->version->serial;
    return LIKELY(!s) || handle_enter_serial(h, s);
}
bool handle_try_enter(struct handle *h); /* without parking */
static inline void handle_leave(struct handle *h)
{
    if (UNLIKELY(h->version->serial != NULL))
        serial_leave(h->version->serial);
}

/* Logs that the plugin of this handle broke the contract. [any] */
COLD void handle_misuse(const struct handle *h, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Plugin code begins and ends on this worker: for naming a callback that does not return. */
static inline void handle_doing(struct handle *h, const char *callback, uint64_t since_us)
{
    struct loop_doing *d = &h->chain->loop->doing;
    __atomic_store_n(&d->since_us, since_us, __ATOMIC_RELAXED);
    __atomic_store_n(&d->route, h->route, __ATOMIC_RELAXED);
    __atomic_store_n(&d->callback, callback, __ATOMIC_RELAXED);
    __atomic_store_n(&d->version, h->version, __ATOMIC_RELEASE);
}

static inline void handle_done_doing(struct handle *h)
{
    __atomic_store_n(&h->chain->loop->doing.version, NULL, __ATOMIC_RELEASE);
}

#endif
