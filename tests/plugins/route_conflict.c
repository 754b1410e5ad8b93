/* Two plugins, one route: built as route_conflict_a.so and route_conflict_b.so. */
#include <graft/graft.h>

#ifndef LETTER
#define LETTER "a"
#endif

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "conflict " LETTER "\n");
}

GRAFT_PLUGIN(
    .name    = "route-conflict-" LETTER,
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/conflict", handler, 0 }, { 0 } },
)
