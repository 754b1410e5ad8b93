#!/usr/bin/env python3
# Rollback: the good version before serves again, the one replaced is quarantined, and both outlive the server
import glob
import os
import signal
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *
from swaptest import *

marked = Marked()
EMPTY = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def put(s, n, name="versioned"):
    """Build number n goes into the folder; its SHA-256."""
    path = os.path.join(tempdir(), name + ".so")
    with open(path, "wb") as f:
        f.write(marked(n))
    return s.install(path, name)


def serve(n=1, **more):
    """A server with build n."""
    s = Server([], start=False, **more)
    put(s, n)
    return s.start()


def serve_two():
    """A server with build 2, which has replaced build 1, and another plugin."""
    s = Server({"hello": "hello"}, start=False)
    put(s, 1)
    s.start()
    put(s, 2)
    s.reload()
    return s


def mark(s):
    return mark_of(s.get("/version"))


def rollback(s, name="versioned"):
    return s.api("POST", f"/v1/plugins/{name}/rollback")


def lists(s):
    answer = s.api("GET", "/v1/versions")
    return answer["kept"], answer["quarantined"]


def again(s, wait=True, config=None):
    """Another server in the same folders."""
    s.finish()
    os.unlink(s.log_path)
    return Server([], dir=s.dir, config=config, wait=wait)


def index(s):
    path = os.path.join(s.dir, "state", "index.json")
    return open(path).read() if os.path.exists(path) else ""


def stored(s):
    return sorted(f for f in os.listdir(os.path.join(s.dir, "state", "files")) if not f.startswith("."))


@case("the previous good version serves again, within 100 ms, as a swap")
def _():
    s = serve(1)
    one = s.active("versioned")
    two_sha = put(s, 2)
    ok(s.reload()["ok"], "build 2 is swapped in")
    two = s.active("versioned")
    is_((mark(s), two["source"], two["reason"]), (2, "folder", None), "it serves, from the folder")
    wait_for(lambda: len(stored(s)) == 2, 10, "both are kept")
    is_(stored(s), sorted([one["sha256"], two_sha]), "files are named by their hash")
    since = s.mark()
    answer = rollback(s)
    is_((answer["_status"], answer["ok"]), (200, True), "rollback")
    is_([(e["plugin"], e["error"]) for e in answer["changed"]], [("versioned", None)], "what changed")
    within(answer["duration_us"], 1, 100_000 * SCALE, "within 100 ms")
    is_(mark(s), 1, "build 1 answers")
    now = s.active("versioned")
    is_((now["sha256"], now["config_sha256"], now["id"]), (one["sha256"], EMPTY, answer["changed"][0]["id"]),
        "ps tells its identity")
    is_(now["source"], "store", "and that it comes from the store")
    like(now["reason"], rf"from the store: rolled back from {two['id']}: ", "and why")
    event = s.wait_event("rollback", since=since)
    is_((event["plugin"], event["from"], event["to"]), ("versioned", two["id"], now["id"]), "event rollback")
    is_((event["from_sha256"], event["to_sha256"]), (two_sha, one["sha256"]), "with both identities")
    is_((event["by"], bool(event["reason"])), ("graftctl rollback", True), "who asked, and why")
    event = s.wait_event("quarantine", since=since)
    is_((event["plugin"], event["sha256"], event["config_sha256"]), ("versioned", two_sha, EMPTY), "event quarantine")
    event = s.wait_event("swap", since=since)
    is_((event["ok"], event["changed"][0]["id"]), (True, now["id"]), "event swap")
    kept, quarantined = lists(s)
    is_([(k["plugin"], k["sha256"], k["serves"]) for k in kept], [("versioned", one["sha256"], True)], "what is kept")
    is_([(q["plugin"], q["sha256"], q["id"]) for q in quarantined], [("versioned", two_sha, two_sha[:12])],
        "what is quarantined")
    metrics = s.metrics()
    is_((metrics["graft_rollbacks_total"], metrics["graft_quarantined"], metrics["graft_kept"]), (1, 1, 1), "metrics")
    is_(metrics['graft_versions{state="active"}'], 1, "one version is active")
    is_({r["id"] for r in s.routes()}, {now["id"]}, "routes tell the same")
    page = s.ops_get("/status").text
    ok("from the store: rolled back from" in page and "quarantined" in page, "and the page", page)
    shown = s.ctl("ps").stdout
    like(shown, rf"versioned +- +{two_sha[:12]} +quarantined", "and graftctl ps")


