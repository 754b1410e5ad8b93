/* One function for each kind of answer. A member that is missing is shown as 0 or "-": a newer or
   older server's answer is better shown in part than not at all. */
#include "ctl/show.h"

#include "ctl/table.h"

#include <inttypes.h>
#include <string.h>

static uint64_t number(struct json_value object, const char *key)
{
    int64_t n = 0;
    struct json_value v = json_get(object, key);
    if (!json_present(v) || json_int(v, &n) != 0 || n < 0)
        return 0;
    return (uint64_t)n;
}

static bool flag(struct json_value object, const char *key)
{
    bool b = false;
    struct json_value v = json_get(object, key);
    return json_present(v) && json_bool(v, &b) == 0 && b;
}

static size_t count(struct json_value array)
{
    return json_present(array) && json_type(array) == JSON_ARRAY ? json_count(array) : 0;
}

void show_duration(char out[32], uint64_t us)
{
    double s = (double)us / 1e6;
    if (us < 1000)
        snprintf(out, 32, "%" PRIu64 " us", us);
    else if (us < 1000000)
        snprintf(out, 32, "%.1f ms", (double)us / 1e3);
    else if (s < 120)
        snprintf(out, 32, "%.1f s", s);
    else if (s < 7200)
        snprintf(out, 32, "%.0f min", s / 60);
    else if (s < 172800)
        snprintf(out, 32, "%.0f h", s / 3600);
    else
        snprintf(out, 32, "%.0f d", s / 86400);
}

static void add_duration(struct table *t, uint64_t us)
{
    char shown[32];
    show_duration(shown, us);
    table_addf(t, "%s", shown);
}

void show_status(struct json_value a, FILE *out)
{
    struct json_value c = json_get(a, "connections"), workers = json_get(a, "workers");
    char up[32];
    show_duration(up, number(a, "uptime_s") * 1000000);
    fputs("graftd ", out);
    table_put_safe(out, json_get_string(a, "version"));
    fprintf(out, ", pid %" PRIu64 ", up %s\n", number(a, "pid"), up);
    fprintf(out, "generation %" PRIu64 "%s%s\n", number(a, "generation"),
            flag(a, "swapping") ? ", swapping" : "", flag(a, "draining") ? ", draining" : "");
    fprintf(out,
            "%" PRIu64 " requests in flight; connections: %" PRIu64 " now, %" PRIu64
            " accepted, %" PRIu64 " closed by the server\n\n",
            number(a, "in_flight"), number(c, "now"), number(c, "accepted"), number(c, "closed"));
    struct table t;
    table_init(&t, (const char *const[]){ "WORKER", ">LAG", ">CONNECTIONS", NULL });
    for (size_t i = 0; i < count(workers); i++) {
        struct json_value w = json_at(workers, i);
        table_addf(&t, "%" PRIu64, number(w, "worker"));
        add_duration(&t, number(w, "lag_us"));
        table_addf(&t, "%" PRIu64, number(w, "connections"));
    }
    table_print(&t, out);
    table_fini(&t);
}

static void add_oldest(struct table *t, struct json_value oldest)
{
    if (!json_present(oldest) || json_type(oldest) != JSON_OBJECT) {
        table_add(t, (struct str){ 0 });
        return;
    }
    char age[32];
    struct str route = json_get_string(oldest, "route"),
               what = json_get_string(oldest, "waits_for");
    show_duration(age, number(oldest, "age_ms") * 1000);
    table_addf(t, "%s " STR_FMT "%s" STR_FMT, age, STR_ARG(route),
               what.len > 0 ? ", waits for " : "", STR_ARG(what));
}

static void add_version(struct table *t, struct json_value v)
{
    table_add(t, json_get_string(v, "plugin"));
    table_add(t, json_get_string(v, "version"));
    table_add(t, json_get_string(v, "id"));
    table_add(t, json_get_string(v, "state"));
    table_addf(t, "%" PRIu64, number(v, "weight"));
    table_addf(t, "%" PRIu64, number(v, "in_flight"));
    table_addf(t, "%" PRIu64, number(v, "served"));
    table_addf(t, "%" PRIu64, number(v, "errors"));
    add_duration(t, number(v, "p50_us"));
    add_duration(t, number(v, "p99_us"));
    add_oldest(t, json_get(v, "oldest"));
}

/* A row of what is not loaded: no figures. */
static void add_unloaded(struct table *t, struct json_value v, const char *state)
{
    table_add(t, json_get_string(v, "plugin"));
    table_add(t, json_get_string(v, "version"));
    table_add(t, json_get_string(v, "id"));
    table_addf(t, "%s", state);
    for (int i = 0; i < 7; i++)
        table_add(t, (struct str){ 0 });
}

static void add_kept(struct table *t, struct json_value a)
{
    struct json_value kept = json_get(a, "kept"), quarantined = json_get(a, "quarantined");
    for (size_t i = 0; i < count(kept); i++)
        if (!flag(json_at(kept, i), "serves"))
            add_unloaded(t, json_at(kept, i), "kept");
    for (size_t i = 0; i < count(quarantined); i++)
        add_unloaded(t, json_at(quarantined, i), "quarantined");
}

static void show_reasons(struct json_value list, FILE *out)
{
    for (size_t i = 0; i < count(list); i++) {
        struct json_value v = json_at(list, i);
        struct str reason = json_get_string(v, "reason");
        if (reason.len == 0)
            continue;
        table_put_safe(out, json_get_string(v, "plugin"));
        fputc('@', out);
        table_put_safe(out, json_get_string(v, "id"));
        fputs(": ", out);
        table_put_safe(out, reason);
        fputc('\n', out);
    }
}

