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
    if (text[0] == 'x')
        return graft_fail(self, "newer than I am");
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


def good(s, plugin="n"):
    """Until what serves is in the store."""
    index, sha256 = os.path.join(s.dir, "state", "index.json"), s.active(plugin)["sha256"]
    wait_for(lambda: os.path.exists(index) and sha256 in open(index).read(), 10, "it is kept")


@case("a file that is known good is put back: no probe has told of it, and it gets the state all the same")
def _():
    first = build()
    s = server(first, handover=int(secs(2) * 1000))
    for n in range(5):
        s.get("/n")
    good(s)
    s.install(make_unique(build("2")), "n")
    ok(s.reload()["ok"], "another version")
    is_(s.get("/n").text, "6", "has the state")
    good(s)
    s.install(first, "n")
    ok(s.reload()["ok"], "the first file again")
    is_((s.active("n")["version"], s.get("/n").text), ("1", "7"), "has it, too")
    is_(s.stop(), 0, "exit 0")


@case("a rollback takes the state along; where that cannot be it goes on without, and says so")
def _():
    s = server(handover=int(secs(0.4) * 1000), load=int(secs(30) * 1000))
    first = s.active("n")["sha256"]
    good(s)
    other = {"fails": ('slow(self, "export") != 0', 'graft_fail(self, "not today") != 0'),
             "is newer": ('snprintf(text, sizeof text, "%lu"', 'snprintf(text, sizeof text, "x%lu"')}
    for how, why in ((None, None), ("slow", "timeouts_ms.handover.*export_state"), ("later", "LATER"), ("fails", "not today"),
                     ("is newer", "newer than I am")):
        source = compile_plugin(SOURCE.replace(*other[how]), '-DNAME="n"', '-DVERSION="2"', "-DEXPORTS=1", "-DIMPORTS=1", "-DMW=0",
                                "-Wno-unused-function") if how in other else build("2")
        s.install(make_unique(source), "n")
        s.config["plugins"] = {"n": {"config": {"slow": "export" if how == "slow" else "", "ms": int(secs(1) * 1000)}}}
        ok(s.reload(config=True)["ok"], f"{how}: the next version serves")
        good(s)
        s.get("/n")
        before, mark = int(s.get("/n").text), s.mark()
        with Conn(s) as c, Asking(s, "/n") as asking:
            if how == "later":
                c.send(request_bytes("GET", "/n/timer"))
                wait_for(lambda: sum(v["in_flight"] for v in s.ps("n")) >= 1, 10, "a LATER request")
            began = time.monotonic()
            r = s.api("POST", "/v1/plugins/n/rollback")
            ok(r["ok"], f"{how}: rolled back", reason(r))
            within(time.monotonic() - began, 0, secs(0.9), "without waiting for an export_state that takes longer than it may")
            if how == "later":
                is_(c.response().status, 200, "the request ends where it began")
        is_(asking.bad, [], "no request failed")
        is_(s.active("n")["sha256"], first, "the good version serves")
        after, said = int(s.get("/n").text), s.find_events("plugin_warning", mark, msg=re.compile("without"))
        if how is None:
            is_((after, said), (before + asking.answers + 1, []), "with the state")
        else:
            ok(after < before + asking.answers + 1, "without the state", after)
            is_(len(said), 1, "which is told, once")
            like(said[0]["msg"] if said else "", f"goes on without the state.*{why}(?!.*serves on|.*try again)", "and why")
        is_([e["ok"] for e in s.find_events("swap", mark)], [True], "one swap event")
        is_(len(s.find_events("rollback", mark)), 1, "one rollback event")
        wait_for(lambda: len([v for v in s.ps("n") if v["state"] != "stuck"]) == 1, 20, "all others are gone")
    is_(s.stop(), 0, "exit 0")


@case("a rollback to a version whose import_state takes too long: it serves without the state, and soon")
def _():
    s = Server({"n": build()}, {"timeouts_ms": {"handover": int(secs(0.4) * 1000), "load": int(secs(30) * 1000)},
                                "plugins": {"n": {"config": {"slow": "import", "ms": int(secs(2) * 1000)}}}})
    first = s.active("n")["sha256"]
    good(s)
    ok(swap(s, build("2"))["ok"], "the next version")
    good(s)
    with Asking(s, "/n") as asking:
        began = time.monotonic()
        r = s.api("POST", "/v1/plugins/n/rollback")
        within(time.monotonic() - began, 0, secs(1.5), "rolled back before import_state has returned")
        ok(r["ok"] and s.active("n")["sha256"] == first, "to the good version", reason(r))
    is_(asking.bad, [], "no request failed")
    like(str(s.find_events("plugin_warning")), "goes on without the state.*import_state", "which is told")
    wait_for(lambda: len(s.ps("n")) == 1, 20, "the copy that imported too slowly has left when it returned")
    ok(swap(s, build("3"))["ok"], "swaps go on")
    is_(s.stop(), 0, "exit 0")


@case("two plugins hand over in one swap: both or none, whichever fails, and nothing is lost")
def _():
    s = Server({"mw": build(mw=1), "n": build(), "hello": "hello"}, {
        "timeouts_ms": {"handover": int(secs(0.4) * 1000)}, "routes": [{"match": "/n", "middleware": ["mw"]}]})

    def swap_both(**slow):
        for name, so in (("n", build("2")), ("mw", build("2", mw=1))):
            s.install(make_unique(so), name)
        s.config["plugins"] = {name: {"config": {"slow": slow.get(name), "ms": int(secs(1) * 1000)} if name in slow else {}}
                               for name in ("n", "mw")}
        return s.reload(config=True)
    with Asking(s, "/n") as asking:
        for name in ("mw", "n"):
            before = s.active("n")["id"], s.active("mw")["id"]
            r = swap_both(**{name: "import"})
            is_((r["ok"], (s.active("n")["id"], s.active("mw")["id"])), (False, before), f"{name}'s import_state is late: both stay")
            like(reason(r), r"timeouts_ms\.handover", "and why")
            wait_for(lambda: len(s.ps("n") + s.ps("mw")) == 2, 20, "the new ones are gone")
            r = swap_both()
            ok(r["ok"] and s.active("n")["id"] != before[0] and s.active("mw")["id"] != before[1], "then both go", reason(r))
    is_(asking.bad, [], "no request failed")
    is_((int(s.get("/mw").text), int(s.get("/n").text)), (asking.answers, asking.answers + 1), "each request was counted once, by both")
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
