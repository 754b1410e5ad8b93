/*
 * The descriptor as bytes, between graft-probe and the server.
 *
 * Written by the probe, read on the loader thread. The reader checks every length against what is
 * there before it uses it, allocates no more than the bytes received account for, and then judges
 * the result by the same grammar as a descriptor in memory.
 */
#include "plugin/probe_wire.h"

#include <stdlib.h>
#include <string.h>

#define ABSENT UINT32_MAX /* the length of a NULL string */

struct fixed {
    uint32_t size, needs, route_size, flags;
    uint64_t scratch_size;
    uint32_t callbacks, route_count;
};

static int put_text(struct buf *out, const char *text)
{
    uint32_t len = text != NULL ? (uint32_t)strlen(text) : ABSENT;
    if (buf_add(out, &len, sizeof(len)) != 0)
        return -1;
    return text != NULL ? buf_add(out, text, len) : 0;
}

int descriptor_encode(const struct descriptor *d, struct buf *out)
{
    struct fixed f = { d->size,         d->needs,     d->route_size,           d->flags,
                       d->scratch_size, d->callbacks, (uint32_t)d->route_count };
    if (buf_add(out, &f, sizeof(f)) != 0 || put_text(out, d->name) != 0 ||
        put_text(out, d->version) != 0 || put_text(out, d->summary) != 0)
        return -1;
    for (size_t i = 0; i < d->route_count; i++) {
        const struct descriptor_route *r = &d->routes[i];
        uint32_t flags = r->flags;
        if (put_text(out, r->method) != 0 || put_text(out, r->pattern) != 0 ||
            buf_add(out, &flags, sizeof(flags)) != 0)
            return -1;
    }
    return 0;
}

struct reader {
    const char *at;
    size_t left;
    bool no_memory;
};

static int get(struct reader *r, void *to, size_t len)
{
    if (len > r->left)
        return -1;
    memcpy(to, r->at, len);
    r->at += len;
    r->left -= len;
    return 0;
}

/* A string without NULs inside; NULL only where `absent` allows it. */
static int get_text(struct reader *r, size_t max, bool absent, char **out)
{
    uint32_t len;
    if (get(r, &len, sizeof(len)) != 0)
        return -1;
    if (len == ABSENT)
        return absent ? 0 : -1;
    if (len > max || len > r->left || memchr(r->at, '\0', len) != NULL)
        return -1;
    *out = malloc((size_t)len + 1);
    if (*out == NULL) {
        r->no_memory = true;
        return -1;
    }
    (*out)[len] = '\0';
    return get(r, *out, len);
}

static int get_route(struct reader *r, struct descriptor_route *route)
{
    uint32_t flags;
    if (get_text(r, DESCRIPTOR_METHOD_MAX, true, &route->method) != 0 ||
        get_text(r, DESCRIPTOR_PATTERN_MAX, false, &route->pattern) != 0 ||
        get(r, &flags, sizeof(flags)) != 0)
        return -1;
    route->flags = flags;
    return 0;
}

static int get_all(struct reader *r, struct descriptor *out)
{
    struct fixed f;
    if (get(r, &f, sizeof(f)) != 0 || f.route_count > DESCRIPTOR_ROUTES_MAX ||
        (f.callbacks & ~(uint32_t)DESCRIPTOR_ALL) != 0)
        return -1;
    out->size = f.size;
    out->needs = f.needs;
    out->route_size = f.route_size;
    out->flags = f.flags;
    out->scratch_size = f.scratch_size;
    out->callbacks = f.callbacks;
    if (get_text(r, DESCRIPTOR_NAME_MAX, false, &out->name) != 0 ||
        get_text(r, DESCRIPTOR_VERSION_MAX, false, &out->version) != 0 ||
        get_text(r, DESCRIPTOR_SUMMARY_MAX, false, &out->summary) != 0)
        return -1;
    if (f.route_count > 0) {
        out->routes = calloc(f.route_count, sizeof(*out->routes));
        if (out->routes == NULL) {
            r->no_memory = true;
            return -1;
        }
        out->route_count = f.route_count;
    }
    for (uint32_t i = 0; i < f.route_count; i++)
        if (get_route(r, &out->routes[i]) != 0)
            return -1;
    return r->left == 0 ? 0 : -1;
}

int descriptor_decode(const void *data, size_t len, struct descriptor *out, struct err *err)
{
    struct reader r = { data, len, false };
    memset(out, 0, sizeof(*out));
    int rc = get_all(&r, out);
    if (r.no_memory)
        err_set(err, "out of memory while its descriptor was read");
    else if (rc != 0)
        err_set(err, "graft-probe reported a descriptor that cannot be read: does its constructor "
                     "write to descriptors that it did not open?");
    else
        rc = descriptor_check(out, err);
    if (rc != 0)
        descriptor_fini(out);
    return rc;
}
