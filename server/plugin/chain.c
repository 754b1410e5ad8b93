/*
 * The engine of a request: advances the chain as far as it goes, then the response, then what
 * plugins are to be told. Everything that happens to a request marks something and calls
 * exchange_run, which never recurses: no plugin is called from inside a call that a plugin made.
 */
#include "plugin/chain.h"
#include "plugin/exchange.h"
#include "plugin/handle.h"
#include "plugin/suspended.h"
#include "plugin/work.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#define FREE_MAX 128 /* exchanges kept for reuse by a worker */

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

void exchange_answer(struct exchange *x, unsigned status, const char *why)
{
    x->answer_status = status;
    x->answer_why = why;
    exchange_wake(x);
}

static void end_chain(struct exchange *x)
{
    x->state = CHAIN_ENDED;
}

/* ---- Telling the log ------------------------------------------------------------------------- */

static void log_request(struct exchange *x, struct handle *h, enum log_level level,
                        const char *event, const char *why)
{
    if (!log_on(level))
        return;
    struct log_line l;
    log_begin(&l, level, event, "%s", why);
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
static struct handle *current(const struct exchange *x)
{
    if (x->responding)
        return x->responding;
    return x->at < x->nlinks ? x->by_link[x->at] : NULL;
}

static void log_access(struct exchange *x)
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
static void count(struct exchange *x, unsigned status_class)
{
    uint64_t us = x->over_us - x->request.start_us;
    unsigned bucket = latency_bucket(us);
    bool error = status_class == 0 || status_class == 5;
    unsigned worker = x->chain->loop->number;
    x->counted = true;
    x->bytes_out = x->request.response.sent;
    COUNTER_ADD(x->chain->loop->stats.responses[status_class], 1);
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct version_cell *cell = &x->handles[i]->version->cells[worker];
        COUNTER_ADD(cell->served, 1);
        COUNTER_ADD(cell->errors, error ? 1u : 0u);
        COUNTER_ADD(cell->bytes_out, x->bytes_out);
        COUNTER_ADD(cell->by_class[status_class], 1);
        COUNTER_ADD(cell->latency[bucket], 1);
        COUNTER_ADD(cell->latency_sum_us, us);
    }
}

static void response_is_over(struct exchange *x)
{
    x->over = true;
    x->over_us = clock_us();
    x->response_state = RESPONSE_SEALED;
    count(x, x->request.response.status / 100);
}

static bool wants_abort(const struct exchange *x, const struct handle *h)
{
    return h->on_abort && !h->aborted && (x->state != CHAIN_ENDED || handle_owes(h));
}

void exchange_cut(struct exchange *x, const char *why)
{
    if (x->over)
        return;
    x->over = x->cut = true;
    x->over_us = clock_us();
    x->response_state = RESPONSE_SEALED;
    count(x, 0);
    log_request(x, current(x), LOG_DEBUG, "cut", why);
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        atomic_store_explicit(&h->gone, true, memory_order_release);
        h->abort_due = wants_abort(x, h);
        h->writable_due = h->on_writable && handle_owes(h);
    }
    x->state = CHAIN_ENDED;
    exchange_wake(x);
}

static void cut_now(struct exchange *x)
{
    const char *why = x->cut_why;
    x->cut_why = NULL;
    if (x->over)
        return;
    request_cut(&x->request);
    exchange_cut(x, why);
}

/* ---- Answers of the server's own ------------------------------------------------------------- */

/* The response becomes the server's: who still owes can no longer write, and is told. */
static void replace(struct exchange *x, unsigned status, const char *detail)
{
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        if (wants_abort(x, h))
            h->abort_due = true;
        if (handle_owes(h) && h->on_writable)
            h->writable_due = true;
        if (handle_owes(h) && x->timed_out)
            atomic_store_explicit(&h->gone, true, memory_order_release);
    }
    x->replaced = true;
    x->flush = false;
    response_problem(&x->request, status, detail);
    end_chain(x);
}

static void answer_now(struct exchange *x)
{
    unsigned status = x->answer_status;
    x->answer_status = 0;
    if (x->over || x->response_state == RESPONSE_SEALED)
        return;
    log_request(x, current(x), status >= 500 ? LOG_ERROR : LOG_INFO, "request_failed",
                x->answer_why);
    if (x->request.response.head_sent) {
        x->cut_why = x->answer_why;
        cut_now(x);
        return;
    }
    replace(x, status, x->answer_why);
    if (x->response_state == RESPONSE_WAITING)
        x->response_state = RESPONSE_ON_RESPONSE; /* past the one that still owes */
}

