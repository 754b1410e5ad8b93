/*
 * Guard, parser, framing, target and router over one connection's bytes. The guard is held against
 * a slow one that sees the whole head at once; what the parser says is held against the bytes; what
 * the router says is held against each pattern by itself.
 */
#include "fuzz.h"

#include "http/field.h"
#include "http/guard.h"
#include "http/head.h"
#include "http/router.h"

static const struct guard_limits limits = { 600, 200, 150, 12 };

static const struct {
    const char *method, *pattern;
} routes[] = {
    { "GET", "/" },        { NULL, "/echo" },       { "GET", "/hello" },  { "GET", "/a/:x/c" },
    { "POST", "/a/b/d" },  { "GET", "/a/b/d" },     { "GET", "/:p/:q" },  { "PUT", "/a/*rest" },
    { "GET", "/a b/%2F" }, { NULL, "/files/*r" },   { "HEAD", "/hello" }, { "DELETE", "/*all" },
    { "GET", "//" },       { "GET", "/:p/:q/:r/" },
};
#define NROUTES (sizeof routes / sizeof *routes)

/* ---- the guard ---- */

struct line {
    const char *ptr;
    size_t len;
};

/* The lines of the head that begins at `at`, the empty one included; 0: it has no end. */
static size_t lines_of(const char *at, const char *end, struct line *lines, size_t room)
{
    size_t n = 0;
    for (const char *from = at; end - at >= 2; at++) {
        if (at[0] != '\r' || at[1] != '\n')
            continue;
        if (n == room)
            return 0;
        lines[n++] = (struct line){ from, (size_t)(at - from) };
        if (at == from)
            return n;
        from = at + 2;
        at++;
    }
    return 0;
}

static bool request_line_ok(struct line l)
{
    const char *sp = memchr(l.ptr, ' ', l.len), *end = l.ptr + l.len;
    if (!sp || l.len < 11 || end - 9 <= sp + 1 || end[-9] != ' ')
        return false;
    if (memcmp(end - 8, "HTTP/1.", 7) != 0 || (end[-1] != '0' && end[-1] != '1'))
        return false;
    size_t method = (size_t)(sp - l.ptr), target = (size_t)(end - 9 - (sp + 1));
    if (method > GUARD_METHOD_MAX || target > limits.target_bytes || !field_name_ok(l.ptr, method))
        return false;
    for (size_t i = 0; i < target; i++)
        if (sp[1 + i] <= 0x20 || sp[1 + i] >= 0x7f)
            return false;
    return true;
}

static bool field_line_ok(struct line l)
{
    const char *colon = memchr(l.ptr, ':', l.len);
    return colon && l.len <= limits.field_bytes && field_name_ok(l.ptr, (size_t)(colon - l.ptr)) &&
           field_value_ok(colon + 1, l.len - 1 - (size_t)(colon - l.ptr));
}

/* Length of the sound head at the start, or 0; *nfields with it. */
static size_t reference(const char *data, size_t len, size_t *skip, size_t *nfields)
{
    struct line lines[64];
    for (*skip = 0; *skip < 2 * GUARD_EMPTY_LINES && len - *skip >= 2; *skip += 2)
        if (memcmp(data + *skip, "\r\n", 2) != 0)
            break;
    size_t n = lines_of(data + *skip, data + len, lines, 64);
    if (n < 2 || n - 2 > limits.headers || !request_line_ok(lines[0]))
        return 0;
    for (size_t i = 1; i + 1 < n; i++)
        if (!field_line_ok(lines[i]))
            return 0;
    size_t head = (size_t)(lines[n - 1].ptr + 2 - (data + *skip));
    *nfields = n - 2;
    return head <= limits.head_bytes ? head : 0;
}

static enum guard_result scan_in_steps(const char *data, size_t len, size_t step,
                                       struct fuzz_random *r, struct guard_verdict *v)
{
    struct guard g;
    enum guard_result result = GUARD_MORE;
    guard_init(&g);
    for (size_t have = 0; result == GUARD_MORE && have < len;) {
        size_t n = step ? step : 1 + fuzz_below(r, 60);
        have = n < len - have ? have + n : len;
        result = guard_scan(&g, &limits, data, have, v);
        HOLDS(g.scanned <= have);
    }
    return result;
}

