#!/usr/bin/env python3
# Canaries and starts: what has not been judged does not get all requests because the process began anew
import os
import signal
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

marked = Marked()
ROLLOUT = {"steps": [20, 50], "step_ms": 600000, "min_requests": 50}


def put(s, n):
    """Build number n goes into the folder; its SHA-256."""
    path = os.path.join(tempdir(), "versioned.so")
    with open(path, "wb") as f:
        f.write(marked(n))
    return s.install(path, "versioned")


def serve(rollout=None, **more):
    """A server with build 1, and its SHA-256."""
    s = Server([], {"plugins": {"versioned": {"rollout": rollout} if rollout else {}}}, start=False, **more)
    sha = put(s, 1)
    return s.start(), sha


def again(s):
    """Another server in the same folders, with the same configuration."""
    s.finish()
    os.unlink(s.log_path)
    return Server([], s.config, dir=s.dir)


def killed(s):
    """Another server process, after a crash."""
    pid = s.pid
    os.kill(pid, signal.SIGKILL)
    back(s, pid)
    return s


def index(s):
    path = os.path.join(s.dir, "state", "index.json")
    return open(path).read() if os.path.exists(path) else ""


def states(s):
    return sorted((v["state"], v["sha256"], v["weight"]) for v in s.ps("versioned"))


def serves(s, one, two, weight, name):
    """Build `one`, and `two` as its canary."""
    wanted = sorted([("active", one, 100 - weight), ("canary", two, weight)])
    wait_for(lambda: states(s) == wanted, 10, f"{name}: canary and stable version")
    is_(states(s), wanted, name)


def written(s, sha, text='"canaries"'):
    wait_for(lambda: text in index(s) and sha in index(s), 10, "the index on the disk")


@case("a restart, a crash: the good version serves, the rollout of the file begins again; promoted it is stable")
def _():
    s, one = serve(ROLLOUT)
    written(s, one, '"good"')
    two = put(s, 2)
    ok(s.reload()["ok"], "another file")
    serves(s, one, two, 20, "its rollout begins")
    is_(s.ctl("canary", "versioned", "--weight", "40").returncode, 0, "by hand")
    serves(s, one, two, 40, "by hand")
    put(s, 1), s.reload()
    two = put(s, 2)
    s.reload()
    serves(s, one, two, 20, "the file again: by its rollout again")
    written(s, two)
    for how in (killed, again, killed):
        s = how(s)
        serves(s, one, two, 20, f"{how.__name__}: as before")
        stable = [v for v in s.ps("versioned") if v["state"] == "active"][0]
        is_(stable["source"], "store", "the good one comes from the store")
        like(stable["reason"], r"from the store: versioned\.so \([0-9a-f]{12}\) is not judged yet", "and why")
        canary = [v for v in s.ps("versioned") if v["state"] == "canary"][0]
        is_(canary["rollout"]["held"], False, "a rollout, not by hand")
        first = s.find_events("plugin_loaded")[0]
        is_(first["sha256"], one, "the good one was first")
    is_(s.ctl("promote", "versioned").returncode, 0, "promote")
    wait_for(lambda: states(s) == [("active", two, 100)], 10, "it serves all")
    wait_for(lambda: '"canaries"' not in index(s), 10, "the index on the disk")
    for how in (killed, again):
        s = how(s)
        is_(states(s), [("active", two, 100)], f"{how.__name__}: it is stable")
        is_(s.active("versioned")["source"], "folder", "from the folder")
    s.stop()


@case("by hand: the same weight again, held, with and without a rollout")
def _():
    for rollout in (None, {**ROLLOUT, "step_ms": 100}):
        for weight in (30, 0):
            s, one = serve(rollout)
            written(s, one, '"good"')
            two = put(s, 2)
            is_(s.ctl("canary", "versioned", "--weight", str(weight)).returncode, 0, f"canary --weight {weight}")
            written(s, two)
            for how in (killed, again):
                s = how(s)
                serves(s, one, two, weight, f"{how.__name__}, {weight} %, rollout: {bool(rollout)}")
                is_([v["rollout"]["held"] for v in s.ps("versioned") if v["state"] == "canary"], [True], "held by hand")
            is_(s.ctl("abort", "versioned").returncode, 0, "abort")
            wait_for(lambda: "quarantine" in index(s) and '"canaries"' not in index(s), 10, "the index on the disk")
            s = again(s)
            is_(states(s), [("active", one, 100)], "aborted: it is quarantined after a restart, too")
            s.stop()