/* A plugin said GRAFT_ERROR, or something that is no answer. */
static void fail(struct exchange *x, struct handle *h, const char *where)
{
    char why[600];
    snprintf(why, sizeof why, "%s: %s", where,
             x->fail_text ? x->fail_text : "GRAFT_ERROR without a reason (graft_fail_req)");
    log_request(x, h, LOG_ERROR, "request_failed", why);
    if (x->request.response.head_sent) {
        x->cut_why = "the plugin failed after the head had left";
        return;
    }
    response_problem(&x->request, 500, NULL);
}

static graft_next checked(struct handle *h, const char *where, unsigned next)
{
    if (next <= GRAFT_ERROR)
        return (graft_next)next;
    handle_misuse(h, "%s answered %u, which is no graft_next", where, next);
    return GRAFT_ERROR;
}

/* ---- The chain ------------------------------------------------------------------------------- */

/* Calls a handler or middleware function in its role; what it answered, or GRAFT_LATER when the
   answer is still owed. An abort has been marked. */
static unsigned call(struct exchange *x, struct handle *h, enum role role, graft_handler *fn,
                     const char *where)
{
    bool nested = handle_owes_as(h, role); /* on_response while its on_request is LATER */
    if (!nested)
        handle_open(h, role);
    handle_doing(h, where, x->chain->http->now_us);
    unsigned next = (unsigned)fn(&h->pub, h->version->state_ptr);
    handle_done_doing(h);
    handle_leave(h);
    if (nested) {
        if (next != GRAFT_LATER)
            return next;
        handle_misuse(h, "%s returned GRAFT_LATER while its on_request still owes", where);
        return GRAFT_NEXT;
    }
    unsigned how = next;
    if (next == GRAFT_LATER) {
        if (!handle_later(h, role, &how))
            return GRAFT_LATER;
        work_drop_timers(h);
    } else {
        how = handle_close(h, role);
        if (how != HOW_ABORT)
            return next;
        work_drop_timers(h);
    }
    if (how == HOW_ABORT) {
        x->cut_why = "graft_abort";
        end_chain(x);
        return GRAFT_DONE;
    }
    return how;
}

static void middleware_result(struct exchange *x, struct handle *h, unsigned next)
{
    x->state = CHAIN_RUN;
    if (x->cut_why) {
        end_chain(x);
        return;
    }
    switch (checked(h, "on_request", next)) {
    case GRAFT_NEXT:
        x->at++;
        break;
    case GRAFT_DONE:
        end_chain(x);
        break;
    case GRAFT_LATER:
        x->state = CHAIN_LATER;
        break;
    case GRAFT_ERROR:
        fail(x, h, "on_request");
        end_chain(x);
        break;
    }
}

static void handler_result(struct exchange *x, struct handle *h, unsigned next)
{
    switch (checked(h, "handler", next)) {
    case GRAFT_LATER:
        x->state = CHAIN_LATER;
        return;
    case GRAFT_ERROR:
        if (!x->cut_why)
            fail(x, h, "handler");
        break;
    default:
        break;
    }
    end_chain(x);
}

/* False: the chain waits. */
static bool step_middleware(struct exchange *x, struct handle *h)
{
    const struct descriptor *d = &h->version->desc;
    if (d->flags & GRAFT_NEED_BODY)
        x->need_body = true;
    if (x->need_body && !exchange_body_ready(x)) {
        x->state = CHAIN_BODY;
        return false;
    }
    if (!d->on_request) {
        x->called = ++x->at;
        return true;
    }
    if (!handle_enter(h)) {
        x->state = CHAIN_PARKED;
        return false;
    }
    x->called = x->at + 1;
    middleware_result(x, h, call(x, h, AS_MIDDLEWARE, d->on_request, "on_request"));
    return x->state == CHAIN_RUN;
}

static void step_handler(struct exchange *x, struct handle *h)
{
    const struct link *link = &x->links[x->at];
    bool stream = (link->route_flags & GRAFT_STREAM) && !x->need_body;
    if (!stream && !exchange_body_ready(x)) {
        x->state = CHAIN_BODY;
        return;
    }
    if (!handle_enter(h)) {
        x->state = CHAIN_PARKED;
        return;
    }
    if (stream)
        request_want_body(&x->request, BODY_STREAMED);
    handler_result(x, h, call(x, h, AS_HANDLER, link->handler, "handler"));
}

