#!/usr/bin/env python3
# HUP reads the configuration again: a bad file changes nothing, limits take effect, what needs a restart is named
import json
import os
import signal
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

IDLE = {"drain": {"idle_ms": 20}}


def ms(n):
    return int(n * SCALE)


def hup(s, **match):
    return s.reload_signal(signal.SIGHUP, **match)


BAD = (
    ("nothing", "", r"graft\.json"),
    ("half a file", '{"workers": 2,', r"graft\.json:1:"),
    ("an unknown key", '{\n  "listne": []\n}', r"graft\.json:2:3: .*listne.*listen"),
    ("a wrong type", '{"workers": "two"}', r"graft\.json:1:13: .*workers"),
    ("a duplicate key", '{"workers": 1,\n "workers": 2}', r"graft\.json:2:2: .*workers"),
    ("trailing garbage", '{} x', r"graft\.json:1:4"),
    ("a value out of range", '{"limits": {"field_bytes": 9000}}', r"graft\.json:1:28: .*field_bytes"),
    ("a middleware that does not exist", None, "no-such-plugin"),
)


@case("a bad file changes nothing, and is logged at error with file, line and column")
def _():
    s = Server(["hello", "life_v1"], {"server_header": "one", **IDLE})
    before, kept = s.active("life")["id"], json.dumps(s.config)
    with Prober(s, "/hello") as p:
        for what, text, why in BAD:
            if text is None:
                s.config["middleware"] = ["no-such-plugin"]
                s.write_config()
            else:
                s.write_config(text)
            mark = s.mark()
            s.send_signal(signal.SIGHUP)
            event = s.wait_event("swap", since=mark)
            is_((event["ok"], event["level"]), (False, "error"), f"{what}: one swap event, at error")
            said = " ".join(str(v) for e in s.log()[mark:] for v in e.values())
            like(said, why, f"{what}: says where and what")
            answer = s.api("POST", "/v1/reload?config=1")
            is_((answer["ok"], answer["error"]), (False, "failed"), f"{what}: reload --config says so, too")
            like(json.dumps(answer), why, f"{what}: with the same reason")
            is_(s.ctl("reload", "--config").returncode, 1, "graftctl exits 1")
    is_(p.failures, [], "every request was answered meanwhile")
    is_((s.active("life")["id"], s.get("/hello").header("Server")), (before, "one"), "the version and the settings stay")
    s.config = json.loads(kept)
    s.write_config()
    is_(hup(s)["ok"], True, "the good file is taken")


@case("a log.file that cannot be opened changes nothing")
def _():
    s = Server(["hello"], {"server_header": "one", **IDLE})
    os.mkfifo(os.path.join(s.dir, "fifo"))
    for file, why in (("/no/such/folder/log", "No such file or directory"), (s.dir, "Is a directory"),
                      (os.path.join(s.dir, "fifo"), "No such device or address")):
        s.config.update({"log": {"file": file, "level": "error"}, "server_header": "two"})
        for ask in (hup, lambda s: s.reload(config=True)):
            event = ask(s)
            is_(event["ok"], False, f"{file}: refused")
            like(json.dumps(event), f"cannot open the log file {file}: {why}: make its folder writable", "with the reason")
        is_((s.get("/hello").header("Server"), s.status()["generation"]), ("one", 1), "nothing changed")
    s.config["log"] = {"file": os.path.join(s.dir, "other")}
    is_(s.reload(config=True)["ok"], True, "one that can be opened is taken")
    is_(s.get("/hello").header("Server"), "two", "with all the rest")
    with open(s.config["log"]["file"]) as f:
        like(f.read(), '"event":"swap"', "and is written to")


@case("a file that is gone changes nothing")
def _():
    s = Server(["hello"], IDLE)
    os.rename(s.config_path, s.config_path + ".away")
    mark = s.mark()
    s.send_signal(signal.SIGHUP)
    event = s.wait_event("swap", since=mark)
    is_(event["ok"], False, "not ok")
    like(event["msg"], r"graft\.json", "the file is named")
    is_(s.get("/hello").status, 200, "it serves")
    os.rename(s.config_path + ".away", s.config_path)
    is_(hup(s)["ok"], True, "and again")


