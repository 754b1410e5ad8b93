/* Routes: precedence, methods, parameters, conflicts, bounded work; and what matches cover. */
#include "tap.h"

#include "http/head.h"
#include "http/router.h"

static char block[65536];
static struct arena arena;
static char ends[16]; /* endpoints: any addresses */

static struct target target(const char *raw)
{
    struct target t;
    struct head_verdict v;
    arena_init(&arena, block, sizeof block);
    must(target_parse(&arena, str_of(raw), &t, &v) == 0);
    return t;
}

static struct router *router_of(const char *const routes[][2], size_t n)
{
    struct router *r = router_new();
    for (size_t i = 0; i < n; i++) {
        struct err err;
        if (!is(router_add(r, routes[i][0], routes[i][1], &ends[i], &err), 0))
            fprintf(stderr, "# %s\n", err.text);
    }
    return r;
}

#define ROUTER(...)                                                                                \
    router_of((const char *const[][2]){ __VA_ARGS__ },                                             \
              sizeof((const char *const[][2]){ __VA_ARGS__ }) / sizeof(const char *const[2]))

/* Which of the routes serves it; -404, -405. */
static int which(const struct router *r, const char *method, const char *raw)
{
    struct target t = target(raw);
    struct router_match m;
    struct str name = str_of(method);
    bool found = router_find(r, name, head_method_id(name), &t, &m);
    ok(m.visited <= router_nodes(r));
    if (found)
        return (int)((char *)m.endpoint - ends);
    return m.path_known ? -405 : -404;
}

static bool param_is(const struct router *r, const char *raw, const char *name, const char *want)
{
    struct target t = target(raw);
    struct router_match m;
    must(router_find(r, STR("GET"), HEAD_GET, &t, &m));
    for (unsigned i = 0; i < m.nparams; i++)
        if (strcmp(m.params[i].name, name) == 0) {
            struct str got = router_param_value(&arena, &t, &m.params[i]);
            if (got.ptr && str_eq(got, str_of(want)))
                return true;
            fprintf(stderr, "# %s: got \"" STR_FMT "\"\n", raw, STR_ARG(got));
        }
    return false;
}

TEST(literals)
{
    struct router *r = ROUTER({ "GET", "/" }, { "GET", "/a" }, { "GET", "/a/" }, { "GET", "/a/b" },
                              { "GET", "//x" }, { "GET", "/b c/\xc3\xbc" }, { "GET", "/d%2Fe" });
    is(which(r, "GET", "/"), 0);
    is(which(r, "GET", "/a"), 1);
    is(which(r, "GET", "/a/"), 2);
    is(which(r, "GET", "/a/b"), 3);
    is(which(r, "GET", "/%61/%62"), 3);
    is(which(r, "GET", "/x/../a"), 1);
    is(which(r, "GET", "//x"), 4);
    is(which(r, "GET", "/b%20c/%C3%BC"), 5);
    is(which(r, "GET", "/d%2fe"), 6);
    is(which(r, "GET", "/d/e"), -404);
    is(which(r, "GET", "/A"), -404);
    is(which(r, "GET", "/a/b/"), -404);
    is(which(r, "GET", "//"), -404);
    is(which(r, "GET", "/ab"), -404);
    router_free(r);
}

TEST(literal_beats_param_beats_rest)
{
    struct router *r =
        ROUTER({ "GET", "/u/me" }, { "GET", "/u/:id" }, { "GET", "/u/*rest" }, { "GET", "/*all" });
    is(which(r, "GET", "/u/me"), 0);
    is(which(r, "GET", "/u/you"), 1);
    is(which(r, "GET", "/u/you/too"), 2);
    is(which(r, "GET", "/u/"), 2);
    is(which(r, "GET", "/u"), 3);
    is(which(r, "GET", "/"), 3);
    is(which(r, "GET", "//"), 3);
    router_free(r);
}

TEST(a_branch_that_leads_nowhere_is_left)
{
    struct router *r = ROUTER({ "GET", "/a/:x/c" }, { "GET", "/a/b/d" }, { "GET", "/a/b/:y/e" },
                              { "GET", "/:p/b/c/e/f" });
    is(which(r, "GET", "/a/b/c"), 0);
    is(which(r, "GET", "/a/b/d"), 1);
    is(which(r, "GET", "/a/b/c/e"), 2);
    is(which(r, "GET", "/a/b/c/e/f"), 3);
    is(which(r, "GET", "/a/b"), -404);
    is(which(r, "GET", "/a//c"), -404); /* a parameter is not empty */
    router_free(r);
}

