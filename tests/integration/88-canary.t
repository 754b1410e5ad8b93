#!/usr/bin/env python3
# Canaries: a share of the requests for a new version, judged, promoted or taken back
import collections
import json
import os
import signal
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

SOURCE = r"""
#include <graft/graft.h>
#include <stdatomic.h>
#include <time.h>

static graft_next serve(graft_req *req, void *state)
{
    (void)state;
    static atomic_uint n;
    if (SLOW_MS) {
        struct timespec ms = { 0, SLOW_MS * 1000000L };
        nanosleep(&ms, 0);
    }
    graft_set_header(req, "X-Version", VERSION);
    return graft_text(req, FAILS && atomic_fetch_add(&n, 1) % 100 < FAILS ? 500 : 200, VERSION "\n");
}

static graft_next around(graft_req *req, void *state)
{
    (void)state;
    graft_set_header(req, "X-" NAME, VERSION);
    return GRAFT_NEXT;
}

GRAFT_PLUGIN(.name = NAME, .version = VERSION, .summary = "For 88-canary.t.",
             ON_REQUEST
             .routes = (const graft_route[]){ { "GET", "/" NAME, serve }, EXTRA { 0 } })
"""


def build(name, version, fails=0, slow_ms=0, extra="", middleware=False):
    return compile_plugin(SOURCE, f'-DNAME="{name}"', f'-DVERSION="{version}"', f"-DFAILS={fails}",
                          f"-DSLOW_MS={slow_ms}", f"-DEXTRA={extra}",
                          "-DON_REQUEST=" + (".on_request=around," if middleware else ""))


def put_version(s, name, version, **how):
    return s.install(build(name, version, **how), name)


def begin(config=None, names=("app",), **more):
    s = Server([], config, **more)
    for name in names:
        put_version(s, name, "v1")
    answer = s.reload()
    if not answer["ok"]:
        raise Failed(str(answer))
    return s


def ask(s, n, target="/app", headers=(), conns=4):
    """The answers' versions, counted."""
    seen = collections.Counter()
    many = [s.connect() for _ in range(conns)]
    batch = 50
    for i in range(0, n, batch * conns):
        for conn in many:
            conn.send(request_bytes("GET", target, headers) * batch)
        for conn in many:
            for _ in range(batch):
                answer = conn.response()
                seen[(answer.status, answer.body.strip().decode())] += 1
    for conn in many:
        conn.close()
    return seen


def share(seen, version):
    return sum(n for (_, body), n in seen.items() if body == version) / sum(seen.values())


def states(s, name="app"):
    return sorted((v["version"], v["state"], v["weight"]) for v in s.ps(name))


