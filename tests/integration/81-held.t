#!/usr/bin/env python3
# What the supervisor holds while no process serves: queues of all sockets, the stage folder, what is known good; and crashes in the loader
import os
import signal
import subprocess
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403


def kill(s):
    old = s.pid
    os.kill(old, signal.SIGKILL)
    return back(s, old)


def none_runs(s):
    """Kills its processes until the pause before the next one is long."""
    for n in range(6):
        old = s.pid
        os.kill(old, signal.SIGKILL)
        if n < 5:
            back(s, old)
    wait_for(lambda: not children(s.proc.pid), 10, "none runs")
    return old


def kept(s, plugin):
    index, good = os.path.join(s.dir, "state", "index.json"), s.active(plugin)["sha256"]
    wait_for(lambda: os.path.exists(index) and good in open(index).read(), 10, "it is kept")


# ---- Sockets ----

@case("who waits in the queues of ops and control when a process crashes is answered by the next one")
def _():
    s = Server(["hello"])
    pid, ops = s.pid, s.ops
    inode = os.stat(s.control).st_ino
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: stands_still(pid), 10, "every thread stands still")
    waiting = [Conn(ops) for _ in range(5)] + [Conn(s.control) for _ in range(5)]
    for n, c in enumerate(waiting):
        c.send(request_bytes("GET", "/readyz" if n < 5 else "/v1/status"))
    os.kill(pid, signal.SIGKILL)
    answers = [c.response() for c in waiting]
    ok(all(a.status in (200, 503) for a in answers[:5]), "ops", [a.status for a in answers[:5]])
    is_([a.status for a in answers[5:]], [200] * 5, "control")
    isnt(answers[5].json()["pid"], pid, "by another process")
    is_((s.ops, os.stat(s.control).st_ino), (ops, inode), "the same sockets")
    with open("/proc/net/tcp") as f:
        listening = [line for line in f if f":{ops[1]:04X} " in line.split(None, 2)[1] + " " and line.split()[3] == "0A"]
    is_(len(listening), 1, "one ops socket")
    is_(s.stop(), 0, "exit 0")


@case("clients that come while no process runs wait, and are served; graftctl, too")
def _():
    path = os.path.join(tempdir(), "s.sock")
    s = Server(["hello"], listen=("127.0.0.1:0", f"unix:{path}"))
    none_runs(s)
    waiting = [Conn(to) for to in (s.address, path, s.ops) for _ in range(10)]
    for n, c in enumerate(waiting):
        c.send(request_bytes("GET", "/hello" if n < 20 else "/startupz"))
    ctl = subprocess.Popen([GRAFTCTL, "--control", s.control, "status"], stdout=subprocess.PIPE, text=True)
    is_(children(s.proc.pid), [], "still none")
    is_([c.response().status for c in waiting[:20]], [200] * 20, "all are answered")
    ok(all(c.response().status in (200, 503) for c in waiting[20:]), "at the ops address, too")
    ctl.communicate(timeout=secs(20))
    is_(ctl.returncode, 0, "graftctl status")
    is_(s.stop(), 0, "exit 0")


# ---- The stage folder ----

@case("the stage folder is locked by the supervisor: another start leaves it alone also while no process runs")
def _():
    s = Server(["hello"])
    first = s.active("hello")["id"]
    folder, = os.listdir(s.stage_dir)
    none_runs(s)
    other = Server(["hello"], {"stage_dir": s.stage_dir})
    is_(len(os.listdir(s.stage_dir)), 2, "another server with the same stage_dir begins, and removes nothing")
    back(s, 0)
    is_(s.get("/hello").status, 200, "the first one serves again")
    is_(len([path for path in s.staged() if folder in path]), 1, "out of its own folder")
    isnt(s.active("hello")["id"], first, "under an id that there never was")
    is_((s.stop(), other.stop()), (0, 0), "exit 0")
    is_(os.listdir(s.stage_dir), [], "nothing stays")
    os.unlink(s.log_path)
    s = Server(["hello"], start=False, dir=s.dir)
    os.makedirs(os.path.join(s.stage_dir, folder, "hello"))
    open(os.path.join(s.stage_dir, folder, "hello", "x.so"), "w").close()
    s.start()
    is_(folder in os.listdir(s.stage_dir), False, "a folder that nobody holds is removed by a start")
    is_(s.stop(), 0, "exit 0")


# ---- What is known good ----

COUNTED = r"""
#include <graft/graft.h>
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void count(void)
{
    int fd = open("%s", O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd >= 0 && write(fd, "x", 1) == 1)
        close(fd);
}
static graft_next answer(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "counted");
}
GRAFT_PLUGIN(.name = "counted", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/counted", answer, 0 }, { 0 } }, )
"""