TEST(methods)
{
    struct router *r = ROUTER({ "GET", "/g" }, { "POST", "/g" }, { NULL, "/any" },
                              { "GET", "/any" }, { "GET", "/h" }, { "HEAD", "/h" },
                              { "DELETE", "/:x" }, { NULL, "/r/*rest" }, { "PUT", "/r/x" });
    is(which(r, "GET", "/g"), 0);
    is(which(r, "HEAD", "/g"), 0);
    is(which(r, "POST", "/g"), 1);
    is(which(r, "PUT", "/g"), -405);
    is(which(r, "DELETE", "/g"), 6); /* the less specific one has it */
    is(which(r, "GET", "/any"), 3);
    is(which(r, "HEAD", "/any"), 3);
    is(which(r, "POST", "/any"), 2);
    is(which(r, "DELETE", "/any"), 2);
    is(which(r, "HEAD", "/h"), 5);
    is(which(r, "GET", "/h"), 4);
    is(which(r, "GET", "/x"), -405);
    is(which(r, "GET", "/x/y"), -404);
    is(which(r, "PUT", "/r/x"), 8);
    is(which(r, "GET", "/r/x"), 7);
    is(which(r, "BREW", "/r/x"), 7);
    is(which(r, "BREW", "/g"), -405);
    is(which(r, "OPTIONS", "*"), -404);
    router_free(r);
}

static bool allow_is(const struct router *r, const char *raw, const char *want)
{
    char out[256];
    struct target t = target(raw);
    is(router_allow(r, &t, out, sizeof out), strlen(want));
    return is_str(out, want);
}

TEST(allow)
{
    struct router *r = ROUTER({ "POST", "/a" }, { "GET", "/a" }, { "DELETE", "/:x" },
                              { "PATCH", "/*rest" }, { "PUT", "/a/b" });
    allow_is(r, "/a", "GET, HEAD, POST, DELETE, PATCH");
    allow_is(r, "/b", "DELETE, PATCH");
    allow_is(r, "/a/b", "PUT, PATCH");
    allow_is(r, "*", "GET, HEAD, POST, PUT, DELETE, PATCH");
    char out[11];
    struct target t = target("/a");
    is(router_allow(r, &t, out, sizeof out), 9);
    is_str(out, "GET, HEAD");
    is(router_allow(r, &t, out, 0), 0);
    router_free(r);
    r = ROUTER({ NULL, "/a" });
    allow_is(r, "*", "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");
    allow_is(r, "/b", "");
    router_free(r);
}

TEST(parameters)
{
    struct router *r =
        ROUTER({ "GET", "/u/:id/p/:page" }, { "GET", "/f/*rest" }, { "GET", "/:a/*b" });
    ok(param_is(r, "/u/4%2F2/p/%41", "id", "4/2"));
    ok(param_is(r, "/u/4%2F2/p/%41", "page", "A"));
    ok(param_is(r, "/f/a/b%2fc//d%20/", "rest", "a/b%2Fc//d /"));
    ok(param_is(r, "/f/", "rest", ""));
    ok(param_is(r, "/f/x/..", "rest", ""));
    ok(param_is(r, "/f/x", "rest", "x"));
    ok(param_is(r, "/y/", "b", ""));
    ok(param_is(r, "/y/", "a", "y"));
    router_free(r);
}

TEST(parameters_of_a_pattern_alone)
{
    struct router_param_ref ref;
    ok(router_pattern_param("/u/:id/*rest", "id", &ref));
    is(ref.segment, 1);
    ok(!ref.rest);
    ok(router_pattern_param("/u/:id/*rest", "rest", &ref));
    is(ref.segment, 2);
    ok(ref.rest);
    ok(!router_pattern_param("/u/:id/*rest", "u", &ref));
    ok(!router_pattern_param("/u/:id/*rest", "i", &ref));
}

TEST(names_belong_to_the_route_not_to_the_shape)
{
    struct router *r = ROUTER({ "GET", "/u/:id" }, { "POST", "/u/:name" }, { "GET", "/u/:user/x" });
    ok(param_is(r, "/u/1", "id", "1"));
    ok(param_is(r, "/u/1/x", "user", "1"));
    router_free(r);
}

