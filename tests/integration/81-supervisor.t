#!/usr/bin/env python3
# The supervisor: sockets outlive a crash, what it says of it, back-off, signals, exit codes, PID 1
import glob
import os
import resource
import signal
import socket
import subprocess
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

TSAN = SANITIZER == "tsan"


def ms(n):
    return int(n * SCALE)


def crash(s, how="segv"):
    """Ends the server process; the `crash` event."""
    mark, pid = s.mark(), s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", f"/crashes/{how}"))
        end = c.ends(20)
    ok(end in ("eof", "reset"), f"{how}: the connection ends", end)
    return s.wait_event("crash", 20, since=mark, pid=pid)


# ---- One and two processes ----

@case("two processes: the first holds, the second serves; its group is its own; plugins are in the second only")
def _():
    s = Server(["hello"])
    pid = s.pid
    isnt(pid, s.proc.pid, "status tells the server process")
    is_(children(s.proc.pid), [pid], "the child of the one that was started")
    is_(os.getpgid(pid), pid, "a process group of its own")
    with open(f"/proc/{s.proc.pid}/maps") as f:
        ok(".so" in f.read() and s.stage_dir not in open(f"/proc/{s.proc.pid}/maps").read(),
           "no plugin is mapped in the supervisor")
    is_(len(os.listdir(f"/proc/{s.proc.pid}/task")), 1, "which has one thread")
    environ = open(f"/proc/{pid}/environ", "rb").read()
    ok(b"GRAFTD_SUPERVISOR=" in environ, "the number of the descriptor went through the environment")
    like(os.listdir(s.stage_dir)[0], rf"^{s.proc.pid}-", "the stage folder is the supervisor's")
    is_(s.stop(), 0, "TERM: exit 0")
    is_((alive(pid), s.staged(), os.listdir(s.stage_dir), os.path.exists(s.control)), (False, [], [], False),
        "nothing stays behind")


@case("supervise: false, or GRAFT_SUPERVISE=false: one process")
def _():
    for s in (Server(["hello"], {"supervise": False}), Server(["hello"], env={"GRAFT_SUPERVISE": "false"})):
        is_((s.pid, children(s.proc.pid)), (s.proc.pid, []), "one process")
        is_(s.get("/hello").status, 200, "it serves")
        is_(s.stop(), 0, "exit 0")


@case("a number in the environment that is no supervisor's is nobody's")
def _():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for value in ("0", "77", "x", str(a.fileno())):
        s = Server(["hello"], env={"GRAFTD_SUPERVISOR": value}, pass_fds=(a.fileno(),))
        is_(s.get("/hello").status, 200, f"{value}: it starts and serves")
        is_(s.stop(), 0, "exit 0")
    a.close(), b.close()


@case("a wire that our parent has not made is refused, with the reason")
def _():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    run = subprocess.run(["sh", "-c", '"$0" -c /nowhere; exit $?', GRAFTD], pass_fds=(theirs.fileno(),), text=True,
                         env={**os.environ, "GRAFTD_SUPERVISOR": str(theirs.fileno())}, capture_output=True, timeout=secs(20))
    is_(run.returncode, 1, "exit 1")
    like(run.stderr, "GRAFTD_SUPERVISOR", "and it says so")
    ours.close(), theirs.close()


# ---- Crashes ----

@case("a crash: the same sockets, another process, soon; what waits in the queue is served")
def _():
    path = os.path.join(tempdir(), "s.sock")
    s = Server(["crashes", "hello"], listen=("127.0.0.1:0", f"unix:{path}"))
    pid, address = s.pid, s.address
    os.kill(pid, signal.SIGSTOP)  # what connects then waits in the kernel's queue
    wait_for(lambda: stands_still(pid), 10, "every thread stands still")
    waiting = [Conn(to) for to in (address, path) for _ in range(20)]
    for c in waiting:
        c.send(request_bytes("GET", "/hello"))
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    is_([c.response().status for c in waiting], [200] * 40, "40 clients in the queues of TCP and unix sockets get their answer")
    took = time.monotonic() - began
    within(took, 0, 0.3 * SCALE, f"recovered in {took * 1000:.0f} ms")
    event = s.wait_event("crash", pid=pid)
    is_((event["signal"], event.get("plugin")), ("SIGKILL", None), "kill -9 is a crash without a culprit")
    isnt(s.pid, pid, "another process")
    is_(s.addresses()[:2], [address, path], "on the same addresses")
    is_(s.ops_get("/readyz").status, 200, "the ops address, too")
    is_(s.stop(), 0, "exit 0")
    is_(os.path.exists(path), False, "the unix socket is removed in the end")


