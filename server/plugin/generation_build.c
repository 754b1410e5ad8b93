/*
 * Building a generation from versions and configuration, on the control thread: middleware names
 * become versions, routes get their mounts, and each route learns which matches cover it. All that
 * can be wrong is found here, and said with the key of the configuration or the plugins' names.
 */
#include "plugin/generation_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct build {
    struct generation *g;
    struct version **set; /* one version of each plugin: canaries in the place of stable ones */
    struct generation_impl *impl;
    struct config *config;
    struct generation_fault *fault;
};

static int no_memory(struct build *b)
{
    return err_set(&b->fault->err, "out of memory while building the routes");
}

static struct version *by_plugin(struct version *const *set, unsigned n, const char *plugin)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(set[i]->plugin, plugin) == 0)
            return set[i];
    return NULL;
}

struct version *generation_version(const struct generation *g, const char *plugin)
{
    return g != NULL ? by_plugin(g->versions, g->nversions, plugin) : NULL;
}

/* ---- Middleware ------------------------------------------------------------------------------ */

static struct version *middleware(struct build *b, const char *name, const char *key)
{
    struct version *v = by_plugin(b->set, b->g->nversions, name);
    if (v == NULL) {
        err_set(&b->fault->err,
                "%s names \"%s\", but no such plugin is loaded: put it into %s or take it out of "
                "the configuration",
                key, name, b->config->plugin_dir);
        return NULL;
    }
    if ((v->desc.callbacks & DESCRIPTOR_MIDDLEWARE) == 0) {
        err_set(&b->fault->err,
                "%s names \"%s\", which is no middleware: %s has neither on_request nor "
                "on_response nor on_finish",
                key, name, v->id);
        b->fault->blame = v;
        return NULL;
    }
    return v;
}

static int build_global(struct build *b)
{
    const struct config *cfg = b->config;
    char key[64];
    b->impl->global = calloc(cfg->middleware_count + 1, sizeof *b->impl->global);
    if (b->impl->global == NULL)
        return no_memory(b);
    for (size_t i = 0; i < cfg->middleware_count; i++) {
        snprintf(key, sizeof key, "middleware[%zu]", i);
        struct version *v = middleware(b, cfg->middleware[i], key);
        if (v == NULL)
            return -1;
        bool there = false;
        for (unsigned j = 0; j < b->impl->nglobal; j++)
            there = there || b->impl->global[j] == v;
        if (!there)
            b->impl->global[b->impl->nglobal++] = v;
    }
    return 0;
}

static int build_layer(struct build *b, size_t number)
{
    const struct config_route *from = &b->config->routes[number];
    struct layer *layer = &b->impl->layers[b->impl->nlayers++];
    char key[64];
    layer->method = str_of(from->method);
    layer->pattern = from->pattern;
    layer->plugin = from->plugin;
    layer->versions = calloc(from->middleware_count + 1, sizeof *layer->versions);
    if (layer->versions == NULL)
        return no_memory(b);
    for (size_t i = 0; i < from->middleware_count; i++) {
        snprintf(key, sizeof key, "routes[%zu].middleware[%zu]", number, i);
        struct version *v = middleware(b, from->middleware[i], key);
        if (v == NULL)
            return -1;
        layer->versions[layer->nversions++] = v;
    }
    return 0;
}

static int build_layers(struct build *b)
{
    b->impl->layers = calloc(b->config->route_count + 1, sizeof *b->impl->layers);
    if (b->impl->layers == NULL)
        return no_memory(b);
    for (size_t i = 0; i < b->config->route_count; i++)
        if (build_layer(b, i) != 0)
            return -1;
    return 0;
}

/* ---- Routes ---------------------------------------------------------------------------------- */

/* How much of the requests of `method` (NULL: all) the layer's method covers. */
static enum router_cover method_cover(const struct layer *layer, const char *method)
{
    if (layer->method.ptr == NULL)
        return COVER_ALL;
    if (method == NULL)
        return COVER_PART;
    if (layer_covers_method(layer, str_of(method)))
        return COVER_ALL;
    bool head = strcmp(method, "GET") == 0 && str_eq(layer->method, STR("HEAD"));
    return head ? COVER_PART : COVER_NONE;
}

