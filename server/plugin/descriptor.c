/*
 * The deep copy of a graft_plugin and the grammar of what may stand in it.
 *
 * Used on the loader thread, and by graft-probe, which links this very file: what the probe lets
 * pass and what the server lets pass cannot differ. No library but libc, therefore.
 */
#include "plugin/descriptor.h"

#include "http/router.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#define ROUTE_MIN_SIZE                                                                             \
    sizeof(graft_route) /* of the first contract; a longer one still begins so                     \
                         */
#define ROUTE_MAX_SIZE 4096u

#define KNOWN_FLAGS       (GRAFT_SERIAL | GRAFT_NEED_BODY)
#define KNOWN_ROUTE_FLAGS (GRAFT_STREAM)

static bool all_zero(const void *from, size_t len)
{
    const unsigned char *p = from;
    for (size_t i = 0; i < len; i++)
        if (p[i] != 0)
            return false;
    return true;
}

/* ---- Sizes: the first three members decide how far the rest may be read ---------------------- */

static int check_sizes(const void *exported, size_t symbol_size, const uint32_t head[3],
                       struct err *err)
{
    uint32_t size = head[0], needs = head[1], route_size = head[2];
    if (needs > (uint32_t)GRAFT_MINOR)
        return err_set(err,
                       "needs SDK %d.%" PRIu32 ", this graftd offers %d.%d: rebuild with an older "
                       "SDK (or -DGRAFT_NEEDS=%d) or upgrade graftd",
                       GRAFT_ABI, needs, GRAFT_ABI, GRAFT_MINOR, GRAFT_MINOR);
    if (size < DESCRIPTOR_MIN_SIZE)
        return err_set(err,
                       DESCRIPTOR_SYMBOL " says it has %" PRIu32 " bytes, the smallest contract "
                                         "has %zu: define it with GRAFT_PLUGIN(...)",
                       size, (size_t)DESCRIPTOR_MIN_SIZE);
    if (size > symbol_size)
        return err_set(err,
                       DESCRIPTOR_SYMBOL " says it has %" PRIu32 " bytes, the file's symbol table "
                                         "says %zu: define it with GRAFT_PLUGIN(...)",
                       size, symbol_size);
    if (size > sizeof(graft_plugin) &&
        !all_zero((const char *)exported + sizeof(graft_plugin), size - sizeof(graft_plugin)))
        return err_set(err,
                       "its descriptor has %" PRIu32 " bytes, this graftd knows %zu, and the rest "
                       "is used: rebuild with an older SDK or upgrade graftd",
                       size, sizeof(graft_plugin));
    if (route_size < ROUTE_MIN_SIZE || route_size > ROUTE_MAX_SIZE ||
        route_size % _Alignof(graft_route) != 0)
        return err_set(err,
                       "route_size is %" PRIu32 ", expected %zu or a larger multiple of %zu: "
                       "define " DESCRIPTOR_SYMBOL " with GRAFT_PLUGIN(...)",
                       route_size, ROUTE_MIN_SIZE, _Alignof(graft_route));
    return 0;
}

/* ---- Grammar --------------------------------------------------------------------------------- */

