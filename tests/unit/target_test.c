/* Paths, segments and queries. */
#include "tap.h"

#include "http/target.h"

static char block[65536];
static struct arena arena;

static bool equal(struct str got, const char *want)
{
    if (want == NULL ? got.ptr == NULL : got.ptr && str_eq(got, str_of(want)))
        return true;
    fprintf(stderr, "# got %s\"" STR_FMT "\", expected \"%s\"\n", got.ptr ? "" : "absent ",
            STR_ARG(got), want ? want : "(absent)");
    return false;
}

static int parse(const char *raw, struct target *t, struct head_verdict *v)
{
    arena_init(&arena, block, sizeof block);
    *v = (struct head_verdict){ 0 };
    return target_parse(&arena, str_of(raw), t, v);
}

/* The path, and its decoded segments with '|' between. */
static void becomes(const char *raw, const char *path, const char *segments)
{
    struct target t;
    struct head_verdict v;
    char joined[1024] = "";
    size_t len = 0;
    if (!is(parse(raw, &t, &v), 0)) {
        fprintf(stderr, "# %s: %s\n", raw, v.why);
        return;
    }
    for (unsigned i = 0; i < t.nsegments; i++)
        len += (size_t)snprintf(joined + len, sizeof joined - len, "%s" STR_FMT, i ? "|" : "",
                                STR_ARG(t.segments[i].decoded));
    if (!ok(equal(t.path, path)) || !is_str(joined, segments))
        fprintf(stderr, "# %s\n", raw);
    ok(!t.asterisk);
}

static void refused(unsigned status, const char *raw)
{
    struct target t;
    struct head_verdict v;
    if (!is(parse(raw, &t, &v), -1) || !is(v.status, status))
        fprintf(stderr, "# %s\n", raw);
}

TEST(plain_paths)
{
    becomes("/", "/", "");
    becomes("/a", "/a", "a");
    becomes("/a/b", "/a/b", "a|b");
    becomes("/a/", "/a/", "a|");
    becomes("//", "//", "|");
    becomes("//a//b", "//a//b", "|a||b");
    becomes("/.a/b./...", "/.a/b./...", ".a|b.|...");
}

TEST(plain_paths_are_not_copied)
{
    static const char *const raw[] = { "/", "/a/b//c/", "/.well-known/x..y/..z/...", "/a?%zz/../" };
    for (size_t i = 0; i < sizeof raw / sizeof *raw; i++) {
        struct target t;
        struct head_verdict v;
        is(parse(raw[i], &t, &v), 0);
        ok(t.path.ptr == raw[i]);
        ok(t.segments[0].decoded.ptr == raw[i] + 1);
    }
}

TEST(escapes_are_decoded_after_the_split)
{
    becomes("/%61/b%20c", "/a/b c", "a|b c");
    becomes("/a%2Fb/c%2fd", "/a%2Fb/c%2Fd", "a%2Fb|c%2Fd");
    becomes("/%25", "/%", "%");
    becomes("/%252F", "/%2F", "%2F");
    becomes("/%C3%BC%ff", "/\xc3\xbc\xff", "\xc3\xbc\xff");
    becomes("/a%3Fb%23c", "/a?b#c", "a?b#c");
    refused(400, "/ec%zzho");
    refused(400, "/%");
    refused(400, "/%4");
    refused(400, "/%4/1");
    refused(400, "/%%41");
    refused(400, "/%+1");
    refused(400, "/a/%00");
    refused(400, "/a%00b/c");
}

TEST(dot_segments_are_removed)
{
    becomes("/a/./b", "/a/b", "a|b");
    becomes("/a/../b", "/b", "b");
    becomes("/a/..", "/", "");
    becomes("/a/.", "/a/", "a|");
    becomes("/a/b/..", "/a/", "a|");
    becomes("/.", "/", "");
    becomes("/./", "/", "");
    becomes("/a/b/../../c", "/c", "c");
    becomes("/a//../b", "/a/b", "a|b");
    becomes("/a/%2e%2E/b", "/b", "b");
    becomes("/a/%2e/b", "/a/b", "a|b");
    becomes("/%61/../%62/.%2e/%63", "/c", "c");
    becomes("/a/..?b/..", "/", "");
    becomes("/x/..%2f..", "/x/..%2F..", "x|..%2F..");
}

