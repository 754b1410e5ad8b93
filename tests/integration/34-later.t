#!/usr/bin/env python3
# What LATER owes: each sentence of that part of SDK.md
import os, re, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

QUICK = {"drain": {"idle_ms": 20}}


def server(*plugins, workers=1, middleware=("owes",), **config):
    plugins = plugins or ("owes",)
    if "owes" not in plugins:
        middleware = ()
    return Server(list(plugins), config={**QUICK, "middleware": list(middleware), **config}, workers=workers)


def line(s, since, pattern, timeout=15):
    """The first log line of a plugin that matches."""
    return s.wait_event("plugin", timeout, since=since, msg=re.compile(pattern))["msg"]


def numbers(text):
    return {k: int(v) for k, v in re.findall(r"(\w+)=(-?\d+)", text)}


def lines(s, since, pattern):
    return [e["msg"] for e in s.find_events("plugin", since, msg=re.compile(pattern))]


def owes(s, which, more="", **options):
    return s.get(f"/owes?which={which}{more}")


def leave(s, which, more="", after="", wait=0.05):
    """Sends a request and leaves when the log shows `after`, or after a moment. The log's position."""
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target=f"/owes?which={which}{more}"))
        if after:
            line(s, mark, after)
        else:
            time.sleep(wait)
    return mark


@case("one done, by any way")
def _():
    s = server("later_api")
    for which in ("timer", "offload", "post", "post-thread", "done-thread", "done-before"):
        is_(s.get(f"/later?which={which}&ms=10").body, which.encode() + b"\n", f"graft_done ends a LATER handler: {which}")
    is_(s.get("/later?which=any-thread&ms=10").body, b"any-thread ok\n", "[any] functions from a foreign thread")
    is_(s.get("/later?which=post-order").body, b"012345post-order\n", "posts run in order, none inside the call")
    for ms in (0, 1, 10, 10, 10, 25, 60):
        is_(s.get(f"/later?which=early&ms={ms}").body, b"in time\n", f"graft_after is never early, on a busy worker: {ms} ms")
    is_(s.get("/later?which=alloc&ms=1").body, b"bad=0\nalloc\n", "graft_alloc: aligned, and the request's own")
    mark = s.mark()
    is_(s.get("/later?which=then-after-done&ms=50").body, b"then-after-done\n", "done while an offload runs")
    like(line(s, mark, "then-after-done then"), "write=-1", "`then` runs all the same; writes answer -1")
    mark = s.mark()
    is_(s.get("/later?which=after-dropped&ms=30").body, b"after-dropped\n", "done while a timer waits")
    with s.connect() as c:
        c.send(request_bytes(target="/later?which=abort&ms=10"))
        is_((c.ends(), c.data), ("eof", b""), "graft_abort counts as done: cut before anything was sent")
    with s.connect() as c:
        c.send(request_bytes(target="/later?which=abort-stream&ms=30"))
        end = c.ends()
        ok(b"half" in c.data and not c.data.endswith(b"0\r\n\r\n") and end, "a stream that is cut does not look complete",
           c.data)
    time.sleep(0.1)
    is_(lines(s, mark, "DROPPED"), [], "an `after` that still waits when done is taken is dropped")
    mark = s.mark()
    text = s.get("/later?which=elapsed&ms=60").text
    within(int(text.split("=")[1]), 55, 20000, "graft_elapsed_us counts from the request's beginning")


@case("the response and the request")
def _():
    s = server()
    with s.connect() as c:
        mark = s.mark()
        is_(c.get("/owes?which=next&ms=400").body, b"next\n", "the response is over when it is sent")
        is_(c.get("/owes?which=timer&ms=1").body, b"timer\n", "and the connection's next request may start")
        is_((s.active("owes")["in_flight"] > 0, lines(s, mark, "finish next")), (True, []),
            "the request is over when every offload has returned")
        found = numbers(line(s, mark, "finish next"))
        is_((found["works"], found["thens"]), (1, 1), "then on_finish runs")
        is_(found["write"], -1, "in which writes answer -1")
        is_(found["bytes"], 5, "graft_response_bytes stops when the response is over")
        within(found["elapsed_ms"], 0, 399, "graft_elapsed_us too")
        mark = s.mark()
        is_(c.get("/owes?which=timer&ms=200").body, b"timer\n", "a timer of a handler that was not LATER")
        is_(lines(s, mark, "finish timer"), [], "is waited for")
        like(line(s, mark, "owes timer after"), "gone=0 write=-1", "and fires at its time")
        line(s, mark, "finish timer")
        ok(True, "then the request is over")


