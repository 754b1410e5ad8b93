#!/usr/bin/env python3
# graftctl and the control socket: every verb, exit status, JSON members, who may replace the socket.
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

WAITER = r"""
#include <graft/graft.h>
static void late(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "late\n");
    graft_done(req);
}
static graft_next wait(graft_req *req, void *state)
{
    (void)state;
    return graft_after(req, 3000, late, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
GRAFT_PLUGIN(.name = "waiter", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/wait", wait, 0 }, { 0 } }, )
"""


def members(value):
    return set(value) - {"_status"}


@case("answers have the members that programs rely on")
def _():
    s = Server(["hello", "request-id"], {"middleware": ["request-id"]})
    s.get("/hello")
    status = s.status()
    is_(members(status), {"ok", "version", "pid", "uptime_s", "generation", "draining", "swapping", "workers",
                          "connections", "in_flight"}, "status")
    is_(set(status["workers"][0]), {"worker", "lag_us", "connections"}, "a worker")
    is_(set(status["connections"]), {"now", "accepted", "closed"}, "connections")
    is_((status["generation"], status["pid"]), (1, s.pid), "generation and pid")
    wait_for(lambda: s.active("hello")["served"] == 1, 10, "the request's end is counted")
    hello = s.active("hello")
    is_(set(hello), {"plugin", "version", "id", "sha256", "config_sha256", "state", "weight", "in_flight", "oldest",
                     "served", "errors", "p50_us", "p99_us", "source", "reason"}, "a version")
    is_(hello["id"], hello["sha256"][:12] + "." + hello["id"].split(".")[1], "the id is SHA12.SEQ")
    is_((hello["weight"], hello["served"], hello["errors"], hello["reason"]), (100, 1, 0, None), "its figures")
    route = [r for r in s.routes() if r["pattern"] == "/hello"][0]
    is_(route, {"method": "GET", "pattern": "/hello", "chain": ["request-id", "hello"], "plugin": "hello",
                "id": hello["id"]}, "a route")
    answer = s.reload()
    is_(members(answer), {"ok", "generation", "changed", "unchanged", "failed", "duration_us"}, "reload")
    is_({e["plugin"] for e in answer["unchanged"]}, {"hello", "request-id"}, "nothing has changed")


@case("what the control socket refuses")
def _():
    s = Server(["hello"])
    for method, target, status, error in (
            ("GET", "/v1/nope", 404, "not_found"), ("POST", "/v1/status", 405, "bad_method"),
            ("GET", "/v1/reload", 405, "bad_method"), ("POST", "/v1/reload?retri=1", 400, "bad_request"),
            ("POST", "/v1/reload?retry=maybe", 400, "bad_request"), ("GET", "/v1/status?x", 400, "bad_request"),
            ("POST", "/v1/versions/hello/retire", 400, "bad_request"),
            ("POST", "/v1/versions/hello@0.1/retire", 409, "refused"),
            ("POST", "/v1/plugins/hello/rollback", 409, "refused"),
            ("POST", "/v1/plugins/nobody/rollback", 404, "not_found"),
            ("GET", "/v1/plugins/hello/rollback", 405, "bad_method"),
            ("POST", "/v1/plugins/hello/canary?weight=10", 409, "failed"),
            ("POST", "/v1/plugins/hello/canary?weight=100", 400, "bad_request"),
            ("POST", "/v1/plugins/hello/canary", 400, "bad_request"),
            ("POST", "/v1/plugins/hello/promote", 409, "failed"), ("POST", "/v1/plugins/hello/abort", 409, "failed"),
            ("POST", "/v1/plugins/" + "x" * 80 + "/abort", 404, "not_found")):
        answer = s.api(method, target)
        is_((answer["_status"], answer["ok"], answer["error"]), (status, False, error), f"{method} {target}")
        ok(answer["reason"] and answer["reason"] == answer["reason"].strip(), "with a reason", answer["reason"])


