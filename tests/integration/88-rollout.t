#!/usr/bin/env python3
# Rollouts under difficulty: a worse version leaves within a second whatever else goes on, and what was set holds
import collections
import os
import re
import select
import socket
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

# Fails where FAILS is 1 and the client asks for it (`?fail`), stands still where it asks for that (`?block`).
SOURCE = r"""
#include <graft/graft.h>
#include <time.h>
#include <unistd.h>

static void ms(unsigned n)
{
    struct timespec t = { n / 1000, (long)(n % 1000) * 1000000L };
    nanosleep(&t, NULL);
}

static int init(graft_self *self, void **state)
{
    (void)self, (void)state;
    if (access(SLOW_FILE, F_OK) == 0)
        ms(INIT_MS);
    return 0;
}

static graft_next serve(graft_req *req, void *state)
{
    (void)state;
    if (graft_query(req, "block").ptr != NULL)
        ms(2500);
    if (graft_query(req, "short").ptr != NULL)
        ms(250);
    graft_set_header(req, "X-Version", VERSION);
    return graft_text(req, FAILS && graft_query(req, "fail").ptr != NULL ? 500 : 200, VERSION "\n");
}
#if STATE
static int out(graft_self *self, void *state, graft_buf *to)
{
    (void)self, (void)state;
    return graft_buf_add(to, "x", 1);
}

static int in(graft_self *self, void *state, uint32_t schema, graft_str data)
{
    (void)state, (void)schema, (void)data;
    return FAILS ? graft_fail(self, "this state is not mine") : 0;
}
#endif
GRAFT_PLUGIN(.name = NAME, .version = VERSION, .summary = "For 88-rollout.t.", .init = init,
             .routes = (const graft_route[]){ { "GET", "/" NAME, serve }, { 0 } },
#if STATE
             .state_schema = 1, .export_state = out, .import_state = in,
#endif
)
"""


def build(name, version, fails=0, init_ms=0, slow_file="/", state=0):
    return compile_plugin(SOURCE, f'-DNAME="{name}"', f'-DVERSION="{version}"', f"-DFAILS={fails}",
                          f"-DINIT_MS={init_ms}", f'-DSLOW_FILE="{slow_file}"', f"-DSTATE={state}")


ROLLOUT = {"steps": [50], "step_ms": 60000, "min_requests": 50}


def begin(rollout=None, names=("app",), state=0, **more):
    s = Server([], {"plugins": {name: {"rollout": {**ROLLOUT, **(rollout or {})}} for name in names},
                    **more.pop("config", {})}, **more)
    for name in names:
        s.install(build(name, "v1", state=state), name)
    ok(s.reload()["ok"], "the stable version serves")
    return s


def roll(s, name="app", **how):
    """Another version of it begins its rollout; the log's mark before."""
    mark = s.mark()
    s.install(build(name, "v2", **how), name)
    answer = s.reload()
    if not answer["ok"]:
        raise Failed(str(answer))
    return mark


def states(s, name="app"):
    return sorted((v["version"], v["state"], v["weight"]) for v in s.ps(name) if v["state"] in ("active", "canary"))


class Wire:
    """Asks all the time, on a connection of its own, and notes when which version answered."""

    def __init__(self, s, target):
        self.s, self.target, self.seen, self.going = s, target, [], True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with self.s.connect(timeout=30) as conn:
            while self.going:
                answer = conn.get(self.target)
                self.seen.append((time.monotonic(), answer.status, answer.header("X-Version")))
                time.sleep(0.001)

    def last(self, version):
        """When it answered last; None: never."""
        times = [t for t, _, v in self.seen if v == version]
        return times[-1] if times else None

    def stop(self):
        self.going = False
        self.thread.join()
        return self


def answers_of_one(conns, n):
    """What came on the first of them whose worker turns: `n` answers, and of one more request."""
    ready, _, _ = select.select([conn.sock for conn in conns], [], [], 1)
    conn = [conn for conn in conns if conn.sock in ready][0]
    conn.send(request_bytes("GET", "/app"))
    return [conn.response() for _ in range(n + 1)]