static void show_example(struct json_value e, FILE *out)
{
    fputs("    ", out);
    table_put_safe(out, json_get_string(e, "method"));
    fputc(' ', out);
    table_put_safe(out, json_get_string(e, "path"));
    fprintf(out, ": %" PRIu64 ", ", number(e, "status"));
    if (number(e, "shadow_status") > 0)
        fprintf(out, "shadow %" PRIu64, number(e, "shadow_status"));
    else
        fputs("shadow failed", out);
    fprintf(out, "; %" PRIu64 " bytes, shadow %" PRIu64 "\n", number(e, "bytes"),
            number(e, "shadow_bytes"));
}

static void show_shadow(struct json_value v, FILE *out)
{
    struct json_value s = json_get(v, "shadow"), examples;
    if (!json_present(s) || json_type(s) != JSON_OBJECT)
        return;
    table_put_safe(out, json_get_string(v, "plugin"));
    fputc('@', out);
    table_put_safe(out, json_get_string(v, "id"));
    fprintf(out,
            ": shadow of %" PRIu64 " %%: %" PRIu64 " requests, %" PRIu64
            " same; status differs %" PRIu64 ", body differs %" PRIu64 ", failed %" PRIu64
            ", dropped %" PRIu64 "\n",
            number(s, "percent"), number(s, "requests"), number(s, "same"), number(s, "status"),
            number(s, "body"), number(s, "failed"), number(s, "dropped"));
    examples = json_get(s, "examples");
    for (size_t i = 0; i < count(examples); i++)
        show_example(json_at(examples, i), out);
}

void show_versions(struct json_value a, FILE *out)
{
    struct json_value versions = json_get(a, "versions");
    struct table t;
    table_init(&t, (const char *const[]){ "PLUGIN", "VERSION", "ID", "STATE", ">WEIGHT",
                                          ">IN FLIGHT", ">SERVED", ">ERRORS", ">P50", ">P99",
                                          "OLDEST REQUEST", NULL });
    for (size_t i = 0; i < count(versions); i++)
        add_version(&t, json_at(versions, i));
    add_kept(&t, a);
    table_print(&t, out);
    table_fini(&t);
    show_reasons(versions, out);
    for (size_t i = 0; i < count(versions); i++)
        show_shadow(json_at(versions, i), out);
    show_reasons(json_get(a, "quarantined"), out);
}

static void show_entries(struct json_value a, const char *key, FILE *out)
{
    struct json_value entries = json_get(a, key);
    for (size_t i = 0; i < count(entries); i++) {
        struct json_value e = json_at(entries, i);
        struct str id = json_get_string(e, "id"), error = json_get_string(e, "error");
        fprintf(out, "%-10s ", key);
        table_put_safe(out, json_get_string(e, "plugin"));
        if (id.len > 0) {
            fputc('@', out);
            table_put_safe(out, id);
        }
        if (error.len > 0) {
            fputs(": ", out);
            table_put_safe(out, error);
        }
        fputc('\n', out);
    }
}

void show_reload(struct json_value a, FILE *out)
{
    char took[32];
    show_entries(a, "changed", out);
    show_entries(a, "unchanged", out);
    show_entries(a, "failed", out);
    show_duration(took, number(a, "duration_us"));
    fprintf(out, "generation %" PRIu64 ", after %s\n", number(a, "generation"), took);
}

void show_routes(struct json_value a, FILE *out)
{
    struct json_value routes = json_get(a, "routes");
    struct table t;
    table_init(&t, (const char *const[]){ "METHOD", "PATTERN", "CHAIN", "PLUGIN", "ID", NULL });
    for (size_t i = 0; i < count(routes); i++) {
        struct json_value r = json_at(routes, i), chain = json_get(r, "chain");
        struct buf names = { 0 };
        for (size_t k = 0; k < count(chain); k++) {
            struct str name = { 0 };
            json_string(json_at(chain, k), &name);
            buf_printf(&names, "%s" STR_FMT, k > 0 ? " > " : "", STR_ARG(name));
        }
        table_add(&t, json_get_string(r, "method"));
        table_add(&t, json_get_string(r, "pattern"));
        table_add(&t, buf_str(&names));
        table_add(&t, json_get_string(r, "plugin"));
        table_add(&t, json_get_string(r, "id"));
        buf_fini(&names);
    }
    table_print(&t, out);
    table_fini(&t);
}

static void put_process(struct json_value answer, const char *key, FILE *out)
{
    struct json_value v = json_get(answer, key);
    if (!json_present(v) || json_type(v) != JSON_OBJECT)
        return;
    fprintf(out, "%s: process %" PRIu64 ", graftd ", key, number(v, "pid"));
    table_put_safe(out, json_get_string(v, "version"));
    fputc('\n', out);
}

void show_upgrade(struct json_value answer, FILE *out)
{
    char took[32];
    struct str note = json_get_string(answer, "note");
    put_process(answer, "old", out);
    put_process(answer, "new", out);
    show_duration(took, number(answer, "duration_us"));
    fprintf(out, "upgraded in %s; the old process finishes what it has begun\n", took);
    if (note.len > 0) {
        table_put_safe(out, note);
        fputc('\n', out);
    }
}

void show_ready(struct json_value a, FILE *out)
{
    (void)a;
    fputs("ready\n", out);
}

void show_done(struct json_value a, FILE *out)
{
    (void)a;
    fputs("done\n", out);
}
