#!/usr/bin/env python3
# The request path: nobody is kept waiting for ever, nobody keeps others waiting, nothing grows
import os, re, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from email.utils import parsedate_to_datetime
from grafttest import *

QUICK = {"drain": {"idle_ms": 20}}

# GET /endless: a stream that goes on while on_writable says so. /late?: answered by a timer after 2.5 s.
# /never: LATER, and done long after the server has answered. /fields: one field set 1000 times; /many: 1000.
# /early: a stream route that is done when it has seen ?n= bytes of its body. /small: a few bytes.
HANDLERS = compile_plugin(r"""
#include <graft/graft.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char block[65536];

static void go_on(graft_req *req, void *arg)
{
    (void)arg;
    if (graft_gone(req)) {
        graft_log(graft_self_of(req), GRAFT_INFO, "endless ends");
        graft_done(req);
        return;
    }
    while (graft_write(req, block, sizeof block) == 0)
        ;
}

static graft_next endless(graft_req *req, void *state)
{
    (void)state;
    memset(block, 'x', sizeof block);
    graft_on_writable(req, go_on, NULL);
    go_on(req, NULL);
    return GRAFT_LATER;
}

static void answer(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "late\n");
    graft_done(req);
}

static graft_next late(graft_req *req, void *state)
{
    (void)state;
    return graft_after(req, 2500, answer, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static void aborted(graft_req *req, void *arg)
{
    (void)arg;
    graft_done(req);
}

static graft_next never(graft_req *req, void *state)
{
    (void)state;
    graft_on_abort(req, aborted, NULL);
    return GRAFT_LATER;
}

static graft_next fields(graft_req *req, void *state)
{
    (void)state;
    int bad = 0;
    graft_set_header(req, "X-First", "1");
    for (int i = 0; i < 1000; i++) {
        bad += graft_set_header(req, "X-Again", i % 2 ? "odd" : "even") != 0;
        bad += graft_add_header(req, "X-Gone", "1") != 0;
        bad += graft_remove_header(req, "X-Gone") != 0;
    }
    graft_text(req, 200, "");
    graft_printf(req, "%d\n", bad);
    return GRAFT_DONE;
}

static graft_next many(graft_req *req, void *state)
{
    (void)state;
    int bad = 0;
    char name[32];
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "X-Many-%d", i);
        bad += graft_add_header(req, name, "v") != 0;
    }
    graft_text(req, 200, "");
    graft_printf(req, "%d\n", bad);
    return GRAFT_DONE;
}

struct early { size_t left; };

static void piece(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct early *e = arg;
    (void)last;
    e->left -= chunk.len < e->left ? chunk.len : e->left;
    if (e->left == 0) {
        graft_text(req, 200, "seen\n");
        graft_done(req);
        e->left = (size_t)-1;
    }
}

static graft_next early(graft_req *req, void *state)
{
    (void)state;
    struct early *e = graft_alloc(req, sizeof *e);
    e->left = (size_t)atoi(graft_query(req, "n").ptr);
    graft_on_body(req, piece, e);
    return GRAFT_LATER;
}

static graft_next small(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "small\n");
}

static graft_next big(graft_req *req, void *state)
{
    (void)state;
    graft_write_static(req, block, sizeof block);
    return GRAFT_DONE;
}

static const graft_route routes[] = {
    { "GET", "/endless", endless, 0 }, { "GET", "/late", late, 0 },   { "GET", "/never", never, 0 },
    { "GET", "/fields", fields, 0 },   { "GET", "/many", many, 0 },   { "POST", "/early", early, GRAFT_STREAM },
    { "GET", "/small", small, 0 },     { "GET", "/big", big, 0 },     { 0 } };

GRAFT_PLUGIN(.name = "handlers", .version = "1", .routes = routes)
""")

