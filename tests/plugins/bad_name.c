/* A name that is none: [a-z][a-z0-9-]* is expected. */
#include <graft/graft.h>

#ifndef NAME
#define NAME "Bad Name/../x"
#endif

GRAFT_PLUGIN(
    .name    = NAME,
    .version = "bad_name",
)