@case("the crash event names plugin, version, id, route, function, signal, thread and process")
def _():
    for how, signo, function, thread in (
            ("segv", "SIGSEGV", "sink_segv", "worker-"), ("abort", "SIGABRT", "sink_abort", "worker-"),
            ("overflow", "SIGSEGV", "sink_overflow", "worker-"), ("fpe", "SIGFPE", "sink_fpe", "worker-"),
            ("ill", "SIGILL", "sink_ill", "worker-"), ("double-free", "SIGABRT", "sink_double_free", "worker-"),
            ("offload", "SIGSEGV", "sink_segv", "pool-"), ("thread", "SIGSEGV", "sink_segv", "")):
        if SANITIZER != "none" and how in ("overflow", "fpe", "double-free", "ill", "thread"):
            continue  # the sanitizer has a word of its own about these
        s = Server(["crashes"], {"crash_window_ms": 1})
        version = s.active("crashes")
        pid = s.pid
        event = crash(s, how)
        is_((event["plugin"], event["id"], event["signal"], event["pid"]),
            ("crashes", version["id"], signo, pid), f"{how}: plugin, id, signal, pid")
        like(event["function"], rf"^{function}\+0x", "function")
        like(event["thread"], rf"^{thread}", "thread")
        is_((event["version"], event["sha256"], event["config_sha256"]),
            ("1.2.3", version["sha256"], version["config_sha256"]), "version and identity")
        if how != "thread":  # nobody called it
            is_((event["route"], event["callback"]), ("/crashes/:how", "offload" if how == "offload" else "handler"),
                "route and callback")
        restarted = s.wait_event("restarted", 20)
        is_(restarted.get("id"), version["id"], "the next process knows whose fault it was")
        now = back(s, pid)
        is_(s.get("/crashes/pid").text.strip(), str(now), "which serves")
        wait_for(lambda: not any(version["id"] + ".so" in path for path in s.staged()), 10, "the dead process's copies are removed")
        is_(len(s.staged()), 1, "the living one's stay")
        ok(s.active("crashes")["id"] != version["id"], "no id comes twice")
        is_(s.stop(), 0, "exit 0")


OWN_STACK = """
#include <graft/graft.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
static volatile int zero;
__attribute__((noinline, noclone)) static int deeper(volatile char *above)
{
    volatile char block[4096];
    block[0] = above[0];
    return zero != 0 ? 0 : deeper(block) + block[0];
}
static void *run(void *with)
{
    volatile char first = 0;
    stack_t stack = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
    if (with != NULL)
        sigaltstack(&stack, NULL);
    zero = deeper(&first);
    return NULL;
}
static graft_next fill(graft_req *req, void *state)
{
    pthread_t thread;
    (void)state;
    if (pthread_create(&thread, NULL, run, graft_param(req, "how").len == 4 ? req : NULL) == 0)
        pthread_join(thread, NULL);
    return graft_text(req, 200, "");
}
GRAFT_PLUGIN(.name = "fills", .version = "1", .routes = (const graft_route[]){ { "GET", "/fills/:how", fill, 0 }, { 0 } },)
"""


@case("a thread of a plugin's own fills its stack: its signal is told, and with a sigaltstack whose it was",
      SANITIZER == "none", "the sanitizer has a word of its own about this")
def _():
    s = Server({"fills": compile_plugin(OWN_STACK)}, {"crash_window_ms": 1})
    for how, plugin in (("without", None), ("with", "fills")):
        pid = s.pid
        with Conn(s) as c:
            c.send(request_bytes("GET", f"/fills/{how}"))
            ok(c.ends(20) in ("eof", "reset"), "the connection ends")
        event = s.wait_event("crash", pid=pid)
        is_((event["signal"], event.get("plugin")), ("SIGSEGV", plugin), f"{how}: signal and plugin")
        back(s, pid)


@case("the core dump still happens")
def _():
    pattern = open("/proc/sys/kernel/core_pattern").read().strip()
    if pattern.startswith("|") or SANITIZER != "none":
        return skip("cores go elsewhere here", "a core")
    folder = tempdir()
    s = Server(["crashes"], preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)), cwd=folder)
    crash(s)
    where = os.path.join(folder, os.path.dirname(pattern)) if "/" not in pattern[:1] else os.path.dirname(pattern)
    wait_for(lambda: [f for f in glob.glob(os.path.join(where, "*")) if os.path.getsize(f) > 100000], 10, "a core file")
    ok(True, "there is a core file")


