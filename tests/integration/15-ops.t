#!/usr/bin/env python3
# The ops address: health, metrics that promtool accepts, the page; strict and bounded.
import os
import shutil
import socket
import subprocess
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

BLOCKER = r"""
#include <graft/graft.h>
#include <unistd.h>
static graft_metric *blocks;
static graft_next block(graft_req *req, void *state)
{
    (void)state;
    graft_add(blocks, 1);
    sleep(7);
    return graft_text(req, 200, "awake\n");
}
static graft_next quick(graft_req *req, void *state)
{
    (void)state;
    graft_add(blocks, 2);
    return graft_text(req, 200, "quick\n");
}
static int init(graft_self *self, void **state)
{
    (void)state;
    blocks = graft_counter(self, "blocks_total", "Times that \"it\" blocked.\nTwo lines.");
    return blocks != NULL && graft_counter(self, "bad name", "") == NULL ? 0 : -1;
}
GRAFT_PLUGIN(.name = "odd-one", .version = "1\"<b>", .init = init,
             .routes = (const graft_route[]){ { "GET", "/block", block, 0 },
                                              { "GET", "/quick", quick, 0 }, { 0 } }, )
"""


@case("health of a server that serves")
def _():
    s = Server(["hello"])
    for path in ("/livez", "/readyz", "/startupz"):
        answer = s.ops_get(path)
        is_((answer.status, answer.body), (200, b"ok\n"), path)
        is_(answer.header("Cache-Control"), "no-store", f"{path} is not to be cached")
    with Conn(s.ops) as c:
        is_(c.request("HEAD", "/livez").status, 200, "HEAD")
    with Conn(s.ops) as c:
        answer = c.request("POST", "/livez")
        is_((answer.status, answer.header("Allow")), (405, "GET, HEAD"), "POST is not for health")
    is_(s.ops_get("/").status, 404, "anything else is 404")
    is_(s.ops_get("/livez?x=1").status, 200, "a query does not matter")


@case("readiness fails first, and the ops address stays while draining")
def _():
    s = Server(["hello"], {"drain": {"delay_ms": int(1500 * SCALE), "idle_ms": 50}})
    s.send_signal(15)
    s.wait_event("drain_start")
    answer = s.ops_get("/readyz")
    is_(answer.status, 503, "not ready")
    like(answer.text, "draining", "says why")
    is_(s.ops_get("/livez").status, 200, "alive all the same")
    is_(s.get("/hello").status, 200, "still serving")
    is_(s.metrics()["graft_draining"], 1, "the metric says so")
    is_(s.wait_exit(), 0, "drained")


@case("a worker that stands in a handler is named")
def _():
    s = Server([compile_plugin(BLOCKER)], workers=1)
    with s.connect(timeout=20) as c:
        c.send(request_bytes("GET", "/block"))
        answer = wait_for(lambda: (lambda a: a.status == 503 and a)(s.ops_get("/livez")), 9, "livez to fail",
                          every=0.1)
        like(answer.text, r"worker 0 has not turned its loop for [0-9.]+ s", "which worker, how long")
        like(answer.text, r'handler of odd-one 1"<b> \([0-9a-f]{12}\.1\), route /block', "plugin and route")
        like(s.ops_get("/status").text, r"1&quot;&lt;b&gt;", "escaped on the page")
        isnt(s.status()["workers"][0]["lag_us"], 0, "graftctl status shows the lag")
        is_(c.response().body, b"awake\n", "the request is answered")
    wait_for(lambda: s.ops_get("/livez").status == 200, 5, "livez to recover")
    ok(True, "alive again")


@case("metrics")
def _():
    s = Server({"odd": compile_plugin(BLOCKER), "hello": "hello"})
    for _ in range(3):
        s.get("/quick")
    s.get("/nope")
    s.reload()
    answer = s.ops_get("/metrics")
    like(answer.header("Content-Type"), r"^text/plain; version=0\.0\.4", "the type that Prometheus asks for")
    promtool = shutil.which("promtool")
    if promtool:
        run = subprocess.run([promtool, "check", "metrics"], input=answer.body, capture_output=True)
        is_((run.returncode, run.stderr), (0, b""), "promtool finds nothing")
    else:
        skip("promtool is not installed", "promtool check metrics")
    m = s.metrics()
    labels = f'plugin="odd-one",version="1\\"<b>",id="{s.active("odd-one")["id"]}"'
    is_(m[f'graft_requests_total{{{labels},class="2xx"}}'], 3, "requests by version and class")
    is_(m[f'graft_request_duration_seconds_count{{{labels},class="2xx"}}'], 3, "the histogram counts the same")
    is_(m[f'graft_request_duration_seconds_bucket{{{labels},class="2xx",le="+Inf"}}'], 3, "and so does its last bucket")
    is_(m["graft_plugin_odd_one_blocks_total"], 6, "the plugin's own counter")
    is_(m['graft_http_responses_total{class="4xx"}'], 1, "the 404")
    is_(m["graft_connections_accepted_total"], 4, "connections accepted")
    is_(m['graft_swaps_total{outcome="ok"}'], 1, "the first load")
    is_(m['graft_swaps_total{outcome="unchanged"}'], 1, "the scan that found nothing")
    is_(m['graft_versions{state="active"}'], 2, "two active versions")
    ok(m["process_open_fds"] > 5 and m["process_resident_memory_bytes"] > 1e6, "process figures")
    odd = s.active("odd-one")["id"]
    s.install(make_unique(compile_plugin(BLOCKER)), "odd")
    ok(s.reload()["ok"], "swapped")
    isnt(s.active("odd-one")["id"], odd, "another version")
    s.get("/quick")
    is_(s.metrics()["graft_plugin_odd_one_blocks_total"], 8, "a swap resets no plugin counter")


