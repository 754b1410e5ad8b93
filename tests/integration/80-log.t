#!/usr/bin/env python3
# The log: files, USR1, readers that are slow or gone, a full disk, access events; the server never waits for it
import datetime
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403


def in_file(path):
    """The events in a log file."""
    try:
        with open(path) as f:
            return [json.loads(line) for line in f if line.endswith("\n")]
    except FileNotFoundError:
        return []


def wait_in(path, event, seconds=10, **match):
    def found():
        for e in in_file(path):
            if e["event"] == event and all(e.get(k) == v for k, v in match.items()):
                return e
        return None
    return wait_for(found, seconds, f"{event} in {os.path.basename(path)}")


class Filed(Server):
    """Logs to a file of its own; what the process writes to stderr stays in self.log_path."""

    def __init__(self, plugins, config=None, **more):
        folder = tempdir()
        self.file = os.path.join(folder, "graft.log")
        config = {"log": {"file": self.file}, "drain": {"idle_ms": 20}, **(config or {})}
        super().__init__(plugins, config, dir=folder, **more)

    def log(self):
        self.events = in_file(self.config["log"]["file"]) if hasattr(self, "config") else []
        return self.events


@case("every line is one JSON object with ts, level, event and msg")
def _():
    s = Server(["hello", "life_v1"])
    s.install("life_v2", "life_v1")
    s.reload()
    with Conn(s) as c:
        c.send(b"GET / HTTP/1.1\r\nBad Header: \x01\r\n\r\n")
        c.ends()
    is_(s.stop(), 0, "exit 0")
    events = s.log()
    is_(s.other_lines, [], "no line is anything else")
    bad = [e for e in events if not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z", e.get("ts", ""))]
    is_(bad, [], "ts is RFC 3339 with microseconds")
    bad = [e for e in events if e.get("level") not in ("debug", "info", "warn", "error")
           or not re.match(r"[a-z_]+\Z", e.get("event", "")) or not isinstance(e.get("msg"), str)]
    is_(bad, [], "level, event and msg are always there")
    # But for a line that its thread had begun and not yet handed over when others were written out.
    times = [datetime.datetime.strptime(e["ts"], "%Y-%m-%dT%H:%M:%S.%fZ") for e in events]
    late = [(a["ts"], b["ts"]) for a, b, at, then in zip(events, events[1:], times, times[1:])
            if (at - then).total_seconds() > secs(0.01)]
    is_(late, [], "in the order of time")
    names = {e["event"] for e in events}
    wanted = {"listening", "plugin_loaded", "swap", "cooling", "retired", "drain_start", "drain_end", "refused"}
    is_(wanted - names, set(), "the events of a life")
    refused = s.event("refused")
    ok(refused["status"] == 400 and refused["why"] and refused["peer"].startswith("127.0.0.1:"),
       "refused: status, why, peer", refused)


@case("log.file, rotated with USR1 and with graftctl reopen")
def _():
    s = Filed(["hello"])
    wait_in(s.file, "control")
    is_(oct(os.stat(s.file).st_mode & 0o777), "0o640", "mode 0640")
    for n, how in enumerate(("USR1", "graftctl reopen", "POST /v1/reopen")):
        old = f"{s.file}.{n}"
        os.rename(s.file, old)
        s.reload()
        wait_for(lambda: len([e for e in in_file(old) if e["event"] == "swap"]) == 2, 5,
                 "until it is told, it writes to the old file")
        if how == "USR1":
            s.send_signal(signal.SIGUSR1)
        elif how == "graftctl reopen":
            is_(s.ctl("reopen").returncode, 0, "graftctl reopen exits 0")
        else:
            is_(s.api("POST", "/v1/reopen")["ok"], True, "the verb answers ok")
        wait_for(lambda: os.path.exists(s.file), 5, "the new file")
        s.reload()
        wait_in(s.file, "swap")
        is_(len([e for e in in_file(old) if e["event"] == "swap"]), 2, f"{how}: the old file grows no more")
    is_(s.stop(), 0, "exit 0")
    ok(s.event("drain_end"), "to the end")
    with open(s.log_path) as f:
        is_(f.read(), "", "nothing on stderr")


@case("a file that cannot be opened again: the old one goes on, and it says so")
def _():
    s = Filed(["hello"])
    folder = os.path.join(s.dir, "sub")
    os.mkdir(folder)
    s.config["log"]["file"] = os.path.join(folder, "a.log")
    is_(s.reload(config=True)["ok"], True, "log.file changed by a reload")
    moved = s.config["log"]["file"]
    wait_for(lambda: os.path.exists(moved), 5, "the new file")
    os.rename(folder, folder + ".away")
    kept = os.path.join(folder + ".away", "a.log")
    answer = s.api("POST", "/v1/reopen")
    is_((answer["ok"], "a.log" in answer.get("reason", "")), (False, True), "reopen fails and names the file")
    is_(s.ctl("reopen").returncode, 1, "graftctl exits 1")
    s.send_signal(signal.SIGUSR1)
    error = wait_in(kept, "config", level="error")
    like(error["msg"], "a.log", "USR1: an error in the old file")
    s.reload()
    wait_in(kept, "swap")
    os.rename(folder + ".away", folder)
    is_(s.api("POST", "/v1/reopen")["ok"], True, "and works again")


@case("a log file that cannot be opened at the start: exit 1, with the reason")
def _():
    s = Server(["hello"], {"log": {"file": "/no/such/folder/graft.log"}}, wait=False, status=1)
    is_(s.wait_exit(), 1, "exit 1")
    s.log()
    like("\n".join(s.other_lines), "cannot open the log file /no/such/folder/graft.log", "the reason on stderr")


class Piped(Server):
    """stderr is a pipe that nobody reads until read() is called."""

    def start(self, wait=True):
        self.pipe, writer = os.pipe()
        fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, 4096)
        self.proc = subprocess.Popen([GRAFTD, "-c", self.config_path], stdout=subprocess.DEVNULL, stderr=writer,
                                     stdin=subprocess.DEVNULL,
                                     env={k: v for k, v in os.environ.items() if not k.startswith("GRAFT_")})
        os.close(writer)
        self.raw = b""
        wait_for(lambda: os.path.exists(self.control), 10, "the control socket")
        wait_for(lambda: self.can_status(), 10, "it serves")
        return self

    def can_status(self):
        try:
            return self.status()["generation"] == 1
        except (OSError, HttpError):
            return False

    def log(self):
        return self.events

    def read(self, seconds):
        """Reads for that long."""
        os.set_blocking(self.pipe, False)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                part = os.read(self.pipe, 65536)
                if not part:
                    break
                self.raw += part
            except BlockingIOError:
                time.sleep(0.01)
        return self.raw