@case("graftctl canary, promote and abort")
def _():
    s = begin()
    v1 = s.active("app")
    run = s.ctl("canary", "app", "--weight", "10")
    is_(run.returncode, 1, "no new file: refused")
    like(run.stderr, "is the version that serves", "and said why")
    put_version(s, "app", "v2")
    mark = s.mark()
    run = s.ctl("canary", "app", "--weight", "10")
    is_(run.returncode, 0, "canary")
    is_(states(s), [("v1", "active", 90), ("v2", "canary", 10)], "ps: states and weights")
    event = s.wait_event("canary", since=mark)
    is_((event["weight"], event["stable"]), (10, v1["id"]), "the event says who and how much")
    seen = ask(s, 100000)
    within(share(seen, "v2"), 0.099, 0.101, "a tenth of 100,000 requests, within 1 %")
    is_(s.metrics()['graft_versions{state="canary"}'], 1, "/metrics counts it apart")
    is_(sorted(n for k, n in s.metrics().items() if k.startswith("graft_version_weight_percent")), [10, 90], "and has the weights")
    rows = [(r["plugin"], r["id"]) for r in s.routes() if r["pattern"] == "/app"]
    is_(len(rows), 2, "routes shows both")

    is_(s.ctl("canary", "app", "--weight", "50").returncode, 0, "another weight for the same file")
    is_(states(s), [("v1", "active", 50), ("v2", "canary", 50)], "the same versions")
    within(share(ask(s, 10000), "v2"), 0.49, 0.51, "half of them")
    for wrong in ("100", "-1", "x", ""):
        is_(s.ctl("canary", "app", "--weight", wrong).returncode, 1, f"weight '{wrong}' is refused")
    is_(s.ctl("canary", "app").returncode, 2, "no weight: usage")

    answer = s.reload()
    ok(answer["ok"] and not answer["changed"], "a scan leaves the canary alone", answer)
    is_(states(s), [("v1", "active", 50), ("v2", "canary", 50)], "it serves on")

    mark = s.mark()
    is_(s.ctl("promote", "app").returncode, 0, "promote")
    is_(set(ask(s, 400)), {(200, "v2")}, "everyone meets the new version")
    s.wait_event("retired", since=mark, id=v1["id"])
    is_(states(s), [("v2", "active", 100)], "and the old one is gone")
    is_(s.ctl("promote", "app").returncode, 1, "there is no canary to promote any more")
    is_(s.ctl("abort", "app").returncode, 1, "nor to abort")
    is_(s.ctl("canary", "nobody", "--weight", "5").returncode, 1, "nor is a plugin of that name")

    put_version(s, "app", "v3")
    s.ctl("canary", "app", "--weight", "30")
    v3 = [v for v in s.ps("app") if v["version"] == "v3"][0]
    mark = s.mark()
    is_(s.ctl("abort", "app").returncode, 0, "abort")
    is_(set(ask(s, 400)), {(200, "v2")}, "everyone meets the stable version")
    s.wait_event("retired", since=mark, id=v3["id"])
    is_(states(s), [("v2", "active", 100)], "the canary is gone")
    s.stop()


@case("a newer file takes the canary's place, the stable version's own file ends it")
def _():
    s = begin()
    put_version(s, "app", "v2")
    s.ctl("canary", "app", "--weight", "20")
    put_version(s, "app", "v3")
    answer = s.reload()
    is_([c["error"] for c in answer["changed"]], [None], "the reload changes one version")
    wait_for(lambda: len(s.ps("app")) == 2, 5, "the old canary is gone")
    is_(states(s), [("v1", "active", 80), ("v3", "canary", 20)], "the newer file is the canary")
    put_version(s, "app", "v1")
    answer = s.reload()
    is_([c["error"] for c in answer["changed"]], ["removed"], "the stable version's file put back")
    wait_for(lambda: len(s.ps("app")) == 1, 5, "no canary")
    is_(states(s), [("v1", "active", 100)], "the stable version serves all")
    s.stop()


@case("other files are not touched by `canary`, bad ones refuse it and change nothing")
def _():
    s = begin(names=("app", "other"))
    put_version(s, "app", "v2")
    put_version(s, "other", "v2")
    is_(s.ctl("canary", "app", "--weight", "20").returncode, 0, "canary of one")
    is_(states(s, "other"), [("v1", "active", 100)], "the other's file waits")
    is_(s.reload()["ok"], True, "reload")
    wait_for(lambda: len(s.ps("other")) == 1, 5, "the old one is gone")
    is_(states(s, "other"), [("v2", "active", 100)], "and switches that")
    is_(states(s), [("v1", "active", 80), ("v2", "canary", 20)], "but leaves the canary")
    s.install(plugin_path("init_fails"), "other")
    with open(os.path.join(s.plugin_dir, "app.so"), "wb") as f:
        f.write(b"no plugin")
    run = s.ctl("canary", "app", "--weight", "30")
    is_(run.returncode, 1, "a bad file is refused")
    like(run.stderr, "app.so", "by its name")
    is_(states(s), [("v1", "active", 80), ("v2", "canary", 20)], "the canary that serves goes on")
    s.kill()