@case("a canary beside what is rolled back goes with it: nothing gives it all requests that had a few")
def _():
    s = serve(1)
    put(s, 2)
    ok(s.reload()["ok"], "build 2 is swapped in")
    wait_for(lambda: len(stored(s)) == 2, 10, "both are kept")
    three = put(s, 3)
    is_(s.ctl("canary", "versioned", "--weight", "5").returncode, 0, "build 3 is a canary")
    since = s.mark()
    answer = rollback(s)
    is_((answer["ok"], mark(s)), (True, 1), "rollback: build 1 serves")
    like(s.wait_event("quarantine", since=since, sha256=three)["reason"], "canary.*rolled back", "build 3 is quarantined, and why")
    for how in (signal.SIGUSR2, signal.SIGHUP, "restart"):
        if how == "restart":
            wait_for(lambda: three in index(s).partition('"quarantine"')[2], 10, "the index on the disk")
            s = again(s)
        else:
            s.reload_signal(how)
        is_({mark(s) for _ in range(40)}, {1}, f"{how}: build 1 serves all")
    is_(s.ctl("canary", "versioned", "--weight", "50").returncode, 0, "asked for again by name it may")
    is_({mark(s) for _ in range(40)}, {1, 3}, "serve")
    put(s, 1)
    ok(s.reload()["ok"], "and leaves without it")
    s.stop()


@case("a refused rollback is in the log and counted, as what else was asked for and refused")
def _():
    s = serve(1)
    for name, why in (("versioned", "no good version"), ("nobody", 'no plugin "nobody"')):
        since, before = s.mark(), s.metrics()['graft_swaps_total{outcome="failed"}']
        is_(rollback(s, name)["ok"], False, f"{name}: refused")
        event = s.wait_event("swap", since=since)
        is_((event["ok"], event["level"]), (False, "error"), "event swap")
        like(event["msg"], why, "with the reason")
        is_(s.metrics()['graft_swaps_total{outcome="failed"}'] - before, 1, "/metrics")
    s.stop()


@case("what was replaced stays out: USR2, HUP, reload, another plugin's configuration")
def _():
    s = Server(["hello", "request-id"], start=False)
    put(s, 1)
    s.start()
    put(s, 2)
    s.reload()
    rollback(s)
    serving = s.active("versioned")["id"]
    event = s.reload_signal(signal.SIGUSR2)
    is_((event["ok"], event["changed"]), (True, []), "USR2 changes nothing")
    like([e["error"] for e in event["failed"]], rf"quarantined.*{serving} serves on.*graftctl reload --retry",
         "and says what the file is and what to do")
    run = s.ctl("reload")
    is_(run.returncode, 0, "reload: exit 0")
    like(run.stdout, r"failed +versioned: versioned.so: [0-9a-f]{12} is quarantined", "says so too")
    ok(s.reload_signal(signal.SIGHUP)["ok"], "HUP")
    is_((mark(s), s.active("versioned")["id"]), (1, serving), "the same version serves")
    s.config["plugins"] = {"hello": {"config": {"x": 1}}}
    answer = s.reload(config=True)
    is_((answer["ok"], [e["plugin"] for e in answer["changed"]]), (True, ["hello"]), "another plugin's configuration")
    is_((mark(s), s.active("versioned")["id"]), (1, serving), "the same version serves")
    s.config["middleware"] = ["request-id"]
    s.config["plugins"] = {"hello": {"config": {"x": 1}, "mount": "/other"}}
    ok(s.reload(config=True)["ok"], "another generation")
    is_(s.active("versioned")["id"], serving, "the same version serves")


@case("it stays out of a watched folder too")
def _():
    s = serve(1, args=["--watch"])
    since = s.mark()
    put(s, 2)
    s.wait_event("swap", since=since, changed=lambda c: len(c) == 1)
    rollback(s)
    serving, since = s.active("versioned")["id"], s.mark()
    put(s, 2)
    event = s.wait_event("swap", since=since)
    is_((event["ok"], event["changed"], len(event["failed"])), (True, [], 1), "the same bytes again")
    is_((mark(s), s.active("versioned")["id"]), (1, serving), "are not loaded")
    since = s.mark()
    put(s, 3)
    s.wait_event("swap", since=since, changed=lambda c: len(c) == 1)
    is_(mark(s), 3, "other bytes are")