def worse_leaves(s, mark, name, seconds=1.0):
    """The canary fails from now on: how the wire sees the stable version again, which is the last of it."""
    began = time.monotonic()
    wire = Wire(s, "/app?fail=1")
    time.sleep(secs(seconds) + 0.5)
    wire.stop()
    last = wire.last("v2")
    ok(last is not None, f"{name}: the canary has failed", len(wire.seen))
    ok(last - began < secs(seconds), f"{name}: within a second all requests are back on the stable version", last - began)
    ok(len(wire.seen) and wire.seen[-1][1] == 200, f"{name}: which answers")


@case("worse while another plugin's new version takes long to load: back within a second all the same")
def _():
    folder = tempdir()
    slow = os.path.join(folder, "slow")
    s = begin(names=("app", "other"))
    s.config["plugins"].pop("other")
    s.reload(config=True)
    mark = roll(s, fails=1)
    open(slow, "w").close()
    s.install(build("other", "v2", init_ms=int(4000 * max(1, secs(1))), slow_file=slow), "other")
    loading = later(s.reload)
    wait_for(lambda: s.status()["swapping"], 5, "the other's load is in progress")
    worse_leaves(s, mark, "a slow load")
    ok(not loading.done(), "the other plugin still loads")
    is_(states(s), [("v1", "active", 100), ("v2", "canary", 0)], "ps: nothing for the canary")
    is_(s.wait_event("canary", since=mark, level="warn")["reason"], "errors", "the verdict is told at once")
    ok(loading.result(60)["ok"], "the other's load is over")
    event = s.wait_event("rollback", since=mark)
    is_((event["reason"], event["by"]), ("errors", "rollout"), "then the event")
    wait_for(lambda: states(s) == [("v1", "active", 100)], 5, "and the canary is gone")
    s.wait_event("quarantine", since=mark)
    s.stop()


@case("worse while a worker stands still: the event, the count and the quarantine follow when it turns")
def _():
    s = begin(workers=2, config={"timeouts_ms": {"adopt": 200}})
    free = [s.connect(timeout=30) for _ in range(16)]
    for conn in free:
        conn.get("/app")
    mark = roll(s, fails=1)
    held = In(s, "/app?block=1")  # one worker; the other one's clients find the canary worse
    time.sleep(0.1)
    for conn in free:
        conn.send(request_bytes("GET", "/app?fail=1") * 40)
    is_(s.wait_event("canary", since=mark, weight=50, level="warn")["reason"], "errors", "it is found worse")
    is_(states(s), [("v1", "active", 100), ("v2", "canary", 0)], "and gets nothing any more on the other")
    wait_for(lambda: s.find_events("swap", mark, ok=False), 3, "a swap that cannot be while a worker stands")
    like(s.ps("app", "canary")[0]["reason"], "worker [01] has not answered", "ps says why it is still there")
    is_({answers_of_one(free, 40)[-1].header("X-Version")}, {"v1"}, "the stable version answers there")
    is_(s.find_events("rollback", mark), [], "the end is not told before it")
    held.answer()
    event = s.wait_event("rollback", 20, since=mark)
    is_((event["reason"], event["by"]), ("errors", "rollout"), "the event")
    is_(len(s.find_events("rollback", mark)), 1, "once")
    is_(s.metrics()['graft_rollouts_total{outcome="rollback"}'], 1, "counted")
    wait_for(lambda: states(s) == [("v1", "active", 100)], 5, "the canary is gone")
    s.wait_event("quarantine", since=mark)
    ok(len(s.find_events("swap", mark, ok=False)) <= 4, "it was not tried all the time")
    s.stop()