@case("a file that failed its checks before is tried again, and named once")
def _():
    s = begin()
    s.install(plugin_path("exec_stack"), "app")
    is_(s.reload()["ok"], False, "a scan refuses it")
    mark = s.mark()
    run = s.ctl("--json", "canary", "app", "--weight", "20")
    is_(run.returncode, 1, "canary: refused again")
    is_([f["plugin"] for f in json.loads(run.stdout)["failed"]], ["app"], "one reason")
    like(run.stdout, "asks for an executable stack", "its own")
    s.wait_event("plugin_failed", since=mark, stage="preflight")
    s.stop()


@case("beside nothing there is no canary: it does not get all the requests instead of a few")
def _():
    s = begin(names=("app", "other"))
    s.uninstall("other")
    ok(s.reload()["ok"], "other goes")
    for what in (build("other", "v2"), plugin_path("init_fails")):
        s.install(what, "other")
        mark = s.mark()
        run = s.ctl("canary", "other", "--weight", "5")
        is_(run.returncode, 1, "refused")
        if what != plugin_path("init_fails"):
            like(run.stderr, "needs a stable version beside it", "with the reason")
        is_(s.ps("other", "active") + s.ps("other", "canary"), [], "nothing of it serves")
        is_(s.find_events("plugin_loaded", mark), [], "nothing was loaded")
    s.install(build("other", "v2"), "other")
    ok(s.reload()["ok"], "a scan loads it")
    is_(states(s, "other"), [("v2", "active", 100)], "it serves all")
    s.stop()


@case("at most three canaries; two plugins at once are independent; middleware too")
def _():
    names = ("app", "b", "c", "d")
    s = begin(names=names)
    for name in names:
        put_version(s, name, "v2")
    for name in names[:3]:
        is_(s.ctl("canary", name, "--weight", "50").returncode, 0, f"canary of {name}")
    run = s.ctl("canary", "d", "--weight", "50")
    is_(run.returncode, 1, "a fourth is refused")
    like(run.stderr, "3 canaries", "with the reason")
    is_(s.ctl("abort", "b").returncode, 0, "one ends")
    is_(s.ctl("canary", "d", "--weight", "50").returncode, 0, "then there is room")
    within(share(ask(s, 8000), "v2"), 0.48, 0.52, "half for the first")
    within(share(ask(s, 8000, "/d"), "v2"), 0.48, 0.52, "half for the other")
    s.stop()

    s = Server([])
    s.install(build("mw", "v1", middleware=True), "mw")
    put_version(s, "app", "v1")
    s.config["middleware"] = ["mw"]
    ok(s.reload_signal(signal.SIGHUP)["ok"], "middleware around everything")
    s.install(build("mw", "v2", middleware=True), "mw")
    put_version(s, "app", "v2")
    is_(s.ctl("canary", "mw", "--weight", "30").returncode, 0, "a middleware as canary")
    is_(s.ctl("canary", "app", "--weight", "50").returncode, 0, "and a handler")
    both = collections.Counter()
    with s.connect() as conn:
        for _ in range(4000):
            answer = conn.get("/app")
            both[(answer.header("X-mw"), answer.header("X-Version"))] += 1
    for pair, expected in {("v1", "v1"): 0.35, ("v2", "v1"): 0.15, ("v1", "v2"): 0.35, ("v2", "v2"): 0.15}.items():
        within(both[pair] / 4000, expected - 0.02, expected + 0.02, f"the share of {pair}")
    s.stop()


@case("a canary may have other routes than the stable version")
def _():
    s = begin()
    put_version(s, "app", "v2", extra='{"GET","/new",serve},')
    s.ctl("canary", "app", "--weight", "50")
    seen = collections.Counter(s.get("/new").status for _ in range(100))
    ok(20 < seen[200] < 80 and seen[200] + seen[404] == 100, "who meets it finds them", seen)
    s.ctl("promote", "app")
    is_(s.get("/new").status, 200, "then everyone does")
    s.stop()


