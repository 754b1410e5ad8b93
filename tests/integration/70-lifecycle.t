#!/usr/bin/env python3
# The life of versions that do not behave: pending, late, stuck, busy, cut short
import json
import os
import re
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

UNIT = int(100 * max(1, SCALE))  # ms; times that must not be confused are some of these apart


def timeouts(**ms):
    return {"adopt": 5 * UNIT, "load": 4 * UNIT, **ms}


def life(s, mark, version=None):
    return [e["msg"][5:] for e in s.find_events(since=mark, msg=re.compile("^life "))
            if version in (None, e["id"], e["version"])]


def wait_life(s, mark, steps, version=None):
    """Until exactly these callbacks have been logged, in this order (worker numbers left out)."""
    found = None

    def lived():
        nonlocal found
        found = [re.sub(r"(worker_\w+) \d", r"\1", step) for step in life(s, mark, version)]
        return found == steps
    try:
        wait_for(lived, 15, "callbacks")
    except Failed:
        return is_(found, steps, "its callbacks, in order")
    return ok(True, "its callbacks, in order: " + ", ".join(steps))


# ---- A worker that does not turn ----

def block(s, ms):
    """A request that holds its worker for so long."""
    request = In(s, f"/blocking?ms={ms}")
    wait_for(lambda: s.active("blocking-handler")["in_flight"] == 1, 10, "the blocking handler runs", every=0.002)
    return request


@case("prepare is not answered: the swap fails, names the worker, and is undone")
def _():
    s = Server({"blocking": "blocking_handler", "sin": "good", "versioned": "versioned_v1"}, {"timeouts_ms": timeouts()})
    before, ids = footprint(s), {v["plugin"]: v["id"] for v in s.ps()}
    put(s, fresh("good"), "sin")
    put(s, "versioned_v2", "versioned")
    held = block(s, 25 * UNIT)
    mark, began = s.mark(), time.monotonic()
    answer = s.reload()
    took_ms = (time.monotonic() - began) * 1000
    ok(not answer["ok"] and re.search(
        rf'worker [01] has not answered within {5 * UNIT} ms: it stands in .* of plugin "blocking-handler" '
        rf'\({ids["blocking-handler"]}\), route (GET )?/blocking,? for \d+ ms; .* must not block: use graft_offload',
        reason_of(answer)), "reload: worker, plugin, route, age and what to do", answer)
    within(took_ms, 4.9 * UNIT, 18 * UNIT, "within timeouts_ms.adopt, not as long as the handler")
    event = s.event("swap", mark)
    ok(event and not event["ok"] and "blocking-handler" in event["msg"], "the swap event says it too", event)
    failed = s.ps(state="failed")
    ok(failed and all("blocking-handler" in v["reason"] for v in failed), "ps: the new versions failed, and why", failed)
    ok(s.status()["ok"] and s.ctl("ps").returncode == 0, "status and ps do not wait")
    put(s, fresh("good"), "sin")
    began = time.monotonic()
    answer = s.reload()
    ok(not answer["ok"] and "has not answered" in reason_of(answer), "the next swap asks the same worker in vain", answer)
    within((time.monotonic() - began) * 1000, 4.9 * UNIT, 15 * UNIT, "without waiting for what the first one left behind")
    is_(held.answer().body, b"blocking\n", "the handler ends")
    settle(s, 3)
    is_({v["plugin"]: v["id"] for v in s.ps()}, ids, "the old ones serve")
    wait_for(lambda: "fini" in life(s, mark), 10, "the new version's fini")
    steps = [step.split()[0] for step in life(s, mark)]
    is_(steps.count("worker_init"), steps.count("worker_fini"), "worker_fini where worker_init had run")
    is_footprint(s, before, "nothing is left of it")
    answer = s.reload()
    is_((answer["ok"], sorted(c["plugin"] for c in answer["changed"])), (True, ["sin", "versioned"]),
        "it was not their failure: a reload is enough")


