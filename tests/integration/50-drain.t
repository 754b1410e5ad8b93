#!/usr/bin/env python3
# A drain step by step: readiness, listeners, requests in progress, idle connections, callbacks, the deadline
import os
import resource
import signal
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

HELLO = request_bytes("GET", "/hello")
CLOSE = "close"


def ms(n):
    return int(n * SCALE)


def drain(delay=0, idle=300, timeout=30000, **more):
    return {"drain": {"delay_ms": ms(delay), "idle_ms": ms(idle), "timeout_ms": ms(timeout)}, **more}


def refused(s):
    """Does the server's port refuse clients?"""
    try:
        with Conn(s, timeout=2):
            return False
    except (ConnectionRefusedError, TimeoutError, OSError):
        return True


def life(s):
    """The callbacks that the life plugin logged, in order."""
    return [e["msg"].split()[2] for e in s.log() if e["msg"].startswith("life v")]


@case("readiness fails at once, while connections are still accepted for drain.delay_ms")
def _():
    s = Server(["hello"], drain(delay=1500, idle=100))
    address, ops = s.address, s.ops
    with Conn(s) as old:
        is_(old.get("/hello").status, 200, "served before")
        wait_for(lambda: s.status()["in_flight"] == 0, 5, "the end of that request: an answer comes before it is counted")
        s.send_signal(signal.SIGTERM)
        s.wait_event("drain_start")
        with Conn(ops) as c:
            answer = c.get("/readyz")
        is_(answer.status, 503, "/readyz is 503 at once")
        like(answer.text, "draining", "and says why")
        with Conn(ops) as c:
            is_(c.get("/livez").status, 200, "/livez stays well")
        with Conn(ops) as c:
            is_(c.get("/startupz").status, 200, "so does /startupz")
        for _ in range(5):
            with Conn(address) as c:
                answer = c.get("/hello")
                is_((answer.status, answer.header("Connection")), (200, None), "a new connection is served as ever")
        is_(old.get("/hello").header("Connection"), None, "an old one too, and is not told to close")
        is_(s.status()["draining"], True, "status says that it drains")
    is_(s.wait_exit(), 0, "exit 0")
    start, end = s.event("drain_start"), s.event("drain_end")
    like(start["msg"], "SIGTERM", "drain_start names the signal")
    is_((end["finished"], end["cut"], end["level"]), (6, 0, "info"), "drain_end counts what was finished and cut")


@case("answers in progress carry Connection: close, whatever they wait for")
def _():
    s = Server(["hello", "versioned_v1", "echo"], drain())
    address = s.address
    conns = {}
    for what in ("timer?ms=1200", "offload?ms=1200"):
        conns[what] = Conn(s)
        conns[what].send(request_bytes("GET", f"/version/{what}"))
    upload = Conn(s)
    upload.send(request_bytes("POST", "/echo", {"Content-Length": "10"}), b"01234")
    stream = Conn(s)
    stream.send(request_bytes("GET", "/version/stream?chunks=8&ms=150"))
    like(dict(stream.head()[3]).get("Connection"), "None", "the stream's head has left before")
    half = Conn(s)
    half.send(HELLO[:12])
    wait_for(lambda: s.status()["in_flight"] >= 4, 5, "requests are in progress")
    s.send_signal(signal.SIGTERM)
    wait_for(lambda: refused(address), 10, "the listeners close")
    upload.send(b"56789")
    half.send(HELLO[12:])
    answer = upload.response()
    is_((answer.status, answer.body, answer.header("Connection")), (200, b"0123456789", CLOSE), "an upload ends")
    answer = half.response()
    is_((answer.status, answer.header("Connection")), (200, CLOSE), "a head that had begun to arrive is answered")
    for what, c in conns.items():
        answer = c.response()
        is_((answer.status, answer.header("Connection")), (200, CLOSE), f"{what} ends, and says close")
        is_(c.ends(), "eof", "then the connection ends without a reset")
    body = stream._chunks()
    is_(body.count(b"\n"), 8, "a stream ends whole", )
    is_(stream.ends(), "eof", "and its connection ends")
    is_(s.wait_exit(), 0, "exit 0")
    is_(s.event("drain_end")["cut"], 0, "nothing was cut")