@case("limits and timeouts take effect for what comes after, without a connection closed")
def _():
    s = Server(["hello", "echo", "slow"], IDLE)
    with Conn(s) as old:
        is_(old.request("POST", "/echo", body=b"x" * 5000).status, 200, "5000 bytes are fine before")
        is_(old.request("GET", "/hello", {"X-Long": "y" * 3000}).status, 200, "so is a long field")
        s.config["limits"] = {"body_bytes": 1000, "field_bytes": 200, "target_bytes": 100, "headers": 5}
        s.config["timeouts_ms"].update({"handler": ms(300), "head": ms(400), "idle": ms(900)})
        s.config["server_header"] = "two"
        is_(hup(s)["ok"], True, "HUP")
        answer = old.get("/hello")
        is_((answer.status, answer.header("Server"), answer.header("Connection")), (200, "two", None),
            "an old connection goes on, with the new Server field")
        is_(old.request("GET", f"/slow/timer?ms={ms(1500)}").status, 504, "timeouts_ms.handler, on it, too")
        is_(old.request("POST", "/echo", body=b"x" * 1001).status, 413, "limits.body_bytes")
    is_(s.request("POST", "/echo", body=b"x" * 1000).status, 200, "up to the limit it is fine")
    is_(s.request("GET", "/hello", {"X-Long": "y" * 300}).status, 431, "limits.field_bytes")
    is_(s.get("/hello?" + "x" * 200).status, 414, "limits.target_bytes")
    is_(s.request("GET", "/hello", {f"X-{n}": "1" for n in range(9)}).status, 431, "limits.headers")
    with Conn(s) as c:
        c.send(b"GET /hel")
        is_(c.response().status, 408, "timeouts_ms.head")
    with Conn(s) as c:
        c.get("/hello")
        is_(c.ends(10), "eof", "timeouts_ms.idle")


@case("a request in progress keeps what it began with")
def _():
    s = Server(["slow"], IDLE)
    with Conn(s) as c:
        c.send(request_bytes("GET", f"/slow/timer?ms={ms(1500)}"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.config["timeouts_ms"]["handler"] = ms(200)
        is_(hup(s)["ok"], True, "HUP")
        is_(c.response().status, 200, "it ends as it began")
        is_(c.get(f"/slow/timer?ms={ms(1500)}").status, 504, "the next one has the new deadline")


@case("keys that need a restart are named, and everything else is taken")
def _():
    s = Server(["hello"], {"server_header": "one", **IDLE})
    address = s.address
    s.config.update({"listen": ["127.0.0.1:0", "127.0.0.2:0"], "workers": 3, "ops": "127.0.0.1:1",
                     "control": s.control + "2", "stage_dir": s.stage_dir + "2", "user": "nobody",
                     "offload": {"threads": 2}, "server_header": "two"})
    mark = s.mark()
    is_(hup(s)["ok"], True, "HUP")
    warn = s.event("config", since=mark, level="warn")
    ok(warn, "a warning")
    for key in ("listen", "workers", "ops", "control", "stage_dir", "user", "offload.threads"):
        ok(warn and key in warn["msg"], f"names {key}", warn)
    ok(warn and "server_header" not in warn["msg"], "and nothing else", warn)
    is_((s.address, s.get("/hello").header("Server")), (address, "two"), "the rest is in force")
    is_(len(s.status()["workers"]), 2, "the old workers serve")


@case("plugins: config, mount, enabled and middleware change with HUP")
def _():
    s = Server(["hello", "life_v1", "order_a"], IDLE)
    first = s.active("hello")["id"]
    s.config["plugins"] = {"hello": {"mount": "/moved"}}
    is_(hup(s)["ok"], True, "a mount")
    is_((s.get("/hello").status, s.get("/moved/hello").status), (404, 200), "moved")
    is_(s.active("hello")["id"], first, "the same version")
    s.config["plugins"]["hello"]["config"] = {"x": 1}
    event = hup(s)
    is_([c["plugin"] for c in event["changed"]], ["hello"], "a changed config is a new version")
    isnt(s.active("hello")["id"], first, "with a new id")
    s.config["middleware"] = ["order-a"]
    is_(hup(s)["ok"], True, "a middleware")
    is_(s.get("/moved/hello").header("X-Order"), "a", "is around the handler now")
    s.config["plugins"]["life"] = {"enabled": False}
    is_(hup(s)["ok"], True, "enabled: false")
    is_((s.get("/life").status, s.ps("life", "active")), (404, []), "it is gone")
    del s.config["plugins"]["life"]
    is_(hup(s)["ok"], True, "enabled again")
    is_(s.get("/life").status, 200, "it is back")


@case("watch can be turned on and off")
def _():
    s = Server({"v": "versioned_v1"}, {"watch": False, **IDLE})
    s.config["watch"] = True
    is_(hup(s)["ok"], True, "on")
    s.install("versioned_v2", "v")
    wait_for(lambda: s.get("/version").header("X-Version") == "v2", 10, "the watch swaps", every=0.05)
    s.config["watch"] = False
    is_(hup(s)["ok"], True, "off")
    s.install("versioned_v3", "v")
    time.sleep(0.8)
    is_(s.get("/version").header("X-Version"), "v2", "nobody swaps")
    is_(hup(s)["ok"], True, "HUP does")
    is_(s.get("/version").header("X-Version"), "v3", "v3")


@case("many HUPs at once: the last file is in force, and none is lost")
def _():
    s = Server(["hello"], IDLE)
    for n in range(30):
        s.config["server_header"] = f"n{n}"
        s.write_config()
        s.send_signal(signal.SIGHUP)
        time.sleep(0.003)
    wait_for(lambda: s.get("/hello").header("Server") == "n29", 10, "the last one")
    is_(s.find_events("swap", ok=False), [], "none failed")


main()