@case("tables, JSON and exit status")
def _():
    s = Server(["hello"])
    run = s.ctl("status")
    is_(run.returncode, 0, "status")
    like(run.stdout, rf"^graftd \S+, pid {s.pid}, up .*\ngeneration 1\n", "for people")
    run = s.ctl("ps")
    like(run.stdout, r"PLUGIN +VERSION +ID +STATE.*\nhello +\S+ +[0-9a-f]{12}\.\d+ +active", "ps")
    like(s.ctl("routes").stdout, r"METHOD +PATTERN.*\nGET +/hello +hello", "routes")
    run = s.ctl("--json", "ps")
    is_(json.loads(run.stdout)["versions"][0]["plugin"], "hello", "ps for programs")
    run = s.ctl("reload")
    is_(run.returncode, 0, "reload")
    like(run.stdout, r"unchanged +hello@[0-9a-f]{12}\.1\ngeneration 1", "says that nothing changed")
    with open(os.path.join(s.plugin_dir, "junk.so"), "w") as f:
        f.write("junk")
    run = s.ctl("reload")
    is_(run.returncode, 1, "a new file that is bad")
    like(run.stdout, r"failed +junk: .*not ELF", "is named on stdout")
    like(run.stderr, r"^graftctl: reload: failed: ", "and why on stderr")
    is_(s.ctl("reload").returncode, 0, "the same bad file again is no news")
    is_(s.ctl("reload", "--retry").returncode, 1, "but is tried again when asked")
    os.unlink(os.path.join(s.plugin_dir, "junk.so"))
    s.uninstall("hello")
    is_(s.ctl("reload").returncode, 1, "the last plugin stays")
    is_(s.get("/hello").status, 200, "and serves")
    is_(s.ctl("reload", "--allow-empty").returncode, 0, "until it may go")
    is_(s.get("/hello").status, 404, "then nothing serves")
    is_(s.ctl("retire", "hello@none.1").returncode, 1, "no such version")
    is_(s.ctl("reopen").returncode, 0, "reopen")
    is_(s.ctl("drain").returncode, 0, "drain")
    is_(s.wait_exit(), 0, "and the server ends")
    run = s.ctl("status")
    is_(run.returncode, 4, "no server any more")
    like(run.stderr, "no server at .*control.sock", "says where it looked")


@case("usage")
def _():
    for args in ((), ("nope",), ("status", "--retry"), ("reload", "--bogus"), ("retire",), ("status", "more"),
                 ("--control",)):
        run = subprocess.run([GRAFTCTL, *args], capture_output=True, text=True)
        is_(run.returncode, 2, f"graftctl {' '.join(args)}: exit 2")
    run = subprocess.run([GRAFTCTL, "--help"], capture_output=True, text=True)
    is_(run.returncode, 0, "--help")
    for word in ("status", "ps", "reload", "routes", "retire", "drain", "check", "reopen", "--json", "--control"):
        ok(word in run.stdout, f"--help names {word}")
    is_(subprocess.run([GRAFTCTL, "--version"], capture_output=True).returncode, 0, "--version")


@case("reload --config: good, bad, and what needs a restart")
def _():
    s = Server(["hello"])
    first = s.active("hello")
    s.config["plugins"] = {"hello": {"config": {"greeting": "hi"}}}
    answer = s.reload(config=True)
    ok(answer["ok"], "taken over", answer)
    second = s.active("hello")
    is_((second["sha256"] == first["sha256"], second["config_sha256"] == first["config_sha256"]), (True, False),
        "another configuration is another version of the same file")
    s.write_config('{"bogus": 1}')
    answer = s.reload()
    ok(answer["ok"], "a reload without --config does not look at it")
    answer = s.api("POST", "/v1/reload?config=1")
    is_((answer["ok"], answer["error"]), (False, "failed"), "a bad one is refused")
    like(answer["reason"], r"graft\.json:1:2: .*bogus", "with file, line and column")
    is_(s.ctl("reload", "--config").returncode, 1, "exit 1")
    is_(s.active("hello")["id"], second["id"], "and changes nothing")
    s.config["listen"] = ["127.0.0.2:0"]
    mark = s.mark()
    ok(s.reload(config=True)["ok"], "a good one again")
    event = s.wait_event("config", since=mark)
    like(event["msg"], "listen", "names what takes effect at a restart")


@case("one swap event for each configuration that is refused")
def _():
    s = Server(["hello"])
    s.write_config("{")
    mark = s.mark()
    s.send_signal(signal.SIGHUP)
    event = s.wait_event("swap", since=mark)
    is_((event["ok"], event["level"]), (False, "error"), "failed, at error")
    is_((event["changed"], event["unchanged"], event["failed"], event["generation"]), ([], [], [], 1), "same members")


@case("ps names what holds a version, retire aborts it")
def _():
    s = Server({"waiter": compile_plugin(WAITER)})
    with s.connect() as c:
        c.send(request_bytes("GET", "/wait"))
        old = wait_for(lambda: [v for v in s.ps("waiter") if v["in_flight"] == 1 and v["oldest"]], 5, "it in flight")[0]
        is_((old["oldest"]["route"], old["oldest"]["waits_for"]), ("/wait", "timer"), "its oldest request")
        s.install(make_unique(compile_plugin(WAITER)), "waiter")
        ok(s.reload()["ok"], "swapped")
        is_(s.ctl("retire", f"waiter@{s.active('waiter')['id']}").returncode, 1, "an active version cannot be retired")
        run = s.ctl("retire", f"waiter@{old['id']}")
        is_(run.returncode, 0, "a cooling one can")
        isnt(c.ends(), None, "its connection is closed")
    s.wait_event("retired", id=old["id"])
    ok(True, "and it is unloaded")