@case("pipelined requests that had arrived are all answered, the last with Connection: close")
def _():
    s = Server(["hello", "versioned_v1"], drain())
    address = s.address
    c = Conn(s)
    c.send(request_bytes("GET", "/version/timer?ms=1000") + HELLO * 5)
    behind_stream = Conn(s)
    behind_stream.send(request_bytes("GET", "/version/stream?chunks=6&ms=200") + HELLO * 2)
    like(behind_stream.head()[2], "1.1", "the stream's head has left")
    wait_for(lambda: s.status()["in_flight"] >= 2, 5, "both are in progress")
    s.send_signal(signal.SIGTERM)
    wait_for(lambda: refused(address), 10, "the listeners close")
    got = [c.response() for _ in range(6)]
    is_([r.status for r in got], [200] * 6, "six answers")
    is_([r.header("Connection") for r in got], [None] * 5 + [CLOSE], "only the last one closes")
    is_(c.ends(), "eof", "and then the connection does")
    is_(behind_stream._chunks().count(b"\n"), 6, "the stream ends")
    got = [behind_stream.response() for _ in range(2)]
    is_([r.status for r in got], [200, 200], "what was pipelined behind it is answered")
    is_(got[-1].header("Connection"), CLOSE, "and closes")
    is_(s.wait_exit(), 0, "exit 0")


@case("a client that pipelines for ever does not hold up the drain")
def _():
    s = Server(["hello"], drain(idle=200, timeout=20000))
    c = Conn(s)
    c.sock.setblocking(False)
    began = None
    left = b""
    until = time.monotonic() + secs(15)
    closed = reset = False  # a reset takes answers with it that had arrived
    while not closed and time.monotonic() < until:
        try:
            c.sock.send(HELLO * 16)
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            closed = reset = True
        try:
            data = c.sock.recv(65536)
            left = (left + data)[-4096:]
            closed = closed or not data
        except BlockingIOError:
            pass
        except ConnectionResetError:
            closed = reset = True
        if began is None:
            began = time.monotonic()
            s.send_signal(signal.SIGTERM)
    c.sock.settimeout(secs(5))
    try:
        while closed and (data := c.sock.recv(65536)):  # answers that came before the end
            left = (left + data)[-4096:]
    except OSError:
        reset = True
    ok(closed, "the connection ends")
    is_(s.wait_exit(), 0, "exit 0, not at the deadline")
    ok(reset or b"Connection: close" in left, "the last answer said so, where it was not lost to a reset", left[-400:])


@case("an idle connection stays readable for drain.idle_ms: a request on its way is answered, with Connection: close")
def _():
    s = Server(["hello", "echo"], drain(idle=2500))
    address = s.address
    idle = [Conn(s) for _ in range(8)]
    for i, c in enumerate(idle):
        if i % 2:
            c.get("/hello")  # the others have never sent anything
    wait_for(lambda: s.status()["connections"]["now"] >= 8, 5, "all are accepted")
    s.send_signal(signal.SIGTERM)
    wait_for(lambda: refused(address), 10, "the listeners close")
    for i, c in enumerate(idle[:6]):
        if i == 5:
            c.send(HELLO * 3)
            got = [c.response() for _ in range(3)]
            is_([r.header("Connection") for r in got], [None, None, CLOSE], "three sent together: all are answered")
        else:
            c.send(request_bytes("POST", "/echo", body=b"late"))
            answer = c.response()
            is_((answer.status, answer.body, answer.header("Connection")), (200, b"late", CLOSE), "answered")
        is_(c.ends(), "eof", "then the connection ends")
    is_(s.status()["draining"], True, "the others keep the server for a while")
    is_(s.ops_get("/readyz").status, 503, "the ops address is still there")
    for c in idle[6:]:
        is_((c.ends(10), c.data), ("eof", b""), "a silent one ends without a byte")
        try:
            c.sock.sendall(HELLO)
            time.sleep(0.1)
            is_(c.sock.recv(1), b"", "and is read to its end: what it sends now is not answered by a reset")
        except ConnectionError as error:
            ok(False, "it is read to its end", error)
        c.close()
    is_(s.wait_exit(), 0, "exit 0")


