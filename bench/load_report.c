/* What graftload says at the end: a table for people, or JSON for the scripts. */
#include "load.h"

#include <inttypes.h>

const char *const failure_names[FAILURES] = {
    [FAILED_RESET] = "reset",     [FAILED_CLOSED] = "closed",   [FAILED_TRUNCATED] = "truncated",
    [FAILED_STATUS] = "status",   [FAILED_FRAMING] = "framing", [FAILED_BODY] = "body",
    [FAILED_TIMEOUT] = "timeout",
};

static const char *const class_names[PHASE_CLASSES] = { "other", "quiet", "swaps" };

static void latency_row(FILE *out, const char *name, const char *class, const struct histogram *h)
{
    if (h->count == 0)
        return;
    fprintf(out, "  %-12s %-6s %10" PRIu64 " %9.3f %9.3f %9.3f %9.3f %9.3f\n", name, class,
            h->count, (double)h->sum / (double)h->count / 1e3, (double)histogram_at(h, 0.50) / 1e3,
            (double)histogram_at(h, 0.90) / 1e3, (double)histogram_at(h, 0.99) / 1e3,
            (double)h->max / 1e3);
}

void report_table(const struct load *load, FILE *out)
{
    fprintf(out, "%.1f s, %" PRIu64 " requests sent, %" PRIu64 " answered, %" PRIu64 " failed",
            load->elapsed, load->sent, load->answered, load->failed);
    for (unsigned i = 0; i < FAILURES; i++) {
        if (load->failures[i] > 0)
            fprintf(out, ", %s %" PRIu64, failure_names[i], load->failures[i]);
    }
    fprintf(out, "; %.0f requests/s\n", (double)load->answered / load->elapsed);
    fprintf(out,
            "connections: %" PRIu64 " opened, %" PRIu64 " refused, %" PRIu64
            " closed idle, %" PRIu64 " closed as announced\n",
            load->opened, load->refused, load->closed_idle, load->closed_said);
    if (load->versioned)
        fprintf(out,
                "versions: %" PRIu64 " stale, %" PRIu64 " mixed, %" PRIu64 " not yet deployed\n",
                load->stale, load->mixed, load->future);
    fprintf(out, "  %-12s %-6s %10s %9s %9s %9s %9s %9s ms\n", "kind", "phase", "answers", "mean",
            "p50", "p90", "p99", "max");
    for (unsigned k = 0; k < load->kind_count; k++) {
        for (unsigned c = 0; c < PHASE_CLASSES; c++)
            latency_row(out, load->kinds[k].name, class_names[c], &load->kinds[k].latency[c]);
    }
}

static void latency_json(FILE *out, const struct kind *kind)
{
    for (unsigned c = 0; c < PHASE_CLASSES; c++) {
        const struct histogram *h = &kind->latency[c];

        fprintf(out,
                "%s\"%s\": {\"count\": %" PRIu64 ", \"mean_us\": %.1f, \"p50_us\": %" PRIu64
                ", \"p90_us\": %" PRIu64 ", \"p99_us\": %" PRIu64 ", \"p999_us\": %" PRIu64
                ", \"max_us\": %" PRIu64 "}",
                c > 0 ? ", " : "", class_names[c], h->count,
                h->count > 0 ? (double)h->sum / (double)h->count : 0.0, histogram_at(h, 0.50),
                histogram_at(h, 0.90), histogram_at(h, 0.99), histogram_at(h, 0.999), h->max);
    }
}

static void kind_json(FILE *out, const struct kind *kind)
{
    fprintf(out,
            "{\"name\": \"%s\", \"sent\": %" PRIu64 ", \"answered\": %" PRIu64
            ", \"failed\": %" PRIu64 ", \"spanned\": %" PRIu64 ", \"body_bytes\": %" PRIu64
            ", \"latency\": {",
            kind->name, kind->sent, kind->answered, kind->failed, kind->spanned, kind->body_bytes);
    latency_json(out, kind);
    fprintf(out, "}}");
}

void report_json(const struct load *load, FILE *out)
{
    fprintf(out,
            "{\"seconds\": %.3f, \"sent\": %" PRIu64 ", \"answered\": %" PRIu64
            ", \"failed\": %" PRIu64 ", \"failures\": {",
            load->elapsed, load->sent, load->answered, load->failed);
    for (unsigned i = 0; i < FAILURES; i++)
        fprintf(out, "%s\"%s\": %" PRIu64, i > 0 ? ", " : "", failure_names[i], load->failures[i]);
    fprintf(out,
            "}, \"connections\": {\"opened\": %" PRIu64 ", \"refused\": %" PRIu64
            ", \"closed_idle\": %" PRIu64 ", \"closed_said\": %" PRIu64 "}",
            load->opened, load->refused, load->closed_idle, load->closed_said);
    fprintf(out,
            ", \"stale\": %" PRIu64 ", \"mixed\": %" PRIu64 ", \"future\": %" PRIu64
            ", \"kinds\": [",
            load->stale, load->mixed, load->future);
    for (unsigned k = 0; k < load->kind_count; k++) {
        fprintf(out, "%s", k > 0 ? ",\n " : "\n ");
        kind_json(out, &load->kinds[k]);
    }
    fprintf(out, "\n]}\n");
}
