/* The control socket and the store: graftctl rollback, and what is kept and quarantined in ps. */
#include "ops/ops.h"

#include "plugin/keep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rollback {
    struct swap_ask ask;
    struct web_request *req;
    char plugin[65];
};

static void answered(struct swap_ask *ask, const struct swap_result *result)
{
    struct rollback *r = container_of(ask, struct rollback, ask);
    ops_answer_swap(r->req, result);
    free(r);
}

void ops_answer_rollback(struct ops *o, struct web_request *req, const char *rest)
{
    struct rollback *r = calloc(1, sizeof *r);
    if (r == NULL) {
        ops_answer_error(req, 503, "no_memory", "out of memory: ask again");
        return;
    }
    if (strlen(rest) >= sizeof r->plugin) {
        free(r);
        ops_answer_error(req, 404, "not_found", "no plugin \"%.64s...\": graftctl ps lists them",
                         rest);
        return;
    }
    r->req = req;
    snprintf(r->plugin, sizeof r->plugin, "%s", rest);
    r->ask.wish = SWAP_ROLLBACK;
    r->ask.plugin = r->plugin;
    r->ask.by = "graftctl rollback";
    r->ask.done = answered;
    swap_ask(o->swap, &r->ask);
}

/* ---- What is kept ---------------------------------------------------------------------------- */

struct rows {
    struct json_out *j;
    struct ops *ops;
};

static void put_identity(struct json_out *j, const struct identity *identity)
{
    char id[13];
    snprintf(id, sizeof id, "%.12s", identity->sha256);
    json_put_z(j, "plugin", identity->plugin);
    json_put_z(j, "id", id);
    json_put_z(j, "sha256", identity->sha256);
    json_put_z(j, "config_sha256", identity->config_sha256);
}

bool ops_serves(struct ops *o, const struct identity *identity)
{
    struct generation *g = swap_current(o->swap);
    const struct version *v = g != NULL ? generation_version(g, identity->plugin) : NULL;
    return v != NULL && strcmp(v->sha256, identity->sha256) == 0 &&
           strcmp(v->config_sha256, identity->config_sha256) == 0;
}

static void put_kept(const struct kept *kept, void *arg)
{
    struct rows *rows = arg;
    json_open(rows->j, NULL, '{');
    put_identity(rows->j, &kept->identity);
    json_put_z(rows->j, "version", kept->version);
    json_put_bool(rows->j, "serves", ops_serves(rows->ops, &kept->identity));
    json_put_bool(rows->j, "stored", kept->stored);
    json_put_int(rows->j, "since_ms", kept->since_ms);
    json_close(rows->j, '}');
}

static void put_quarantined(const struct quarantined *q, void *arg)
{
    struct rows *rows = arg;
    json_open(rows->j, NULL, '{');
    put_identity(rows->j, &q->identity);
    json_put_z(rows->j, "reason", q->reason);
    if (q->evidence != NULL)
        json_put_raw(rows->j, "evidence", str_of(q->evidence));
    else
        json_put_z(rows->j, "evidence", NULL);
    json_put_int(rows->j, "when_ms", q->when_ms);
    json_close(rows->j, '}');
}

void ops_put_kept(struct ops *o, struct json_out *j)
{
    struct rows rows = { j, o };
    json_open(j, "kept", '[');
    keep_each(o->keep, put_kept, &rows);
    json_close(j, ']');
    json_open(j, "quarantined", '[');
    keep_each_quarantined(o->keep, put_quarantined, &rows);
    json_close(j, ']');
}