@case("adopt is not answered: pending, and complete when the worker turns")
def _():
    s = Server({"blocking": "blocking_handler", "sin": "good", "versioned": "versioned_v1"},
               {"timeouts_ms": timeouts(load=100 * UNIT), "plugins": {"sin": {"config": {"ms": 6 * UNIT}}}})
    good = s.active("sin")["id"]
    put(s, fresh("start_hangs"), "sin")
    mark = s.mark()
    first = later(s.ctl, "--json", "reload")
    s.wait_event("plugin", since=mark, msg=re.compile("^life start hangs"))  # prepared; adopt follows
    held = block(s, 25 * UNIT)
    run = first.result(secs(30))
    answer = json.loads(run.stdout or run.stderr)
    is_(run.returncode, 1, "graftctl reload: exit 1")
    ok(answer["ok"] is False and answer["error"] == "pending", "pending", answer)
    like(reason_of(answer), r'worker [01] has not answered within \d+ ms: it stands in .* of plugin "blocking-handler" '
         r'\(\w+\.\d+\), route (GET )?/blocking,? for \d+ ms', "in the same words")
    ok(s.status()["swapping"], "status: the swap is in progress")
    is_(s.find_events("swap", mark), [], "no swap event yet")
    put(s, "versioned_v2", "versioned")
    began = time.monotonic()
    second = s.reload()
    is_((second["ok"], second["error"]), (False, "pending"), "another reload meanwhile: pending")
    ok((time.monotonic() - began) * 1000 >= 4.5 * UNIT, "after timeouts_ms.adopt", time.monotonic() - began)
    third = s.api("POST", "/v1/plugins/versioned/canary?weight=10")
    is_((third["ok"], third["error"]), (False, "busy"), "a canary meanwhile: busy, for nothing follows it")
    is_(held.answer().body, b"blocking\n", "the handler ends")
    event = s.wait_event("swap", since=mark)
    ok(event["ok"] and [c["plugin"] for c in event["changed"]] == ["sin"], "the swap is complete, and said so", event)
    ok(event["duration_us"] >= 15 * UNIT * 1000 and event["publish_us"] <= event["duration_us"],
       "its duration reaches to the last adopt", event)
    wait_for(lambda: s.get("/version").text == "v2\n", 10, "the scan of the second reload followed")
    wait_for(lambda: len(s.find_events("swap", mark)) > 1, 10, "its event, which is written behind the answer")
    swaps = s.find_events("swap", mark)
    is_([[c["plugin"] for c in e["changed"]] for e in swaps], [["sin"], ["versioned"]], "one event for each")
    settle(s, 3)
    isnt(s.active("sin")["id"], good, "the new one serves")


@case("worker_init hangs: named, and undone when it returns")
def _():
    s = Server({"sin": "good"}, {"timeouts_ms": timeouts(), "plugins": {"sin": {"config": {"ms": 12 * UNIT}}}})
    before = footprint(s)
    put(s, "worker_init_hangs", "sin")
    mark = s.mark()
    answer = s.reload()
    like(reason_of(answer), r'worker \d has not answered within \d+ ms: it stands in worker_init of plugin "sin" '
         r'\(\w+\.\d+\)', "the callback is named")
    settle(s, 1)
    is_(s.get("/sin").text, "good\n", "the old one serves")
    wait_for(lambda: "fini" in life(s, mark), 10, "fini")
    is_footprint(s, before, "undone")
    is_(life(s, mark).count("start"), 0, "it never started")


# ---- Callbacks that do not return in time ----

