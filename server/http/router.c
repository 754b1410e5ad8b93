/*
 * The tree of routes. A node is one segment of one or more patterns: literal children sorted for
 * bisection, at most one parameter child, the routes that end here and those whose rest begins
 * here. The depth of a node is the number of its segment in the path, so a search can come to a
 * node by one way only: that bounds it.
 */
#include "http/router.h"

#include "http/head.h"
#include "http/pattern.h"

#include <stdio.h>
#include <stdlib.h>

#define ROUTER_MAGIC 0x726f7574u
#define ANY          (HEAD_OTHER + 1u) /* a route without method */

_Static_assert(ANY < 64, "methods fit in one word of bits");

struct route {
    struct route *next; /* same shape, another method */
    unsigned method;
    void *endpoint;
    char *pattern;
    unsigned nparams;
    struct router_param_ref params[ROUTER_MAX_PARAMS];
    char *names[ROUTER_MAX_PARAMS];
};

struct node {
    char *literal; /* NULL: the root, or a parameter */
    size_t len;
    struct node **children; /* literals, sorted by length, then bytes */
    unsigned nchildren;
    struct node *param;
    struct route *here; /* the path ends at this node */
    struct route *rest; /* it goes on, in any way */
};

struct router {
    unsigned magic, nnodes;
    struct node root;
    void *conflict;
};

struct router *router_new(void)
{
    struct router *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->magic = ROUTER_MAGIC;
    r->nnodes = 1;
    return r;
}

static void route_free(struct route *route)
{
    if (!route)
        return;
    for (unsigned i = 0; i < route->nparams; i++)
        free(route->names[i]);
    free(route->pattern);
    free(route);
}

static void routes_free(struct route *list)
{
    while (list) {
        struct route *next = list->next;
        route_free(list);
        list = next;
    }
}

static void node_fini(struct node *n)
{
    for (unsigned i = 0; i < n->nchildren; i++) {
        node_fini(n->children[i]);
        free(n->children[i]);
    }
    if (n->param) {
        node_fini(n->param);
        free(n->param);
    }
    free(n->children);
    free(n->literal);
    routes_free(n->here);
    routes_free(n->rest);
}

void router_free(struct router *r)
{
    if (!r)
        return;
    CHECK(r, ROUTER_MAGIC);
    r->magic = 0;
    node_fini(&r->root);
    free(r);
}

void *router_conflict(const struct router *r)
{
    CHECK(r, ROUTER_MAGIC);
    return r->conflict;
}

unsigned router_nodes(const struct router *r)
{
    CHECK(r, ROUTER_MAGIC);
    return r->nnodes;
}

/* ---- building ---- */

static int compare(const struct node *n, struct str s)
{
    if (n->len != s.len)
        return n->len < s.len ? -1 : 1;
    return bytes_eq(n->literal, s.ptr, s.len) ? 0 : memcmp(n->literal, s.ptr, s.len);
}