@case("a file or configuration that changed while nothing ran gets its rollout; without one it is loaded")
def _():
    for rollout in (ROLLOUT, None):
        s, one = serve(rollout)
        written(s, one, '"good"')
        s.finish()
        two = put(s, 2)
        s = again(s)
        if not rollout:
            is_(states(s), [("active", two, 100)], "no rollout: the file serves")
            s.stop()
            continue
        serves(s, one, two, 20, "its rollout begins")
        is_(s.ctl("promote", "versioned").returncode, 0, "promote")
        wait_for(lambda: '"canaries"' not in index(s), 10, "the index on the disk")
        s.config["plugins"]["versioned"]["config"] = {"another": 1}
        s = again(s)
        serves(s, two, two, 20, "another configuration: the same")
        s.stop()


@case("nothing good is kept, or it is damaged: the file serves")
def _():
    s, one = serve(ROLLOUT)
    written(s, one, '"good"')
    s.finish()
    two = put(s, 2)
    damage(s, one)
    s = again(s)
    is_(states(s), [("active", two, 100)], "the file serves")
    like(s.wait_event("plugin_warning")["msg"], "cannot be used: its file in the store has been changed", "and why")
    s.stop()


@case("without a state folder: after a crash the same")
def _():
    s = Server([], {"state_dir": ""}, start=False)
    one = put(s, 1)
    s.start()
    two = put(s, 2)
    is_(s.ctl("canary", "versioned", "--weight", "30").returncode, 0, "canary")
    index = lambda: [os.path.join(d, f) for d, _, files in os.walk(s.stage_dir) for f in files if f == "index.json"]  # noqa: E731
    wait_for(lambda: any('"canaries"' in open(path).read() for path in index()), 10, "the index")
    serves(killed(s), one, two, 30, "it is a canary again")
    s.stop()


def shadow(s):
    """The canary's share of shadows, by ps and by /metrics; None: there is no canary."""
    seen = [v.get("shadow", {}).get("percent", 0) for v in s.ps("versioned") if v["state"] == "canary"]
    told = [int(value) for key, value in s.metrics().items() if key.startswith("graft_shadow_percent")]
    return seen[0] if seen and (told or [0]) == seen else None


def tries(s, percent, name):
    wait_for(lambda: shadow(s) == percent, 10, f"{name}: shadows of {percent} %")
    is_(shadow(s), percent, f"{name}: the share of shadows")


@case("a share of shadows that was set by hand is there again after a crash and a restart, and goes with its canary")
def _():
    for rollout, configured in ((None, 0), ({**ROLLOUT, "shadow": 20}, 20)):
        s, one = serve(rollout)
        written(s, one, '"good"')
        two = put(s, 2)
        is_(s.ctl("canary", "versioned", "--weight", "7").returncode, 0, "canary --weight 7")
        tries(s, configured, "not by hand")
        for how in (killed, again):
            written(s, two)
            s = how(s)
            serves(s, one, two, 7, f"{how.__name__}, rollout: {bool(rollout)}")
            tries(s, configured, f"{how.__name__}: as it is configured")
        for percent in (50, 0, 60):
            args = ("canary", "versioned", "--weight", "7", "--shadow", str(percent))
            is_(s.ctl(*args).returncode, 0, f"--shadow {percent}")
            tries(s, percent, "by hand")
            for how in (killed, again, killed):  # the first one at once: the index may be of before
                s = how(s)
                serves(s, one, two, 7, f"{how.__name__}, rollout: {bool(rollout)}")
                tries(s, percent, f"{how.__name__}: by hand before")
        is_(s.ctl("canary", "versioned", "--weight", "8").returncode, 0, "another weight")
        tries(s, 60, "it stays")
        s = killed(s)
        serves(s, one, two, 8, "killed: the other weight")
        tries(s, 60, "killed: and the share beside it")
        is_(s.ctl("abort", "versioned").returncode, 0, "abort")
        is_(s.ctl("canary", "versioned", "--weight", "7").returncode, 0, "the same file is a canary again")
        tries(s, configured, "the share went with the abort")
        s.stop()


@case("a rollout that goes on with the share of shadows of the canary before does so after a crash and a restart")
def _():
    s, one = serve(ROLLOUT)
    written(s, one, '"good"')
    put(s, 2)
    is_(s.ctl("canary", "versioned", "--weight", "7", "--shadow", "50").returncode, 0, "by hand")
    three = put(s, 3)
    ok(s.reload()["ok"], "a newer file")
    for how in (lambda s: s, killed, again):
        s = how(s)
        serves(s, one, three, 20, "its rollout")
        tries(s, 50, "with the shadows that were asked for")
        is_([v["rollout"]["held"] for v in s.ps("versioned") if v["state"] == "canary"], [False], "not by hand")
    s.stop()


main()
