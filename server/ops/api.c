/*
 * The control socket: a table of verbs. Each answers one JSON object with `ok`, and with `error`
 * (a word) and `reason` (a sentence) when that is false. A query field that the verb does not know
 * is an error: a mistyped option must not be taken for "no". Root and the server's user may do
 * everything, members of control_groups what is a GET (ops/peer.h).
 */
#include "ops/ops.h"

#include "base/clock.h"
#include "base/log.h"
#include "ops/peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void ops_answer_json(struct web_request *req, int status, struct json_out *out)
{
    if (out->failed || buf_puts(out->buf, "\n") != 0) {
        buf_fini(out->buf);
        web_answer_text(req, 503,
                        "{\"ok\":false,\"error\":\"no_memory\",\"reason\":\"out of memory for the "
                        "answer: what was asked for may have been done\"}\n");
        return;
    }
    web_answer(req, status, "application/json", NULL, out->buf);
}

static void put_refusal(struct json_out *j, const char *error, const char *reason)
{
    json_put_bool(j, "ok", false);
    json_put_z(j, "error", error);
    json_put_z(j, "reason", reason);
}

void ops_answer_error(struct web_request *req, int status, const char *error, const char *fmt, ...)
{
    struct buf body = { 0 };
    struct json_out j;
    struct err reason;
    va_list ap;
    va_start(ap, fmt);
    err_vset(&reason, fmt, ap);
    va_end(ap);
    json_out_init(&j, &body);
    json_open(&j, NULL, '{');
    put_refusal(&j, error, reason.text);
    json_close(&j, '}');
    ops_answer_json(req, status, &j);
}

/* -- status -- */

