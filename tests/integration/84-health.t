#!/usr/bin/env python3
# health: what /readyz knows of plugins, and that it never waits for one
import os, re, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *


def server(a, b="well", load=30000, **more):
    return Server({"health": "health", "health-b": "health_b"}, workers=2, config={
        "timeouts_ms": {"load": load}, "offload": {"threads": 4},
        "plugins": {"health": {"config": {"how": a, **more}}, "health-b": {"config": {"how": b}}}})


def asked(s, which="health"):
    return s.get("/health/" + which).json()["asked"]


def configure(s, how, **more):
    s.config["plugins"]["health"] = {"config": {"how": how, **more}}
    s.write_config()
    return s.reload(config=True)["ok"]


@case("ill from the start: /readyz never says that it is ready")
def _():
    s = server("ill")
    began, said = time.monotonic(), set()
    while time.monotonic() < began + 0.5:
        said.add(s.ops_get("/readyz").status)
    is_(said, {503}, "503 from the first answer on")
    like(s.ops_get("/readyz").text, "the database is away", "with the plugin's reason")
    s = server("well")
    wait_for(lambda: s.ops_get("/readyz").status == 200, 20, "well: ready as soon as that is known")
    ok(True, "well: ready as soon as that is known")


@case("well and ill")
def _():
    s = server("well")
    wait_for(lambda: asked(s) == 1, 20, "asked when it begins to serve")
    before = asked(s)
    time.sleep(1.2)
    is_(asked(s), before, "nobody is asked while nobody asks /readyz")
    began = time.monotonic()
    while time.monotonic() < began + 2.5:
        is_ready = s.ops_get("/readyz").status
        if is_ready != 200:
            break
        time.sleep(0.02)
    is_(is_ready, 200, "well: 200")
    within(asked(s) - before, 2, 4, "asked once a second at most")
    ok(configure(s, "ill"), "a version that is ill")
    wait_for(lambda: s.ops_get("/readyz").status == 503, 20, "503")
    r = s.ops_get("/readyz")
    like(r.text, r"plugin health \(\w+\.\d+\): the database is away\n", "503 with the plugin's reason")
    run = s.ctl("ready")
    is_((run.returncode, run.stdout), (1, ""), "graftctl ready: exit status 1")
    like(run.stderr, r"^graftctl: ready: not_ready: plugin health \(\w+\.\d+\): the database is away\n$", "and why")
    is_(s.ops_get("/livez").status, 200, "it is alive all the same")
    is_(s.get("/health/health").status, 200, "and serves")
    e = s.wait_event("health", plugin="health")
    is_((e["well"], e["reason"]), (False, "the database is away"), "the log tells")
    ok(configure(s, "mute"), "one that gives no reason")
    wait_for(lambda: "no reason" in s.ops_get("/readyz").text, 20, "that is told")
    ok(configure(s, "well"), "a well one again")
    is_(s.ops_get("/readyz").status, 200, "what the old version said counts no more")
    run = s.ctl("ready")
    is_((run.returncode, run.stdout, run.stderr), (0, "ready\n", ""), "graftctl ready agrees")


@case("one that hangs")
def _():
    hang = os.path.join(tempdir(), "hang")
    open(hang, "w").close()
    s = server("hang", "ill", load=int(secs(500)), until=hang)
    began = time.monotonic()
    s.ops_get("/readyz")
    ok(time.monotonic() - began < secs(0.4), "/readyz does not wait")
    wait_for(lambda: "health has not returned for" in s.ops_get("/readyz").text, 20, "the hang is told")
    like(s.ops_get("/readyz").text, r"plugin health \(\S+\): health has not returned for \d+ ms\n", "after timeouts_ms.load")
    wait_for(lambda: "health-b" in s.ops_get("/readyz").text, 20, "others are asked")
    n = asked(s, "health-b")
    wait_for(lambda: s.ops_get("/readyz") and asked(s, "health-b") > n, 20, "again and again")
    is_(asked(s), 1, "the one that hangs is not asked again")
    ok(configure(s, "well"), "it can be replaced")
    time.sleep(0.3)
    is_(s.find_events("plugin", msg=re.compile("^health (cool|fini)")), [], "but not cooled while its callback runs")
    like(str([v.get("waits_for") or v for v in s.ps("health", "cooling")]), "health", "ps tells what it waits for")
    os.unlink(hang)
    e = s.wait_event("plugin", timeout=20, msg=re.compile("^health fini"))
    like(e["msg"], "late=0 twice=0 asked=1", "then it goes, and was never asked after its cool began")
    like(s.wait_event("plugin", msg=re.compile("^health cool"))["msg"], "inside=0", "nor is cool called beside it")
    s.wait_event("retired", plugin="health")
    ok(True, "and is unloaded")


@case("versions that hang, one after the other, hold one thread of the pool")
def _():
    hang = os.path.join(tempdir(), "hang")
    open(hang, "w").close()
    s = server("hang", load=int(secs(300)), until=hang, n=0)
    wait_for(lambda: "has not returned" in s.ops_get("/readyz").text, 20, "the first hangs")
    first = s.active("health")["id"]
    for n in range(1, 5):  # as many as the pool has threads
        ok(configure(s, "hang", until=hang, n=n), f"version {n}")
        r = s.ops_get("/readyz")
        is_(r.status, 503, "readyz fails")
        like(r.text, rf"plugin health \(\S+\): cannot be asked: health of the version before, {first}, has not returned for \d+ ms",
             "and says whose health it waits for")
        is_(asked(s), 0, "it is not asked")
    n = asked(s, "health-b")
    wait_for(lambda: s.ops_get("/readyz") and asked(s, "health-b") > n, 20, "the pool still has threads for others")
    os.unlink(hang)
    wait_for(lambda: s.ops_get("/readyz").status == 200, 20, "all return: well again")
    wait_for(lambda: s.ops_get("/readyz") and asked(s) > 0, 20, "and the one that serves is asked")
    wait_for(lambda: len(s.ps("health")) == 1, 20, "the others have left")


@case("swaps while it is asked")
def _():
    s = server("well")
    over = threading.Event()

    def ask():
        while not over.is_set():
            s.ops_get("/readyz")
    t = threading.Thread(target=ask)
    t.start()
    for n in range(8):
        s.install(make_unique("health"), "health")
        ok(s.reload()["ok"], f"swap {n}")
    over.set()
    t.join()
    wait_for(lambda: len(s.find_events("plugin", msg=re.compile("^health fini"))) == 8, 20, "all left")
    bad = [e["msg"] for e in s.find_events("plugin", msg=re.compile("^health fini")) if "late=0 twice=0" not in e["msg"]]
    is_(bad, [], "none was asked after its cool began, or twice at once")


main()