static enum router_cover layer_cover(const struct layer *layer, const char *method,
                                     const char *pattern)
{
    enum router_cover by_method = method_cover(layer, method);
    if (by_method == COVER_NONE)
        return COVER_NONE;
    enum router_cover by_path = router_pattern_cover(layer->pattern, pattern);
    if (by_path == COVER_NONE || by_path == COVER_PART)
        return by_path;
    return by_method;
}

static int too_long(struct build *b, const struct gen_route *route)
{
    b->fault->blame = route != NULL ? route->handler.version : NULL;
    return err_set(&b->fault->err,
                   "%s%s could get more than %d middleware: name fewer in \"middleware\" and "
                   "\"routes\"",
                   route != NULL ? "route " : "a request without a route",
                   route != NULL ? route->pattern : "", CHAIN_MAX - 1);
}

/* The longest chain that the covers can make; CHAIN_MAX is never passed on the way. */
static int check_length(struct build *b, const struct gen_route *route)
{
    struct link *links = calloc(b->g->nversions + 2, sizeof *links);
    if (links == NULL)
        return no_memory(b);
    unsigned n = links_add_global(links, b->impl);
    unsigned count = route != NULL ? route->ncovers : b->impl->nlayers;
    for (unsigned i = 0; i < count; i++)
        n = links_add_layer(links, n, &b->impl->layers[route != NULL ? route->covers[i].layer : i]);
    free(links);
    return n + 1 > CHAIN_MAX ? too_long(b, route) : 0;
}

static int build_covers(struct build *b, struct gen_route *route)
{
    struct generation_impl *impl = b->impl;
    route->covers = calloc(impl->nlayers + 1, sizeof *route->covers);
    if (route->covers == NULL)
        return no_memory(b);
    for (unsigned i = 0; i < impl->nlayers; i++) {
        struct layer *layer = &impl->layers[i];
        if (layer->plugin != NULL && strcmp(layer->plugin, route->handler.version->plugin) != 0)
            continue;
        enum router_cover cover = layer_cover(layer, route->method, route->pattern);
        if (cover == COVER_NONE)
            continue;
        layer->useful = true;
        route->covers[route->ncovers++] = (struct cover){ i, cover == COVER_ALL };
        route->tested = route->tested || cover == COVER_PART;
    }
    return check_length(b, route);
}

static int build_links(struct build *b, struct gen_route *route)
{
    struct link links[CHAIN_MAX];
    unsigned n = links_add_global(links, b->impl);
    for (unsigned i = 0; i < route->ncovers; i++)
        if (route->covers[i].always)
            n = links_add_layer(links, n, &b->impl->layers[route->covers[i].layer]);
    links[n++] = route->handler;
    route->links = malloc(n * sizeof links[0]);
    if (route->links == NULL)
        return no_memory(b);
    memcpy(route->links, links, n * sizeof links[0]);
    route->nlinks = n;
    return 0;
}

static int conflict(struct build *b, const struct gen_route *route, const struct err *why)
{
    const struct gen_route *there = router_conflict(b->impl->router);
    struct version *v = route->handler.version;
    b->fault->blame = v;
    if (there == NULL)
        return err_set(&b->fault->err, "route %s %s of plugin \"%s\": %s",
                       route->method != NULL ? route->method : "*", route->pattern, v->plugin,
                       why->text);
    const struct version *other = there->handler.version;
    b->fault->other = other;
    return err_set(&b->fault->err,
                   "route conflict: %s %s of plugin \"%s\" (%s) and %s %s of plugin \"%s\" (%s) "
                   "are the same route: change one, or give one plugin a \"mount\"",
                   route->method != NULL ? route->method : "*", route->pattern, v->plugin, v->id,
                   there->method != NULL ? there->method : "*", there->pattern, other->plugin,
                   other->id);
}

/* A version whose job it is to be new is blamed rather than one that serves already, and of two new
   ones the one that only stands in for another: the round can do without it. */
static void prefer_new(struct generation_fault *fault)
{
    if (fault->blame == NULL || fault->other == NULL)
        return;
    bool spare = fault->other->stand_in && fault->other->state != VERSION_ACTIVE;
    if (fault->blame->state != VERSION_ACTIVE && !spare)
        return;
    const struct version *other = fault->other;
    fault->other = fault->blame;
    fault->blame = other;
}

