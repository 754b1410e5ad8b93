/*
 * The engine of a request: advances the chain as far as it goes, then the response, then what
 * plugins are to be told. Everything that happens to a request marks something and calls
 * exchange_run, which never recurses: no plugin is called from inside a call that a plugin made.
 */
#include "plugin/chain.h"
#include "plugin/chain_shadow.h"
#include "plugin/exchange.h"
#include "plugin/handle.h"
#include "plugin/suspended.h"
#include "plugin/work.h"

#include <sys/random.h>

/* ---- Marks ----------------------------------------------------------------------------------- */

void exchange_wake(struct exchange *x)
{
    if (x->running) {
        x->again = true;
        return;
    }
    if (list_empty(&x->ready)) {
        list_add_tail(&x->chain->ready, &x->ready);
        loop_mark(x->chain->loop);
    }
}

/* As exchange_wake, when others have had their turn. */
static void later(struct exchange *x)
{
    struct chain *c = x->chain;
    if (!list_empty(&x->ready))
        return;
    list_add_tail(&c->later, &x->ready);
    if (!c->later_sent)
        loop_post(c->loop, &c->later_msg);
    c->later_sent = true;
}

static void on_later(struct msg *m)
{
    struct chain *c = container_of(m, struct chain, later_msg);
    c->later_sent = false;
    list_splice_tail(&c->ready, &c->later);
    loop_mark(c->loop);
}

void exchange_answer(struct exchange *x, unsigned status, const char *why)
{
    x->answer_status = status;
    x->answer_why = why;
    exchange_wake(x);
}

/* ---- What plugins are told ------------------------------------------------------------------- */

static NOINLINE void notify(struct handle *h, bool *due, void (*fn)(graft_req *, void *), void *arg,
                            const char *name)
{
    if (!*due || !handle_enter(h))
        return;
    *due = false;
    handle_doing(h, name, clock_us());
    fn(&h->pub, arg);
    handle_done_doing(h);
    handle_leave(h);
    h->x->again = true;
}

/* Who waited for room has it. A client that takes all at once, or one of HEAD to whom nothing goes,
   must not keep the loop at one stream: on_writable is called once in a turn. */
static NOINLINE void look_writable(struct exchange *x, struct handle *h)
{
    if (x->told) {
        later(x);
        return;
    }
    h->blocked = false;
    h->writable_due = true;
}

static void run_notices(struct exchange *x)
{
    size_t room = x->chain->http->limits.send_bytes / 2;
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        if (UNLIKELY(handle_answered(h)))
            continue; /* nothing is told to who has ended it; drawing the answer forgets it */
        /* What an on_response waits for cannot leave before it has answered: it goes on at once. */
        bool own = x->response_state == RESPONSE_WAITING && x->responding == h;
        if (UNLIKELY(h->blocked) && h->on_writable && !x->over &&
            (own || response_pending(&x->request) <= room))
            look_writable(x, h);
        if (UNLIKELY(h->abort_due)) {
            h->aborted = true;
            notify(h, &h->abort_due, h->on_abort, h->on_abort_arg, "on_abort");
        }
        if (UNLIKELY(h->writable_due) && !handle_answered(h)) {
            notify(h, &h->writable_due, h->on_writable, h->on_writable_arg, "on_writable");
            x->told = true;
        }
    }
}

/* ---- Deadlines ------------------------------------------------------------------------------- */

/* timeouts_ms.handler runs while it is not the client's body that is waited for; once more for an
   on_response that is LATER on the 504. */
static NOINLINE void set_deadline(struct exchange *x)
{
    struct chain *c = x->chain;
    const struct request *r = &x->request;
    bool body = r->body_mode != BODY_UNWANTED && !r->body_complete && !r->body_paused;
    bool none = x->over || r->response.head_sent || x->response_state == RESPONSE_SEALED;
    bool again = x->timed_out && x->response_state == RESPONSE_WAITING;
    if (x->aside & ASIDE_SHADOW) {
        shadow_set_deadline(x);
        return;
    }
    if (x->user_deadline && !again) {
        if (none || !x->user_deadline_ms)
            wheel_clear(&c->loop->wheel, &x->deadline);
        else
            loop_timer(c->loop, &x->deadline, x->user_deadline_ms);
    } else if (none || (body && !again) || (x->timed_out && !again) ||
               !c->http->timeouts_ms.handler) {
        wheel_clear(&c->loop->wheel, &x->deadline);
    } else if (!x->deadline.deadline_ms) {
        loop_timer(c->loop, &x->deadline, clock_ms() + c->http->timeouts_ms.handler);
    }
}