@case("after a crash no file that is known good is probed again, with and without a state folder")
def _():
    for folder in (True, False):
        runs = os.path.join(tempdir(), "runs")
        s = Server({"counted": compile_plugin(COUNTED % runs), "hello": "hello"}, start=False)
        if not folder:
            s.config["state_dir"] = "/dev/null/none"
            s.write_config()
        s.start()
        is_(os.path.getsize(runs), 2, "a new file: its code runs in the probe and in the server")
        if folder:
            kept(s, "counted")
        else:
            time.sleep(0.5)
        for n in range(2):
            kill(s)
            is_((s.get("/counted").status, os.path.getsize(runs)), (200, 3 + n), f"state folder {folder}, crash {n}: in the server alone")
        is_(s.stop(), 0, "exit 0")


# ---- Crashes in the loader ----

CONSTRUCTOR = r"""
#include <graft/graft.h>
#include <stdio.h>
#include <string.h>
static int *volatile nowhere;
__attribute__((noinline, no_sanitize("undefined"))) static void fall(void)
{
    *nowhere = 1;
}
__attribute__((constructor)) static void early(void)
{
    char name[64] = "";
    FILE *f = fopen("/proc/self/comm", "r");
    if (f != NULL) {
        if (fgets(name, sizeof name, f) == NULL)
            name[0] = '\0';
        fclose(f);
    }
    if (strstr(name, "probe") == NULL)
        fall();
}
static graft_next answer(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "early");
}
GRAFT_PLUGIN(.name = "early", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/early", answer, 0 }, { 0 } }, )
"""


@case("a constructor that crashes in the server alone, with the dynamic loader's lock held: told, quarantined, gone without")
def _():
    s = Server(["hello"])
    kept(s, "hello")
    sha256 = s.install(compile_plugin(CONSTRUCTOR), "early")
    mark, pid = s.mark(), s.pid
    began = time.monotonic()
    try:
        s.reload()
    except (OSError, HttpError):
        pass
    event = s.wait_event("crash", 20, since=mark, pid=pid)
    within(time.monotonic() - began, 0, secs(3), "a handler that waited for the lock would wait for ever")
    is_((event["signal"], event.get("sha256")), ("SIGSEGV", sha256), "whose it was, though no version of it is loaded yet")
    like(event.get("function", ""), r"^fall\+0x", "and the function")

    def without():
        try:
            return s.get("/hello").status == 200 and s.reload()["ok"] and not s.ps("early", "active")
        except (OSError, HttpError):
            return False
    wait_for(without, 30, "the others serve")
    within(len(s.find_events("crash", mark)), 1, 2, "two crashes at most")
    pid = s.pid
    time.sleep(0.5)
    is_((s.pid, s.get("/hello").status), (pid, 200), "and nothing crashes any more")
    is_(s.stop(), 0, "exit 0")


EVERYWHERE = r"""
#include <graft/graft.h>
#include <stdlib.h>
#include <string.h>
static graft_self *me;
__attribute__((noinline)) static int at(const char *place)
{
    if (strcmp(graft_config_str(me, "at", ""), place) == 0)
        abort();
    return 0;
}
static int init(graft_self *self, void **state)
{
    (void)state;
    me = self;
    return at("init");
}
static void in_every(void *state) { (void)state; at("every"); }
static int ready(graft_self *self, void *state) { (void)self, (void)state; return at("ready"); }
static int worker_init(graft_self *self, void *state) { (void)self, (void)state; return at("worker_init"); }
static int start(graft_self *self, void *state) { (void)state; return at("start") + graft_every(self, 10, in_every, NULL); }
static void cool(graft_self *self, void *state) { (void)self, (void)state; at("cool"); }
static void worker_fini(graft_self *self, void *state) { (void)self, (void)state; at("worker_fini"); }
static void fini(graft_self *self, void *state) { (void)self, (void)state; at("fini"); }
static int health(graft_self *self, void *state) { (void)self, (void)state; return at("health"); }
static int export_state(graft_self *self, void *state, graft_buf *out)
{
    (void)self, (void)state;
    return at("export_state") + graft_buf_add(out, "x", 1);
}
static int import_state(graft_self *self, void *state, uint32_t schema, graft_str data)
{
    (void)self, (void)state, (void)schema, (void)data;
    return at("import_state");
}
static graft_next on_request(graft_req *req, void *state) { (void)req, (void)state; at("on_request"); return GRAFT_NEXT; }
static graft_next on_response(graft_req *req, void *state) { (void)req, (void)state; at("on_response"); return GRAFT_NEXT; }
static void on_finish(graft_req *req, void *state) { (void)req, (void)state; at("on_finish"); }
static void in_then(graft_req *req, void *arg) { (void)arg; at("then"); graft_done(req); }
static void in_work(void *arg) { (void)arg; at("offload"); }
static void in_post(graft_req *req, void *arg)
{
    (void)arg;
    at("post");
    if (graft_offload(req, in_work, in_then, NULL) != 0)
        graft_done(req);
}
static void in_after(graft_req *req, void *arg) { (void)arg; at("after"); graft_post(req, in_post, NULL); }
static void in_body(graft_req *req, graft_str chunk, bool last, void *arg)
{
    (void)chunk, (void)arg;
    at("on_body");
    if (last)
        graft_after(req, 1, in_after, NULL);
}
static void in_abort(graft_req *req, void *arg) { (void)arg; at("on_abort"); graft_done(req); }
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    at("handler");
    if (graft_query(req, "abort").len > 0) {
        graft_on_abort(req, in_abort, NULL);
        return GRAFT_LATER;
    }
    graft_on_body(req, in_body, NULL);
    return GRAFT_LATER;
}
GRAFT_PLUGIN(.name = "all", .version = "3.2.1", .init = init, .ready = ready, .worker_init = worker_init, .start = start,
             .cool = cool, .worker_fini = worker_fini, .fini = fini,
             .routes = (const graft_route[]){ { "POST", "/all", handler, GRAFT_STREAM }, { 0 } },
             .on_request = on_request, .on_response = on_response, .on_finish = on_finish,
             .export_state = export_state, .import_state = import_state, .health = health, )
"""


