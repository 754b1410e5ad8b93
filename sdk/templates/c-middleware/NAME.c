/* @NAME@: middleware that adds X-Greeting to every answer, and refuses requests with X-Refuse. */
#include <graft/graft.h>

#include <stdlib.h>

struct state {
    const char *greeting;
};

/* Once for each version: the configuration is the server's graft.json, plugins.@NAME@.config. */
static int init(graft_self *self, void **state)
{
    struct state *s = calloc(1, sizeof *s);
    if (s == NULL)
        return graft_fail(self, "no memory");
    s->greeting = graft_config_str(self, "greeting", "hello");
    *state = s;
    return 0;
}

static void fini(graft_self *self, void *state)
{
    (void)self;
    free(state);
}

/* Before the handler, and before the body is read. */
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    if (graft_header(req, "X-Refuse").ptr != NULL)
        return graft_error(req, 403, "X-Refuse was sent");
    return GRAFT_NEXT;
}

/* Just before the head leaves. */
static graft_next on_response(graft_req *req, void *state)
{
    const struct state *s = state;
    graft_set_header(req, "X-Greeting", s->greeting);
    return GRAFT_NEXT;
}

GRAFT_PLUGIN(
    .name        = "@NAME@",
    .version     = "0.1.0",
    .summary     = "Adds a field to every answer.",
    .init        = init,
    .fini        = fini,
    .on_request  = on_request,
    .on_response = on_response,
)