void chain_expired(struct wheel_timer *t, uint64_t now_ms)
{
    (void)now_ms;
    struct exchange *x = container_of(t, struct exchange, deadline);
    CHECK(x, EXCHANGE_MAGIC);
    x->chain->http->now_us = loop_clock_us(x->chain->loop);
    if ((x->aside & ASIDE_SHADOW) && shadow_expired(x))
        return;
    x->timed_out = true;
    if (x->user_deadline)
        x->user_deadline_ms = 0;
    exchange_answer(x, 504, "no answer within the deadline (timeouts_ms.handler)");
}

/* ---- The engine ------------------------------------------------------------------------------ */

static void settle(struct exchange *x)
{
    if (x->over && (x->finishing || exchange_is_quiet(x))) {
        x->running = true; /* nothing that on_finish does may run us again */
        bool finished = exchange_finish(x);
        x->running = false;
        if (finished) {
            if (UNLIKELY(x->aside != 0))
                exchange_end_aside(x);
            else
                exchange_release(x);
            return;
        }
    }
    suspended_add(x, exchange_waits_for(x));
    set_deadline(x);
    loop_clock_us(x->chain->loop); /* its plugins may have taken long */
}

HOT void exchange_run(struct exchange *x)
{
    HOT_CHECK(x, EXCHANGE_MAGIC);
    if (UNLIKELY(x->running)) {
        x->again = true;
        return;
    }
    x->running = true;
    x->told = false;
    do {
        x->again = false;
        exchange_take_answers(x);
        if (UNLIKELY(x->cut_why != NULL))
            exchange_cut_now(x);
        for (unsigned i = 0; i < x->nhandles; i++)
            if (UNLIKELY(!list_empty(&x->handles[i]->tasks)))
                work_run(x->handles[i]);
        if (UNLIKELY(x->answer_status))
            exchange_answer_now(x);
        if (UNLIKELY(x->on_body != NULL))
            exchange_run_body(x);
        if (x->state != CHAIN_ENDED)
            exchange_run_chain(x);
        exchange_run_response(x);
        if (UNLIKELY(x->cut_why != NULL))
            exchange_cut_now(x);
        run_notices(x);
    } while (UNLIKELY(x->again));
    x->running = false;
    settle(x);
}

bool chain_step(struct chain *c)
{
    if (list_empty(&c->ready))
        return false;
    c->http->now_us = loop_clock_us(c->loop);
    struct list *n;
    while ((n = list_pop(&c->ready))) {
        struct exchange *x = list_entry(n, struct exchange, ready);
        if (UNLIKELY(x->aside & ASIDE_SHADOW))
            shadow_run(x);
        else
            exchange_run(x);
    }
    return true;
}

/* ---- One for each worker --------------------------------------------------------------------- */

int chain_init(struct chain *c, struct loop *loop, struct http *http, struct pool *pool,
               unsigned nworkers, const struct config *fallback, struct err *err)
{
    *c = (struct chain){
        .loop = loop, .http = http, .pool = pool, .nworkers = nworkers, .fallback = fallback
    };
    list_init(&c->ready);
    list_init(&c->later);
    c->later_msg.fn = on_later;
    list_init(&c->live);
    list_init(&c->free);
    list_init(&c->handles);
    list_init(&c->resting);
    canary_dice_init(&c->dice, loop->number);
    shadows_init(&c->shadows, loop);
    if (getrandom(c->id_seed, sizeof c->id_seed, 0) != (ssize_t)sizeof c->id_seed)
        return err_set(err, "the kernel gives no random numbers for request ids");
    if (handle_prepare(c) != 0)
        return err_set(err, "no memory for a worker's handles");
    return 0;
}

void chain_cut_version(struct version *v, struct loop *l)
{
    ON_LOOP(l);
    struct version_cell *cell = &v->cells[l->number];
    shadows_leave(l, v);
    list_each (n, &cell->suspended) {
        struct exchange *x = list_entry(n, struct handle, node)->x;
        if (x->over || x->cut_why)
            continue;
        x->cut_why = "its version was retired";
        exchange_log(x, list_entry(n, struct handle, node), LOG_WARN, "cut", x->cut_why);
        exchange_wake(x);
    }
}
