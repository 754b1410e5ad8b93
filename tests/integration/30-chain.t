#!/usr/bin/env python3
# When the chain runs: each sentence of that part of SDK.md
import os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

CHAIN = {"middleware": ["order-a", "order-b"], "limits": {"body_bytes": 1000},
         "timeouts_ms": {"handler": 20000}, "drain": {"idle_ms": 20}}


def server(plugins=("order_a", "order_b", "order_handler"), **config):
    return Server(list(plugins), config={**CHAIN, **config}, workers=1)


def trace(s, since, last="a.on_finish", path="/order"):
    """What the order plugins logged, in short, until `last`."""
    if last:
        s.wait_event("plugin", since=since, msg=re.compile("^order " + re.escape(last)))
    return [m[1] for m in (re.match(r"order ([\w.]+)", e["msg"]) for e in s.find_events("plugin", since))
            if m]


def run(s, query="", method="GET", body=None, last="a.on_finish", target="/order", **more):
    """(answer, trace) of one request."""
    mark = s.mark()
    answer = s.request(method, target + ("?" + query if query else ""), body=body, **more)
    return answer, trace(s, mark, last)


ALL = ["a.on_request", "b.on_request", "handler", "b.on_response", "a.on_response", "b.on_finish", "a.on_finish"]
REFUSED_BY_A = ["a.on_request", "a.on_response", "a.on_finish"]
REFUSED_BY_B = ["a.on_request", "b.on_request", "b.on_response", "a.on_response", "b.on_finish", "a.on_finish"]


@case("the order of a chain")
def _():
    s = server()
    answer, seen = run(s)
    is_(seen, ALL, "on_request outermost first, the handler, on_response in reverse, on_finish last of all")
    is_(answer.header("X-Order"), "b, a", "on_response runs before the head is composed: its fields are sent")
    is_(answer.body, b"handler\n", "the handler's answer")
    is_(run(s, "h=next")[0].body, b"handler\n", "GRAFT_NEXT of a handler is the same as GRAFT_DONE")
    answer, seen = run(s, "h=later")
    is_((seen, answer.body), (ALL, b"handler\n"), "a LATER handler: the same order")
    with s.connect() as c:
        mark = s.mark()
        c.send(request_bytes(target="/order?h=later") + request_bytes(target="/order") +
               request_bytes("HEAD", "/order"))
        is_([c.response().body, c.response().body, c.response("HEAD").body], [b"handler\n", b"handler\n", b""],
            "pipelined requests each run their chain")
        wait_for(lambda: len(s.find_events("plugin", mark, msg=re.compile("a.on_finish"))) == 3, 10, "three ends")
        is_(trace(s, mark, None), ALL * 3, "one after the other")


@case("GRAFT_DONE and GRAFT_ERROR")
def _():
    s = server()
    answer, seen = run(s, "a=text")
    is_((answer.status, answer.body), (403, b"a refuses\n"), "GRAFT_DONE: the response is what has been set")
    is_(seen, REFUSED_BY_A, "the rest of the chain is skipped; on_response and on_finish for exactly those called")
    is_(answer.header("X-Order"), "a", "only its own on_response saw it")
    answer, seen = run(s, "b=text")
    is_((answer.body, seen), (b"b refuses\n", REFUSED_BY_B), "refused by the inner one: both answer in reverse")
    answer, seen = run(s, "b=done")
    is_((answer.status, answer.body), (200, b""), "GRAFT_DONE with nothing set: 200, empty")
    mark = s.mark()
    answer, seen = run(s, "b=error")
    is_((answer.status, seen), (500, REFUSED_BY_B), "GRAFT_ERROR: 500, and on_response all the same")
    event = s.wait_event("request_failed", since=mark)
    like(event["msg"], "b was asked to fail", "the reason from graft_fail_req goes to the log")
    is_(event["plugin"], "order-b", "with the plugin")
    mark = s.mark()
    answer, seen = run(s, "b=bad")
    is_((answer.status, seen), (500, REFUSED_BY_B), "a value outside the enum: 500")
    is_(s.wait_event("misuse", since=mark)["plugin"], "order-b", "with the plugin's name")
    answer, seen = run(s, "h=error")
    is_((answer.status, seen), (500, ALL), "GRAFT_ERROR of the handler: 500, surrounded")


