/*
 * Between http and the chain: a request's exchange is taken from the pool, its route chosen, its
 * versions pinned; and what the session reports later is handed on.
 */
#include "plugin/chain_shadow.h"
#include "plugin/exchange.h"
#include "plugin/generation.h"
#include "plugin/handle.h"

#include <stdlib.h>

/* ---- The http layer's calls ------------------------------------------------------------------ */

NOINLINE struct exchange *exchange_new(struct chain *c)
{
    struct exchange *x;
    struct list *n = list_pop(&c->free);
    if (n) {
        c->nfree--;
        return list_entry(n, struct exchange, node);
    }
    x = aligned_alloc(CACHE_LINE, sizeof *x);
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

static HOT struct request *app_open(void *arg)
{
    struct exchange *x = exchange_new(arg);
    return x ? &x->request : NULL;
}

void exchange_close(struct exchange *x)
{
    request_reset(&x->request);
    x->chain->nfree++;
    list_add_head(&x->chain->free, &x->node);
}

static void app_close(void *arg, struct request *r)
{
    (void)arg;
    exchange_close(exchange_of(r));
}

HOT void exchange_reset(struct exchange *x)
{
    x->nlinks = x->nhandles = x->at = x->called = x->resp_at = x->finish_at = 0;
    x->state = CHAIN_RUN;
    x->response_state = RESPONSE_BEFORE;
    x->answered = x->running = x->again = x->need_body = x->flush = x->told = x->replaced = false;
    x->over = x->cut = x->finishing = x->counted = false;
    x->aside = x->chain->http->log_access;
    atomic_store_explicit(&x->prepared, false, memory_order_relaxed);
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
        x->links[i].version = h->version;
        x->links[i].handler = ch->links[i].handler;
        x->links[i].route_flags = ch->links[i].route_flags;
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
static NOINLINE void note_allow(struct exchange *x, const struct generation *g, unsigned met)
{
    char text[512];
    struct request *r = &x->request;
    if (r->target.asterisk && r->head.method_id == HEAD_OPTIONS)
        x->route_status = 204;
    if (x->route_status != 405 && x->route_status != 204)
        return;
    size_t len = generation_allow(g, met, &r->target, text, sizeof text);
    x->allow = arena_copy(&r->arena, (struct str){ text, len });
}

/* May its client choose versions by name? */
static bool by_name(const struct config *config, const struct peer *peer)
{
    for (size_t i = 0; i < config->version_header_from_count; i++)
        if (cidr_contains(&config->version_header_from[i], peer->family, &peer->addr))
            return true;
    return false;
}

static NOINLINE unsigned pick(struct exchange *x, const struct generation *g, bool *stray)
{
    if (x->aside & ASIDE_SHADOW)
        return shadow_subset(x, g);
    if (g->shadows)
        shadow_consider(x);
    return canary_pick(g, &x->request, by_name(g->config, &x->from), &x->chain->dice, stray);
}

/* While versions hand over: does this request's chain have one of them? Then it waits, without
   pinning anything. */
static NOINLINE bool held(struct exchange *x, const struct choice *ch)
{
    struct loop *l = x->chain->loop;
    unsigned i = 0;
    while (i < ch->nlinks && !ch->links[i].version->cells[l->number].holding)
        i++;
    if (i == ch->nlinks)
        return false;
    x->state = CHAIN_HELD;
    x->pattern = ch->pattern;
    x->route_status = ch->status;
    x->nparams = 0;
    list_del(&x->node);
    list_add_tail(&l->held, &x->node);
    return true;
}

HOT void exchange_choose(struct exchange *x)
{
    struct request *r = &x->request;
    struct chain *c = x->chain;
    const struct generation *g = c->loop->generation;
    struct choice ch;
    unsigned met = 0; /* canaries */
    bool stray = false;
    ch.status = 503;
    ch.pattern = NULL;
    ch.nlinks = 0;
    ch.match.endpoint = NULL;
    if (LIKELY(g != NULL)) {
        if (UNLIKELY(g->picks))
            met = pick(x, g, &stray);
        if (LIKELY(!stray))
            generation_find(g, met, &r->head, &r->target, &ch);
    }
    if (UNLIKELY(c->loop->handover != NULL) && held(x, &ch))
        return;
    if (UNLIKELY(take_chain(x, &ch) != 0))
        exchange_answer(x, 503, "no memory for the request's chain");
    else if (UNLIKELY(g == NULL)) /* a drain before the first generation empties the listeners */
        exchange_answer(x, 503, "nothing is loaded yet");
    else if (UNLIKELY(stray))
        exchange_answer(x, 421, CANARY_BY_NAME " names a version that does not serve");
    else if (UNLIKELY(ch.status != 200))
        note_allow(x, g, met);
}

static HOT void app_head(struct request *r)
{
    struct exchange *x = exchange_of(r);
    exchange_reset(x);
    x->from = r->session->conn.peer;
    list_add_tail(&x->chain->live, &x->node);
    COUNTER_ADD(x->chain->loop->stats.in_flight, 1);
    exchange_choose(x);
    exchange_run(x);
}

/* Those whose client left meanwhile are over, or will be: they only go back to the others. */
void chain_resume(struct loop *l)
{
    ON_LOOP(l);
    struct list waiting;
    list_init(&waiting);
    list_splice_tail(&waiting, &l->held);
    for (struct list *n; (n = list_pop(&waiting)) != NULL;) {
        struct exchange *x = list_entry(n, struct exchange, node);
        list_add_tail(&x->chain->live, &x->node);
        if (x->state != CHAIN_HELD)
            continue;
        x->state = CHAIN_RUN;
        wheel_clear(&l->wheel, &x->deadline);
        exchange_choose(x);
        exchange_wake(x);
    }
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
    exchange_response_over(x);
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
    const struct generation *g = c->loop->generation;
    return g ? g->config : c->fallback;
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
