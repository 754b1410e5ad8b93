/*
 * Descriptors and routes of a size that the server does not know. Built four times:
 *   wrong_size         a member past the known ones that is not zero: refused
 *   wrong_route_size   the same in a route: refused
 *   small_size         a descriptor too small for its routes: refused
 *   grown              larger, but all that is unknown is zero: loaded, and serves GET /sin
 */
#include <graft/graft.h>

#ifndef NEWER
#define NEWER 1
#endif
#ifndef NEWER_ROUTE
#define NEWER_ROUTE 0
#endif
#ifndef SIZE
#define SIZE sizeof(struct tomorrow)
#endif

struct tomorrow {
    graft_plugin plugin;
    uint64_t newer;
};

struct tomorrow_route {
    graft_route route;
    uint64_t newer;
};

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "grown\n");
}

/* Two of them, so that a server that strides by its own size misses the second. */
static const struct tomorrow_route routes[] = {
    { { "GET", "/grown", handler, 0 }, NEWER_ROUTE },
    { { "GET", "/sin", handler, 0 }, NEWER_ROUTE },
    { { NULL, NULL, NULL, 0 }, 0 },
};

extern GRAFT_EXPORT_ const struct tomorrow graft_plugin_v1;
const struct tomorrow graft_plugin_v1 = {
    .plugin = {
        .size = SIZE,
        .needs = GRAFT_MINOR,
        .route_size = sizeof(struct tomorrow_route),
        .name = "sin",
        .version = "wrong_size",
        .summary = "Has a size of its own.",
        .routes = &routes[0].route,
    },
    .newer = NEWER,
};