@case("the client left")
def _():
    s = server()
    mark = leave(s, "gone-after", "&ms=250")
    is_(numbers(line(s, mark, "gone-after after")), {"gone": 1, "write": -1},
        "an `after` fires at its time, also when the client is gone; graft_gone says so, writes answer -1")
    line(s, mark, "finish gone-after")
    mark = leave(s, "gone-offload", "&ms=250")
    found = numbers(line(s, mark, "finish gone-offload"))
    is_((found["works"], found["thens"]), (1, 1), "work and then run exactly once, whatever happened")
    mark = leave(s, "gone-thread")
    is_(numbers(line(s, mark, "owes thread")), {"gone": 1}, "graft_gone and graft_done from a foreign thread")
    line(s, mark, "finish gone-thread")
    mark = leave(s, "wait")
    is_(numbers(line(s, mark, "owes wait on_abort")), {"n": 1, "gone": 1, "write": -1}, "on_abort: the client left")
    is_(numbers(line(s, mark, "finish wait"))["aborts"], 1, "at most once")
    with s.connect() as c:
        mark = s.mark()
        c.send(request_bytes(target="/owes?which=wait"))
        time.sleep(0.05)
        c.shut()
        line(s, mark, "owes wait on_abort")
        is_(c.ends(), "eof", "a FIN while a request is LATER means that the client left")
    mark = leave(s, "deadline", "&ms=200&deadline=0")
    found = numbers(line(s, mark, "finish deadline"))
    is_(found["aborts"], 1, "done may come after on_abort")
    is_(len(lines(s, mark, "deadline after")), 1, "from a timer")


@case("nothing is called after done was taken")
def _():
    s = server()
    for leaves in (False, True):
        mark = s.mark()
        a, b = s.connect(), s.connect()
        with a, b:
            a.send(request_bytes(target="/owes?which=race&ms=400"))
            wait_for(lambda: s.status()["in_flight"], 5, "the request")
            b.send(request_bytes(target="/owes?which=block&ms=700"))
            time.sleep(0.1)
            if leaves:
                a.close()
            is_(numbers(line(s, mark, "owes race taken").replace("taken ", "taken="))["taken"], 0,
                "a thread's graft_done is taken while the worker stands still")
            b.response()
            line(s, mark, "finish race")
        is_(lines(s, mark, "AFTER DONE"), [], "no `after`" + (", no on_abort" if leaves else "") + " follows it")


@case("a cut stream")
def _():
    s = server()
    for which in ("cut", "cut-ends"):
        mark = s.mark()
        with s.connect(rcvbuf=8192) as c:
            c.send(request_bytes(target=f"/owes?which={which}&ms=20"))
            c.fill()
            time.sleep(0.1)
            c.abort()
        found = numbers(line(s, mark, "finish " + which))
        is_(found["aborts"], 1, f"{which}: on_abort once")
        cuts = lines(s, mark, which + " on_writable write=-1")
        if which == "cut":
            is_(len(cuts), 1, "on_writable is called once more when the response is cut: writes answer -1")
        else:
            is_((cuts, lines(s, mark, "AFTER DONE")), ([], []), "but not after graft_done was taken")


@case("a body that does not come")
def _():
    s = server(timeouts_ms={"body": 500})
    head = request_bytes("POST", "/owes?which=body&ms=50", {"Content-Length": "100"})
    mark = s.mark()
    with s.connect() as c:
        c.send(head + b"some")
        time.sleep(0.1)
    found = numbers(line(s, mark, "owes body pieces"))
    is_((found["lasts"], found["aborts"]), (0, 1), "the client left: on_abort; on_body is not called once more")
    mark = s.mark()
    with s.connect() as c:
        c.send(head + b"some")
        is_(c.response().status, 408, "the body's time is over: 408")
        found = numbers(line(s, mark, "owes body pieces"))
        is_((found["lasts"], found["aborts"]), (0, 1), "and on_abort: the server replaced the response")
        like(line(s, mark, "body on_abort"), "write=-1", "in which writes answer -1")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes("POST", "/owes?which=body", {"Transfer-Encoding": "chunked"}) + b"4\r\nsome\r\nzz\r\n")
        is_(c.response().status, 400, "a broken body: 400")
        found = numbers(line(s, mark, "owes body pieces"))
        is_((found["lasts"], found["aborts"]), (0, 1), "and on_abort")
    with s.connect() as c:
        is_(c.request("POST", "/owes?which=body", body=b"x" * 100).body, b"body\n", "a whole one")