TEST(conflicts_name_both)
{
    struct router *r = ROUTER({ "GET", "/u/:id" }, { NULL, "/u/:id" }, { "GET", "/f/*rest" });
    struct err err;
    is(router_add(r, "GET", "/u/:name", &ends[5], &err), -1);
    ok(strstr(err.text, "/u/:name") && strstr(err.text, "/u/:id") && strstr(err.text, "GET"));
    ok(router_conflict(r) == &ends[0]);
    is(router_add(r, NULL, "/u/:name", &ends[5], &err), -1);
    ok(router_conflict(r) == &ends[1]);
    is(router_add(r, "GET", "/f/*other", &ends[5], &err), -1);
    ok(router_conflict(r) == &ends[2]);
    is(router_add(r, "GET", "bad", &ends[5], &err), -1);
    ok(!router_conflict(r));
    is(router_add(r, "POST", "/u/:name", &ends[5], &err), 0);
    ok(!router_conflict(r));
    is(which(r, "GET", "/u/1"), 0); /* what was there stays */
    router_free(r);
}

TEST(bad_routes_are_refused_in_words)
{
    static const char *const bad[][2] = {
        { "GET", "" },
        { "GET", "a" },
        { "GET", NULL },
        { "GET", "/:" },
        { "GET", "/*" },
        { "GET", "/a/*rest/b" },
        { "GET", "/:a/:a" },
        { "GET", "/:a/*a" },
        { "GET", "/:1a" },
        { "GET", "/:id.json" },
        { "GET", "/a*" },
        { "GET", "/a?b" },
        { "GET", "/a#b" },
        { "GET", "/./a" },
        { "GET", "/a/.." },
        { "GET", "/a\nb" },
        { "GET", "/a%20b" },
        { "GET", "/a%2f" },
        { "BREW", "/a" },
        { "get", "/a" },
        { "", "/a" },
        { "CONNECT", "/a" },
        { "GET", "/:a/:b/:c/:d/:e/:f/:g/:h/:i/:j/:k/:l/:m/:n/:o/:p/:q" },
    };
    struct router *r = router_new();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = { "" };
        if (!is(router_add(r, bad[i][0], bad[i][1], ends, &err), -1))
            fprintf(stderr, "# %s %s\n", bad[i][0], bad[i][1]);
        ok(strlen(err.text) > 20);
    }
    char deep[200] = "";
    for (int i = 0; i <= ROUTER_MAX_SEGMENTS; i++)
        strcat(deep, "/a");
    is(router_add(r, "GET", deep, ends, NULL), -1);
    deep[2 * ROUTER_MAX_SEGMENTS] = '\0';
    is(router_add(r, "GET", deep, ends, NULL), 0);
    ok(router_match_check("/a/*", NULL) == 0 && router_match_check("/*", NULL) == 0);
    is(router_match_check("/a*", NULL), -1);
    router_free(r);
}

/* All patterns of 12 segments "a" or ":p": a path of a's that fails only at its end could be tried
   in 4096 ways by a router without a bound; and a path of thousands of segments costs no more. */
TEST(work_is_bounded_by_the_patterns)
{
    struct router *r = router_new();
    for (unsigned bits = 0; bits < 4096; bits++) {
        char pattern[200] = "";
        for (unsigned i = 0; i < 12; i++) {
            char segment[16];
            snprintf(segment, sizeof segment, bits >> i & 1 ? "/a" : "/:p%u", i);
            strcat(pattern, segment);
        }
        strcat(pattern, "/end");
        must(router_add(r, "GET", pattern, ends, NULL) == 0);
    }
    is(which(r, "GET", "/a/a/a/a/a/a/a/a/a/a/a/a/end"), 0);
    struct target t = target("/a/a/a/a/a/a/a/a/a/a/a/a/END");
    struct router_match m;
    ok(!router_find(r, STR("GET"), HEAD_GET, &t, &m));
    is(m.visited, (1u << 13) - 1); /* each node once */
    char path[2049];
    for (unsigned i = 0; i < 2048; i += 2)
        memcpy(path + i, "/a", 2);
    path[2048] = '\0';
    t = target(path);
    ok(!router_find(r, STR("GET"), HEAD_GET, &t, &m));
    ok(m.visited <= router_nodes(r));
    router_free(r);
}

