/*
 * The ops address: a table of paths, health, and the sums that several answers show. Nothing here
 * waits for a worker: what workers publish is read as it is.
 */
#include "ops/ops.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

#define LIVE_US (5u * 1000 * 1000)
#define BEAT_US (500u * 1000) /* a loop's heartbeat, net/loop.h */

void ops_totals(const struct ops *o, struct ops_totals *out)
{
    CHECK(o, OPS_MAGIC);
    struct loop **loops = workers_loops(o->workers);
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < workers_count(o->workers); i++) {
        const struct loop_stats *s = &loops[i]->stats;
        out->closed += COUNTER_READ(s->closed); /* before accepted: never more closed */
        out->closed_by_us += COUNTER_READ(s->closed_by_us);
        out->accepted += COUNTER_READ(s->accepted);
        out->requests += COUNTER_READ(s->requests);
        out->in_flight += COUNTER_READ(s->in_flight);
        out->refused += COUNTER_READ(s->refused);
        out->bytes_in += COUNTER_READ(s->bytes_in);
        out->bytes_out += COUNTER_READ(s->bytes_out);
        out->accept_paused += COUNTER_READ(s->accept_paused);
        out->misuse += COUNTER_READ(s->misuse);
        for (size_t c = 0; c < ARRAY_LEN(out->responses); c++)
            out->responses[c] += COUNTER_READ(s->responses[c]);
    }
}

static uint64_t silent_us(const struct ops *o, const struct loop *l, uint64_t now_us)
{
    uint64_t turned = COUNTER_READ(l->stats.turned_us);
    if (turned < o->started_us)
        turned = o->started_us;
    return now_us > turned ? now_us - turned : 0;
}

uint64_t ops_lag_us(const struct ops *o, const struct loop *l, uint64_t now_us)
{
    uint64_t lag = COUNTER_READ(l->stats.lag_us), silent = silent_us(o, l, now_us);
    return silent > BEAT_US && silent - BEAT_US > lag ? silent - BEAT_US : lag;
}

/* Names the callback that a worker stands in. */
static void describe_doing(const struct loop *l, uint64_t now_us, struct buf *why)
{
    struct version *v = __atomic_load_n(&l->doing.version, __ATOMIC_ACQUIRE);
    const char *route = __atomic_load_n(&l->doing.route, __ATOMIC_RELAXED);
    const char *callback = __atomic_load_n(&l->doing.callback, __ATOMIC_RELAXED);
    uint64_t since = COUNTER_READ(l->doing.since_us);
    if (v == NULL)
        return;
    CHECK(v, VERSION_MAGIC);
    buf_printf(why, ": it is in %s of %s %s (%s), route %s, since %.1f s",
               callback != NULL ? callback : "a callback", v->plugin, v->desc.version, v->id,
               route != NULL ? route : "none",
               now_us > since ? (double)(now_us - since) / 1e6 : 0.0);
}

bool ops_is_live(struct ops *o, struct buf *why)
{
    CHECK(o, OPS_MAGIC);
    struct loop **loops = workers_loops(o->workers);
    uint64_t now = clock_us();
    bool live = true;
    for (unsigned i = 0; i < workers_count(o->workers); i++) {
        uint64_t silent = silent_us(o, loops[i], now);
        if (silent < LIVE_US)
            continue;
        live = false;
        buf_printf(why, "worker %u has not turned its loop for %.1f s", i, (double)silent / 1e6);
        describe_doing(loops[i], now, why);
        buf_puts(why, "\n");
    }
    return live;
}

bool ops_is_ready(struct ops *o, struct buf *why)
{
    CHECK(o, OPS_MAGIC);
    if (!o->live)
        buf_puts(why, "starting: the first generation is not live yet\n");
    else if (drain_is_on(o->drain))
        buf_puts(why, "draining: no new work, please\n");
    else {
        bool well = swap_is_well(o->swap, why);
        well = !swap_misses(o->swap, why) && well;
        if (!o->heard)
            o->heard = !swap_health_asking(o->swap);
        if (!o->heard && well)
            buf_puts(why, "starting: not every plugin has said yet whether it is well\n");
        return well && o->heard;
    }
    return false;
}

/* A server that is well may have something to say, too. */
static void answer_health(struct web_request *req, bool well, struct buf *why)
{
    struct buf body = { 0 };
    if (well)
        buf_puts(&body, "ok\n");
    if (why->len > 0)
        buf_add(&body, why->data, why->len);
    buf_fini(why);
    web_answer(req, well ? 200 : 503, "text/plain; charset=utf-8", NULL, &body);
}

static void livez(struct ops *o, struct web_request *req)
{
    struct buf why = { 0 };
    bool well = ops_is_live(o, &why);
    answer_health(req, well, &why);
}

static void readyz(struct ops *o, struct web_request *req)
{
    struct buf why = { 0 };
    bool well = ops_is_ready(o, &why);
    swap_ask_health(o->swap); /* for whoever asks next */
    answer_health(req, well, &why);
}

static void startupz(struct ops *o, struct web_request *req)
{
    struct buf why = { 0 };
    if (!o->live)
        buf_puts(&why, "starting: the first generation is not live yet\n");
    answer_health(req, o->live, &why);
}

static void metrics(struct ops *o, struct web_request *req)
{
    struct buf out = { 0 };
    if (ops_metrics(o, &out) == 0) {
        web_answer(req, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, &out);
        return;
    }
    buf_fini(&out);
    web_answer_text(req, 503, "out of memory\n");
}

static void page(struct ops *o, struct web_request *req)
{
    struct buf out = { 0 };
    if (ops_page(o, &out) == 0) {
        web_answer(req, 200, "text/html; charset=utf-8",
                   "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; "
                   "frame-ancestors 'none'\r\n",
                   &out);
        return;
    }
    buf_fini(&out);
    web_answer_text(req, 503, "out of memory\n");
}

static const struct {
    const char *path;
    void (*answer)(struct ops *o, struct web_request *req);
} paths[] = {
    { "/livez", livez },     { "/readyz", readyz }, { "/startupz", startupz },
    { "/metrics", metrics }, { "/status", page },
};

void ops_handle(struct web_request *req, void *arg)
{
    struct ops *o = arg;
    CHECK(o, OPS_MAGIC);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        if (strcmp(web_path(req), paths[i].path) != 0)
            continue;
        if (strcmp(web_method(req), "GET") == 0) {
            paths[i].answer(o, req);
            return;
        }
        struct buf body = { 0 };
        buf_puts(&body, "GET or HEAD only\n");
        web_answer(req, 405, "text/plain; charset=utf-8", "Allow: GET, HEAD\r\n", &body);
        return;
    }
    web_answer_text(req, 404, "not here: /livez /readyz /startupz /metrics /status\n");
}
