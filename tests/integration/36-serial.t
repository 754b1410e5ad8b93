#!/usr/bin/env python3
# GRAFT_SERIAL: one callback at a time per plugin name, across workers and versions
import os, re, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

QUICK = {"drain": {"idle_ms": 20}}


def server(workers=3, plugins=None, **config):
    lock = os.path.join(tempdir(), "lock")
    return Server(plugins or {"serial": "serial_v1", "hello": "hello", "every_metrics": "every_metrics_v1",
                              "versioned": "versioned_v1"},
                  config={**QUICK, "middleware": ["serial"], "plugins": {"serial": {"config": {"lock": lock}}}, **config},
                  workers=workers)


def on_workers(s, n):
    """A connection to each of n workers."""
    found, others = {}, []
    while len(found) < n and len(others) < 300:
        c = s.connect(timeout=30)
        worker = c.get("/every").json()["worker"]
        if worker in found:
            others.append(c)
        else:
            found[worker] = c
    for c in others:
        c.close()
    if len(found) < n:
        raise Failed(f"{len(found)} of {n} workers were met in {len(others)} connections")
    return [found[w] for w in sorted(found)]


def storm(s, targets, seconds=1.5, clients=6):
    """Clients that send all kinds of requests; (answers, failures)."""
    until, answers, failures = time.monotonic() + secs(seconds), [], []

    def live(n):
        try:
            with s.connect(timeout=60, rcvbuf=16384) as c:
                i = n
                while time.monotonic() < until:
                    method, target, body = targets[i % len(targets)]
                    answers.append((target, c.request(method, target, body=body)))
                    i += 1
        except (HttpError, OSError) as error:
            failures.append(f"{type(error).__name__}: {error}")
    threads = [threading.Thread(target=live, args=(n,)) for n in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return answers, failures


ALL_KINDS = [("GET", "/serial?ms=1", None), ("GET", "/serial/later?ms=1", None), ("POST", "/serial/up?ms=1", b"x" * 200000),
             ("GET", "/serial/down?ms=1", None), ("GET", "/version/timer?ms=2&serial-mw=1", None),
             ("GET", "/version/offload?ms=2&serial-mw=1", None), ("GET", "/none?serial-mw=1", None)]


def check(s, answers, failures, since=0):
    is_(failures, [], "no request failed")
    is_(s.find_events("plugin", since, msg=re.compile("OVERLAP")), [], "no two callbacks at once")
    kinds = {t.split("?")[0] for t, _ in answers}
    is_(kinds, {t.split("?")[0] for _, t, _ in ALL_KINDS}, "of any kind")
    overlaps = [a.body for _, a in answers if b"overlaps=" in a.body and b"overlaps=0" not in a.body]
    is_(overlaps, [], "handler, post, then, after, on_body, on_writable, every")


@case("across workers")
def _():
    s = server()
    answers, failures = storm(s, ALL_KINDS)
    check(s, answers, failures)


@case("across versions")
def _():
    s = server()
    over, swaps = threading.Event(), []

    def swap():
        v = 2
        while not over.is_set():
            s.install(make_unique(f"serial_v{v}"), "serial")
            swaps.append(s.reload())
            v = 3 - v
            over.wait(0.1)
    t = threading.Thread(target=swap)
    t.start()
    answers, failures = storm(s, ALL_KINDS)
    over.set()
    t.join()
    ok(swaps and all(r["ok"] for r in swaps), f"{len(swaps)} swaps", swaps[-1])
    check(s, answers, failures)
    ok(any(a.body.startswith(b"v1") for _, a in answers) and any(a.body.startswith(b"v2") for _, a in answers),
       "both versions served")


@case("on_abort too")
def _():
    s = server()
    over = threading.Event()

    def leave():
        while not over.is_set():
            with s.connect() as c:
                c.send(request_bytes("POST", "/serial/up?ms=2", {"Content-Length": "100000"}) + b"x" * 1000)
                time.sleep(0.01)
    threads = [threading.Thread(target=leave) for _ in range(3)]
    for t in threads:
        t.start()
    answers, failures = storm(s, ALL_KINDS, 1)
    over.set()
    for t in threads:
        t.join()
    check(s, answers, failures)
    s.wait_event("plugin", msg="serial aborted")
    ok(True, "on_abort ran in its turn")
    wait_for(lambda: s.status()["in_flight"] == 0, 20, "the end of all")


@case("a worker that finds it busy serves others")
def _():
    s = server(workers=2, middleware=[])
    a, b = on_workers(s, 2)
    with a, b, s.connect() as any_other:
        a.send(request_bytes(target="/serial?ms=1200"))
        time.sleep(0.1)
        began = time.monotonic()
        c = None
        b.send(request_bytes(target="/serial?ms=1"))
        for _ in range(200):            # one more connection to b's worker: a's stands still
            c = s.connect()
            c.send(request_bytes(target="/every"))
            try:
                c.fill(0.2)
                break
            except TimeoutError:
                c.close()
        waited = time.monotonic() - began
        is_((c.response().status, b.is_open(0.05)), (200, True), "the worker parks that request and serves others")
        ok(waited < 1.0 or SANITIZER != "none", "at once", waited)
        like(a.response().body, "overlaps=0", "the first has its turn")
        like(b.response().body, "overlaps=0", "then the parked one")
        c.close()


@case("held for one callback, not across LATER")
def _():
    s = server(workers=2)
    a, b = on_workers(s, 2)
    with a, b:
        a.send(request_bytes("POST", "/serial/up?ms=1", {"Content-Length": "10"}))
        wait_for(lambda: s.active("serial")["in_flight"], 5, "a LATER request")
        is_(b.get("/serial?ms=1").status, 200, "another request has its turn while one is LATER")
        a.send(b"x" * 10)
        is_(a.response().status, 200, "which goes on afterwards")


BUSY = r"""
#include "contract.h"
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    sleep_ms(query_number(req, "ms", 100));
    return graft_text(req, 200, "busy\n");
}
static void aborted(graft_req *req, void *arg)
{
    (void)arg;
    graft_log(graft_self_of(req), GRAFT_INFO, "busy on_abort");
}
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    graft_on_abort(req, aborted, NULL);
    return GRAFT_NEXT;
}
static graft_next on_response(graft_req *req, void *state)
{
    (void)state;
    graft_add_header(req, "X-Busy", "1");
    return GRAFT_NEXT;
}
static void on_finish(graft_req *req, void *state)
{
    (void)state;
    graft_str path = graft_path(req);
    graft_log(graft_self_of(req), GRAFT_INFO, "busy on_finish %.*s", (int)path.len, path.ptr);
}
GRAFT_PLUGIN(.flags = GRAFT_SERIAL, .name = "busy", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/busy", handler, 0 }, { 0 } },
             .on_request = on_request, .on_response = on_response, .on_finish = on_finish)
"""


@case("the server's own answer while it is busy")
def _():
    s = Server(
        {"busy": compile_plugin(BUSY, f"-I{SRCDIR}/tests/plugins"), "later_api": "later_api",
         "every_metrics": "every_metrics_v1"},
        config={**QUICK, "middleware": ["busy"], "timeouts_ms": {"handler": 500}}, workers=2)
    a, b = on_workers(s, 2)
    with a, b:
        mark = s.mark()
        is_(b.get("/later?which=timer&ms=1000").header("X-Busy"), "1", "a 504 while it is free: on_response runs")
        s.wait_event("plugin", since=mark, msg="busy on_finish /later")
        mark = s.mark()
        b.send(request_bytes(target="/later?which=timer&ms=1"))
        is_(b.response().header("X-Busy"), "1", "an answer while it is free")
        s.wait_event("plugin", since=mark, msg="busy on_finish /later")
        mark = s.mark()
        b.send(request_bytes(target="/later?which=timer&ms=1400"))
        time.sleep(0.1)
        a.send(request_bytes(target="/busy?ms=1500"))
        answer = b.response()
        is_((answer.status, answer.header("X-Busy")), (504, None),
            "a plugin that is GRAFT_SERIAL and busy: its on_response is skipped when the server answers by itself")
        is_(s.find_events("plugin", mark, msg=re.compile("busy on_")), [], "nothing of it has run")
        is_(a.response().body, b"busy\n", "it ends")
        s.wait_event("plugin", since=mark, msg="busy on_finish /later")
        events = [e["msg"] for e in s.find_events("plugin", mark, msg=re.compile("busy on_")) if "/busy" not in e["msg"]]
        is_(events, ["busy on_abort", "busy on_finish /later"], "its on_abort and on_finish follow when it is free")
        mark = s.mark()
        a.send(request_bytes(target="/busy?ms=1300"))
        time.sleep(0.1)
        b.send(request_bytes(target="/later?which=timer&ms=1"))
        answer = b.response()
        is_((answer.status, answer.header("X-Busy")), (504, None), "a request that waited for its turn too long: 504")
        a.response()
        s.wait_event("plugin", since=mark, msg="busy on_finish /busy")
        time.sleep(0.1)
        is_(s.find_events("plugin", mark, msg="busy on_finish /later"), [],
            "without on_finish: its on_request was never called")


main()
