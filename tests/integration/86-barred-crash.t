#!/usr/bin/env python3
# kill -9 right behind the answer of a rollback or an abort: what was replaced stays out all the same
import os
import re
import signal
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403
from injecttest import Injector  # noqa: E402

marked = Marked()


def kill(s):
    pid = s.pid
    return lambda: (os.kill(pid, signal.SIGKILL), back(s, pid))


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


@case("a start in which an open or mmap fails: the store is not given up for that, and nothing comes back",
      SANITIZER == "none", "sanitizers have an allocator of their own")
def _():
    injector = Injector()
    s = Server([], start=False, config={"crash_window_ms": 1}, env=injector.env)
    put(s, marked(1), "versioned")
    s.start()
    kept(s, s.active("versioned")["sha256"])
    sha256 = put(s, marked(2), "versioned")
    s.reload()
    kept(s, sha256)
    ok(s.api("POST", "/v1/plugins/versioned/rollback")["ok"], "build 2 is replaced")
    wrong = []
    for kind, n in [("open", n) for n in range(45)] + [("mmap", n) for n in range(12)]:
        end = kill(s)
        injector.arm(kind, n, n + 1)
        end()
        injector.disarm()
        barred = [q["sha256"] for q in s.api("GET", "/v1/versions")["quarantined"]]
        if (mark_of(s.get("/version")), barred) != (1, [sha256]):
            wrong.append((kind, n, mark_of(s.get("/version")), barred))
            break
    is_(wrong, [], "whichever open or mmap it was, build 1 serves and build 2 is quarantined")
    is_([name for name in os.listdir(os.path.join(s.dir, "state")) if "bad" in name], [], "the index was not set aside")
    is_(s.find_events("state"), [], "nothing was lost")
    is_(s.stop(), 0, "exit 0")


@case("a canary that crashes the server twice: the stable version serves on, and it stays out, at a restart too",
      SANITIZER != "tsan", "TSan's own abort")
def _():
    s = Server(["hello", "crashes"], {"version_header_from": ["127.0.0.1/32"], "crash_window_ms": int(60000 * SCALE)})
    stable = s.active("crashes")["sha256"]
    kept(s, stable)
    sha256 = s.install(make_unique("crashes"), "crashes")
    ok(s.api("POST", "/v1/plugins/crashes/canary?weight=10")["ok"], "a canary")
    for n in range(2):
        canary = wait_for(lambda: s.ps("crashes", "canary"), 20, "it is a canary")[0]
        pid, mark = s.pid, s.mark()
        with Conn(s) as c:
            c.send(request_bytes("GET", "/crashes/segv", {"X-Graft-Version": f"crashes={canary['id']}"}))
            c.ends(20)
        event = s.wait_event("crash", 20, since=mark, pid=pid)
        is_((event["id"], event["sha256"]), (canary["id"], sha256), f"crash {n}: the canary's")
        wait_for(lambda: serves(s, pid), 20, "another process")
        is_(s.active("crashes")["sha256"], stable, "the stable version serves")
    is_([(q["plugin"], q["sha256"]) for q in s.api("GET", "/v1/versions")["quarantined"]], [("crashes", sha256)], "the canary alone is quarantined")
    ok(s.reload()["ok"] and not s.ps("crashes", "canary"), "a scan leaves it out")
    is_((s.active("crashes")["sha256"], s.get("/crashes/pid").status), (stable, 200), "all requests are the stable version's")
    config = s.config
    s.finish()
    os.unlink(s.log_path)
    s = Server([], config, dir=s.dir)
    is_([v["sha256"] for v in s.ps("crashes")], [stable], "after a restart, too")
    is_(s.stop(), 0, "exit 0")


def serves(s, pid):
    try:
        now = s.status()
    except (OSError, HttpError):
        return False
    return now["pid"] != pid and now["generation"] > 0


STUBBORN = """#include <graft/graft.h>
#include <stdlib.h>
#include <unistd.h>
static int init(graft_self *self, void **state)
{
    (void)state;
    return access("%s", F_OK) == 0 ? graft_fail(self, "not today") : 0;
}
static graft_next version(graft_req *req, void *state)
{
    (void)state;
    if (graft_query(req, "crash").ptr)
        abort();
    return graft_text(req, 200, "%s\\n");
}
GRAFT_PLUGIN(.name = "stubborn", .version = "%s", .init = init,
             .routes = (const graft_route[]){ { "GET", "/stubborn", version, 0 }, { 0 } }, )
"""


def crash(s, target):
    pid = s.pid
    with Conn(s) as conn:
        conn.send(request_bytes("GET", target))
        conn.ends(20)
    return back(s, pid)