@case("exit() in a plugin is a crash, too")
def _():
    s = Server(["crashes", "hello"])
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/crashes/exit"))
        c.ends(10)
    event = s.wait_event("crash", pid=pid)
    if SANITIZER == "none":
        is_(event.get("exit_status"), 7, "its exit status is told")
        is_((event.get("plugin"), event.get("callback"), event.get("signal")), ("crashes", "handler", None), "and whose it was")
    back(s, pid)
    is_(s.get("/hello").status, 200, "it serves again")


EXIT_HANGS = """
#include <graft/graft.h>
#include <stdlib.h>
#include <unistd.h>
static volatile int leaving;
__attribute__((destructor)) static void last(void)
{
    while (leaving)
        pause();
}
static graft_next leave(graft_req *req, void *state)
{
    (void)req, (void)state;
    leaving = 1;
    exit(7);
}
GRAFT_PLUGIN(.name = "exits", .version = "1", .routes = (const graft_route[]){ { "GET", "/exits", leave, 0 }, { 0 } },)
"""


@case("exit() with a destructor that hangs: the old process does not stay beside the new one")
def _():
    s = Server({"exits": compile_plugin(EXIT_HANGS), "hello": "hello"})
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/exits"))
        ok(c.ends(20) in ("eof", "reset"), "the connection ends")
        s.wait_event("crash", pid=pid)
        now = back(s, pid)
        wait_for(lambda: children(s.proc.pid) == [now], 10, "the old one ends")
    is_((alive(pid), s.get("/hello").status), (False, 200), "one process, which serves")
    is_(s.stop(), 0, "exit 0")


@case("a child that a plugin forked may crash or exit: the server is not replaced")
def _():
    s = Server(["crashes"])
    pid = s.pid
    for how in ("fork-segv", "fork-exit"):
        is_(s.get(f"/crashes/{how}").text.strip(), str(pid), how)
    time.sleep(0.3)
    is_((s.find_events("crash"), s.pid), ([], pid), "no crash is told")
    is_(s.stop(), 0, "exit 0")


@case("crashes under load: only requests of the process that crashed fail")
def _():
    s = Server(["crashes", "hello"], {"crash_window_ms": 1})
    with Prober(s, "/hello", clients=4, keep_alive=False, every=0.001) as p:
        for n in range(5):
            pid = s.pid
            crash(s)
            back(s, pid)
            time.sleep(0.1)
    within(len(p.failures), 0, 5 * 4, f"at most the connections that were open at that moment, {p.count} answers")
    is_([f for f in p.failures if "refused" in f.lower()], [], "no connection was refused")


SLOW_INIT = """
#include <graft/graft.h>
#include <unistd.h>
static graft_next hello(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "slow");
}
static int init(graft_self *self, void **state)
{
    (void)self, (void)state;
    usleep(1000000);
    return 0;
}
GRAFT_PLUGIN(.name = "slow", .version = "1", .init = init, .routes = (const graft_route[]){ { "GET", "/slow", hello, 0 }, { 0 } },)
"""


# ---- Back-off ----

@case("crashes again and again: restarts come later and later")
def _():
    s = Server(["hello"])
    begun, pauses = s.pid, []
    for n in range(5):
        old = s.pid
        at = time.monotonic()
        os.kill(old, signal.SIGKILL)
        back(s, old)
        pauses.append(time.monotonic() - at)
    ok(pauses[4] > pauses[1] + 0.2 and pauses[4] >= 0.5, f"longer and longer: {pauses}")
    is_(len(s.find_events("restarted")), 5, "each is told")
    s.stop()


@case("an identity that crashed twice within crash_window_ms is quarantined, and its predecessor serves")
def _():
    s = Server(["hello", "crashes"])
    good = s.active("crashes")
    index = os.path.join(s.dir, "state", "index.json")
    wait_for(lambda: os.path.exists(index) and good["sha256"] in open(index).read(), 10, "it is kept")
    s.config["plugins"] = {"crashes": {"config": {"when": "every"}}}
    s.write_config()
    mark = s.mark()
    s.send_signal(signal.SIGHUP)
    event = s.wait_event("quarantine", 40, since=mark)
    is_(event["plugin"], "crashes", "quarantined")
    like(event["reason"], "crash", "for its crashes")
    is_(len(s.find_events("crash", mark)), 2, "after two of them")
    wait_for(lambda: s.ps("crashes", "active"), 20, "a server process")
    now = s.active("crashes")
    is_((now["sha256"], now["config_sha256"], now["source"]), (good["sha256"], good["config_sha256"], "store"),
        "the version before serves, out of the store")
    is_(s.get("/crashes/pid").status, 200, "it answers")
    pid = s.pid
    time.sleep(0.5)
    is_(s.pid, pid, "and nothing crashes any more")
    ok(s.reload()["ok"], "a scan leaves it so")
    is_(s.active("crashes")["config_sha256"], good["config_sha256"], "the quarantined one stays out")
    s.stop()


