#!/usr/bin/env python3
# State and crashes: what shared blocks hold after one, exact counts over swaps and crashes, what is kept and how much
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

SWAPS = int(os.environ.get("HANDOVER_SWAPS") or {"none": 24}.get(SANITIZER, 10))
CRASHES = int(os.environ.get("HANDOVER_CRASHES") or {"none": 6}.get(SANITIZER, 3))
LONG = int(secs(2000))

# Asks for "blocks" blocks of this name's own, and goes on with what it got unless "strict" is set.
BLOCKS = r"""
#include <graft/graft.h>
#include <stdatomic.h>
#include <stdio.h>
#define MOST 5000
static _Atomic uint64_t *block[MOST];
static unsigned asked, got, fresh;
static int init(graft_self *self, void **state)
{
    *state = self;
    asked = (unsigned)graft_config_int(self, "blocks", 1);
    for (unsigned i = 0; i < asked && i < MOST; i++) {
        char name[32];
        bool made = false;
        snprintf(name, sizeof name, "%s%u", graft_config_str(self, "prefix", "b"), i);
        block[i] = graft_shared(self, name, 4096, 1, &made);
        got += block[i] != NULL;
        fresh += made;
        if (block[i] == NULL && graft_config_bool(self, "strict", false))
            return graft_fail(self, "block %u is not to be had", i);
    }
    return 0;
}
static graft_next add(graft_req *req, void *state)
{
    (void)state;
    for (unsigned i = 0; i < asked && i < MOST; i++)
        if (block[i] != NULL)
            atomic_fetch_add(block[i], i + 1);
    return graft_text(req, 200, "added\n");
}
static graft_next tell(graft_req *req, void *state)
{
    unsigned long long right = 0;
    (void)state;
    for (unsigned i = 0; i < asked && i < MOST; i++)
        right += block[i] != NULL && atomic_load(block[i]) == i + 1;
    graft_printf(req, "{\"got\": %u, \"fresh\": %u, \"right\": %llu}\n", got, fresh, right);
    return GRAFT_DONE;
}
GRAFT_PLUGIN(
    .name    = NAME,
    .version = "1.0.0",
    .init    = init,
    .routes  = (const graft_route[]){ { "GET", "/" NAME, tell, 0 }, { "GET", "/" NAME "/add", add, 0 }, { 0 } },
)
"""


def blocks_plugin(name):
    return compile_plugin(BLOCKS, f'-DNAME="{name}"')


def kept(s):
    """The names of the blocks that the supervisor holds."""
    found = []
    folder = f"/proc/{s.proc.pid}/fd"
    for fd in os.listdir(folder):
        try:
            target = os.readlink(os.path.join(folder, fd))
        except FileNotFoundError:
            continue
        name = re.match(r"/memfd:(\S+)", target)
        if name and not name[1].startswith("graft-"):
            found.append(name[1])
    return sorted(found)


def kill(s):
    old = s.pid
    os.kill(old, signal.SIGKILL)
    return back(s, old)


class Client(threading.Thread):
    """Asks for a path of its own, `depth` requests at a time, on a connection that stays until the server ends
    it. A request is answered or failed; what has failed was perhaps sent, and perhaps answered."""

    def __init__(self, s, number, depth):
        super().__init__(daemon=True)
        self.address, self.path, self.depth = s.address, f"/client/{number}", depth
        self.answers = self.failed = 0
        self.bad, self.over = [], threading.Event()

    def run(self):
        conn = None
        while not self.over.is_set():
            if conn is None:
                try:
                    conn = Conn(self.address)
                except OSError as error:
                    self.bad.append(f"connect: {error}")
                    time.sleep(0.05)
                    continue
            if not self.ask(conn):
                conn.close()
                conn = None

    def ask(self, conn):
        left = self.depth
        try:
            conn.send(request_bytes("GET", self.path) * self.depth)
            while left:
                status = conn.response().status
                left -= 1
                self.answers += 1
                if status != 404:
                    self.bad.append(status)
        except (HttpError, OSError):
            self.failed += left
            return False
        return True