@case("until its file changes, its configuration changes, or somebody says --retry")
def _():
    s = serve(1)
    put(s, 2)
    s.reload()
    rollback(s)
    s.config["plugins"] = {"versioned": {"config": {"changed": True}}}
    ok(s.reload(config=True)["ok"], "its configuration changes")
    is_((mark(s), s.active("versioned")["source"]), (2, "folder"), "then it is loaded")
    answer = rollback(s)
    is_((answer["ok"], mark(s)), (True, 1), "back to build 1")
    is_(s.active("versioned")["config_sha256"], EMPTY, "with the configuration that it ran with")
    is_(len(lists(s)[1]), 2, "two identities are quarantined")
    put(s, 3)
    ok(s.reload()["ok"], "another file")
    is_(mark(s), 3, "is loaded")
    rollback(s)
    is_(mark(s), 1, "back again")
    since = s.mark()
    run = s.ctl("reload", "--retry")
    is_((run.returncode, mark(s)), (0, 3), "reload --retry tries the quarantined file again")
    is_(len(lists(s)[1]), 2, "and it is no longer quarantined")
    is_(s.reload()["failed"], [], "a reload has nothing to say any more")
    is_(rollback(s)["ok"] and mark(s), 1, "its predecessor is the one that served before")


@case("the file that was good is put back: it serves from the folder again")
def _():
    s = serve(1)
    put(s, 2)
    s.reload()
    rollback(s)
    serving = s.active("versioned")["id"]
    put(s, 1)
    answer = s.reload()
    is_((answer["ok"], answer["changed"], answer["failed"]), (True, [], []), "nothing is to be done")
    now = s.active("versioned")
    is_((now["id"], now["source"], now["reason"]), (serving, "folder", None), "the same version, now the folder's")


@case("what there is to go back to: two good versions are kept, no more")
def _():
    s = serve(1)
    answer = rollback(s)
    is_((answer["_status"], answer["error"]), (409, "refused"), "nothing before the first")
    like(answer["reason"], r'no good version of plugin "versioned" but the one that serves', "says what there is")
    for n in (2, 3):
        put(s, n)
        ok(s.reload()["ok"], f"build {n}")
    wait_for(lambda: len(stored(s)) == 2, 10, "two files are kept")
    is_(rollback(s)["ok"] and mark(s), 2, "back to 2")
    answer = rollback(s)
    is_((answer["_status"], mark(s)), (409, 2), "1 is not kept any more")
    like(answer["reason"], r"quarantined: [0-9a-f]{12} \(a rollback was asked for\)", "names what is quarantined")
    answer = rollback(s, "nobody")
    is_((answer["_status"], answer["error"]), (404, "not_found"), "no such plugin")
    is_(rollback(s, "x" * 300)["_status"], 404, "nor that")
    run = s.ctl("rollback", "versioned")
    is_(run.returncode, 1, "graftctl's exit status")
    like(run.stderr, "graftctl: rollback: refused: no good version", "and its reason")


@case("after a restart: a rollback, and the last good version in place of a quarantined file")
def _():
    s = serve(1)
    put(s, 2)
    s.reload()
    wait_for(lambda: len(stored(s)) == 2, 10, "both are kept")
    s = again(s)
    is_(mark(s), 2, "build 2 serves")
    answer = rollback(s)
    is_((answer["ok"], mark(s)), (True, 1), "build 1 comes out of the store")
    within(answer["duration_us"], 1, 100_000 * SCALE, "within 100 ms")
    s = again(s)
    is_(mark(s), 1, "with build 2 in the folder, build 1 serves")
    now = s.active("versioned")
    is_(now["source"], "store", "from the store")
    like(now["reason"], r"versioned\.so \([0-9a-f]{12}\) is quarantined: a rollback was asked for", "and why")
    event = s.wait_event("swap")
    like(event["failed"][0]["error"], r"is quarantined .* from the store serves", "the first swap says so")
    is_(s.reload()["changed"], [], "a reload changes nothing")
    is_(mark(s), 1, "it serves")
    put(s, 3)
    ok(s.reload()["ok"] and mark(s) == 3, "a new file is loaded")


@case("a kill between two starts loses nothing either")
def _():
    s = serve(1)
    put(s, 2)
    s.reload()
    rollback(s)
    wait_for(lambda: "a rollback was asked for" in index(s), 10, "the quarantine is written")
    s.kill()
    s = again(s)
    is_((mark(s), len(lists(s)[1])), (1, 1), "the last good version serves")
    is_(len(s.staged()), 1, "what was staged before is gone")