@case("LATER in on_request")
def _():
    s = server()
    for how in ("later", "now", "post", "offload", "thread"):
        answer, seen = run(s, "a=" + how)
        is_((answer.status, answer.body, seen), (200, b"handler\n", ALL), f"GRAFT_LATER, graft_continue(NEXT): {how}")
    for how in ("later-done", "now-done"):
        answer, seen = run(s, "b=" + how)
        is_((answer.status, answer.body, seen), (200, b"", REFUSED_BY_B), f"graft_continue(GRAFT_DONE): {how}")
    answer, seen = run(s, "b=later-error")
    is_((answer.status, seen), (500, REFUSED_BY_B), "graft_continue(GRAFT_ERROR): 500")
    mark = s.mark()
    answer, seen = run(s, "a=twice")
    is_((answer.status, seen), (200, ALL), "a second graft_continue does nothing")
    event = s.wait_event("misuse", since=mark)
    is_((event["plugin"], event["route"]), ("order-a", "/order"), "but a log line")


@case("LATER and errors in on_response")
def _():
    s = server()
    for how in ("later", "now", "post", "offload", "thread", "later-done", "now-done", "done"):
        answer, seen = run(s, "b-res=" + how)
        is_((answer.status, answer.body, answer.header("X-Order"), seen), (200, b"handler\n", "b, a", ALL),
            f"NEXT and DONE mean the same in on_response, the next outer one follows: {how}")
    for how in ("error", "later-error", "bad"):
        mark = s.mark()
        answer, seen = run(s, "b-res=" + how)
        is_((answer.status, answer.header("X-Order")), (500, None), f"GRAFT_ERROR gives a plain 500: {how}")
        is_(seen, [x for x in ALL if x != "a.on_response"], "and the outer ones are not called")
        s.wait_event("request_failed", since=mark, plugin="order-b")
    answer, seen = run(s, "a-res=error")
    is_((answer.status, answer.header("X-Order"), seen), (500, None, ALL), "the same from the outermost")
    answer, seen = run(s, "b-res=text")
    is_((answer.status, answer.body, answer.header("X-Order")), (403, b"b refuses\n", "b, a"),
        "an on_response may replace the whole answer")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target="/order?b-res=abort"))
        is_((c.ends(), c.data), ("eof", b""), "graft_abort in on_response cuts the connection")
    is_(trace(s, mark), [x for x in ALL if x != "a.on_response"], "on_finish also on abort")


@case("on_response at the first flush")
def _():
    s = server()
    mark = s.mark()
    answer, seen = run(s, "h=flush&ms=30")
    is_(seen, ALL, "on_response runs once, at the first flush")
    is_((answer.chunked, answer.body, answer.header("X-Order")), (True, b"handler\nhandler\n", "b, a"),
        "its fields are in the head of the stream")
    line = s.find_events("plugin", mark, msg=re.compile(r"a\.on_response"))[0]["msg"]
    like(line, r"streaming=1", "graft_streaming() is true in it")
    answer, _ = run(s)
    line = s.find_events("plugin", mark, msg=re.compile(r"a\.on_response"))[-1]["msg"]
    like(line, r"streaming=0", "and false at the end of a plain answer")
    with s.connect() as c:
        c.send(request_bytes(target="/order?h=flush&ms=30&b-res=later&ms=30"))
        c.fill()
        is_(c.response().body, b"handler\nhandler\n", "output waits if one is LATER, and nothing of it is lost")
    answer, seen = run(s, "h=flush&ms=300&b-res=error")
    is_((answer.status, answer.header("X-Order")), (500, None), "an error in it replaces the stream by a 500")
    is_(seen.count("b.on_response"), 1, "and it runs once")


BODY_SO_FAR = r"""
#include <graft/graft.h>
static void over(graft_req *req, void *arg) { (void)arg; graft_write(req, "two", 3); graft_done(req); }
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_write(req, "one", 3);
    graft_flush(req);
    return graft_after(req, 50, over, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static graft_next on_response(graft_req *req, void *state)
{
    (void)state;
    graft_str body = graft_response_body(req);
    char text[16] = "";
    for (size_t i = 0; i < body.len && i < 15; i++)
        text[i] = body.ptr[i];
    graft_set_header(req, "X-So-Far", text);
    return GRAFT_NEXT;
}
GRAFT_PLUGIN(.name = "so-far", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/so-far", handler, 0 }, { 0 } },
             .on_response = on_response)
"""


