/*
 * hello: the smallest plugin that does something, and the one to start from.
 *
 * GET /hello answers with a fixed text, GET /hello/:name with the name from the path. Nothing here
 * keeps state, so there is no init and no fini.
 */
#include <graft/graft.h>

static graft_next hello(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "hello, world\n");
}

static graft_next hello_name(graft_req *req, void *state)
{
    (void)state;
    graft_str name = graft_param(req, "name"); /* borrowed, not NUL-terminated */

    graft_set_header(req, "Content-Type", "text/plain; charset=utf-8");
    graft_printf(req, "hello, %.*s\n", (int)name.len, name.ptr);
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "hello",
    .version = "1.0.0",
    .summary = "Says hello.",
    .routes  = (const graft_route[]){
        { "GET", "/hello", hello, 0 },
        { "GET", "/hello/:name", hello_name, 0 },
        { 0 },
    },
)
