/* @NAME@: GET /@NAME@ and GET /@NAME@/:name say hello. */
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

static graft_next hello(graft_req *req, void *state)
{
    const struct state *s = state;
    graft_str name = graft_param(req, "name"); /* absent on the route without it */
    graft_set_header(req, "Content-Type", "text/plain; charset=utf-8");
    graft_printf(req, "%s, %.*s\n", s->greeting, name.ptr ? (int)name.len : 5,
                 name.ptr ? name.ptr : "world");
    return GRAFT_DONE;
}

static const graft_route routes[] = {
    { "GET", "/@NAME@", hello, 0 },
    { "GET", "/@NAME@/:name", hello, 0 },
    { 0 },
};

GRAFT_PLUGIN(
    .name    = "@NAME@",
    .version = "0.1.0",
    .summary = "Says hello.",
    .init    = init,
    .fini    = fini,
    .routes  = routes,
)
