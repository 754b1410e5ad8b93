#!/usr/bin/env python3
# The response: each sentence of that part of SDK.md
import os, re, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

QUICK = {"drain": {"idle_ms": 20}}


def server(*plugins, **config):
    return Server(dict(zip((os.path.basename(p).removesuffix(".so") for p in plugins), plugins)),
                  config={**QUICK, **config}, workers=1)


def resp(s, which, more="", method="GET", **options):
    return s.request(method, f"/resp?which={which}{more}", **options)


def said(s, since, what):
    """The numbers that response_api or `more` logged."""
    line = s.wait_event("plugin", since=since, msg=re.compile(f"^response {what} "))["msg"]
    return [int(n) for n in line.split()[2:]]


@case("status")
def _():
    s = server("response_api", "bad_status")
    is_(resp(s, "nothing").status, 200, "graft_status: default 200")
    is_(resp(s, "nothing").header("Content-Length"), "0", "and no body")
    for code in (200, 201, 299, 418, 499, 599):
        answer = resp(s, "status", f"&code={code}")
        is_((answer.status, answer.body), (code, b"status 0\n"), f"200..599: {code}")
    for code in (199, 100, 0, 600, 999):
        mark = s.mark()
        is_(s.get(f"/bad-status?code={code}").status, 500, f"else 500: {code}")
        is_(s.wait_event("misuse", since=mark)["plugin"], "bad-status", "and the plugin is blamed")
        s.wait_event("plugin", since=mark, msg="bad_status -1")


@case("fields")
def _():
    s = server("response_api")
    answer = resp(s, "headers")
    is_([v for k, v in answer.headers if k.lower() == "x-set"], ["two"], "graft_set_header replaces, in any case")
    is_([v for k, v in answer.headers if k.lower() == "x-add"], ["one", "two"], "graft_add_header adds")
    is_(answer.header("X-Gone"), None, "graft_remove_header")
    is_(answer.header("X-Empty"), "", "an empty value is one")
    is_(answer.body, b"set=two gone=absent\n", "graft_response_header, in any case")
    answer = resp(s, "bad-headers")
    lines = answer.text.splitlines()
    is_(lines[:2], ["0 X-Good 0 0", "1 Connection 0 0"], "a good field, and Connection: close, are taken")
    for line in lines[2:]:
        like(line, r" -1 -1$", f"refused with -1: {line}")
    is_((answer.header("Connection"), answer.header("X-Injected"), answer.header("Transfer-Encoding")),
        ("close", None, None), "nothing of the refused ones is sent")
    answer = resp(s, "close")
    is_((answer.header("Connection"), answer.body), ("close", b"close\n"), "Connection: close is said once")
    with s.connect() as c:
        c.send(request_bytes(target="/resp?which=close"))
        c.response()
        is_(c.ends(), "eof", "and done")
    is_(resp(s, "late-header").body, b"old\nlate set=-1 add=-1 status=-1 reset=-1 streaming=1\n",
        "-1 after the head has left: header functions, graft_status, graft_reset_response")


@case("bodies")
def _():
    s = server("response_api")
    answer = resp(s, "text")
    is_((answer.status, answer.body), (200, b"text\n"), "graft_text")
    like(answer.header("Content-Type"), "^text/plain", "as text/plain")
    answer = resp(s, "json")
    is_((answer.body, answer.header("Content-Type")), (b'{"a":1}', "application/json"), "graft_json")
    is_(resp(s, "json-empty").body, b"", "a length of 0 is allowed, also with NULL")
    is_(resp(s, "zero").body, b"zero 0 0\n", "and does nothing")
    answer = resp(s, "error")
    is_((answer.status, answer.header("Content-Type")), (409, "application/problem+json"), "graft_error")
    problem = answer.json()
    is_((problem["status"], problem["detail"]), (409, 'a "detail"\n\x01'), "is a problem of RFC 9457 with its detail")
    is_(resp(s, "static").body, b"static text, never copied\na copy between\nstatic text, never copied\n",
        "graft_write and graft_write_static keep their order")
    is_(resp(s, "printf").body, b"text -42 003.2|" + b" " * 19995 + b"right|\n", "graft_printf of any length")
    is_(len(resp(s, "big", "&bytes=3000000").body), 3000000, "a large body with its length")
    answer = resp(s, "replace")
    is_((answer.status, answer.body), (202, b"new\n"), "graft_text replaces what has not left")
    is_(resp(s, "replace-late").body, b"old\nnew\n", "what has left stays")
    is_(resp(s, "replace-late").status, 200, "with its status")
    answer = resp(s, "reset")
    is_((answer.status, answer.body, answer.header("X-Before")), (200, b"reset 0 status=200\n", None),
        "graft_reset_response: status 200, no headers, no body")
    is_(resp(s, "getters").body, b"12345\nstatus=203 body=12345\n bytes=0 streaming=0\n",
        "getters say what has been set so far")
    answer = resp(s, "flush-done")
    is_((answer.chunked, answer.body), (True, b"flushed and done\n"), "flush, and done in the same call")
    mark = s.mark()
    answer = resp(s, "fail")
    is_((answer.status, answer.header("X-Before"), b"not to be" in answer.body), (500, None, False),
        "GRAFT_ERROR: a plain 500")
    like(s.wait_event("request_failed", since=mark)["msg"], "reason 7", "its reason in the log")