@case("worse while a worker is slow to take it: an end that was pending is told when it has come, once")
def _():
    s = begin(workers=2, config={"timeouts_ms": {"adopt": 200}})
    conns = [s.connect(timeout=60) for _ in range(16)]
    for conn in conns:
        conn.get("/app")
    held = In(s, "/app?block=1")
    time.sleep(0.1)
    for conn in conns:
        conn.send(request_bytes("GET", "/app"))
    time.sleep(1)
    ready, _, _ = select.select([conn.sock for conn in conns], [], [], 1)
    held.answer()
    for conn in conns:
        conn.response()
    live = [conn for conn in conns if conn.sock in ready]
    slow = [conn for conn in conns if conn.sock not in ready]
    mark = roll(s, fails=1)
    going = True

    def keep_busy(conn):  # so that it takes what it is told in the short times between two requests
        while going:
            conn.get("/app?short=1")
    busy = [later(keep_busy, slow[0])]
    time.sleep(0.1)
    for conn in live:
        conn.send(request_bytes("GET", "/app?fail=1") * 40)
    s.wait_event("rollback", 60, since=mark)
    going = False
    for one in busy:
        one.result(30)
    wait_for(lambda: states(s) == [("v1", "active", 100)], 5, "the canary is gone")
    time.sleep(1.2)
    is_(len(s.find_events("rollback", mark)), 1, "once")
    is_(s.metrics()['graft_rollouts_total{outcome="rollback"}'], 1, "counted once")
    is_(len(s.find_events("quarantine", mark)), 1, "and quarantined")
    diag([(e["ok"], e["publish_us"]) for e in s.find_events("swap", mark)])
    s.kill()


@case("worse while other plugins are swapped without a pause: looked at all the same")
def _():
    s = begin(names=("app", "other"))
    s.config["plugins"].pop("other")
    s.reload(config=True)
    mark = roll(s, fails=1)
    going, swaps = True, 0

    def swap():
        nonlocal swaps
        while going:
            put(s, fresh("versioned_v1"), "versioned")
            swaps += bool(s.reload()["ok"])
    swapping = later(swap)
    worse_leaves(s, mark, "swaps")
    going = False
    swapping.result(30)
    diag(f"{swaps} swaps meanwhile")
    s.wait_event("rollback", since=mark)
    s.stop()


@case("a promotion that is refused is not tried again and again, and holds back no requests all the time")
def _():
    s = begin({"step_ms": 100, "min_requests": 1}, state=1)
    mark = roll(s, fails=1, state=1)
    wire = Wire(s, "/app")
    s.wait_event("swap", since=mark, ok=False)
    time.sleep(3)
    wire.stop()
    tries = s.find_events("swap", mark, ok=False)
    ok(1 <= len(tries) <= 4, f"{len(tries)} tries in three seconds", [e["msg"] for e in tries][:2])
    like(tries[0]["msg"], "this state is not mine", "the reason")
    is_(states(s), [("v1", "active", 50), ("v2", "canary", 50)], "it stays a canary")
    like(s.ps("app", "canary")[0]["reason"], "this state is not mine", "ps says why")
    is_({status for _, status, _ in wire.seen}, {200}, "no request failed")
    s.stop()


@case("a share set by hand while the rollout is about to go on: what the answer said holds")
def _():
    s = begin({"steps": [20, 40, 60, 80], "step_ms": 100, "min_requests": 1})
    wire = Wire(s, "/app")
    wrong = []
    for i in range(12):
        with open(build("app", f"v{i + 2}"), "rb") as f:
            data = f.read() + bytes(40 << 20)  # takes a while to be hashed
        put(s, data, "app")
        if not s.reload()["ok"]:
            raise Failed("no rollout")
        time.sleep(0.03 * (i % 7))
        run = s.ctl("canary", "app", "--weight", "10")
        if run.returncode == 0:
            time.sleep(0.5)
            now = [(v["version"], v["weight"]) for v in s.ps("app") if v["state"] in ("active", "canary")]
            if (f"v{i + 2}", 10) not in now:
                wrong.append((i, now))
        s.ctl("abort", "app")
    wire.stop()
    is_(wrong, [], "it holds")
    s.stop()


COOKIES = r"""
#include <graft/graft.h>
#include <string.h>

static graft_next serve(graft_req *req, void *state)
{
    (void)state;
    graft_str how = graft_query(req, "how");
    bool seen = graft_response_header(req, "Set-Cookie").ptr != NULL;
    if (how.len > 0 && memcmp(how.ptr, "set", 3) == 0)
        graft_set_header(req, "Set-Cookie", "session=1");
    if (how.len > 0 && memcmp(how.ptr, "remove", 6) == 0)
        graft_remove_header(req, "Set-Cookie");
    if (how.len > 0 && memcmp(how.ptr, "reset", 5) == 0)
        graft_reset_response(req);
    if (how.len > 0 && memcmp(how.ptr, "fail", 4) == 0)
        return graft_fail_req(req, "on purpose");
    if (how.len > 0 && memcmp(how.ptr, "error", 5) == 0)
        return graft_error(req, 500, "no");
    return graft_text(req, seen ? 599 : 200, VERSION "\n");
}

GRAFT_PLUGIN(.name = "app", .version = VERSION, .summary = "For 88-rollout.t.",
             .routes = (const graft_route[]){ { "GET", "/app", serve }, { 0 } })
"""


