/*
 * From method and path to endpoint. A tree with one level for each segment; a literal beats a
 * ":param" beats a "*rest", segment by segment from the left, and a branch that leads nowhere, or
 * to no route with this method, is left for the next best. Each node is visited at most once, so
 * the work is bounded by the number of patterns however the path is chosen.
 *
 *   "/a/b"         exactly these segments, compared with decoded ones; "/a/b/" is another path
 *   "/a/:id"       one segment, not empty
 *   "/a/" "*rest"  all that follows "/a/", also nothing; not "/a" itself
 *
 * Built by one thread, then read by any number at once: finding takes no lock and no memory.
 */
#ifndef GRAFT_HTTP_ROUTER_H
#define GRAFT_HTTP_ROUTER_H

#include "base/arena.h"
#include "base/base.h"
#include "base/err.h"
#include "base/str.h"
#include "http/target.h"

#define ROUTER_MAX_PARAMS   16
#define ROUTER_MAX_SEGMENTS 64 /* of a pattern */

struct router;

struct router *router_new(void); /* NULL: no memory */
void router_free(struct router *r);

/* method NULL: every method that no route of the same shape names. 0, or -1: no memory, a bad
   method or pattern, or a route of that method and shape (parameter names aside) is there already:
   then err names both patterns, and router_conflict() is the endpoint that is there. Copies the
   strings. */
int router_add(struct router *r, const char *method, const char *pattern, void *endpoint,
               struct err *err);
void *router_conflict(const struct router *r); /* NULL unless the last add failed by a conflict */
unsigned router_nodes(const struct router *r);

/* What router_add would say about the pattern alone. */
int router_pattern_check(const char *pattern, struct err *err);

struct router_param {
    const char *name;
    struct str value;
};

struct router_param_ref {
    const char *name; /* lives as long as the router: longer-lived requests keep the pattern */
    unsigned segment; /* of the target; of a rest its first */
    bool rest;
};

struct router_match {
    void *endpoint;
    unsigned nparams;
    struct router_param_ref params[ROUTER_MAX_PARAMS];
    bool path_known;  /* some route serves this path, with whatever method */
    unsigned visited; /* nodes looked at; never more than router_nodes() */
};

/* method_id as from head_method_id. GET routes serve HEAD where no HEAD route of the same shape
   does. False: 404, or 405 when out->path_known. The asterisk-form finds nothing. */
bool router_find(const struct router *r, struct str method, unsigned method_id,
                 const struct target *t, struct router_match *out);

/* "GET, HEAD, POST": the methods that some route has for this path, for Allow; of the whole router
   for the asterisk-form. NUL-terminated, cut between methods when it does not fit; its length. */
size_t router_allow(const struct router *r, const struct target *t, char *out, size_t size);

/* The value of a parameter: a segment wholly decoded, or the rest of the path with "%2F" left as
   it is. Absent when memory is out. */
struct str router_param_value(struct arena *a, const struct target *t,
                              const struct router_param_ref *p);

/* The parameter of that name in a pattern that has matched; false when it has none. ref->name is
   `name`: needs no router, so a request may ask long after its generation is gone. */
bool router_pattern_param(const char *pattern, const char *name, struct router_param_ref *ref);

/*
 * Matches, from the configuration: patterns that may also end in an unnamed "*". They guard, so
 * they are generous: "/admin/" "*" covers "/admin", "/admin/" and all below it, and
 * doubled slashes in a path do not dodge a match.
 */
int router_match_check(const char *match, struct err *err);
bool router_pattern_matches(const char *match, const struct target *t);

/* How much of what the route pattern serves the match covers. */
enum router_cover { COVER_NONE, COVER_PART, COVER_ALL };
enum router_cover router_pattern_cover(const char *match, const char *route);

/* The common part as a pattern, to be shown; false when there is none or it does not fit. */
bool router_pattern_intersect(const char *match, const char *route, char *out, size_t size);

#endif