MORE = r"""
#include "contract.h"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static void say(graft_req *req, const char *which, int a, int b)
{
    graft_log(graft_self_of(req), GRAFT_INFO, "response %s %d %d", which, a, b);
}

static int open_file(graft_req *req)
{
    return open(graft_config_str(graft_self_of(req), "file", "/etc/passwd"), O_RDONLY | O_CLOEXEC);
}

static graft_next copy(graft_req *req)
{
    char text[] = "as it was\n";
    graft_write(req, text, 10);
    memset(text, 'x', sizeof text);
    return GRAFT_DONE;
}

static graft_next promise(graft_req *req)
{
    graft_set_header(req, "Content-Length", "4");
    graft_str first = graft_response_header(req, "content-length");
    graft_set_header(req, "Content-Length", "5");
    graft_str second = graft_response_header(req, "Content-Length");
    say(req, "promise", first.len == 1 ? first.ptr[0] - '0' : -1, second.len == 1 ? second.ptr[0] - '0' : -1);
    return graft_text(req, 200, "longer than that\n");
}

static graft_next unpromise(graft_req *req)
{
    graft_set_header(req, "Content-Length", "4");
    graft_remove_header(req, "content-length");
    graft_str none = graft_response_header(req, "Content-Length");
    graft_printf(req, "removed %d\n", none.ptr == NULL);
    return GRAFT_DONE;
}

/* Each body function on its own would exceed the promise of 5. */
static graft_next too_much(graft_req *req)
{
    graft_set_header(req, "Content-Length", "5");
    graft_write(req, "hell", 4);
    say(req, "too-much", graft_write(req, "xx", 2), graft_write_static(req, "xx", 2));
    say(req, "too-much-2", graft_printf(req, "%d", 11), graft_send_file(req, open_file(req), 0, 2));
    int fits = graft_write(req, "o", 1);
    say(req, "too-much-3", fits, graft_write(req, "x", 1));
    return GRAFT_DONE;
}

static graft_next promise_late(graft_req *req)
{
    graft_write(req, "hello", 5);
    int broken = graft_set_header(req, "Content-Length", "4");
    say(req, "promise-late", broken, graft_set_header(req, "Content-Length", "5"));
    return GRAFT_DONE;
}

static void error_then(graft_req *req, void *arg)
{
    (void)arg;
    graft_write(req, "dropped", 7);
    graft_error(req, 418, "too late");
    graft_done(req);
}

static graft_next error_late(graft_req *req)
{
    graft_write(req, "old\n", 4);
    graft_flush(req);
    return graft_after(req, 30, error_then, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static graft_next file(graft_req *req)
{
    uint64_t len = query_u64(req, "len", 10);
    say(req, "file", graft_send_file(req, open_file(req), (int64_t)query_u64(req, "offset", 0), len), 0);
    if (query_number(req, "code", 0))
        graft_status(req, (int)query_number(req, "code", 0));
    graft_str body = graft_response_body(req);
    say(req, "file-body", body.ptr != NULL, (int)body.len);
    return GRAFT_DONE;
}

/* Every way to fail that a plugin can see at once; the descriptors are gone all the same. */
static graft_next file_fails(graft_req *req)
{
    int a = graft_send_file(req, open_file(req), -1, 10), b = graft_send_file(req, open_file(req), 0, UINT64_MAX);
    say(req, "file-fails", a, b);
    say(req, "file-none", graft_send_file(req, -1, 0, 10), graft_send_file(req, open_file(req), 0, 0));
    graft_send_file(req, open_file(req), 0, 10);
    graft_reset_response(req);
    graft_send_file(req, open_file(req), 0, 10);
    graft_text(req, 200, "text\n");
    return GRAFT_DONE;
}

static void file_gone_then(graft_req *req, void *arg)
{
    (void)arg;
    say(req, "file-gone", graft_gone(req), graft_send_file(req, open_file(req), 0, 10));
    graft_done(req);
}

static graft_next file_gone(graft_req *req)
{
    return graft_after(req, 300, file_gone_then, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static graft_next error(graft_req *req)
{
    graft_send_file(req, open_file(req), 0, 10);
    return graft_fail_req(req, "after a file");
}

static void stream_then(graft_req *req, void *arg)
{
    (void)arg;
    graft_printf(req, "bytes=%llu pending=%zu\n", (unsigned long long)graft_response_bytes(req), graft_pending(req));
    graft_done(req);
}

static graft_next stream(graft_req *req)
{
    if (graft_query(req, "code").ptr)
        graft_status(req, (int)query_number(req, "code", 200));
    graft_printf(req, "one\n");
    graft_flush(req);
    return graft_after(req, 30, stream_then, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static graft_next server_field(graft_req *req)
{
    graft_set_header(req, "Server", "mine");
    graft_set_header(req, "Date", "then");
    return graft_text(req, 200, "x");
}

static graft_next many(graft_req *req)
{
    int rc = 0, n = 0;
    char name[16];
    for (; n < 200 && rc == 0; n++) {
        snprintf(name, sizeof name, "X-F%d", n);
        rc = graft_set_header(req, name, "value");
    }
    graft_printf(req, "%d %d\n", n, rc);
    return GRAFT_DONE;
}

static const struct {
    const char *name;
    graft_next (*fn)(graft_req *req);
} cases[] = { { "copy", copy }, { "promise", promise }, { "too-much", too_much }, { "promise-late", promise_late },
              { "error-late", error_late }, { "file", file }, { "file-fails", file_fails }, { "file-gone", file_gone },
              { "error", error }, { "stream", stream }, { "server", server_field }, { "many", many },
              { "unpromise", unpromise } };

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_str which = graft_query(req, "which");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (str_is(which, cases[i].name))
            return cases[i].fn(req);
    return graft_error(req, 404, "no such case");
}

GRAFT_PLUGIN(.name = "more", .version = "1", .routes = (const graft_route[]){ { "GET", "/resp", handler, 0 }, { 0 } })
"""