static void no_route(struct exchange *x)
{
    struct request *r = &x->request;
    if (x->route_status == 204) {
        response_reset(r);
        r->response.status = 204;
    } else {
        response_problem(r, x->route_status, NULL);
    }
    if (x->allow.ptr)
        response_field(r, FIELD_SET, STR("Allow"), x->allow, NULL);
    end_chain(x);
}

static void run_chain(struct exchange *x)
{
    if (x->state == CHAIN_PARKED || (x->state == CHAIN_BODY && x->request.body_complete))
        x->state = CHAIN_RUN;
    while (x->state == CHAIN_RUN && !x->over) {
        if (x->at == x->nlinks) {
            no_route(x);
            return;
        }
        struct handle *h = x->by_link[x->at];
        if (x->links[x->at].handler) {
            step_handler(x, h);
            return;
        }
        if (!step_middleware(x, h))
            return;
    }
}

/* ---- The response ---------------------------------------------------------------------------- */

static void response_result(struct exchange *x, struct handle *h, unsigned next)
{
    x->response_state = RESPONSE_ON_RESPONSE;
    switch (checked(h, "on_response", next)) {
    case GRAFT_LATER:
        x->response_state = RESPONSE_WAITING;
        return;
    case GRAFT_ERROR:
        fail(x, h, "on_response");
        replace(x, 500, NULL);
        x->resp_at = 0;
        break;
    default:
        break;
    }
    x->responding = NULL;
}

/* Whether this plugin is left out when the server answers by itself. */
static bool skipped(const struct exchange *x, struct handle *h)
{
    return x->replaced && handle_owes(h);
}

static void run_on_response(struct exchange *x)
{
    while (x->response_state == RESPONSE_ON_RESPONSE && !x->over && !x->cut_why) {
        if (x->resp_at == 0) {
            x->response_state = RESPONSE_OPEN;
            return;
        }
        struct handle *h = x->by_link[x->resp_at - 1];
        graft_handler *fn = h->version->desc.on_response;
        if (fn && !skipped(x, h)) {
            if (x->replaced ? !handle_try_enter(h) : !handle_enter(h)) {
                if (!x->replaced)
                    return; /* parked */
            } else {
                x->resp_at--;
                x->responding = h;
                response_result(x, h, call(x, h, AS_MIDDLEWARE, fn, "on_response"));
                continue;
            }
        }
        x->resp_at--;
    }
}

static void send_response(struct exchange *x, bool final)
{
    const char *why = NULL;
    x->flush = false;
    switch (response_send(&x->request, final, &why)) {
    case RESPONSE_OVER:
        response_is_over(x);
        break;
    case RESPONSE_ON_ITS_WAY:
        if (final)
            x->response_state = RESPONSE_SEALED;
        break;
    case RESPONSE_IMPOSSIBLE:
        if (current(x))
            handle_misuse(current(x), "%s", why);
        x->cut_why = why;
        cut_now(x);
        break;
    case RESPONSE_BROKEN:
        exchange_cut(x, "the client reset the connection");
        break;
    }
}

/* A writer that was told to wait, and will be told when to go on, needs what it wrote to leave. */
static void flush_for_waiting(struct exchange *x)
{
    if (x->state != CHAIN_LATER || x->flush ||
        x->request.response.body.bytes <= x->chain->http->limits.send_bytes)
        return;
    for (unsigned i = 0; i < x->nhandles; i++)
        if (x->handles[i]->blocked && x->handles[i]->on_writable)
            x->flush = true;
}

static void run_response(struct exchange *x)
{
    if (x->over || x->response_state == RESPONSE_SEALED || x->cut_why || x->answer_status)
        return; /* what is due is done first: `again` is set */
    flush_for_waiting(x);
    if (x->response_state == RESPONSE_BEFORE && (x->state == CHAIN_ENDED || x->flush)) {
        x->response_state = RESPONSE_ON_RESPONSE;
        x->resp_at = x->called;
    }
    run_on_response(x);
    if (x->response_state != RESPONSE_OPEN || x->over || x->cut_why || x->answer_status)
        return;
    if (x->flush && (x->request.response.body.bytes || !x->request.response.head_sent))
        send_response(x, false);
    if (x->state == CHAIN_ENDED && !x->over)
        send_response(x, true);
}

/* ---- What plugins are told ------------------------------------------------------------------- */

