/* What a generation is made of: for generation.c (finding), generation_build.c (building and
   showing). Immutable once built. */
#ifndef GRAFT_PLUGIN_GENERATION_PRIVATE_H
#define GRAFT_PLUGIN_GENERATION_PRIVATE_H

#include "plugin/generation.h"

/* An entry of the configuration's "routes". */
struct layer {
    struct str method;   /* absent: every one; GET covers HEAD */
    const char *pattern; /* the config's */
    const char *plugin;  /* the config's; NULL: whoever serves */
    struct version **versions;
    unsigned nversions;
    bool useful; /* it covers some route */
};

struct cover {
    unsigned layer;
    bool always; /* else tested with each request */
};

struct gen_route {
    const char *method;  /* the version's; NULL: every one */
    const char *pattern; /* interned, with the mount */
    struct link handler;
    bool tested; /* some cover is not `always` */
    struct cover *covers;
    unsigned ncovers;
    struct link *links; /* the whole chain, unless tested */
    unsigned nlinks;
};

struct generation_impl {
    struct router *router;
    struct version **global; /* the configuration's "middleware", without repetitions */
    unsigned nglobal;
    struct layer *layers;
    unsigned nlayers;
    struct gen_route *routes;
    unsigned nroutes;
};

bool layer_covers_method(const struct layer *layer, struct str method);

/* Each returns the new length; a version that is there already stays where it is. */
unsigned links_add(struct link *links, unsigned n, struct version *v);
unsigned links_add_layer(struct link *links, unsigned n, const struct layer *layer);
unsigned links_add_global(struct link *links, const struct generation_impl *impl);

#endif