@case("shared blocks survive a crash: what was counted for answers that were sent is not lost")
def _():
    s = Server(["hello", "counter", "crashes"], {"middleware": ["counter"], "crash_window_ms": 1})
    for n in range(3):
        for _ in range(20):
            s.get("/hello")
        before = s.get("/counter").json()["total"]
        pid = s.pid
        crash(s)
        back(s, pid)
        after = s.get("/counter").json()["total"]
        ok(before < after <= before + 4, f"crash {n}: {before}, then {after}: nothing lost")
    s.stop()


@case("one that crashes at once and was never good: the server runs without it, and says so")
def _():
    s = Server(["hello"])
    s.config["plugins"] = {"crashes": {"config": {"when": "every"}}}
    s.install("crashes")
    s.write_config()
    mark = s.mark()
    s.send_signal(signal.SIGHUP)
    s.wait_event("quarantine", 40, since=mark)

    def without():
        try:
            return s.get("/hello").status == 200 and [v["state"] for v in s.ps("crashes")] == ["missing"]
        except (OSError, HttpError):
            return False
    wait_for(without, 20, "the others serve")
    event = s.wait_event("plugin_warning", since=mark)
    like(event["msg"], "quarantined", "why it is missing is told")
    pid = s.pid
    time.sleep(0.5)
    is_(s.pid, pid, "and nothing crashes any more")
    is_(s.get("/crashes/pid").status, 503, "its routes answer 503")
    s.stop()


@case("crash_window_ms: one that lived longer is started again at once")
def _():
    s = Server(["crashes"], {"crash_window_ms": 100})
    for n in range(4):
        time.sleep(0.2)
        pid = s.pid
        began = time.monotonic()
        crash(s)
        back(s, pid)
        within(time.monotonic() - began, 0, 0.35 * SCALE, f"crash {n}: at once")


@case("a restart goes by the configuration in force, not by a file that is broken by now")
def _():
    s = Server(["crashes", "hello"], {"server_header": "first"})
    s.config["server_header"] = "second"
    is_(s.reload_signal(signal.SIGHUP)["ok"], True, "HUP: another configuration")
    s.write_config("{ this is no JSON")
    mark = s.mark()
    s.send_signal(signal.SIGHUP)
    is_(s.wait_event("swap", since=mark)["ok"], False, "a broken file is refused")
    pid = s.pid
    crash(s)
    back(s, pid)
    is_(s.get("/hello").header("Server"), "second", "the last good one serves after the crash")
    s.config["server_header"] = "third"
    is_(s.reload_signal(signal.SIGHUP)["ok"], True, "HUP still works")
    is_(s.get("/hello").header("Server"), "third", "and reads the file")


@case("a restart that cannot load is tried again, not given up")
def _():
    s = Server(["crashes", "hello", "counter"], {"middleware": ["counter"]})
    pid = s.pid
    os.unlink(os.path.join(s.plugin_dir, "counter.so"))
    crash(s)
    wait_for(lambda: len(s.find_events("swap", ok=False)) >= 2, 20, "two starts that fail")
    is_(s.proc.poll(), None, "the supervisor lives on")
    is_(len(s.find_events("crash")), 1, "that is no crash")
    wait_for(lambda: s.find_events("exit", msg=lambda m: "another try" in m), 20, "and is told")
    s.install("counter")
    back(s, pid)
    is_(s.get("/hello").status, 200, "once the file is there it serves, on the same socket")
    is_(s.stop(), 0, "exit 0")