/* Thousands of literals beside each other: found by bisection, whatever the order they came in. */
TEST(many_literals)
{
    struct router *r = router_new();
    char pattern[32];
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(pattern, sizeof pattern, "/%x", i * 7919u);
        must(router_add(r, "GET", pattern, &ends[i % 16], NULL) == 0);
    }
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(pattern, sizeof pattern, "/%x", i * 7919u);
        is(which(r, "GET", pattern), i % 16);
    }
    is(which(r, "GET", "/zz"), -404);
    router_free(r);
}

static void covers(const char *match, const char *raw, bool want)
{
    struct target t = target(raw);
    if (!ok(router_pattern_matches(match, &t) == want))
        fprintf(stderr, "# %s %s\n", match, raw);
}

TEST(matches_guard_paths)
{
    covers("/admin/*", "/admin", true);
    covers("/admin/*", "/admin/", true);
    covers("/admin/*", "/admin/a/b", true);
    covers("/admin/*", "/%61dmin/a", true);
    covers("/admin/*", "/x/../admin/a", true);
    covers("/admin/*", "//admin/a", true);
    covers("/admin/*", "/admin//a", true);
    covers("/admin/*", "/administrator", false);
    covers("/admin/*", "/Admin/a", false);
    covers("/admin/*", "/a/admin/", false);
    covers("/admin/*", "/admin%2Fa", false);
    covers("/*", "/", true);
    covers("/*", "/a//b", true);
    covers("/*", "*", false);
    covers("/a", "/a", true);
    covers("/a", "/a/", false);
    covers("/a", "//a", true);
    covers("/a/b", "/a//b", true);
    covers("/u/:id", "/u/1", true);
    covers("/u/:id", "/u/", false);
    covers("/u/:id/x/*", "/u/1/x", true);
    covers("/u/:id/x/*", "/u/1/y", false);
    covers("/u/*rest", "/u", true);
}

static void cover_is(const char *match, const char *route, enum router_cover want,
                     const char *common)
{
    char out[128] = "";
    is(router_pattern_cover(match, route), want);
    bool some = router_pattern_intersect(match, route, out, sizeof out);
    is(some, want != COVER_NONE);
    if (!(some ? is_str(out, common) : true))
        fprintf(stderr, "# %s and %s\n", match, route);
}

TEST(matches_cover_routes)
{
    cover_is("/*", "/", COVER_ALL, "/");
    cover_is("/*", "/*rest", COVER_ALL, "/*rest");
    cover_is("/*", "/a/:b", COVER_ALL, "/a/:b");
    cover_is("/admin/*", "/admin", COVER_ALL, "/admin");
    cover_is("/admin/*", "/admin/x", COVER_ALL, "/admin/x");
    cover_is("/admin/*", "/admin/*rest", COVER_ALL, "/admin/*rest");
    cover_is("/admin/*", "/*rest", COVER_PART, "/admin/*");
    cover_is("/admin/*", "/:x", COVER_PART, "/admin");
    cover_is("/admin/*", "/:x/:y", COVER_PART, "/admin/:y");
    cover_is("/admin/*", "/other", COVER_NONE, "");
    cover_is("/admin/*", "/", COVER_NONE, "");
    cover_is("/a/b", "/a/*rest", COVER_PART, "/a/b");
    cover_is("/a", "/a/*rest", COVER_NONE, "");
    cover_is("/a/", "/a/*rest", COVER_PART, "/a/");
    cover_is("/a/b/*", "/a/*rest", COVER_PART, "/a/b/*");
    cover_is("/a", "/a/b", COVER_NONE, "");
    cover_is("/a/b", "/a", COVER_NONE, "");
    cover_is("/u/:id", "/u/:name", COVER_ALL, "/u/:name");
    cover_is("/u/:id", "/u/me", COVER_ALL, "/u/me");
    cover_is("/u/me", "/u/:name", COVER_PART, "/u/me");
    cover_is("/u/:id", "/u/", COVER_NONE, "");
    cover_is("/u/", "/u/:id", COVER_NONE, "");
    cover_is("/:a/x", "/y/:b", COVER_PART, "/y/x");
    char small[4];
    ok(!router_pattern_intersect("/*", "/abc", small, sizeof small));
}