@case("a quarantined file and nothing good in the store: refused, unless it is not required")
def _():
    s = serve(1)
    put(s, 2)
    s.reload()
    rollback(s)
    is_(s.stop(), 0, "the server ends")
    for path in glob.glob(os.path.join(s.dir, "state", "files", "*")):
        os.unlink(path)
    s = again(s, wait=False)
    is_(s.wait_exit(), 1, "exit 1")
    like("\n".join(s.other_lines[-3:]), r"graftd: versioned.so: [0-9a-f]{12} is quarantined .*no good version is kept",
         "with the reason")
    s = again(s, config={"plugins": {"versioned": {"required": False}}})
    is_(s.get("/version").status, 404, "without it the server runs")
    is_(rollback(s)["_status"], 404, "there is nothing to go back to")
    ok(s.reload()["ok"], "a reload is well")
    ok(s.reload(retry=True)["ok"], "and --retry")
    is_(mark(s), 2, "serves it")


@case("its file is removed: the plugin goes; put back, it is still quarantined")
def _():
    s = serve_two()
    rollback(s)
    s.uninstall("versioned")
    answer = s.reload()
    is_([(e["plugin"], e["error"]) for e in answer["changed"]], [("versioned", "removed")], "the folder says what there is")
    is_(s.get("/version").status, 404, "the plugin is gone")
    answer = rollback(s)
    is_((answer["_status"], answer["error"]), (409, "refused"), "what is not served cannot be rolled back")
    like(answer["reason"], "is not served", "says so")
    put(s, 2)
    ok(s.reload()["ok"], "the quarantined file comes back")
    is_((mark(s), s.active("versioned")["source"]), (1, "store"), "the last good version serves")


@case("its file is gone already: what serves is rolled back all the same, and the next scan removes it")
def _():
    s = serve_two()
    s.uninstall("versioned")
    is_((rollback(s)["ok"], mark(s)), (True, 1), "build 1 serves")
    answer = s.reload()
    is_([(e["plugin"], e["error"]) for e in answer["changed"]], [("versioned", "removed")], "the folder says what there is")
    put(s, 2)
    ok(s.reload()["ok"], "the file is back, and quarantined")
    is_((mark(s), s.active("versioned")["source"]), (1, "store"), "the good version serves")


@case("the configuration goes with the version: its entry changes and goes, while it runs and while it does not")
def _():
    s = Server([], {"plugins": {"versioned": {"config": {"x": 1}}}}, start=False)
    put(s, 1)
    s.start()
    one = s.active("versioned")["config_sha256"]
    put(s, 2)
    s.reload()
    s.config["plugins"] = {}
    ok(s.reload(config=True)["ok"], "its entry goes")
    is_((mark(s), s.active("versioned")["config_sha256"]), (2, EMPTY), "the same file runs without")
    is_((rollback(s)["ok"], mark(s)), (True, 2), "rollback: the same file")
    is_((s.active("versioned")["config_sha256"], s.active("versioned")["source"]), (one, "store"), "as it was configured")
    ok(s.reload(config=True)["ok"], "HUP leaves it")
    is_(s.active("versioned")["config_sha256"], one, "alone")
    s = again(s, config={"plugins": {}})
    is_((mark(s), s.active("versioned")["config_sha256"]), (2, one), "a restart does, too")
    s = again(s, config={"plugins": {"versioned": {"config": {"x": 2}}}})
    is_((mark(s), s.active("versioned")["source"]), (2, "folder"), "another configuration while it does not run: the file is loaded")
    isnt(s.active("versioned")["config_sha256"], one, "with that")
    is_((rollback(s)["ok"], s.active("versioned")["config_sha256"]), (True, one), "and rolled back to what was good before")


@case("disabled and enabled again: the last good version, not the quarantined file")
def _():
    s = serve_two()
    rollback(s)
    s.config["plugins"] = {"versioned": {"enabled": False}}
    ok(s.reload(config=True)["ok"] and s.get("/version").status == 404, "disabled")
    s.config["plugins"] = {}
    ok(s.reload(config=True)["ok"], "enabled")
    is_((mark(s), s.active("versioned")["source"]), (1, "store"), "the last good version serves")