@case("a bad file in the folder and then a crash: what was good serves, out of the store")
def _():
    for how in ("broken", "init_fails", "never good"):
        s = Server(["crashes", "hello"])
        index = os.path.join(s.dir, "state", "index.json")
        good = s.active("hello")
        wait_for(lambda: os.path.exists(index) and good["sha256"] in open(index).read(), 10, "it is kept")
        name = "bad" if how == "never good" else "hello"
        if how == "broken":
            with open(os.path.join(s.plugin_dir, "hello.so"), "wb") as f:
                f.write(b"broken")
        else:
            source = f"""#include <graft/graft.h>
static int init(graft_self *self, void **state)
{{
    (void)state;
    return graft_fail(self, "not today");
}}
GRAFT_PLUGIN(.name = "{name}", .version = "2", .init = init, )
"""
            s.install(compile_plugin(source), name)
        ok(not s.reload()["ok"], f"{how}: refused by a scan")
        pid = s.pid
        crash(s)
        back(s, pid)
        is_(s.get("/hello").status, 200, f"{how}: after a crash it serves")
        now = s.active("hello")
        is_((now["sha256"], now["source"]), (good["sha256"], "folder" if how == "never good" else "store"), "the good one")
        answer = s.reload()
        ok(any(f["plugin"] == name for f in answer["failed"]), "a scan still tells what is wrong", answer)
        s.install("hello")
        if how == "never good":
            os.unlink(os.path.join(s.plugin_dir, "bad.so"))
        ok(s.reload()["ok"], "once it is mended, a scan is well again")
        is_(s.active("hello")["source"], "folder", "and the folder's file serves")
        is_(s.stop(), 0, "exit 0")


@case("HUP while no process runs, between two crashes, is the next one's")
def _():
    s = Server(["hello"], {"server_header": "first"})
    for n in range(6):  # until the pause is long enough to send something in it
        old = s.pid
        os.kill(old, signal.SIGKILL)
        if n < 5:
            back(s, old)
    wait_for(lambda: not children(s.proc.pid), 10, "none runs")
    s.config["server_header"] = "second"
    s.write_config()
    mark = s.mark()
    s.send_signal(signal.SIGHUP)
    back(s, old)
    wait_for(lambda: s.get("/hello").header("Server") == "second", 10, "the file that HUP was sent for is read")
    wait_for(lambda: len(s.find_events("swap", mark)) == 2, 10, "it is a swap, behind the first load")
    old = s.pid
    os.kill(old, signal.SIGKILL)
    mark = s.mark()
    back(s, old)
    time.sleep(0.3)
    is_([e["ok"] for e in s.find_events("swap", mark)], [True], "and not again for the process behind that")
    is_(s.get("/hello").header("Server"), "second", "it is in force")
    is_(s.stop(), 0, "exit 0")


@case("a stop signal while no process runs ends the supervisor at once, with the crash's status")
def _():
    for signo in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        s = Server(["hello"])
        for n in range(6):
            old = s.pid
            os.kill(old, signal.SIGKILL)
            if n < 5:
                back(s, old)
        wait_for(lambda: not children(s.proc.pid), 10, "none runs")
        s.send_signal(signo)
        is_(s.wait_exit(), 128 + signal.SIGKILL, f"{signo.name}: 137")
        is_((s.staged(), os.listdir(s.stage_dir), os.path.exists(s.control)), ([], [], False), "nothing stays behind")


@case("a stop signal while the process that follows a crash still starts: drained, not started again")
def _():
    s = Server({"slow": compile_plugin(SLOW_INIT)}, {"plugins": {"slow": {"config": {}}}})
    old = s.pid
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: [pid for pid in children(s.proc.pid) if pid != old], 10, "another process")
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "TERM during its init: exit 0")
    is_(len(s.find_events("restarted")), 0, "it never served")
    is_((s.staged(), os.path.exists(s.control)), ([], False), "nothing stays behind")


# ---- The first start ----

@case("a start that fails is exit 1 with the reasons, at once, and never a loop")
def _():
    s = Server({"bad": "init_fails"}, wait=False, status=1)
    is_(s.wait_exit(), 1, "a bad plugin")
    is_(len(s.find_events("swap")), 1, "tried once")
    s = Server({"crashes": "crashes"}, {"plugins": {"crashes": {"config": {"when": "init"}}}}, wait=False)
    is_(s.wait_exit(), 128 + signal.SIGSEGV, "init crashes: 128 + N")
    is_(len(s.find_events("crash", plugin="crashes", callback="init")), 1, "told once")
    is_((s.staged(), os.path.exists(s.control)), ([], False), "nothing stays behind")


# ---- Signals and exit codes ----