@case("init, ready, start hang: the swap fails in time, goes on, and the late one is undone")
def _():
    hang_ms = 15 * UNIT
    undone = {"init": ["fini"], "ready": ["fini"], "start": ["cool", "worker_fini", "worker_fini", "fini"]}
    before_steps = {"init": [], "ready": ["init"], "start": ["init", "ready", "worker_init", "worker_init"]}
    for step in ("init", "ready", "start"):
        s = Server({"sin": "good", "life": "life_v1", "versioned": "versioned_v1"},
                   {"timeouts_ms": timeouts(), "plugins": {"sin": {"config": {"ms": hang_ms}}}})
        before, good = footprint(s), s.active("sin")["id"]
        put(s, step + "_hangs", "sin")
        put(s, "life_v2", "life")
        mark, began = s.mark(), time.monotonic()
        answer = s.reload()
        took_ms = (time.monotonic() - began) * 1000
        ok(not answer["ok"] and re.search(rf"sin\.so: {step} has not returned within \d+ ms \(timeouts_ms\.load\): make it "
           r"faster, or allow more; what it owes follows when it returns", reason_of(answer)),
           f"{step}: refused", answer)
        within(took_ms, 3.9 * UNIT, 13 * UNIT, f"{step}: after timeouts_ms.load")
        event = s.wait_event("stuck", since=mark)
        ok(has_identity(event) and step in event["reason"], f"{step}: the log says stuck", event)
        stuck = s.ps("sin", "stuck")
        ok(len(stuck) == 1 and step in stuck[0]["reason"], f"{step}: ps says stuck, and why", stuck)
        wait_for(lambda: len(s.ps("life")) == 1, 10, "the other plugin's new version is undone")
        is_((s.get("/life").text[:7], s.get("/sin").text), ("life v1", "good\n"), f"{step}: all serve as before")
        put(s, "life_v1", "life")
        put(s, "versioned_v2", "versioned")
        answer = s.reload()
        ok(answer["ok"] and s.get("/version").text == "v2\n", f"{step}: another swap works meanwhile", answer)
        ok([f for f in answer["failed"] if f["plugin"] == "sin"], "and what hangs is told again", answer)
        is_(len(s.ps("sin", "stuck")), 1, f"{step}: it is still stuck")
        settle(s, 3, seconds=20)
        wait_life(s, mark, before_steps[step] + [f"{step} hangs", f"{step} returns"] + undone[step], step + "_hangs")
        is_footprint(s, before, f"{step}: nothing is left of it", ignore=("threads",))
        is_(s.active("sin")["id"], good, f"{step}: the good one serves on")
        s.config["plugins"]["sin"]["config"]["ms"] = 1
        answer = s.reload(config=True)
        ok(answer["ok"] and s.get("/sin").text == step + "_hangs\n", f"{step}: with another configuration it is in time",
           answer)


@case("cool and fini hang: the swap stands, and the late one goes")
def _():
    for step, rest in (("cool", ["worker_fini", "worker_fini", "fini"]), ("fini", [])):
        s = Server({"sin": step + "_hangs", "versioned": "versioned_v1"},
                   {"timeouts_ms": timeouts(), "plugins": {"sin": {"config": {"ms": 15 * UNIT}}}})
        before, old = footprint(s), s.active("sin")["id"]
        put(s, "good", "sin")
        mark = s.mark()
        answer = s.reload()
        is_((answer["ok"], s.get("/sin").text), (True, "good\n"), f"{step}: the new one serves at once")
        s.wait_event("stuck", since=mark, id=old)
        stuck = s.ps("sin", "stuck")
        ok([v["id"] for v in stuck] == [old] and re.search(rf"{step} has not returned within", stuck[0]["reason"]),
           f"{step}: ps says stuck, and why", stuck)
        put(s, "versioned_v2", "versioned")
        ok(s.reload()["ok"] and s.get("/version").text == "v2\n", f"{step}: other swaps work")
        settle(s, 2, seconds=20)
        first = ["cool", "worker_fini", "worker_fini"] if step == "fini" else []
        wait_life(s, mark, first + [f"{step} hangs", f"{step} returns"] + rest, step + "_hangs")
        event = s.wait_event("retired", since=mark, id=old)
        is_(event["unmapped"], True, f"{step}: late, but unmapped")
        is_footprint(s, before, f"{step}: nothing is left of it", ignore=("threads",))