def more(**config):
    return server(compile_plugin(MORE, f"-I{SRCDIR}/tests/plugins"), **config)


@case("what is copied, replaced, promised")
def _():
    s = more()
    is_(resp(s, "copy").body, b"as it was\n", "graft_write appends a copy")
    mark = s.mark()
    answer = resp(s, "promise")
    is_(said(s, mark, "promise"), [4, 5], "graft_response_header shows the Content-Length that was set")
    is_((answer.body, answer.header("Content-Length")), (b"longer than that\n", "17"), "graft_text replaces it too")
    is_(resp(s, "unpromise").body, b"removed 1\n", "graft_remove_header of Content-Length takes the promise back")
    mark = s.mark()
    answer = resp(s, "too-much")
    is_((answer.body, answer.header("Content-Length")), (b"hello", "5"), "Content-Length is a promise")
    is_(said(s, mark, "too-much") + said(s, mark, "too-much-2"), [-1, -1, -1, -1], "more is refused by each body function")
    is_(said(s, mark, "too-much-3"), [0, -1], "and what fits is taken")
    mark = s.mark()
    is_(resp(s, "promise-late").body, b"hello", "a promise after the writes")
    is_(said(s, mark, "promise-late"), [-1, 0], "is refused when it is broken already")
    like(resp(s, "error-late").text, r'^old\n\{.*"status":418.*"detail":"too late".*\}\s*$',
         "graft_error replaces what has not left, also after the head")
    answer = resp(s, "server")
    is_((answer.header("Server"), answer.header("Date")), ("mine", "then"), "Server and Date may be the plugin's")
    is_(resp(s, "nothing-of-it").header("Server"), "graft", "else Server is the configured one")
    is_(resp(s, "many").body, b"200 0\n", "200 fields")
    s = server("response_api")
    is_(resp(s, "length-exact").body, b"hello", "a promise that is kept")
    for which, got in (("length-short", b""), ("flush-length-short", b"old\n")):
        mark = s.mark()
        with s.connect() as c:
            c.send(request_bytes(target="/resp?which=" + which))
            end = c.ends()
            is_((end, c.data.partition(b"\r\n\r\n")[2]), ("eof", got), f"less cuts the connection: {which}")
        is_(s.wait_event("misuse", since=mark)["plugin"], "response-api", "and blames the plugin")
    answer = resp(s, "flush-length")
    is_((answer.body, answer.chunked), (b"old\n", False), "a stream with Content-Length is not chunked")


