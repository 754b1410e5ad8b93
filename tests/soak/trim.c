/* GET /soak-trim: the C library gives all pages that it holds free back to the system. Its 16
 * arenas may keep 128 KB each at their ends, and what lies between bigger pieces besides: 1 to 3 MB
 * that come and go with the clients, and hide what the server really keeps. */
#include <graft/graft.h>

#include <malloc.h>

static graft_next trim(graft_req *req, void *state)
{
    (void)state;
    malloc_trim(0);
    return graft_text(req, 200, "trimmed\n");
}

/* clang-format off */
GRAFT_PLUGIN(
    .name    = "soak-trim",
    .summary = "Shows what is in use.",
    .routes  = (const graft_route[]){ { "GET", "/soak-trim", trim, 0 }, { 0 } },
)
