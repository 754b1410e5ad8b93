/*
 * /status: one page for people, without scripts, that asks for itself again every two seconds.
 * Everything that comes from a plugin is escaped.
 */
#include "ops/ops.h"

#include "base/clock.h"

#include <inttypes.h>
#include <unistd.h>

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
    "<meta http-equiv=\"refresh\" content=\"2\"><title>graft</title><style>"
    ":root{color-scheme:light dark}"
    "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em}"
    "h1{font-size:1.4em;margin:0}h2{font-size:1.1em;margin:1.6em 0 .4em}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;padding:.25em .8em .25em 0;border-bottom:1px solid #8884;"
    "vertical-align:top}th{font-weight:600}.n{text-align:right}"
    "code{font-family:ui-monospace,monospace}.bad{color:#c33;font-weight:600}.dim{opacity:.6}"
    "</style></head><body>\n";

struct page {
    struct ops *ops;
    struct buf *out;
    bool failed;
};

static void put(struct page *p, const char *html)
{
    p->failed |= buf_puts(p->out, html) != 0;
}

static void put_text(struct page *p, const char *text)
{
    for (; text != NULL && *text != '\0'; text++) {
        const char *as = *text == '<'    ? "&lt;"
                         : *text == '>'  ? "&gt;"
                         : *text == '&'  ? "&amp;"
                         : *text == '"'  ? "&quot;"
                         : *text == '\'' ? "&#39;"
                                         : NULL;
        if (as != NULL)
            put(p, as);
        else
            p->failed |= buf_add(p->out, text, 1) != 0;
    }
}

PRINTF_LIKE(2, 3) static void putf(struct page *p, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    p->failed |= buf_vprintf(p->out, fmt, ap) != 0;
    va_end(ap);
}

static void put_cell(struct page *p, const char *text)
{
    put(p, "<td>");
    put_text(p, text);
    put(p, "</td>");
}

static void put_number(struct page *p, uint64_t n)
{
    putf(p, "<td class=\"n\">%" PRIu64 "</td>", n);
}

static void put_summary(struct page *p)
{
    struct ops *o = p->ops;
    struct buf why = { 0 };
    struct ops_totals t;
    ops_totals(o, &t);
    bool live = ops_is_live(o, &why), well = ops_is_ready(o, &why) && live;
    putf(p, "<h1>graft <span class=\"dim\">" GRAFT_VERSION ", pid %d</span></h1>\n<p>",
         (int)getpid());
    if (well)
        put(p, "Serving.");
    else {
        put(p, "<span class=\"bad\">");
        put_text(p, why.data);
        put(p, "</span>");
    }
    buf_fini(&why);
    putf(p, " Generation %u%s, up for %" PRIu64 " s.<br>", swap_generation(o->swap),
         swap_running(o->swap) ? ", swapping" : "", (clock_us() - o->started_us) / 1000000);
    putf(p,
         "%" PRIu64 " requests, %" PRIu64 " in flight; %" PRIu64 " connections now, %" PRIu64
         " accepted, %" PRIu64 " closed by the server.</p>\n",
         t.requests, t.in_flight, t.accepted - t.closed, t.accepted, t.closed_by_us);
}

static void put_version(struct page *p, const struct version *v)
{
    struct version_sums s;
    version_sum(v, &s);
    put(p, "<tr>");
    put_cell(p, v->plugin);
    put_cell(p, v->desc.version);
    putf(p, "<td><code>%s</code></td><td%s>%s</td>", v->id,
         v->state == VERSION_STUCK || v->state == VERSION_FAILED ? " class=\"bad\"" : "",
         ops_state_name(v));
    put_number(p, s.pins);
    put_number(p, s.served);
    put_number(p, s.errors);
    put_number(p, latency_quantile_us(s.latency_all, 0.50));
    put_number(p, latency_quantile_us(s.latency_all, 0.99));
    put(p, "<td>");
    if (s.oldest_age_us > 0) {
        putf(p, "%.1f s, ", (double)s.oldest_age_us / 1e6);
        put_text(p, s.oldest_route != NULL ? s.oldest_route : "no route");
        put(p, ", waits for ");
        put_text(p, s.oldest_waits_for);
    }
    const char *reason = ops_reason(p->ops, v);
    if (reason != NULL) {
        put(p, s.oldest_age_us > 0 ? "<br>" : "");
        put_text(p, reason);
    }
    put(p, "</td></tr>\n");
}