@case("a request whose head is half here when drain.idle_ms is over is still answered")
def _():
    s = Server(["life_v1", "hello"], drain(idle=100, timeout=30000))
    address = s.address
    c = Conn(s)
    c.send(b"GET /life HTTP/1.1\r\nHo")
    wait_for(lambda: s.status()["connections"]["now"] >= 1, 5, "it is accepted")
    time.sleep(0.1)
    s.send_signal(signal.SIGTERM)
    wait_for(lambda: refused(address), 10, "the listeners close")
    time.sleep(secs(0.8))  # well past idle_ms
    is_([x for x in life(s) if x in ("cool", "fini")], [], "cool waits until no request can begin")
    c.send(b"st: a\r\n\r\n")
    answer = c.response()
    is_((answer.status, answer.header("Connection")), (200, CLOSE), "it is answered by the version that serves")
    like(answer.text, "cooling=1", "which knows that it cools")
    is_(s.wait_exit(), 0, "exit 0")
    slow = Server(["hello"], drain(idle=100, timeouts_ms={"head": ms(600)}))
    c = Conn(slow)
    c.send(b"GET /hel")
    wait_for(lambda: slow.status()["connections"]["now"] >= 1, 5, "it is accepted")
    time.sleep(0.1)
    slow.send_signal(signal.SIGTERM)
    is_(c.response().status, 408, "one that is never completed ends by timeouts_ms.head")
    is_(slow.wait_exit(), 0, "exit 0")


@case("graft_cooling() is true from the closing of the listeners: long streams end by themselves")
def _():
    s = Server(["slow"], drain(delay=800, idle=100))
    with Conn(s) as c:
        c.send(request_bytes("GET", "/slow/stream?chunks=0&ms=20"))
        c.head()
        wait_for(lambda: c.fill() and len(c.data) > 200, 5, "it streams")
        s.send_signal(signal.SIGTERM)
        s.wait_event("drain_start")
        c.data = b""
        wait_for(lambda: c.fill() and len(c.data) > 100, 5, "it goes on during delay_ms")
        wait_for(lambda: not c.fill(), 10, "and ends")
        ok(c.data.endswith(b"0\r\n\r\n"), "whole", c.data[-60:])
        ok(not c.reset, "without a reset")
    is_(s.wait_exit(), 0, "exit 0")
    is_(s.event("drain_end")["cut"], 0, "nothing was cut")


WAITS = r"""
#include <graft/graft.h>
#include <stdatomic.h>
static atomic_bool cooled;
struct take { size_t got; bool late; };
static void on_body(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct take *t = arg;
    t->got += chunk.len;
    if (!last)
        return;
    graft_printf(req, "%zu", t->got);
    graft_done(req);
}
static void look(graft_req *req, void *arg)
{
    struct take *t = arg;
    if (!atomic_load(&cooled))
        graft_after(req, 5, look, t);
    else if (t->late)
        graft_on_body(req, on_body, t);
    else
        graft_body_resume(req);
}
static graft_next take(graft_req *req, void *state)
{
    (void)state;
    struct take *t = graft_alloc(req, sizeof *t);
    t->got = 0;
    t->late = graft_query(req, "late").len > 0;
    if (!t->late) {
        graft_body_pause(req);
        graft_on_body(req, on_body, t);
    }
    return graft_after(req, 5, look, t) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static void tick(graft_req *req, void *arg)
{
    unsigned *left = arg;
    *left -= atomic_load(&cooled);
    graft_write(req, "x", 1);
    graft_flush(req);
    if (*left > 0)
        graft_after(req, 20, tick, left);
    else
        graft_done(req);
}
static graft_next stream(graft_req *req, void *state)
{
    (void)state;
    unsigned *left = graft_alloc(req, sizeof *left); /* ticks after cool: one second */
    *left = 50;
    tick(req, left);
    return GRAFT_LATER;
}
static void cool(graft_self *self, void *state)
{
    (void)state;
    (void)self;
    atomic_store(&cooled, true);
}
GRAFT_PLUGIN(
    .name = "waits", .cool = cool,
    .routes = (const graft_route[]){ { "POST", "/take", take, GRAFT_STREAM }, { "GET", "/stream", stream, 0 }, { 0 } },
)
"""