# Its on_response is LATER and goes on after 50 ms, unless /never?hang: never by itself.
SLOW_END = compile_plugin(r"""
#include <graft/graft.h>

static void go_on(graft_req *req, void *arg)
{
    (void)arg;
    graft_set_header(req, "X-Slow-End", "yes");
    graft_continue(req, GRAFT_NEXT);
}

static graft_next on_request(graft_req *req, void *state)
{
    (void)req, (void)state;
    return GRAFT_NEXT;
}

static void aborted(graft_req *req, void *arg)
{
    (void)arg;
    graft_continue(req, GRAFT_NEXT);
}

static graft_next on_response(graft_req *req, void *state)
{
    (void)state;
    if (graft_query(req, "hang").ptr) {
        graft_on_abort(req, aborted, NULL);
        return GRAFT_LATER;
    }
    return graft_after(req, 50, go_on, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

GRAFT_PLUGIN(.name = "slow-end", .version = "1", .on_request = on_request, .on_response = on_response)
""")


def alive(s, name):
    """Another request on the same worker is answered while the first goes on."""
    try:
        with s.connect(timeout=5) as c:
            is_(c.get("/small").body, b"small\n", name)
            return True
    except HttpError as error:
        ok(False, name, str(error))
        return False


@case("an endless stream leaves the worker to others")
def _():
    s = Server({"handlers": HANDLERS}, config=QUICK, workers=1)
    with s.connect() as c:
        c.send(request_bytes("HEAD", "/endless"))
        c.head()
        if not alive(s, "HEAD of a stream that never ends: nothing is sent, and others are served"):
            s.kill()
            return
    stop = threading.Event()
    with s.connect() as c:
        c.send(request_bytes(target="/endless"))
        c.head()

        def drink():
            while not stop.is_set() and c.sock.recv(1 << 20):
                pass
        t = threading.Thread(target=drink, daemon=True)
        t.start()
        for _ in range(5):
            if not alive(s, "a client that takes all of it at once: others are served"):
                s.kill()
                return
        stop.set()
        t.join()
    wait_for(lambda: len(s.find_events("plugin", msg="endless ends")) == 2, 10, "both streams end with their clients")


@case("an on_response that is LATER on an answer of the server's own")
def _():
    s = Server({"handlers": HANDLERS, "slow-end": SLOW_END}, workers=1,
               config={**QUICK, "middleware": ["slow-end"], "timeouts_ms": {"handler": 600}, "limits": {"body_bytes": 10}})
    is_(s.get("/small").header("X-Slow-End"), "yes", "an answer of the handler's: it is waited for")
    for what, status, kind in ((("GET", "/never", None), 504, "a 504"), (("POST", "/small", b"x" * 100), 405, "a 405"),
                               (("GET", "/nowhere", None), 404, "a 404"), (("GET", "/small", b"x" * 100), 413, "a 413")):
        method, target, body = what
        begun = time.monotonic()
        answer = s.request(method, target, body=body)
        is_((answer.status, answer.header("X-Slow-End")), (status, "yes"), f"{kind}: it is waited for as well")
        within(time.monotonic() - begun, 0, secs(5), f"{kind}: and no longer than it takes")
    answer = s.request("GET", "/never?hang=1")
    is_((answer.status, answer.header("X-Slow-End")), (504, None),
        "one that never goes on, on a 504: the answer goes out without it")


@case("Date is the time of the answer")
def _():
    s = Server({"handlers": HANDLERS}, config=QUICK, workers=1)
    with s.connect() as c:
        c.get("/small")  # its Date is that of the second in which the next one begins
        answer = c.get("/late")
    within(time.time() - parsedate_to_datetime(answer.header("Date")).timestamp(), -1.5, 2, "of a LATER one, too")


@case("fields set again and again")
def _():
    s = Server({"handlers": HANDLERS}, config=QUICK, workers=1)
    answer = s.get("/fields")
    is_((answer.body, answer.header("X-Again"), answer.header("X-First"), answer.header("X-Gone")),
        (b"0\n", "odd", "1", None), "replaced and removed fields need no room")
    answer = s.get("/many")
    is_((answer.status, answer.body, len([k for k, _ in answer.headers if k.startswith("X-Many-")])),
        (200, b"0\n", 1000), "a thousand fields are a thousand fields")


@case("done at the last byte of the body")
def _():
    s = Server({"handlers": HANDLERS}, config=QUICK, workers=1)
    with s.connect() as c:
        for n in (1, 5000, 3):
            answer = c.request("POST", f"/early?n={n}", body=b"y" * n)
            is_((answer.body, answer.header("Connection")), (b"seen\n", None), f"{n} bytes: the connection is kept")


