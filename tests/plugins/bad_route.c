/*
 * One route that cannot be served, another kind with each build:
 *   bad_route          "sin": does not begin with '/'
 *   bad_route_star     "/sin/" "*rest" "/more": something after the rest
 *   bad_route_param    "/sin/:": a parameter without a name
 *   bad_route_twice    "/sin/:a/:a": two of one name
 *   bad_route_method   "GE T"
 *   bad_route_handler  no handler
 *   bad_route_flags    a flag that does not exist
 */
#include <graft/graft.h>

#ifndef METHOD
#define METHOD "GET"
#endif
#ifndef PATTERN
#define PATTERN "sin"
#endif
#ifndef HANDLER
#define HANDLER handler
#endif
#ifndef FLAGS
#define FLAGS 0
#endif

__attribute__((unused)) static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "bad_route\n");
}

GRAFT_PLUGIN(
    .name    = "sin",
    .version = "bad_route",
    .routes  = (const graft_route[]){ { METHOD, PATTERN, HANDLER, FLAGS }, { 0 } },
)