@case("a body that its handler has paused, or does not take yet, does not hold `cool` back")
def _():
    for late in ("", "?late=1"):
        s = Server({"waits": compile_plugin(WAITS), "hello": "hello"}, drain(idle=100), workers=2)
        body = b"x" * 100
        conns = {"a body with a length": [request_bytes("POST", "/take" + late, body=body)],
                 "half of one": [request_bytes("POST", "/take" + late, {"Content-Length": "200"}) + body],
                 "one in chunks": [request_bytes("POST", "/take" + late, {"Transfer-Encoding": "chunked"}) + chunked(body)],
                 "one with a request behind": [request_bytes("POST", "/take", body=body) + HELLO]}
        for what, parts in conns.items():
            conns[what] = Conn(s)
            conns[what].send(*parts)
        wait_for(lambda: s.status()["in_flight"] == 4, 5, "all are in progress")
        s.send_signal(signal.SIGTERM)
        s.wait_event("cooling", timeout=15)
        conns["half of one"].send(body)
        for what, c in conns.items():
            answer = c.response()
            is_((answer.status, answer.text, answer.header("Connection")), (200, "200" if what == "half of one" else "100", CLOSE),
                f"{what}{late}: goes on when cool has run, and is the last of its connection")
            is_(c.ends(), "eof", "which ends without a reset")
        is_(s.wait_exit(), 0, "exit 0")
        is_(s.event("drain_end")["cut"], 0, "nothing was cut")


@case("no request begins when `cool` has run, not even behind a stream whose head left before the drain")
def _():
    s = Server({"waits": compile_plugin(WAITS), "hello": "hello"}, drain(idle=100, timeout=20000))
    address = s.address
    with Conn(s) as c:
        c.send(request_bytes("GET", "/stream"))
        like(dict(c.head()[3]).get("Connection"), "None", "the head has left, and does not say close")
        s.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(address), 10, "the listeners close")
        while s.proc.poll() is None and not c.eof and b"HTTP/1.1" not in c.data:
            try:
                c.send(HELLO)  # it comes while the stream runs, again and again
                c.fill(0.05)
            except OSError:
                break
    is_(b"HTTP/1.1" in c.data, False, "what came behind the stream is not begun")
    is_(s.wait_exit(), 0, "exit 0")
    is_(s.event("drain_end")["cut"], 0, "nothing was cut")