SLOW_COOL = r"""
#include <graft/graft.h>
#include <time.h>
static void nap(graft_self *self, const char *key)
{
    long ms = (long)graft_config_int(self, key, 0);
    struct timespec left = { ms / 1000, ms % 1000 * 1000000L };
    nanosleep(&left, NULL);
}
static void over(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "slow\n");
    graft_done(req);
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    unsigned ms = (unsigned)graft_config_int(graft_self_of(req), "request", 0);
    return graft_after(req, ms, over, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static void cool(graft_self *self, void *state)
{
    (void)state;
    nap(self, "cool");
    graft_log(self, GRAFT_INFO, "life cool");
}
static void fini(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, "life fini");
}
GRAFT_PLUGIN(.name = "sin", .version = "slow", .cool = cool, .fini = fini,
             .routes = (const graft_route[]){ { "GET", "/slow", handler, 0 }, { 0 } }, )
"""


@case("a late cool: then it waits for its requests like any other")
def _():
    s = Server({"sin": compile_plugin(SLOW_COOL)},
               {"timeouts_ms": timeouts(), "plugins": {"sin": {"config": {"cool": 8 * UNIT, "request": 20 * UNIT}}}})
    old = s.active("sin")["id"]
    request = In(s, "/slow")
    wait_for(lambda: s.active("sin")["in_flight"] == 1, 10, "it runs")
    put(s, "good", "sin")
    mark = s.mark()
    ok(s.reload()["ok"], "the swap stands")
    s.wait_event("stuck", since=mark, id=old)
    wait_for(lambda: life(s, mark, old) == ["cool"], 10, "cool returns")
    wait_for(lambda: [v["id"] for v in s.ps("sin", "cooling")] == [old], 10, "no longer stuck, but cooling")
    is_(s.ps("sin", "cooling")[0]["in_flight"], 1, "for its request")
    is_(request.answer().body, b"slow\n", "which ends on it")
    s.wait_event("retired", since=mark, id=old)
    is_(life(s, mark, old), ["cool", "fini"], "fini ran last")
    is_settled(s, 1, "it is gone")


@case("worker_fini hangs: only its worker waits")
def _():
    s = Server({"sin": "worker_fini_hangs"}, {"timeouts_ms": timeouts(adopt=100 * UNIT),
                                              "plugins": {"sin": {"config": {"ms": 6 * UNIT}}}})
    old = s.active("sin")["id"]
    put(s, "good", "sin")
    mark = s.mark()
    ok(s.reload()["ok"], "the swap stands")
    ok(s.status()["ok"], "status does not wait")
    is_(s.get("/sin").text, "good\n", "the new one serves")
    ok(s.wait_event("retired", since=mark, id=old, timeout=20)["unmapped"], "the old one goes at last")


@case("hangs for ever: nothing waits for it, not even the end")
def _():
    for step in ("init", "cool"):
        s = Server({"sin": "good" if step == "init" else "cool_hangs", "hello": "hello"}, {"timeouts_ms": timeouts()})
        put(s, "init_hangs" if step == "init" else "good", "sin")
        mark = s.mark()
        is_(s.reload()["ok"], step == "cool", f"{step}: reload")
        s.wait_event("stuck", since=mark)
        is_(s.get("/sin").text, "good\n", f"{step}: the good one serves")
        for _ in range(3):
            put(s, fresh("hello"), "hello")
            ok(s.reload()["ok"], f"{step}: later swaps work")
        is_(len(s.ps("sin", "stuck")), 1, f"{step}: it is stuck")
        is_(s.stop(), 0, f"{step}: the drain ends")


