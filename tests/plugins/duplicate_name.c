/* Two files, one name: built as duplicate_name_a.so and duplicate_name_b.so, which differ in
 * VERSION. */
#include <graft/graft.h>

#ifndef VERSION
#define VERSION "a"
#endif

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "duplicate " VERSION "\n");
}

GRAFT_PLUGIN(
    .name    = "duplicate",
    .version = VERSION,
    .routes  = (const graft_route[]){ { "GET", "/duplicate", handler, 0 }, { 0 } },
)
