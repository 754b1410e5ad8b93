/*
 * /metrics in Prometheus text, format 0.0.4. A family's samples stand together under its HELP and
 * TYPE; figures of versions are summed once and shown by several families.
 */
#include "ops/ops.h"

#include "base/clock.h"
#include "ops/process.h"
#include "plugin/metric.h"
#include "plugin/rollout.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* One version's sums, with its labels already written. */
struct row {
    char labels[512];
    unsigned weight, shadow; /* percent */
    struct version_sums sums;
    struct shadow_sums shadows;
};

struct view {
    struct ops *ops;
    struct buf *out;
    struct ops_totals totals;
    struct row *rows;
    size_t nrows;
    bool failed;
};

static void family(struct view *v, const char *name, const char *type, const char *help)
{
    v->failed |= buf_printf(v->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type) != 0;
}

static void sample(struct view *v, const char *name, const char *labels, uint64_t value)
{
    bool bare = labels[0] == '\0';
    v->failed |= buf_printf(v->out, "%s%s%s%s %" PRIu64 "\n", name, bare ? "" : "{", labels,
                            bare ? "" : "}", value) != 0;
}

static void sample_seconds(struct view *v, const char *name, const char *labels, uint64_t us)
{
    bool bare = labels[0] == '\0';
    v->failed |= buf_printf(v->out, "%s%s%s%s %" PRIu64 ".%06" PRIu64 "\n", name, bare ? "" : "{",
                            labels, bare ? "" : "}", us / 1000000, us % 1000000) != 0;
}

static void single(struct view *v, const char *name, const char *type, const char *help,
                   uint64_t value)
{
    family(v, name, type, help);
    sample(v, name, "", value);
}

/* A label's value: what could end it is escaped; other bytes that are not printable ASCII are '?',
   since a version is any text that its author chose. */
static void escape(char *to, size_t size, const char *from)
{
    size_t n = 0;
    for (; *from != '\0' && n + 3 < size; from++) {
        if (*from == '"' || *from == '\\')
            to[n++] = '\\';
        to[n++] = *from >= ' ' && *from < 0x7f ? *from : '?';
    }
    to[n] = '\0';
}

static void fill_rows(struct view *v)
{
    size_t n = 0;
    list_each (it, swap_versions(v->ops->swap))
        n++;
    v->rows = calloc(n > 0 ? n : 1, sizeof *v->rows);
    if (v->rows == NULL) {
        v->failed = true;
        return;
    }
    list_each (it, swap_versions(v->ops->swap)) {
        const struct version *version = list_entry(it, struct version, node);
        struct row *row = &v->rows[v->nrows];
        if (version->state == VERSION_STAGED || version->plugin == NULL)
            continue;
        char name[160], text[160];
        escape(name, sizeof name, version->plugin);
        escape(text, sizeof text, version->desc.version != NULL ? version->desc.version : "");
        snprintf(row->labels, sizeof row->labels, "plugin=\"%s\",version=\"%s\",id=\"%s\"", name,
                 text, version->id);
        version_sum(version, &row->sums);
        row->weight = version->state == VERSION_ACTIVE ? version->weight : 0;
        row->shadow = ops_shadow_percent(version);
        version_sum_shadows(version, &row->shadows);
        v->nrows++;
    }
}

static const char *const classes[6] = { "cut", "1xx", "2xx", "3xx", "4xx", "5xx" };

static void write_requests_by_class(struct view *v)
{
    family(v, "graft_requests_total", "counter",
           "Requests that ended, by the versions in their chain and by status class.");
    for (size_t i = 0; i < v->nrows; i++)
        for (size_t c = 0; c < ARRAY_LEN(classes); c++) {
            char labels[600];
            snprintf(labels, sizeof labels, "%s,class=\"%s\"", v->rows[i].labels, classes[c]);
            sample(v, "graft_requests_total", labels, v->rows[i].sums.by_class[c]);
        }
}