@case("a version that fails to come back changes nothing")
def _():
    s = serve(1)
    one = s.active("versioned")["sha256"]
    put(s, 2)
    s.reload()
    wait_for(lambda: len(stored(s)) == 2, 10, "both are kept")
    path = damage(s, one)
    answer = rollback(s)
    is_((answer["_status"], answer["error"], mark(s)), (409, "failed", 2), "its file was changed: refused")
    like(answer["reason"], r"its file in the store has been changed: SHA-256 is [0-9a-f]{12}, expected", "says so")
    is_(lists(s)[1], [], "nothing is quarantined")
    event = s.wait_event("swap", ok=False)
    os.unlink(path)
    like(rollback(s)["reason"], "its file is not in the store", "its file is gone: says so")
    is_(mark(s), 2, "build 2 serves")


@case("two plugins: a rollback touches one, requests in progress end on the code they began with")
def _():
    s = serve_two()
    hello = s.active("hello")["id"]
    with s.connect(timeout=30) as conn:
        conn.send(request_bytes("GET", "/version/timer?ms=600"))
        wait_for(lambda: s.active("versioned")["in_flight"] == 1, 10, "a request is in progress")
        ok(rollback(s)["ok"], "rollback")
        is_(mark(s), 1, "new requests run build 1")
        is_(mark_of(conn.response()), 2, "the old one ends on build 2")
    is_(s.active("hello")["id"], hello, "the other plugin was not touched")


@case("during a swap it waits; while one is asked for in a drain it is refused")
def _():
    s = serve(1, config={"drain": {"delay_ms": 1500}})
    put(s, 2)
    s.reload()
    put(s, 3)
    with Conn(s.control, timeout=60) as a, Conn(s.control, timeout=60) as b, Conn(s.control, timeout=60) as c:
        a.send(request_bytes("POST", "/v1/reload", host="graft"))
        b.send(request_bytes("POST", "/v1/plugins/versioned/rollback", host="graft"))
        c.send(request_bytes("POST", "/v1/reload", host="graft"))
        first, second, third = (x.response().json() for x in (a, b, c))
    is_((first["ok"], second["ok"], third["ok"]), (True, True, True), "each is answered")
    is_(mark(s), 2, "after the swap to build 3 the rollback went to build 2")
    is_((len(third["changed"]), len(third["failed"])), (0, 1), "and the reload behind it left that alone")
    put(s, 4)
    ok(s.reload()["ok"], "build 4")
    s.send_signal(signal.SIGTERM)
    s.wait_event("drain_start")
    answer = rollback(s)
    is_((answer["_status"], answer["error"]), (503, "draining"), "as a reload is")
    is_(s.wait_exit(), 0, "the server ends")


@case("100 rollbacks under load: no request fails, each is a build that was there")
def _():
    s = serve(0)
    slowest = 0
    with Prober(s, "/version", every=0.003, clients=2, value=mark_of) as p:
        for n in range(1, 101):
            put(s, n)
            ok(s.reload()["ok"], f"build {n}") if n == 1 else s.reload()
            answer = rollback(s)
            if not answer["ok"]:
                ok(False, f"rollback {n}", answer)
                break
            slowest = max(slowest, answer["duration_us"])
            if mark(s) != 0:
                ok(False, f"after rollback {n} build 0 serves", mark(s))
                break
        p.wait_count(10)
    is_(p.failures, [], f"no request of {p.count} failed")
    is_(s.metrics()["graft_rollbacks_total"], 100, "100 rollbacks")
    diag(f"slowest rollback {slowest / 1000:.1f} ms, slowest request {p.slowest * 1000:.1f} ms")
    within(len(lists(s)[1]), 1, 16, "the quarantine of a plugin is bounded")
    wait_for(lambda: len(s.ps("versioned")) == 1, 20, "all others are retired")
    wait_for(lambda: len(stored(s)) == 1, 10, "one file is left in the store")
    is_(len(s.staged()), 1, "and one in the stage folder")


@case("without a state folder the same, until the restart")
def _():
    s = Server([], start=False, config={"state_dir": ""})
    put(s, 1)
    s.start()
    said = [e for e in s.find_events("state") if "until the restart" in e["msg"]]
    is_(len(said), 1, "said once")
    put(s, 2)
    s.reload()
    is_(rollback(s)["ok"] and mark(s), 1, "a rollback")
    is_(s.reload()["changed"], [], "a reload leaves it alone")
    is_(mark(s), 1, "build 1 serves")
    wait_for(lambda: len(s.staged()) == 1, 10, "one staged copy")
    is_(s.stop(), 0, "the server ends")
    is_(os.listdir(s.stage_dir), [], "and leaves nothing behind")
    s = again(s, config={"state_dir": ""})
    is_((mark(s), lists(s)[1]), (2, []), "after the restart the folder counts")


main()