static void notify(struct handle *h, bool *due, void (*fn)(graft_req *, void *), void *arg,
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

static void run_notices(struct exchange *x)
{
    size_t room = x->chain->http->limits.send_bytes / 2;
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        if (h->blocked && h->on_writable && !x->over && response_pending(&x->request) <= room) {
            h->blocked = false;
            h->writable_due = true;
        }
        if (h->abort_due) {
            h->aborted = true;
            notify(h, &h->abort_due, h->on_abort, h->on_abort_arg, "on_abort");
        }
        if (h->writable_due)
            notify(h, &h->writable_due, h->on_writable, h->on_writable_arg, "on_writable");
    }
}

/* ---- Answers of LATER ------------------------------------------------------------------------ */

void exchange_answered(struct exchange *x, struct handle *h, enum role role, unsigned how)
{
    work_drop_timers(h);
    exchange_wake(x);
    if (x->over || x->replaced)
        return;
    if (how == HOW_ABORT) {
        x->cut_why = "graft_abort";
        if (x->state == CHAIN_LATER)
            end_chain(x); /* nobody is told: the plugin itself has ended it */
        return;
    }
    bool here = x->state == CHAIN_LATER && x->at < x->nlinks && x->by_link[x->at] == h;
    if (here && role == AS_HANDLER && x->links[x->at].handler)
        end_chain(x);
    else if (here && role == AS_MIDDLEWARE && !x->links[x->at].handler)
        middleware_result(x, h, how == GRAFT_LATER ? GRAFT_ERROR + 1u : how);
    else if (x->response_state == RESPONSE_WAITING && x->responding == h && role == AS_MIDDLEWARE)
        response_result(x, h, how == GRAFT_LATER ? GRAFT_ERROR + 1u : how);
}

void exchange_take_answers(struct exchange *x)
{
    unsigned how;
    if (!x->answered)
        return;
    x->answered = false;
    for (unsigned i = 0; i < x->nhandles; i++)
        for (unsigned role = 0; role < ROLES; role++)
            if (handle_take(x->handles[i], (enum role)role, &how))
                exchange_answered(x, x->handles[i], (enum role)role, how);
}

/* ---- The end of a request -------------------------------------------------------------------- */

static bool is_free(const struct handle *h)
{
    return h->outstanding == 0 && !h->abort_due && !h->writable_due && !handle_owes(h) &&
           atomic_load_explicit(&h->posts, memory_order_acquire) == 0;
}

static bool nothing_runs(const struct exchange *x)
{
    for (unsigned i = 0; i < x->nhandles; i++)
        if (!is_free(x->handles[i]))
            return false;
    return true;
}

/* False: a GRAFT_SERIAL plugin is busy. */
static bool run_finish(struct exchange *x)
{
    if (!x->finishing) {
        x->finishing = true;
        x->finish_at = x->called;
    }
    while (x->finish_at > 0) {
        struct handle *h = x->by_link[x->finish_at - 1];
        void (*fn)(graft_req *, void *) = h->version->desc.on_finish;
        if (fn) {
            if (!handle_enter(h))
                return false;
            handle_doing(h, "on_finish", clock_us());
            fn(&h->pub, h->version->state_ptr);
            handle_done_doing(h);
            handle_leave(h);
        }
        x->finish_at--;
    }
    return nothing_runs(x);
}

static void release(struct exchange *x)
{
    struct chain *c = x->chain;
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        struct version *v = h->version;
        suspended_remove(h);
        handle_free(h);
        version_unpin(&v, c->loop);
    }
    wheel_clear(&c->loop->wheel, &x->deadline);
    buf_fini(&x->backlog);
    list_del(&x->ready);
    list_del(&x->node);
    request_reset(&x->request);
    COUNTER_ADD(c->loop->stats.in_flight, (uint64_t)-1);
    if (c->nfree >= FREE_MAX) {
        x->magic = 0;
        free(x);
        return;
    }
    c->nfree++;
    list_add_head(&c->free, &x->node);
}

