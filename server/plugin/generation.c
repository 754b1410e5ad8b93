/*
 * The route tree and the chains. Instead of adding narrower routes for matches that cover a part of
 * a route, each route knows the matches that may cover a request of it, in file order, and whether
 * they always do; those that do not always are tested with the request's own method and path. So no
 * path escapes a match, and parameters are the handler's own.
 *
 * Invariant: a route whose matches all cover it wholly has its chain ready made in `links`.
 */
#include "plugin/generation.h"

#include "plugin/generation_private.h"

#include <string.h>

size_t generation_allow(const struct generation *g, unsigned met, const struct target *target,
                        char *out, size_t size)
{
    HOT_CHECK(g, GENERATION_MAGIC);
    return router_allow(g->impls[met]->router, target, out, size);
}

bool layer_covers_method(const struct layer *layer, struct str method)
{
    return layer->method.ptr == NULL || str_eq(layer->method, method) ||
           (str_eq(layer->method, STR("GET")) && str_eq(method, STR("HEAD")));
}

unsigned links_add(struct link *links, unsigned n, struct version *v)
{
    for (unsigned i = 0; i < n; i++)
        if (links[i].version == v && links[i].handler == NULL)
            return n;
    links[n] = (struct link){ .version = v };
    return n + 1;
}

unsigned links_add_layer(struct link *links, unsigned n, const struct layer *layer)
{
    for (unsigned i = 0; i < layer->nversions; i++)
        n = links_add(links, n, layer->versions[i]);
    return n;
}

unsigned links_add_global(struct link *links, const struct generation_impl *impl)
{
    unsigned n = 0;
    for (unsigned i = 0; i < impl->nglobal; i++)
        n = links_add(links, n, impl->global[i]);
    return n;
}

static bool covers(const struct layer *layer, const struct head *head, const struct target *target)
{
    return layer_covers_method(layer, head->method) &&
           router_pattern_matches(layer->pattern, target);
}

static NOINLINE void find_tested(const struct generation_impl *impl, const struct gen_route *route,
                                 const struct head *head, const struct target *target,
                                 struct choice *out)
{
    unsigned n = links_add_global(out->links, impl);
    for (unsigned i = 0; i < route->ncovers; i++) {
        const struct layer *layer = &impl->layers[route->covers[i].layer];
        if (route->covers[i].always || covers(layer, head, target))
            n = links_add_layer(out->links, n, layer);
    }
    out->links[n++] = route->handler;
    out->nlinks = n;
}

/* 404 and 405: every match without "plugin" covers them too. */
static NOINLINE void find_nothing(const struct generation_impl *impl, const struct head *head,
                                  const struct target *target, struct choice *out)
{
    unsigned n = links_add_global(out->links, impl);
    for (unsigned i = 0; i < impl->nlayers; i++)
        if (impl->layers[i].plugin == NULL && covers(&impl->layers[i], head, target))
            n = links_add_layer(out->links, n, &impl->layers[i]);
    out->nlinks = n;
    out->pattern = NULL;
}

HOT void generation_find(const struct generation *g, unsigned met, const struct head *head,
                         const struct target *target, struct choice *out)
{
    HOT_CHECK(g, GENERATION_MAGIC);
    const struct generation_impl *impl = g->impls[met];
    if (!router_find(impl->router, head->method, head->method_id, target, &out->match)) {
        out->status = out->match.path_known ? 405 : 404;
        find_nothing(impl, head, target, out);
        return;
    }
    const struct gen_route *route = out->match.endpoint;
    out->status = 200;
    out->pattern = route->pattern;
    if (route->tested) {
        find_tested(impl, route, head, target, out);
        return;
    }
    out->nlinks = route->nlinks;
    for (unsigned i = 0; i < route->nlinks; i++)
        out->links[i] = route->links[i];
}