@case("a sticky client's cookie reaches it, whatever the plugin does with its answer's fields")
def _():
    s = begin({"steps": [50], "sticky": "cookie", "auto": False})
    for version in ("c1", "c2"):
        s.install(compile_plugin(COOKIES, f'-DVERSION="{version}"'), "app")
        ok(s.reload()["ok"], version)
        if version == "c1":
            is_(s.ctl("promote", "app").returncode, 0, "stable")
    for how, status in (("set", 200), ("remove", 200), ("reset", 200), ("fail", 500), ("error", 500), ("plain", 200)):
        answers = [s.get(f"/app?how={how}") for _ in range(20)]
        is_({a.status for a in answers}, {status}, f"{how}: the answer, in which no plugin sees the server's own cookie")
        cookies = [[v for n, v in a.headers if n.lower() == "set-cookie"] for a in answers]
        ok(all(sum(v.startswith("graft-canary=") for v in c) == 1 for c in cookies), f"{how}: with the cookie, once", cookies[0])
        is_({sum(v == "session=1" for v in c) for c in cookies}, {int(how == "set")}, f"{how}: and the plugin's own beside it")
        ok(all(re.fullmatch(r"graft-canary=[0-9a-f]{16}; Path=/; HttpOnly; SameSite=Lax", v)
               for c in cookies for v in c if v != "session=1"), "for the whole site, not for scripts")
    ok(len({c[0] for c in cookies}) == 20, "each client has its own")
    s.stop()


@case("three plugins roll out at once: each is judged by itself")
def _():
    names = ("app", "other", "third")
    s = begin({"steps": [30, 60], "step_ms": 500, "min_requests": 50}, names=names)
    mark = s.mark()
    for name, fails in (("app", 0), ("other", 1), ("third", 0)):
        s.install(build(name, "v2", fails=fails), name)
    ok(s.reload()["ok"], "three changed files")
    is_([v["weight"] for name in names for v in s.ps(name, "canary")], [30] * 3, "three rollouts begin")
    wires = [Wire(s, f"/{name}?fail=1") for name in names]
    s.wait_event("rollback", 20, since=mark, plugin="other")
    for name in ("app", "third"):
        s.wait_event("promoted", 20, since=mark, plugin=name)
    for wire in wires:
        wire.stop()
    wait_for(lambda: all(len(s.ps(name)) == 1 for name in names), 10, "three versions")
    is_([states(s, name) for name in names], [[("v2", "active", 100)], [("v1", "active", 100)], [("v2", "active", 100)]],
        "two are promoted, one is taken back")
    is_({e["plugin"] for e in s.find_events("rollback", mark)}, {"other"}, "no other was")
    m = s.metrics()
    is_((m['graft_rollouts_total{outcome="promoted"}'], m['graft_rollouts_total{outcome="rollback"}']), (2, 1), "/metrics")
    s.stop()