/* Where `s` is among the children, or would be. */
static HOT unsigned position(const struct node *n, struct str s, bool *found)
{
    unsigned from = 0, to = n->nchildren;
    *found = false;
    while (from < to) {
        unsigned mid = from + (to - from) / 2;
        int order = compare(n->children[mid], s);
        if (order == 0) {
            *found = true;
            return mid;
        }
        if (order < 0)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

static struct node *literal_child(struct router *r, struct node *n, struct str s)
{
    bool found;
    unsigned at = position(n, s, &found);
    if (found)
        return n->children[at];
    struct node *child = calloc(1, sizeof *child);
    char *literal = strndup(s.ptr, s.len);
    struct node **children = realloc(n->children, (n->nchildren + 1) * sizeof *children);
    if (children)
        n->children = children;
    if (!child || !literal || !children) {
        free(child);
        free(literal);
        return NULL;
    }
    child->literal = literal;
    child->len = s.len;
    memmove(children + at + 1, children + at, (n->nchildren - at) * sizeof *children);
    children[at] = child;
    n->nchildren++;
    r->nnodes++;
    return child;
}

static struct node *param_child(struct router *r, struct node *n)
{
    if (!n->param) {
        n->param = calloc(1, sizeof *n->param);
        r->nnodes += n->param != NULL;
    }
    return n->param;
}

/* The list that a route of this pattern belongs on; NULL when memory is out. */
static struct route **slot(struct router *r, const char *pattern)
{
    struct node *n = &r->root;
    struct pattern_segment s;
    while (n && pattern_next(&pattern, &s)) {
        if (s.kind == PATTERN_REST)
            return &n->rest;
        n = s.kind == PATTERN_PARAM ? param_child(r, n) : literal_child(r, n, s.text);
    }
    return n ? &n->here : NULL;
}

static struct route *route_new(unsigned method, const char *pattern, void *endpoint)
{
    struct route *route = calloc(1, sizeof *route);
    struct pattern_segment s;
    if (!route)
        return NULL;
    route->method = method;
    route->endpoint = endpoint;
    route->pattern = strdup(pattern);
    bool good = route->pattern != NULL;
    for (unsigned i = 0; good && pattern_next(&pattern, &s); i++) {
        if (s.kind == PATTERN_LITERAL)
            continue;
        unsigned k = route->nparams++;
        route->names[k] = strndup(s.text.ptr, s.text.len);
        route->params[k] = (struct router_param_ref){ route->names[k], i, s.kind == PATTERN_REST };
        good = route->names[k] != NULL;
    }
    if (!good) {
        route_free(route);
        return NULL;
    }
    return route;
}

static int method_of(const char *method, unsigned *id, struct err *err)
{
    *id = method ? head_method_id(str_of(method)) : ANY;
    if (*id == HEAD_OTHER)
        return err_set(err,
                       "method \"%s\": expected one that IANA has registered, in capitals, as "
                       "\"GET\", or NULL for all; requests with any other are answered 501",
                       method);
    if (*id == HEAD_CONNECT || *id == HEAD_PRI)
        return err_set(err,
                       "method \"%s\" has no path to route: expected \"GET\" or the like, or "
                       "NULL for all",
                       method);
    return 0;
}

int router_add(struct router *r, const char *method, const char *pattern, void *endpoint,
               struct err *err)
{
    CHECK(r, ROUTER_MAGIC);
    unsigned id;
    r->conflict = NULL;
    if (method_of(method, &id, err) || router_pattern_check(pattern, err))
        return -1;
    struct route **list = slot(r, pattern), *route = route_new(id, pattern, endpoint);
    if (!list || !route) {
        route_free(route);
        return err_set(err, "no memory for the route \"%s\"", pattern);
    }
    for (const struct route *there = *list; there; there = there->next)
        if (there->method == id) {
            route_free(route);
            r->conflict = there->endpoint;
            return err_set(err,
                           "%s \"%s\" and \"%s\" match the same paths: change one of them, or "
                           "its mount",
                           method ? method : "every method,", pattern, there->pattern);
        }
    route->next = *list;
    *list = route;
    return 0;
}

/* ---- finding ---- */

struct search {
    const struct target *t;
    unsigned method, visited;
    bool path_known;
};

static const struct route *with_method(const struct route *list, unsigned method)
{
    for (; list; list = list->next)
        if (list->method == method)
            return list;
    return NULL;
}

static HOT const struct route *take(struct search *s, const struct route *list)
{
    if (!list)
        return NULL;
    s->path_known = true;
    const struct route *found = with_method(list, s->method);
    if (!found && s->method == HEAD_HEAD)
        found = with_method(list, HEAD_GET);
    return found ? found : with_method(list, ANY);
}

static const struct node *literal(const struct node *n, struct str s)
{
    bool found;
    unsigned at = n->nchildren > 0 ? position(n, s, &found) : 0;
    return n->nchildren > 0 && found ? n->children[at] : NULL;
}

/* No deeper than the longest pattern. */
static HOT const struct route *descend(const struct node *n, struct search *s, unsigned i)
{
    s->visited++;
    if (i == s->t->nsegments)
        return take(s, n->here);
    struct str segment = s->t->segments[i].decoded;
    const struct node *child = literal(n, segment);
    const struct route *found = child ? descend(child, s, i + 1) : NULL;
    if (!found && n->param && segment.len > 0)
        found = descend(n->param, s, i + 1);
    return found ? found : take(s, n->rest);
}

HOT bool router_find(const struct router *r, struct str method, unsigned method_id,
                     const struct target *t, struct router_match *out)
{
    HOT_CHECK(r, ROUTER_MAGIC);
    struct search s = { .t = t, .method = method_id };
    if (method_id >= HEAD_OTHER)
        s.method = head_method_id(method);
    const struct route *found = t->asterisk ? NULL : descend(&r->root, &s, 0);
    out->path_known = s.path_known;
    out->visited = s.visited;
    out->endpoint = found ? found->endpoint : NULL;
    out->nparams = found ? found->nparams : 0;
    for (unsigned i = 0; i < out->nparams; i++)
        out->params[i] = found->params[i];
    return found != NULL;
}

NOINLINE struct str router_param_value(struct arena *a, const struct target *t,
                              const struct router_param_ref *p)
{
    if (p->segment >= t->nsegments)
        return (struct str){ NULL, 0 };
    const struct segment *s = &t->segments[p->segment];
    if (!p->rest)
        return target_decode_all(a, s->raw);
    return (struct str){ s->decoded.ptr, (size_t)(t->path.ptr + t->path.len - s->decoded.ptr) };
}

/* ---- Allow ---- */

static uint64_t bits(const struct route *list)
{
    uint64_t mask = 0;
    for (; list; list = list->next)
        mask |= UINT64_C(1) << list->method;
    return mask;
}

static uint64_t methods_for(const struct node *n, const struct target *t, unsigned i)
{
    if (i == t->nsegments)
        return bits(n->here);
    struct str segment = t->segments[i].decoded;
    const struct node *child = literal(n, segment);
    uint64_t mask = bits(n->rest);
    if (child)
        mask |= methods_for(child, t, i + 1);
    if (n->param && segment.len > 0)
        mask |= methods_for(n->param, t, i + 1);
    return mask;
}

static uint64_t methods_of_all(const struct node *n)
{
    uint64_t mask = bits(n->here) | bits(n->rest);
    for (unsigned i = 0; i < n->nchildren; i++)
        mask |= methods_of_all(n->children[i]);
    return n->param ? mask | methods_of_all(n->param) : mask;
}

size_t router_allow(const struct router *r, const struct target *t, char *out, size_t size)
{
    CHECK(r, ROUTER_MAGIC);
    uint64_t mask = t->asterisk ? methods_of_all(&r->root) : methods_for(&r->root, t, 0);
    if (mask & UINT64_C(1) << ANY) /* all: the usual ones, up to PATCH */
        mask |= (UINT64_C(2) << HEAD_PATCH) - 1;
    if (mask & UINT64_C(1) << HEAD_GET)
        mask |= UINT64_C(1) << HEAD_HEAD;
    size_t len = 0;
    if (size > 0)
        *out = '\0';
    for (unsigned id = 0; id < HEAD_OTHER; id++) {
        struct str name = head_method_name(id);
        size_t comma = len > 0 ? 2 : 0;
        if (!(mask & UINT64_C(1) << id))
            continue;
        if (len + comma + name.len >= size)
            break;
        memcpy(out + len, ", ", comma);
        memcpy(out + len + comma, name.ptr, name.len + 1);
        len += comma + name.len;
    }
    return len;
}
