/*
 * What a plugin says about itself, as the server's own copy: nothing in it points into the plugin
 * but the functions. Made from the exported graft_plugin_v1, whose bounds and grammar are checked
 * on the way, or from what graft-probe reports (then all functions are NULL, and `callbacks` tells
 * which there are). Immutable once made; one owner.
 *
 * The messages do not name the plugin or its file: the caller puts that before (err_prefix).
 */
#ifndef GRAFT_PLUGIN_DESCRIPTOR_H
#define GRAFT_PLUGIN_DESCRIPTOR_H

#include "base/base.h"
#include "base/err.h"

#include <graft/graft.h>

#define DESCRIPTOR_SYMBOL "graft_plugin_v1"

/* What the first contract's struct had: less than this was never right. */
#define DESCRIPTOR_MIN_SIZE (offsetof(graft_plugin, on_finish) + sizeof(void (*)(void)))

enum {
    DESCRIPTOR_NAME_MAX = 64,
    DESCRIPTOR_VERSION_MAX = 128,
    DESCRIPTOR_SUMMARY_MAX = 1024,
    DESCRIPTOR_PATTERN_MAX = 1024,
    DESCRIPTOR_METHOD_MAX = 32,
    DESCRIPTOR_ROUTES_MAX = 4096,
    DESCRIPTOR_SCRATCH_MAX = 1024 * 1024
};

/* struct descriptor.callbacks */
enum {
    DESCRIPTOR_INIT = 1 << 0,
    DESCRIPTOR_READY = 1 << 1,
    DESCRIPTOR_WORKER_INIT = 1 << 2,
    DESCRIPTOR_START = 1 << 3,
    DESCRIPTOR_COOL = 1 << 4,
    DESCRIPTOR_WORKER_FINI = 1 << 5,
    DESCRIPTOR_FINI = 1 << 6,
    DESCRIPTOR_ON_REQUEST = 1 << 7,
    DESCRIPTOR_ON_RESPONSE = 1 << 8,
    DESCRIPTOR_ON_FINISH = 1 << 9,
    DESCRIPTOR_EXPORT_STATE = 1 << 10,
    DESCRIPTOR_IMPORT_STATE = 1 << 11,
    DESCRIPTOR_HEALTH = 1 << 12,
    DESCRIPTOR_ALL = (1 << 13) - 1,
    DESCRIPTOR_MIDDLEWARE = DESCRIPTOR_ON_REQUEST | DESCRIPTOR_ON_RESPONSE | DESCRIPTOR_ON_FINISH
};

struct descriptor_route {
    char *method; /* NULL = every method */
    char *pattern;
    graft_handler *handler; /* NULL when it comes from the probe */
    unsigned flags;
};

struct descriptor {
    uint32_t size, needs, route_size, flags; /* as the plugin says */
    char *name;
    char *version, *summary; /* "" when the plugin gives none */
    size_t scratch_size;
    unsigned callbacks; /* which of these there are */
    int (*init)(graft_self *, void **);
    int (*ready)(graft_self *, void *);
    int (*worker_init)(graft_self *, void *);
    int (*start)(graft_self *, void *);
    void (*cool)(graft_self *, void *);
    void (*worker_fini)(graft_self *, void *);
    void (*fini)(graft_self *, void *);
    graft_handler *on_request, *on_response;
    void (*on_finish)(graft_req *, void *);
    uint32_t state_schema;
    int (*export_state)(graft_self *, void *, graft_buf *);
    int (*import_state)(graft_self *, void *, uint32_t, graft_str);
    int (*health)(graft_self *, void *);
    struct descriptor_route *routes;
    size_t route_count;
};

/*
 * Copies what `exported` (symbol_size bytes: the ELF symbol's size) says, after SDK.md's rules for
 * size, needs and route_size. 0, or -1 with the reason and nothing to free. Reads the plugin's
 * memory: strings or a route table without an end crash here, which is why the probe comes first.
 */
int descriptor_copy(const void *exported, size_t symbol_size, struct descriptor *out,
                    struct err *err);

/* What descriptor_copy checks of the grammar: name, texts, flags, routes. Handlers are not looked
   at. 0 or -1. */
int descriptor_check(const struct descriptor *d, struct err *err);

/* Finds graft_plugin_v1 in a dlopened plugin itself (not in its dependencies), with its size. */
int descriptor_find(void *dl, const void **exported, size_t *symbol_size, struct err *err);

/* Neither a route nor a middleware function: it loads, but nothing will ever call it. */
static inline bool descriptor_idle(const struct descriptor *d)
{
    return d->route_count == 0 && (d->callbacks & DESCRIPTOR_MIDDLEWARE) == 0;
}

/* Frees and zeroes; harmless on a zeroed one. */
void descriptor_fini(struct descriptor *d);

#endif
