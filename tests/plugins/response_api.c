/*
 * GET /resp?which=…: one sentence of "The response" each; the table below names them. What cannot
 * be said in the answer itself is logged as "response WHICH …". {"file": PATH} in the configuration
 * names the file that is sent.
 */
#include "contract.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void say(graft_req *req, const char *which, int a, int b)
{
    graft_log(graft_self_of(req), GRAFT_INFO, "response %s %d %d", which, a, b);
}

static graft_next text(graft_req *req)
{
    return graft_text(req, (int)query_number(req, "code", 200), "text\n");
}

static graft_next json(graft_req *req)
{
    return graft_json(req, 200, "{\"a\":1}", 7);
}

static graft_next json_empty(graft_req *req)
{
    return graft_json(req, 200, NULL, 0);
}

static graft_next error(graft_req *req)
{
    return graft_error(req, (int)query_number(req, "code", 409), "a \"detail\"\n\x01");
}

/* Nothing set at all: 200 and an empty body. */
static graft_next nothing(graft_req *req)
{
    (void)req;
    return GRAFT_DONE;
}

/* ?code=: a status with a body, also for those that have none (204, 304). */
static graft_next status(graft_req *req)
{
    int rc = graft_status(req, (int)query_number(req, "code", 201));
    graft_printf(req, "status %d\n", rc);
    return GRAFT_DONE;
}

static graft_next headers(graft_req *req)
{
    graft_set_header(req, "X-Set", "one");
    graft_set_header(req, "x-set", "two"); /* replaces */
    graft_set_header(req, "X-Add", "one");
    graft_add_header(req, "X-Add", "two");
    graft_set_header(req, "X-Gone", "here");
    graft_remove_header(req, "x-gone");
    graft_set_header(req, "X-Empty", "");
    graft_str set = graft_response_header(req, "X-SET"),
              gone = graft_response_header(req, "X-Gone");
    graft_printf(req, "set=%.*s gone=%s\n", (int)set.len, set.ptr, gone.ptr ? "there" : "absent");
    return GRAFT_DONE;
}

/* One line "NAME: VALUE -> rc" for each field that must be refused, and for two that must not. */
static graft_next bad_headers(graft_req *req)
{
    static const char *const fields[][2] = {
        { "X-Good", "fine" },
        { "Connection", "close" },
        { "Connection", "keep-alive" },
        { "Transfer-Encoding", "chunked" },
        { "Keep-Alive", "timeout=5" },
        { "Upgrade", "h2c" },
        { "Trailer", "X-T" },
        { "", "no name" },
        { "X Space", "bad name" },
        { "X:Colon", "bad name" },
        { "X-Cr", "a\rb" },
        { "X-Lf", "a\nX-Injected: 1" },
        { "Content-Length", "five" },
        { "Content-Length", "-1" },
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        graft_printf(req, "%zu %s %d %d\n", i, fields[i][0][0] ? fields[i][0] : "-",
                     graft_set_header(req, fields[i][0], fields[i][1]),
                     graft_add_header(req, fields[i][0], fields[i][1]));
    return GRAFT_DONE;
}

static graft_next length_exact(graft_req *req)
{
    graft_set_header(req, "Content-Length", "5");
    graft_write(req, "hello", 5);
    return GRAFT_DONE;
}

/* A promise that is not kept: the connection is cut. */
static graft_next length_short(graft_req *req)
{
    graft_set_header(req, "Content-Length", "10");
    graft_write(req, "hello", 5);
    return GRAFT_DONE;
}

static graft_next length_long(graft_req *req)
{
    graft_set_header(req, "Content-Length", "5");
    int first = graft_write(req, "hello", 5);
    say(req, "length-long", first, graft_write(req, "x", 1));
    return GRAFT_DONE;
}

/* config.file from ?offset= on, ?len= bytes, between two lines with ?mid=1. */
static graft_next file(graft_req *req)
{
    const char *path = graft_config_str(graft_self_of(req), "file", "/etc/hostname");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return graft_error(req, 404, path);
    }
    uint64_t offset = query_u64(req, "offset", 0), mid = query_u64(req, "mid", 0);
    uint64_t size = (uint64_t)st.st_size, rest = offset < size ? size - offset : 0;
    graft_set_header(req, "Content-Type", "application/octet-stream");
    if (mid)
        graft_write(req, "before\n", 7);
    say(req, "file", graft_send_file(req, fd, (int64_t)offset, query_u64(req, "len", rest)), 0);
    if (mid)
        graft_write(req, "after\n", 6);
    return GRAFT_DONE;
}