static void write_versions_figures(struct view *v)
{
    write_requests_by_class(v);
    family(v, "graft_errors_total", "counter", "Requests that ended with 5xx or were cut.");
    for (size_t i = 0; i < v->nrows; i++)
        sample(v, "graft_errors_total", v->rows[i].labels, v->rows[i].sums.errors);
    family(v, "graft_version_weight_percent", "gauge", "Share of the requests that it gets.");
    for (size_t i = 0; i < v->nrows; i++)
        sample(v, "graft_version_weight_percent", v->rows[i].labels, v->rows[i].weight);
    family(v, "graft_in_flight", "gauge", "Requests that still use the version.");
    for (size_t i = 0; i < v->nrows; i++)
        sample(v, "graft_in_flight", v->rows[i].labels, v->rows[i].sums.pins);
    family(v, "graft_sent_bytes_total", "counter", "Bytes of answers sent.");
    for (size_t i = 0; i < v->nrows; i++)
        sample(v, "graft_sent_bytes_total", v->rows[i].labels, v->rows[i].sums.bytes_out);
}

static bool has_shadows(const struct row *row)
{
    return row->shadow > 0 || row->shadows.requests > 0 || row->shadows.live > 0;
}

/* Of versions that have had none there is nothing to tell. */
static void write_shadows(struct view *v)
{
    family(v, "graft_shadow_requests_total", "counter",
           "Requests that were tried on a canary too, by how its answer compares.");
    for (size_t i = 0; i < v->nrows; i++)
        for (unsigned o = 0; o < SHADOW_OUTCOMES && has_shadows(&v->rows[i]); o++) {
            char labels[600];
            snprintf(labels, sizeof labels, "%s,outcome=\"%s\"", v->rows[i].labels,
                     shadow_outcome_name((enum shadow_outcome)o));
            sample(v, "graft_shadow_requests_total", labels, v->rows[i].shadows.outcomes[o]);
        }
    family(v, "graft_shadow_percent", "gauge",
           "Share of the stable version's GET and HEAD requests that are tried on it.");
    for (size_t i = 0; i < v->nrows; i++)
        if (has_shadows(&v->rows[i]))
            sample(v, "graft_shadow_percent", v->rows[i].labels, v->rows[i].shadow);
    family(v, "graft_shadow_in_flight", "gauge", "Shadow requests that are not over.");
    for (size_t i = 0; i < v->nrows; i++)
        if (has_shadows(&v->rows[i]))
            sample(v, "graft_shadow_in_flight", v->rows[i].labels, v->rows[i].shadows.live);
}