class Load:
    def __init__(self, s, depths):
        self.clients = [Client(s, n, depth) for n, depth in enumerate(depths)]

    def __enter__(self):
        for c in self.clients:
            c.start()
        self.answered(50)
        return self

    def __exit__(self, *_):
        for c in self.clients:
            c.over.set()
        for c in self.clients:
            c.join(secs(30))

    def total(self):
        return sum(c.answers for c in self.clients)

    def answered(self, more):
        until = self.total() + more
        wait_for(lambda: self.total() >= until, 40, f"{more} more answers")


def crash(s, how):
    """Ends the server process in this way, at a random moment; True when another one serves. Not from one of this
    process's threads: while one runs, the clients stand still and the server has nothing to do."""
    old = s.pid
    wait = f"sleep 0.{random.randint(1000, 30000):05}; "
    if how == "kill":
        subprocess.run(["sh", "-c", wait + f"kill -9 {old}"], check=True)
    else:
        bash = wait + f"exec 3<>/dev/tcp/{s.address[0]}/{s.address[1]}; printf 'GET /crashes/{how} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n' >&3; cat <&3"
        subprocess.run(["bash", "-c", bash], check=False, capture_output=True)
    back(s, old)


def swap_and_crash(s, how):
    """A crash while a swap is on its way: whether that one came to its end, nobody can know."""
    def swap():
        try:
            s.reload()
        except (OSError, HttpError, ValueError):
            pass
    s.install(make_unique("counter"), "counter")
    t = threading.Thread(target=swap)
    t.start()
    crash(s, how)
    t.join()


# ---- Exact ----