static enum guard_result guard(const char *data, size_t len, struct guard_verdict *v,
                               size_t *nfields)
{
    struct fuzz_random r = fuzz_random_of(data, len);
    struct guard_verdict slow = { 0 }, pieces = { 0 };
    struct guard g;
    guard_init(&g);
    enum guard_result result = guard_scan(&g, &limits, data, len, v);
    if (len == 0)
        return result;
    HOLDS(scan_in_steps(data, len, 1, &r, &slow) == result);
    HOLDS(scan_in_steps(data, len, 0, &r, &pieces) == result);
    HOLDS(v->status == slow.status && v->status == pieces.status);
    HOLDS(v->why == slow.why && v->why == pieces.why);
    HOLDS(v->head_len == slow.head_len && v->head_len == pieces.head_len);
    size_t skip, head = reference(data, len, &skip, nfields);
    HOLDS((result == GUARD_HEAD) == (head > 0));
    HOLDS(head == 0 || (v->head_len == head && v->skip == skip && slow.skip == skip));
    if (result == GUARD_BAD)
        HOLDS(v->why && (v->status == 400 || v->status == 414 || v->status == 431 ||
                         v->status == 501 || v->status == 505));
    return result;
}

/* ---- the parser ---- */

static unsigned count_of(const struct head *h, const char *name)
{
    unsigned n = 0;
    for (unsigned i = 0; i < h->nheaders; i++)
        n += str_case_eq(h->headers[i].name, str_of(name));
    return n;
}

static void check_framing(const struct head *h)
{
    unsigned lengths = count_of(h, "Content-Length"), codings = count_of(h, "Transfer-Encoding");
    uint64_t n = 0;
    HOLDS(lengths + codings <= 1);
    HOLDS(codings == (h->framing == BODY_CHUNKED));
    HOLDS(codings == 0 || str_case_eq(head_field(h, "Transfer-Encoding"), STR("chunked")));
    if (lengths == 1)
        HOLDS(str_to_u64(head_field(h, "Content-Length"), &n) == 0);
    HOLDS(h->content_length == n && (h->framing == BODY_LENGTH) == (n > 0));
    HOLDS(count_of(h, "Host") == 1 || (count_of(h, "Host") == 0 && h->minor == 0));
    HOLDS(head_host_ok(h->host));
    HOLDS(!h->keep_alive || h->minor == 1 || count_of(h, "Connection") > 0);
    HOLDS(!h->expect_continue || (h->minor == 1 && h->framing != BODY_NONE));
}

/* The tokens, put together again, are the head. */
static void check_tokens(const struct head *h, const char *data, size_t len)
{
    struct line lines[64];
    size_t n = lines_of(data, data + len, lines, 64);
    HOLDS(n == h->nheaders + 2u);
    HOLDS(lines[0].len == h->method.len + h->target.len + 10);
    HOLDS(memcmp(data, h->method.ptr, h->method.len) == 0);
    HOLDS(memcmp(data + h->method.len + 1, h->target.ptr, h->target.len) == 0);
    HOLDS(data[lines[0].len - 1] == (h->minor ? '1' : '0'));
    for (unsigned i = 0; i < h->nheaders; i++) {
        struct str name = h->headers[i].name, value = h->headers[i].value;
        struct str line = { lines[i + 1].ptr, lines[i + 1].len };
        HOLDS(str_eq(name, (struct str){ line.ptr, name.len }) && line.ptr[name.len] == ':');
        HOLDS(str_eq(value,
                     field_trim((struct str){ line.ptr + name.len + 1, line.len - name.len - 1 })));
    }
}

/* ---- target and router ---- */

static void check_target(const struct target *t, struct arena *a)
{
    const char *at = t->path.ptr, *end = t->path.ptr + t->path.len;
    if (t->asterisk) {
        HOLDS(t->nsegments == 0);
        return;
    }
    HOLDS(t->nsegments > 0 && t->nsegments <= TARGET_MAX_SEGMENTS);
    HOLDS(!memchr(at, '\0', t->path.len));
    for (unsigned i = 0; i < t->nsegments; i++) {
        struct str s = t->segments[i].decoded;
        HOLDS(*at == '/' && s.ptr == at + 1 && !memchr(s.ptr, '/', s.len));
        HOLDS(!str_eq(s, STR(".")) && !str_eq(s, STR("..")));
        HOLDS(s.len <= t->segments[i].raw.len);
        HOLDS(target_decode_all(a, t->segments[i].raw).len <= s.len);
        at += 1 + s.len;
    }
    HOLDS(at == end);
}

/* Does this pattern serve these segments? Told by walking the text. */
static bool serves(const char *pattern, const struct target *t, unsigned i)
{
    if (*pattern == '\0')
        return i == t->nsegments;
    if (i == t->nsegments)
        return false;
    size_t len = strcspn(pattern + 1, "/");
    struct str want = { pattern + 1, len }, have = t->segments[i].decoded;
    if (pattern[1] == '*')
        return true;
    if (pattern[1] == ':' ? have.len == 0 : !str_eq(want, have))
        return false;
    return serves(pattern + 1 + len, t, i + 1);
}