def lines_of(raw):
    """(events, lines that are no JSON) of whole lines."""
    events, bad = [], []
    for line in raw.split(b"\n")[:-1]:
        try:
            events.append(json.loads(line))
        except ValueError:
            bad.append(line)
    return events, bad


@case("a reader of stderr that stands still: the server never waits; lines are dropped and counted")
def _():
    port, opsport = free_port(), free_port()
    s = Piped(["hello"], {"log": {"access": True}, "drain": {"idle_ms": 20}, "ops": f"127.0.0.1:{opsport}"},
              listen=(f"127.0.0.1:{port}",))
    slowest, count = 0.0, 6000
    with Conn(("127.0.0.1", port)) as c:
        for _ in range(count // 50):
            began = time.monotonic()
            c.send(request_bytes("GET", "/hello") * 50)
            answers = [c.response() for _ in range(50)]
            slowest = max(slowest, time.monotonic() - began)
            if any(a.status != 200 for a in answers):
                ok(False, "all are answered")
    within(slowest, 0, secs(2), f"{count} requests with an access line each, and nobody reads: none waited")
    is_(s.reload()["ok"], True, "swaps work")

    def dropped():
        with Conn(("127.0.0.1", opsport)) as c:
            m = re.search(r"^graft_log_dropped_total (\d+)", c.get("/metrics").text, re.M)
        return int(m[1])
    before = wait_for(dropped, 10, "graft_log_dropped_total")
    ok(before > 0, f"graft_log_dropped_total counts: {before}")
    s.read(secs(1.0))
    with Conn(("127.0.0.1", port)) as c:
        for _ in range(3):
            c.get("/hello")
            s.read(secs(0.5))
    total = dropped()
    events, bad = lines_of(s.raw)
    is_(bad, [], "what arrives is whole lines")
    told = [e for e in events if e["event"] == "dropped"]
    ok(told, "a `dropped` event tells it")
    is_(sum(e["count"] for e in told), total, "with the number of lines")
    is_(len([e for e in events if e["event"] == "access"]) + total >= count, True, "no line is unaccounted for")
    s.send_signal(signal.SIGTERM)
    s.read(secs(2))
    is_(s.wait_exit(), 0, "exit 0")
    ok(any(e["event"] == "drain_end" for e in lines_of(s.raw)[0]), "the last lines arrive")
    os.close(s.pipe)


@case("a reader that stands still does not hold up the end")
def _():
    port = free_port()
    s = Piped(["hello"], {"log": {"access": True}, "drain": {"idle_ms": 20}}, listen=(f"127.0.0.1:{port}",))
    with Conn(("127.0.0.1", port)) as c:
        for _ in range(200):
            c.get("/hello")
    began = time.monotonic()
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "exit 0")
    within(time.monotonic() - began, 0, secs(6), "within seconds")
    os.close(s.pipe)


