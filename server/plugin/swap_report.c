/* What a swap says: entries for its result, log events, answers to those who asked. */
#include "plugin/swap_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/retire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Entries --------------------------------------------------------------------------------- */

static bool copy(char **to, const char *from)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL;
}

static void entry_fini(struct swap_entry *e)
{
    free(e->plugin);
    free(e->id);
    free(e->error);
    free(e->file);
    free(e->stage);
}

int entries_add(struct entries *e, const char *plugin, const char *id, const char *error,
                const char *file, const char *stage)
{
    if (e->n == e->cap) {
        size_t cap = e->cap ? e->cap * 2 : 8;
        struct swap_entry *list = realloc(e->list, cap * sizeof *list);
        if (list == NULL)
            return -1;
        e->list = list;
        e->cap = cap;
    }
    struct swap_entry *to = &e->list[e->n];
    bool all = copy(&to->plugin, plugin);
    all = copy(&to->id, id) && all;
    all = copy(&to->error, error) && all;
    all = copy(&to->file, file) && all;
    all = copy(&to->stage, stage) && all;
    if (!all) {
        entry_fini(to);
        return -1;
    }
    e->n++;
    return 0;
}

void entries_clear(struct entries *e)
{
    for (size_t i = 0; i < e->n; i++)
        entry_fini(&e->list[i]);
    free(e->list);
    *e = (struct entries){ 0 };
}

void round_reason(struct swap *s, const char *fmt, ...)
{
    va_list ap;
    char *text;
    if (s->round.reason != NULL)
        return;
    va_start(ap, fmt);
    s->round.reason = vasprintf(&text, fmt, ap) >= 0 ? text : NULL;
    va_end(ap);
}

/* ---- Events ---------------------------------------------------------------------------------- */

static void log_failed(const struct version *v, const char *plugin, const char *file,
                       const char *stage, const char *error)
{
    struct log_line line;
    log_begin(&line, LOG_ERROR, "plugin_failed", "%s", error);
    if (v != NULL)
        retire_log_identity(&line, v);
    else
        log_z(&line, "plugin", plugin);
    log_z(&line, "file", file);
    log_z(&line, "stage", stage);
    log_z(&line, "error", error);
    log_end(&line);
}

void report_version_failed(struct swap *s, struct version *v, const char *stage, const char *text)
{
    version_reason_set(v, text);
    log_failed(v, NULL, v->source, stage, text);
    if (entries_add(&s->round.failed, v->plugin, v->id, text, v->source, stage) != 0)
        round_reason(s, "%s", text);
}

void report_file_failed(struct swap *s, const struct found *f, bool again)
{
    char name[256];
    const char *error = f->error != NULL ? f->error : "out of memory for the reason";
    snprintf(name, sizeof name, "%.*s", (int)(strlen(f->file) - 3), f->file);
    const char *plugin = f->plugin != NULL ? f->plugin : name;
    if (!again)
        log_failed(NULL, plugin, f->path, f->stage, error);
    if (entries_add(&s->round.failed, plugin, NULL, error, f->path, f->stage) != 0)
        round_reason(s, "%s", error);
}

void report_loaded(const struct version *v)
{
    struct log_line line;
    log_begin(&line, LOG_INFO, "plugin_loaded", "%s %s serves", v->plugin, v->id);
    retire_log_identity(&line, v);
    log_z(&line, "file", v->source);
    log_end(&line);
}

static void log_entries(struct log_line *line, const char *key, const struct entries *e)
{
    struct buf buf = { 0 };
    struct json_out out;
    json_out_init(&out, &buf);
    json_open(&out, NULL, '[');
    for (size_t i = 0; i < e->n; i++) {
        json_open(&out, NULL, '{');
        json_put_z(&out, "plugin", e->list[i].plugin);
        json_put_z(&out, "id", e->list[i].id);
        json_put_z(&out, "error", e->list[i].error);
        json_close(&out, '}');
    }
    json_close(&out, ']');
    if (!out.failed)
        log_raw(line, key, buf_str(&buf));
    buf_fini(&buf);
}

