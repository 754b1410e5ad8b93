/*
 * Ends: of the response (sent or cut; counted once), and of the request (nothing owed, nothing
 * running: on_finish, the pins, back to the pool); and what the log is told of them.
 */
#include "plugin/chain_shadow.h"
#include "plugin/exchange.h"
#include "plugin/handle.h"
#include "plugin/suspended.h"
#include "plugin/work.h"

#include "base/log.h"

#include <stdlib.h>

#define FREE_MAX 128 /* exchanges kept for reuse by a worker */

/* ---- Telling the log ------------------------------------------------------------------------- */

void exchange_log(struct exchange *x, struct handle *h, enum log_level level, const char *event,
                  const char *why)
{
    bool shadow = x->aside & ASIDE_SHADOW;
    if (!log_on(level) || (shadow && !shadow_may_log(x)))
        return;
    struct log_line l;
    log_begin(&l, level, event, "%s", why);
    if (shadow)
        log_bool(&l, "shadow", true);
    if (h) {
        log_z(&l, "plugin", h->version->plugin);
        log_z(&l, "version", h->version->desc.version);
        log_z(&l, "id", h->version->id);
    }
    log_z(&l, "route", x->pattern);
    log_str(&l, "method", x->request.head.method);
    log_str(&l, "path", x->request.target.path);
    log_z(&l, "request_id", exchange_id(x));
    log_u64(&l, "age_us", clock_us() - x->request.start_us);
    log_end(&l);
}

/* Whom to blame while the chain stands where it stands. */
struct handle *exchange_culprit(const struct exchange *x)
{
    if (x->responding)
        return x->responding;
    return x->at < x->nlinks ? x->by_link[x->at] : NULL;
}

NOINLINE void exchange_log_access(struct exchange *x)
{
    const struct request *r = &x->request;
    struct log_line l;
    log_begin(&l, LOG_INFO, "access", STR_FMT " " STR_FMT, STR_ARG(r->head.method),
              STR_ARG(r->head.target));
    log_str(&l, "method", r->head.method);
    log_str(&l, "target", r->head.target);
    log_z(&l, "route", x->pattern);
    log_u64(&l, "status", x->cut && !r->response.head_sent ? 0 : r->response.status);
    log_bool(&l, "cut", x->cut);
    log_u64(&l, "bytes", x->bytes_out);
    log_u64(&l, "elapsed_us", x->over_us - r->start_us);
    log_str(&l, "peer", exchange_peer(x));
    log_z(&l, "request_id", exchange_id(x));
    if (x->nlinks && x->links[x->nlinks - 1].handler) {
        log_z(&l, "plugin", x->by_link[x->nlinks - 1]->version->plugin);
        log_z(&l, "id", x->by_link[x->nlinks - 1]->version->id);
    }
    log_end(&l);
}

/* ---- The end of a response ------------------------------------------------------------------- */

/* Once for each request, when its response is over: every version that took part counts it. */
static HOT void count(struct exchange *x, unsigned status_class)
{
    uint64_t us = x->over_us - x->request.start_us;
    unsigned bucket = latency_bucket(us);
    unsigned worker = x->chain->loop->number;
    x->counted = true;
    x->bytes_out = x->request.response.sent;
    COUNTER_ADD(x->chain->loop->stats.responses[status_class], 1);
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct version_cell *cell = &x->handles[i]->version->cells[worker];
        struct version_class *c = &cell->by_class[status_class];
        COUNTER_ADD(cell->bytes_out, x->bytes_out);
        COUNTER_ADD(c->count, 1);
        COUNTER_ADD(c->sum_us, us);
        COUNTER_ADD(c->latency[bucket], 1);
    }
}

HOT void exchange_response_over(struct exchange *x)
{
    x->over = true;
    x->over_us = loop_clock_us(x->chain->loop);
    x->response_state = RESPONSE_SEALED;
    count(x, x->request.response.status / 100);
}

bool exchange_wants_abort(const struct exchange *x, const struct handle *h)
{
    bool wanted = handle_owes(h) ? handle_is_open(h) : x->state != CHAIN_ENDED;
    return wanted && h->on_abort && !h->aborted;
}

