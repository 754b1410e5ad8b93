#!/usr/bin/env python3
# Limits and timeouts: each of the configuration's, on the wire, and what it costs to be slow
import os
import re
import resource
import socket
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

MB = 1 << 20
GET = request_bytes("GET", "/hello")
PLUGINS = ["hello", "echo", "later_api", "stream_down", "stream_up", "never_done", "order_body", "response_api"]
MEASURES = SANITIZER == "none"  # a sanitizer's memory is not the server's


def small(**limits):
    return {"limits": limits}


def statuses(s, *requests):
    out = []
    for request in requests:
        with Conn(s) as c:
            c.send(request)
            out.append(c.response().status)
    return out


@case("head_bytes, field_bytes, target_bytes, headers")
def _():
    s = Server(config=small(head_bytes=1000, field_bytes=300, target_bytes=200, headers=5))

    def head(n):  # exactly n bytes, in fields of at most 250
        text = b"GET /hello HTTP/1.1\r\nHost: a\r\n"
        while n - 2 - len(text) > 250:
            text += b"X: " + b"y" * 195 + b"\r\n"
        return text + b"X: " + b"y" * (n - 2 - len(text) - 5) + b"\r\n\r\n"
    s2 = Server(config=small(head_bytes=1000, field_bytes=300))
    is_(statuses(s2, head(1000), head(1001)), [200, 431], "head_bytes: the limit itself is allowed, one more is 431")

    def field(n):
        return request_bytes("GET", "/hello", {"X": "y" * (n - 3)})
    is_(statuses(s, field(300), field(301)), [200, 431], "field_bytes: name, colon, space and value")
    is_(statuses(s, request_bytes("GET", "/hello?" + "x" * 193), request_bytes("GET", "/hello?" + "x" * 194)), [200, 414],
        "target_bytes")
    is_(statuses(s, request_bytes("GET", "/hello", [("X", "y")] * 4), request_bytes("GET", "/hello", [("X", "y")] * 5)),
        [200, 431], "headers, Host among them")
    refused = wait_for(lambda: len(s.find_events("refused")) == 3 and s.find_events("refused"), 10,
                       "the log's writer, which is not who answers")
    is_({e["status"] for e in refused}, {414, 431}, "each is a refused event")
    ok(all(e["why"] and re.match(r"127\.0\.0\.1:\d+$", e["peer"]) for e in refused), "with why and peer", refused)
    ok(s.metrics()["graft_http_refused_total"] >= 3, "and counted")


@case("at most 10 refused events a second")
def _():
    s = Server(workers=1)
    with Conn(s):
        pass
    for _ in range(60):
        with Conn(s) as c:
            c.send(b"GET /hello HTTP/1.1\r\n\r\n")
            c.ends()
    wait_for(lambda: s.find_events("refused"), 10, "the log's writer")
    seconds = {}
    for e in s.find_events("refused"):
        seconds[e["ts"][:19]] = seconds.get(e["ts"][:19], 0) + 1
    ok(seconds and max(seconds.values()) <= 20, "in any second of the clock at most two of ours", seconds)