@case("a FIN behind many pipelined requests whose answers the client takes later")
def _():
    s = Server({"handlers": HANDLERS}, config=QUICK, workers=1)
    n = 600
    with s.connect(rcvbuf=4096) as c:
        one = request_bytes(target="/big", headers={"X-Fill": "f" * 400})
        c.sock.sendall(one * n)
        c.shut()
        time.sleep(0.5)
        got = 0
        try:
            for got in range(1, n + 1):
                c.response()
                c.eof = False
        except HttpError as error:
            diag(f"after {got} answers: {str(error)[:100]}")
            got -= 1
        is_(got, n, "all are answered")


@case("a client that pipelines faster than it is answered", SANITIZER == "none", "measures memory")
def _():
    s = Server({"handlers": HANDLERS}, config=QUICK, workers=1)

    def rss():
        with open(f"/proc/{s.pid}/statm") as f:
            return int(f.read().split()[1]) * 4096
    with s.connect() as c:
        is_(c.get("/small").body, b"small\n", "it serves")
        before, stop = rss(), threading.Event()
        blob = request_bytes(target="/small") * 20000

        def pour():
            try:
                while not stop.is_set():
                    c.sock.sendall(blob)
            except OSError:
                pass

        def drink():
            try:
                while not stop.is_set() and c.sock.recv(1 << 20):
                    pass
            except OSError:
                pass
        threads = [threading.Thread(target=f, daemon=True) for f in (pour, drink)]
        for t in threads:
            t.start()
        grown = 0
        for _ in range(30):
            time.sleep(0.1)
            grown = max(grown, rss() - before)
        stop.set()
        c.abort()
        within(grown, -1 << 40, 4 << 20, "what it has sent too early stays in the kernel")


BACK = compile_plugin(r"""
#include <graft/graft.h>
static char b[65536];
static void more(graft_req *r, void *a) { (void)a; graft_set_header(r, "X-More", "1"); graft_continue(r, GRAFT_NEXT); }
static graft_next on_request(graft_req *r, void *s) { (void)r,(void)s; return GRAFT_NEXT; }
static graft_next on_response(graft_req *r, void *s) { (void)s;
 graft_on_writable(r, more, NULL);
 while (graft_write(r, b, sizeof b) == 0) ;
 return GRAFT_LATER; }
static void body(graft_req *r, graft_str c, bool last, void *a) { (void)c,(void)a; if (last) graft_continue(r, GRAFT_NEXT); }
static graft_next h(graft_req *r, void *s) { (void)s; return graft_text(r, 200, "h"); }
static const graft_route routes[] = {{"GET","/h",h,0},{0}};
GRAFT_PLUGIN(.name="p", .version="1", .routes=routes, .on_request=on_request, .on_response=on_response)
""")
ASKS = compile_plugin(r"""
#include <graft/graft.h>
static void body(graft_req *r, graft_str c, bool last, void *a) { (void)c,(void)a; if (last) graft_continue(r, GRAFT_NEXT); }
static graft_next on_request(graft_req *r, void *s) { (void)s; graft_on_body(r, body, NULL); return GRAFT_LATER; }
static graft_next h(graft_req *r, void *s) { (void)s; return graft_text(r, 200, "h"); }
static const graft_route routes[] = {{"POST","/q",h,0},{0}};
GRAFT_PLUGIN(.name="q", .version="1", .routes=routes, .on_request=on_request)
""")


@case("an on_response that was told to wait is told to go on")
def _():
    s = Server({"p": BACK}, config={"middleware": ["p"], "timeouts_ms": {"handler": 20000}}, workers=1)
    answer = s.get("/h")
    is_((answer.status, answer.header("X-More")), (200, "1"), "on_writable, and its graft_continue")


@case("graft_on_body of a middleware that is LATER: the body is read for it and for the handler")
def _():
    s = Server({"q": ASKS}, config={"middleware": ["q"], "timeouts_ms": {"handler": 20000}}, workers=1)
    is_(s.request("POST", "/q", body=b"x" * 10).status, 200, "a body of known length")


main()
