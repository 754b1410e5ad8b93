/* graftctl canary, promote and abort: wishes about one plugin's canary; and what ps says of it. */
#include "ops/ops.h"

#include "base/clock.h"
#include "plugin/rollout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct wish {
    struct swap_ask ask;
    struct web_request *req;
    char plugin[CONFIG_NAME_MAX + 1];
};

/* What a canary is to get. */
struct share {
    unsigned weight, shadow;
    bool shadow_asked;
};

static void answered(struct swap_ask *ask, const struct swap_result *result)
{
    struct wish *w = container_of(ask, struct wish, ask);
    ops_answer_swap(w->req, result);
    free(w);
}

static void wish(struct ops *o, struct web_request *req, const char *plugin, enum swap_wish what,
                 const struct share *share)
{
    struct wish *w = calloc(1, sizeof *w);
    if (w == NULL || strlen(plugin) >= sizeof w->plugin) {
        ops_answer_error(req, w == NULL ? 503 : 404, w == NULL ? "no_memory" : "not_found",
                         w == NULL ? "out of memory" : "no plugin has so long a name");
        free(w);
        return;
    }
    w->req = req;
    snprintf(w->plugin, sizeof w->plugin, "%s", plugin);
    w->ask =
        (struct swap_ask){ .wish = what, .plugin = w->plugin, .by = "graftctl", .done = answered };
    if (share != NULL) {
        w->ask.weight = share->weight;
        w->ask.shadow = share->shadow;
        w->ask.shadow_asked = share->shadow_asked;
    }
    swap_ask(o->swap, &w->ask);
}

/* The field, once, with a whole number up to `max`. */
static bool percent(const struct web_request *req, const char *name, unsigned max, unsigned *out)
{
    const struct web_field *fields;
    size_t n = web_fields(req, &fields);
    unsigned found = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t value;
        if (strcmp(fields[i].name, name) != 0)
            continue;
        if (str_to_u64(str_of(fields[i].value), &value) != 0 || value > max)
            return false;
        *out = (unsigned)value;
        found++;
    }
    return found == 1;
}

void ops_answer_canary(struct ops *o, struct web_request *req, const char *rest)
{
    struct share share = { 0 };
    if (!percent(req, "weight", 99, &share.weight)) {
        ops_answer_error(req, 400, "bad_request",
                         "expected weight=N, the percent of the requests from 0 to 99; promote "
                         "gives the canary all of them");
        return;
    }
    const struct web_field *fields;
    share.shadow_asked = web_fields(req, &fields) > 1;
    if (share.shadow_asked && !percent(req, "shadow", 100, &share.shadow)) {
        ops_answer_error(req, 400, "bad_request",
                         "expected shadow=N, the percent from 0 to 100 of the requests that the "
                         "stable version serves");
        return;
    }
    wish(o, req, rest, SWAP_CANARY, &share);
}

void ops_answer_promote(struct ops *o, struct web_request *req, const char *rest)
{
    wish(o, req, rest, SWAP_PROMOTE, NULL);
}

void ops_answer_abort(struct ops *o, struct web_request *req, const char *rest)
{
    wish(o, req, rest, SWAP_ABORT, NULL);
}

const char *ops_canary_reason(const struct ops *o, const struct version *v)
{
    const struct rollout *r = rollout_of(swap_rollouts(o->swap), v);
    if (r == NULL)
        return NULL;
    if (v->withdrawn)
        return r->refused[0] != '\0' ? r->refused
                                     : "it is worse: it gets no more requests, and is to leave";
    if (r->held)
        return "its share is held by hand until canary, promote or abort";
    if (r->refused[0] != '\0')
        return r->refused;
    const struct config_rollout *how = config_plugin(swap_config(o->swap), v->plugin)->rollout;
    return how == NULL || !how->advance ? "its steps are left to you: canary, promote or abort"
                                        : NULL;
}

static void put_side(struct json_out *j, const char *key, const struct judge_sample *s,
                     double error_rate, uint64_t p99_us)
{
    json_open(j, key, '{');
    json_put_u64(j, "requests", s->requests);
    json_put_u64(j, "errors", s->errors);
    json_put_double(j, "error_rate", error_rate);
    json_put_u64(j, "p99_us", p99_us);
    json_close(j, '}');
}

void ops_put_rollout(struct json_out *j, const struct ops *o, const struct version *v)
{
    static const char *const verdicts[] = { "wait", "good", "worse" };
    const struct rollout *r = rollout_of(swap_rollouts(o->swap), v);
    if (r == NULL)
        return;
    const struct judgement *a = &r->judgement;
    json_open(j, "rollout", '{');
    json_put_z(j, "stable", r->stable);
    json_put_bool(j, "held", r->held);
    json_put_z(j, "verdict", verdicts[a->verdict]);
    json_put_z(j, "why", a->why);
    put_side(j, "canary", &r->sample, a->error_rate, a->p99_us);
    put_side(j, "beside", &r->stable_sample, a->stable_error_rate, a->stable_p99_us);
    json_put_double(j, "error_chance", a->error_chance);
    json_put_double(j, "latency_chance", a->latency_chance);
    json_close(j, '}');
}

unsigned ops_shadow_percent(const struct version *v)
{
    return v->state == VERSION_ACTIVE && v->canary ? v->shadow : 0;
}

static void put_example(struct json_out *j, const struct shadow_example *e, uint64_t now)
{
    json_open(j, NULL, '{');
    json_put_z(j, "outcome", shadow_outcome_name((enum shadow_outcome)e->outcome));
    json_put_u64(j, "age_ms", now > e->when_us ? (now - e->when_us) / 1000 : 0);
    json_put_z(j, "method", e->method);
    json_put_z(j, "path", e->path);
    json_put_u64(j, "status", e->status);
    json_put_u64(j, "shadow_status", e->shadow_status);
    json_put_u64(j, "bytes", e->len);
    json_put_u64(j, "shadow_bytes", e->shadow_len);
    json_close(j, '}');
}

void ops_put_shadow(struct json_out *j, const struct version *v)
{
    struct shadow_sums s;
    version_sum_shadows(v, &s);
    if (ops_shadow_percent(v) == 0 && s.requests == 0 && s.live == 0)
        return;
    json_open(j, "shadow", '{');
    json_put_u64(j, "percent", ops_shadow_percent(v));
    json_put_u64(j, "requests", s.requests);
    for (unsigned o = 0; o < SHADOW_OUTCOMES; o++)
        json_put_u64(j, shadow_outcome_name((enum shadow_outcome)o), s.outcomes[o]);
    json_put_u64(j, "in_flight", s.live);
    json_open(j, "examples", '[');
    for (unsigned i = 0; i < s.nexamples; i++)
        put_example(j, &s.examples[i], clock_us());
    json_close(j, ']');
    json_close(j, '}');
}