@case("signals: the same sent to the supervisor, to the server process, to both")
def _():
    for name, targets in (("supervisor", lambda s: [s.proc.pid]), ("server", lambda s: [s.pid]),
                          ("both", lambda s: [s.pid, s.proc.pid])):
        s = Server(["hello", "slow"], {"drain": {"idle_ms": 50, "timeout_ms": ms(60000)}})

        def send(signo):
            for pid in targets(s):
                os.kill(pid, signo)
        for signo in (signal.SIGUSR2, signal.SIGHUP):
            mark = s.mark()
            send(signo)
            is_(s.wait_event("swap", since=mark)["ok"], True, f"{signo.name} to {name}: a swap")
        send(signal.SIGTERM)
        is_(s.wait_exit(), 0, f"TERM to {name}: drained, exit 0")
        is_(len(s.find_events("drain_start")), 1, "one drain")
        for first, second, status in ((signal.SIGTERM, signal.SIGTERM, 143), (signal.SIGTERM, signal.SIGINT, 130),
                                      (signal.SIGQUIT, None, 131)):
            s = Server(["slow"], {"drain": {"idle_ms": 50, "timeout_ms": ms(60000)}})
            with Conn(s) as c:
                c.send(request_bytes("GET", "/slow/timer?ms=600000"))
                wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
                send(first)
                if second:
                    s.wait_event("drain_start")
                    time.sleep(0.3)
                    is_(s.proc.poll(), None, f"{first.name} to {name}: it waits for the request")
                    send(second)
                is_(s.wait_exit(), status, f"{first.name}, {second and second.name} to {name}: {status}")