@case("draining: reload answers so")
def _():
    s = Server(["hello"], {"drain": {"delay_ms": int(1000 * SCALE), "idle_ms": 50}})
    s.ctl("drain")
    ok(s.status()["draining"], "status says so")
    answer = s.reload()
    is_((answer["_status"], answer["ok"], answer["error"]), (503, False, "draining"), "reload is refused")
    is_(s.ctl("reload").returncode, 1, "exit 1")
    is_(s.wait_exit(), 0, "drained")


@case("the socket is private, and replaced only when nobody answers")
def _():
    s = Server(["hello"])
    is_(stat.S_IMODE(os.lstat(s.control).st_mode), 0o600, "mode 0600")
    second = Server(["hello"], {"control": s.control}, start=False)
    run = graftd("-c", second.config_path)
    is_(run.returncode, 1, "a second server does not take it")
    like(run.stderr, "control: .*another server", "and says why")
    is_(s.ctl("status").returncode, 0, "the first one answers there")
    s.kill()
    ok(os.path.exists(s.control), "killed: the file stays")
    second.control = s.control
    second.start()
    is_(second.ctl("status").returncode, 0, "the next server replaces it")
    is_(second.stop(), 0, "and ends")
    ok(not os.path.exists(s.control), "its own file is gone")


@case("the socket's default places")
def _():
    runtime = tempdir()
    s = Server(["hello"], {"control": ""}, env={"RUNTIME_DIRECTORY": runtime})
    s.wait_event("control", address=os.path.join(runtime, "control.sock"))
    run = subprocess.run([GRAFTCTL, "status"], capture_output=True, text=True,
                         env={**os.environ, "RUNTIME_DIRECTORY": runtime})
    is_(run.returncode, 0, "graftctl finds it in $RUNTIME_DIRECTORY")
    run = subprocess.run([GRAFTCTL, "status"], capture_output=True, text=True,
                         env={**os.environ, "GRAFT_CONTROL": os.path.join(runtime, "control.sock")})
    is_(run.returncode, 0, "and by GRAFT_CONTROL")


@case("check")
def _():
    run = subprocess.run([GRAFTCTL, "check", plugin_path("hello")], capture_output=True, text=True)
    is_(run.returncode, 0, "a good file")
    like(run.stdout, r"hello \S+, \d routes.*It would be loaded", "says what it is")
    bad = os.path.join(tempdir(), "bad.so")
    with open(bad, "w") as f:
        f.write("junk")
    run = subprocess.run([GRAFTCTL, "check", bad], capture_output=True, text=True)
    is_(run.returncode, 1, "a bad file")
    like(run.stdout, r"refused \(preflight\): not ELF.*It would be refused", "says why")
    run = subprocess.run([GRAFTCTL, "--json", "check", bad], capture_output=True, text=True)
    answer = json.loads(run.stdout)
    is_((run.returncode, answer["ok"], answer["findings"][0]["severity"]), (1, False, "refusal"), "for programs")


@case("a server that hangs: graftctl says so, and soon")
def _():
    s = Server(["hello"])
    pid = s.pid
    os.kill(pid, signal.SIGSTOP)
    waiting = []
    try:
        began = time.monotonic()
        asks = [subprocess.Popen([GRAFTCTL, "--control", s.control, *words], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
                for words in (["status"], ["--json", "ps"], ["drain"])]
        for ask in asks:
            said = ask.communicate(timeout=60)[1]
            is_(ask.returncode, 1, f"{ask.args[3:]}: exit 1")
            like(said, "no answer within 10 s", "says what happened")
        within(time.monotonic() - began, 9, 50, "within seconds")
        try:
            while len(waiting) < 2000:
                c = socket.socket(socket.AF_UNIX)
                waiting.append(c)
                c.setblocking(False)
                c.connect(s.control)
        except BlockingIOError:
            pass
        within(len(waiting), 300, 1999, "hundreds of clients fit into the queue")
        run = subprocess.run([GRAFTCTL, "--control", s.control, "status"], capture_output=True, text=True, timeout=60)
        is_(run.returncode, 1, "a full queue: exit 1, not 4: a server is there")
        like(run.stderr, "no answer at .*stopped", "says so")
    finally:
        for c in waiting:
            c.close()
        os.kill(pid, signal.SIGCONT)
    is_(s.wait_exit(), 0, "the drain that was asked for comes when it goes on")


@case("hostile bytes on the control socket")
def _():
    s = Server(["hello"])
    for data in (b"\0" * 100, b"POST /v1/reload HTTP/1.1\r\n", os.urandom(5000), b"GET /" + b"%" * 3000 + b" HTTP/1.1\r\n\r\n",
                 b"POST /v1/versions/" + b"A" * 9000 + b"@x/retire HTTP/1.1\r\nHost: a\r\n\r\n"):
        with Conn(s.control) as c:
            c.send(data)
            c.shut()
            isnt(c.ends(), None, f"ends after {data[:30]!r}")
    ok(s.reload()["ok"], "and the server answers as before")


main()