@case("files")
def _():
    folder = tempdir()
    path = os.path.join(folder, "file")
    data = os.urandom(1 << 20)
    with open(path, "wb") as f:
        f.write(data)
    s = server("response_api", plugins={"response-api": {"config": {"file": path}}})
    answer = resp(s, "file")
    is_((answer.body == data, answer.header("Content-Length")), (True, str(len(data))), "graft_send_file: the file")
    is_(resp(s, "file", "&offset=1000&len=5000").body == data[1000:6000], True, "from offset, len bytes")
    is_(resp(s, "file", "&mid=1&len=100").body == b"before\n" + data[:100] + b"after\n", True, "between other writes")
    is_(resp(s, "file", method="HEAD").header("Content-Length"), str(len(data)), "HEAD: its length")
    s = more(plugins={"more": {"config": {"file": path}}})
    mark = s.mark()
    is_(resp(s, "file", f"&len={len(data)}").body == data, True, "a file")
    is_(said(s, mark, "file"), [1, 0], "taken, but more than limits.send_bytes waits: 1")
    is_(said(s, mark, "file-body"), [0, 0], "graft_response_body is absent for files")
    mark = s.mark()
    resp(s, "file")
    is_(said(s, mark, "file"), [0, 0], "a short one: 0")
    s.get("/nowhere")
    before = s.fds_at_rest()

    def no_leak(what):
        try:
            wait_for(lambda: s.fds() == before, 5)
            ok(True, f"owns the fd, also when it fails: {what}")
        except Failed:
            ok(False, f"owns the fd, also when it fails: {what}", f"{s.fds()} descriptors, expected {before}")
    mark = s.mark()
    is_(resp(s, "file-fails").body, b"text\n", "calls that fail")
    is_(said(s, mark, "file-fails"), [-1, -1], "-1: a negative offset, a length that is none")
    is_(said(s, mark, "file-none"), [-1, 0], "-1: no descriptor; a length of 0 is allowed")
    no_leak("at once, reset, replaced")
    is_(resp(s, "error").status, 500, "GRAFT_ERROR behind a file")
    no_leak("GRAFT_ERROR")
    resp(s, "file", method="HEAD")
    no_leak("HEAD")
    resp(s, "file", "&code=204")
    no_leak("204")
    resp(s, "too-much")
    no_leak("more than was promised")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target="/resp?which=file-gone"))
        time.sleep(0.05)
    is_(said(s, mark, "file-gone"), [1, -1], "-1: the client is gone")
    no_leak("the client is gone")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target=f"/resp?which=file&offset=1000&len={len(data)}"))
        is_(c.ends(), "eof", "a file that is shorter than promised cuts the connection")
        is_(c.data.partition(b"\r\n\r\n")[2] == data[1000:], True, "after what there was")
    no_leak("a file that ends early")
    event = s.wait_event("misuse", since=mark)
    is_((event["plugin"], event["route"]), ("more", "/resp"), "and blames the plugin, also when it ends in the first send")
    like(event["what"], "the file ended before its length", "with the reason")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target=f"/resp?which=file&offset={len(data) - 5}&len=10"))
        is_(c.ends(), "eof", "five bytes of ten")
    is_(s.wait_event("misuse", since=mark)["plugin"], "more", "and blames the plugin")
    os.unlink(path)
    with open(path, "wb") as f:
        f.truncate(300 << 20)
    with s.connect(rcvbuf=4096) as c:
        c.send(request_bytes(target=f"/resp?which=file&len={300 << 20}"))
        c.fill()
        c.abort()
    no_leak("the client left in the middle")
    os.unlink(path)
    os.mkdir(path)
    with s.connect() as c:
        c.send(request_bytes(target="/resp?which=file"))
        is_(c.ends(), "eof", "a folder cannot be sent: the connection is cut")
    no_leak("a folder")