/* Is `a` the better pattern for one path that both serve? */
static bool better(const char *a, const char *b)
{
    while (*a && *b) {
        int ka = a[1] == '*' ? 2 : a[1] == ':', kb = b[1] == '*' ? 2 : b[1] == ':';
        if (ka != kb)
            return ka < kb;
        a += 1 + strcspn(a + 1, "/");
        b += 1 + strcspn(b + 1, "/");
    }
    return false;
}

static bool takes(const char *route, struct str method)
{
    return !route || str_eq(str_of(route), method) ||
           (str_eq(method, STR("HEAD")) && strcmp(route, "GET") == 0);
}

static void check_router(const struct router *r, const struct head *h, const struct target *t,
                         struct arena *a)
{
    struct router_match m;
    char allow[256];
    const char *best = NULL;
    bool known = false, found = router_find(r, h->method, h->method_id, t, &m);
    for (size_t i = 0; i < NROUTES && !t->asterisk; i++) {
        if (!serves(routes[i].pattern, t, 0))
            continue;
        known = true;
        if (takes(routes[i].method, h->method) && (!best || better(routes[i].pattern, best)))
            best = routes[i].pattern;
    }
    HOLDS(found == (best != NULL) && (found || m.path_known == known));
    HOLDS(m.visited <= router_nodes(r));
    if (found)
        HOLDS(strcmp(routes[(const char *)m.endpoint - (const char *)r].pattern, best) == 0);
    for (unsigned i = 0; i < m.nparams; i++) {
        struct router_param_ref ref;
        HOLDS(router_pattern_param(best, m.params[i].name, &ref));
        HOLDS(ref.segment == m.params[i].segment && ref.rest == m.params[i].rest);
        HOLDS(router_param_value(a, t, &m.params[i]).ptr);
        HOLDS(m.params[i].rest || router_param_value(a, t, &m.params[i]).len > 0);
    }
    HOLDS(router_allow(r, t, allow, sizeof allow) == strlen(allow));
    HOLDS(!known || allow[0] != '\0');
    for (size_t i = 0; i < NROUTES && !t->asterisk; i++)
        HOLDS(!serves(routes[i].pattern, t, 0) || router_pattern_matches(routes[i].pattern, t));
}

static struct router *router_make(void)
{
    struct router *r = router_new();
    HOLDS(r != NULL);
    for (size_t i = 0; i < NROUTES; i++) /* endpoint: the route's number, as an address */
        HOLDS(router_add(r, routes[i].method, routes[i].pattern, (char *)r + i, NULL) == 0);
    return r;
}

/* One head; false when the connection cannot go on. */
static bool request(struct head_parser *p, const struct router *r, const char *data, size_t len,
                    size_t nfields)
{
    char block[512];
    struct arena a;
    struct head h;
    struct head_verdict v;
    struct target t;
    arena_init(&a, block, sizeof block);
    int refused = head_parse(p, &a, data, len, &h, &v);
    if (refused)
        HOLDS(v.why && (v.status == 400 || v.status == 501 || v.status == 417));
    if (!refused || v.status == 417) {
        HOLDS(h.nheaders == nfields);
        check_tokens(&h, data, len);
        check_framing(&h);
        if (target_parse(&a, h.target, &t, &v) == 0) {
            check_target(&t, &a);
            check_router(r, &h, &t, &a);
            if (t.query.ptr)
                target_query_get(&a, t.query, "a");
        } else {
            HOLDS(v.status == 400 || v.status == 414);
        }
    }
    arena_reset(&a);
    return !refused;
}

/* The parser leans on the guard, but must not fall without it. */
static void unguarded(struct head_parser *p, const char *data, size_t len)
{
    char block[512];
    struct arena a;
    struct head h;
    struct head_verdict v;
    arena_init(&a, block, sizeof block);
    HOLDS(head_parse(p, &a, data, len, &h, &v) == 0 || v.why);
    arena_reset(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static struct head_parser *parser;
    static struct router *router;
    if (!parser) {
        parser = head_parser_new();
        router = router_make();
    }
    for (size_t at = 0;;) {
        char *data = fuzz_copy(bytes + at, len - at);
        struct guard_verdict v;
        size_t nfields = 0;
        bool good = guard(data, len - at, &v, &nfields) == GUARD_HEAD;
        if (good) {
            char *head = fuzz_copy(data + v.skip, v.head_len);
            good = request(parser, router, head, v.head_len, nfields);
            free(head);
        } else
            unguarded(parser, data, len - at);
        free(data);
        if (!good)
            return 0;
        at += v.skip + v.head_len;
    }
}
