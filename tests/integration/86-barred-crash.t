#!/usr/bin/env python3
# kill -9 right behind the answer of a rollback or an abort: what was replaced stays out all the same
import os
import signal
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

marked = Marked()


def kill(s):
    pid = s.pid

    def again():
        try:
            now = s.status()
        except (OSError, HttpError):
            return False
        return now["pid"] != pid and now["generation"] > 0
    return lambda: (os.kill(pid, signal.SIGKILL), wait_for(again, 20, "another process"))


def kept(s, sha256):
    index = os.path.join(s.dir, "state", "index.json")
    wait_for(lambda: os.path.exists(index) and sha256 in open(index).read(), 20, "it is kept")


def serve(**more):
    s = Server([], start=False, config={"crash_window_ms": 1, **more})
    put(s, marked(1), "versioned")
    s.start()
    kept(s, s.active("versioned")["sha256"])
    return s


@case("a rollback, and a crash before its quarantine is on the disk")
def _():
    s = serve()
    for n in range(2, 8):
        sha256 = put(s, marked(n), "versioned")
        ok(s.reload()["ok"], f"build {n}")
        kept(s, sha256)
        end = kill(s)
        answer = s.api("POST", "/v1/plugins/versioned/rollback")
        end()
        is_((answer["ok"], mark_of(s.get("/version"))), (True, 1), "build 1 serves before and after")
        ok(sha256 in [q["sha256"] for q in s.api("GET", "/v1/versions")["quarantined"]], "the other is quarantined")
    is_(s.stop(), 0, "exit 0")


@case("an abort, too")
def _():
    s = serve()
    for n in range(2, 8):
        sha256 = put(s, marked(n), "versioned")
        ok(s.api("POST", "/v1/plugins/versioned/canary?weight=10")["ok"], f"canary {n}")
        end = kill(s)
        answer = s.api("POST", "/v1/plugins/versioned/abort")
        end()
        is_((answer["ok"], mark_of(s.get("/version"))), (True, 1), "build 1 serves before and after")
        ok(sha256 in [q["sha256"] for q in s.api("GET", "/v1/versions")["quarantined"]], "the other is quarantined")
    is_(s.stop(), 0, "exit 0")


@case("what is tried again and serves is no longer barred, after a crash neither")
def _():
    s = serve()
    sha256 = put(s, marked(2), "versioned")
    s.reload()
    kept(s, sha256)
    s.api("POST", "/v1/plugins/versioned/rollback")
    ok(s.reload(retry=True)["ok"], "reload --retry")
    is_(mark_of(s.get("/version")), 2, "build 2 serves")
    index = os.path.join(s.dir, "state", "index.json")
    wait_for(lambda: "asked for" not in open(index).read(), 20, "the index says so")
    kill(s)()
    is_(mark_of(s.get("/version")), 2, "and serves after a crash")
    is_(s.stop(), 0, "exit 0")

main()