@case("cool, then worker_fini on every worker, then fini, after the last request; the log says so; exit 0")
def _():
    s = Server(["life_v1", "versioned_v1"], drain(idle=100), workers=3)
    with Conn(s) as c:
        c.send(request_bytes("GET", "/version/timer?ms=1200"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.send_signal(signal.SIGTERM)
        is_(c.response().status, 200, "the request ends")
        wait_for(lambda: "cool" in life(s), 5, "cool ran")
    is_(s.wait_exit(), 0, "exit 0")
    is_(life(s)[-5:], ["cool", "worker_fini", "worker_fini", "worker_fini", "fini"], "the callbacks in their order")
    is_(len(s.find_events("retired", unmapped=True)), 2, "both versions were unloaded, and unmapped")
    names = [e["event"] for e in s.log()]
    ok(names.index("drain_start") < names.index("cooling") < names.index("retired") < names.index("drain_end"),
       "drain_start, cooling, retired, drain_end", names)
    is_(s.staged(), [], "no staged copy is left")
    is_(os.path.exists(s.control), False, "nor the control socket")


@case("graft_every stands still before fini, and a stuck stream of another kind does not matter")
def _():
    s = Server(["every_metrics_v1", "hello"], drain(idle=50))
    s.get("/every")
    time.sleep(0.2)
    is_(s.stop(), 0, "exit 0")
    found = [e["msg"] for e in s.log() if e["msg"].startswith("every v1 fini")]
    like(found, r"overlaps=0 outside=0", "no tick outside start..cool")


@case("at drain.timeout_ms what is left is cut and logged with route, version and age: exit 3")
def _():
    s = Server(["slow", "life_v1", "hello"], drain(idle=50, timeout=1500), status=3)
    conns = [Conn(s) for _ in range(3)]
    conns[0].send(request_bytes("GET", "/slow/timer?ms=60000"))
    conns[1].send(request_bytes("GET", "/slow/stream?chunks=1000&ms=100"))
    conns[2].send(request_bytes("GET", "/hello"))
    is_(conns[2].response().status, 200, "another is answered")
    wait_for(lambda: s.status()["in_flight"] == 2, 5, "two are in progress")
    time.sleep(secs(0.3))
    began = time.monotonic()
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 3, "exit 3")
    within(time.monotonic() - began, ms(1500) / 1000 - 0.05, ms(1500) / 1000 + secs(4), "at the deadline")
    end = s.event("drain_end")
    is_((end["cut"], end["level"]), (2, "error"), "two were cut, at error")
    cut = s.find_events("cooling", level="warn", plugin="slow")
    is_(len(cut), 1, "what held it is named")
    if cut:
        is_(cut[0]["version"], "1.0.0", "with its version")
        like(cut[0]["id"], r"^[0-9a-f]{12}\.\d+$", "and its id")
        like(cut[0]["route"], r"^(GET )?/slow/(timer|stream)$", "with the oldest request's route")
        ok(cut[0]["age_ms"] >= ms(1500), "and age", cut[0])
        is_(cut[0]["in_flight"], 2, "and how many there were")
    is_(life(s).count("fini"), 1, "the other plugins had their fini")
    for c in conns[:2]:
        ok(c.ends(2) in ("eof", "reset"), "the client sees the connection end")


@case("the deadline also when a handler blocks its worker")
def _():
    s = Server(["blocking_handler", "slow"], drain(idle=50, timeout=1500), status=3, workers=2)
    with Conn(s) as c:
        c.send(request_bytes("GET", "/blocking?ms=60000"))
        time.sleep(0.3)
        began = time.monotonic()
        s.send_signal(signal.SIGTERM)
        s.wait_event("drain_start")
        is_(s.status()["draining"], True, "the control socket answers")
        is_(s.wait_exit(), 3, "exit 3")
        within(time.monotonic() - began, ms(1500) / 1000 - 0.05, ms(1500) / 1000 + secs(4), "at the deadline")
    cut = s.event("cooling", level="warn", plugin="blocking-handler")
    ok(cut, "the plugin is named")
    if cut:
        like(cut["route"], "/blocking", "with the route")
        ok(cut["age_ms"] >= ms(1500), "and since when", cut)
        is_(cut["waits_for"], "handler", "and the callback")


@case("the deadline also when fini, cool or worker_fini hangs")
def _():
    for sin in ("fini", "cool", "worker_fini"):
        s = Server([f"{sin}_hangs", "hello"], drain(idle=50, timeout=1200), status=3)
        is_(s.get("/sin").status, 200, f"{sin}_hangs serves")
        began = time.monotonic()
        s.send_signal(signal.SIGTERM)
        is_(s.wait_exit(), 3, f"{sin} hangs: exit 3")
        within(time.monotonic() - began, ms(1200) / 1000 - 0.05, ms(1200) / 1000 + secs(4), "at the deadline")
        ok(any(e["msg"] == f"life {sin} hangs" for e in s.log()), f"{sin} was called")
        cut = s.event("cooling", level="warn", plugin="sin")
        ok(cut and cut["waits_for"] == sin, f"the log says that {sin} was waited for", cut)


@case("a callback of the drain that becomes stuck (timeouts_ms.load) is waited for until the deadline")
def _():
    for sin in ("fini", "cool", "worker_fini"):
        s = Server([f"{sin}_hangs", "hello"], drain(idle=50, timeout=2500, timeouts_ms={"load": ms(300)}), status=3)
        s.send_signal(signal.SIGTERM)
        is_(s.wait_exit(), 3, f"{sin} hangs for ever: exit 3")
        ok(s.event("stuck", plugin="sin"), f"{sin} was called stuck before that")
        cut = s.event("cooling", level="warn", plugin="sin")
        ok(cut and cut["waits_for"] == sin, f"the log says that {sin} was waited for", cut)
        s = Server([f"{sin}_hangs", "hello"], drain(idle=50, timeout=60000, timeouts_ms={"load": ms(300)},
                                                    plugins={"sin": {"config": {"ms": ms(1500)}}}))
        s.send_signal(signal.SIGTERM)
        is_(s.wait_exit(), 0, f"{sin} returns late: exit 0")
        ok(s.event("stuck", plugin="sin"), f"{sin} was called stuck meanwhile")
        ok(s.event("retired", plugin="sin"), "and it ended as it should")


@case("what was stuck before the drain is not waited for")
def _():
    s = Server(["fini_hangs", "hello"], drain(idle=50, timeout=60000, timeouts_ms={"load": ms(300)}))
    s.install("good", "fini_hangs")
    is_(s.reload()["ok"], True, "another version takes its place")
    s.wait_event("stuck", plugin="sin")
    began = time.monotonic()
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "exit 0")
    ok(time.monotonic() - began < ms(60000) / 1000 / 2, "long before the deadline")


