/*
 * What answers for a plugin that the server runs without: it crashed the server, is quarantined,
 * and nothing good of it is kept. A version without a file: the routes that the plugin declared
 * when it was last loaded or probed, and as middleware everything that it would surround, answer
 * 503 with Retry-After and the reason. So a missing auth lets nobody through, and nothing else
 * stops.
 */
#ifndef GRAFT_PLUGIN_STAND_IN_H
#define GRAFT_PLUGIN_STAND_IN_H

#include "plugin/scan.h"
#include "plugin/version.h"

/* For the file that was found quarantined; takes over found->desc, which may be empty: then the
   plugin's "mount" is all that is known of its routes. NULL: no memory. Control. */
struct version *stand_in_new(struct loop *const *loops, unsigned nloops, struct found *found,
                             const struct config *config);

#endif