@case("X-Graft-Version reaches a version at weight 0, for those who may")
def _():
    s = begin({"version_header_from": ["127.0.0.0/8"]})
    v1 = s.active("app")["id"]
    put_version(s, "app", "v2")
    s.ctl("canary", "app", "--weight", "0")
    v2 = [v for v in s.ps("app") if v["state"] == "canary"][0]["id"]
    is_(set(ask(s, 400)), {(200, "v1")}, "no traffic")
    is_(set(ask(s, 200, headers=[("X-Graft-Version", f"app={v2}")])), {(200, "v2")}, "by name")
    is_(set(ask(s, 200, headers=[("X-Graft-Version", f"app={v1}")])), {(200, "v1")}, "or the stable one")
    is_(s.request("GET", "/app", [("X-Graft-Version", "app=000000000000.9")]).status, 421, "a version that does not serve")
    s.ctl("abort", "app")
    is_(s.request("GET", "/app", [("X-Graft-Version", f"app={v2}")]).status, 421, "also once the canary is gone")
    s.stop()
    s = begin({"version_header_from": ["10.0.0.0/8"]})
    put_version(s, "app", "v2")
    s.ctl("canary", "app", "--weight", "0")
    v2 = [v for v in s.ps("app") if v["state"] == "canary"][0]["id"]
    is_(set(ask(s, 200, headers=[("X-Graft-Version", f"app={v2}")])), {(200, "v1")}, "others are not heard")
    s.stop()


@case("sticky clients stay on their version through every step that allows it")
def _():
    for sticky in ("cookie", "header:X-User"):
        s = begin({"plugins": {"app": {"rollout": {"sticky": sticky, "auto": False, "steps": [5, 50]}}}})
        put_version(s, "app", "v2")
        ok(s.reload()["ok"], f"{sticky}: a changed file begins a rollout")
        is_(states(s), [("v1", "active", 95), ("v2", "canary", 5)], "with the first step")
        clients = {}
        moved = 0
        for weight in (5, 20, 50, 80):
            s.ctl("canary", "app", "--weight", str(weight))
            with s.connect() as conn:
                for i in range(300):
                    told, before = clients.get(i, (None, None))
                    headers = [("X-User", f"user-{i}")] if sticky != "cookie" else [("Cookie", told)] if told else []
                    answer = conn.request("GET", "/app", headers)
                    given = answer.header("Set-Cookie")
                    if given:
                        told = given.split(";")[0]
                    moved += before == "v2" and answer.header("X-Version") != "v2"
                    clients[i] = (told, answer.header("X-Version"))
            now = sum(version == "v2" for _, version in clients.values()) / 300
            within(now, weight / 100 - 0.1, weight / 100 + 0.1, f"{sticky}: at {weight} % as many clients")
        is_(moved, 0, f"{sticky}: nobody who met the canary went back")
        s.stop()


ROLLOUT = {"steps": [20, 50], "step_ms": 600, "min_requests": 50}


def press(s, seconds, until):
    """Light load until the condition holds."""
    end = time.monotonic() + secs(seconds)
    seen = collections.Counter()
    while time.monotonic() < end and not until():
        seen += ask(s, 400)
    return seen


@case("a good version is promoted step by step")
def _():
    s = begin({"plugins": {"app": {"rollout": ROLLOUT}}})
    put_version(s, "app", "v2")
    mark = s.mark()
    s.reload_signal()
    press(s, 20, lambda: s.event("promoted", mark) is not None)
    is_([e["weight"] for e in s.find_events("canary", mark)], [20, 50], "the steps")
    event = s.wait_event("promoted", since=mark)
    is_((event["reason"], event["weight"]), ("no worse", 50), "promoted with a reason")
    ok(event["requests"] >= 50 and event["stable_requests"] >= 50, "judged by enough requests", event)
    wait_for(lambda: states(s) == [("v2", "active", 100)], 5, "it serves all")
    s.stop()