/* Four buckets of ours make one of Prometheus's: its bounds are powers of two. */
static void write_histogram(struct view *v, const char *labels, const uint64_t *buckets,
                            uint64_t sum_us)
{
    static const char name[] = "graft_request_duration_seconds";
    uint64_t seen = 0;
    for (unsigned b = 0; b < LATENCY_BUCKETS; b++) {
        seen += buckets[b];
        if (b % 4 != 3 || b + 1 == LATENCY_BUCKETS)
            continue;
        v->failed |= buf_printf(v->out, "%s_bucket{%s,le=\"%.9g\"} %" PRIu64 "\n", name, labels,
                                (double)latency_bound_us(b) / 1e6, seen) != 0;
    }
    v->failed |=
        buf_printf(v->out, "%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, labels, seen) != 0;
    char sum_name[64];
    snprintf(sum_name, sizeof sum_name, "%s_sum", name);
    sample_seconds(v, sum_name, labels, sum_us);
    snprintf(sum_name, sizeof sum_name, "%s_count", name);
    sample(v, sum_name, labels, seen);
}

/* A class that a version has not had yet has no histogram: thirty lines of zeros tell nothing. */
static void write_latency(struct view *v)
{
    family(v, "graft_request_duration_seconds", "histogram",
           "From a request's complete head to the end of its answer, by status class.");
    for (size_t i = 0; i < v->nrows; i++)
        for (size_t c = 0; c < ARRAY_LEN(classes); c++) {
            const struct version_sums *sums = &v->rows[i].sums;
            char labels[600];
            if (sums->by_class[c] == 0)
                continue;
            snprintf(labels, sizeof labels, "%s,class=\"%s\"", v->rows[i].labels, classes[c]);
            write_histogram(v, labels, sums->latency[c], sums->latency_sum_us[c]);
        }
}

static void write_connections(struct view *v)
{
    const struct ops_totals *t = &v->totals;
    single(v, "graft_connections", "gauge", "Connections open now.", t->accepted - t->closed);
    single(v, "graft_connections_accepted_total", "counter", "Connections accepted.", t->accepted);
    family(v, "graft_connections_closed_total", "counter", "Connections closed, by whom.");
    sample(v, "graft_connections_closed_total", "by=\"client\"",
           t->closed > t->closed_by_us ? t->closed - t->closed_by_us : 0);
    sample(v, "graft_connections_closed_total", "by=\"server\"", t->closed_by_us);
    single(v, "graft_accept_paused_total", "counter",
           "Times that accepting stood still for want of descriptors or places.", t->accept_paused);
}

static void write_http(struct view *v)
{
    const struct ops_totals *t = &v->totals;
    single(v, "graft_http_requests_total", "counter", "Requests whose head was complete.",
           t->requests);
    single(v, "graft_http_in_flight", "gauge", "Requests that are not over.", t->in_flight);
    family(v, "graft_http_responses_total", "counter", "Answers, by status class.");
    for (size_t c = 0; c < ARRAY_LEN(classes); c++) {
        char labels[32];
        snprintf(labels, sizeof labels, "class=\"%s\"", classes[c]);
        sample(v, "graft_http_responses_total", labels, t->responses[c]);
    }
    single(v, "graft_http_refused_total", "counter", "Heads that were refused as malformed.",
           t->refused);
    single(v, "graft_http_received_bytes_total", "counter", "Bytes read from clients.",
           t->bytes_in);
    single(v, "graft_http_sent_bytes_total", "counter", "Bytes written to clients.", t->bytes_out);
    single(v, "graft_misuse_total", "counter", "Times that a plugin broke the contract.",
           t->misuse);
}

static void write_swaps(struct view *v)
{
    const struct swap_counts *c = swap_counts(v->ops->swap);
    family(v, "graft_swaps_total", "counter",
           "Scans of the plugin folder since the start, by outcome.");
    sample(v, "graft_swaps_total", "outcome=\"ok\"", c->ok - c->unchanged);
    sample(v, "graft_swaps_total", "outcome=\"unchanged\"", c->unchanged);
    sample(v, "graft_swaps_total", "outcome=\"failed\"", c->failed);
    sample(v, "graft_swaps_total", "outcome=\"busy\"", c->busy);
    sample(v, "graft_swaps_total", "outcome=\"draining\"", c->draining);
    family(v, "graft_swap_duration_seconds_total", "counter",
           "Time from trigger to last adopt of all swaps.");
    sample_seconds(v, "graft_swap_duration_seconds_total", "", c->duration_us_sum);
    family(v, "graft_swap_publish_seconds_total", "counter",
           "Time from first prepare to last adopt of all swaps.");
    sample_seconds(v, "graft_swap_publish_seconds_total", "", c->publish_us_sum);
    family(v, "graft_rollouts_total", "counter", "Rollouts that ended by their judge's verdict.");
    sample(v, "graft_rollouts_total", "outcome=\"promoted\"",
           swap_rollouts(v->ops->swap)->promoted);
    sample(v, "graft_rollouts_total", "outcome=\"rollback\"",
           swap_rollouts(v->ops->swap)->taken_back);
    single(v, "graft_generation", "gauge", "The generation that serves.",
           swap_generation(v->ops->swap));
}

static void write_states(struct view *v)
{
    uint64_t by_state[VERSION_STUCK + 1] = { 0 };
    uint64_t canaries = 0, missing = 0;
    list_each (it, swap_versions(v->ops->swap)) {
        const struct version *one = list_entry(it, struct version, node);
        bool canary = one->state == VERSION_ACTIVE && one->canary;
        bool stands_in = one->state == VERSION_ACTIVE && one->stand_in;
        canaries += canary;
        missing += stands_in;
        by_state[one->state] += !canary && !stands_in;
    }
    family(v, "graft_versions", "gauge", "Loaded versions, by state.");
    for (int s = 0; s <= VERSION_STUCK; s++) {
        if (s == VERSION_RETIRED)
            continue; /* gone: counted below */
        char labels[64];
        snprintf(labels, sizeof labels, "state=\"%s\"", version_state_name((enum version_state)s));
        sample(v, "graft_versions", labels, by_state[s]);
    }
    sample(v, "graft_versions", "state=\"canary\"", canaries);
    sample(v, "graft_versions", "state=\"missing\"", missing);
    single(v, "graft_versions_retired_total", "counter", "Versions that were unmapped.",
           swap_counts(v->ops->swap)->retired);
}

static void count_kept(const struct kept *kept, void *arg)
{
    (void)kept;
    ++*(uint64_t *)arg;
}

static void write_kept(struct view *v)
{
    uint64_t kept = 0;
    keep_each(v->ops->keep, count_kept, &kept);
    single(v, "graft_rollbacks_total", "counter", "Times that a good version was gone back to.",
           swap_counts(v->ops->swap)->rollbacks);
    single(v, "graft_kept", "gauge", "Good versions that are kept, those that serve among them.",
           kept);
    single(v, "graft_quarantined", "gauge", "Identities that are not loaded by themselves.",
           keep_quarantined(v->ops->keep));
}

static void write_workers(struct view *v)
{
    struct loop **loops = workers_loops(v->ops->workers);
    unsigned n = workers_count(v->ops->workers);
    uint64_t now = clock_us();
    single(v, "graft_workers", "gauge", "Worker threads.", n);
    family(v, "graft_worker_lag_seconds", "gauge", "How late the worker's loop turns.");
    for (unsigned i = 0; i < n; i++) {
        char labels[32];
        snprintf(labels, sizeof labels, "worker=\"%u\"", i);
        sample_seconds(v, "graft_worker_lag_seconds", labels, ops_lag_us(v->ops, loops[i], now));
    }
    single(v, "graft_pool_waiting", "gauge", "Offloaded jobs that wait for a thread.",
           pool_waiting(v->ops->pool));
    single(v, "graft_pool_running", "gauge", "Pool threads that work.", pool_running(v->ops->pool));
}

static void write_process(struct view *v)
{
    struct process p;
    process_read(&p);
    family(v, "process_cpu_seconds_total", "counter", "User and system time.");
    sample_seconds(v, "process_cpu_seconds_total", "", p.cpu_us);
    single(v, "process_resident_memory_bytes", "gauge", "Resident memory.", p.resident_bytes);
    single(v, "process_virtual_memory_bytes", "gauge", "Virtual memory.", p.virtual_bytes);
    single(v, "process_open_fds", "gauge", "Open descriptors.", p.open_fds);
    single(v, "process_max_fds", "gauge", "Descriptors that may be open.", p.max_fds);
    single(v, "process_threads", "gauge", "Threads.", p.threads);
    family(v, "process_start_time_seconds", "gauge", "Start, in seconds since 1970.");
    v->failed |= buf_printf(v->out, "process_start_time_seconds %.3f\n", v->ops->started_unix) != 0;
}

int ops_metrics(struct ops *o, struct buf *out)
{
    CHECK(o, OPS_MAGIC);
    struct view v = { .ops = o, .out = out };
    ops_totals(o, &v.totals);
    fill_rows(&v);
    family(&v, "graft_build_info", "gauge", "Always 1; the version is the label.");
    sample(&v, "graft_build_info", "version=\"" GRAFT_VERSION "\"", 1);
    single(&v, "graft_draining", "gauge", "1 while the server drains.", drain_is_on(o->drain));
    single(&v, "graft_log_dropped_total", "counter", "Log lines dropped: their reader was slow.",
           log_dropped());
    write_connections(&v);
    write_http(&v);
    write_swaps(&v);
    write_states(&v);
    write_kept(&v);
    write_versions_figures(&v);
    write_shadows(&v);
    write_latency(&v);
    write_workers(&v);
    write_process(&v);
    free(v.rows);
    return v.failed || metric_write(out) != 0 ? -1 : 0;
}