/* Text for people: UTF-8 without control characters. */
static bool text_ok(const char *z)
{
    const unsigned char *p = (const unsigned char *)z;
    while (*p != 0) {
        if (*p < 0x20 || *p == 0x7f)
            return false;
        unsigned follow = *p < 0x80 ? 0 : *p < 0xc2 ? 9 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : 3;
        if (follow == 9 || *p > 0xf4)
            return false;
        unsigned char first = *p++, next = *p;
        if ((first == 0xe0 && next < 0xa0) || (first == 0xed && next > 0x9f) ||
            (first == 0xf0 && next < 0x90) || (first == 0xf4 && next > 0x8f))
            return false; /* overlong, a surrogate, or beyond U+10FFFF */
        for (; follow > 0; follow--, p++)
            if ((*p & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static int check_name(const char *name, struct err *err)
{
    size_t len = strlen(name);
    bool ok = len > 0 && len <= DESCRIPTOR_NAME_MAX && name[0] >= 'a' && name[0] <= 'z';
    for (size_t i = 0; ok && i < len; i++)
        ok = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') ||
             name[i] == '-';
    if (ok)
        return 0;
    return err_set(err,
                   "bad name \"%.80s\": expected a lower-case letter, then lower-case letters, "
                   "digits and '-', at most %d characters",
                   text_ok(name) ? name : "(unprintable)", DESCRIPTOR_NAME_MAX);
}

static int check_texts(const struct descriptor *d, struct err *err)
{
    if (strlen(d->version) > DESCRIPTOR_VERSION_MAX || !text_ok(d->version))
        return err_set(err, "bad version: expected at most %d bytes of printable UTF-8",
                       DESCRIPTOR_VERSION_MAX);
    if (strlen(d->summary) > DESCRIPTOR_SUMMARY_MAX || !text_ok(d->summary))
        return err_set(err, "bad summary: expected one line of at most %d bytes of printable UTF-8",
                       DESCRIPTOR_SUMMARY_MAX);
    return 0;
}

static bool is_token(const char *z)
{
    size_t len = strspn(z, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                           "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    return len > 0 && z[len] == '\0';
}

/* The router's grammar, for routes of plugins a little narrower. */
static int check_pattern(const char *pattern, struct err *err)
{
    if (strlen(pattern) > DESCRIPTOR_PATTERN_MAX)
        return err_set(err, "pattern \"%.40s...\": more than %d bytes: shorten it",
                       text_ok(pattern) ? pattern : "", DESCRIPTOR_PATTERN_MAX);
    if (!text_ok(pattern))
        return err_set(err, "pattern of %zu bytes: expected printable UTF-8", strlen(pattern));
    if (strstr(pattern, "//") != NULL)
        return err_set(err, "pattern \"%s\": an empty segment (\"//\"): remove a slash", pattern);
    return router_pattern_check(pattern, err);
}

static int check_route(const struct descriptor_route *r, size_t i, struct err *err)
{
    if (check_pattern(r->pattern, err) != 0)
        return err_prefix(err, "route %zu", i + 1);
    if (r->method != NULL && (strlen(r->method) > DESCRIPTOR_METHOD_MAX || !is_token(r->method)))
        return err_set(err,
                       "route %zu (%.200s): bad method \"%.40s\": expected a token such as GET, "
                       "at most %d characters, or NULL for every method",
                       i + 1, r->pattern, text_ok(r->method) ? r->method : "(unprintable)",
                       DESCRIPTOR_METHOD_MAX);
    if ((r->flags & ~KNOWN_ROUTE_FLAGS) != 0)
        return err_set(err,
                       "route %zu (%.200s): unknown flags 0x%x, this graftd knows GRAFT_STREAM "
                       "(0x%x): rebuild with an older SDK or upgrade graftd",
                       i + 1, r->pattern, r->flags & ~KNOWN_ROUTE_FLAGS, GRAFT_STREAM);
    return 0;
}

static int check_flags(const struct descriptor *d, struct err *err)
{
    if ((d->flags & ~KNOWN_FLAGS) != 0)
        return err_set(err,
                       "unknown flags 0x%" PRIx32 ", this graftd knows GRAFT_SERIAL and "
                       "GRAFT_NEED_BODY (0x%x): rebuild with an older SDK or upgrade graftd",
                       (uint32_t)(d->flags & ~KNOWN_FLAGS), KNOWN_FLAGS);
    if (d->scratch_size > DESCRIPTOR_SCRATCH_MAX)
        return err_set(err,
                       "scratch_size is %zu, at most %d is allowed: it is zeroed for each request; "
                       "use graft_alloc for what few requests need",
                       d->scratch_size, DESCRIPTOR_SCRATCH_MAX);
    return 0;
}

/* One fault behind the other, as many as fit whole. */
static void add_fault(struct err *all, const struct err *one)
{
    char text[sizeof all->text];
    int len = snprintf(text, sizeof text, "%s%s%s", all->text, all->text[0] != '\0' ? "; " : "",
                       one->text);
    if (len < (int)sizeof text - 8) /* room for who puts a word before it */
        memcpy(all->text, text, (size_t)len + 1);
}

int descriptor_check(const struct descriptor *d, struct err *err)
{
    struct err all = { "" }, one;
    if (check_name(d->name, &one) != 0)
        add_fault(&all, &one);
    if (check_texts(d, &one) != 0)
        add_fault(&all, &one);
    if (check_flags(d, &one) != 0)
        add_fault(&all, &one);
    for (size_t i = 0; i < d->route_count; i++)
        if (check_route(&d->routes[i], i, &one) != 0)
            add_fault(&all, &one);
    return all.text[0] == '\0' ? 0 : err_set(err, "%s", all.text);
}

/* ---- The copy -------------------------------------------------------------------------------- */

static int no_memory(struct err *err)
{
    return err_set(err, "out of memory while its descriptor was copied");
}

/* At most max + 1 bytes, which descriptor_check then finds too long. */
static int copy_text(char **out, const char *text, size_t max, struct err *err)
{
    *out = strndup(text != NULL ? text : "", max + 1);
    return *out != NULL ? 0 : no_memory(err);
}

static int copy_route(const graft_route *r, size_t i, struct descriptor_route *out, struct err *err)
{
    if (r->pattern == NULL)
        return err_set(err, "route %zu has no pattern: a table of routes ends with { 0 }", i + 1);
    if (r->handler == NULL)
        return err_set(err, "route %zu (%.200s) has no handler: a table of routes ends with { 0 }",
                       i + 1, text_ok(r->pattern) ? r->pattern : "unprintable");
    out->handler = r->handler;
    out->flags = r->flags;
    if (r->method != NULL && copy_text(&out->method, r->method, DESCRIPTOR_METHOD_MAX, err) != 0)
        return -1;
    return copy_text(&out->pattern, r->pattern, DESCRIPTOR_PATTERN_MAX, err);
}

/* The routes before the { 0 }, or -1. */
static int count_routes(const char *table, size_t stride, size_t *count, struct err *err)
{
    for (size_t n = 0; n <= DESCRIPTOR_ROUTES_MAX; n++) {
        graft_route r;
        memcpy(&r, table + n * stride, sizeof(r));
        if (r.method == NULL && r.pattern == NULL && r.handler == NULL) {
            *count = n;
            return 0;
        }
    }
    return err_set(err, "more than %d routes, or its table of routes does not end with { 0 }",
                   DESCRIPTOR_ROUTES_MAX);
}

static int copy_routes(const graft_plugin *p, struct descriptor *out, struct err *err)
{
    size_t count = 0;
    const char *table = (const char *)p->routes;
    if (table == NULL)
        return 0;
    if (count_routes(table, p->route_size, &count, err) != 0)
        return -1;
    if (count > 0 && (out->routes = calloc(count, sizeof(*out->routes))) == NULL)
        return no_memory(err);
    for (; out->route_count < count; out->route_count++) {
        const char *at = table + out->route_count * p->route_size;
        graft_route r;
        memcpy(&r, at, sizeof(r));
        if (!all_zero(at + sizeof(r), p->route_size - sizeof(r)))
            return err_set(err,
                           "route %zu has %" PRIu32
                           " bytes, this graftd knows %zu, and the rest is "
                           "used: rebuild with an older SDK or upgrade graftd",
                           out->route_count + 1, p->route_size, sizeof(r));
        if (copy_route(&r, out->route_count, &out->routes[out->route_count], err) != 0) {
            out->route_count++; /* what it holds so far is freed with the others */
            return -1;
        }
    }
    return 0;
}

static void copy_callbacks(const graft_plugin *p, struct descriptor *out)
{
#define CALLBACK(bit, member)                                                                      \
    do {                                                                                           \
        out->member = p->member;                                                                   \
        if (p->member != NULL)                                                                     \
            out->callbacks |= (bit);                                                               \
    } while (0)
    CALLBACK(DESCRIPTOR_INIT, init);
    CALLBACK(DESCRIPTOR_READY, ready);
    CALLBACK(DESCRIPTOR_WORKER_INIT, worker_init);
    CALLBACK(DESCRIPTOR_START, start);
    CALLBACK(DESCRIPTOR_COOL, cool);
    CALLBACK(DESCRIPTOR_WORKER_FINI, worker_fini);
    CALLBACK(DESCRIPTOR_FINI, fini);
    CALLBACK(DESCRIPTOR_ON_REQUEST, on_request);
    CALLBACK(DESCRIPTOR_ON_RESPONSE, on_response);
    CALLBACK(DESCRIPTOR_ON_FINISH, on_finish);
    CALLBACK(DESCRIPTOR_EXPORT_STATE, export_state);
    CALLBACK(DESCRIPTOR_IMPORT_STATE, import_state);
    CALLBACK(DESCRIPTOR_HEALTH, health);
#undef CALLBACK
}

static int copy_known(const graft_plugin *p, struct descriptor *out, struct err *err)
{
    if (p->name == NULL)
        return err_set(err, "its descriptor has no name: set .name in GRAFT_PLUGIN(...)");
    out->size = p->size;
    out->needs = p->needs;
    out->route_size = p->route_size;
    out->flags = p->flags;
    out->scratch_size = p->scratch_size;
    out->state_schema = p->state_schema;
    copy_callbacks(p, out);
    if (copy_text(&out->name, p->name, DESCRIPTOR_NAME_MAX, err) != 0 ||
        copy_text(&out->version, p->version, DESCRIPTOR_VERSION_MAX, err) != 0 ||
        copy_text(&out->summary, p->summary, DESCRIPTOR_SUMMARY_MAX, err) != 0 ||
        copy_routes(p, out, err) != 0)
        return -1;
    return descriptor_check(out, err);
}

int descriptor_copy(const void *exported, size_t symbol_size, struct descriptor *out,
                    struct err *err)
{
    uint32_t head[3];
    memset(out, 0, sizeof(*out));
    if (symbol_size < sizeof(head))
        return err_set(err,
                       DESCRIPTOR_SYMBOL " has %zu bytes, the smallest contract has %zu: define it "
                                         "with GRAFT_PLUGIN(...)",
                       symbol_size, (size_t)DESCRIPTOR_MIN_SIZE);
    memcpy(head, exported, sizeof(head));
    if (check_sizes(exported, symbol_size, head, err) != 0)
        return -1;
    graft_plugin known = { 0 }; /* members that it does not have are NULL or 0 */
    memcpy(&known, exported, head[0] < sizeof(known) ? head[0] : sizeof(known));
    if (copy_known(&known, out, err) == 0)
        return 0;
    descriptor_fini(out);
    return -1;
}

int descriptor_find(void *dl, const void **exported, size_t *symbol_size, struct err *err)
{
    Dl_info info;
    void *symbol = dlsym(dl, DESCRIPTOR_SYMBOL), *sym = NULL, *owner = NULL, *self = NULL;
    if (symbol == NULL)
        return err_set(err, "no symbol " DESCRIPTOR_SYMBOL ": define it with GRAFT_PLUGIN(...)");
    if (dladdr1(symbol, &info, &owner, RTLD_DL_LINKMAP) == 0 ||
        dladdr1(symbol, &info, &sym, RTLD_DL_SYMENT) == 0 || sym == NULL ||
        dlinfo(dl, RTLD_DI_LINKMAP, &self) != 0)
        return err_set(err, "cannot find out where " DESCRIPTOR_SYMBOL " lies");
    if (owner != self) /* dlsym looks into the dependencies too */
        return err_set(err,
                       "no symbol " DESCRIPTOR_SYMBOL " of its own: the one found belongs to its "
                       "dependency %.200s",
                       info.dli_fname != NULL ? info.dli_fname : "?");
    *exported = symbol;
    *symbol_size = ((const ElfW(Sym) *)sym)->st_size;
    return 0;
}

void descriptor_fini(struct descriptor *d)
{
    for (size_t i = 0; i < d->route_count; i++) {
        free(d->routes[i].method);
        free(d->routes[i].pattern);
    }
    free(d->routes);
    free(d->name);
    free(d->version);
    free(d->summary);
    memset(d, 0, sizeof(*d));
}