@case("out of descriptors while the listeners close: idle clients make room for those in the queue")
def _():
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    s = Server(["hello"], drain(idle=300, timeout=60000), preexec_fn=few, workers=2)
    address = s.address
    conns = []
    for i in range(150):
        conns.append(Conn(address))
        if i < 40:
            is_(conns[-1].get("/hello").status, 200, "an idle client")
    for c in conns[110:]:
        c.send(HELLO)
    s.wait_event("accept_paused")
    began = time.monotonic()
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "exit 0")
    ok(time.monotonic() - began < ms(60000) / 1000 / 2, "long before the deadline")
    is_([c.response().status for c in conns[110:]], [200] * 40, "all that had asked are answered")


@case("a client that reads slowly gets its answer whole")
def _():
    s = Server(["stream_down"], drain(idle=50))
    size = 4 << 20
    c = Conn(s, rcvbuf=8192)
    c.send(request_bytes("GET", f"/down?bytes={size}&length=1"))
    status, _, _, fields, _ = c.head()
    s.send_signal(signal.SIGTERM)
    s.wait_event("drain_start")
    time.sleep(0.5)
    is_(len(c._bytes(size, "the body")), size, "all of it")
    is_(c.ends(), "eof", "then the end, without a reset")
    is_(s.wait_exit(), 0, "exit 0")