/* A descriptor that is none, and one that is no file. */
static graft_next file_bad(graft_req *req)
{
    int none = graft_send_file(req, -1, 0, 10);
    int folder = graft_send_file(req, open("/", O_RDONLY | O_CLOEXEC), 0, 10);
    graft_reset_response(req);
    graft_printf(req, "file-bad %d %d\n", none, folder);
    return GRAFT_DONE;
}

static const char static_text[] = "static text, never copied\n";
static char static_block[65536];

static graft_next write_static(graft_req *req)
{
    graft_write_static(req, static_text, sizeof static_text - 1);
    graft_write(req, "a copy between\n", 15);
    graft_write_static(req, static_text, sizeof static_text - 1);
    return GRAFT_DONE;
}

/* ?bytes= in blocks that are not copied: to a slow reader the version stays pinned until the end.
 */
static graft_next static_big(graft_req *req)
{
    if (static_block[0] == 0)
        memset(static_block, 's', sizeof static_block);
    for (uint64_t left = query_u64(req, "bytes", 1 << 20); left > 0;) {
        size_t len = left < sizeof static_block ? (size_t)left : sizeof static_block;
        graft_write_static(req, static_block, len);
        left -= len;
    }
    return GRAFT_DONE;
}

/* ?bytes= in one buffered answer. */
static graft_next big(graft_req *req)
{
    char block[4096];
    memset(block, 'b', sizeof block);
    for (uint64_t left = query_u64(req, "bytes", 1 << 20); left > 0;) {
        size_t len = left < sizeof block ? (size_t)left : sizeof block;
        graft_write(req, block, len);
        left -= len;
    }
    return GRAFT_DONE;
}

static graft_next reset(graft_req *req)
{
    graft_status(req, 404);
    graft_set_header(req, "X-Before", "1");
    graft_write(req, "before\n", 7);
    int rc = graft_reset_response(req);
    graft_printf(req, "reset %d status=%d\n", rc, graft_response_status(req));
    return GRAFT_DONE;
}

static graft_next printf_long(graft_req *req)
{
    graft_printf(req, "%s %d %05.1f|", "text", -42, 3.25);
    graft_printf(req, "%*s|\n", 20000, "right");
    return GRAFT_DONE;
}

static graft_next zero(graft_req *req)
{
    int a = graft_write(req, NULL, 0), b = graft_write_static(req, NULL, 0);
    graft_printf(req, "zero %d %d\n", a, b);
    return GRAFT_DONE;
}

static graft_next replace(graft_req *req)
{
    graft_write(req, "old", 3);
    return graft_text(req, 202, "new\n");
}

static graft_next getters(graft_req *req)
{
    graft_status(req, 203);
    graft_write(req, "12345\n", 6);
    graft_str body = graft_response_body(req);
    char seen[32];
    snprintf(seen, sizeof seen, "%.*s", (int)body.len, body.ptr ? body.ptr : "");
    graft_printf(req, "status=%d body=%s bytes=%llu streaming=%d\n", graft_response_status(req),
                 seen, (unsigned long long)graft_response_bytes(req), graft_streaming(req));
    return GRAFT_DONE;
}

static graft_next close_it(graft_req *req)
{
    graft_set_header(req, "Connection", "close");
    return graft_text(req, 200, "close\n");
}

static graft_next fail(graft_req *req)
{
    graft_set_header(req, "X-Before", "1");
    graft_write(req, "not to be seen", 14);
    return graft_fail_req(req, "reason %d", 7);
}

