/* What a head means: tokens, method, target form, Host, framing, Connection, Expect. */
#include "tap.h"

#include "http/guard.h"
#include "http/head.h"

static char block[4096];
static struct arena arena;
static struct head_parser *parser;

static bool equal(struct str got, const char *want)
{
    if (got.ptr && str_eq(got, str_of(want)))
        return true;
    fprintf(stderr, "# got \"" STR_FMT "\", expected \"%s\"\n", STR_ARG(got), want);
    return false;
}

/* Guards and parses a head from memory of its exact length. */
static int parse(const char *text, struct head *h, struct head_verdict *v)
{
    static const struct guard_limits lim = { 65536, 8191, 8191, 1000 };
    size_t len = strlen(text);
    struct guard g;
    struct guard_verdict gv;
    if (!parser) {
        must((parser = head_parser_new()) != NULL);
        arena_init(&arena, block, sizeof block);
    }
    char *copy = malloc(len);
    memcpy(copy, text, len);
    guard_init(&g);
    must(guard_scan(&g, &lim, copy, len, &gv) == GUARD_HEAD && gv.head_len == len);
    int result = head_parse(parser, &arena, copy, len, h, v);
    free(copy); /* nothing may point into it */
    return result;
}

static struct head good(const char *text)
{
    struct head h = { 0 };
    struct head_verdict v = { 0 };
    if (!is(parse(text, &h, &v), 0))
        fprintf(stderr, "# %s\n# %u %s\n", text, v.status, v.why);
    return h;
}

static void refused(unsigned status, const char *text)
{
    struct head h = { 0 };
    struct head_verdict v = { 0 };
    if (!is(parse(text, &h, &v), -1) || !is(v.status, status) || !ok(v.why && *v.why))
        fprintf(stderr, "# %s\n# %s\n", text, v.why ? v.why : "-");
}

static void done(void)
{
    head_parser_free(parser);
    arena_reset(&arena);
    parser = NULL;
}

#define GET11  "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST11 "POST / HTTP/1.1\r\nHost: a\r\n"

TEST(tokens_are_kept)
{
    struct head h = good("GET /a?b=c HTTP/1.1\r\nHost: example.org:8080\r\nX-Empty:\r\n"
                         "x-space:   \t \r\nX-Tab:\tone\ttwo \t\r\nX-Bytes: \xff\x80\r\n\r\n");
    ok(equal(h.method, "GET"));
    is(h.method_id, HEAD_GET);
    ok(equal(h.target, "/a?b=c"));
    is(h.minor, 1);
    is(h.nheaders, 5);
    ok(equal(h.headers[0].name, "Host"));
    ok(equal(h.headers[0].value, "example.org:8080"));
    ok(equal(h.headers[1].value, ""));
    ok(equal(h.headers[2].value, ""));
    ok(equal(h.headers[3].value, "one\ttwo"));
    ok(equal(h.headers[4].value, "\xff\x80"));
    ok(equal(h.host, "example.org:8080"));
    ok(equal(head_field(&h, "X-SPACE"), ""));
    ok(equal(head_field(&h, "x-tab"), "one\ttwo"));
    ok(!head_field(&h, "x-none").ptr);
    is(h.framing, BODY_NONE);
    ok(h.keep_alive && !h.expect_continue);
    done();
}