@case("whichever callback crashes: the event names it, the plugin, its version, and the route where there is one")
def _():
    so, other = compile_plugin(EVERYWHERE), compile_plugin(EVERYWHERE + "/* another file */")
    requests = ("handler", "on_request", "on_response", "on_finish", "on_body", "after", "post", "offload", "then", "on_abort")
    leaving = ("cool", "worker_fini", "fini")
    old = requests + leaving + ("health", "export_state")  # crash in a version that serves, or has served
    for at in old + ("init", "ready", "worker_init", "start", "every", "import_state"):
        s = Server({"hello": "hello"}, {"crash_window_ms": 1, "timeouts_ms": {"handover": 20000}})
        s.config["plugins"] = {"all": {"config": {"at": at if at in old else ""}}}
        s.config["middleware"] = ["all"] if at in requests else []
        s.install(so, "all")
        ok(s.reload(config=True)["ok"], f"{at}: it serves")
        pid, first = s.pid, s.active("all")
        mark = s.mark()
        try:
            if at == "on_abort":
                with Conn(s) as c:
                    c.send(request_bytes("POST", "/all?abort=1"))
                    wait_for(lambda: s.active("all")["in_flight"] == 1, 10, "a request is in progress")
            elif at in requests:
                s.request("POST", "/all", body=b"x" * 10)
            elif at == "health":
                s.ops_get("/readyz")
            elif at == "export_state" or at in leaving:
                s.install(other, "all")
                s.reload()
            else:
                s.config["plugins"] = {"all": {"config": {"at": at}}}
                s.reload(config=True)
        except (OSError, HttpError):
            pass
        event = s.wait_event("crash", 20, since=mark, pid=pid)
        is_((event["plugin"], event["version"], event.get("callback"), event["signal"]), ("all", "3.2.1", at, "SIGABRT"),
            f"{at}: plugin, version, callback")
        like(event.get("function", ""), r"^\w+\+0x", "function")
        is_(event.get("route"), "/all" if at in requests else None, "route")
        (is_ if at in old else isnt)(event["id"], first["id"], "of the version that it ran in")
        s.kill()


# ---- Crashes in a drain ----

LAST = r"""
#include <graft/graft.h>
#include <stdlib.h>
#include <string.h>
static int is(graft_self *self, const char *when)
{
    return strcmp(graft_config_str(self, "when", ""), when) == 0;
}
static void cool(graft_self *self, void *state)
{
    (void)state;
    if (is(self, "cool"))
        abort();
}
static void fini(graft_self *self, void *state)
{
    (void)state;
    if (is(self, "fini"))
        abort();
}
GRAFT_PLUGIN(.name = "last", .version = "1", .cool = cool, .fini = fini, )
"""


@case("a plugin that crashes in cool or fini of a drain: its name, 128 + N, and no other process")
def _():
    for when in ("cool", "fini"):
        s = Server({"hello": "hello", "last": compile_plugin(LAST)},
                   {"drain": {"idle_ms": 50}, "plugins": {"last": {"config": {"when": when}}}})
        pid = s.pid
        is_(s.stop(), 128 + signal.SIGABRT, f"{when}: 134")
        event = s.event("crash", pid=pid)
        is_((event["plugin"], event["callback"]), ("last", when), "it is told whose it was")
        is_((s.find_events("restarted"), s.staged(), os.path.exists(s.control)), ([], [], False), "and nothing stays behind")


# ---- The log's file ----

@case("USR1 to the server process alone: the supervisor's lines are in the new file, too; and to both at once")
def _():
    for both in (False, True):
        log = os.path.join(tempdir(), "log")
        s = Server(["hello"], {"log": {"file": log}}, wait=False)
        s.log_path = log
        s.wait_live()
        pid = s.pid
        os.rename(log, log + ".1")
        for to in [pid] + [s.proc.pid] * both:
            os.kill(to, signal.SIGUSR1)
        wait_for(lambda: os.path.exists(log), 10, "a new file")
        time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: '"crash"' in open(log).read() and '"restarted"' in open(log).read(), 20, "both write to it")
        is_('"crash"' in open(log + ".1").read(), False, "crash and restart are in the new file alone")
        back(s, pid)
        is_(s.stop(), 0, "exit 0")


main()
