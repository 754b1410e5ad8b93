/* graftctl routes: every route of the generation that serves, with its chain. */
#include "ops/ops.h"

static void put_row(const struct generation_row *row, void *arg)
{
    struct json_out *j = arg;
    json_open(j, NULL, '{');
    json_put_z(j, "method", row->method);
    json_put_z(j, "pattern", row->pattern);
    json_open(j, "chain", '[');
    for (unsigned i = 0; i < row->nchain; i++)
        json_put_z(j, NULL, row->chain[i]);
    json_close(j, ']');
    json_put_z(j, "plugin", row->version->plugin);
    json_put_z(j, "id", row->version->id);
    json_close(j, '}');
}

void ops_answer_routes(struct ops *o, struct web_request *req, const char *rest)
{
    (void)rest;
    struct buf body = { 0 };
    struct json_out j;
    struct generation *g = swap_current(o->swap);
    json_out_init(&j, &body);
    json_open(&j, NULL, '{');
    json_put_bool(&j, "ok", true);
    json_open(&j, "routes", '[');
    if (g != NULL)
        generation_routes(g, put_row, &j);
    json_close(&j, ']');
    json_close(&j, '}');
    ops_answer_json(req, 200, &j);
}
