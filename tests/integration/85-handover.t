#!/usr/bin/env python3
# Hand-over: export_state and import_state, held requests, and what happens when it cannot be
import os, re, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

SWAPS = int(os.environ.get("HANDOVER_SWAPS") or {"none": 60}.get(SANITIZER, 20))
LONG = int(secs(2000))


def server(plugin="handover_v1", ms=LONG, config=None, workers=2, load=30000, **more):
    return Server({"handover": plugin, "hello": "hello"}, workers=workers,
                  config={"timeouts_ms": {"handover": ms, "load": load}, **({"plugins": {"handover": {"config": config}}} if config else {}), **more})


def swap(s, what, config=None):
    """With another configuration of the plugin: its version is another one too."""
    s.install(make_unique(what), "handover")
    if config is None:
        return s.reload()
    s.config.setdefault("plugins", {})["handover"] = {"config": config}
    s.write_config()
    return s.reload(config=True)


def value(s):
    return s.get("/value").json()["value"]


def reason(r):
    return str(r.get("reason")) + " " + str([f.get("error") for f in r.get("failed", [])])


class Counting:
    """Clients that count on connections that stay; each answer is one."""

    def __init__(self, s, clients=3, target="/count"):
        self.s, self.target, self.answers, self.bad, self.slowest = s, target, [], [], 0
        self.on = True
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def run(self):
        conn = self.s.connect()
        while self.on:
            began = time.monotonic()
            try:
                r = conn.get(self.target)
            except Exception as error:
                self.bad.append(repr(error))
                return
            self.slowest = max(self.slowest, time.monotonic() - began)
            if r.status == 200:
                self.answers.append(int(r.text) if self.target == "/count" else 1)
            else:
                self.bad.append(r.status)
        conn.close()

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.on = False
        for t in self.threads:
            t.join()


@case("many swaps under load, each request counted once")
def _():
    s = server()
    failed = []
    with Counting(s) as c:
        for n in range(SWAPS):
            r = swap(s, "handover_v2" if n % 2 == 0 else "handover_v1")
            if not r["ok"]:
                failed.append(reason(r))
    is_(failed, [], f"{SWAPS} swaps")
    is_(c.bad, [], "no request failed")
    ok(len(c.answers) > SWAPS, "there was load", len(c.answers))
    is_(sorted(c.answers), list(range(1, len(c.answers) + 1)), "each request was given a number of its own, without gaps")
    is_(value(s), len(c.answers), "the total is exact")
    like(str(s.find_events("plugin", msg=re.compile("ready with"))[-1]["msg"]), r"ready with \d+", "ready comes after import_state")
    is_(len(s.find_events("plugin", msg=re.compile(r"ready with"))), SWAPS + 1, "once each")


@case("the old version's graft_every stand still, then the new one's run")
def _():
    s = server(config={"look": True})
    wait_for(lambda: s.get("/value").json()["ticks"] > 3, 20, "ticks")
    s.get("/count")
    ok(swap(s, "handover_v2")["ok"], "export_state saw neither a request nor a graft_every")
    wait_for(lambda: s.get("/value").json()["ticks"] > 3, 20, "ticks of the new version")
    is_(s.get("/value").header("X-Version"), "v2", "it serves, and its own run")


@case("no other plugin's requests are held")
def _():
    s = server(config={"export": "slow", "ms": int(secs(600))})
    with Counting(s, clients=2) as own, Counting(s, clients=2, target="/hello") as other:
        time.sleep(0.1)
        ok(swap(s, "handover_v2")["ok"], "a hand-over that takes long")
    is_((own.bad, other.bad), ([], []), "held requests are answered, and so are all others")
    ok(own.slowest > secs(0.5), "its own were held", own.slowest)
    ok(other.slowest < secs(0.4), "another plugin's were not", other.slowest)
    is_(value(s), len(own.answers), "and all are counted")


def refused(s, r, why, count):
    is_(r["ok"], False, "the swap is refused")
    like(reason(r), why, "and says why")
    r = s.get("/count")
    is_((r.header("X-Version"), int(r.text)), ("v1", count + 1), "nothing has changed")
    wait_for(lambda: len(s.ps("handover")) == 1, 20, "the new version is gone")
    before = s.get("/value").json()["ticks"]
    wait_for(lambda: s.get("/value").json()["ticks"] > before, 20, "the old version's graft_every run again")
    ok(True, "the old version's graft_every run again")


