/*
 * Routes that lie close together; each answers "PATTERN x=… rest=…" (absent: -). Literal beats :x
 * beats *rest, with backtracking.
 */
#include "contract.h"

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_str pattern = graft_route_pattern(req), method = graft_method(req);
    graft_str x = graft_param(req, "x"), rest = graft_param(req, "rest");
    graft_set_header(req, "Content-Type", "text/plain");
    graft_printf(req, "%.*s %.*s x=%.*s rest=%.*s\n", (int)method.len, method.ptr, (int)pattern.len,
                 pattern.ptr, x.ptr ? (int)x.len : 1, x.ptr ? x.ptr : "-",
                 rest.ptr ? (int)rest.len : 1, rest.ptr ? rest.ptr : "-");
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = "router",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/r/a/b", handler, 0 },
                                      { "GET", "/r/a/:x", handler, 0 },
                                      { "GET", "/r/a/:x/d", handler, 0 },
                                      { "GET", "/r/:x/b/c", handler, 0 },
                                      { "GET", "/r/files/*rest", handler, 0 },
                                      { "GET", "/r/m", handler, 0 },
                                      { "POST", "/r/m", handler, 0 },
                                      { "PUT", "/r/m", handler, 0 },
                                      { 0 } },
)