@case("HEAD, 204, 304")
def _():
    s = server("response_api", "stream_down")
    with s.connect() as c:
        for target in ("/resp?which=text", "/resp?which=big", "/resp?which=error", "/down?bytes=100000&length=1"):
            got, head = c.get(target), c.request("HEAD", target)
            is_((head.status, head.header("Content-Length"), head.body), (got.status, got.header("Content-Length"), b""),
                f"HEAD: a body is counted and not sent: {target}")
        head = c.request("HEAD", "/down?bytes=1000000")
        is_((head.status, head.header("Content-Length")), (200, None), "HEAD of a stream")
        answer = c.get("/resp?which=status&code=204")
        is_((answer.status, answer.header("Content-Length"), answer.header("Transfer-Encoding")), (204, None, None),
            "204 carries no Content-Length")
        answer = c.get("/resp?which=status&code=304")
        is_((answer.status, answer.body), (304, b""), "304: no body")
        is_(c.get("/resp?which=text").body, b"text\n", "the connection goes on behind each")
        c.send(request_bytes(target="/resp?which=status&code=204") + request_bytes("HEAD", "/resp?which=big") +
               request_bytes(target="/resp?which=status&code=304") + request_bytes(target="/resp?which=text"))
        is_([c.response(m).status for m in ("GET", "HEAD", "GET", "GET")], [204, 200, 304, 200], "also pipelined")
    s = more()
    with s.connect() as c:
        for method, code in (("HEAD", 200), ("GET", 204), ("GET", 304)):
            answer = c.request(method, f"/resp?which=stream&code={code}")
            is_((answer.status, answer.body), (code, b""), f"a stream without a body: {method} {code}")
        is_(c.get("/resp?which=stream").body, b"one\nbytes=4 pending=0\n",
            "a stream: graft_response_bytes counts what was sent, graft_pending what is not in the kernel")


@case("HTTP/1.0")
def _():
    s = server("response_api", "stream_down")
    for headers in ({}, {"Connection": "keep-alive"}):
        with s.connect() as c:
            c.send(request_bytes(target="/down?bytes=1000000", version="1.0", headers=headers))
            answer = c.response()
            is_((answer.chunked, answer.header("Content-Length"), len(answer.body), c.eof), (False, None, 1000000, True),
                f"to HTTP/1.0 a stream without length ends by closing {headers}")
            is_(answer.header("Connection"), "close", "and says so")
    with s.connect() as c:
        c.send(request_bytes(target="/down?bytes=100000&length=1", version="1.0", headers={"Connection": "keep-alive"}))
        is_(len(c.response().body), 100000, "with a length")
        c.send(request_bytes(target="/resp?which=text", version="1.0"))
        is_((c.response().body, c.ends()), (b"text\n", "eof"), "it goes on")
    with s.connect() as c:
        c.send(request_bytes(target="/down?bytes=1000000&abort=500000", version="1.0"))
        is_(c.ends(), "reset", "one that is cut ends with a reset: it must not look complete")
    with s.connect() as c:
        c.send(request_bytes(target="/down?bytes=1000000&abort=500000"))
        end = c.ends()
        ok(b"0\r\n\r\n" not in c.data[-7:] and end, "a chunked stream that is cut has no last chunk", c.data[-40:])


@case("request trailers")
def _():
    s = server("stream_up", "self_info")
    with s.connect() as c:
        c.send(request_bytes("POST", "/up", {"Transfer-Encoding": "chunked"}) +
               chunked(b"abc", b"de", trailers=b"X-One: 1\r\nX-Two: 2\r\n"))
        like(c.response().body, rb"^bytes=5 ".decode(), "trailers are read")
        c.send(request_bytes("POST", "/info", {"Transfer-Encoding": "chunked"}) + chunked(b"abc", trailers=b"X-One: 1\r\n"))
        info = c.response().json()
        is_((info["body"], [n for n, _ in info["headers"] if n.lower() == "x-one"]), ("abc", []), "and dropped")