@case("required false, a bad file and then a crash: the good version serves, out of the store")
def _():
    for how in ("broken", "init fails", "no plugin"):
        s = Server(["hello", "counter"], {"plugins": {"hello": {"required": False}}})
        good = s.active("hello")["sha256"]
        kept(s, good)
        flag = os.path.join(tempdir(), "flag")
        open(flag, "w").close()
        bad = compile_plugin((STUBBORN % (flag, "bad", "2")).replace('"stubborn"', '"hello"'))
        if how != "init fails":
            bad = os.path.join(tempdir(), "bad.so")
            with open(bad, "wb") as f:
                f.write(b"\x7fELF broken" if how == "broken" else b"nothing of the kind")
        s.install(bad, "hello")
        ok(not s.reload()["ok"], f"{how}: refused by a scan")
        kill(s)()
        is_(s.get("/hello").status, 200, f"{how}: after a crash it serves as before")
        is_((s.active("hello")["sha256"], s.active("hello")["source"]), (good, "store"), "the good one, from the store")
        ok(any(f["plugin"] == "hello" for f in s.reload()["failed"]), "a scan still tells what is wrong")
        s.finish()
        os.unlink(s.log_path)
        s = Server([], dir=s.dir, config={"plugins": {"hello": {"required": False}}})
        is_(s.get("/hello").status, 404, "a start of the whole goes on without it")
        s.stop()


@case("the last good version of what is quarantined cannot be loaded: the server runs without it")
def _():
    flag = os.path.join(tempdir(), "flag")
    s = Server({"hello": "hello", "stubborn": compile_plugin(STUBBORN % (flag, "one", "1"))})
    kept(s, s.active("stubborn")["sha256"])
    s.install(compile_plugin(STUBBORN % (flag, "two", "2")), "stubborn")
    ok(s.reload()["ok"], "build 2")
    two = s.active("stubborn")["sha256"]
    kept(s, two)
    crash(s, "/stubborn?crash=1")
    is_(s.get("/stubborn").text, "two\n", "once is no reason")
    open(flag, "w").close()
    crash(s, "/stubborn?crash=1")
    is_([q["sha256"] for q in s.api("GET", "/v1/versions")["quarantined"]], [two], "twice is")
    is_(s.get("/hello").status, 200, "all else serves")
    answer = s.get("/stubborn")
    is_((answer.status, answer.header("Retry-After")), (503, "30"), "its routes answer 503")
    put(s, fresh("hello"), "hello")
    ok(s.reload()["ok"], "a deployment of another plugin is not kept up by it")
    os.unlink(flag)
    ok(s.reload(retry=True)["ok"] and s.get("/stubborn").text == "two\n", "--retry tries the file again")
    is_(s.stop(), 0, "exit 0")


@case("the good version fails to load and has a predecessor: that serves")
def _():
    flag = os.path.join(tempdir(), "flag")
    s = Server({"hello": "hello", "stubborn": compile_plugin(STUBBORN % (flag + "-of-none", "one", "1"))})
    kept(s, s.active("stubborn")["sha256"])
    s.install(compile_plugin(STUBBORN % (flag, "two", "2")), "stubborn")
    ok(s.reload()["ok"], "build 2")
    kept(s, s.active("stubborn")["sha256"])
    open(flag, "w").close()
    kill(s)()
    is_(s.get("/stubborn").text, "one\n", "build 1 serves")
    like(s.active("stubborn")["reason"], "from the store: stubborn.so: .*not today", "and why")
    os.unlink(flag)
    ok(s.reload(retry=True)["ok"] and s.get("/stubborn").text == "two\n", "--retry brings build 2 back")
    is_(s.stop(), 0, "exit 0")


@case("a canary follows a start that had to be done twice once")
def _():
    s = serve()
    ok(put(s, "hello", "hello") and s.reload()["ok"], "another plugin")
    kept(s, s.active("hello")["sha256"])
    put(s, marked(2), "versioned")
    ok(s.api("POST", "/v1/plugins/versioned/canary?weight=10")["ok"], "a canary")
    with open(os.path.join(s.plugin_dir, "hello.so.new"), "wb") as f:
        f.write(b"broken")
    os.rename(os.path.join(s.plugin_dir, "hello.so.new"), os.path.join(s.plugin_dir, "hello.so"))
    since = s.mark()
    kill(s)()
    wait_for(lambda: s.ps("versioned", "canary"), 20, "the canary")
    time.sleep(0.3)
    is_([e["ok"] for e in s.find_events("swap", since)], [False, True, True], "the swaps")
    is_(s.get("/hello").status, 200, "what was good serves")
    is_(s.stop(), 0, "exit 0")


@case("a start that fails again and again is tried later and later, however short crash_window_ms is")
def _():
    s = serve()
    s.install("counter")
    s.config["middleware"] = ["counter"]
    if not s.reload(config=True)["ok"]:
        raise Failed("the middleware is not taken")
    os.unlink(os.path.join(s.plugin_dir, "counter.so"))  # there is no going without it
    mark, pid = s.mark(), s.pid
    os.kill(pid, signal.SIGKILL)
    tries = wait_for(lambda: (lambda found: found if len(found) >= 4 else None)(s.find_events("exit", mark)), 30, "four tries")
    is_([re.search(r"another try in (\d+) ms", e["msg"]).group(1) for e in tries[:4]], ["100", "200", "400", "800"], "the waits")
    s.install("counter")
    wait_for(lambda: s.pid != pid and s.status()["generation"] > 0, 20, "it serves again")
    is_(s.stop(), 0, "exit 0")

main()