@case("the body so far")
def _():
    s = Server({"so_far": compile_plugin(BODY_SO_FAR)}, config={"middleware": ["so-far"]}, workers=1)
    answer = s.get("/so-far")
    is_((answer.header("X-So-Far"), answer.body), ("one", b"onetwo"), "at the first flush the body so far is visible")


@case("before the body is read")
def _():
    s = server(limits={"body_bytes": 100000})
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes("POST", "/order?a=text", {"Content-Length": "8000000", "Expect": "100-continue"}))
        answer = c.response()
        is_((answer.status, answer.interim), (403, []), "on_request can refuse 8 MB unread and before 100 Continue")
        is_(trace(s, mark), REFUSED_BY_A, "nothing else runs")
        is_(answer.header("Connection"), "close", "and the connection ends")
    with s.connect() as c:
        mark = s.mark()
        c.send(request_bytes("POST", "/order", {"Content-Length": "5", "Expect": "100-continue"}))
        s.wait_event("plugin", since=mark, msg=re.compile("b.on_request"))
        is_(c._head()[0], 100, "100 is sent when the body is first wanted")
        is_(trace(s, mark, None), ["a.on_request", "b.on_request"], "the handler waits for the whole body")
        like(s.find_events("plugin", mark, msg=re.compile("b.on_request"))[0]["msg"], "body=absent",
             "middleware without GRAFT_NEED_BODY runs before the body is read")
        c.send(b"hel", b"lo")
        is_(c.response().body, b"handler\n", "the answer follows")
        is_(trace(s, mark), ALL, "the whole chain")
        like(s.find_events("plugin", mark, msg=re.compile("order handler"))[0]["msg"], "body=in/5", "with the body")
    with s.connect() as c:
        mark = s.mark()
        c.send(request_bytes("POST", "/order/up", {"Content-Length": "5", "Expect": "100-continue"}))
        answer = c.response()
        is_((answer.body, answer.interim), (b"handler\n", []),
            "a GRAFT_STREAM handler runs when the head is in; who never asks for the body sends no 100")
        like(s.wait_event("plugin", since=mark, msg=re.compile("order handler"))["msg"], "body=absent",
             "graft_body is absent for GRAFT_STREAM")
    answer, _ = run(s, method="POST", body=b"")
    is_(answer.interim, [], "no body, no 100")


@case("GRAFT_NEED_BODY")
def _():
    for place, order in (("order-a order-body order-b", ["a", "body", "b"]), ("order-body order-a", ["body", "a"])):
        s = server(("order_a", "order_b", "order_body", "order_handler"), middleware=place.split())
        for target in ("/order", "/order/up"):
            with s.connect() as c:
                mark = s.mark()
                c.send(request_bytes("POST", target, {"Content-Length": "5", "Expect": "100-continue"}))
                is_(c._head()[0], 100, f"{place}, {target}: 100 is sent: the body is wanted")
                before = order[:order.index("body")]
                is_(trace(s, mark, before[-1] + ".on_request" if before else None),
                    [n + ".on_request" for n in before], "it, and all after it, waits for the whole body")
                c.send(b"hel", b"lo")
                is_(c.response().body, b"handler\n", "then the chain goes on")
                seen = trace(s, mark, order[0] + ".on_finish")
                is_(seen, [n + ".on_request" for n in order] + ["handler"] +
                    [n + ".on_response" for n in reversed(order)] + [n + ".on_finish" for n in reversed(order)],
                    "in its order")
                for name in order[order.index("body"):]:
                    like(s.find_events("plugin", mark, msg=re.compile(name + r"\.on_request"))[0]["msg"], "body=in/5",
                         f"{name} sees the body")