@case("a hang inside dlopen: later swaps are refused with that sentence")
def _():
    s = Server({"sin": "good", "versioned": "versioned_v1"}, {"timeouts_ms": timeouts()})
    put(s, "hang_in_dlopen", "sin")
    with Prober(s, "/sin") as p:
        answer = s.reload()
        words = "a constructor or destructor hangs and holds the C library's loader lock; no plugin can be loaded or " \
                "unloaded until it returns"
        ok(not answer["ok"] and "dlopen has not returned within" in reason_of(answer) and words in reason_of(answer),
           "refused", answer)
        put(s, "versioned_v2", "versioned")
        for _ in range(2):
            answer = s.reload()
            ok(not answer["ok"] and words in reason_of(answer) and "restart graftd" in reason_of(answer),
               "a later swap is refused: why, and what to do", answer)
        is_(s.get("/version").text, "v1\n", "what serves serves")
        ok(s.status()["ok"] and s.ps("sin", "stuck") and s.routes(), "status, ps and routes work")
        put(s, "versioned_v1", "versioned")
        answer = s.reload()
        is_((answer["ok"], answer["changed"]), (True, []), "a scan that finds nothing new is no swap")
        s.config["plugins"] = {"versioned": {"mount": "/m"}}
        answer = s.reload(config=True)
        ok(answer["ok"] and s.get("/m/version").text == "v1\n", "what loads nothing still works", answer)
    is_(p.failures, [], "the old version served throughout")
    is_(s.stop(), 0, "the drain ends")


# ---- Stuck ----

@case("a thread that outlives fini, a thread_local with a destructor: stuck, with the reason")
def _():
    for what, reason in (("thread_outlives", r'1 thread that appeared during init still lives after fini \(the first: thread '
                                             r'\d+, named "outlives"\): fini must stop and join every thread'),
                         ("thread_local_dtor", r"still mapped after dlclose: a C\+\+ thread_local with a destructor, .*")):
        s = Server({"sin": "good"}, {"limits": {"versions": 2}})
        old = {}
        with Prober(s, "/sin") as p:
            for n in range(1, 4):
                put(s, fresh(what), "sin")
                mark = s.mark()
                answer = s.reload()
                ok(answer["ok"] and s.get("/sin").text.startswith(what), f"{what} serves", answer)
                warning = s.event("plugin_warning", mark)
                if what == "thread_local_dtor":
                    ok(warning and re.search(r"imports __cxa_thread_atexit\w*: a thread_local with a destructor keeps the "
                       r"version mapped", warning["msg"]), "a warning when it is loaded", warning)
                bad = s.active("sin")
                wait_for(lambda: not s.ps("sin", "cooling"), 10, "what was replaced has left")
                put(s, fresh("good"), "sin")
                answer = s.reload()
                ok(answer["ok"] and s.get("/sin").text == "good\n", "and is replaced: stuck ones do not make it busy",
                   answer)
                event = s.wait_event("stuck", since=mark, id=bad["id"])
                ok(re.search(reason, event["reason"]) and has_identity(event) and event["unmapped"] is False,
                   "the log: stuck, why, whose", event)
                old[bad["id"]] = bad
        is_(p.failures, [], f"{what}: no request failed")
        stuck = {v["id"]: v for v in s.ps("sin", "stuck")}
        is_(set(stuck), set(old), "ps: all of them are stuck")
        ok(all(re.search(reason, v["reason"]) and v["sha256"] == old[v["id"]]["sha256"] for v in stuck.values()),
           "why, and whose", stuck)
        is_settled(s, 1, "their mappings and staged files stay, for gdb and perf", stuck=3)
        is_(s.metrics()['graft_versions{state="stuck"}'], 3, "metrics count them")
        is_(s.stop(), 0, "the drain ends")


# ---- Busy ----

def hold(s, n):
    return In(s, "/version/stream?chunks=100000&ms=50", started=b"MARK-%08d 1/" % n)