static int build_route(struct build *b, struct version *v, const struct descriptor_route *from)
{
    struct gen_route *route = &b->impl->routes[b->impl->nroutes++];
    const char *mount = config_plugin(b->config, v->plugin)->mount;
    char pattern[DESCRIPTOR_PATTERN_MAX * 2];
    struct err why;
    int len = snprintf(pattern, sizeof pattern, "%s%s", mount, from->pattern);
    if (len < 0 || (size_t)len >= sizeof pattern) {
        b->fault->blame = v;
        return err_set(&b->fault->err, "plugin \"%s\": mount and pattern are longer than %zu bytes",
                       v->plugin, sizeof pattern - 1);
    }
    route->method = from->method;
    route->pattern = intern(pattern);
    if (route->pattern == NULL)
        return no_memory(b);
    route->handler = (struct link){ v, from->handler, from->flags };
    if (router_add(b->impl->router, from->method, pattern, route, &why) != 0) {
        conflict(b, route, &why);
        prefer_new(b->fault);
        return -1;
    }
    return build_covers(b, route) != 0 || build_links(b, route) != 0 ? -1 : 0;
}

static int build_routes(struct build *b)
{
    size_t count = 0;
    for (unsigned i = 0; i < b->g->nversions; i++)
        count += b->set[i]->desc.route_count;
    b->impl->routes = calloc(count + 1, sizeof *b->impl->routes);
    b->impl->router = router_new();
    if (b->impl->routes == NULL || b->impl->router == NULL)
        return no_memory(b);
    for (unsigned i = 0; i < b->g->nversions; i++) {
        struct version *v = b->set[i];
        for (size_t j = 0; j < v->desc.route_count; j++)
            if (build_route(b, v, &v->desc.routes[j]) != 0)
                return -1;
    }
    return 0;
}

/* ---- The whole ------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct version *const *x = a, *const *y = b;
    return strcmp((*x)->plugin, (*y)->plugin);
}

static struct generation *allocate(struct version *const *versions, unsigned n)
{
    struct generation *g = calloc(1, sizeof *g);
    if (g == NULL)
        return NULL;
    g->versions = calloc(n + 1u, sizeof(*g->versions));
    g->magic = GENERATION_MAGIC;
    if (g->versions == NULL) {
        generation_free(g);
        return NULL;
    }
    if (n > 0)
        memcpy(g->versions, versions, n * sizeof(*versions));
    g->nversions = n;
    qsort(g->versions, n, sizeof(*g->versions), by_name);
    return g;
}

/* The tree for one subset of the canaries. */
static int build_impl(struct build *b, unsigned met)
{
    struct generation *g = b->g;
    for (unsigned i = 0; i < g->nversions; i++)
        b->set[i] = g->versions[i];
    for (unsigned c = 0; c < g->ncanaries; c++)
        for (unsigned i = 0; (met & 1u << c) != 0 && i < g->nversions; i++)
            if (b->set[i] == g->canaries[c].stable)
                b->set[i] = g->canaries[c].version;
    b->impl = g->impls[met] = calloc(1, sizeof *b->impl);
    if (b->impl == NULL)
        return no_memory(b);
    return build_global(b) != 0 || build_layers(b) != 0 || check_length(b, NULL) != 0 ||
                   build_routes(b) != 0
               ? -1
               : 0;
}

static int build_impls(struct build *b)
{
    int rc = 0;
    b->set = calloc(b->g->nversions + 1u, sizeof(*b->set));
    if (b->set == NULL)
        return no_memory(b);
    for (unsigned met = 0; rc == 0 && met < 1u << b->g->ncanaries; met++)
        rc = build_impl(b, met);
    free(b->set);
    return rc;
}

struct generation *generation_new(unsigned number, struct version *const *versions,
                                  unsigned nversions, const struct canary *canaries,
                                  unsigned ncanaries, struct config *config,
                                  struct generation_fault *fault)
{
    REQUIRE(ncanaries <= CANARIES_MAX);
    fault->blame = fault->other = NULL;
    struct generation *g = allocate(versions, nversions);
    struct build b = { .g = g, .config = config, .fault = fault };
    if (g == NULL) {
        no_memory(&b);
        return NULL;
    }
    g->number = number;
    g->config = config;
    g->ncanaries = ncanaries;
    g->picks = ncanaries > 0 || config->version_header_from_count > 0;
    for (unsigned i = 0; i < ncanaries; i++) {
        g->canaries[i] = canaries[i];
        g->shadows = g->shadows || canaries[i].shadow > 0;
    }
    if (build_impls(&b) != 0) {
        generation_free(g);
        return NULL;
    }
    return g;
}

