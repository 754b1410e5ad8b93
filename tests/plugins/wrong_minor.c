/* Needs a newer SDK than there is: what an old graftd sees of tomorrow's plugins. */
#include <graft/graft.h>

extern GRAFT_EXPORT_ const graft_plugin graft_plugin_v1;
const graft_plugin graft_plugin_v1 = {
    .size = sizeof(graft_plugin),
    .needs = GRAFT_MINOR + 7,
    .route_size = sizeof(graft_route),
    .name = "sin",
    .version = "wrong_minor",
    .summary = "Asks for too much.",
};