@case("many swaps under load with crashes in between: every answer that was sent is counted, once")
def _():
    s = Server(["counter", "crashes", "hello"], {
        "middleware": ["counter"], "crash_window_ms": 1, "timeouts_ms": {"handover": LONG}}, workers=2)
    hows = [("kill", "segv", "abort", "offload")[n % 4] for n in range(CRASHES)]
    every = max(1, SWAPS // (CRASHES + 1))
    swaps, refused, n = 0, [], 0
    with Load(s, (1, 1, 8, 32)) as load:
        while swaps < SWAPS or hows:
            s.install(make_unique("counter"), "counter")
            r = s.reload()
            swaps += r["ok"]
            if not r["ok"]:
                refused.append(str(r.get("reason")) + str(r.get("failed")))
                if len(refused) > 5:
                    break
            n += 1
            if hows and n % every == 0:
                (swap_and_crash if len(hows) % 2 else crash)(s, hows.pop())
                load.answered(20)
        load.answered(50)
    found = s.get("/counter").json()
    clients = load.clients
    answers, failed = load.total(), sum(c.failed for c in clients)
    diag(f"{swaps} swaps, {CRASHES} crashes, {answers} answers, {failed} requests without one, "
         f"{found['total']} counted")
    is_(refused, [], f"{swaps} swaps")
    is_(len(s.find_events("restarted")), CRASHES, "crashes")
    is_([c.bad[:3] for c in clients if c.bad], [], "no connection was refused, no answer was another one")
    within(failed, 0, sum(c.depth for c in clients) * CRASHES, "no more requests failed than were in progress when it crashed")
    wrong = []
    for c in clients:
        counted = sum(p["count"] for p in found["paths"] if p["path"] == c.path)
        if not c.answers <= counted <= c.answers + c.failed:
            wrong.append((c.path, counted, c.answers, c.failed))
    is_(wrong, [], "for each client: all of its answers are counted, and of its failed requests at most each")
    within(found["total"], answers, answers + failed + CRASHES, "the total, too; the requests that crashed may be in it")
    is_(found["other"], 0, "none is counted without its path")
    s.stop()


@case("a crash without load: the total is the number of answers, exactly")
def _():
    s = Server(["counter", "hello"], {"middleware": ["counter"], "crash_window_ms": 1})
    sent = 0
    for n in range(4):
        for _ in range(25):
            sent += s.get("/hello").status == 200
        kill(s)
        found = s.get("/counter").json()
        is_(found["total"], sent, f"crash {n}: {sent}")
        is_([p["count"] for p in found["paths"] if p["path"] == "/hello"], [25 * (n + 1)], "and by path")
        is_(found["last"], {}, "exported state is what a swap hands over, not a crash")
        sent += 1  # the question itself, once it had been answered
    s.stop()


@case("what was counted just before the crash and not sent any more: each at most once")
def _():
    s = Server(["counter", "hello", "crashes"], {"middleware": ["counter"], "crash_window_ms": 1})
    old = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/hello") * 8 + request_bytes("GET", "/crashes/segv"))
        answers = 0
        try:
            while c.response().status == 200:
                answers += 1
        except (HttpError, OSError):
            pass
    back(s, old)
    found = s.get("/counter").json()
    counted = sum(p["count"] for p in found["paths"] if p["path"] == "/hello")
    within(counted, answers, 8, f"8 requests in front of one that crashes, {answers} answers: none is lost, none counted twice")
    is_(found["total"], counted, "the one that crashed was never counted")
    s.stop()


# ---- Which block it is ----

@case("a plugin file with another layout that is waiting when the process crashes: a new block, and the old one to read")
def _():
    s = Server({"shared": "shared_v1"})
    for _ in range(7):
        s.get("/shared/add")
    s.install("shared_big", "shared")
    kill(s)
    found = s.get("/shared").json()
    is_((found["version"], found["fresh"], found["zeroed"]), ("big", True, True), "the new layout begins with zeros")
    is_((found["old"], found["value"]), ([7, 4096, 1], 7), "and reads what was counted before the crash")
    s.get("/shared/add")
    wait_for(lambda: kept(s) == ["counts"], 10, "only the new one is kept")
    kill(s)
    found = s.get("/shared").json()
    is_((found["fresh"], found["old"], found["value"]), (False, [0, 0, 0], 8), "another crash: it is the current one, there is no older")
    s.install(make_unique("shared_big"), "shared")
    ok(s.reload()["ok"], "a swap")
    is_(s.get("/shared").json()["value"], 8, "hands the same block on")
    s.stop()


@case("failed swaps leave nothing in the supervisor; after a crash the current block is as it was")
def _():
    s = Server({"shared": "shared_v1"})
    for _ in range(5):
        s.get("/shared/add")
    for how in "irws":
        s.install(make_unique("shared_bad_" + how), "shared")
        is_(s.reload()["ok"], False, f"a version with another layout that fails ({how})")
    wait_for(lambda: kept(s) == ["counts"], 10, "one block is kept")
    s.install("shared_v2", "shared")
    kill(s)
    found = s.get("/shared").json()
    is_((found["version"], found["fresh"], found["value"], found["old"]), ("v2", False, 5, [0, 0, 0]), "the current one")
    s.stop()


@case("a block of a canary that is not promoted: after a crash it is there, as is the stable version's")
def _():
    s = Server({"shared": "shared_v1"})
    good, index = s.active("shared")["sha256"], os.path.join(s.dir, "state", "index.json")
    wait_for(lambda: os.path.exists(index) and good in open(index).read(), 10, "the stable version is kept")
    for _ in range(5):
        s.get("/shared/add")
    s.install("shared_big", "shared")
    is_(s.ctl("canary", "shared", "--weight", "0").returncode, 0, "a canary with another layout")
    s.get("/shared/add")
    wait_for(lambda: kept(s) == ["counts", "counts"], 10, "both blocks are kept")
    kill(s)
    found = s.get("/shared").json()
    isnt(found["version"], "big", "the stable version serves")
    is_((found["fresh"], found["value"]), (False, 6), "its block is as it was")
    wait_for(lambda: s.ps("shared", "canary"), 20, "the canary is one again")
    wait_for(lambda: kept(s) == ["counts", "counts"], 10, "and both blocks are kept")
    is_(s.ctl("abort", "shared").returncode, 0, "abort")
    wait_for(lambda: kept(s) == ["counts"], 10, "whose version serves alone, its block is kept alone")
    ok(True, "whose version serves alone, its block is kept alone")
    s.stop()


# ---- How much ----

@case("a plugin that asks for thousands of blocks gets 64; the rest is refused with a reason, in the supervisor there are no more")
def _():
    s = Server({"hello": "hello", "greedy": blocks_plugin("greedy")},
               {"plugins": {"greedy": {"config": {"blocks": 5000}}}})
    found = s.get("/greedy").json()
    is_(found["got"], 64, "64 of 5,000")
    said = s.find_events(plugin="greedy", msg=re.compile("more than 64 blocks"))
    within(len(said), 1, 8, "the log tells why, but not 4,936 times")
    is_(s.get("/greedy/add").status, 200, "it serves with what it has")
    wait_for(lambda: len(kept(s)) == 64, 10, "64 are kept")
    for n in range(3):
        s.config["plugins"] = {"greedy": {"config": {"blocks": 5000, "strict": True, "n": n}}}
        r = s.reload(config=True)
        is_(r["ok"], False, "a version that does not do without is refused")
        like(str(r.get("failed")), "block 64 is not to be had", "with its reason")
        is_(len(kept(s)), 64, "and nothing is left of it")
    is_(s.get("/hello").status, 200, "other plugins serve")
    kill(s)
    ok(len(kept(s)) <= 65, "nor after a crash", len(kept(s)))
    s.stop()


@case("blocks that are made all at once, just before a crash, are all there after it")
def _():
    names = [f"many{n}" for n in range(5)]
    s = Server(["hello"])
    for name in names:
        s.install(blocks_plugin(name), name)
    s.config["plugins"] = {name: {"config": {"blocks": 60}} for name in names}
    pid = s.pid
    os.kill(s.proc.pid, signal.SIGSTOP)  # it reads nothing yet
    done = []
    t = threading.Thread(target=lambda: done.append(s.reload(config=True)))
    t.start()
    time.sleep(0.3)  # less than the second for which the server waits
    os.kill(s.proc.pid, signal.SIGCONT)
    t.join()
    ok(done[0]["ok"], "a reload that brings 300 blocks", done[0])
    for name in names:
        s.get(f"/{name}/add")
    os.kill(pid, signal.SIGKILL)
    back(s, pid)
    is_([s.get("/" + name).json() for name in names], [{"got": 60, "fresh": 0, "right": 60}] * 5, "each of them, with what it held")
    is_(s.find_events(msg=re.compile("will not survive")), [], "none was given up")
    s.stop()


@case("what a server said before it died is heard to the end")
def _():
    names = [f"word{n}" for n in range(2)]
    s = Server(["hello"], {"server_header": "before"})
    for name in names:
        s.install(blocks_plugin(name), name)
    s.config["plugins"] = {name: {"config": {"blocks": 64}} for name in names}
    s.config["server_header"] = "after"
    pid = s.pid
    os.kill(s.proc.pid, signal.SIGSTOP)
    ok(s.reload(config=True)["ok"], "128 blocks, which the supervisor has not read of yet")
    for name in names:
        s.get(f"/{name}/add")
    os.kill(pid, signal.SIGKILL)
    os.kill(s.proc.pid, signal.SIGCONT)
    back(s, pid)
    is_([s.get("/" + name).json() for name in names], [{"got": 64, "fresh": 0, "right": 64}] * 2, "each of them, with what it held")
    is_(len(kept(s)), 128, "and all are kept on")
    is_(s.get("/hello").header("Server"), "after", "the configuration that came last is in force")
    s.stop()


main()