static void impl_free(struct generation_impl *impl)
{
    router_free(impl->router);
    for (unsigned i = 0; i < impl->nlayers; i++)
        free(impl->layers[i].versions);
    for (unsigned i = 0; i < impl->nroutes; i++) {
        free(impl->routes[i].covers);
        free(impl->routes[i].links);
    }
    free(impl->layers);
    free(impl->routes);
    free(impl->global);
    free(impl);
}

void generation_free(struct generation *g)
{
    if (g == NULL)
        return;
    CHECK(g, GENERATION_MAGIC);
    for (size_t i = 0; i < ARRAY_LEN(g->impls); i++)
        if (g->impls[i] != NULL)
            impl_free(g->impls[i]);
    free(g->versions);
    g->magic = 0;
    free(g);
}

void generation_warnings(const struct generation *g, void (*warn)(const char *text, void *arg),
                         void *arg)
{
    char text[512];
    for (unsigned i = 0; i < g->impls[0]->nlayers; i++) {
        const struct layer *layer = &g->impls[0]->layers[i];
        if (layer->useful)
            continue;
        snprintf(text, sizeof text, "routes[%u].match \"%.*s%s%s\"%s%s%s covers no route", i,
                 STR_ARG(layer->method), layer->method.ptr != NULL ? " " : "", layer->pattern,
                 layer->plugin != NULL ? " of plugin \"" : "",
                 layer->plugin != NULL ? layer->plugin : "", layer->plugin != NULL ? "\"" : "");
        warn(text, arg);
    }
}

/* ---- graftctl routes ------------------------------------------------------------------------- */

/* The chain of the requests that `pattern` of `method` stands for. */
static void fill_row(const struct generation_impl *impl, const struct gen_route *route,
                     const char *method, const char *pattern, struct generation_row *row)
{
    struct link links[CHAIN_MAX];
    unsigned n = links_add_global(links, impl);
    for (unsigned i = 0; i < route->ncovers; i++) {
        const struct layer *layer = &impl->layers[route->covers[i].layer];
        if (route->covers[i].always || layer_cover(layer, method, pattern) == COVER_ALL)
            n = links_add_layer(links, n, layer);
    }
    links[n++] = route->handler;
    row->method = method != NULL ? method : "*";
    row->pattern = pattern;
    row->version = route->handler.version;
    row->nchain = n;
    for (unsigned i = 0; i < n; i++)
        row->chain[i] = links[i].version->plugin;
}

static void show_route(const struct generation_impl *impl, const struct gen_route *route,
                       void (*fn)(const struct generation_row *row, void *arg), void *arg)
{
    struct generation_row row;
    char part[DESCRIPTOR_PATTERN_MAX * 2];
    fill_row(impl, route, route->method, route->pattern, &row);
    fn(&row, arg);
    for (unsigned i = 0; i < route->ncovers; i++) {
        const struct layer *layer = &impl->layers[route->covers[i].layer];
        if (route->covers[i].always ||
            !router_pattern_intersect(layer->pattern, route->pattern, part, sizeof part))
            continue;
        const char *method = route->method;
        if (layer->method.ptr != NULL && method_cover(layer, method) == COVER_PART)
            method = layer->method.ptr;
        fill_row(impl, route, method, part, &row);
        fn(&row, arg);
    }
}

void generation_routes(const struct generation *g,
                       void (*row)(const struct generation_row *row, void *arg), void *arg)
{
    ON_CONTROL();
    CHECK(g, GENERATION_MAGIC);
    const struct generation_impl *impl = g->impls[0];
    for (unsigned i = 0; i < impl->nroutes; i++)
        show_route(impl, &impl->routes[i], row, arg);
    for (unsigned c = 0; c < g->ncanaries; c++) {
        impl = g->impls[1u << c];
        for (unsigned i = 0; i < impl->nroutes; i++)
            if (impl->routes[i].handler.version == g->canaries[c].version)
                show_route(impl, &impl->routes[i], row, arg);
    }
}