@case("a reader of stderr that is gone: the server serves on")
def _():
    port = free_port()
    s = Piped(["hello"], {"log": {"access": True}, "drain": {"idle_ms": 20}}, listen=(f"127.0.0.1:{port}",))
    os.close(s.pipe)
    with Conn(("127.0.0.1", port)) as c:
        is_([c.get("/hello").status for _ in range(300)], [200] * 300, "300 requests")
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "exit 0, and no SIGPIPE")


@case("a full disk: the server serves on, and counts what is lost", os.path.exists("/dev/full"), "no /dev/full")
def _():
    opsport, port = free_port(), free_port()
    s = Server(["hello"], {"log": {"access": True, "file": "/dev/full"}, "drain": {"idle_ms": 20},
                           "ops": f"127.0.0.1:{opsport}"}, listen=(f"127.0.0.1:{port}",), wait=False)

    def serves():
        try:
            with Conn(("127.0.0.1", port)) as c:
                return c.get("/hello").status == 200
        except OSError:
            return False
    wait_for(serves, 10, "it serves")
    with Conn(("127.0.0.1", port)) as c:
        is_([c.get("/hello").status for _ in range(300)], [200] * 300, "300 requests")
    def lost():
        with Conn(("127.0.0.1", opsport)) as c:
            return int(re.search(r"^graft_log_dropped_total (\d+)", c.get("/metrics").text, re.M)[1])
    wait_for(lambda: lost() >= 300, 5, "graft_log_dropped_total")
    ok(True, "lost lines are counted")
    good = os.path.join(s.dir, "good.log")
    s.config["log"]["file"] = good
    is_(s.reload(config=True)["ok"], True, "another file by a reload")
    wait_in(good, "dropped")

    def told():
        return sum(e["count"] for e in in_file(good) if e["event"] == "dropped")
    wait_for(lambda: told() >= 300, 10, "which says how many were lost, at once or in parts")
    ok(True, "which says how many were lost")
    is_(s.stop(), 0, "exit 0")


