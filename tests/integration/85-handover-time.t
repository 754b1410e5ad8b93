#!/usr/bin/env python3
# Hand-over: what timeouts_ms.handover covers, whose requests are held, and versions that do not export or import
import os
import re
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

# Counts, hands the number over; as handler at /n, or (MW) as middleware. SLOW: the callback that takes `ms`.
SOURCE = r"""
#include <graft/graft.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static _Atomic unsigned long value;
static int slow(graft_self *self, const char *name)
{
    if (strcmp(graft_config_str(self, "slow", ""), name) == 0)
        usleep((useconds_t)graft_config_int(self, "ms", 0) * 1000);
    return 0;
}
static int init(graft_self *self, void **state)
{
    *state = self;
    return slow(self, "init");
}
static int ready(graft_self *self, void *state)
{
    (void)state;
    return slow(self, "ready");
}
static int worker_init(graft_self *self, void *state)
{
    (void)state;
    return slow(self, "worker_init");
}
static int start(graft_self *self, void *state)
{
    (void)state;
    return slow(self, "start");
}
static int export_state(graft_self *self, void *state, graft_buf *out)
{
    char text[32];
    (void)state;
    snprintf(text, sizeof text, "%lu", atomic_load(&value));
    graft_log(self, GRAFT_INFO, "exports %s", text);
    return slow(self, "export") != 0 ? -1 : graft_buf_add(out, text, strlen(text));
}
static int import_state(graft_self *self, void *state, uint32_t schema, graft_str data)
{
    char text[32] = "";
    (void)state, (void)schema;
    memcpy(text, data.ptr, data.len < sizeof text ? data.len : sizeof text - 1);
    atomic_store(&value, strtoul(text, NULL, 10));
    graft_log(self, GRAFT_INFO, "imports %s", text);
    return slow(self, "import");
}
static graft_next count(graft_req *req, void *state)
{
    (void)state;
    unsigned long now = atomic_fetch_add(&value, 1) + 1;
    if (MW)
        return GRAFT_NEXT;
    graft_printf(req, "%lu", now);
    return GRAFT_DONE;
}
static graft_next tell(graft_req *req, void *state)
{
    (void)state;
    graft_printf(req, "%lu", atomic_load(&value));
    return GRAFT_DONE;
}
static void over(graft_req *req, void *arg)
{
    (void)arg;
    graft_done(req);
}
static graft_next timer(graft_req *req, void *state)
{
    (void)state;
    return graft_after(req, 1500, over, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static const graft_route routes[] = { { "GET", "/n", count, 0 }, { "GET", "/n/timer", timer, 0 }, { 0 } };
static const graft_route looks[] = { { "GET", "/mw", tell, 0 }, { 0 } };
GRAFT_PLUGIN(.name = NAME, .version = VERSION, .init = init, .ready = ready, .worker_init = worker_init, .start = start,
             .routes = MW ? looks : routes,
#if MW
             .on_request = count,
#endif
             .state_schema = 1,
#if EXPORTS
             .export_state = export_state,
#endif
#if IMPORTS
             .import_state = import_state,
#endif
)
"""


def build(version="1", exports=1, imports=1, mw=0):
    return compile_plugin(SOURCE, f'-DNAME="{"mw" if mw else "n"}"', f'-DVERSION="{version}"', f"-DEXPORTS={exports}",
                          f"-DIMPORTS={imports}", f"-DMW={mw}", "-Wno-unused-function", "-Wno-unused-const-variable")


def server(first=None, **timeouts):
    return Server({"n": first or build(), "hello": "hello"}, {"timeouts_ms": timeouts})


def swap(s, what, slow=None, ms=0):
    s.install(make_unique(what), "n")
    s.config["plugins"] = {"n": {"config": {"slow": slow, "ms": ms} if slow else {"n": time.monotonic_ns() % 10**9}}}
    return s.reload(config=True)


def reason(r):
    return str(r.get("reason")) + " " + str([f.get("error") for f in r.get("failed", [])])


class Asking(threading.Thread):
    """Asks again and again on a connection that stays; `slowest`: the longest answer."""

    def __init__(self, s, target):
        super().__init__(daemon=True)
        self.s, self.target, self.slowest, self.bad, self.over, self.answers = s, target, 0, [], threading.Event(), 0

    def run(self):
        conn = Conn(self.s)
        while not self.over.is_set():
            began = time.monotonic()
            try:
                status = conn.get(self.target).status
            except (HttpError, OSError) as error:
                self.bad.append(repr(error))
                return
            if status != 200:
                self.bad.append(status)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.answers += 1
            time.sleep(0.001)

    def __enter__(self):
        self.start()
        wait_for(lambda: self.answers > 3, 10, "answers")
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join(secs(20))