@case("body_bytes")
def _():
    s = Server(PLUGINS, small(body_bytes=1000))

    def length(n, target="/echo", **h):
        return request_bytes("POST", target, h, body=b"x" * n)

    def coded(n, target="/echo"):
        return request_bytes("POST", target, {"Transfer-Encoding": "chunked"}) + chunked(*[b"x" * 100] * (n // 100), b"x" * (n % 100))
    is_(statuses(s, length(1000), length(1001)), [200, 413], "with a length")
    is_(statuses(s, coded(1000), coded(1001)), [200, 413], "in chunks")
    is_(statuses(s, request_bytes("POST", "/echo", {"Content-Length": "1001"})), [413], "413 does not wait for the body")
    is_(statuses(s, length(100000, "/up"), coded(100000, "/up")), [200, 200], "a GRAFT_STREAM route has no limit")
    with Conn(s) as c:
        c.send(request_bytes("POST", "/echo", {"Content-Length": "1001", "Expect": "100-continue"}))
        r = c.response()
        is_((r.status, r.interim), (413, []), "no 100 before 413")
    s = Server(PLUGINS, {**small(body_bytes=1000), "middleware": ["order-body"]})
    is_(statuses(s, length(1000, "/up"), length(1001, "/up"), coded(1001, "/up")), [200, 413, 413],
        "but one behind a GRAFT_NEED_BODY middleware has")


@case("the head's time is total, and its end is 408")
def _():
    s = Server(config={"timeouts_ms": {"head": 600, "idle": 20000}})
    with Conn(s) as c:
        began = time.monotonic()
        c.sock.settimeout(0.05)
        for byte in b"GET /hello HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 500:  # a byte at a time keeps nothing alive
            try:
                c.sock.sendall(bytes([byte]))
                c.data += c.sock.recv(4096)
                break
            except socket.timeout:
                pass
        within(time.monotonic() - began, 0.5, secs(4), "a slow head is cut after its time")
        r = c.response()
        is_((r.status, (r.header("Connection") or "").lower()), (408, "close"), "408, Connection: close")
        is_(c.ends(), "eof", "and closed")
    with Conn(s) as c:
        is_(c.get("/hello").status, 200, "a first request")
        time.sleep(0.8)
        is_(c.get("/hello").status, 200, "idling is no head")
        c.send(GET + GET[:10])
        is_(c.response().status, 200, "a second one, with half a third behind")
        is_(c.response().status, 408, "whose time began then")
    with Conn(s) as c:
        c.send(b"\r\n")
        ok(c.ends(5) is not None, "an empty line is the beginning of a head", c.data)


@case("idle")
def _():
    s = Server(config={"timeouts_ms": {"idle": 500, "head": 20000}})
    with Conn(s) as c, Conn(s) as d:
        began = time.monotonic()
        is_(c.ends(10), "eof", "a connection that never says anything is closed")
        within(time.monotonic() - began, 0.35, secs(4), "after its time")
        is_(c.data, b"", "without a word")
    with Conn(s) as c:
        for _ in range(4):
            time.sleep(0.25)
            is_(c.get("/hello").status, 200, "each request begins it anew")
        is_(c.ends(10), "eof", "then it is closed")
    ok(wait_for(lambda: s.status()["connections"]["closed"] >= 2, 5, "closed"), "counted as closed by us")


@case("a body's time: total when buffered, without progress when streamed")
def _():
    s = Server(PLUGINS, {"timeouts_ms": {"body": 700}})

    def drip(target, seconds, every=0.1, chunks=False):
        """Sends a byte now and then; (seconds until the answer or None, the answer)."""
        c = Conn(s)
        c.send(request_bytes("POST", target, {"Transfer-Encoding": "chunked"} if chunks else {"Content-Length": "1000"}))
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            c.sock.settimeout(every)
            try:
                c.sock.sendall(b"1\r\nx\r\n" if chunks else b"x")
                part = c.sock.recv(65536)
                c.data += part
                break
            except socket.timeout:
                continue
            except OSError:
                break
        return c, time.monotonic() - began
    for chunks in (False, True):
        c, took = drip("/echo", secs(6), chunks=chunks)
        is_(c.response().status, 408, f"buffered, chunked {chunks}: 408")
        within(took, 0.5, secs(5), "after the total time, although bytes came all the while")
        ok(c.ends() is not None, "and closed")
    c, took = drip("/up", 2.0)
    is_((c.data, took >= 2.0), (b"", True), "streamed: as long as something comes it goes on")
    began = time.monotonic()
    r = c.response()
    is_(r.status, 408, "streamed: 408 when nothing comes")
    within(time.monotonic() - began, 0.4, secs(5), "after its time")
    wait_for(lambda: [e for e in s.log() if "stream_up aborted" in e["msg"]], 5, "on_abort")
    with Conn(s) as c:
        c.send(request_bytes("POST", "/up?pause=1500", {"Content-Length": "6"}), b"abc", pause=0.05)
        time.sleep(0.2)
        c.send(b"def")
        is_(c.response().status, 200, "while the handler has the body paused, nothing runs out")


@case("write: a client that takes nothing is cut")
def _():
    s = Server(PLUGINS, {"timeouts_ms": {"write": 700}})
    with Conn(s, rcvbuf=4096) as c:
        mark = s.mark()
        c.send(request_bytes("GET", "/down?bytes=200000000"))
        wait_for(lambda: [e for e in s.log()[mark:] if "stream_down end" in e["msg"]], 15, "the stream's end")
        total = 0
        try:
            while c.fill():
                total += len(c.data)
                c.data = b""
        except OSError:
            pass
        ok(total < 50 * MB, "cut before its end", total)
    with Conn(s, rcvbuf=65536) as c:
        c.send(request_bytes("GET", "/down?bytes=3000000"))
        got = 0
        began = time.monotonic()
        while got < 1000000:
            c.fill()
            got += len(c.data)
            c.data = b""
            time.sleep(0.05)
        ok(True, f"a slow reader that makes progress is not ({time.monotonic() - began:.1f} s)")
        is_(c.eof, False, "and its connection lives")
    with Conn(s, rcvbuf=4096) as c:
        c.send(request_bytes("POST", "/echo", body=os.urandom(7 * MB)))
        time.sleep(2.5 * SCALE)
        total = 0
        while c.fill():
            total += len(c.data)
            c.data = b""
        ok(total < 7 * MB, "a buffered answer that nobody takes is cut too", total)
    ok(wait_for(lambda: s.status()["in_flight"] == 0, 5, "in_flight 0"), "no request is left")


TICKER = r"""
#include <graft/graft.h>
static void tick(graft_req *req, void *arg)
{
    static const char block[65536];
    if (graft_write(req, block, sizeof block) < 0 || graft_flush(req) < 0 ||
        graft_after(req, 20, tick, arg) != 0)
        graft_abort(req);
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    tick(req, NULL);
    return GRAFT_LATER;
}
GRAFT_PLUGIN(.name = "ticker", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/tick", handler, 0 }, { 0 } }, )
"""


@case("write: progress is what the client takes, not what the kernel or the handler does")
def _():
    s = Server({"ticker": compile_plugin(TICKER), "stream_down": "stream_down"}, {"timeouts_ms": {"write": 1000}})
    with Conn(s, rcvbuf=4096) as c:
        c.send(request_bytes("GET", "/down?bytes=200000000"))
        time.sleep(0.1)
        for _ in range(80):  # far less than frees a third of the socket's buffer
            c.sock.recv(2048)
            time.sleep(0.05)
        is_(s.status()["in_flight"], 1, "a very slow reader is served after 4 s")
        wait_for(lambda: s.status()["in_flight"] == 0, 20, "the end of a request whose client stopped reading")
        took = 0
        while c.fill():
            took += len(c.data)
            c.data = b""
        ok(c.reset and took < MB, "it is a reset: the kernel keeps nothing for this client", (c.reset, took))
    with Conn(s, rcvbuf=4096) as c:
        c.send(request_bytes("GET", "/tick"))
        wait_for(lambda: s.status()["in_flight"] == 1, 10, "the request")
        ok(wait_for(lambda: s.status()["in_flight"] == 0, 20, "the end of a request whose client reads nothing"),
           "a handler that writes on and on does not keep such a client")


@case("handler: 504 when no head has been sent in time")
def _():
    s = Server(PLUGINS, {"timeouts_ms": {"handler": 500}})
    with Conn(s) as c:
        began = time.monotonic()
        r = c.request("GET", "/later?which=on-abort&ms=2000")
        is_(r.status, 504, "504")
        within(time.monotonic() - began, 0.4, secs(4), "after its time")
        like(r.header("Content-Type") or "", "problem", "with a body that says why")
        if (r.header("Connection") or "").lower() != "close":
            is_(c.get("/hello").status, 200, "and the connection goes on")
        is_(c.get("/down?bytes=1000000").status if not c.eof else 200, 200, "streams are not under it")
    with Conn(s) as c:
        c.send(request_bytes("GET", "/down?bytes=3000000"))
        time.sleep(1.0)
        is_(len(c.response().body), 3000000, "a stream longer than that goes on, its head has been sent")
    with Conn(s) as c:
        is_(c.request("GET", "/never-done").status, 504, "a handler that owes for ever is answered for")
    s2 = Server(["hello", "later_api"], {"timeouts_ms": {"handler": 500}})
    with Conn(s2) as c:
        r = c.request("GET", "/later?which=timer&ms=100")
        is_(r.status, 200, "what is in time is not touched")
    mine = s.ps("never-done", "active")[0]
    is_(mine["in_flight"], 1, "the request that owes is still counted")
    s.status_expected = 3
    s.config["drain"] = {"timeout_ms": 500}
    s.reload(config=True)


@case("pipeline: how many are answered in one turn, and others are not kept waiting")
def _():
    s = Server(config=small(pipeline=4), workers=1)
    with Conn(s) as c:
        c.send(b"".join(request_bytes("GET", f"/hello/n{i}") for i in range(300)))
        is_([c.response().body for _ in range(300)], [b"hello, n%d\n" % i for i in range(300)], "300 in one write, in order")
    with Conn(s) as c, Conn(s) as d:
        c.send(GET * 20000)
        reader = threading.Thread(target=lambda: [c.response() for _ in range(20000)])
        reader.start()
        slowest = 0
        for _ in range(20):
            began = time.monotonic()
            is_(d.get("/hello").status, 200, "another connection meanwhile") if _ == 0 else d.get("/hello")
            slowest = max(slowest, time.monotonic() - began)
        reader.join()
        ok(slowest < secs(1), "is answered in between", slowest)
    with Conn(s) as c:
        c.send(GET * 50)
        c.shut()
        is_([c.response().status for _ in range(50)], [200] * 50, "a FIN behind more than fit in a turn: all are answered")
        is_(c.ends(), "eof", "then closed")


@case("send_bytes: back-pressure")
def _():
    s = Server(PLUGINS, small(send_bytes=100000))
    with Conn(s, rcvbuf=16384) as c:
        mark = s.mark()
        c.send(request_bytes("GET", "/down?bytes=20000000&chunk=10000"))
        time.sleep(0.5)
        ok(len(c.response().body) == 20000000, "a slow reader gets it all")
        e = wait_for(lambda: [e for e in s.log()[mark:] if "stream_down end" in e["msg"]], 5, "the end")[0]
        m = re.search(r"max_pending=(\d+) waits=(\d+)", e["msg"])
        within(int(m[1]), 100000, 130000, "no more than send_bytes and one write ever waited")
        ok(int(m[2]) > 10, "the handler had to wait", e["msg"])


@case("connections: past the limit accepting pauses, and recovers")
def _():
    s = Server(config=small(connections=20))
    conns = [Conn(s) for _ in range(20)]
    is_([c.get("/hello").status for c in conns], [200] * 20, "as many as allowed")
    late = [Conn(s) for _ in range(5)]  # the kernel takes them
    for c in late:
        c.send(GET)
    ok(all(c.is_open(0.1) for c in late), "one more waits, it is not refused")
    within(s.status()["connections"]["now"], 20, 21, "no more than allowed are open")
    is_(conns[3].get("/hello").status, 200, "and the open ones are served")
    for c in conns[:8]:
        c.close()
    is_([c.response().status for c in late], [200] * 5, "when others close, those that waited are served")
    ok(s.event("accept_paused"), "an event says so")
    for c in conns[8:] + late:
        c.close()


@case("out of descriptors: accepting pauses and recovers, nothing is lost")
def _():
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    s = Server(preexec_fn=few)
    ok(s.find_events("limits", level="warn"), "a start with few descriptors is warned of")
    conns = []
    for _ in range(150):
        c = Conn(s)
        c.send(GET)
        conns.append(c)
    time.sleep(2.5)
    answered = []
    for c in conns:
        c.sock.settimeout(0.02)
        try:
            c.fill(0.02)
        except socket.timeout:
            pass
        if c.data:
            answered.append(c)
    ok(20 < len(answered) < 100, f"{len(answered)} of 150 clients are served, as many as there are descriptors")
    within(len(s.find_events("accept_paused")), 1, int(8 * SCALE), "at most one log line a second says why")
    pid = s.pid
    cpu = sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
    time.sleep(1)
    cpu = sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13])) - cpu
    within(cpu, 0, 40, "and it does not spin meanwhile (clock ticks in a second)")
    is_(s.status()["ok"], True, "the control socket answers all the while: some descriptors are kept for it")
    is_(s.ops_get("/readyz").status, 200, "and readiness")
    s.install(make_unique("hello"), "hello")
    is_(s.reload()["ok"], True, "and a swap works")
    is_(answered[0].response().status, 200, "those that are open are served")
    is_(answered[0].get("/hello").status, 200, "again and again")
    rest = [c for c in conns if c not in answered]
    served = 0
    for c in answered:
        c.close()
    for c in rest:
        try:
            served += c.response().status == 200
        except (HttpError, OSError) as e:
            diag(e)
        c.close()
    is_(served, len(rest), "when those leave, every one that waited is answered")
    is_(s.get("/hello").status, 200, "and new ones are")
    is_(wait_for(lambda: s.status()["connections"]["now"] == 0 or None, 5, "no connection is left"), True, "no connection is left")


