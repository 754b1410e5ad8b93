/*
 * Needs a library of its own, libgraftprivate.so.1, found through an absolute RUNPATH. Built as
 * private_dep_v1.so and private_dep_v2.so, with two builds of that library in private_v1/ and
 * private_v2/ under one SONAME: v2 would silently get the library that v1 loaded.
 */
#include <graft/graft.h>

const char *private_text(void);

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, private_text());
}

GRAFT_PLUGIN(
    .name    = "private-dep",
    .version = VERSION,
    .routes  = (const graft_route[]){ { "GET", "/private-dep", handler, 0 }, { 0 } },
)