@case("the time covers import_state, ready, worker_init and start, too: past it the swap is refused, nothing has changed")
def _():
    for key, why in (("import", "import_state"), ("ready", "ready"), ("worker_init", "prepared"), ("start", "start")):
        s = server(handover=int(secs(0.2) * 1000), load=int(secs(30) * 1000), adopt=int(secs(30) * 1000))
        first = s.active("n")["id"]
        for n in range(3):
            s.get("/n")
        with Asking(s, "/n") as asking:
            time.sleep(0.05)
            r = swap(s, build("2"), key, int(secs(1) * 1000))
        is_(r["ok"], False, f"{key}: refused")
        like(reason(r), rf"not done within \d+ ms \(timeouts_ms\.handover\): .*{why}.*; the old version serves on", "and says why")
        is_(asking.bad, [], "no request failed")
        if key != "worker_init":  # that one stands in the worker's way
            ok(asking.slowest < secs(0.75), "held requests went on when the time was over", asking.slowest)
        is_((s.active("n")["id"], int(s.get("/n").text)), (first, 3 + asking.answers + 1), "the old version counts on")
        wait_for(lambda: len(s.ps("n")) == 1, 20, "the new one is gone")
        ok(swap(s, build("3"))["ok"], "another swap goes well")
        is_(int(s.get("/n").text), 3 + asking.answers + 2, "with the state")
        is_(s.stop(), 0, "exit 0")


@case("init runs before the time begins, and holds nobody")
def _():
    s = server(handover=int(secs(0.3) * 1000))
    s.get("/n")
    with Asking(s, "/n") as asking:
        r = swap(s, build("2"), "init", int(secs(1) * 1000))
    ok(r["ok"], "an init three times as long as timeouts_ms.handover", reason(r))
    ok(asking.slowest < secs(0.6), "nobody waited for it", asking.slowest)
    is_(int(s.get("/n").text), 2 + asking.answers, "nothing is lost")
    is_(s.stop(), 0, "exit 0")


@case("timeouts_ms.handover is 100 unless set")
def _():
    s = server(load=30000, adopt=30000)
    r = swap(s, build("2"), "import", 1500)
    is_(r["ok"], False, "refused")
    like(reason(r), r"within 100 ms \(timeouts_ms\.handover\)", "after 100 ms")
    is_(s.stop(), 0, "exit 0")


@case("a version that does not export, or one that does not import: an ordinary swap, which nothing stands in the way of")
def _():
    for old, new, what in ((build("1", 0, 1), build("2", 1, 1), "no export_state in the old one"),
                           (build("1", 1, 1), build("2", 1, 0), "no import_state in the new one")):
        s = server(old)
        s.get("/n")
        with Conn(s) as c:
            c.send(request_bytes("GET", "/n/timer"))
            wait_for(lambda: s.active("n")["in_flight"] == 1, 10, "a LATER request, which a hand-over would be refused for")
            r = swap(s, new)
            ok(r["ok"], f"{what}: swapped", reason(r))
            is_(s.get("/n").text, "1", "it begins with nothing")
            is_(c.response().status, 200, "the request ends on the old version")
        is_(s.find_events("plugin", msg=re.compile("^(ex|im)ports")), [], "neither callback was called")
        is_(s.stop(), 0, "exit 0")


@case("a middleware that hands over: only the routes that it surrounds wait")
def _():
    s = Server({"mw": build(mw=1), "hello": "hello", "echo": "echo", "n": build()}, {
        "timeouts_ms": {"handover": int(secs(20) * 1000)}, "plugins": {"mw": {"config": {"slow": "export", "ms": int(secs(0.8) * 1000)}}},
        "routes": [{"match": "/hello", "middleware": ["mw"]}]})
    first = s.active("mw")["id"]
    with Asking(s, "/hello") as inside, Asking(s, "/n") as outside:
        s.install(make_unique(build("2", mw=1)), "mw")
        r = s.reload()
        ok(r["ok"], "swapped", reason(r))
        wait_for(lambda: inside.answers > 10 and outside.answers > 10, 10, "answers")
    isnt(s.active("mw")["id"], first, "to another version")
    is_((inside.bad, outside.bad), ([], []), "no request failed")
    ok(inside.slowest > secs(0.6), "what it surrounds waited", inside.slowest)
    ok(outside.slowest < secs(0.4), "another plugin's route did not", outside.slowest)
    is_(int(s.get("/mw").text), inside.answers, "each request was counted once")
    is_(s.stop(), 0, "exit 0")


@case("what is pipelined behind another plugin's held request is answered in its order")
def _():
    s = Server({"n": build(), "hello": "hello"}, {"timeouts_ms": {"handover": int(secs(20) * 1000)},
                                                  "plugins": {"n": {"config": {"slow": "export", "ms": int(secs(0.6) * 1000)}}}})
    s.install(make_unique(build("2")), "n")
    done = []
    t = threading.Thread(target=lambda: done.append(s.reload()))
    t.start()
    s.wait_event("plugin", msg=re.compile("^exports"))
    with Conn(s) as c:
        c.send(request_bytes("GET", "/n") + request_bytes("GET", "/hello") + request_bytes("GET", "/n"))
        is_([c.response().text for _ in range(3)], ["1", "hello, world\n", "2"], "three answers, in their order")
    t.join()
    ok(done[0]["ok"], "and the hand-over is done")
    is_(s.stop(), 0, "exit 0")


main()
