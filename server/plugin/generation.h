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
#include "plugin/version.h"

#define CHAIN_MAX 32 /* middleware and handler of one request; more is refused when building */

/* One place in a chain. The last one with a handler is the route's; the others are middleware. */
struct link {
    struct version *version;
    graft_handler *handler; /* NULL: middleware (version->desc has its functions) */
    unsigned route_flags;   /* GRAFT_STREAM, for the handler */
};

#define GENERATION_MAGIC 0x67656e72u

struct generation {
    unsigned magic;
    unsigned number; /* counts from 1 */
    struct version **versions; /* all that serve in it */
    unsigned nversions;
    struct config *config; /* what it was built from; owned elsewhere until replaced */
    struct generation_impl *impl; /* router, middleware matches: generation.c */
    struct generation_msgs *msgs; /* [workers] prepare, undo, adopt nodes: adopt.c */
};

/* What the router chose for one request; filled on the worker's stack. */
struct choice {
    unsigned status;     /* 200: a handler; 404; 405 */
    unsigned nlinks;     /* global and matching middleware also on 404 and 405 */
    const char *pattern; /* interned, with its mount; NULL on 404/405 */
    struct router_match match; /* parameters */
    struct link links[CHAIN_MAX];
};

/* Worker. Allocation-free: picks route and chain. */
void generation_find(const struct generation *g, const struct head *head,
                     const struct target *target, struct choice *out);
size_t generation_allow(const struct generation *g, const struct target *target, char *out,
                        size_t size);

/* Everything that is served, in an order for people: each route with its whole chain, the handler's
   link last; also the routes that a narrower match made. Control; valid during the call. */
struct generation_route {
    const char *method; /* NULL: every method */
    const char *pattern;
    const struct link *links;
    unsigned nlinks;
};
void generation_each_route(const struct generation *g,
                           void (*fn)(const struct generation_route *route, void *arg), void *arg);

#endif
