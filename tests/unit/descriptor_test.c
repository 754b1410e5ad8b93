/* plugin/descriptor.c and its way through the probe's pipe, plugin/probe_wire.c. */
#include "plugin/descriptor.h"
#include "plugin/probe_wire.h"
#include "so.h"

#include <dlfcn.h>

static graft_next handler(graft_req *req, void *state)
{
    (void)req, (void)state;
    return GRAFT_DONE;
}

static int init(graft_self *self, void **state)
{
    (void)self, (void)state;
    return 0;
}

static void on_finish(graft_req *req, void *state)
{
    (void)req, (void)state;
}

static const graft_route two_routes[] = { { "GET", "/a/:id", handler, 0 },
                                          { NULL, "/files/*rest", handler, GRAFT_STREAM },
                                          { 0 } };

static graft_plugin plugin(void)
{
    return (graft_plugin){ .size = sizeof(graft_plugin),
                           .needs = 0,
                           .route_size = sizeof(graft_route),
                           .flags = GRAFT_SERIAL,
                           .name = "hello",
                           .version = "1.2",
                           .summary = "Says h\xc3\xa9llo.",
                           .scratch_size = 24,
                           .init = init,
                           .routes = two_routes,
                           .on_finish = on_finish };
}

/* The refusal of `p`, or "". */
static const char *refusal(const graft_plugin *p)
{
    static struct err err;
    struct descriptor d;
    err.text[0] = '\0';
    if (descriptor_copy(p, sizeof *p, &d, &err) == 0)
        descriptor_fini(&d);
    return err.text;
}

static const char *route_refusal(const char *method, const char *pattern, graft_handler *h,
                                 unsigned flags)
{
    graft_route routes[] = { { method, pattern, h, flags }, { 0 } };
    graft_plugin p = plugin();
    p.routes = routes;
    return refusal(&p);
}

static const char *pattern_refusal(const char *pattern)
{
    return route_refusal("GET", pattern, handler, 0);
}

static bool says(const char *text, const char *part)
{
    bool found = strstr(text, part) != NULL;
    if (!found)
        fprintf(stderr, "# \"%s\" does not say \"%s\"\n", text, part);
    return found;
}

TEST(copies_everything_and_points_to_nothing)
{
    graft_plugin p = plugin();
    char name[] = "hello";
    p.name = name;
    struct descriptor d;
    struct err err = { "" };
    must(descriptor_copy(&p, sizeof p, &d, &err) == 0);
    name[0] = 'X';
    is_str(d.name, "hello");
    is_str(d.version, "1.2");
    is_str(d.summary, "Says h\xc3\xa9llo.");
    is(d.size, sizeof p);
    is(d.flags, GRAFT_SERIAL);
    is(d.scratch_size, 24);
    is(d.callbacks, DESCRIPTOR_INIT | DESCRIPTOR_ON_FINISH);
    ok(d.init == init && d.on_finish == on_finish && d.ready == NULL);
    is(d.route_count, 2);
    is_str(d.routes[0].method, "GET");
    is_str(d.routes[0].pattern, "/a/:id");
    ok(d.routes[1].method == NULL);
    ok(d.routes[1].handler == handler);
    is(d.routes[1].flags, GRAFT_STREAM);
    ok(!descriptor_idle(&d));
    descriptor_fini(&d);
    ok(d.name == NULL);
    descriptor_fini(&d);
}

TEST(version_and_summary_may_be_left_out)
{
    graft_plugin p = { .size = sizeof p, .route_size = sizeof(graft_route), .name = "x" };
    struct descriptor d;
    must(descriptor_copy(&p, sizeof p, &d, NULL) == 0);
    is_str(d.version, "");
    is_str(d.summary, "");
    is(d.route_count, 0);
    ok(descriptor_idle(&d));
    descriptor_fini(&d);
}

TEST(refuses_a_newer_minor_with_both_numbers_and_the_cure)
{
    graft_plugin p = plugin();
    p.needs = GRAFT_MINOR + 7;
    char text[256];
    snprintf(text, sizeof text,
             "needs SDK 1.%d, this graftd offers 1.%d: rebuild with an older SDK (or "
             "-DGRAFT_NEEDS=%d) or upgrade graftd",
             GRAFT_MINOR + 7, GRAFT_MINOR, GRAFT_MINOR);
    is_str(refusal(&p), text);
}

TEST(refuses_impossible_sizes)
{
    graft_plugin p = plugin();
    p.size = 24;
    ok(says(refusal(&p), "says it has 24 bytes, the smallest contract has"));
    p.size = sizeof p + 8; /* more than the symbol has */
    ok(says(refusal(&p), "symbol table says"));
    p = plugin();
    p.route_size = 8;
    ok(says(refusal(&p), "route_size is 8"));
    p.route_size = sizeof(graft_route) + 1;
    ok(says(refusal(&p), "route_size is"));
    p.route_size = 1u << 30;
    ok(says(refusal(&p), "route_size is"));
    struct descriptor d;
    struct err err;
    is(descriptor_copy(&p, 8, &d, &err), -1);
    ok(says(err.text, "has 8 bytes"));
}