/* How many bytes are taken before a body function answers 1. */
static graft_next send_bytes(graft_req *req)
{
    char block[1024];
    memset(block, 'x', sizeof block);
    int rc = 0, writes = 0;
    while (rc == 0 && writes < 1000000) {
        rc = graft_write(req, block, sizeof block);
        writes++;
    }
    say(req, "send-bytes", rc, writes);
    return GRAFT_DONE;
}

/* ---- After the head has left: flush now, the rest 20 ms later ---- */

static void late_header_then(graft_req *req, void *arg)
{
    (void)arg;
    int set = graft_set_header(req, "X-Late", "1"), status_rc = graft_status(req, 404);
    int add = graft_add_header(req, "X-Late", "1"), reset_rc = graft_reset_response(req);
    graft_printf(req, "late set=%d add=%d status=%d reset=%d streaming=%d\n", set, add, status_rc,
                 reset_rc, graft_streaming(req));
    graft_done(req);
}

static void replace_late_then(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 404, "new\n");
    graft_done(req);
}

static void done_then(graft_req *req, void *arg)
{
    (void)arg;
    graft_done(req);
}

static graft_next flush_then(graft_req *req, void (*then)(graft_req *, void *))
{
    graft_write(req, "old\n", 4);
    graft_flush(req);
    return graft_after(req, 20, then, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static graft_next late_header(graft_req *req)
{
    return flush_then(req, late_header_then);
}

static graft_next replace_late(graft_req *req)
{
    return flush_then(req, replace_late_then);
}

static graft_next flush_length(graft_req *req)
{
    graft_set_header(req, "Content-Length", "4");
    return flush_then(req, done_then);
}

static graft_next flush_length_short(graft_req *req)
{
    graft_set_header(req, "Content-Length", "10");
    return flush_then(req, done_then);
}

static graft_next flush_done(graft_req *req)
{
    graft_write(req, "flushed ", 8);
    graft_flush(req);
    graft_write(req, "and done\n", 9);
    return GRAFT_DONE;
}

static const struct {
    const char *name;
    graft_next (*fn)(graft_req *req);
} cases[] = {
    { "text", text },                 /* ?code= */
    { "json", json },                 /* {"a":1} */
    { "json-empty", json_empty },     /* NULL, 0 */
    { "error", error },               /* ?code=, problem+json, a detail that needs escaping */
    { "nothing", nothing },           /* 200, no body */
    { "status", status },             /* ?code=, with a body */
    { "headers", headers },           /* X-Set: two, X-Add: one + two, no X-Gone, X-Empty: */
    { "bad-headers", bad_headers },   /* which fields are refused */
    { "length-exact", length_exact }, /* Content-Length: 5, hello */
    { "length-short", length_short }, /* promised 10, wrote 5 */
    { "length-long", length_long },   /* promised 5, a 6th refused */
    { "file", file },                 /* ?offset= ?len= ?mid=1 */
    { "file-bad", file_bad },         /* descriptors that cannot be sent */
    { "static", write_static },       /* static, copy, static */
    { "static-big", static_big },     /* ?bytes= */
    { "big", big },                   /* ?bytes= */
    { "reset", reset },               /* reset 0 status=200 */
    { "printf", printf_long },        /* longer than any buffer */
    { "zero", zero },                 /* lengths of 0 */
    { "replace", replace },           /* 202 new */
    { "getters", getters },           /* what has been set so far */
    { "close", close_it },            /* Connection: close */
    { "fail", fail },                 /* 500, reason in the log */
    { "send-bytes", send_bytes },     /* log: response send-bytes 1 WRITES (of 1 KiB) */
    { "late-header", late_header },   /* after the head: all -1 */
    { "replace-late", replace_late }, /* old + new, 200 */
    { "flush-length", flush_length }, /* streamed with a Content-Length */
    { "flush-length-short", flush_length_short }, /* cut */
    { "flush-done", flush_done },                 /* flush in a handler that returns GRAFT_DONE */
};

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_str which = graft_query(req, "which");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (str_is(which, cases[i].name))
            return cases[i].fn(req);
    return graft_error(req, 404, "no such case");
}

GRAFT_PLUGIN(
    .name    = "response-api",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/resp", handler, 0 }, { 0 } },
)