@case("404, 405 and 413 are surrounded")
def _():
    s = server()
    for target, method, status, body in (("/nowhere", "GET", 404, None), ("/resp", "GET", 404, None),
                                         ("/order", "POST", 413, b"x" * 1001)):
        answer, seen = run(s, target=target, method=method, body=body)
        is_((answer.status, answer.header("X-Order")), (status, "b, a"), f"global middleware surrounds {status}")
        is_(seen, [x for x in ALL if x != "handler"], "with all its callbacks")
    with s.connect() as c:
        mark = s.mark()
        c.send(request_bytes("POST", "/order", {"Transfer-Encoding": "chunked"}) + b"3e9\r\n" + b"x" * 1001 + b"\r\n")
        answer = c.response()
        is_((answer.status, answer.header("X-Order")), (413, "b, a"), "413 of a chunked body, as soon as it is too large")
        is_(trace(s, mark), [x for x in ALL if x != "handler"], "surrounded")
    answer, seen = run(s, "b=text", target="/nowhere")
    is_((answer.status, answer.body), (403, b"b refuses\n"), "a middleware may answer in a 404's place")
    answer, seen = run(s, "b-res=text", target="/nowhere")
    is_((answer.status, answer.body), (403, b"b refuses\n"), "also in on_response")
    s = server(("order_a", "router"), middleware=["order-a"])
    answer, seen = run(s, target="/r/m", method="DELETE")
    is_((answer.status, answer.header("X-Order")), (405, "a"), "global middleware surrounds 405")
    is_(sorted((answer.header("Allow") or "").replace(" ", "").split(",")), ["GET", "HEAD", "POST", "PUT"], "Allow")
    s = server(("order_a", "order_body", "order_handler"), middleware=["order-a", "order-body"])
    answer, seen = run(s, method="POST", body=b"x" * 1001)
    is_((answer.status, seen), (413, ["a.on_request", "a.on_response", "a.on_finish"]),
        "413 before a GRAFT_NEED_BODY middleware was called: it is not called at all")


FIELDS = r"""
#include <graft/graft.h>
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    graft_set_header(req, "X-Early", "1");
    return GRAFT_NEXT;
}
GRAFT_PLUGIN(.name = "fields", .version = "1", .on_request = on_request)
"""


@case("fields of on_request on the server's own answers")
def _():
    s = Server({"fields": compile_plugin(FIELDS), "order_handler": "order_handler"},
               config={"middleware": ["fields"], "limits": {"body_bytes": 10}})
    is_(s.get("/order").header("X-Early"), "1", "a field that on_request set")
    is_(s.get("/none").header("X-Early"), "1", "is on a 404 too")
    is_(s.post("/order", b"x" * 11).header("X-Early"), "1", "and on a 413")


@case("what the guard refuses has no request")
def _():
    s = server()
    for raw, status in ((b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400), (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n", 414),
                        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000 + b"\r\n", 431),
                        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
                        (b"GET / HTTP/2.9\r\nHost: a\r\n\r\n", 505)):
        mark = s.mark()
        with s.connect() as c:
            c.send(raw)
            answer = c.response()
            is_((answer.status, answer.header("X-Order")), (status, None), f"{status}: no middleware")
        is_(s.wait_event("refused", since=mark)["status"], status, "only a log line")
        is_(trace(s, mark, None), [], "nothing was called")


@case("timeouts")
def _():
    s = server(timeouts_ms={"handler": 300})
    mark = s.mark()
    answer, seen = run(s, "a=never&b=never", last="a.on_finish")
    is_((answer.status, answer.header("X-Order")), (504, None),
        "the server answers by itself: on_response is skipped for a plugin that still owes a continue")
    is_(seen, ["a.on_request", "a.on_abort", "a.on_finish"], "its on_abort and on_finish follow")
    answer, seen = run(s, "b=never")
    is_((answer.status, answer.header("X-Order")), (504, "a"), "the others' on_response runs, also on timeout")
    is_(sorted(seen), sorted(["a.on_request", "b.on_request", "b.on_abort", "a.on_response", "b.on_finish",
                              "a.on_finish"]), "and on_finish of all")
    answer, seen = run(s, "b-res=never")
    is_((answer.status, answer.header("X-Order")), (504, "a"), "a LATER on_response that times out is passed over")
    is_(seen.count("b.on_finish"), 1, "and finishes")
    answer, seen = run(s, "h=later&ms=900")
    is_((answer.status, answer.header("X-Order")), (504, "b, a"), "a handler that times out: all on_response run")
    is_(seen, ALL, "on_finish when its done has come")