TEST(nothing_climbs_above_the_root)
{
    refused(400, "/..");
    refused(400, "/../");
    refused(400, "/../../etc/passwd");
    refused(400, "/%2e%2e/%2e%2e/etc/passwd");
    refused(400, "/a/../../b");
    refused(400, "/./..");
}

TEST(segments_keep_what_was_sent)
{
    struct target t;
    struct head_verdict v;
    is(parse("/x/../a%2Fb/%63", &t, &v), 0);
    is(t.nsegments, 2);
    ok(equal(t.segments[0].raw, "a%2Fb"));
    ok(equal(t.segments[1].raw, "%63"));
    ok(equal(target_decode_all(&arena, t.segments[0].raw), "a/b"));
    ok(equal(target_decode_all(&arena, STR("plain")), "plain"));
    ok(equal(target_decode_all(&arena, STR("")), ""));
    ok(equal(target_decode_all(&arena, STR("%zz+%4")), "%zz+%4"));
}

TEST(queries_stand_apart)
{
    static const struct {
        const char *raw, *path, *query;
    } cases[] = {
        { "/a", "/a", NULL },        { "/a?", "/a", "" },
        { "/a?b=c", "/a", "b=c" },   { "/a?b/../c?d", "/a", "b/../c?d" },
        { "/%61?%61", "/a", "%61" }, { "http://h?q", "/", "q" },
        { "http://h/?q", "/", "q" }, { "/?", "/", "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct target t;
        struct head_verdict v;
        is(parse(cases[i].raw, &t, &v), 0);
        ok(equal(t.path, cases[i].path));
        ok(equal(t.query, cases[i].query));
    }
    refused(400, "/a#b");
    refused(400, "/a?b#c");
    refused(400, "/#?");
    refused(400, "/%41#");
}

TEST(other_forms)
{
    struct target t;
    struct head_verdict v;
    becomes("http://a/echo", "/echo", "echo");
    becomes("HTTPS://a:80/x/../y", "/y", "y");
    becomes("http://a", "/", "");
    refused(400, "ftp://a/");
    refused(400, "a/b");
    refused(400, "");
    is(parse("*", &t, &v), 0);
    ok(t.asterisk);
    is(t.nsegments, 0);
}

TEST(segments_are_bounded)
{
    char raw[2048];
    struct target t;
    struct head_verdict v;
    memset(raw, '/', sizeof raw);
    raw[TARGET_MAX_SEGMENTS] = '\0';
    is(parse(raw, &t, &v), 0);
    is(t.nsegments, TARGET_MAX_SEGMENTS);
    raw[TARGET_MAX_SEGMENTS] = '/';
    raw[TARGET_MAX_SEGMENTS + 1] = '\0';
    refused(414, raw);
}

static struct str query(const char *q, const char *name)
{
    arena_init(&arena, block, sizeof block);
    return target_query_get(&arena, str_of(q), name);
}

TEST(query_fields)
{
    ok(equal(query("a=1&b=2", "b"), "2"));
    ok(equal(query("a=1&a=2", "a"), "1"));
    ok(equal(query("a=1", "b"), NULL));
    ok(equal(query("", "a"), NULL));
    ok(equal(query("a", "a"), ""));
    ok(equal(query("a=", "a"), ""));
    ok(equal(query("&&a=1&", "a"), "1"));
    ok(equal(query("aa=1&a=2", "a"), "2"));
    ok(equal(query("a=b=c", "a"), "b=c"));
    ok(equal(query("a=x+y%20z%2B", "a"), "x y z+"));
    ok(equal(query("%61+b=1", "a b"), "1"));
    ok(equal(query("a=%zz%4", "a"), "%zz%4"));
    ok(equal(query("a%3D=1", "a="), "1"));
    ok(equal(query("=1", "a"), NULL));
    ok(equal(query("=1", ""), "1"));
    ok(equal(query("&", ""), NULL));
    is(query("a=%00b", "a").len, 2);
    ok(equal(query("a%00=1", "a"), NULL));
}