@case("deadlines")
def _():
    s = server(timeouts_ms={"handler": 300})
    mark = s.mark()
    with s.connect() as c:
        answer = c.get("/owes?which=deadline&ms=900&deadline=100")
        is_(answer.status, 504, "graft_deadline instead of timeouts_ms.handler: 504")
        is_(numbers(line(s, mark, "deadline on_abort")), {"n": 1, "gone": 1, "write": -1},
            "on_abort, graft_gone, writes answer -1")
        is_(c.get("/owes?which=timer").body, b"timer\n", "the connection's next request may start")
        is_(lines(s, mark, "finish deadline"), [], "the request lives until its done")
        line(s, mark, "finish deadline")
        is_(s.find_events("misuse", mark), [], "which may come after a 504")
    mark = s.mark()
    is_(owes(s, "deadline", "&ms=700&deadline=0").body, b"xdeadline\n", "graft_deadline(0): none")
    is_(owes(s, "deadline", "&ms=600&deadline=5000").body, b"xdeadline\n", "or a later one")
    mark = s.mark()
    is_(owes(s, "gone-after", "&ms=900").status, 504, "timeouts_ms.handler")
    line(s, mark, "finish gone-after")
    s = server("later_api", timeouts_ms={"handler": 300})
    is_(s.get("/later?which=timer&ms=100").body, b"timer\n", "in time")
    s = server("stream_down", timeouts_ms={"handler": 300})
    with s.connect(rcvbuf=8192) as c:
        c.send(request_bytes(target="/down?bytes=20000000", headers={"Connection": "close"}))
        time.sleep(0.7)
        is_(len(c.last_response().body), 20000000, "until the head is sent: a stream may take longer")


@case("on_abort that comes too late")
def _():
    s = server()
    mark = s.mark()
    is_(owes(s, "late", "&deadline=100&ms=400").status, 504, "a 504")
    is_(numbers(line(s, mark, "owes late on_abort")), {"n": 1, "gone": 1, "write": -1}, "on_abort set afterwards is called")
    line(s, mark, "finish late")
    mark = leave(s, "late", "&deadline=0&ms=300")
    is_(numbers(line(s, mark, "owes late on_abort")), {"n": 1, "gone": 1, "write": -1}, "also when the client has left")
    line(s, mark, "finish late")


@case("posts of several threads")
def _():
    s = server()
    is_(owes(s, "posts").body, b"posts=800 disorder=0\nposts\n", "posts of one request run in order, each once")
    mark = leave(s, "posts", wait=0)
    found = numbers(line(s, mark, "owes posts n="))
    is_((found["n"], found["disorder"]), (800, 0), "also when the client has left")
    line(s, mark, "finish posts")


@case("the pool's queue is full")
def _():
    s = Server(["later_api"], config={**QUICK, "offload": {"threads": 1, "queue": 4}}, workers=1)
    text = s.get("/later?which=offload-full&ms=1000").text
    found = numbers(text)
    within(found["taken"], 4, 6, "graft_offload answers -1 when the queue is full")
    is_(found["thens"], 1, "no function is called for what was refused; each that was taken runs")
    is_(s.get("/later?which=offload&ms=1").body, b"offload\n", "and there is room again")