@case("log.access: one event a request, also for errors and for clients that leave")
def _():
    s = Server(["hello", "slow", "echo"], {"log": {"access": True}, "drain": {"idle_ms": 20}})
    with Conn(s) as c:
        c.get("/hello?x=1")
        c.get("/nowhere")
        c.request("DELETE", "/hello")
        c.request("POST", "/echo", body=b"12345", headers={"X-Request-ID": "abc"})
        c.get("/slow/stream?chunks=2&ms=5")
        c.request("HEAD", "/hello")
        c.send(request_bytes("GET", "/hello") * 10)
        for _ in range(10):
            c.response()
    with Conn(s) as c:
        c.send(request_bytes("GET", "/slow/timer?ms=1500"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        c.abort()
    wait_for(lambda: len(s.find_events("access")) >= 17, 10, "17 events")
    is_(s.stop(), 0, "exit 0")
    events = s.find_events("access")
    is_(len(events), 17, "one for each request, not more")
    first = events[0]
    is_([first[k] for k in ("method", "target", "route", "status", "cut", "plugin", "level")],
        ["GET", "/hello?x=1", "/hello", 200, False, "hello", "info"], "what it says")
    is_(first["bytes"], 13, "bytes of the body")
    ok(first["peer"].startswith("127.0.0.1:") and first["elapsed_us"] >= 0 and first["request_id"], "peer, time, id", first)
    like(first["id"], r"^[0-9a-f]{12}\.\d+$", "and the version's id")
    is_([(e["status"], e["route"]) for e in events[1:3]], [(404, None), (405, None)], "404 and 405 have no route")
    is_((events[3]["bytes"], events[3]["method"]), (5, "POST"), "a POST")
    is_(events[4]["route"], "/slow/stream", "a stream")
    left = events[-1]
    is_((left["target"], left["status"], left["cut"]), ("/slow/timer?ms=1500", 0, True), "a client that left: status 0, cut")


@case("a line from outside cannot forge a line, in JSON or in text")
def _():
    target = "/hello?" + "%0A%22" + '","event":"forged'
    for form in ("json", "text"):
        s = Server(["hello"], {"log": {"access": True, "format": form}, "drain": {"idle_ms": 20}}, wait=False)

        def text():
            with open(s.log_path, errors="replace") as f:
                return f.read()
        address = wait_for(lambda: re.search(r"listening on 127\.0\.0\.1:(\d+)", text()), 10, "the port")
        wait_for(lambda: "control at" in text(), 10, "it serves")
        with Conn(("127.0.0.1", int(address[1]))) as c:
            c.get(target.replace(" ", ""))
            c.send(b"GET /\x1b[31m\x07 HTTP/1.1\r\nHost: a\r\n\r\n")
            c.ends()
        is_(s.stop(), 0, f"{form}: exit 0")
        with open(s.log_path, "rb") as f:
            raw = f.read()
        ok(b"\x1b" not in raw and b"\x07" not in raw, f"{form}: no control byte is in the log")
        if form == "json":
            is_([e for e in s.log() if e["event"] == "forged"], [], "json: no forged event")
            is_(s.other_lines, [], "json: all is JSON")
        else:
            ok(all(re.match(r"\d{4}-\d\d-\d\dT\S+Z (DEBUG|INFO |WARN |ERROR) [a-z_]+: ", line)
                   for line in raw.decode().splitlines()), "text: every line begins as it should", raw[:600])


@case("log.level, also changed by HUP")
def _():
    s = Server(["hello", "life_v1"], {"log": {"level": "warn"}, "drain": {"idle_ms": 20}}, wait=False)

    def serves():
        try:
            return s.status()["generation"] == 1
        except (OSError, HttpError):
            return False
    wait_for(serves, 10, "it serves")
    is_(s.find_events(level="info"), [], "warn: no info lines")
    s.config["log"]["level"] = "debug"
    is_(s.reload(config=True)["ok"], True, "changed")
    s.install("life_v2", "life_v1")
    s.reload()
    s.wait_event("plugin_loaded", plugin="life")
    ok(True, "info lines come")


@case("refused: at most 10 lines a second")
def _():
    s = Server(["hello"], {"drain": {"idle_ms": 20}}, workers=1)
    began = time.monotonic()
    for _ in range(80):
        with Conn(s) as c:
            c.send(b"BAD\r\n\r\n")
            is_400 = c.response().status == 400
            if not is_400:
                ok(False, "400")
    took = time.monotonic() - began
    lines = len(s.find_events("refused"))
    within(lines, 1, 10 * (int(took) + 2), f"80 refusals in {took:.1f} s")
    is_(s.metrics()["graft_http_refused_total"], 80, "the metric counts all")


main()