def grown(s, work):
    """By how many KB the private memory grows at most while work() runs, and what work() returned."""
    pid = s.pid
    over, most = threading.Event(), [0]

    def anon():
        with open(f"/proc/{pid}/status") as f:
            return int(re.search(r"RssAnon:\s+(\d+)", f.read())[1])

    def watch():
        while not over.wait(0.05):
            most[0] = max(most[0], anon())
    before = anon()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        result = work()
    finally:
        over.set()
        thread.join()
    return most[0] - before, result


GB = 1 << 30


def take(c, total, pause):
    """Reads a stream of stream_down with a length; how much came, and whether all bytes are right."""
    _, _, _, fields, _ = c.head()
    got, right, table = 0, True, b"".join(bytes([i & 255]) * 64 for i in range(256)) * 65
    buffer = bytearray(MB)
    c.sock.settimeout(secs(30))
    first = c.data
    c.data = b""
    right = first == table[:len(first)]
    got = len(first)
    n = 0
    while got < total:
        length = c.sock.recv_into(buffer)
        if not length:
            break
        at = got % 16384
        right = right and buffer[:length] == table[at:at + length]
        got += length
        n += 1
        if pause and n % 64 == 0:
            time.sleep(pause)
    return got, right


@case("1 GB to a slow reader costs no memory", MEASURES, "measures memory")
def _():
    s = Server(PLUGINS)
    for _ in range(3):
        s.get("/down?bytes=10000000"), s.get("/hello")
    for how in ("", "&static=1"):
        with Conn(s, rcvbuf=1 << 18, timeout=60) as c:
            c.send(request_bytes("GET", f"/down?bytes={GB}&length=1&chunk=65536{how}"))
            growth, (got, right) = grown(s, lambda: take(c, GB, 0.01))
        is_((got, right), (GB, True), f"1 GB arrives{how}")
        ok(growth < 2048, f"and memory grows by less than 2 MB{how}: {growth} KB")