@case("busy: refused, naming what holds the oldest; repeated by itself when one retires")
def _():
    marked = Marked()
    s = Server({"hello": "hello"}, {"limits": {"versions": 3}})
    streams, ids = [], []
    for n in range(3):
        put(s, marked(n), "versioned")
        ok(s.reload()["ok"], f"version {n + 1} of 3")
        streams.append(hold(s, n))
        ids.append(s.active("versioned")["id"])
    before = footprint(s)
    sha256 = put(s, marked(3), "versioned")
    mark = s.mark()
    answer = s.reload()
    is_((answer["ok"], answer["error"]), (False, "busy"), "the fourth is refused as busy")
    like(reason_of(answer), r'busy: 3 versions of plugin "versioned" are loaded \(limits\.versions\): the oldest, '
         + re.escape(ids[0]) + r", is held by 1 requests?, the oldest of them on (GET )?/version/stream for \d+ ms, waiting "
         r"for \w.*; wait, or: graftctl retire versioned@" + re.escape(ids[0]), "what holds the oldest, and what to do")
    run = s.ctl("reload")
    ok(run.returncode == 1 and "busy" in run.stdout + run.stderr, "graftctl: exit 1", run)
    is_(s.metrics()['graft_swaps_total{outcome="busy"}'], 2, "metrics: busy, not failed")
    is_(s.metrics()['graft_swaps_total{outcome="failed"}'], 0, "no failure")
    is_footprint(s, before, "nothing is left of the refused one")
    put(s, fresh("hello"), "hello")
    ok(not s.reload()["ok"], "all or nothing: another plugin waits with it")
    is_(mark_of(s.get("/version")), 2, "the third serves")
    is_([e["ok"] for e in s.find_events("swap", mark)], [False] * 3, "one event for each")
    mark = s.mark()
    streams[1].conn.abort()
    event = s.wait_event("swap", since=mark)
    ok(event["ok"] and sorted(c["plugin"] for c in event["changed"]) == ["hello", "versioned"],
       "one retires: the scan is repeated by itself", event)
    is_((mark_of(s.get("/version")), s.active("versioned")["sha256"]), (3, sha256), "and the fourth serves")
    is_([e["id"] for e in s.find_events("retired", plugin="versioned")][:1], [ids[1]], "the one that was let go")
    for stream in (streams[0], streams[2]):
        ok(not stream.conn.eof and stream.conn.fill(), "the other streams go on")
        stream.conn.abort()
    is_settled(s, 2, "and at last two versions are left")


@case("busy with limits.versions 1: nothing can be retired, the limit is what to change")
def _():
    s = Server({"versioned": "versioned_v1"}, {"limits": {"versions": 1}})
    put(s, "versioned_v2", "versioned")
    answer = s.reload()
    is_((answer["ok"], answer["error"]), (False, "busy"), "refused as busy")
    like(reason_of(answer), r'busy: plugin "versioned" \w+\.\d+ serves, and limits\.versions 1 leaves no place for another '
         r"version beside it: set it to 2 or more, then graftctl reload --config", "and what to do")
    s.config["limits"]["versions"] = 2
    ok(s.reload(config=True)["ok"] and s.get("/version").text == "v2\n", "that helps")


@case("timeouts_ms.retire and graftctl retire cut what a cooling version serves, never the code beneath")
def _():
    marked = Marked()
    for how in ("timeout", "verb"):
        s = Server({"hello": "hello"}, {"timeouts_ms": {"retire": 4 * UNIT if how == "timeout" else 0}})
        put(s, marked(0), "versioned")
        ok(s.reload()["ok"], how)
        old = s.active("versioned")["id"]
        stream, timer = hold(s, 0), In(s, f"/version/timer?ms={15 * UNIT}")
        offload = In(s, f"/version/offload?ms={10 * UNIT}")
        idle = s.connect()
        is_(mark_of(idle.get("/version")), 0, "an idle connection that old code has answered")
        wait_for(lambda: s.active("versioned")["in_flight"] == 3, 10, "three under way")
        if how == "verb":
            run = s.ctl("retire", "versioned@" + old)
            ok(run.returncode == 1 and "is active, not cooling" in run.stdout + run.stderr, "active: refused", run)
            run = s.ctl("retire", "versioned@000000000000.9")
            ok(run.returncode == 1 and "graftctl ps" in run.stdout + run.stderr, "unknown: refused, and what to do", run)
        mark = s.mark()
        put(s, marked(1), "versioned")
        ok(s.reload()["ok"], "swapped")
        fresh_stream = hold(s, 1)
        if how == "verb":
            run = s.ctl("retire", "versioned@" + old)
            is_(run.returncode, 0, "graftctl retire NAME@ID")
        for request in (stream, timer, offload):
            ok(request.conn.ends(15), f"{how}: {request.target.split('?')[0]} is cut", request.conn.data[-100:])
        event = s.wait_event("cooling", since=mark, id=old, level="warn")
        ok(has_identity(event) and re.search("retire", event["reason"]) and event["in_flight"] >= 1,
           f"{how}: logged, with the reason", event)
        if how == "verb":
            ok(s.ps("versioned", "cooling"), "the pool still works for it: it stays loaded")
        event = s.wait_event("retired", since=mark, id=old, timeout=20)
        is_(event["unmapped"], True, "then it is unloaded")
        is_(mark_of(idle.get("/version")), 1, "the idle connection is open, and meets the new one")
        ok(fresh_stream.conn.fill(), "the new one's stream goes on")
        fresh_stream.conn.abort()