/* All reasons, when there is none that stands above them. */
static const char *reason(struct swap *s, const char *word)
{
    struct round *r = &s->round;
    if (strcmp(word, "draining") == 0)
        return "the server drains: the swap was abandoned";
    struct buf buf = { 0 };
    for (size_t i = 0; r->reason == NULL && i < r->failed.n; i++)
        if (buf_printf(&buf, "%s%s", i > 0 ? "; " : "", r->failed.list[i].error) != 0)
            break;
    if (r->reason == NULL && buf.data != NULL)
        r->reason = strdup(buf.data);
    buf_fini(&buf);
    return r->reason != NULL ? r->reason : "out of memory";
}

static void count(struct swap *s, bool ok, const char *word, uint64_t duration, uint64_t publish)
{
    struct swap_counts *c = &s->counts;
    if (ok && publish == 0)
        c->unchanged++;
    if (ok) {
        c->ok++;
        c->duration_us_sum += publish != 0 ? duration : 0;
        c->publish_us_sum += publish;
    } else if (strcmp(word, "busy") == 0) {
        c->busy++;
    } else if (strcmp(word, "draining") == 0) {
        c->draining++;
    } else {
        c->failed++;
    }
}

static void times(const struct swap *s, uint64_t *duration, uint64_t *publish)
{
    const struct round *r = &s->round;
    uint64_t now = clock_us();
    *duration = r->want.asked_us != 0 && now > r->want.asked_us ? now - r->want.asked_us : 0;
    *publish = r->prepare_us != 0 ? now - r->prepare_us : 0;
}

void report_swap(struct swap *s, bool ok, const char *word)
{
    struct round *r = &s->round;
    struct entries none = { 0 };
    uint64_t duration, publish;
    struct log_line line;
    times(s, &duration, &publish);
    count(s, ok, word, duration, publish);
    if (ok)
        log_begin(&line, LOG_INFO, "swap", "generation %u: %zu changed, %zu unchanged",
                  swap_generation(s), r->changed.n, r->unchanged.n);
    else
        log_begin(&line, LOG_ERROR, "swap", "%s", reason(s, word));
    log_bool(&line, "ok", ok);
    log_u64(&line, "generation", swap_generation(s));
    log_u64(&line, "duration_us", duration);
    log_u64(&line, "publish_us", publish);
    log_entries(&line, "changed", ok ? &r->changed : &none);
    log_entries(&line, "failed", &r->failed);
    log_entries(&line, "unchanged", &r->unchanged);
    log_end(&line);
}

void report_refused(struct swap *s, const struct swap_ask *ask, const char *reason)
{
    struct entries none = { 0 };
    struct log_line line;
    log_begin(&line, LOG_ERROR, "swap", "nothing was changed: %s", reason);
    log_bool(&line, "ok", false);
    log_u64(&line, "generation", swap_generation(s));
    log_u64(&line, "duration_us", clock_us() - ask->asked_us);
    log_u64(&line, "publish_us", 0);
    log_entries(&line, "changed", &none);
    log_entries(&line, "failed", &none);
    log_entries(&line, "unchanged", &none);
    log_end(&line);
}

/* ---- Answers --------------------------------------------------------------------------------- */

void round_answer(struct swap *s, struct list *asks, bool ok, const char *word)
{
    struct round *r = &s->round;
    bool published = ok || strcmp(word, "pending") == 0;
    struct swap_result result = { .ok = ok,
                                  .word = word,
                                  .reason = ok ? NULL : reason(s, word),
                                  .generation = swap_generation(s),
                                  .changed = r->changed.list,
                                  .nchanged = published ? r->changed.n : 0,
                                  .unchanged = r->unchanged.list,
                                  .nunchanged = r->unchanged.n,
                                  .failed = r->failed.list,
                                  .nfailed = r->failed.n };
    times(s, &result.duration_us, &result.publish_us);
    for (struct list *it; (it = list_pop(asks)) != NULL;) {
        struct swap_ask *ask = list_entry(it, struct swap_ask, node);
        if (ask->done != NULL)
            ask->done(ask, &result);
    }
}

void answer_without_round(struct swap *s, struct swap_ask *ask, const char *word, const char *why)
{
    struct swap_result result = { .word = word, .reason = why, .generation = swap_generation(s) };
    config_free(ask->config);
    ask->config = NULL;
    if (ask->done != NULL)
        ask->done(ask, &result);
}