void exchange_cut(struct exchange *x, const char *why)
{
    if (x->over)
        return;
    if (x->request.response.file_cut) {
        why = "graft_send_file: the file ended before its length, or could not be read";
        if (exchange_culprit(x))
            handle_misuse(exchange_culprit(x), "%s", why);
    }
    x->over = x->cut = true;
    x->over_us = loop_clock_us(x->chain->loop);
    x->response_state = RESPONSE_SEALED;
    if (x->aside & ASIDE_SHADOW)
        shadow_over(x);
    else
        count(x, 0);
    exchange_log(x, exchange_culprit(x), LOG_DEBUG, "cut", why);
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        atomic_store_explicit(&h->gone, true, memory_order_release);
        h->abort_due = exchange_wants_abort(x, h);
        h->writable_due = h->on_writable && handle_is_open(h);
    }
    x->state = CHAIN_ENDED;
    exchange_wake(x);
}

void exchange_cut_now(struct exchange *x)
{
    const char *why = x->cut_why;
    x->cut_why = NULL;
    if (x->over)
        return;
    request_cut(&x->request);
    exchange_cut(x, why);
}

/* ---- The end of a request -------------------------------------------------------------------- */

static bool is_free(const struct handle *h)
{
    return h->outstanding == 0 && !h->abort_due && !h->writable_due && !handle_owes(h) &&
           atomic_load_explicit(&h->posts, memory_order_acquire) == 0;
}

HOT bool exchange_is_quiet(const struct exchange *x)
{
    for (unsigned i = 0; i < x->nhandles; i++)
        if (!is_free(x->handles[i]))
            return false;
    return true;
}

/* False: a GRAFT_SERIAL plugin is busy. */
static NOINLINE bool call_on_finish(struct handle *h, void (*fn)(graft_req *, void *))
{
    if (!handle_enter(h))
        return false;
    handle_doing(h, "on_finish", clock_us());
    fn(&h->pub, h->version->state_ptr);
    handle_done_doing(h);
    handle_leave(h);
    loop_clock_us(h->chain->loop);
    return true;
}

/* The first time, of one that is quiet. False: a GRAFT_SERIAL plugin is busy. */
HOT bool exchange_finish(struct exchange *x)
{
    bool quiet = !x->finishing;
    if (!x->finishing) {
        x->finishing = true;
        x->finish_at = x->called;
    }
    while (x->finish_at > 0) {
        struct handle *h = x->by_link[x->finish_at - 1];
        void (*fn)(graft_req *, void *) = h->version->desc.on_finish;
        if (fn) {
            if (!call_on_finish(h, fn))
                return false;
            quiet = false;
        }
        x->finish_at--;
    }
    return quiet || exchange_is_quiet(x);
}

HOT void exchange_put_back(struct exchange *x)
{
    struct chain *c = x->chain;
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        struct version *v = h->version;
        if (UNLIKELY(h->suspended))
            suspended_remove(h);
        handle_free(h);
        version_unpin(&v, c->loop);
    }
    if (UNLIKELY(x->deadline.deadline_ms))
        wheel_clear(&c->loop->wheel, &x->deadline);
    if (UNLIKELY(x->backlog.data != NULL))
        buf_fini(&x->backlog);
    list_del(&x->ready);
    list_del(&x->node);
    request_reset(&x->request);
    if (UNLIKELY(c->nfree >= FREE_MAX)) {
        x->magic = 0;
        free(x);
        return;
    }
    c->nfree++;
    list_add_head(&c->free, &x->node);
}

HOT void exchange_release(struct exchange *x)
{
    struct loop *l = x->chain->loop;
    exchange_put_back(x);
    COUNTER_ADD(l->stats.in_flight, (uint64_t)-1);
}

void exchange_end_aside(struct exchange *x)
{
    if (x->aside & ASIDE_SHADOW) {
        shadow_end(x);
        return;
    }
    if (x->aside & ASIDE_LOG)
        exchange_log_access(x);
    if (x->aside & ASIDE_TAP)
        shadow_launch(x);
    exchange_release(x);
}

NOINLINE const char *exchange_waits_for(const struct exchange *x)
{
    for (unsigned i = 0; i < x->nhandles; i++) {
        const char *what = work_waits_for(x->handles[i]);
        if (what)
            return what;
    }
    if (x->finishing)
        return "on_finish";
    if (x->state == CHAIN_HELD)
        return "handover";
    if (!x->over && x->state == CHAIN_BODY)
        return "body";
    if (!x->over && x->response_state == RESPONSE_SEALED)
        return "client";
    if (!x->over && x->response_state == RESPONSE_WAITING)
        return "on_response";
    if (!x->over && x->request.session && x->request.session->conn.write_blocked)
        return "client";
    if (!x->over && x->on_body && !x->body_last && !x->body_user_pause)
        return "body";
    return x->at < x->nlinks && x->links[x->at].handler ? "done" : "continue";
}
