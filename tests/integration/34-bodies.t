#!/usr/bin/env python3
# Request bodies: buffered, streamed, paused, late, broken
import os, re, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

QUICK = {"drain": {"idle_ms": 20}}
PIECES = [os.urandom(n) for n in (1, 10, 4095, 4096, 4097, 65536, 70000, 300000)]


def server(*plugins, **config):
    return Server(list(plugins), config={**QUICK, **config}, workers=1)


def up(answer):
    return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", answer.text)}


@case("buffered")
def _():
    s = server("echo", "self_info", limits={"body_bytes": 400000})
    with s.connect() as c:
        for piece in PIECES:
            is_(c.request("POST", "/echo", body=piece).body == piece, True, f"Content-Length {len(piece)}")
            answer = c.request("POST", "/echo", {"Transfer-Encoding": "chunked"},
                               chunked(piece[:len(piece) // 2], piece[len(piece) // 2:]))
            is_(answer.body == piece, True, f"chunked {len(piece)}")
        info = c.request("GET", "/info").json()
        is_((info["body"], info["body_len"]), ("", 0), "graft_body is {\"\",0} when it is empty, not absent")
        info = c.request("POST", "/info", body=b"").json()
        is_(info["body"], "", "also with Content-Length: 0")
        info = c.request("POST", "/info", {"Transfer-Encoding": "chunked"}, b"0\r\n\r\n").json()
        is_(info["body"], "", "also chunked")
        info = c.request("POST", "/info/up", body=b"abc").json()
        is_(info["body"], None, "absent for GRAFT_STREAM")
    with s.connect() as c:
        body = PIECES[4]
        c.send(request_bytes("POST", "/echo", {"Content-Length": str(len(body))}), *[body[i:i + 500] for i in range(0, len(body), 500)],
               pause=0.002)
        is_(c.response().body == body, True, "in many pieces")
    is_(s.post("/echo", b"x" * 400000).status, 200, "limits.body_bytes")
    is_(s.post("/echo", b"x" * 400001).status, 413, "and one more")


@case("streamed")
def _():
    s = server("stream_up", limits={"body_bytes": 1000})
    with s.connect() as c:
        for piece in PIECES:
            for how in (piece, None):
                if how is None:
                    answer = c.request("POST", "/up", {"Transfer-Encoding": "chunked"}, chunked(piece[:7], piece[7:]))
                else:
                    answer = c.request("POST", "/up", body=piece)
                found = up(answer)
                is_((found["bytes"], found["sum"], found["last"]), (len(piece), sum(piece), 1),
                    f"graft_on_body: {len(piece)} bytes{', chunked' if how is None else ''}; `last` exactly once; no limit")
        found = up(c.request("POST", "/up", body=b""))
        is_((found["bytes"], found["last"]), (0, 1), "an empty body: `last` once")
        found = up(c.request("GET", "/up"))
        is_((found["bytes"], found["last"]), (0, 1), "no body: `last` once")
        found = up(c.request("POST", "/up?late=50", body=PIECES[6]))
        is_((found["bytes"], found["sum"], found["last"]), (70000, sum(PIECES[6]), 1), "late registration gets what has arrived")
        found = up(c.request("POST", "/up?late=50", body=b""))
        is_((found["bytes"], found["last"]), (0, 1), "also of an empty body")
        c.send(request_bytes("POST", "/up", {"Content-Length": "10"}) + b"01234" , b"56789" + request_bytes("GET", "/up"), pause=0.05)
        is_([up(c.response())["bytes"], up(c.response())["bytes"]], [10, 0], "what follows a body is the next request")
    with s.connect() as c:
        c.send(request_bytes("POST", "/up?early=1", {"Content-Length": "1000000"}) + b"x" * 1000)
        answer = c.response()
        is_((answer.status, answer.header("Connection"), c.ends()), (413, "close", "eof"),
            "an early answer: sent, then the connection ends")


@case("paused")
def _():
    s = server("stream_up")
    body = os.urandom(400000)
    with s.connect(timeout=60) as c:
        found = up(c.request("POST", "/up?pause=5", body=body))
        is_((found["bytes"], found["sum"], found["last"]), (400000, sum(body), 1), "graft_body_pause, graft_body_resume")
        found = up(c.request("POST", "/up?pause=5", {"Transfer-Encoding": "chunked"},
                             chunked(*[body[i:i + 9000] for i in range(0, len(body), 9000)])))
        is_((found["bytes"], found["sum"], found["last"]), (400000, sum(body), 1), "chunked")
    before = s.anon_kb()
    with s.connect(timeout=120) as c:
        c.sock.settimeout(1)
        c.send(request_bytes("POST", "/up?pause=2000", {"Content-Length": str(1 << 30)}))
        sent = 0
        try:
            while True:
                sent += c.sock.send(body)
        except TimeoutError:
            pass
        ok(sent < 64 << 20, "a paused body is not read from the socket: the client has to wait", sent)
        if SANITIZER == "none":
            within(s.anon_kb() - before, -100000, 2048, "and fills no memory")
        mark = s.mark()
        c.abort()
    s.wait_event("plugin", 20, since=mark, msg=re.compile("stream_up aborted .* last=0"))
    ok(True, "the client left while its body was paused: on_abort")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes("POST", "/up?pause=400", {"Content-Length": "1000000"}) + b"x" * 200000)
        time.sleep(0.1)
    s.wait_event("plugin", 20, since=mark, msg=re.compile("stream_up aborted .* last=0"))
    ok(True, "with a FIN too")


@case("100 Continue")
def _():
    s = server("stream_up", "echo")
    for target in ("/echo", "/up", "/up?late=100"):
        with s.connect() as c:
            c.send(request_bytes("POST", target, {"Content-Length": "5", "Expect": "100-continue"}))
            is_(c._head()[0], 100, f"100 is sent when the body is first wanted: {target}")
            c.send(b"12345")
            answer = c.response()
            is_((answer.status, answer.interim), (200, []), "once")
        with s.connect() as c:
            c.send(request_bytes("POST", target, {"Content-Length": "5", "Expect": "100-continue"}) + b"12345")
            is_(c.response().status, 200, "a client that does not wait")
    with s.connect() as c:
        c.send(request_bytes("POST", "/up?early=1", {"Content-Length": "5", "Expect": "100-continue"}))
        answer = c.response()
        is_((answer.status, answer.interim), (413, []), "an early answer: no 100")
    with s.connect() as c:
        c.send(request_bytes("POST", "/up", {"Content-Length": "5", "Expect": "100-continue"}, version="1.0"), b"12345", pause=0.1)
        is_(c.response().interim, [], "no 100 to HTTP/1.0")


WHOLE = r"""
#include "contract.h"
/* GRAFT_STREAM behind a middleware that needs the body; and on_body from a middleware's point of view. */
struct seen { unsigned calls, lasts; size_t bytes; };
static void on_body(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct seen *s = arg;
    s->calls++;
    s->lasts += last;
    s->bytes += chunk.len;
    if (last) {
        graft_printf(req, "bytes=%zu lasts=%u\n", s->bytes, s->lasts);
        graft_done(req);
    }
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_on_body(req, on_body, graft_scratch(req));
    return GRAFT_LATER;
}
GRAFT_PLUGIN(.name = "whole", .version = "1", .scratch_size = sizeof(struct seen),
             .routes = (const graft_route[]){ { "POST", "/whole", handler, GRAFT_STREAM }, { "POST", "/plain", handler, 0 }, { 0 } })
"""


@case("on_body where the body is in already")
def _():
    s = server("order_body", compile_plugin(WHOLE, f"-I{SRCDIR}/tests/plugins"), middleware=["order-body"],
               limits={"body_bytes": 100000})
    for target in ("/whole", "/plain"):
        for size in (0, 10, 100000):
            is_(s.post(target, b"x" * size).body, f"bytes={size} lasts=1\n".encode(),
                f"{target}: behind GRAFT_NEED_BODY it gets the whole, `last` once")
    is_(s.post("/whole", b"x" * 100001).status, 413, "and then the limit holds for GRAFT_STREAM too")
    s = server(compile_plugin(WHOLE, f"-I{SRCDIR}/tests/plugins"))
    is_(s.post("/plain", b"x" * 5000).body, b"bytes=5000 lasts=1\n", "graft_on_body on a route without GRAFT_STREAM")


main()