@case("the drain's deadline is exit 3; graftctl drain ends the supervisor, too")
def _():
    s = Server(["slow"], {"drain": {"idle_ms": 50, "timeout_ms": ms(500)}})
    with Conn(s) as c:
        c.send(request_bytes("GET", "/slow/timer?ms=600000"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        is_(s.stop(), 3, "exit 3")
    s = Server(["hello"])
    is_(s.ctl("drain").returncode, 0, "graftctl drain")
    is_(s.wait_exit(), 0, "exit 0")


@case("a server that dies during a drain is not started again: 128 + N")
def _():
    s = Server(["slow", "crashes"], {"drain": {"idle_ms": 50, "timeout_ms": ms(60000)}})
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/slow/timer?ms=600000"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.send_signal(signal.SIGTERM)
        s.wait_event("drain_start")
        os.kill(pid, signal.SIGKILL)
        is_(s.wait_exit(), 128 + signal.SIGKILL, "137")
    is_((s.staged(), os.path.exists(s.control)), ([], False), "nothing stays behind")


@case("a control thread that does not answer cannot keep the supervisor from ending")
def _():
    s = Server(["hello"])
    pid = s.pid
    os.kill(pid, signal.SIGSTOP)
    s.send_signal(signal.SIGQUIT)
    is_(s.wait_exit(), 131, "QUIT while the server process stands still: 131")
    is_(alive(pid), False, "it is gone, too")


@case("the supervisor is killed: the server drains and cleans up")
def _():
    s = Server(["slow", "hello"], {"drain": {"idle_ms": 50}})
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/slow/timer?ms=600"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.proc.kill()
        is_(c.response().status, 200, "the request in progress ends")
    s.proc.wait()
    wait_for(lambda: not alive(pid), 20, "the server process ends")
    like(s.event("drain_start")["why"], "supervisor is gone", "it says why")
    is_((s.staged(), os.path.exists(s.control)), ([], False), "nothing stays behind")


LATE_CRASH = """
#include <graft/graft.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static volatile int zero;
static void tell(const int fds[], const char *path, pid_t parent)
{
    char byte;
    int got = 0;
    while (getppid() == parent)
        usleep(1000);
    for (int i = 0; i < 100; i++)
        got += recv(fds[i], &byte, 1, MSG_DONTWAIT) == 1;
    FILE *f = fopen(path, "w");
    if (f != NULL)
        fprintf(f, "%d of these\\n", got), fclose(f);
    _exit(0);
}
static graft_next late(graft_req *req, void *path)
{
    pid_t supervisor = getppid(), self = getpid();
    int fds[100];
    while (getppid() == supervisor)
        usleep(1000);
    usleep(1000000); /* the wire is closed: its number is free */
    for (int i = 0; i < 100; i += 2)
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds + i) != 0)
            return graft_text(req, 500, "no sockets");
    if (fork() == 0)
        tell(fds, path, self);
    usleep(100000);
    abort();
}
static int init(graft_self *self, void **state)
{
    const char *path = graft_config_str(self, "path", "");
    *state = (void *)path;
    return 0;
}
GRAFT_PLUGIN(.name = "late", .version = "1", .init = init,
             .routes = (const graft_route[]){ { "GET", "/late", late, 0 }, { 0 } },)
"""


@case("a crash behind the supervisor's end is told to nobody, least of all to who has the wire's number by now")
def _():
    path = os.path.join(tempdir(), "got")
    s = Server({"late": compile_plugin(LATE_CRASH)}, {"plugins": {"late": {"config": {"path": path}}}})
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/late"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.proc.kill()
        s.proc.wait()
        ok(c.ends(20) in ("eof", "reset"), "it crashes")
    wait_for(lambda: os.path.exists(path) and os.path.getsize(path), 20, "what came")
    is_(open(path).read(), "0 of these\n", "no socket of the plugin's got a byte")
    wait_for(lambda: not alive(pid), 20, "the server process ends")


@case("listeners close in both: a port is free while a long request still drains")
def _():
    s = Server(["slow"], {"drain": {"idle_ms": 50, "timeout_ms": ms(60000)}})
    with Conn(s) as c:
        c.send(request_bytes("GET", "/slow/timer?ms=" + str(ms(1500))))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.send_signal(signal.SIGTERM)

        def closed():
            try:
                socket.create_connection(s.address, 0.3).close()
            except ConnectionRefusedError:
                return True
            except OSError:
                pass
            return False
        wait_for(closed, 5, "connections are refused")
        is_(s.proc.poll(), None, "while it drains")
        is_(c.response().status, 200, "and the request ends")
    is_(s.wait_exit(), 0, "exit 0")


@case("USR1 reopens the log of both")
def _():
    folder = tempdir()
    log = os.path.join(folder, "log")
    s = Server(["crashes"], {"log": {"file": log}}, wait=False)
    s.log_path = log
    s.wait_live()
    os.rename(log, log + ".1")
    s.send_signal(signal.SIGUSR1)
    wait_for(lambda: os.path.exists(log), 10, "a new file")
    pid, listen = s.pid, s.address
    with Conn(listen) as c:
        c.send(request_bytes("GET", "/crashes/segv"))
        c.ends(10)
    wait_for(lambda: '"crash"' in open(log).read() and '"restarted"' in open(log).read(), 20, "both write to it")
    ok(True, "crash and restart are in the new file")
    back(s, pid)


# ---- The watchdog ----

WATCHDOG = {"watchdog_ms": 1000, "timeouts_ms": {"handler": 600000}}


@case("a worker that blocks is reported once, with plugin, route and function; it is not disturbed")
def _():
    s = Server(["blocking_handler", "hello"], WATCHDOG, workers=1)
    with Conn(s) as c:
        c.send(request_bytes("GET", "/blocking?ms=" + str(ms(3000))))
        event = s.wait_event("worker_stuck")
        is_((event["plugin"], event["route"], event["callback"], event["worker"]),
            ("blocking-handler", "/blocking", "handler", 0), "plugin, route, callback, worker")
        is_(event["id"], s.active("blocking-handler")["id"], "id")
        like(event.get("stack", ""), r"\.so: ", "a stack")
        within(event["age_ms"], 1000, ms(4000), "how long")
        is_(c.response().body, b"blocking\n", "the handler ends as it would have")
    is_(len(s.find_events("worker_stuck")), 1, "reported once")
    is_(s.find_events("crash"), [], "and nothing was killed")
    with Conn(s) as c:
        c.send(request_bytes("GET", "/blocking?ms=" + str(ms(3000))))
        wait_for(lambda: len(s.find_events("worker_stuck")) == 2, 10, "another time, another report")
        c.response()


@case("one that computes is asked where it is", not TSAN, "TSan holds signals back")
def _():
    s = Server(["crashes"], WATCHDOG, workers=1, status=137)
    with Conn(s) as c:
        c.send(request_bytes("GET", "/crashes/loop"))
        event = s.wait_event("worker_stuck")
        is_((event["plugin"], event["route"]), ("crashes", "/crashes/:how"), "plugin and route")
        like(event.get("function"), r"^sink_loop\+0x", "the function")
        is_(s.find_events("crash"), [], "it is not killed")
        s.send_signal(signal.SIGQUIT)
        is_(s.wait_exit(), 131, "QUIT ends it all the same")


@case("watchdog_kill: replaced like a crashed one", not TSAN, "TSan holds signals back")
def _():
    for how in ("loop", "blocking"):
        s = Server(["crashes", "blocking_handler", "hello"], {**WATCHDOG, "watchdog_kill": True})
        pid = s.pid
        with Conn(s) as c:
            c.send(request_bytes("GET", "/crashes/loop" if how == "loop" else "/blocking?ms=600000"))
            event = s.wait_event("crash")
        is_((event["signal"], event["plugin"], event["callback"]),
            ("SIGABRT", "crashes" if how == "loop" else "blocking-handler", "handler"), f"{how}: the crash is the plugin's")
        like(event["thread"], "^worker-", "and the worker's")
        if how == "loop":
            like(event["function"], r"^sink_loop\+0x", "with the function")
        back(s, pid)
        is_(s.get("/hello").status, 200, "another process serves")
        is_(s.stop(), 0, "exit 0")


@case("a drain has its own deadline: the watchdog does not end it")
def _():
    s = Server(["blocking_handler"], {**WATCHDOG, "watchdog_kill": True, "drain": {"idle_ms": 50, "timeout_ms": ms(60000)}})
    with Conn(s) as c:
        c.send(request_bytes("GET", "/blocking?ms=" + str(ms(2500))))
        time.sleep(0.2)
        s.send_signal(signal.SIGTERM)
        s.wait_event("worker_stuck")
        is_(c.response().status, 200, "the request ends")
    is_(s.wait_exit(), 0, "exit 0")


@case("watchdog settings take effect on HUP; without a supervisor it reports, too")
def _():
    s = Server(["blocking_handler"], {"supervise": False}, workers=1)
    s.config.update(WATCHDOG)
    is_(s.reload_signal(signal.SIGHUP)["ok"], True, "HUP")
    with Conn(s) as c:
        c.send(request_bytes("GET", "/blocking?ms=" + str(ms(2500))))
        is_(s.wait_event("worker_stuck")["plugin"], "blocking-handler", "reported")
        c.response()


# ---- Descriptors and memory ----

def leave_descriptors(s, n):
    """The supervisor may open so many more."""
    used = {int(fd) for fd in os.listdir(f"/proc/{s.proc.pid}/fd")}
    limit = min(at for at in range(10000) if at - len([fd for fd in used if fd < at]) == n)
    before = resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    return lambda: resource.prlimit(s.proc.pid, resource.RLIMIT_NOFILE, before)


@case("no descriptor is left in the supervisor: what serves goes on; with some again, all goes on")
def _():
    s = Server(["hello"], {"server_header": "first"})
    pid = s.pid
    mend = leave_descriptors(s, 0)
    s.config["server_header"] = "second"
    is_(s.reload_signal(signal.SIGHUP)["ok"], True, "HUP: another configuration, which the supervisor cannot receive")
    like(s.wait_event("limits", msg=lambda m: "supervisor" in m)["msg"], "the configuration before", "it says what that means")
    is_((s.pid, s.get("/hello").header("Server"), s.find_events("crash")), (pid, "second", []), "the same process serves with it")
    os.kill(pid, signal.SIGKILL)
    s.wait_event("exit", msg=lambda m: "Too many open files" in m)
    is_(s.proc.poll(), None, "a crash: no process can be started, it is tried again")
    mend()
    back(s, pid)
    is_(s.get("/hello").status, 200, "and again, until one serves")
    is_(s.stop(), 0, "exit 0")


@case("shared blocks leave the supervisor the descriptors that it needs to start a process")
def _():
    s = Server(["hello", "crashes"])
    pid = s.pid
    leave_descriptors(s, 60)
    s.install("counter")
    ok(s.reload()["ok"], "a plugin with blocks")
    like(s.wait_event("state", msg=lambda m: "survive" in m)["msg"], "will not survive a crash: no room", "they are not kept")
    crash(s)
    back(s, pid)
    is_(s.get("/counter").status, 200, "a crash: another process serves")
    is_(s.stop(), 0, "exit 0")


@case("fifty crashes leave the supervisor as it was")
def _():
    s = Server(["crashes"], {"crash_window_ms": 1})

    def held():
        with open(f"/proc/{s.proc.pid}/maps") as f:
            return len(os.listdir(f"/proc/{s.proc.pid}/fd")), sum("graft-crash" in line for line in f)
    before = held()
    for n in range(50 if SANITIZER == "none" else 8):
        pid = s.pid
        with Conn(s) as c:
            c.send(request_bytes("GET", "/crashes/segv"))
            c.ends(10)
        back(s, pid)
    wait_for(lambda: held() == before, 10, "descriptors and mappings as before")
    is_(held(), before, "descriptors and mappings")
    is_(len(s.staged()), 1, "one staged copy")
    is_(len(children(s.proc.pid)), 1, "one child")


main()