@case("back-pressure")
def _():
    s = server("response_api", "stream_down", limits={"send_bytes": 65536})
    mark = s.mark()
    resp(s, "send-bytes")
    is_(said(s, mark, "send-bytes"), [1, 65], "1 = taken, but more than limits.send_bytes waits")
    for how in ("", "&static=1", "&length=1"):
        mark = s.mark()
        with s.connect(rcvbuf=8192) as c:
            c.send(request_bytes(target="/down?bytes=20000000" + how, headers={"Connection": "close"}))
            time.sleep(0.1)
            body = c.last_response().body
        pattern = bytes((i // 64) & 255 for i in range(16384))
        ok(len(body) == 20000000 and body == (pattern * (20000000 // 16384 + 1))[:20000000],
           f"20 MB to a slow reader, byte for byte {how}", f"{len(body)} bytes")
        line = s.wait_event("plugin", since=mark, msg=re.compile("stream_down end"))["msg"]
        found = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", line)}
        ok(found["waits"] > 0, "it waited for graft_on_writable", line)
        within(found["max_pending"], 65537, 65536 + 16384 + 64, "and graft_pending stayed where it should")


NO_FLUSH = r"""
#include "contract.h"
/* Flushes once; then writes on until 1 and waits for on_writable, without ever flushing again. */
struct s { uint64_t left; bool over; };
static char block[4096];
static void more(graft_req *req, void *arg)
{
    struct s *s = arg;
    int rc = 0;
    if (s->over)
        return;
    while (s->left > 0 && rc == 0) {
        rc = graft_write(req, block, sizeof block);
        s->left -= sizeof block;
    }
    if (s->left == 0 || rc < 0) {
        s->over = true;
        graft_done(req);
    }
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    struct s *s = graft_scratch(req);
    s->left = 3000u * sizeof block;
    graft_on_writable(req, more, s);
    if (graft_query(req, "flush").ptr) {
        for (int i = 0; i < 3000; i++)
            graft_write_static(req, block, sizeof block);
        graft_flush(req);
    } else {
        more(req, s);
    }
    return GRAFT_LATER;
}
GRAFT_PLUGIN(.name = "no-flush", .version = "1", .scratch_size = sizeof(struct s),
             .routes = (const graft_route[]){ { "GET", "/no-flush", handler, 0 }, { 0 } })
"""


@case("on_writable without flush")
def _():
    s = server(compile_plugin(NO_FLUSH, f"-I{SRCDIR}/tests/plugins"))
    for query, size in (("", 3000 * 4096), ("?flush=1", 6000 * 4096)):
        with s.connect(rcvbuf=8192, timeout=20) as c:
            c.send(request_bytes(target="/no-flush" + query, headers={"Connection": "close"}))
            is_(len(c.last_response().body), size, "who was told to wait is told to go on, also if it never flushes" + query)


@case("a stream to nobody")
def _():
    s = server("stream_down", "response_api")
    with s.connect(timeout=60) as c, s.connect() as other:
        c.send(request_bytes("HEAD", "/down?bytes=400000000&chunk=65536"))
        is_(other.get("/resp?which=text").body, b"text\n", "HEAD of a long stream does not keep its worker from others")
        is_(c.response("HEAD").status, 200, "and ends")
        is_(c.get("/resp?which=text").body, b"text\n", "the connection goes on")


@case("write_static pins the version")
def _():
    s = Server({"response_api": "response_api"}, config=QUICK, workers=2)
    size = 24 << 20
    with s.connect(rcvbuf=65536, timeout=30) as c:
        old = s.active("response-api")["id"]
        c.send(request_bytes(target=f"/resp?which=static-big&bytes={size}", headers={"Connection": "close"}))
        c.fill()
        s.install(make_unique("response_api"), "response_api")
        ok(s.reload()["ok"], "a swap while a slow reader takes what was not copied")
        time.sleep(0.3)
        versions = {v["id"]: v for v in s.ps("response-api")}
        is_((versions.get(old, {}).get("state"), versions.get(old, {}).get("in_flight")), ("cooling", 1),
            "the version stays pinned until it is sent")
        ok(s.maps(old.split(".")[0]), "and mapped")
        body = c.last_response().body
        is_((len(body), body.count(b"s")), (size, size), "every byte is what it was")
    event = s.wait_event("retired", id=old)
    is_(event["unmapped"], True, "then it is unloaded")
    is_(s.maps(old.split(".")[0]), [], "and its mapping gone")


main()