struct grown_plugin {
    graft_plugin known;
    uint64_t newer[2];
};

struct grown_route {
    graft_route known;
    uint64_t newer;
};

TEST(a_larger_descriptor_is_fine_while_what_is_unknown_is_zero)
{
    struct grown_route routes[] = { { { "GET", "/one", handler, 0 }, 0 },
                                    { { "GET", "/two", handler, 0 }, 0 },
                                    { { 0 }, 0 } };
    struct grown_plugin g = { .known = plugin() };
    struct descriptor d;
    struct err err = { "" };
    g.known.size = sizeof g;
    g.known.route_size = sizeof routes[0];
    g.known.routes = &routes[0].known;
    is(descriptor_copy(&g, sizeof g, &d, &err), 0);
    is(d.route_count, 2);
    is_str(d.routes[1].pattern, "/two");
    descriptor_fini(&d);

    routes[1].newer = 1;
    is(descriptor_copy(&g, sizeof g, &d, &err), -1);
    ok(says(err.text, "route 2 has "));
    routes[1].newer = 0;
    g.newer[1] = 1;
    is(descriptor_copy(&g, sizeof g, &d, &err), -1);
    ok(says(err.text, "and the rest is used: rebuild with an older SDK or upgrade graftd"));
}

TEST(names)
{
    static const char *const good[] = { "a", "hello", "a-1", "x9-", NULL };
    static const char *const bad[] = {
        "",    "A",        "9a",        "-a",   "a_b", "a b",  "a/b",
        "a\n", "Bad Name", "h\xc3\xa9", "../x", "a.b", "\xff", NULL
    };
    graft_plugin p = plugin();
    for (int i = 0; good[i] != NULL; i++) {
        p.name = good[i];
        is_str(refusal(&p), "");
    }
    for (int i = 0; bad[i] != NULL; i++) {
        p.name = bad[i];
        ok(says(refusal(&p), "bad name \""));
        ok(strchr(refusal(&p), '\n') == NULL);
    }
    char longest[80];
    memset(longest, 'a', sizeof longest);
    p.name = longest;
    longest[64] = '\0';
    is_str(refusal(&p), "");
    longest[64] = 'a';
    longest[65] = '\0';
    ok(says(refusal(&p), "at most 64"));
    p.name = NULL;
    ok(says(refusal(&p), "no name"));
}

TEST(texts_are_for_people)
{
    graft_plugin p = plugin();
    static const char *const bad[] = {
        "a\nb", "\x1b[31m", "\xff", "\xc0\x80", "\xed\xa0\x80", "\xc3", "\xf4\x90\x80\x80", NULL
    };
    for (int i = 0; bad[i] != NULL; i++) {
        p.version = bad[i];
        ok(says(refusal(&p), "bad version"));
        p.version = NULL;
        p.summary = bad[i];
        ok(says(refusal(&p), "bad summary"));
        p.summary = NULL;
    }
    p.summary = "\xe2\x82\xac \xf0\x9f\x8c\xb1";
    is_str(refusal(&p), "");
}

