#!/usr/bin/env python3
# The n-th allocation, open, mmap or dlopen inside a swap fails, for every n: the old generation answers
"""As tests/unit/swap_fault_test.c, but of the whole server, and of its libraries too: inject/inject.c is
preloaded and armed from just before SIGUSR2 until the swap event."""
import os
import signal
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403
from injecttest import *  # noqa: E402,F403

if SANITIZER != "none":
    skip_all("sanitizers have an allocator of their own")

def attempt(s, marked, injector, kind, n, many, number):
    """One swap in which that call fails: whether there was such a call; wrong: a sentence or None."""
    serves = mark_of(s.get("/version"))
    sha256 = put(s, marked(number), "versioned")
    mark = s.mark()
    injector.arm(kind, n, FOR_EVER if many else n + 1)
    try:
        s.send_signal(signal.SIGUSR2)
        event = wait_for(lambda: s.event("swap", mark), 20, "the swap event", every=0.001)
    finally:
        calls = injector.disarm()
    hit, wrong = calls > n, None
    now, events = mark_of(s.get("/version")), s.find_events("swap", mark)
    if len(events) != 1:
        wrong = f"not one swap event: {events}"
    elif event.get("ok"):
        wrong = None if now == number else f"ok, but {now} serves instead of {number}"
    elif not hit:
        wrong = f"failed, but nothing was injected: {event}"
    elif now != serves:
        wrong = f"failed, but {now} serves, and no longer {serves}"
    elif len(event["msg"]) < 10:
        wrong = f"failed without a reason: {event}"
    if not wrong and not event.get("ok"):
        answer = s.reload()
        if not answer["ok"] or mark_of(s.get("/version")) != number:
            wrong = f"the next swap does not work: {answer}"
    if not wrong and s.active("versioned")["sha256"] != sha256:
        wrong = f"ps says {s.active('versioned')}"
    return hit, wrong, event


injector = None
marked = None
for kind in KINDS:
    for many in (False, True):
        @case(f"{'all from the' if many else 'the'} n-th {kind} {'on fail' if many else 'fails'}")
        def _(kind=kind, many=many):
            global injector, marked
            injector, marked = injector or Injector(), marked or Marked()
            s = Server({"hello": "hello", "versioned": "versioned_v1"}, env=injector.env)
            for number in range(1, 4):
                put(s, marked(number), "versioned")
                s.reload()
            settle(s, 2)
            before, n, failed, wrongs, reasons = footprint(s), 0, 0, [], {}
            # Many small allocations are alike: the harsher walk takes every third of them.
            step = 3 if many and kind == "allocation" else 1
            while True:
                number += 1
                hit, wrong, event = attempt(s, marked, injector, kind, n, many, number)
                failed += not event.get("ok")
                reasons[event["msg"][:150]] = n
                if not hit or wrong:
                    if wrong:
                        wrongs.append(f"n={n}: {wrong}")
                    if not hit or len(wrongs) > 5:
                        break
                n += step
                if n > 3000:
                    wrongs.append("it never ends")
                    break
            is_(wrongs, [], f"{n} calls can fail; {failed} swaps failed with a reason, and then worked")
            ok(n > 0 and failed > 0, "some made a swap fail")
            for reason in list(reasons)[:12]:
                diag(reason)
            is_settled(s, 2, "two versions are left, mapped and staged")
            is_footprint(s, before, "nothing is left behind")
            is_(s.get("/hello").status, 200, "all serve")
            is_(s.metrics()['graft_versions{state="stuck"}'], 0, "none is stuck")


@case("a dlopen that fails again and again is held against the file, one that failed once is not")
def _():
    injector = Injector()
    s = Server({"versioned": "versioned_v1"}, env=injector.env)
    path = make_unique("versioned_v2")
    injector.arm("dlopen", 0, FOR_EVER)
    s.install(path, "versioned")
    answers = [s.reload() for _ in range(3)]
    tries = injector.disarm()
    is_([a["ok"] for a in answers], [False, False, True], "twice it fails the swap, then it is only told of")
    ok(all("dlopen: " in a["failed"][0]["error"] for a in answers), "in the same words", answers)
    is_(tries, 2, "and not tried again")
    answer = s.reload()
    is_((answer["ok"], len(answer["failed"]), s.get("/version").body), (True, 1, b"v1\n"), "nor when dlopen works again")
    s.install(make_unique("versioned_v3"), "versioned")
    is_((s.reload()["ok"], s.get("/version").body), (True, b"v3\n"), "another file is tried")
    s.install(path, "versioned")
    is_((s.reload(retry=True)["ok"], s.get("/version").body), (True, b"v2\n"), "and this one when asked to")


@case("no memory for a timer: what waits for the loop's next turn gets it all the same")
def _():
    injector = Injector()
    s = Server(["hello", "stream_down", "later_api"], workers=1, env=injector.env)
    waiting = []
    before = [Conn(s) for _ in range(80)]  # libevent's table of descriptors grows now, and not when it must not
    for conn in before:
        conn.send(request_bytes("GET", "/hello"))
    is_([conn.response().status for conn in before], [200] * 80, "80 connections at once, before")
    for conn in before:
        conn.close()
    for n in range(12):  # somewhere here the loop's heap of timers is full, and cannot grow
        with Conn(s) as many, Conn(s) as head:
            injector.arm("growth", 0, FOR_EVER)
            try:
                many.send(request_bytes("GET", "/hello") * 200)
                statuses = [many.response().status for _ in range(200)]
                head.send(request_bytes("HEAD", "/down?bytes=3000000"))
                statuses.append(head.response("HEAD").status)
            finally:
                injector.disarm()
        is_(statuses, [200] * 201, f"{n} timers: more than limits.pipeline requests, and a stream that goes nowhere")
        waiting.append(Conn(s))
        waiting[-1].send(request_bytes("GET", "/later?which=timer&ms=60000"))
        wait_for(lambda: s.status()["in_flight"] == n + 1, 5, "one more request")
        is_(s.get("/hello").status, 200, "and, as the only worker has gone on, one more timer")
    s.kill()


@case("no memory for a connection: it waits in the kernel's queue, and that is told")
def _():
    injector = Injector()
    s = Server(["hello"], workers=1, env=injector.env)
    mark = s.mark()
    injector.arm("allocation", 0, FOR_EVER)
    try:
        conns = [Conn(s) for _ in range(20)]
        for conn in conns:
            conn.send(request_bytes("GET", "/hello"))
        event = wait_for(lambda: s.event("accept_paused", mark), 5, "accepting pauses")
    finally:
        injector.disarm()
    like(event["msg"], "memory", "the log says why")
    is_([conn.response().status for conn in conns], [200] * 20, "when there is memory, all are answered")
    s.kill()


main()