TEST(one_parser_serves_many_heads)
{
    for (int i = 0; i < 3; i++) {
        struct head h = good("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n");
        is(h.content_length, 7);
        refused(400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n");
        h = good("GET /y HTTP/1.0\r\n\r\n");
        is(h.nheaders, 0);
        is(h.framing, BODY_NONE);
        ok(!h.keep_alive);
    }
    done();
}

/* More fields than the parser has room for at first; the longest field htparser can take. */
TEST(many_and_long_fields)
{
    char *text = malloc(32768);
    size_t len = (size_t)sprintf(text, GET11);
    for (unsigned i = 0; i < 500; i++)
        len += (size_t)sprintf(text + len, "X-%u: value %u\r\n", i, i);
    strcpy(text + len, "\r\n");
    struct head h = good(text);
    is(h.nheaders, 501);
    ok(equal(h.headers[500].name, "X-499"));
    ok(equal(h.headers[500].value, "value 499"));

    len = (size_t)sprintf(text, GET11 "X: ");
    memset(text + len, 'v', 8191 - 3);
    strcpy(text + len + 8191 - 3, "\r\n\r\n");
    h = good(text);
    is(h.headers[1].value.len, 8188);

    len = (size_t)sprintf(text, "GET /");
    memset(text + len, 'p', 8190);
    strcpy(text + len + 8190, " HTTP/1.1\r\nHost: a\r\n\r\n");
    h = good(text);
    is(h.target.len, 8191);
    free(text);
    done();
}

TEST(methods)
{
    is(good("VERSION-CONTROL / HTTP/1.1\r\nHost: a\r\n\r\n").method_id, HEAD_VERSION_CONTROL);
    is(good("PROPFIND /x?y HTTP/1.1\r\nHost: a\r\n\r\n").method_id, HEAD_PROPFIND);
    refused(501, "BREW / HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(501, "get / HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(501, "GETX / HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(501, "M-SEARCH * HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(501, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n");
    for (unsigned id = 0; id < HEAD_OTHER; id++)
        is(head_method_id(head_method_name(id)), id);
    is(head_method_id(STR("GE")), HEAD_OTHER);
    ok(!head_method_name(HEAD_OTHER).ptr);
    done();
}

TEST(target_forms)
{
    ok(equal(good("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").target, "*"));
    refused(400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(400, "GET echo HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(400, "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(400, "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(400, "GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(400, "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(400, "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(400, "GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n");
    ok(equal(good("GET /a#b?c HTTP/1.1\r\nHost: a\r\n\r\n").target, "/a#b?c")); /* target_parse */
    ok(equal(good("GET /?a?b#c HTTP/1.1\r\nHost: a\r\n\r\n").target, "/?a?b#c"));
    done();
}

TEST(the_authority_of_the_target_replaces_host)
{
    struct head h = good("GET http://b:8080/echo HTTP/1.1\r\nHost: a\r\n\r\n");
    ok(equal(h.host, "b:8080"));
    ok(equal(h.target, "http://b:8080/echo"));
    ok(equal(good("GET HTTPS://[::1] HTTP/1.1\r\nHost: a\r\n\r\n").host, "[::1]"));
    ok(equal(good("GET http://a_b?x HTTP/1.1\r\nHost: a\r\n\r\n").host, "a_b"));
    refused(400, "GET http://b/ HTTP/1.1\r\n\r\n");
    refused(400, "GET http://b/ HTTP/1.1\r\nHost: a/b\r\n\r\n");
    done();
}

TEST(host_is_there_once)
{
    refused(400, "GET / HTTP/1.1\r\n\r\n");
    refused(400, "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n");
    refused(400, "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n");
    refused(400, "GET / HTTP/1.1\r\nHost: a, b/c\r\n\r\n");
    ok(equal(good("GET / HTTP/1.1\r\nHost:\r\n\r\n").host, ""));
    ok(!good("GET / HTTP/1.0\r\n\r\n").host.ptr);
    done();
}

/* The parser remembers the last sound Host: no other may pass for it. */
TEST(a_host_after_a_sound_one)
{
    char text[200];
    for (int twice = 0; twice < 2; twice++)
        ok(equal(good("GET / HTTP/1.1\r\nHost: sound.org\r\n\r\n").host, "sound.org"));
    refused(400, "GET / HTTP/1.1\r\nHost: sound org\r\n\r\n");
    refused(400, "GET / HTTP/1.1\r\nHost: sound.org/\r\n\r\n");
    refused(400, "GET / HTTP/1.1\r\nHost: sound.or/\r\n\r\n");
    ok(equal(good("GET / HTTP/1.1\r\nHost: sound\r\n\r\n").host, "sound"));
    for (int len = 63; len <= 66; len++) /* around what it has room for */
        for (int sound = 1; sound >= 0; sound--) {
            snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: %0*d%s\r\n\r\n", len - 1, 0,
                     sound ? "a" : "/");
            if (sound)
                is(good(text).host.len, (size_t)len);
            else
                refused(400, text);
        }
    done();
}

TEST(hosts)
{
    static const char *const sound[] = { "",          "a",
                                         "a.b-c_d~e", "127.0.0.1:80",
                                         "a:",        "a:65535",
                                         "[::1]",     "[2001:db8::1]:80",
                                         "%C3%BC.de", "a!$&'()*+,;=" };
    static const char *const unsound[] = { "a b",    "a/b",       "a:b",   "a:65536",  "a@b",
                                           "a?b",    "a#b",       "[::1",  "::1",      "[::g]",
                                           "[]",     ":80",       "%zz",   "a%2",      "a:1:2",
                                           "[::1]a", "a\\b",      "\"a\"", "\xc3\xbc", "a:-1",
                                           "a:+1",   "[1.2.3.4]", "<a>" };
    for (size_t i = 0; i < sizeof sound / sizeof *sound; i++)
        if (!ok(head_host_ok(str_of(sound[i]))))
            fprintf(stderr, "# %s\n", sound[i]);
    for (size_t i = 0; i < sizeof unsound / sizeof *unsound; i++)
        if (!ok(!head_host_ok(str_of(unsound[i]))))
            fprintf(stderr, "# %s\n", unsound[i]);
}

TEST(content_length)
{
    struct head h = good(POST11 "Content-Length: 5\r\n\r\n");
    is(h.framing, BODY_LENGTH);
    is(h.content_length, 5);
    is(good(POST11 "content-length:  007 \r\n\r\n").content_length, 7);
    is(good(POST11 "Content-Length: 0\r\n\r\n").framing, BODY_NONE);
    ok(good(POST11 "Content-Length: 9223372036854775807\r\n\r\n").content_length == INT64_MAX);
    refused(400, POST11 "Content-Length: 9223372036854775808\r\n\r\n");
    refused(400, POST11 "Content-Length: 18446744073709551616\r\n\r\n");
    refused(400, POST11 "Content-Length: 18446744073709551621\r\n\r\n");
    refused(400, POST11 "Content-Length: 184467440737095516210\r\n\r\n");
    refused(400, POST11 "Content-Length: 5\r\nContent-Length: 5\r\n\r\n");
    refused(400, POST11 "Content-Length: 5\r\ncontent-length: 6\r\n\r\n");
    refused(400, POST11 "Content-Length: 5, 5\r\n\r\n");
    refused(400, POST11 "Content-Length: 5,\r\n\r\n");
    refused(400, POST11 "Content-Length: +5\r\n\r\n");
    refused(400, POST11 "Content-Length: -5\r\n\r\n");
    refused(400, POST11 "Content-Length: 0x5\r\n\r\n");
    refused(400, POST11 "Content-Length: 5 5\r\n\r\n");
    refused(400, POST11 "Content-Length: 5.0\r\n\r\n");
    refused(400, POST11 "Content-Length: \"5\"\r\n\r\n");
    refused(400, POST11 "Content-Length:\r\n\r\n");
    refused(400, POST11 "Content-Length: \t \r\n\r\n");
    done();
}

TEST(transfer_encoding)
{
    is(good(POST11 "Transfer-Encoding: chunked\r\n\r\n").framing, BODY_CHUNKED);
    is(good(POST11 "transfer-encoding:\tCHUNKED \r\n\r\n").framing, BODY_CHUNKED);
    refused(400, POST11 "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n");
    refused(400, POST11 "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n");
    refused(400, POST11 "Transfer-Encoding: gzip\r\nContent-Length: 4\r\n\r\n");
    refused(400, POST11 "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n");
    refused(400, POST11 "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n");
    refused(400, POST11 "Transfer-Encoding:\r\n\r\n");
    refused(400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    refused(501, POST11 "Transfer-Encoding: gzip, chunked\r\n\r\n");
    refused(501, POST11 "Transfer-Encoding: chunked, chunked\r\n\r\n");
    refused(501, POST11 "Transfer-Encoding: chunked, identity\r\n\r\n");
    refused(501, POST11 "Transfer-Encoding: identity\r\n\r\n");
    refused(501, POST11 "Transfer-Encoding: xchunked\r\n\r\n");
    refused(501, POST11 "Transfer-Encoding: chunked;q=1\r\n\r\n");
    refused(501, POST11 "Transfer-Encoding: \"chunked\"\r\n\r\n");
    done();
}

TEST(connection)
{
    ok(!good(GET11 "Connection: close\r\n\r\n").keep_alive);
    ok(!good(GET11 "Connection: foo, CLOSE\r\n\r\n").keep_alive);
    ok(!good(GET11 "Connection: foo\r\nConnection: close\r\nConnection: x\r\n\r\n").keep_alive);
    ok(good(GET11 "Connection: not-close\r\n\r\n").keep_alive);
    ok(!good("GET / HTTP/1.0\r\n\r\n").keep_alive);
    ok(good("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    ok(!good("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n").keep_alive);
    done();
}

TEST(expect)
{
    ok(good(POST11 "Content-Length: 5\r\nExpect: 100-Continue\r\n\r\n").expect_continue);
    ok(good(POST11 "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n").expect_continue);
    ok(!good(POST11 "Content-Length: 0\r\nExpect: 100-continue\r\n\r\n").expect_continue);
    ok(!good(GET11 "Expect: 100-continue\r\n\r\n").expect_continue);
    ok(!good("POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .expect_continue);
    refused(417, POST11 "Content-Length: 5\r\nExpect: the-unexpected\r\n\r\n");
    refused(417, POST11 "Content-Length: 5\r\nExpect: 100-continue, x\r\n\r\n");
    refused(417, POST11 "Content-Length: 5\r\nExpect:\r\n\r\n");
    struct head h;
    struct head_verdict v;
    is(parse(POST11 "Content-Length: 5\r\nExpect: x\r\n\r\n", &h, &v), -1);
    is(h.framing, BODY_LENGTH);
    ok(h.keep_alive);
    done();
}

/* What the guard would not have passed is refused, not trusted. */
TEST(unguarded_heads_are_refused)
{
    static const char *const heads[] = {
        "",
        "\r\n\r\n",
        "GET / HTTP/1.1\r\n",
        "GET /\r\n\r\n",
        "GARBAGE\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    };
    parser = head_parser_new();
    arena_init(&arena, block, sizeof block);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct head h;
        struct head_verdict v;
        if (!is(head_parse(parser, &arena, heads[i], strlen(heads[i]), &h, &v), -1))
            fprintf(stderr, "# %s\n", heads[i]);
        is(v.status, 400);
    }
    done();
}