@case("a version that fails is taken back within a second, with its numbers")
def _():
    s = begin({"plugins": {"app": {"rollout": {**ROLLOUT, "step_ms": 60000}}}})
    put_version(s, "app", "v2", fails=40)
    mark = s.mark()
    s.reload_signal()
    begun = time.monotonic()
    seen = press(s, 20, lambda: s.event("rollback", mark) is not None)
    event = s.wait_event("rollback", since=mark)
    ok(time.monotonic() - begun < secs(2), "soon", time.monotonic() - begun)
    is_(event["reason"], "errors", "the reason")
    is_(s.metrics()['graft_rollouts_total{outcome="rollback"}'], 1, "counted")
    ok(event["error_rate"] > 0.1 and event["stable_error_rate"] == 0 and event["error_chance"] < 1e-4, "the numbers", event)
    is_(set(ask(s, 400)), {(200, "v1")}, "the stable version serves all")
    wait_for(lambda: states(s) == [("v1", "active", 100)], 5, "the other is gone")
    ok(sum(n for (status, _), n in seen.items() if status == 500) < sum(seen.values()) / 10, "few have met it", seen)
    s.stop()


@case("what was taken back or aborted is quarantined: no scan loads it, canary may be asked for again")
def _():
    s = begin({"plugins": {"app": {"rollout": {**ROLLOUT, "step_ms": 60000}}}})
    put_version(s, "app", "v2", fails=40)
    mark = s.mark()
    s.reload_signal()
    press(s, 20, lambda: s.event("rollback", mark) is not None)
    event = s.wait_event("quarantine", since=mark)
    like(event["reason"], "rollout found it worse .errors.", "the quarantine says why")
    for how in ("USR2", "reload", "HUP"):
        if how == "reload":
            ok(s.reload()["ok"], "reload: not a failure")
        else:
            ok(s.reload_signal(signal.SIGHUP if how == "HUP" else signal.SIGUSR2)["ok"], how)
        wait_for(lambda: len(s.ps("app")) == 1, 5, "one version")
        is_(states(s), [("v1", "active", 100)], f"{how}: it stays out")
    s.config["plugins"]["app"]["rollout"]["auto"] = False
    s.reload_signal(signal.SIGHUP)
    is_(s.ctl("canary", "app", "--weight", "20").returncode, 0, "but an explicit canary may try it again")
    is_(states(s), [("v1", "active", 80), ("v2", "canary", 20)], "and it serves")
    ok(s.reload()["ok"], "a scan leaves it alone")
    is_(states(s), [("v1", "active", 80), ("v2", "canary", 20)], "quarantined as its file is")
    is_(s.ctl("abort", "app").returncode, 0, "abort")
    s.reload()
    wait_for(lambda: len(s.ps("app")) == 1, 5, "one version")
    is_(states(s), [("v1", "active", 100)], "an aborted one stays out as well")
    put_version(s, "app", "v3")
    s.reload()
    is_(s.ctl("promote", "app").returncode, 0, "another file is not held back")
    wait_for(lambda: states(s) == [("v3", "active", 100)], 5, "it serves all")
    is_(s.ctl("rollback", "app").returncode, 0, "and is good: rollback")
    is_(s.get("/app").body, b"v1\n", "goes back to the one before, not to the one that was taken back")
    s.stop()