@case("a handler that never calls done holds its version, and ps says so")
def _():
    s = Server({"never": "never_done"})
    v = s.active("never-done")
    request = In(s, "/never-done")
    wait_for(lambda: s.active("never-done")["in_flight"] == 1, 10, "it runs")
    put(s, fresh("never_done"), "never")
    ok(s.reload()["ok"], "swapped")
    old = s.ps("never-done", "cooling")[0]
    ok(old["id"] == v["id"] and old["oldest"]["route"] == "/never-done" and old["oldest"]["waits_for"], "what holds it", old)
    is_(s.ctl("retire", "never-done@" + v["id"]).returncode, 0, "retire")
    ok(request.conn.ends(10), "its connection is closed")
    time.sleep(0.1)
    still = s.ps("never-done", "cooling")
    ok([x["id"] for x in still] == [v["id"]], "the code that owes its done stays", still)
    is_(s.status()["ok"], True, "and the server lives")
    s.status_expected = 3
    s.config["drain"] = {"timeout_ms": 800}
    s.reload(config=True)


# ---- Others ----

@case("graft_every of two versions never overlap")
def _():
    s = Server({"every": "every_metrics_v1"})
    time.sleep(0.1)
    for n in range(6):
        put(s, fresh(f"every_metrics_v{2 - n % 2}"), "every")
        ok(s.reload()["ok"], f"swap {n + 1}")
        time.sleep(0.06 * max(1, SCALE / 2))
    is_settled(s, 1, "one is left")
    ends = [e["msg"] for e in s.find_events(msg=re.compile(r"^every v\d fini"))]
    ok(len(ends) == 6 and all("overlaps=0 outside=0" in e for e in ends), "no tick overlapped, none came outside", ends)
    ok(sum(int(re.search(r"ticks=(\d+)", e)[1]) for e in ends) >= 3, "and they did tick", ends)


@case("what is reported is what runs: ps, routes, metrics and answers say one thing")
def _():
    s = Server({"life": "life_v1", "versioned": "versioned_v1"})
    for n in (2, 1, 2):
        put(s, f"versioned_v{n}", "versioned")
        answer = s.reload()
        v = s.active("versioned")
        is_(answer["changed"][0]["id"], v["id"], "reload and ps")
        is_({r["id"] for r in s.routes() if r["plugin"] == "versioned"}, {v["id"]}, "routes")
        is_((s.get("/version").text.strip(), v["version"]), (f"v{n}", f"v{n}"), "the answer and ps")
        is_(v["sha256"], sha256_of(plugin_path(f"versioned_v{n}")), "the hash of the file")
        is_(v["sha256"], sha256_of(next(p for p in s.staged() if v["id"] in p)), "and of the staged copy")
        settle(s, 2)
        count = s.metrics()[f'graft_requests_total{{plugin="versioned",version="v{n}",id="{v["id"]}",class="2xx"}}']
        is_(count, s.active("versioned")["served"], "metrics and ps count the same")

main()