@case("past timeouts_ms.handover")
def _():
    s = server(ms=150, config={"export": "slow", "ms": int(secs(1000))})
    s.get("/count")
    with Counting(s, clients=2) as c:
        time.sleep(0.1)
        r = swap(s, "handover_v2")
    is_(c.bad, [], "no request failed")
    ok(c.slowest < secs(0.8), "none was held longer than that", c.slowest)
    refused(s, r, r"timeouts_ms\.handover.*export_state", 1 + len(c.answers))
    s = server(ms=150)
    s.get("/count")
    conn = s.connect()
    conn.send(b"POST /count/body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
    wait_for(lambda: sum(v["in_flight"] for v in s.ps("handover")) == 1, 10, "an upload that has not ended")
    refused(s, swap(s, "handover_v2"), r"timeouts_ms\.handover.*in progress.*/count/body.*body", 1)
    conn.send(b"cde")
    is_(conn.response().text, "3\n", "which then ends on the old version")


@case("a request in progress is waited for")
def _():
    s = server()
    conn = s.connect()
    conn.send(b"POST /count/body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
    wait_for(lambda: sum(v["in_flight"] for v in s.ps("handover")) == 1, 10, "an upload")
    done = []
    t = threading.Thread(target=lambda: done.append(swap(s, "handover_v2")))
    t.start()
    time.sleep(0.3)
    held = s.connect()
    held.send(b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n")
    left = s.connect()
    left.send(b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n")
    time.sleep(0.1)
    left.abort()
    is_(s.get("/hello").status, 200, "another plugin answers meanwhile")
    conn.send(b"cde")
    r = conn.response()
    is_((r.header("X-Version"), r.text), ("v1", "1\n"), "the upload ends on the old version")
    r = held.response()
    t.join()
    ok(done[0]["ok"], "then the hand-over goes on")
    is_((r.header("X-Version"), r.text), ("v2", "2\n"), "what was held is answered by the new one")
    is_(value(s), 2, "who left meanwhile was never counted")


@case("LATER and streams that are in progress")
def _():
    for target, answer in (("/count/timer", "2\n"), ("/count/stream", "begin\nend\n")):
        s = server()
        s.get("/count")
        conn = s.connect()
        conn.send(f"GET {target}?ms={int(secs(1500))} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_for(lambda: sum(v["in_flight"] for v in s.ps("handover")) == 1, 10, "it is in progress")
        began = time.monotonic()
        r = swap(s, "handover_v2")
        ok(time.monotonic() - began < secs(1), f"{target}: refused at once")
        is_(r["ok"], False, "the swap is refused")
        like(reason(r), r"LATER|stream", "and says why")
        is_(conn.response().text, answer, "it ends as it would have")
        is_(s.get("/value").header("X-Version"), "v1", "on the version that serves on")
        ok(swap(s, "handover_v2")["ok"], "afterwards it can be swapped")


@case("-1 of export_state, import_state, ready and start")
def _():
    s = server(config={"export": "fail"})
    s.get("/count")
    refused(s, swap(s, "handover_v2"), "export_state.*failed: export as configured", 1)
    s = server()
    s.get("/count")
    for n, key in enumerate(("import", "ready", "start")):
        refused(s, swap(s, "handover_v2", {key: "fail"}), f"{key} as configured", 1 + n)
    ok(swap(s, "handover_v2", {"x": 1})["ok"], "one that does not fail")
    is_(value(s), 4, "gets the state")


@case("export_state and import_state that hang")
def _():
    for config, key in (({"export": "slow", "ms": int(secs(1500))}, "export_state"), ({"x": 1}, "import_state")):
        s = server(ms=LONG * 5, config=config, load=int(secs(400)))
        s.get("/count")
        r = swap(s, "handover_v2", None if key == "export_state" else {"import": "slow", "ms": int(secs(1500))})
        is_(r["ok"], False, "the swap is refused")
        like(reason(r), f"{key}.*has not returned within", "and says why")
        is_((s.get("/count").text, s.get("/value").header("X-Version")), ("2\n", "v1"), "the old version serves on")
        ok(swap(s, "handover_v2", {"y": 1})["ok"] if key == "import_state" else True, "another one can take over meanwhile")
        wait_for(lambda: len(s.ps("handover")) == 1, 20, "all else ends when it returns")
        is_(value(s), 2, "the number is what it was")


@case("another schema")
def _():
    s = server("handover_old")
    s.get("/count")
    ok(swap(s, "handover_new")["ok"], "a newer version reads an older schema")
    found = s.get("/value").json()
    is_((found["value"], found["schema"]), (1, 0), "and is told which")
    r = swap(s, "handover_v1")
    is_(r["ok"], False, "one that is older refuses")
    like(reason(r), "schema 2 is newer than mine, 1", "and says why")
    is_(s.get("/value").header("X-Version"), "new", "nothing has changed")


@case("a drain during a hand-over abandons it")
def _():
    s = server(ms=LONG * 5, config={"export": "slow", "ms": int(secs(700))})
    s.get("/count")
    s.install(make_unique("handover_v2"), "handover")
    done = []
    t = threading.Thread(target=lambda: done.append(s.reload()))
    t.start()
    time.sleep(secs(0.2))
    held = s.connect()
    held.send(b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n")
    time.sleep(0.1)
    s.send_signal(15)
    r = held.response()
    is_((r.header("X-Version"), r.text), ("v1", "2\n"), "what was held is answered by the old version")
    is_(s.wait_exit(), 0, "and the server ends")
    t.join()
    is_(done[0]["ok"], False, "the reload is told")


@case("middleware: the routes that it surrounds")
def _():
    s = Server({"counter": "counter", "hello": "hello"}, {"middleware": ["counter"], "timeouts_ms": {"handover": LONG}}, workers=2)
    with Counting(s, clients=3, target="/hello") as c:
        for n in range(10):
            s.install(make_unique("counter"), "counter")
            r = s.reload()
            ok(r["ok"], f"swap {n}", reason(r))
    found = s.get("/counter").json()
    is_(c.bad, [], "no request failed")
    counts = [p["count"] for p in found["paths"] if p["path"] == "/hello"]
    is_((sum(counts), found["total"], found["other"]), (len(c.answers), len(c.answers), 0), "counter: the total is exact")
    is_(found["last"], {"/hello": 200}, "its map came along")
    text = s.get("/counter?format=text").text
    like(text, r"^\d+ total\n0 other\n.*\d+ /hello\n", "and as text")


@case("a canary gets the state when it is promoted, not before; where it cannot, nothing is promoted")
def _():
    s = server()
    for _ in range(5):
        s.get("/count")
    s.install(make_unique("handover_v2"), "handover")
    is_(s.ctl("canary", "handover", "--weight", "0").returncode, 0, "a canary")
    is_(value(s), 5, "the stable version counts on")
    with Counting(s) as c:
        wait_for(lambda: len(c.answers) > 50, 10, "load")
        r = s.ctl("promote", "handover")
        is_(r.returncode, 0, "promote")
        more = len(c.answers)
        wait_for(lambda: len(c.answers) > more + 50, 10, "load")
    is_(c.bad, [], "no request failed")
    is_(value(s), 5 + len(c.answers), "and none was counted twice or lost")
    is_(s.get("/count").header("X-Version"), "v2", "by the new version")
    s.install(make_unique("handover_v1"), "handover")
    is_(s.ctl("canary", "handover", "--weight", "0").returncode, 0, "another canary")
    before = value(s)
    with s.connect() as stream:
        stream.send(request_bytes("GET", "/count/stream?ms=1500"))
        stream.head()
        r = s.ctl("promote", "handover")
        is_(r.returncode, 1, "a stream that is older stands in the way")
        like(r.stderr, "hand-over", "which is told")
        is_(sorted(v["state"] for v in s.ps("handover")), ["active", "canary"], "the canary is one still")
        is_(s.get("/count").header("X-Version"), "v2", "and the stable version serves")
    wait_for(lambda: s.ctl("promote", "handover").returncode == 0, 10, "then it can be")
    is_(value(s), before + 1, "with all of the state: a stream that was cut is not counted")
    is_(s.get("/count").header("X-Version"), "v1", "by the other version")
    s.stop()


main()
