/* graftctl canary, promote and abort: wishes about one plugin's canary; and what ps says of it. */
#include "ops/ops.h"

#include "plugin/rollout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct wish {
    struct swap_ask ask;
    struct web_request *req;
    char plugin[CONFIG_NAME_MAX + 1];
};

static void answered(struct swap_ask *ask, const struct swap_result *result)
{
    struct wish *w = container_of(ask, struct wish, ask);
    ops_answer_swap(w->req, result);
    free(w);
}

static void wish(struct ops *o, struct web_request *req, const char *plugin, enum swap_wish what,
                 unsigned weight)
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
    w->ask = (struct swap_ask){
        .wish = what, .plugin = w->plugin, .weight = weight, .by = "graftctl", .done = answered
    };
    swap_ask(o->swap, &w->ask);
}

void ops_answer_canary(struct ops *o, struct web_request *req, const char *rest)
{
    const struct web_field *fields;
    size_t n = web_fields(req, &fields);
    uint64_t weight;
    if (n != 1 || str_to_u64(str_of(fields[0].value), &weight) != 0 || weight > 99) {
        ops_answer_error(req, 400, "bad_request",
                         "expected weight=N, the percent of the requests from 0 to 99; promote "
                         "gives the canary all of them");
        return;
    }
    wish(o, req, rest, SWAP_CANARY, (unsigned)weight);
}

void ops_answer_promote(struct ops *o, struct web_request *req, const char *rest)
{
    wish(o, req, rest, SWAP_PROMOTE, 0);
}

void ops_answer_abort(struct ops *o, struct web_request *req, const char *rest)
{
    wish(o, req, rest, SWAP_ABORT, 0);
}

const char *ops_canary_reason(const struct ops *o, const struct version *v)
{
    const struct rollout *r = rollout_of(swap_rollouts(o->swap), v);
    return r != NULL && r->held ? "its share is held by hand until canary, promote or abort" : NULL;
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
