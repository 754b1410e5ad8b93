/*
 * An immutable snapshot of what is served: the routes, the middleware around them, the versions
 * they name, and the limits and timeouts. Built and freed by the control thread, published to the
 * workers one by one (plugin/adopt.h); a request copies what it needs and then needs it no more.
 */
#ifndef GRAFT_PLUGIN_GENERATION_H
#define GRAFT_PLUGIN_GENERATION_H

#include "base/config.h"
#include "base/err.h"
#include "http/head.h"
#include "http/router.h"
#include "http/target.h"
#include "plugin/canary.h"
#include "plugin/version.h"

#define CHAIN_MAX 32 /* middleware and handler of one request; more is refused when building */

/* One place in a chain. The last one with a handler is the route's; the others are middleware. */
struct link {
    struct version *version;
    graft_handler *handler; /* NULL: middleware (version->desc has its functions) */
    unsigned route_flags;   /* GRAFT_STREAM, for the handler */
};

#define GENERATION_MAGIC 0x67656e72u

struct generation_impl;

struct generation {
    unsigned magic;
    unsigned number;           /* counts from 1 */
    struct version **versions; /* all that serve in it, canaries aside */
    unsigned nversions;
    struct canary canaries[CANARIES_MAX];
    unsigned ncanaries;
    bool picks;            /* canary_pick is to be asked */
    bool shadows;          /* some canary has shadows; only where `picks` */
    struct config *config; /* what it was built from; owned by swap.c */
    /* Router and middleware matches (generation.c) for each subset of the canaries: bit i of the
       index for canaries[i]. [0] has none of them. */
    struct generation_impl *impls[1u << CANARIES_MAX];
};

/* What the router chose for one request; filled on the worker's stack. */
struct choice {
    unsigned status;           /* 200: a handler; 404; 405 */
    unsigned nlinks;           /* global and matching middleware also on 404 and 405 */
    const char *pattern;       /* interned, with its mount; NULL on 404/405 */
    struct router_match match; /* parameters */
    struct link links[CHAIN_MAX];
};

/* Worker. Allocation-free: picks route and chain. `met`: the canaries that the request meets. */
void generation_find(const struct generation *g, unsigned met, const struct head *head,
                     const struct target *target, struct choice *out);
size_t generation_allow(const struct generation *g, unsigned met, const struct target *target,
                        char *out, size_t size);

/* Why a generation cannot be: who is at fault, when it is a plugin. */
struct generation_fault {
    struct err err;
    const struct version *blame; /* NULL: the configuration */
    const struct version *other; /* the one that `blame` collides with, or NULL */
};

/* Control. Copies both arrays; each canary's `stable` is one of the versions. NULL: `fault` says
   why; a canary is tried against all others, so that no subset of them can conflict. */
struct generation *generation_new(unsigned number, struct version *const *versions,
                                  unsigned nversions, const struct canary *canaries,
                                  unsigned ncanaries, struct config *config,
                                  struct generation_fault *fault);
void generation_free(struct generation *g); /* takes NULL; not the versions and the config */

/* The version of that name in it, or NULL; not a canary. Control. */
struct version *generation_version(const struct generation *g, const char *plugin);

/* What a person should know about it: matches that cover no route, and the like. Control. */
void generation_warnings(const struct generation *g, void (*warn)(const char *text, void *arg),
                         void *arg);

/* The rows of `graftctl routes`: each route with the middleware that covers all of it, and a row
   of its own for each match that covers a part; canaries' routes behind those of the stable
   versions. Control; valid during the call. */
struct generation_row {
    const char *method; /* "*": every one */
    const char *pattern;
    const char *chain[CHAIN_MAX]; /* plugin names, outermost first, the handler's last */
    unsigned nchain;
    const struct version *version;
};
void generation_routes(const struct generation *g,
                       void (*row)(const struct generation_row *row, void *arg), void *arg);

#endif