static const char *waits_for(const struct exchange *x)
{
    for (unsigned i = 0; i < x->nhandles; i++) {
        const char *what = work_waits_for(x->handles[i]);
        if (what)
            return what;
    }
    if (x->finishing)
        return "on_finish";
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

/* ---- Deadlines ------------------------------------------------------------------------------- */

/* timeouts_ms.handler runs while it is not the client's body that is waited for. */
static void set_deadline(struct exchange *x)
{
    struct chain *c = x->chain;
    const struct request *r = &x->request;
    bool body = r->body_mode != BODY_UNWANTED && !r->body_complete && !r->body_paused;
    bool none = x->over || r->response.head_sent || x->response_state == RESPONSE_SEALED;
    if (x->user_deadline) {
        if (none || !x->user_deadline_ms)
            wheel_clear(&c->loop->wheel, &x->deadline);
        else
            loop_timer(c->loop, &x->deadline, x->user_deadline_ms);
    } else if (none || body || x->timed_out || !c->http->timeouts_ms.handler) {
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
    x->chain->http->now_us = clock_us();
    x->timed_out = true;
    if (x->user_deadline)
        x->user_deadline_ms = 0;
    exchange_answer(x, 504, "no answer within the deadline (timeouts_ms.handler)");
}

/* ---- The engine ------------------------------------------------------------------------------ */

static void settle(struct exchange *x)
{
    if (x->over && nothing_runs(x)) {
        x->running = true; /* nothing that on_finish does may run us again */
        bool finished = run_finish(x);
        x->running = false;
        if (finished) {
            if (x->chain->http->config->log_access)
                log_access(x);
            release(x);
            return;
        }
    }
    suspended_add(x, waits_for(x));
    set_deadline(x);
}

void exchange_run(struct exchange *x)
{
    HOT_CHECK(x, EXCHANGE_MAGIC);
    if (x->running) {
        x->again = true;
        return;
    }
    x->running = true;
    do {
        x->again = false;
        exchange_take_answers(x);
        if (x->cut_why)
            cut_now(x);
        for (unsigned i = 0; i < x->nhandles; i++)
            if (!list_empty(&x->handles[i]->tasks))
                work_run(x->handles[i]);
        if (x->answer_status)
            answer_now(x);
        if (x->on_body)
            exchange_run_body(x);
        if (x->state != CHAIN_ENDED)
            run_chain(x);
        run_response(x);
        if (x->cut_why)
            cut_now(x);
        run_notices(x);
    } while (x->again);
    x->running = false;
    settle(x);
}

bool chain_step(struct chain *c)
{
    if (list_empty(&c->ready))
        return false;
    c->http->now_us = clock_us();
    struct list *n;
    while ((n = list_pop(&c->ready)))
        exchange_run(list_entry(n, struct exchange, ready));
    return true;
}

/* ---- The http layer's calls ------------------------------------------------------------------ */

static struct exchange *exchange_new(struct chain *c)
{
    struct exchange *x;
    struct list *n = list_pop(&c->free);
    if (n) {
        c->nfree--;
        return list_entry(n, struct exchange, node);
    }
    x = malloc(sizeof *x);
    if (!x)
        return NULL;
    x->magic = EXCHANGE_MAGIC;
    x->chain = c;
    x->backlog = (struct buf){ 0 };
    list_init(&x->node);
    list_init(&x->ready);
    wheel_timer_init(&x->deadline);
    x->deadline.kind = TIMER_EXCHANGE;
    request_init(&x->request, c->http);
    return x;
}

static struct request *app_open(void *arg)
{
    struct exchange *x = exchange_new(arg);
    return x ? &x->request : NULL;
}

static void app_close(void *arg, struct request *r)
{
    struct chain *c = arg;
    struct exchange *x = exchange_of(r);
    request_reset(r);
    c->nfree++;
    list_add_head(&c->free, &x->node);
}

static void reset(struct exchange *x)
{
    x->nlinks = x->nhandles = x->at = x->called = x->resp_at = x->finish_at = 0;
    x->state = CHAIN_RUN;
    x->response_state = RESPONSE_BEFORE;
    x->answered = x->running = x->again = x->need_body = x->flush = x->replaced = false;
    x->over = x->cut = x->finishing = x->counted = x->prepared = false;
    x->answer_status = 0;
    x->answer_why = x->cut_why = x->fail_text = x->waits_for = NULL;
    x->responding = NULL;
    x->body_of = NULL;
    x->on_body = NULL;
    x->body_user_pause = x->body_backlog_pause = x->body_last = false;
    x->user_deadline = x->timed_out = false;
    x->user_deadline_ms = 0;
    x->joined = NULL;
    x->njoined = 0;
    x->bytes_out = 0;
    x->id[0] = 0;
    x->peer_len = 0;
    x->allow = (struct str){ NULL, 0 };
}

/* A handle for the version of link i: the one it has already, if it stands in the chain twice. */
static struct handle *handle_for(struct exchange *x, struct version *v)
{
    for (unsigned i = 0; i < x->nhandles; i++)
        if (x->handles[i]->version == v)
            return x->handles[i];
    struct handle *h = handle_new(x->chain);
    if (!h)
        return NULL;
    h->pub.host = &v->host;
    h->version = v;
    h->x = x;
    h->route = x->pattern;
    atomic_store_explicit(&h->gone, false, memory_order_relaxed);
    version_pin(v, x->chain->loop->number);
    x->handles[x->nhandles++] = h;
    return h;
}

static int take_chain(struct exchange *x, const struct choice *ch)
{
    struct request *r = &x->request;
    x->pattern = ch->pattern;
    x->route_status = ch->status;
    for (unsigned i = 0; i < ch->nlinks; i++) {
        struct handle *h = handle_for(x, ch->links[i].version);
        if (!h)
            return -1;
        x->links[i] = ch->links[i];
        x->by_link[i] = h;
        x->nlinks = i + 1;
    }
    x->nparams = ch->match.endpoint ? ch->match.nparams : 0;
    for (unsigned i = 0; i < x->nparams; i++) {
        x->params[i] = ch->match.params[i];
        x->param_values[i] = router_param_value(&r->arena, &r->target, &x->params[i]);
    }
    return 0;
}

/* What Allow will say is asked now: later this generation may be gone. */
static void note_allow(struct exchange *x, const struct generation *g)
{
    char text[512];
    struct request *r = &x->request;
    if (r->target.asterisk && r->head.method_id == HEAD_OPTIONS)
        x->route_status = 204;
    if (x->route_status != 405 && x->route_status != 204)
        return;
    size_t len = generation_allow(g, &r->target, text, sizeof text);
    x->allow = arena_copy(&r->arena, (struct str){ text, len });
}

static void app_head(struct request *r)
{
    struct exchange *x = exchange_of(r);
    struct chain *c = x->chain;
    const struct generation *g = c->loop->generation;
    struct choice ch;
    reset(x);
    list_add_tail(&c->live, &x->node);
    COUNTER_ADD(c->loop->stats.in_flight, 1);
    ch.nlinks = 0;
    ch.match.endpoint = NULL;
    generation_find(g, &r->head, &r->target, &ch);
    if (take_chain(x, &ch) != 0)
        exchange_answer(x, 503, "no memory for the request's chain");
    else if (ch.status != 200)
        note_allow(x, g);
    exchange_run(x);
}

static void app_body_piece(struct request *r, struct str piece)
{
    exchange_body_piece(exchange_of(r), piece);
}

static void app_run(struct request *r)
{
    exchange_run(exchange_of(r));
}

static void app_body_broken(struct request *r, unsigned status, const char *why)
{
    struct exchange *x = exchange_of(r);
    exchange_answer(x, status, why);
}

static void app_over(struct request *r)
{
    struct exchange *x = exchange_of(r);
    response_is_over(x);
    exchange_run(x);
}

static void app_cut(struct request *r, const char *why)
{
    struct exchange *x = exchange_of(r);
    exchange_cut(x, why);
    exchange_run(x);
}

static void app_gone(struct request *r)
{
    if (r->response.done)
        return; /* the answer is complete and on its way: a half-closed client may read it */
    request_cut(r);
    app_cut(r, "the client left");
}

static const struct config *app_config(void *arg)
{
    const struct chain *c = arg;
    return c->loop->generation ? c->loop->generation->config : c->fallback;
}

const struct http_app chain_app = { .open = app_open,
                                    .close = app_close,
                                    .head = app_head,
                                    .body_piece = app_body_piece,
                                    .body_in = app_run,
                                    .body_broken = app_body_broken,
                                    .sent = app_run,
                                    .over = app_over,
                                    .cut = app_cut,
                                    .gone = app_gone,
                                    .config = app_config };

/* ---- One for each worker --------------------------------------------------------------------- */

int chain_init(struct chain *c, struct loop *loop, struct http *http, struct pool *pool,
               unsigned nworkers, const struct config *fallback, struct err *err)
{
    *c = (struct chain){ .loop = loop,
                         .http = http,
                         .pool = pool,
                         .nworkers = nworkers,
                         .fallback = fallback };
    list_init(&c->ready);
    list_init(&c->live);
    list_init(&c->free);
    list_init(&c->handles);
    list_init(&c->resting);
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
    list_each(n, &cell->suspended)
    {
        struct exchange *x = list_entry(n, struct handle, node)->x;
        if (x->over || x->cut_why)
            continue;
        x->cut_why = "its version was retired";
        log_request(x, list_entry(n, struct handle, node), LOG_WARN, "cut", x->cut_why);
        exchange_wake(x);
    }
}