@case("a weight set by hand holds until promote, abort or another canary; a worse one is taken back all the same")
def _():
    s = begin({"plugins": {"app": {"rollout": {**ROLLOUT, "step_ms": 200}}}})
    put_version(s, "app", "v2")
    for weight in (0, 30):
        is_(s.ctl("canary", "app", "--weight", str(weight)).returncode, 0, f"canary --weight {weight}")
        mark = s.mark()
        press(s, 1.5, lambda: s.event("canary", mark, weight=lambda w: w != weight) is not None)
        is_(states(s), [("v1", "active", 100 - weight), ("v2", "canary", weight)], "it stays there")
        rollout = [v for v in s.ps("app") if v["state"] == "canary"][0]["rollout"]
        is_(rollout["held"], True, "ps --json: held")
        like(s.ctl("ps").stdout, "held by hand", "ps for people")
    ok(s.event("canary", mark, msg=lambda m: "held by hand" in m), "that it would go on is told")
    s.reload()
    is_(states(s), [("v1", "active", 70), ("v2", "canary", 30)], "a scan leaves it there")
    is_(s.ctl("promote", "app").returncode, 0, "promote")
    wait_for(lambda: states(s) == [("v2", "active", 100)], 5, "it serves all")

    put_version(s, "app", "v3")
    s.config["plugins"]["app"]["rollout"]["step_ms"] = 60000
    s.reload(config=True)
    is_(states(s), [("v2", "active", 80), ("v3", "canary", 20)], "a rollout begins by itself")
    is_([v["rollout"]["held"] for v in s.ps("app") if v["state"] == "canary"], [False], "not held")
    is_(s.ctl("canary", "app", "--weight", "20").returncode, 0, "the same weight, by hand")
    is_([v["rollout"]["held"] for v in s.ps("app") if v["state"] == "canary"], [True], "holds it")
    put_version(s, "app", "v4")
    s.reload()
    is_([v["rollout"]["held"] for v in s.ps("app") if v["state"] == "canary"], [False], "a newer file begins its own rollout")

    put_version(s, "app", "v5", fails=60)
    mark = s.mark()
    is_(s.ctl("canary", "app", "--weight", "40").returncode, 0, "a bad one, by hand")
    press(s, 20, lambda: s.event("rollback", mark) is not None)
    wait_for(lambda: states(s) == [("v2", "active", 100)], 5, "it is taken back")
    s.stop()


@case("a version that is slow is taken back")
def _():
    s = begin({"plugins": {"app": {"rollout": {**ROLLOUT, "step_ms": 60000}}}})
    put_version(s, "app", "v2", slow_ms=15)
    mark = s.mark()
    s.reload_signal()

    def load():
        with s.connect() as conn:
            for _ in range(40):
                conn.get("/app")
        return s.event("rollback", mark) is not None
    wait_for(load, 60, "the rollback")
    event = s.wait_event("rollback", since=mark)
    is_(event["reason"], "latency", "the reason")
    ok(event["p99_us"] > event["stable_p99_us"], "the numbers", event)
    s.stop()


@case("too little traffic waits, and is told; auto: false only says what it sees")
def _():
    s = begin({"plugins": {"app": {"rollout": {**ROLLOUT, "step_ms": 200}}}})
    put_version(s, "app", "v2")
    mark = s.mark()
    s.reload_signal()
    event = s.wait_event("canary", since=mark, reason="too little traffic")
    like(event["msg"], "waits", "it waits")
    time.sleep(0.6)
    is_(states(s), [("v1", "active", 80), ("v2", "canary", 20)], "and goes on waiting")
    rollout = [v for v in s.ps("app") if v["state"] == "canary"][0]["rollout"]
    is_((rollout["verdict"], rollout["why"]), ("wait", "too little traffic"), "ps says so, too")
    s.stop()
    s = begin({"plugins": {"app": {"rollout": {**ROLLOUT, "auto": False}}}})
    put_version(s, "app", "v2", fails=50)
    mark = s.mark()
    s.reload_signal()
    press(s, 20, lambda: s.event("canary", mark, reason="errors") is not None)
    ok(s.event("canary", mark, reason="errors") is not None, "it is told that it is worse")
    is_(states(s), [("v1", "active", 80), ("v2", "canary", 20)], "and left where it is")
    s.stop()


main()