@case("1 GB from a client to a slow handler costs no memory", MEASURES, "measures memory")
def _():
    s = Server(PLUGINS + [compile_plugin(SLOW_SINK)])
    s.post("/sink", b"x" * MB)
    for coding in ("length", "chunked"):
        block = b"x" * MB
        with Conn(s, timeout=120) as c:
            def send():
                if coding == "length":
                    c.send(request_bytes("POST", "/sink", {"Content-Length": str(GB)}))
                    for _ in range(GB // MB):
                        c.sock.sendall(block)
                else:
                    c.send(request_bytes("POST", "/sink", {"Transfer-Encoding": "chunked"}))
                    for _ in range(GB // MB):
                        c.sock.sendall(b"100000\r\n" + block + b"\r\n")
                    c.sock.sendall(b"0\r\n\r\n")
                return c.response()
            growth, r = grown(s, send)
        m = re.match(r"(\d+) bytes, (\d+) pauses", r.text)
        is_((r.status, int(m[1])), (200, GB), f"{coding}: 1 GB arrives")
        ok(int(m[2]) > 100, f"{coding}: the handler paused it {m[2]} times")
        ok(growth < 2048, f"{coding}: and memory grows by less than 2 MB: {growth} KB")


SLOW_SINK = r"""
#include <graft/graft.h>
/* POST /sink: takes a body, and pauses it for a millisecond after each 4 MB. */
struct sink { unsigned long long bytes; unsigned pauses, since; };
static void go_on(graft_req *req, void *arg) { (void)arg; graft_body_resume(req); }
static void take(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct sink *s = arg;
    s->bytes += chunk.len;
    s->since += (unsigned)chunk.len;
    if (last) {
        graft_printf(req, "%llu bytes, %u pauses\n", s->bytes, s->pauses);
        graft_done(req);
    } else if (s->since > 4u << 20) {
        s->since = 0;
        s->pauses++;
        graft_body_pause(req);
        if (graft_after(req, 1, go_on, NULL) != 0)
            graft_body_resume(req);
    }
}
static void cut(graft_req *req, void *arg) { (void)arg; graft_done(req); }
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_on_abort(req, cut, NULL);
    graft_on_body(req, take, graft_scratch(req));
    return GRAFT_LATER;
}
GRAFT_PLUGIN(.name = "sink", .version = "1", .scratch_size = sizeof(struct sink),
             .routes = (const graft_route[]){ { "POST", "/sink", handler, GRAFT_STREAM }, { 0 } }, )
"""


@case("8000 idle connections", MEASURES, "measures memory")
def _():
    need = 8000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < need + 300:
        skip(f"only {hard} descriptors", "8000 idle connections")
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need + 300), hard))
    s = Server()
    for _ in range(50):
        s.get("/hello")
    before = s.anon_kb()
    conns = []
    try:
        for i in range(need):
            c = socket.create_connection(s.address, secs(20))
            c.sendall(GET)
            conns.append(c)
            if i % 100 == 99:
                for c in conns[-100:]:
                    data = b""
                    while not data.endswith(b"hello, world\n"):
                        part = c.recv(4096)
                        if not part:
                            raise Failed("closed by the server")
                        data += part
        each = (s.anon_kb() - before) * 1024 / need
        diag(f"{each:.0f} bytes a connection")
        ok(each < 1024, f"each keeps less than 1 KB of the server's memory: {each:.0f} bytes")
        is_(s.status()["connections"]["now"], need, "all are open")
        is_(s.get("/hello").status, 200, "and others are served")
        s.install(make_unique("hello"), "hello")
        is_(s.reload()["ok"], True, "a swap meanwhile")
        bad = 0
        for c in conns[::80]:
            c.sendall(GET)
            bad += not c.recv(4096).endswith(b"hello, world\n")
        is_(bad, 0, "none of them was closed by it")
    finally:
        for c in conns:
            c.close()
    ok(wait_for(lambda: s.status()["connections"]["now"] == 0, 10, "all closed"), "all are gone when their clients are")


@case("slow clients in numbers do not slow the others")
def _():
    s = Server(PLUGINS, {"timeouts_ms": {"head": 5000}})
    conns = []
    for i in range(300):
        c = Conn(s, rcvbuf=4096)
        c.send((b"GET /hel", b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab",
                request_bytes("GET", "/down?bytes=1000000"), b"")[i % 4])
        conns.append(c)
    with Prober(s, "/hello", clients=2) as p:
        time.sleep(1)
    is_(p.failures, [], f"{p.count} requests beside 300 slow clients")
    ok(p.slowest < secs(1), "and none was slow", p.slowest)
    for c in conns:
        c.abort()
    ok(wait_for(lambda: s.status()["connections"]["now"] == 0, 10, "all closed"), "no connection is left")
    is_(s.status()["in_flight"], 0, "and no request")

main()