@case("misuse")
def _():
    s = server("double_done", "done_without_later", "wrong_kind", "late_done", "order_a", middleware=())
    s.config["middleware"] = ["wrong-kind"]
    ok(s.reload(config=True)["ok"], "wrong-kind is middleware too")

    def blamed(since, plugin, route):
        event = s.wait_event("misuse", since=since)
        is_((event["plugin"], event["version"], event["route"]), (plugin, "1.0.0", route),
            "a log line that names plugin, version and route")
    for target in ("/double-done", "/double-done/now"):
        mark = s.mark()
        is_(s.get(target).body, b"double-done\n", f"a second graft_done does nothing: {target}")
        line(s, mark, "double_done 0 -1")
        blamed(mark, "double-done", target)
    mark = s.mark()
    is_(s.get("/done-without-later").status, 200, "one without LATER does nothing")
    blamed(mark, "done-without-later", "/done-without-later")
    mark = s.mark()
    is_(s.get("/wrong-kind").body, b"wrong-kind -1\n", "graft_continue in a handler does nothing")
    blamed(mark, "wrong-kind", "/wrong-kind")
    mark = s.mark()
    is_(s.get("/late-done?wrong-kind=1").body, b"late-done\n", "graft_done in a middleware does nothing")
    line(s, mark, "wrong_kind done -1")
    blamed(mark, "wrong-kind", "/late-done")
    for when in ("now", "timer"):
        mark = s.mark()
        is_(s.get(f"/late-done?wrong-kind={when}").status, 500, f"graft_continue(GRAFT_LATER) is an error: {when}")
        line(s, mark, "wrong_kind later 0")
        blamed(mark, "wrong-kind", "/late-done")
    mark = s.mark()
    s.get("/late-done")
    is_(s.get("/late-done/again").body, b"late-done again -1\n", "graft_done on a request that is over does nothing")
    blamed(mark, "late-done", "/late-done")
    ok(s.metrics(), "the server serves on")


@case("handles rest")
def _():
    s = server(middleware=())
    seen = []
    with s.connect(timeout=60) as c:
        for _ in range(200):
            c.send(request_bytes(target="/owes?which=address") * 50)
            seen += [c.response().body for _ in range(50)]
    last, nearest = {}, len(seen)
    for i, address in enumerate(seen):
        if address in last:
            nearest = min(nearest, i - last[address])
        last[address] = i
    ok(nearest > 4096, "handles of LATER requests are reused behind at least 4,096 others", nearest)
    ok(len(last) < len(seen), "and are reused", len(last))
    before = s.anon_kb()
    with s.connect(timeout=60) as c:
        for _ in range(200):
            c.send(request_bytes(target="/owes?which=address") * 50)
            for _ in range(50):
                c.response()
    if SANITIZER == "none":
        within(s.anon_kb() - before, -100000, 1000, "memory is flat")


@case("a retired version")
def _():
    s = server()
    mark = s.mark()
    with s.connect() as c, s.connect() as d:
        c.send(request_bytes(target="/owes?which=wait"))
        d.send(request_bytes(target="/owes?which=deadline&deadline=0&ms=1500"))
        wait_for(lambda: s.active("owes")["in_flight"] == 2, 5, "two requests")
        old = s.active("owes")["id"]
        s.install(make_unique("owes"), "owes")
        ok(s.reload()["ok"], "a swap")
        is_((c.is_open(), lines(s, mark, "on_abort")), (True, []), "changes nothing for them")
        is_(s.ctl("retire", "owes@" + old).returncode, 0, "graftctl retire")
        is_((c.ends(), d.ends()), ("eof", "eof"), "cuts the connections")
        line(s, mark, "owes wait on_abort n=1 gone=1 write=-1")
        ok(True, "on_abort runs")
        line(s, mark, "finish deadline")
        s.wait_event("retired", since=mark, id=old)
        is_(s.find_events("misuse", mark), [], "a done may come after it; then the version is unloaded")


@case("the end of a drain")
def _():
    s = Server(["owes"], config={"middleware": ["owes"], "drain": {"idle_ms": 20, "timeout_ms": 600}}, workers=1, status=3)
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes(target="/owes?which=wait"))
        wait_for(lambda: s.active("owes")["in_flight"], 5, "the request")
        is_(s.stop(), 3, "what is left at drain.timeout_ms is cut")
        is_(c.ends(), "eof", "its connection closed")
    is_(len(lines(s, mark, "owes wait on_abort")), 1, "and told by on_abort")


@case("a client that takes nothing")
def _():
    s = server(timeouts_ms={"write": 400})
    mark = s.mark()
    with s.connect(rcvbuf=4096) as c:
        c.send(request_bytes(target="/owes?which=cut&ms=20"))
        found = numbers(line(s, mark, "finish cut"))
        is_(found["aborts"], 1, "timeouts_ms.write: on_abort once")
        is_(len(lines(s, mark, "cut on_writable write=-1")), 1, "and on_writable")


main()