static void put_workers(struct json_out *j, const struct ops *o)
{
    struct loop **loops = workers_loops(o->workers);
    uint64_t now = clock_us();
    json_open(j, "workers", '[');
    for (unsigned i = 0; i < workers_count(o->workers); i++) {
        const struct loop_stats *s = &loops[i]->stats;
        uint64_t closed = COUNTER_READ(s->closed);
        json_open(j, NULL, '{');
        json_put_u64(j, "worker", i);
        json_put_u64(j, "lag_us", ops_lag_us(o, loops[i], now));
        json_put_u64(j, "connections", COUNTER_READ(s->accepted) - closed);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void answer_status(struct ops *o, struct web_request *req, const char *rest)
{
    (void)rest;
    struct buf body = { 0 };
    struct json_out j;
    struct ops_totals t;
    ops_totals(o, &t);
    json_out_init(&j, &body);
    json_open(&j, NULL, '{');
    json_put_bool(&j, "ok", true);
    json_put_z(&j, "version", GRAFT_VERSION);
    json_put_int(&j, "pid", getpid());
    json_put_u64(&j, "uptime_s", (clock_us() - o->started_us) / 1000000);
    json_put_u64(&j, "generation", swap_generation(o->swap));
    json_put_bool(&j, "draining", drain_is_on(o->drain));
    json_put_bool(&j, "swapping", swap_running(o->swap));
    put_workers(&j, o);
    json_open(&j, "connections", '{');
    json_put_u64(&j, "now", t.accepted - t.closed);
    json_put_u64(&j, "accepted", t.accepted);
    json_put_u64(&j, "closed", t.closed_by_us);
    json_close(&j, '}');
    json_put_u64(&j, "in_flight", t.in_flight);
    json_close(&j, '}');
    ops_answer_json(req, 200, &j);
}

/* -- ps -- */

static void put_oldest(struct json_out *j, const struct version_sums *s)
{
    if (s->oldest_age_us == 0) {
        json_put_z(j, "oldest", NULL);
        return;
    }
    json_open(j, "oldest", '{');
    json_put_u64(j, "age_ms", s->oldest_age_us / 1000);
    json_put_z(j, "route", s->oldest_route);
    json_put_z(j, "waits_for", s->oldest_waits_for);
    json_close(j, '}');
}

const char *ops_state_name(const struct version *v)
{
    if (v->state == VERSION_ACTIVE && v->stand_in)
        return "missing";
    return v->state == VERSION_ACTIVE && v->canary ? "canary" : version_state_name(v->state);
}

const char *ops_reason(const struct ops *o, const struct version *v)
{
    if (v->reason != NULL || v->state != VERSION_ACTIVE)
        return v->reason;
    return v->from_store || v->stand_in ? v->store_why : ops_canary_reason(o, v);
}

static void put_version(struct json_out *j, const struct ops *o, const struct version *v)
{
    struct version_sums s;
    version_sum(v, &s);
    json_open(j, NULL, '{');
    json_put_z(j, "plugin", v->plugin);
    json_put_z(j, "version", v->desc.version);
    json_put_z(j, "id", v->id);
    json_put_z(j, "sha256", v->sha256);
    json_put_z(j, "config_sha256", v->config_sha256);
    json_put_z(j, "state", ops_state_name(v));
    json_put_u64(j, "weight", v->state == VERSION_ACTIVE ? v->weight : 0);
    json_put_u64(j, "in_flight", s.pins);
    put_oldest(j, &s);
    json_put_u64(j, "served", s.served);
    json_put_u64(j, "errors", s.errors);
    json_put_u64(j, "p50_us", latency_quantile_us(s.latency_all, 0.50));
    json_put_u64(j, "p99_us", latency_quantile_us(s.latency_all, 0.99));
    json_put_z(j, "source", v->from_store ? "store" : "folder");
    json_put_z(j, "reason", ops_reason(o, v));
    ops_put_rollout(j, o, v);
    ops_put_shadow(j, v);
    json_close(j, '}');
}

static void answer_versions(struct ops *o, struct web_request *req, const char *rest)
{
    (void)rest;
    struct buf body = { 0 };
    struct json_out j;
    json_out_init(&j, &body);
    json_open(&j, NULL, '{');
    json_put_bool(&j, "ok", true);
    json_open(&j, "versions", '[');
    list_each (it, swap_versions(o->swap)) {
        const struct version *v = list_entry(it, struct version, node);
        if (v->plugin != NULL)
            put_version(&j, o, v);
    }
    json_close(&j, ']');
    ops_put_kept(o, &j);
    json_close(&j, '}');
    ops_answer_json(req, 200, &j);
}

/* -- reload -- */

static void put_entries(struct json_out *j, const char *key, const struct swap_entry *entries,
                        size_t n)
{
    json_open(j, key, '[');
    for (size_t i = 0; i < n; i++) {
        json_open(j, NULL, '{');
        json_put_z(j, "plugin", entries[i].plugin);
        json_put_z(j, "id", entries[i].id);
        json_put_z(j, "error", entries[i].error);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void put_swap(struct json_out *j, const struct swap_result *r)
{
    json_put_u64(j, "generation", r->generation);
    put_entries(j, "changed", r->changed, r->nchanged);
    put_entries(j, "unchanged", r->unchanged, r->nunchanged);
    put_entries(j, "failed", r->failed, r->nfailed);
    json_put_u64(j, "duration_us", r->duration_us);
}

void ops_answer_swap(struct web_request *req, const struct swap_result *r)
{
    struct buf body = { 0 };
    struct json_out j;
    json_out_init(&j, &body);
    json_open(&j, NULL, '{');
    if (r->ok)
        json_put_bool(&j, "ok", true);
    else
        put_refusal(&j, r->word, r->reason);
    put_swap(&j, r);
    json_close(&j, '}');
    bool later = !r->ok && (strcmp(r->word, "draining") == 0 || strcmp(r->word, "pending") == 0);
    bool unknown = !r->ok && strcmp(r->word, "not_found") == 0;
    ops_answer_json(req, r->ok ? 200 : later ? 503 : unknown ? 404 : 409, &j);
}

void ops_answer_no_swap(struct web_request *req, int status, unsigned generation, const char *error,
                        const char *reason)
{
    struct swap_result none = { .generation = generation };
    struct buf body = { 0 };
    struct json_out j;
    json_out_init(&j, &body);
    json_open(&j, NULL, '{');
    put_refusal(&j, error, reason);
    put_swap(&j, &none);
    json_close(&j, '}');
    ops_answer_json(req, status, &j);
}

static int parse_flag(const char *value, bool *out)
{
    if (strcmp(value, "1") == 0 || strcmp(value, "true") == 0)
        *out = true;
    else if (strcmp(value, "0") == 0 || strcmp(value, "false") == 0)
        *out = false;
    else
        return -1;
    return 0;
}

static void answer_reload(struct ops *o, struct web_request *req, const char *rest)
{
    (void)rest;
    struct ops_reload how = { 0 };
    const struct {
        const char *name;
        bool *flag;
    } options[] = {
        { "retry", &how.retry },
        { "allow_empty", &how.allow_empty },
        { "config", &how.config },
    };
    const struct web_field *fields;
    size_t n = web_fields(req, &fields);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < ARRAY_LEN(options); k++)
            if (strcmp(fields[i].name, options[k].name) == 0 &&
                parse_flag(fields[i].value, options[k].flag) != 0) {
                ops_answer_error(req, 400, "bad_request", "%s is '%.40s': expected 1 or 0",
                                 fields[i].name, fields[i].value);
                return;
            }
    o->verbs->reload(o->arg, &how, req);
}

/* -- the small verbs -- */

static void answer_ok(struct web_request *req)
{
    struct buf body = { 0 };
    struct json_out j;
    json_out_init(&j, &body);
    json_open(&j, NULL, '{');
    json_put_bool(&j, "ok", true);
    json_close(&j, '}');
    ops_answer_json(req, 200, &j);
}

/* What /readyz says, for those who cannot reach the ops address: a container's health check, say.
 */
static void answer_ready(struct ops *o, struct web_request *req, const char *rest)
{
    (void)rest;
    struct buf why = { 0 };
    bool ready = ops_is_ready(o, &why);
    swap_ask_health(o->swap); /* for whoever asks next */
    if (ready)
        answer_ok(req);
    else
        ops_answer_error(req, 503, "not_ready", "%.*s", why.len > 0 ? (int)why.len - 1 : 0,
                         buf_str(&why).ptr);
    buf_fini(&why);
}

static void answer_reopen(struct ops *o, struct web_request *req, const char *rest)
{
    (void)rest;
    struct err err;
    if (o->verbs->reopen(o->arg, &err) == 0)
        answer_ok(req);
    else
        ops_answer_error(req, 500, "failed", "%s", err.text);
}

static void answer_drain(struct ops *o, struct web_request *req, const char *rest)
{
    (void)rest;
    o->verbs->drain(o->arg);
    answer_ok(req);
}

static void answer_upgrade(struct ops *o, struct web_request *req, const char *rest)
{
    (void)rest;
    const struct web_field *fields;
    const char *binary = "";
    if (web_fields(req, &fields) > 0)
        binary = fields[0].value;
    if (binary[0] != '\0' && binary[0] != '/')
        ops_answer_error(req, 400, "bad_request", "binary is '%.80s': expected an absolute path",
                         binary);
    else
        o->verbs->upgrade(o->arg, binary, req);
}

/* `rest` is NAME@ID. */
static void answer_retire(struct ops *o, struct web_request *req, const char *rest)
{
    char name[256];
    struct err err;
    snprintf(name, sizeof name, "%s", rest);
    char *at = strrchr(name, '@');
    if (at == NULL || at == name || at[1] == '\0' || strlen(rest) >= sizeof name) {
        ops_answer_error(req, 400, "bad_request",
                         "expected NAME@ID, as graftctl ps shows them, found '%.80s'", rest);
        return;
    }
    *at = '\0';
    if (swap_retire(o->swap, name, at + 1, &err) == 0)
        answer_ok(req);
    else
        ops_answer_error(req, 409, "refused", "%s", err.text);
}

/* -- the table -- */

struct verb {
    const char *method;
    const char *before, *after; /* the path; between them the part that varies (after: not NULL) */
    const char *fields;         /* the query fields that it knows: " a b " */
    void (*answer)(struct ops *o, struct web_request *req, const char *rest);
};

static const struct verb verbs[] = {
    { "GET", "/v1/status", NULL, "", answer_status },
    { "GET", "/v1/ready", NULL, "", answer_ready },
    { "GET", "/v1/versions", NULL, "", answer_versions },
    { "GET", "/v1/routes", NULL, "", ops_answer_routes },
    { "POST", "/v1/reload", NULL, " retry allow_empty config ", answer_reload },
    { "POST", "/v1/reopen", NULL, "", answer_reopen },
    { "POST", "/v1/drain", NULL, "", answer_drain },
    { "POST", "/v1/upgrade", NULL, " binary ", answer_upgrade },
    { "POST", "/v1/versions/", "/retire", "", answer_retire },
    { "POST", "/v1/plugins/", "/rollback", "", ops_answer_rollback },
    { "POST", "/v1/plugins/", "/canary", " weight shadow ", ops_answer_canary },
    { "POST", "/v1/plugins/", "/promote", "", ops_answer_promote },
    { "POST", "/v1/plugins/", "/abort", "", ops_answer_abort },
};

/* Does the path fit? Copies the part that varies to `rest`. */
static bool fits(const struct verb *v, const char *path, char *rest, size_t size)
{
    size_t len = strlen(path), before = strlen(v->before);
    if (v->after == NULL)
        return strcmp(path, v->before) == 0;
    size_t after = strlen(v->after);
    if (len <= before + after || strncmp(path, v->before, before) != 0 ||
        strcmp(path + len - after, v->after) != 0)
        return false;
    snprintf(rest, size, "%.*s", (int)(len - before - after), path + before);
    return strchr(rest, '/') == NULL;
}

static const struct web_field *unknown_field(const struct verb *v, const struct web_request *req)
{
    const struct web_field *fields;
    size_t n = web_fields(req, &fields);
    for (size_t i = 0; i < n; i++) {
        char name[64];
        int len = snprintf(name, sizeof name, " %s ", fields[i].name);
        if (len < 3 || (size_t)len >= sizeof name || strchr(fields[i].name, ' ') != NULL ||
            strstr(v->fields, name) == NULL)
            return &fields[i];
    }
    return NULL;
}

/* The verb's fields stand between spaces. */
static void answer_unknown(struct web_request *req, const struct verb *v,
                           const struct web_field *unknown)
{
    int len = (int)strlen(v->fields);
    ops_answer_error(req, 400, "bad_request", "unknown option '%.60s': expected%.*s", unknown->name,
                     len > 0 ? len - 1 : 5, len > 0 ? v->fields : " none");
}

/* At most 10 a second: whoever may not do anything may not fill the log either. */
static void log_forbidden(const struct web_request *req, const struct peer *peer)
{
    static uint64_t second;
    static unsigned count;
    static struct log_line line; /* 4 KB; the control thread's alone */
    uint64_t now = clock_us() / 1000000;
    count = now == second ? count + 1 : 1;
    second = now;
    if (count > 10)
        return;
    log_begin(&line, LOG_WARN, "refused", "control socket: user %d (pid %d) may not: %s %.200s",
              (int)peer->uid, (int)peer->pid, web_method(req), web_path(req));
    log_u64(&line, "status", 403);
    log_z(&line, "why", "forbidden");
    log_end(&line);
}

static void forbid(struct web_request *req, const struct peer *peer)
{
    log_forbidden(req, peer);
    if (peer->right == PEER_READ)
        ops_answer_error(req, 403, "forbidden",
                         "user %d may only ask (status, ready, ps, routes), as a member of "
                         "control_groups: root and the server's user %u may do this",
                         (int)peer->uid, (unsigned)geteuid());
    else
        ops_answer_error(req, 403, "forbidden",
                         "user %d is neither root nor the server's user %u, nor in one of "
                         "control_groups: ask one of these, or be made a member and log in again",
                         (int)peer->uid, (unsigned)geteuid());
}

void ops_handle_api(struct web_request *req, void *arg)
{
    struct ops *o = arg;
    struct peer peer;
    CHECK(o, OPS_MAGIC);
    const char *path = web_path(req);
    peer_find(&peer, web_fd(req), o->control_groups, o->control_group_count);
    if (peer.right == PEER_NOTHING) {
        forbid(req, &peer);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        char rest[512] = "";
        if (!fits(&verbs[i], path, rest, sizeof rest))
            continue;
        const struct web_field *unknown = unknown_field(&verbs[i], req);
        if (peer.right != PEER_ALL && strcmp(verbs[i].method, "GET") != 0)
            forbid(req, &peer);
        else if (strcmp(web_method(req), verbs[i].method) != 0)
            ops_answer_error(req, 405, "bad_method", "%s takes %s, not %s", path, verbs[i].method,
                             web_method(req));
        else if (unknown != NULL)
            answer_unknown(req, &verbs[i], unknown);
        else
            verbs[i].answer(o, req, rest);
        return;
    }
    ops_answer_error(req, 404, "not_found", "no such verb: %.200s", path);
}
