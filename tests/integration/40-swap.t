#!/usr/bin/env python3
# Swaps: what began on the old version ends there, everything after meets the new one, and the old one is gone
import hashlib
import json
import os
import re
import shutil
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

EMPTY_CONFIG = hashlib.sha256(b"{}").hexdigest()


def lines(version, n):
    return "".join(f"{version} {i}/{n}\n" for i in range(1, n + 1)).encode()


@case("timer, offload, stream and upload end on the version that they began on")
def _():
    s = Server({"versioned": "versioned_v1", "hello": "hello"})
    settle(s, 2)
    before = footprint(s)
    v1 = s.active("versioned")
    idle = [s.connect() for _ in range(4)]
    for conn in idle:
        is_(conn.get("/version").body, b"v1\n", "an open connection, before")
    upload = s.connect()
    upload.send(b"POST /version/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
    stream = In(s, "/version/stream?chunks=15&ms=80", started=b"v1 1/15")
    late = [In(s, "/version/timer?ms=900"), In(s, "/version/offload?ms=900")]
    wait_for(lambda: s.active("versioned")["in_flight"] == 4, 5, "four requests under way")

    mark = s.mark()
    sha256 = put(s, "versioned_v2", "versioned")
    answer = s.reload()
    ok(answer["ok"], "reload", answer)
    is_([c["plugin"] for c in answer["changed"]], ["versioned"], "what changed")
    is_([c["plugin"] for c in answer["unchanged"]], ["hello"], "what did not")
    for conn in idle:
        is_(conn.get("/version").body, b"v2\n", "an open connection, after")
    is_(s.get("/version").body, b"v2\n", "a new connection")
    for path in ("/version/timer?ms=1", "/version/offload?ms=1"):
        is_(s.get(path).body, b"v2\n", path + " after the swap")
    is_(s.get("/version/stream?chunks=2&ms=1").body, lines("v2", 2), "a stream after the swap")

    found = {v["id"]: v for v in s.ps("versioned")}
    is_(len(found), 2, "both versions are loaded")
    old, new = found[v1["id"]], found[answer["changed"][0]["id"]]
    is_((old["state"], new["state"]), ("cooling", "active"), "states")
    is_(new["sha256"], sha256, "ps: the new file's hash")
    is_(old["in_flight"], 4, "the old one still serves")
    # Which of the four came first is the workers' to say: each has a connection of its own.
    ok(old["oldest"]["route"].startswith("/version/") and old["oldest"]["age_ms"] >= 0 and old["oldest"]["waits_for"],
       "its oldest request has a route, an age and something that it waits for", old["oldest"])
    ok(len(s.maps(v1["id"] + ".so")) > 0 and any(v1["id"] in p for p in s.staged()), "and is still mapped and staged")
    cooling = s.wait_event("cooling", since=mark)
    is_((cooling["id"], cooling["in_flight"]), (v1["id"], 4), "cooling: who, and how many requests")

    body = stream.answer()
    is_(body.body, lines("v1", 15), "the stream is v1's to its end")
    is_(stream.conn.get("/version").body, b"v2\n", "and its connection then meets v2")
    for request in late:
        is_(request.answer().body, b"v1\n", request.target)
        is_(request.conn.get("/version").body, b"v2\n", "and its connection then meets v2")
    is_([v["state"] for v in s.ps() if v["id"] == v1["id"]], ["cooling"], "the upload still holds v1")
    upload.send(b"world")
    is_(upload.response().body, b"v1 10\n", "the upload is v1's")
    is_(upload.request("POST", "/version/upload", body=b"abc").body, b"v2 3\n", "and its connection then meets v2")

    gone = s.wait_event("retired", since=mark)
    is_((gone["id"], gone["unmapped"], gone["served"]), (v1["id"], True, old["served"] + 4), "retired: v1, unmapped")
    is_settled(s, 2, "v1's mapping and its staged file are gone")
    is_(s.maps(v1["id"]), [], "nothing of v1 in /proc/PID/maps")
    for conn in [*idle, upload, stream.conn, *(request.conn for request in late)]:
        conn.close()
    is_footprint(s, before, "nothing else was left")


@case("pipelined requests behind one of the old version")
def _():
    s = Server({"versioned": "versioned_v1"})
    conn = s.connect()
    conn.send(request_bytes(target="/version/timer?ms=600") + request_bytes(target="/version") +
              request_bytes(target="/version/stream?chunks=2&ms=1"))
    wait_for(lambda: s.active("versioned")["in_flight"] >= 1, 5, "the timer runs")
    put(s, "versioned_v2", "versioned")
    ok(s.reload()["ok"], "reload")
    is_(conn.response().body, b"v1\n", "the first was v1's")
    is_(conn.response().body, b"v2\n", "the second's route was chosen after the swap")
    is_(conn.response().body, lines("v2", 2), "the third's too")
    is_settled(s, 1, "v1 is gone")


@case("one version of each plugin for the whole chain")
def _():
    s = Server({"order": "order_handler", "mw": "order_a"}, {"middleware": ["order-a"]})
    ids = {v["plugin"]: v["id"] for v in s.ps()}
    late = In(s, "/order?h=later&ms=500")
    wait_for(lambda: s.active("order-a")["in_flight"] == 1, 5, "a request in the chain")
    put(s, fresh("order_a"), "mw")
    put(s, fresh("order_handler"), "order")
    mark = s.mark()
    ok(s.reload()["ok"], "both are swapped")
    is_(late.answer().body, b"handler\n", "the answer")
    wait_for(lambda: len(s.find_events("retired", mark)) == 2, 10, "both old ones retire")
    said = [e for e in s.find_events(since=0, msg=re.compile("^order ")) if e["id"] in ids.values()]
    steps = [e["msg"].split()[1] for e in said]
    ok("a.on_response" in steps and "a.on_finish" in steps, "on_response and on_finish ran on the old middleware",
       said)
    is_settled(s, 2, "two versions are left")


@case("overwritten in place, also while a request runs on it")
def _():
    s = Server({"versioned": "versioned_v1"})
    stream = In(s, "/version/stream?chunks=12&ms=60", started=b"v1 1/12")
    for want in ("versioned_v2", "versioned_v3", "versioned_v2"):
        with open(plugin_path(want), "rb") as new, open(file_of(s, "versioned"), "r+b") as old:
            data = new.read()
            inode = os.fstat(old.fileno()).st_ino
            old.write(data)
            old.truncate()
        is_(os.stat(file_of(s, "versioned")).st_ino, inode, "the same inode")
        ok(s.reload()["ok"], "reload")
        is_(s.get("/version").text.strip(), want[-2:], f"{want} serves")
        is_(s.active("versioned")["sha256"], hashlib.sha256(data).hexdigest(), "and ps says its hash")
    with open(file_of(s, "versioned"), "wb"):
        pass
    is_(s.get("/version").text, "v2\n", "the file is truncated to nothing: what serves does not care")
    answer = s.reload()
    ok(not answer["ok"] and "incomplete: empty file" in reason_of(answer), "reload says so", answer)
    is_(stream.answer().body, lines("v1", 12), "the stream never noticed")
    put(s, "versioned_v2", "versioned")
    ok(s.reload()["ok"], "whole again")


@case("replaced by rename, swapped back, the same again")
def _():
    s = Server({"versioned": "versioned_v1"})
    first = s.active("versioned")
    seen = [first["id"]]
    for what in ("versioned_v2", "versioned_v1", "versioned_v2", "versioned_v1"):
        sha256 = put(s, what, "versioned")
        answer = s.reload()
        now = s.active("versioned")
        ok(answer["ok"] and now["sha256"] == sha256 and now["id"].startswith(sha256[:12] + "."), what, (answer, now))
        is_(s.get("/version").text.strip(), what[-2:], "it serves")
        ok(now["id"] not in seen, "under an id that was never used", (now["id"], seen))
        seen.append(now["id"])
    is_settled(s, 1, "one version is left")

    generation = s.status()["generation"]
    now = s.active("versioned")
    os.utime(file_of(s, "versioned"), (1, 1))
    put(s, "versioned_v1", "versioned")
    os.link(file_of(s, "versioned"), file_of(s, ".hidden"))
    answer = s.reload()
    is_((answer["ok"], answer["changed"], [u["id"] for u in answer["unchanged"]]), (True, [], [now["id"]]),
        "another inode and time, the same bytes: unchanged")
    os.rename(file_of(s, "versioned"), file_of(s, "renamed"))
    answer = s.reload()
    is_((answer["ok"], answer["changed"], [u["id"] for u in answer["unchanged"]]), (True, [], [now["id"]]),
        "another name of the file, the same plugin: unchanged")
    is_((s.status()["generation"], s.active("versioned")["id"]), (generation, now["id"]), "no new generation")
    os.unlink(file_of(s, "renamed"))
    answer = s.reload()
    ok(not answer["ok"] and "vanished" in reason_of(answer), "that it came from there is remembered", answer)


@case("behind symlinks, as orchestrators do it")
def _():
    s = Server({})
    data = os.path.join(s.dir, "volume")
    for n in (1, 2):
        os.makedirs(f"{data}/..{n}")
        shutil.copy(plugin_path(f"versioned_v{n}"), f"{data}/..{n}/versioned.so")
    os.symlink("..1", f"{data}/..data")
    os.symlink("..data/versioned.so", f"{data}/versioned.so")
    os.rmdir(s.plugin_dir)
    os.symlink(data, s.plugin_dir)
    ok(s.reload()["ok"], "the folder itself is a link: reload")
    is_(s.get("/version").text, "v1\n", "v1 serves")
    for n in (2, 1, 2):
        before = os.lstat(f"{data}/versioned.so")
        os.symlink(f"..{n}", f"{data}/..new")
        os.rename(f"{data}/..new", f"{data}/..data")
        is_(os.lstat(f"{data}/versioned.so").st_mtime_ns, before.st_mtime_ns, "no time of the file changed")
        ok(s.reload()["ok"], "reload")
        is_(s.get("/version").text, f"v{n}\n", f"v{n} serves")
    os.unlink(f"{data}/..data")
    answer = s.reload()
    ok(not answer["ok"] and "a link to a file that is not there" in reason_of(answer), "a link to nowhere is bad",
       answer)
    is_(s.get("/version").text, "v2\n", "and has not vanished: v2 serves")
    os.symlink("..2", f"{data}/..data")
    ok(s.reload()["ok"], "the link leads somewhere again")
    os.unlink(s.plugin_dir)
    os.mkdir(s.plugin_dir)


@case("a changed configuration with the same file is a swap")
def _():
    s = Server({"hello": "hello", "life": "life_v1"}, {"plugins": {"life": {"config": {"a": 1, "b": [1, 2]}}}})
    first = s.active("life")
    hello = s.active("hello")
    s.config["plugins"]["life"]["config"] = {"a": 2}
    answer = s.reload(config=True)
    is_(([c["plugin"] for c in answer["changed"]], [u["plugin"] for u in answer["unchanged"]]), (["life"], ["hello"]),
        "only that plugin changed")
    second = s.active("life")
    ok(second["sha256"] == first["sha256"] and second["config_sha256"] != first["config_sha256"] and
       second["id"] != first["id"] and second["id"][:12] == first["id"][:12], "same file, other configuration",
       (first, second))
    is_(second["config_sha256"], hashlib.sha256(b'{"a":2}').hexdigest(), "the hash is of the compact text")
    is_(s.active("hello"), {**hello, "served": s.active("hello")["served"]}, "the other plugin is as it was")
    s.write_config(re.sub(r'"a": 2', '"a"\n\t  :    2', json.dumps(s.config)))
    answer = s.api("POST", "/v1/reload?config=1")
    is_((answer["ok"], answer["changed"]), (True, []), "white space is no change")
    is_(s.active("life")["id"], second["id"], "the version stays")
    is_settled(s, 2, "the first is gone")


@case("changed mount, routes and middleware: a new generation of the same versions")
def _():
    s = Server({"versioned": "versioned_v1", "mw": "order_a", "order": "order_handler"})
    ids = {v["plugin"]: v["id"] for v in s.ps()}
    keep = s.connect()
    is_(keep.get("/version").text, "v1\n", "before")
    steps = [
        ({"plugins": {"versioned": {"mount": "/m"}}}, "/m/version", "/version"),
        ({"plugins": {}, "middleware": ["order-a"]}, "/version", "/m/version"),
        ({"middleware": [], "routes": [{"match": "GET /version", "middleware": ["order-a"]}]}, "/version", "/m/version"),
        ({"routes": []}, "/version", "/m/version"),
    ]
    for step, there, absent in steps:
        s.config.update(step)
        generation, mark = s.status()["generation"], s.mark()
        answer = s.reload(config=True)
        is_((answer["ok"], answer["changed"], answer["generation"]), (True, [], generation + 1), f"{step}")
        is_({v["plugin"]: v["id"] for v in s.ps()}, ids, "the same versions")
        is_((keep.get(there).status, keep.get(absent).status), (200, 404), f"{there}, not {absent}")
        with_a = "order-a" in str(step)
        is_(keep.get(there).header("X-Order"), "a" if with_a else None, "the middleware" if with_a else "no middleware")
        is_(len(s.find_events("life", mark)), 0, "no callback ran")
    chains = {r["pattern"]: r["chain"] for r in s.routes()}
    is_(chains["/version"], ["versioned"], "routes: the chain")
    s.config["plugins"] = {"versioned": {"enabled": False}}
    answer = s.reload(config=True)
    ok(answer["ok"] and answer["changed"][0]["error"] == "removed", "disabled is removed", answer)
    is_(keep.get("/version").status, 404, "and answers 404")
    s.config["plugins"] = {}
    ok(s.reload(config=True)["ok"], "enabled again")
    is_(keep.get("/version").text, "v1\n", "it answers again")


@case("adding and removing plugin files")
def _():
    s = Server({"hello": "hello"})
    before = footprint(s)
    conn = s.connect()
    is_(conn.get("/version").status, 404, "not there yet")
    put(s, "versioned_v1", "versioned")
    answer = s.reload()
    ok(answer["ok"] and [c["plugin"] for c in answer["changed"]] == ["versioned"], "added", answer)
    is_(conn.get("/version").text, "v1\n", "on the open connection")
    stream = In(s, "/version/stream?chunks=8&ms=60", started=b"v1 1/8")
    s.uninstall("versioned")
    mark = s.mark()
    event = s.reload_signal()
    is_([(c["plugin"], c["error"]) for c in event["changed"]], [("versioned", "removed")], "removed, by USR2")
    is_(conn.get("/version").status, 404, "gone")
    is_(stream.answer().body, lines("v1", 8), "what it had begun it ends")
    s.wait_event("retired", since=mark, plugin="versioned")
    conn.close()
    stream.close()
    is_footprint(s, before, "nothing is left of it")


@case("several plugins: all or nothing")
def _():
    s = Server({"a": "versioned_v1", "b": "life_v1", "c": "good"})
    ids = {v["plugin"]: v["id"] for v in s.ps()}
    before = footprint(s)
    put(s, "versioned_v2", "a")
    put(s, "life_v2", "b")
    put(s, "start_fails", "c")
    answer = s.reload()
    ok(not answer["ok"] and answer["changed"] == [], "one of three cannot start", answer)
    is_([f["plugin"] for f in answer["failed"] if "lease" in f["error"]], ["sin"], "the culprit is named")
    is_({v["plugin"]: v["id"] for v in settle(s, 3).values()}, ids, "all three stay")
    is_((s.get("/version").text, s.get("/sin").text), ("v1\n", "good\n"), "and serve")
    is_footprint(s, before, "nothing is left of the others' new versions")
    put(s, "good", "c")
    answer = s.reload()
    is_((answer["ok"], sorted(c["plugin"] for c in answer["changed"])), (True, ["life", "versioned"]),
        "the culprit is put right: both others are swapped")
    is_(s.get("/version").text, "v2\n", "v2 serves")


@case("the swap event, and log lines that carry the identity")
def _():
    s = Server({"versioned": "versioned_v1", "hello": "hello"})
    sha256 = put(s, "versioned_v2", "versioned")
    mark, began = s.mark(), time.monotonic()
    event = s.reload_signal()
    took_us = (time.monotonic() - began) * 1e6
    wanted = {"ts", "level", "event", "msg", "ok", "generation", "changed", "unchanged", "failed", "duration_us",
              "publish_us"}
    is_(wanted - set(event), set(), "all members are there")
    is_((event["ok"], event["level"], event["generation"]), (True, "info", 2), "ok, level, generation")
    v = s.active("versioned")
    is_(event["changed"], [{"plugin": "versioned", "id": v["id"], "error": None}], "changed")
    is_(event["unchanged"], [{"plugin": "hello", "id": s.active("hello")["id"], "error": None}], "unchanged")
    is_(event["failed"], [], "failed")
    ok(0 < event["publish_us"] <= event["duration_us"] <= took_us, "publish_us within duration_us within what we saw",
       (event["publish_us"], event["duration_us"], took_us))
    s.wait_event("retired", since=mark)
    for name, who in (("plugin_loaded", v["id"]), ("cooling", None), ("retired", None)):
        found = s.find_events(name, mark)
        ok(len(found) == 1 and has_identity(found[0]), f"{name}: once, with the identity", found)
        if who:
            is_((found[0]["id"], found[0]["sha256"], found[0]["version"]), (who, sha256, "v2"), "whose it is")
    put(s, fresh("life_v1"), "life")
    ok(s.reload()["ok"], "a plugin that logs")
    said = s.find_events(msg=re.compile("^life v1 "))
    ok(len(said) >= 4 and all(e["plugin"] == "life" and e["version"] == "v1" and
                              e["id"] == s.active("life")["id"] for e in said), "what a plugin logs says whose it is", said)

    for _ in range(3):
        mark = s.mark()
        ok(s.reload()["ok"], "nothing to do")
        is_(len(s.find_events("swap", mark)), 1, "one event for it")
    mark = s.mark()
    put(s, b"x" * 100, "bad")
    event = s.reload_signal()
    is_((event["ok"], event["level"], event["changed"]), (False, "error", []), "a failed swap is an event at error")
    ok(event["failed"][0]["plugin"] == "bad" and "not ELF" in event["failed"][0]["error"], "and says why", event)
    is_(len(s.find_events("swap", mark)), 1, "one event for it")
    metrics = s.metrics()
    ok(metrics['graft_swaps_total{outcome="failed"}'] == 1 and metrics['graft_swaps_total{outcome="ok"}'] == 3 and
       metrics['graft_swaps_total{outcome="unchanged"}'] == 3,
       "metrics count swaps by outcome", metrics)


@case("the order of a life and the threads it runs on")
def _():
    s = Server({"life": "life_v1"}, workers=2)
    mark = s.mark()
    put(s, "life_v2", "life")
    ok(s.reload()["ok"], "reload")
    s.wait_event("retired", since=mark)

    def steps(version, since):
        return [e["msg"].split()[2:] for e in s.find_events(msg=re.compile(f"^life {version} "), since=since)]
    first, second = steps("v1", 0), steps("v2", mark)
    is_([step for step, _ in second], ["init", "ready", "worker_init", "worker_init", "start"], "the new one begins")
    is_([step for step, _ in first[5:]], ["cool", "worker_fini", "worker_fini", "fini"], "the old one ends")
    inits, finis = ({thread for step, thread in first if step == word} for word in ("worker_init", "worker_fini"))
    ok(len(inits) == 2 and inits == finis, "worker_init and worker_fini ran on each worker", first)
    order = [e["msg"].split()[1:3] for e in s.find_events(since=mark, msg=re.compile("^life "))]
    ok(order.index(["v2", "start"]) < order.index(["v1", "cool"]), "start of the new one before cool of the old", order)
    is_(s.get("/life").text, "life v2 cooling=0 state=init's\n", "it serves with its own state")


@case("its own symbols: what the server and its libraries call the same is not meant")
def _():
    s = Server({"own": "own_symbols", "hello": "hello"})
    is_(s.get("/own-symbols").text.strip(), "own", "version_retire, event_base_loop and log_write are the plugin's")
    with Prober(s, "/own-symbols") as p:
        for _ in range(3):
            put(s, fresh("own_symbols"), "own")
            ok(s.reload()["ok"], "swapped")
    is_(p.failures, [], "no request failed")
    is_({body for body in p.seen}, {b"own\n"}, "always its own")
    is_settled(s, 2, "every old version is gone")
    is_(s.status()["ok"], True, "and the server's own are the server's")


@case("a dependency of its own that changed under the same SONAME")
def _():
    s = Server({"private": "private_dep_v1"})
    is_(s.get("/private-dep").text, "private v1\n", "v1 with its library")
    put(s, "private_dep_v2", "private")
    answer = s.reload()
    like(reason_of(answer), r"private\.so: .*depends on libgraftprivate\.so\.1, which is .*v2.*, but another file "
         r"\(.*v1.*\) is loaded under that name and would be used instead: give the new library a SONAME of its own, "
         r"link it statically, or wait until the version that uses the old one is over", "refused, and what to do")
    is_(s.get("/private-dep").text, "private v1\n", "v1 serves")
    put(s, fresh("private_dep_v1"), "private")
    ok(s.reload()["ok"], "another build with the same library is fine")
    put(s, "hello", "hello")
    ok(s.reload()["ok"], "hello comes")
    s.uninstall("private")
    ok(s.reload()["ok"], "removed")
    is_settled(s, 1, "and the library with it")
    is_(s.maps("libgraftprivate"), [], "it is unmapped")
    put(s, "private_dep_v2", "private")
    answer = s.reload(retry=True)
    ok(answer["ok"], "now nothing else is loaded under that name", answer)
    is_(s.get("/private-dep").text, "private v2\n", "v2 with its library")


@case("a hundred swaps under requests: none fails, no connection closes, nothing grows")
def _():
    n = 100 if SANITIZER == "none" else 30
    s = Server({"versioned": "versioned_v1", "hello": "hello"})
    newest = 0

    def check(answer):
        return None if answer.header("X-Version") in ("v1", "v2", "v3") else f"whose is {answer}?"
    for i in range(10):  # what grows once has grown
        put(s, fresh(f"versioned_v{1 + i % 3}"), "versioned")
        s.reload()
    settle(s, 2)
    before, maps, anon = footprint(s), len(s.maps()), s.anon_kb()
    with Prober(s, "/version", clients=3, every=0.001, check=check) as fast, \
            Prober(s, "/version/timer?ms=30", clients=2, check=check) as timers, \
            Prober(s, "/version/stream?chunks=3&ms=15", clients=2, check=check) as streams, \
            Prober(s, "/version/offload?ms=20", clients=2, check=check) as offloads:
        for i in range(n):
            version = f"v{1 + i % 3}"
            sha256 = put(s, fresh("versioned_" + version), "versioned")
            answer = s.reload()
            if not answer["ok"] or s.get("/version").text != version + "\n":
                ok(False, f"swap {i}", answer)
                break
            newest = sha256
    probers = (fast, timers, streams, offloads)
    is_([p.failures for p in probers], [[]] * 4, f"no request failed in {n} swaps "
        f"({sum(p.count for p in probers)} requests)")
    is_([p.closed for p in probers], [0] * 4, "no connection was closed")
    mixed = [body for body in streams.seen if len({line.split()[0] for line in body.splitlines()}) != 1]
    is_(mixed, [], "no stream had two versions")
    is_(s.active("versioned")["sha256"], newest, "the last one serves")
    is_settled(s, 2, "the others are gone")
    is_footprint(s, before, "descriptors, staged files, threads are what they were")
    within(len(s.maps()), maps - 40, maps + 40, "and so are the mappings")
    if SANITIZER == "none":
        within(s.anon_kb(), 0, anon + 1024, "and so is the memory, within 1 MiB")
    is_(s.metrics()["graft_versions_retired_total"], n + 10, "each was retired")


@case("one more open stream of another plugin with every swap: flat")
def _():
    n = 200 if SANITIZER == "none" else 40
    s = Server({"versioned": "versioned_v1", "sin": "good"})
    for _ in range(10):
        put(s, fresh("good"), "sin")
        s.reload()
    settle(s, 2)
    before, maps = footprint(s), len(s.maps())

    def open_streams(swapping):
        anon = s.anon_kb()
        streams = []
        for i in range(n):
            streams.append(In(s, "/version/stream?chunks=100000&ms=2000", started=b"v1 1/"))
            if swapping:
                put(s, fresh("good"), "sin")
                answer = s.reload()
                if not answer["ok"] or s.get("/sin").text != "good\n":
                    raise Failed(f"swap {i}: {answer}")
        return streams, s.anon_kb() - anon
    streams, alone = open_streams(False)
    for stream in streams:
        stream.conn.abort()
    wait_for(lambda: s.status()["in_flight"] == s.active("versioned")["in_flight"] == 0, 10, "the first streams end")
    streams, swapped = open_streams(True)
    is_settled(s, 2, f"{n} streams, {n} swaps: two versions")
    within(swapped, -1024 * SCALE, alone + 3 * n if SANITIZER == "none" else 200000,
           f"{swapped} KiB for {n} streams with swaps, {alone} KiB without")
    is_(s.active("versioned")["in_flight"], n, "all streams run")
    ok(all(not stream.conn.eof for stream in streams), "none was closed")
    for stream in streams:
        stream.conn.abort()
    is_footprint(s, before, "and everything is back")
    within(len(s.maps()), maps - 40, maps + 40, "mappings too")

main()
