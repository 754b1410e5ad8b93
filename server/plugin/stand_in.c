/* See stand_in.h. */
#include "plugin/stand_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_AFTER "30" /* seconds: somebody has to mend it */

/* The handler of all its routes, and its on_request. */
static graft_next answer(graft_req *req, void *state)
{
    graft_set_header(req, "Retry-After", RETRY_AFTER);
    return graft_error(req, 503, state);
}

/* What nobody could say of a plugin whose constructor crashes: all below its mount. */
static int assume_routes(struct descriptor *d, const char *plugin, const char *mount)
{
    d->name = strdup(plugin);
    d->version = strdup("");
    d->summary = strdup("");
    if (d->name == NULL || d->version == NULL || d->summary == NULL)
        return -1;
    if (mount[0] == '\0')
        return 0;
    d->routes = calloc(2, sizeof *d->routes);
    if (d->routes == NULL)
        return -1;
    d->routes[0].pattern = strdup("/*rest");
    d->route_count = 1;
    return d->routes[0].pattern != NULL ? 0 : -1;
}

/* Of the plugin's descriptor only names and routes are left; none of its code can be called. */
static void replace_functions(struct descriptor *d)
{
    struct descriptor_route *routes = d->routes;
    struct descriptor bare = { .name = d->name, .version = d->version, .summary = d->summary };
    bare.routes = routes;
    bare.route_count = d->route_count;
    bare.callbacks = DESCRIPTOR_ON_REQUEST;
    bare.on_request = answer;
    for (size_t i = 0; i < bare.route_count; i++) {
        routes[i].handler = answer;
        routes[i].flags = GRAFT_STREAM; /* bodies are not waited for */
    }
    *d = bare;
}

static int fill(struct version *v, struct found *f, const struct config *config)
{
    const struct config_plugin *cfg = config_plugin(config, f->plugin);
    char *why;
    v->plugin = strdup(f->plugin);
    v->source = strdup(f->path);
    v->config_text = strdup(cfg->config);
    snprintf(v->id, sizeof v->id, "%.12s.0", f->sha256);
    memcpy(v->sha256, f->sha256, sizeof v->sha256);
    memcpy(v->config_sha256, cfg->config_sha256, sizeof v->config_sha256);
    if (v->plugin == NULL || v->source == NULL || v->config_text == NULL ||
        asprintf(&why,
                 "plugin \"%s\" is missing: it is quarantined (%s), and no good version is kept",
                 f->plugin, f->quarantined != NULL ? f->quarantined : "?") < 0)
        return -1;
    v->store_why = why;
    v->state_ptr = why;
    v->desc = f->desc;
    memset(&f->desc, 0, sizeof f->desc);
    if (v->desc.name != NULL && strcmp(v->desc.name, v->plugin) != 0)
        descriptor_fini(&v->desc);
    if (v->desc.name == NULL && assume_routes(&v->desc, v->plugin, cfg->mount) != 0)
        return -1;
    replace_functions(&v->desc);
    return 0;
}

struct version *stand_in_new(struct loop *const *loops, unsigned nloops, struct found *found,
                             const struct config *config)
{
    struct version *v = version_new(loops, nloops);
    if (v != NULL && fill(v, found, config) != 0)
        version_free(&v);
    if (v == NULL)
        return NULL;
    v->stand_in = true;
    v->state = VERSION_STAGED;
    return v;
}