@case("the page")
def _():
    s = Server(["hello", "echo"])
    answer = s.ops_get("/status")
    like(answer.header("Content-Type"), "text/html", "HTML")
    for text in ("hello", "/hello", "/echo", s.active("hello")["id"], "Serving"):
        like(answer.text, text.replace(".", r"\."), f"shows {text}")
    ok("<script" not in answer.text, "has no script")


@case("bad requests")
def _():
    s = Server(["hello"])
    for status, data in ((400, b"GET\r\n\r\n"), (400, b"GET / HTTP/1.1\r\n\r\n"), (505, b"GET / HTTP/2.0\r\n\r\n"),
                         (400, b"GET / HTTP/1.1\nHost: a\n\r\n\r\n"), (431, b"GET / HTTP/1.1\r\nA: " + b"a" * 20000),
                         (413, b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"),
                         (501, b"POST /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")):
        with Conn(s.ops) as c:
            c.send(data)
            is_(c.response().status, status, f"{status} for {data[:40]!r}")
            is_(c.ends(), "eof", "and the end, without a reset")


@case("a refused HEAD is answered without a body")
def _():
    s = Server(["hello"])
    for status, data in ((400, b"HEAD /livez\r\n\r\n"), (400, b"HEAD /livez HTTP/1.1\r\n\r\n"),
                         (505, b"HEAD /livez HTTP/2.0\r\n\r\n"), (431, b"HEAD /livez HTTP/1.1\r\nA: " + b"a" * 20000)):
        for to in (s.ops, s.control):
            with Conn(to) as c:
                c.send(data)
                is_(c.response("HEAD").status, status, f"{status} for {data[:40]!r}")
                is_((c.ends(), c.data), ("eof", b""), "and nothing behind the head")


@case("clients that hold all places do not keep others out")
def _():
    s = Server(["hello"])
    idle = [Conn(s.ops) for _ in range(80)]
    for c in idle[::2]:
        c.send(b"GET /livez HT")
    time.sleep(0.1)
    is_(s.ops_get("/livez").status, 200, "served beside 80 idle connections")
    for c in idle:
        c.close()


@case("no ops address")
def _():
    s = Server(["hello"], {"ops": ""})
    ok(s.event("ops") is None, "none is named")
    is_(s.get("/hello").status, 200, "serves")


@case("an ops address that is taken")
def _():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        s = Server(["hello"], {"ops": address}, start=False)
        run = graftd("-c", s.config_path)
        is_(run.returncode, 1, "exit 1")
        like(run.stderr, f"ops {address}.*in use.*--ops", "says which, and what to do")


def refused(address, *fds):
    s = Server(["hello"], {"ops": address}, start=False)
    run = subprocess.Popen([GRAFTD, "-c", s.config_path], stderr=subprocess.PIPE, text=True, pass_fds=fds)
    wait_for(lambda: run.poll() is not None or os.path.exists(s.control), 20, "an end, or a server")
    run.terminate()
    said = run.communicate()[1]
    return run.returncode, said


@case("an ops socket that is handed over must listen")
def _():
    with socket.socket() as quiet, socket.socket(type=socket.SOCK_DGRAM) as udp, open(os.devnull) as file:
        quiet.bind(("127.0.0.1", 0))
        for it, why in ((quiet, "does not listen"), (udp, "not a stream socket"), (file, "not a stream socket")):
            code, said = refused(f"fd:{it.fileno()}", it.fileno())
            is_(code, 1, f"{why}: exit 1")
            like(said, f"ops fd:{it.fileno()}: .*{why}", "says so")
    with socket.socket() as good:
        good.bind(("127.0.0.1", 0))
        good.listen()
        s = Server(["hello"], {"ops": f"fd:{good.fileno()}"}, pass_fds=(good.fileno(),))
        with Conn(good.getsockname()) as c:
            is_(c.get("/readyz").status, 200, "one that listens serves")


@case("an ops address that is a unix socket")
def _():
    path = os.path.join(tempdir(), "ops.sock")
    with open(path, "w") as f:
        f.write("precious")
    code, said = refused(f"unix:{path}")
    is_(code, 1, "a file that is no socket: exit 1")
    like(said, "ops unix:.*no socket", "and says so")
    with open(path) as f:
        is_(f.read(), "precious", "it is left alone")
    os.unlink(path)
    s = Server(["hello"], {"ops": f"unix:{path}"})
    with Conn(path) as c:
        is_(c.get("/readyz").status, 200, "answers there")
    code, said = refused(f"unix:{path}")
    is_(code, 1, "a live server's: exit 1")
    like(said, "ops unix:.*another process listens", "and says so")
    s.kill()
    s = Server(["hello"], {"ops": f"unix:{path}"})
    with Conn(path) as c:
        is_(c.get("/readyz").status, 200, "a killed server's is taken over")
    os.rename(path, path + ".old")
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(path)
        is_(s.stop(), 0, "stops")
        ok(os.path.exists(path), "a successor's socket is not removed")


main()