EARLY_FLUSH = r"""
#include "contract.h"
/* Middleware that begins a stream in on_request while it is LATER: its on_response runs meanwhile. */
static void on(graft_req *req, void *arg)
{
    (void)arg;
    graft_write(req, "two ", 4);
    graft_continue(req, graft_query(req, "done").ptr ? GRAFT_DONE : GRAFT_NEXT);
}
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    if (!graft_query(req, "early").ptr)
        return GRAFT_NEXT;
    graft_write(req, "one ", 4);
    graft_flush(req);
    return graft_after(req, 50, on, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static graft_next on_response(graft_req *req, void *state)
{
    (void)state;
    graft_add_header(req, "X-Early", graft_streaming(req) ? "streaming" : "plain");
    return GRAFT_NEXT;
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_write(req, "three", 5);
    return GRAFT_DONE;
}
GRAFT_PLUGIN(.name = "early-flush", .version = "1", .routes = (const graft_route[]){ { "GET", "/early", handler, 0 }, { 0 } },
             .on_request = on_request, .on_response = on_response)
"""


@case("a middleware that streams while it is LATER")
def _():
    s = Server({"early": compile_plugin(EARLY_FLUSH, f"-I{SRCDIR}/tests/plugins"), "order_a": "order_a"},
               config={**CHAIN, "middleware": ["order-a", "early-flush"]}, workers=1)
    answer = s.get("/early?early=1")
    is_((answer.body, answer.chunked, answer.header("X-Early"), answer.header("X-Order")), (b"one two three", True, "streaming", "a"),
        "on_response of those called so far, once, at the first flush; the chain goes on into the stream")
    answer = s.get("/early?early=1&done=1")
    is_((answer.body, answer.header("X-Early")), (b"one two ", "streaming"), "or ends there")
    is_(s.get("/early").header("X-Early"), "plain", "the same at the end of a plain answer")
    is_(s.find_events("misuse"), [], "its own LATER stays owed through its on_response")


@case("a LATER on_response on the server's own answer")
def _():
    s = server(timeouts_ms={"handler": 300})
    for how in ("post", "offload", "thread", "now"):
        answer, seen = run(s, f"h=later&ms=900&b-res={how}")
        is_((answer.status, answer.header("X-Order")), (504, "b, a"), f"on_response of a 504 may be LATER: {how}")
        is_(seen, ALL, "the outer one follows")
    answer, seen = run(s, "h=later&ms=1500&b-res=never")
    is_((answer.status, answer.header("X-Order")), (504, "a"), "one that never continues does not hold up the 504 for ever")
    answer, seen = run(s, "b-res=post", target="/none")
    is_((answer.status, answer.header("X-Order")), (404, "b, a"), "on a 404")


@case("aborts")
def _():
    s = server()
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target="/order?b=abort"))
        is_((c.ends(), c.data), ("eof", b""), "graft_abort: cut, nothing sent")
    is_(trace(s, mark), ["a.on_request", "b.on_request", "b.on_finish", "a.on_finish"], "on_finish also on abort")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target="/order?h=later&ms=300"))
        s.wait_event("plugin", since=mark, msg=re.compile("order handler"))
    is_(trace(s, mark), ["a.on_request", "b.on_request", "handler", "b.on_finish", "a.on_finish"],
        "the client left: no on_response, on_finish when the handler has ended")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target="/order?b=never"))
        s.wait_event("plugin", since=mark, msg=re.compile("b.on_request"))
    is_(trace(s, mark), ["a.on_request", "b.on_request", "b.on_abort", "b.on_finish", "a.on_finish"],
        "the client left a LATER middleware: on_abort, then on_finish")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target="/order?h=flush&ms=50&b-res=never"))
        s.wait_event("plugin", since=mark, msg=re.compile("b.on_response"))
    is_([x for x in trace(s, mark) if "a." in x], ["a.on_request", "a.on_finish"], "the client left a LATER on_response")


@case("the version is chosen when the head is complete")
def _():
    s = Server({"v": "versioned_v1", "order_body": "order_body"}, config={"middleware": ["order-body"]}, workers=1)
    with s.connect() as c:
        c.send(request_bytes("POST", "/version/upload", {"Content-Length": "4"}) + b"ab")
        wait_for(lambda: s.active("versioned")["in_flight"] == 1, 10, "the pin")
        s.install("versioned_v2", "v")
        ok(s.reload()["ok"], "a swap while the body is on its way")
        is_(s.get("/version").body, b"v2\n", "new requests run on v2")
        c.send(b"cd")
        is_(c.response().body, b"v1 4\n", "the route and the versions are chosen, and pinned, when the head is complete")


main()