@case("graftctl drain does what SIGTERM does; a reload meanwhile is answered `draining`")
def _():
    s = Server(["hello", "versioned_v1"], drain(delay=1500, idle=50))
    with Conn(s) as c:
        c.send(request_bytes("GET", "/version/timer?ms=1000"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        run = s.ctl("drain")
        is_(run.returncode, 0, "graftctl drain exits 0")
        is_(s.ops_get("/readyz").status, 503, "readiness fails")
        answer = s.reload()
        is_((answer["_status"], answer["ok"], answer["error"]), (503, False, "draining"), "reload: 503 draining")
        ok(answer.get("reason"), "with a reason", answer)
        run = s.ctl("reload")
        is_(run.returncode, 1, "graftctl reload exits 1")
        like(run.stdout + run.stderr, "drain", "and says why")
        is_(s.reload(config=True)["error"], "draining", "with the configuration, too")
        is_(s.api("POST", "/v1/drain")["ok"], True, "draining twice is the same drain")
        mark = s.mark()
        s.send_signal(signal.SIGUSR2)
        event = s.wait_event("swap", since=mark)
        is_((event["ok"], event["level"]), (False, "error"), "USR2: a swap event, not ok")
        is_(c.response().status, 200, "the request ends")
    is_(s.wait_exit(), 0, "exit 0")
    like(s.event("drain_start")["msg"], "graftctl drain", "drain_start says who asked")
    is_(len(s.find_events("drain_start")), 1, "once")


@case("a drain during a swap abandons it, and what was loaded is undone")
def _():
    for sin in ("init", "ready", "start", "worker_init"):
        s = Server({"p": "good", "hello": "hello"}, drain(idle=50, plugins={"sin": {"config": {"ms": ms(1500)}}}))
        s.install(f"{sin}_hangs", "p")
        mark = s.mark()
        s.send_signal(signal.SIGUSR2)
        wait_for(lambda: any(e["msg"] == f"life {sin} hangs" for e in s.log()), 10, f"{sin} hangs")
        s.send_signal(signal.SIGTERM)
        s.wait_event("drain_start", since=mark)
        is_(s.wait_exit(), 0, f"in {sin}: exit 0")
        swap = s.find_events("swap", since=mark)
        is_([(e["ok"], e["changed"]) for e in swap], [(False, [])], "one swap event: nothing changed")
        like(swap and swap[0]["msg"], "drain", "and why")
        is_(s.find_events("plugin_loaded", since=mark), [], "nothing more was loaded")
        if sin != "init":
            ok(any(e["msg"] == "life fini" for e in s.log()[mark:]), "its fini ran")


@case("a drain after adopt ends the old version too")
def _():
    s = Server({"v": "versioned_v1", "hello": "hello"}, drain(idle=50))
    with Conn(s) as c:
        c.send(request_bytes("GET", "/version/timer?ms=1500"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request on v1")
        s.install("versioned_v2", "v")
        is_(s.reload()["ok"], True, "v2 serves")
        s.send_signal(signal.SIGTERM)
        like(c.response().body, b"v1".decode(), "the request ends on v1")
    is_(s.wait_exit(), 0, "exit 0")
    is_(sorted(e["version"] for e in s.find_events("retired", plugin="versioned")), ["v1", "v2"], "both are retired")


@case("SIGTERM before the first load has finished")
def _():
    s = Server({"p": "init_hangs", "hello": "hello"},
               drain(idle=50, plugins={"sin": {"config": {"ms": ms(1200)}}}), wait=False)
    wait_for(lambda: any(e["msg"] == "life init hangs" for e in s.log()), 10, "init is running")
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "it waits for init, undoes it, and exits 0")
    ok(s.event("drain_start") and s.event("drain_end"), "drain_start and drain_end are logged")
    is_(s.event("listening"), None, "it never listened")
    s = Server({"p": "init_hangs", "hello": "hello"}, drain(idle=50, timeout=1000), wait=False, status=3)
    wait_for(lambda: any(e["msg"] == "life init hangs" for e in s.log()), 10, "init never returns")
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 3, "the deadline holds there, too: exit 3")


@case("clients that wait in the queue during the first load are answered when the drain comes first")
def _():
    port = free_port()
    s = Server({"p": "init_hangs"}, drain(idle=50, plugins={"sin": {"config": {"ms": ms(1000)}}}),
               listen=(f"127.0.0.1:{port}",), wait=False)
    wait_for(lambda: any(e["msg"] == "life init hangs" for e in s.log()), 10, "init is running")
    with Conn(("127.0.0.1", port)) as c:
        c.send(HELLO)
        s.send_signal(signal.SIGTERM)
        answer = c.response()
        is_((answer.status, answer.header("Connection")), (503, CLOSE), "503, and not a reset")
    is_(s.wait_exit(), 0, "exit 0")


@case("drain.timeout_ms shorter than drain.delay_ms still ends the process")
def _():
    path = os.path.join(tempdir(), "s.sock")
    s = Server(["hello"], drain(delay=60000, timeout=500), listen=("127.0.0.1:0", f"unix:{path}"), status=3)
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 3, "exit 3")
    is_(os.path.exists(path), False, "the unix socket's file is removed")


@case("drain keys changed by HUP take effect")
def _():
    s = Server(["slow"], drain(idle=50, timeout=60000), status=3)
    s.config["drain"]["timeout_ms"] = ms(600)
    is_(s.reload_signal(signal.SIGHUP)["ok"], True, "HUP is taken")
    with Conn(s) as c:
        c.send(request_bytes("GET", "/slow/timer?ms=60000"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        is_(s.stop(), 3, "cut at the new deadline")


main()