@case("a newer file begins again at the first step; HUP in the middle: its steps, its clients, its end hold from then on")
def _():
    s = begin({"steps": [20, 50], "step_ms": 300, "min_requests": 1})
    rollout = s.config["plugins"]["app"]["rollout"]
    mark = roll(s)
    with_load = Wire(s, "/app")
    s.wait_event("canary", 20, since=mark, weight=50)
    rollout["step_ms"] = 60000
    ok(s.reload(config=True)["ok"], "HUP: a longer step")
    is_(states(s), [("v1", "active", 50), ("v2", "canary", 50)], "the canary goes on where it is")
    s.install(build("app", "v3"), "app")
    ok(s.reload()["ok"], "a newer file")
    is_(states(s), [("v1", "active", 80), ("v3", "canary", 20)], "the first step, beside the same stable version")
    mark = s.mark()
    rollout.update(steps=[10, 33, 70], step_ms=200, sticky="header:X-User")
    ok(s.reload(config=True)["ok"], "HUP: other steps")
    s.wait_event("canary", 20, since=mark, weight=33)
    rollout["step_ms"] = 60000
    s.reload(config=True)
    with s.connect() as conn:
        seen = {user: {conn.request("GET", "/app", [("X-User", f"u{user}")]).header("X-Version") for _ in range(3)}
                for user in range(60)}
    ok(all(len(v) == 1 for v in seen.values()) and len({tuple(v) for v in seen.values()}) == 2, "and sticky from now on")
    mark = s.mark()
    s.config["plugins"]["app"] = {}
    ok(s.reload(config=True)["ok"], "HUP: no rollout any more")
    weight = s.ps("app", "canary")[0]["weight"]
    ok(weight >= 33, "the canary keeps its share", weight)
    like(str(s.ps("app", "canary")[0]["reason"]), "left to you", "and ps says that nothing follows by itself")
    time.sleep(0.6)
    is_(s.find_events("promoted", mark), [], "nor does it")
    is_(s.ctl("promote", "app").returncode, 0, "promote")
    with_load.stop()
    is_({status for _, status, _ in with_load.seen}, {200}, "no request failed")
    s.stop()


@case("with watch: a rollout where the plugin has one, a switch where it has none; what is quarantined stays out")
def _():
    s = begin(names=("app", "other"), config={"watch": True})
    s.config["plugins"]["other"] = {}
    s.reload(config=True)
    mark = s.mark()
    s.install(build("app", "v2", fails=1), "app")
    s.wait_event("canary", since=mark, plugin="app")
    is_(states(s), [("v1", "active", 50), ("v2", "canary", 50)], "app: a canary, at the first step")
    s.install(build("other", "v2"), "other")
    wait_for(lambda: states(s, "other") == [("v2", "active", 100)], 10, "other: all of it")
    is_(states(s), [("v1", "active", 50), ("v2", "canary", 50)], "app's canary was left alone")
    with_load = Wire(s, "/app?fail=1")
    s.wait_event("quarantine", since=mark, plugin="app")
    with_load.stop()
    bad = os.path.join(s.plugin_dir, "app.so")
    mark = s.mark()
    with open(bad, "rb") as f:
        data = f.read()
    put(s, data, "app")  # the same bytes as a new file: the watch looks
    s.wait_event("swap", since=mark)
    is_(states(s), [("v1", "active", 100)], "the watch does not load it again")
    ok(s.reload()["ok"], "nor does reload")
    is_(states(s), [("v1", "active", 100)], "it stays out")
    s.config["plugins"]["app"]["config"] = {"n": 1}
    ok(s.reload(config=True)["ok"], "another configuration")
    is_(states(s), [("v1", "active", 50), ("v2", "canary", 50)], "is another identity: it is a canary again")
    is_(s.ctl("abort", "app").returncode, 0, "abort")
    ok(s.reload()["ok"], "reload")
    is_(states(s), [("v1", "active", 100)], "out again")
    ok(s.reload(retry=True)["ok"], "reload --retry")
    is_(states(s), [("v1", "active", 50), ("v2", "canary", 50)], "tries it again, as a rollout")
    s.stop()


@case("sticky by address: each of many addresses stays on its version through the steps")
def _():
    s = begin({"sticky": "peer", "auto": False, "steps": [5, 50]})
    roll(s)
    before, moved = {}, 0
    for weight in (5, 20, 50, 80, 99):
        is_(s.ctl("canary", "app", "--weight", str(weight)).returncode, 0, f"{weight} %")
        met = 0
        for host in range(200):
            with socket.create_connection(("127.0.0.1", s.port), 10, (f"127.0.{host % 7}.{host + 1}", 0)) as sock:
                sock.sendall(request_bytes("GET", "/app") * 2)
                data = b""
                while data.count(b"X-Version: ") < 2 or not data.endswith(b"\n"):
                    data += sock.recv(65536)
            seen = set(re.findall(rb"X-Version: (v.)", data))
            moved += len(seen) != 1 or (before.get(host) == {b"v2"} and seen != {b"v2"})
            before[host] = seen
            met += seen == {b"v2"}
        within(met / 200, weight / 100 - 0.12, weight / 100 + 0.12, f"{weight} %: as many addresses")
    is_(moved, 0, "none went back, or met both")
    s.stop()


main()