/* What is not loaded: kept to go back to, or quarantined. */
static void put_unloaded(struct page *p, const struct identity *identity, const char *version,
                         const char *state, const char *text)
{
    put(p, "<tr class=\"dim\">");
    put_cell(p, identity->plugin);
    put_cell(p, version);
    putf(p, "<td><code>%.12s</code></td><td>%s</td>", identity->sha256, state);
    put(p, "<td></td><td></td><td></td><td></td><td></td>");
    put_cell(p, text);
    put(p, "</tr>\n");
}

static void put_kept(const struct kept *kept, void *arg)
{
    struct page *p = arg;
    if (!ops_serves(p->ops, &kept->identity))
        put_unloaded(p, &kept->identity, kept->version, "kept", "");
}

static void put_quarantined(const struct quarantined *q, void *arg)
{
    put_unloaded(arg, &q->identity, "", "quarantined", q->reason);
}

static void put_versions(struct page *p)
{
    put(p, "<h2>Versions</h2>\n<table><tr><th>plugin</th><th>version</th><th>id</th><th>state</th>"
           "<th class=\"n\">in flight</th><th class=\"n\">served</th><th class=\"n\">errors</th>"
           "<th class=\"n\">p50 &micro;s</th><th class=\"n\">p99 &micro;s</th>"
           "<th>oldest request, reason</th></tr>\n");
    list_each (it, swap_versions(p->ops->swap)) {
        const struct version *v = list_entry(it, struct version, node);
        if (v->plugin != NULL)
            put_version(p, v);
    }
    keep_each(p->ops->keep, put_kept, p);
    keep_each_quarantined(p->ops->keep, put_quarantined, p);
    put(p, "</table>\n");
}

static void put_workers(struct page *p)
{
    struct loop **loops = workers_loops(p->ops->workers);
    uint64_t now = clock_us();
    put(p, "<h2>Workers</h2>\n<table><tr><th>worker</th><th class=\"n\">lag &micro;s</th>"
           "<th class=\"n\">connections</th><th class=\"n\">requests</th>"
           "<th class=\"n\">in flight</th></tr>\n");
    for (unsigned i = 0; i < workers_count(p->ops->workers); i++) {
        const struct loop_stats *s = &loops[i]->stats;
        uint64_t closed = COUNTER_READ(s->closed);
        putf(p, "<tr><td>%u</td>", i);
        put_number(p, ops_lag_us(p->ops, loops[i], now));
        put_number(p, COUNTER_READ(s->accepted) - closed);
        put_number(p, COUNTER_READ(s->requests));
        put_number(p, COUNTER_READ(s->in_flight));
        put(p, "</tr>\n");
    }
    put(p, "</table>\n");
}

static void put_row(const struct generation_row *row, void *arg)
{
    struct page *p = arg;
    put(p, "<tr>");
    put_cell(p, row->method);
    put_cell(p, row->pattern);
    put(p, "<td>");
    for (unsigned i = 0; i < row->nchain; i++) {
        put(p, i > 0 ? " &rarr; " : "");
        put_text(p, row->chain[i]);
    }
    putf(p, "</td><td><code>%s</code></td></tr>\n", row->version->id);
}

static void put_routes(struct page *p)
{
    struct generation *g = swap_current(p->ops->swap);
    put(p, "<h2>Routes</h2>\n<table><tr><th>method</th><th>pattern</th><th>chain</th>"
           "<th>id</th></tr>\n");
    if (g != NULL)
        generation_routes(g, put_row, p);
    put(p, "</table>\n");
}

int ops_page(struct ops *o, struct buf *out)
{
    CHECK(o, OPS_MAGIC);
    struct page p = { .ops = o, .out = out };
    put(&p, head);
    put_summary(&p);
    put_versions(&p);
    put_workers(&p);
    put_routes(&p);
    put(&p, "</body></html>\n");
    return p.failed ? -1 : 0;
}