TEST(patterns)
{
    static const char *const good[] = {
        "/",    "/a",   "/a/",  "/a/:id",       "/:a/:b",  "/*rest", "/files/*rest",
        "/a:b", "/%2F", "/a b", "/caf\xc3\xa9", "/:_x9/c", "/...",   "/a/:id/",
        NULL
    };
    static const char *const bad[] = { "a",      "",           "//",       "/a//b", "/:",   "/*",
                                       "/:a/:a", "/:a/*a",     "/*r/more", "/*r/",  "/:9",  "/a*b",
                                       "/.",     "/a/../b",    "/a\n",     "/\x7f", "/a?b", "/a#b",
                                       "/\xff",  "/sin/:a/:a", "/:a:b",    "/%41",  NULL };
    for (int i = 0; good[i] != NULL; i++)
        is_str(pattern_refusal(good[i]), "");
    for (int i = 0; bad[i] != NULL; i++)
        ok(says(pattern_refusal(bad[i]), "route 1: pattern "));
    ok(says(pattern_refusal("/:a/:a"),
            "route 1: pattern \"/:a/:a\": two parameters are named \"a\": rename one"));
    ok(says(pattern_refusal("/sin/*rest/more"), "\"*rest\" must be the last segment"));
    ok(says(pattern_refusal("sin"), "expected it to begin with '/'"));
    char longest[DESCRIPTOR_PATTERN_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[0] = '/';
    longest[DESCRIPTOR_PATTERN_MAX] = '\0';
    is_str(pattern_refusal(longest), "");
    longest[DESCRIPTOR_PATTERN_MAX] = 'a';
    longest[DESCRIPTOR_PATTERN_MAX + 1] = '\0';
    ok(says(pattern_refusal(longest), "more than 1024 bytes"));
}

TEST(routes)
{
    ok(says(route_refusal("GE T", "/a", handler, 0), "bad method \"GE T\""));
    ok(says(route_refusal("", "/a", handler, 0), "bad method"));
    ok(says(route_refusal("GET", "/a", handler, 64), "unknown flags 0x40"));
    ok(says(route_refusal("GET", "/a", NULL, 0), "route 1 (/a) has no handler"));
    ok(says(route_refusal("GET", NULL, handler, 0), "route 1 has no pattern"));
    is_str(route_refusal("M-SEARCH", "/a", handler, GRAFT_STREAM), "");
    is_str(route_refusal(NULL, "/a", handler, 0), "");
}

TEST(flags_and_scratch)
{
    graft_plugin p = plugin();
    p.flags = GRAFT_SERIAL | GRAFT_NEED_BODY;
    is_str(refusal(&p), "");
    p.flags = 1u << 20;
    ok(says(refusal(&p), "unknown flags 0x100000"));
    p = plugin();
    p.scratch_size = SIZE_MAX;
    ok(says(refusal(&p), "scratch_size is"));
}

TEST(a_table_of_routes_must_end)
{
    graft_route *many = calloc(DESCRIPTOR_ROUTES_MAX + 2, sizeof *many);
    must(many != NULL);
    for (int i = 0; i < DESCRIPTOR_ROUTES_MAX + 1; i++)
        many[i] = (graft_route){ "GET", "/a", handler, 0 };
    graft_plugin p = plugin();
    p.routes = many;
    ok(says(refusal(&p), "more than 4096 routes"));
    memset(&many[DESCRIPTOR_ROUTES_MAX], 0, sizeof *many);
    is_str(refusal(&p), "");
    free(many);
}

static void encode(struct buf *out)
{
    graft_plugin p = plugin();
    struct descriptor d;
    must(descriptor_copy(&p, sizeof p, &d, NULL) == 0);
    must(descriptor_encode(&d, out) == 0);
    descriptor_fini(&d);
}

TEST(survives_the_wire)
{
    struct buf out = { 0 };
    struct descriptor d;
    struct err err = { "" };
    encode(&out);
    is(descriptor_decode(out.data, out.len, &d, &err), 0);
    is_str(d.name, "hello");
    is_str(d.routes[0].method, "GET");
    ok(d.routes[1].method == NULL);
    is_str(d.routes[1].pattern, "/files/*rest");
    is(d.routes[1].flags, GRAFT_STREAM);
    is(d.callbacks, DESCRIPTOR_INIT | DESCRIPTOR_ON_FINISH);
    ok(d.init == NULL && d.routes[0].handler == NULL);
    is(d.scratch_size, 24);
    descriptor_fini(&d);
    buf_fini(&out);
}

TEST(a_damaged_wire_is_refused_and_leaks_nothing)
{
    struct buf out = { 0 };
    struct descriptor d;
    struct err err = { "" };
    encode(&out);
    for (size_t len = 0; len < out.len; len++) {
        char *exact = malloc(len > 0 ? len : 1); /* its end is where a read past it shows */
        must(exact != NULL);
        memcpy(exact, out.data, len);
        is(descriptor_decode(exact, len, &d, &err), -1);
        free(exact);
    }
    for (size_t i = 0; i < out.len * 8; i++) {
        out.data[i / 8] = (char)(out.data[i / 8] ^ (1 << i % 8));
        if (descriptor_decode(out.data, out.len, &d, &err) == 0)
            descriptor_fini(&d);
        out.data[i / 8] = (char)(out.data[i / 8] ^ (1 << i % 8));
    }
    must(buf_add(&out, "x", 1) == 0);
    is(descriptor_decode(out.data, out.len, &d, &err), -1);
    ok(says(err.text, "cannot be read"));
    buf_fini(&out);
}

TEST(finds_the_symbol_of_the_plugin_itself)
{
    const void *exported;
    size_t size;
    struct err err = { "" };
    const char *own = so_build("own.so", SO_PLUGIN("own"), "");
    void *dl = dlopen(own, RTLD_NOW | RTLD_LOCAL);
    must(dl != NULL);
    is(descriptor_find(dl, &exported, &size, &err), 0);
    is(size, sizeof(graft_plugin));
    struct descriptor d;
    is(descriptor_copy(exported, size, &d, &err), 0);
    is_str(d.name, "own");
    descriptor_fini(&d);
    dlclose(dl);

    char flags[512];
    snprintf(flags, sizeof flags, "-Wl,--no-as-needed -Wl,-rpath,'%s' '%s'", so_folder(), own);
    dl = dlopen(so_build("borrows.so", "int nothing;", flags), RTLD_NOW | RTLD_LOCAL);
    must(dl != NULL);
    is(descriptor_find(dl, &exported, &size, &err), -1);
    ok(says(err.text, "belongs to its dependency"));
    dlclose(dl);
    dl = dlopen(so_build("none.so", "int nothing;", ""), RTLD_NOW | RTLD_LOCAL);
    must(dl != NULL);
    is(descriptor_find(dl, &exported, &size, &err), -1);
    ok(says(err.text, "no symbol graft_plugin_v1"));
    dlclose(dl);
}
