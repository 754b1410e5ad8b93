#!/usr/bin/env python3
# systemd: readiness, reloads, the watchdog, status and the end are told; sockets are taken; the units are sound
import glob
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

ENV_PLUGIN = compile_plugin("""
#include <graft/graft.h>
#include <stdlib.h>
static graft_next env(graft_req *req, void *state)
{
    (void)state;
    const char *names[] = { "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES" };
    for (int i = 0; i < 5; i++)
        if (getenv(names[i]) != NULL)
            return graft_text(req, 200, names[i]);
    return graft_text(req, 200, "nothing");
}
GRAFT_PLUGIN(.name = "env", .version = "1", .routes = (const graft_route[]){ { "GET", "/env", env, 0 }, { 0 } })
""")


def ms(n):
    return int(n * SCALE)


class Notify:
    """The socket that systemd would listen at. `all`: (PID of the sender, fields, time)."""

    def __init__(self, abstract=False, deaf=False):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = f"@graft-test-{os.getpid()}-{id(self)}" if abstract else os.path.join(tempdir(), "notify")
        self.sock.bind(self.path.replace("@", "\0") if abstract else self.path)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.all = []
        if not deaf:
            self.listen()

    def listen(self):
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self):
        while True:
            data, more, _, _ = self.sock.recvmsg(4096, 256)
            pid = next((struct.unpack("3i", d)[0] for _, kind, d in more if kind == socket.SCM_CREDENTIALS), None)
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            self.all.append((pid, fields, time.monotonic()))

    def count(self, key, since=0):
        return sum(key in fields for _, fields, _ in self.all[since:])

    def values(self, key, since=0):
        return [fields[key] for _, fields, _ in self.all[since:] if key in fields]

    def wait(self, key, since=0, seconds=15, pattern=""):
        """The first value of `key` at or behind `since` that matches."""
        return wait_for(lambda: next((v for v in self.values(key, since) if re.search(pattern, v)), None), seconds,
                        f"{key}={pattern}")

    def mark(self):
        return len(self.all)

    def states(self, since=0):
        return [k for _, fields, _ in self.all[since:] for k in ("READY", "RELOADING", "STOPPING") if k in fields]


def env(notify, watchdog_ms=None, **more):
    out = {"NOTIFY_SOCKET": notify.path, **more}
    if watchdog_ms is not None:
        out["WATCHDOG_USEC"] = str(watchdog_ms * 1000)
    return out


MODES = (("supervised", {}), ("one process", {"supervise": False}))


# ---- What is told ----

@case("READY=1 comes when the first generation serves, from the process that was started; a status line; STOPPING=1")
def _():
    for abstract in (False, True):
        for mode, config in MODES:
            name = f"{mode}, {'abstract' if abstract else 'path'}"
            n = Notify(abstract)
            s = Server(["hello", "echo"], config, env=env(n))
            n.wait("READY")
            is_(s.get("/hello").status, 200, f"{name}: it serves")
            is_({pid for pid, _, _ in n.all}, {s.proc.pid}, f"{name}: nobody else says anything")
            is_(n.values("MAINPID"), [str(s.proc.pid)], f"{name}: MAINPID is the one that was started")
            like(n.wait("STATUS", pattern="^generation"), r"^generation 1, 0 in flight, 2 plugins$", f"{name}: the status line")
            is_(n.count("WATCHDOG"), 0, f"{name}: no watchdog was asked for")
            mark = n.mark()
            is_(s.stop(), 0, f"{name}: exit 0")
            wait_for(lambda: n.count("STOPPING"), 5, "STOPPING")
            is_(n.states(), ["READY", "STOPPING"], f"{name}: READY, STOPPING")
            ok(n.count("EXTEND_TIMEOUT_USEC", mark) > 0, f"{name}: a drain asks for time", n.all[mark:])


@case("a server that cannot start says no READY=1")
def _():
    for mode, config in MODES:
        n = Notify()
        s = Server(["init_fails"], {"plugins": {"init-fails": {"required": True}}, **config}, env=env(n), wait=False)
        is_(s.wait_exit(), 1, f"{mode}: exit 1")
        is_((n.count("READY"), n.count("RELOADING")), (0, 0), f"{mode}: nothing was ready")


@case("the variables reach neither the server process nor plugins")
def _():
    for mode, config in MODES:
        n = Notify()
        s = Server({"env": ENV_PLUGIN}, config, env=env(n, 60000, LISTEN_FDNAMES="x"))
        is_(s.get("/env").text, "nothing", f"{mode}: getenv in a plugin")
        if not config:
            with open(f"/proc/{s.pid}/environ", "rb") as f:
                names = {line.split(b"=")[0] for line in f.read().split(b"\0")}
            is_(names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"WATCHDOG_PID"}, set(), "the server process's environment")
        n.wait("READY")


@case("a NOTIFY_SOCKET that is none, that is gone, or nobody's: it serves all the same")
def _():
    gone = Notify()
    os.unlink(gone.path)
    for mode, config in MODES:
        for value in ("", "x", "@", "vsock:2:1234", "/" + "x" * 200, gone.path, "/nonexistent/notify"):
            s = Server(["hello"], config, env={"NOTIFY_SOCKET": value, "WATCHDOG_USEC": "abc"})
            is_(s.get("/hello").status, 200, f"{mode}: {value[:20]!r}")
            told = s.find_events("config", msg=re.compile("NOTIFY_SOCKET"))
            is_(len(told), 0 if value.startswith("/") and len(value) < 108 else 1, f"{mode}: said where it is of no use")
            is_(s.stop(), 0, "exit 0")


@case("reloads: RELOADING=1 with the time, READY=1 at their end, also of one that fails")
def _():
    for mode, config in MODES:
        n = Notify()
        s = Server(["hello"], config, env=env(n))
        n.wait("READY")
        for what, ask in (("USR2", lambda: s.reload_signal()), ("HUP", lambda: s.reload_signal(signal.SIGHUP)),
                          ("graftctl reload", lambda: s.ctl("reload", "--config"))):
            mark, before = n.mark(), time.monotonic()
            ask()
            n.wait("READY", mark)
            is_(n.states(mark), ["RELOADING", "READY"], f"{mode}: {what}")
            at = int(n.values("MONOTONIC_USEC", mark)[0]) / 1e6
            within(at, before, time.monotonic(), f"{mode}: {what}: its time")
        mark = n.mark()
        s.write_config("{ nonsense")
        s.send_signal(signal.SIGHUP)
        s.wait_event("swap", ok=False)
        n.wait("READY", mark)
        is_(n.states(mark), ["RELOADING", "READY"], f"{mode}: a configuration that is refused")
        n.wait("STATUS", pattern="^generation [2-9]")
        ok(True, f"{mode}: the status line follows")


@case("a crash is told, and that another process is ready")
def _():
    n = Notify()
    s = Server(["crashes"], env=env(n), status=0)
    n.wait("READY")
    mark = n.mark()
    with Conn(s) as c:
        c.send(request_bytes("GET", "/crashes/segv"))
        c.ends(20)
    n.wait("READY", mark)
    like(n.values("STATUS", mark)[0], "crashed", "the status line says so first")
    is_(n.states(mark), ["READY"], "READY=1 of the next process, and no STOPPING=1")
    is_({pid for pid, _, _ in n.all}, {s.proc.pid}, "from the supervisor")
    wait_for(lambda: n.values("STATUS")[-1].startswith("generation"), 15, "the status line is an ordinary one again")
    is_(s.stop(), 0, "exit 0")


@case("the status line tells what is in flight, and only when it has changed")
def _():
    for mode, config in MODES:
        n = Notify()
        s = Server(["blocking_handler"], config, env=env(n))
        n.wait("READY")
        with Conn(s) as c:
            c.send(request_bytes("GET", f"/blocking?ms={4000 + ms(500)}"))
            n.wait("STATUS", pattern=", 1 in flight,")
            c.response()
        n.wait("STATUS", pattern=", 0 in flight,", since=n.mark())
        mark = n.mark()
        time.sleep(4.5)
        is_(n.values("STATUS", mark), [], f"{mode}: silent while nothing changes")
        said = n.values("STATUS")
        ok(all(a != b for a, b in zip(said, said[1:])), f"{mode}: never the same twice", said)


# ---- The end ----

@case("a drain: STOPPING=1 at once, time is asked for again and again while it lasts, its phase is told")
def _():
    for mode, config in MODES:
        for how in ("TERM", "graftctl drain") if not config else ("TERM",):
            n = Notify()
            s = Server(["versioned_v1"], {"drain": {"delay_ms": 0, "idle_ms": 100, "timeout_ms": ms(30000)}, **config},
                       env=env(n))
            n.wait("READY")
            with Conn(s) as c:
                c.send(request_bytes("GET", f"/version/timer?ms={6000 + ms(500)}"))
                wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
                mark = n.mark()
                if how == "TERM":
                    s.send_signal(signal.SIGTERM)
                else:
                    s.ctl("drain")
                n.wait("STOPPING", mark)
                wait_for(lambda: n.count("EXTEND_TIMEOUT_USEC", mark) >= 3, 15, "time is asked for more than once")
                n.wait("STATUS", mark, pattern=r"^draining \([a-z]+\): generation 1, 1 in flight")
                is_(c.response().status, 200, f"{mode}, {how}: the request ends as it should")
            is_(s.wait_exit(), 0, f"{mode}, {how}: exit 0")
            is_(n.states(mark), ["STOPPING"], f"{mode}, {how}: once, and nothing behind it")
            ok(all(int(v) >= 4000000 for v in n.values("EXTEND_TIMEOUT_USEC")), f"{mode}, {how}: longer than the next one takes")


@case("QUIT and INT: STOPPING=1, too")
def _():
    for mode, config in MODES:
        for signo, status in ((signal.SIGQUIT, 131), (signal.SIGINT, 0)):
            n = Notify()
            s = Server(["hello"], config, env=env(n))
            n.wait("READY")
            is_(s.stop(signo), status, f"{mode}: {signal.Signals(signo).name}")
            n.wait("STOPPING")


# ---- The watchdog ----

@case("WATCHDOG=1 twice in WATCHDOG_USEC; another process's WATCHDOG_PID is not ours")
def _():
    for mode, config in MODES:
        n = Notify()
        s = Server(["hello"], config, env=env(n, 800))
        n.wait("READY")
        mark, before = n.mark(), time.monotonic()
        wait_for(lambda: n.count("WATCHDOG", mark) >= 6, 20, "signs of life")
        ok(time.monotonic() - before >= 1.6, f"{mode}: not all the time", time.monotonic() - before)
        s.stop()
        n = Notify()
        s = Server(["hello"], config, env=env(n, 100, WATCHDOG_PID="1"))
        n.wait("READY")
        time.sleep(1)
        is_(n.count("WATCHDOG"), 0, f"{mode}: WATCHDOG_PID=1")


@case("a worker that does not turn: no WATCHDOG=1 once /livez fails, and again when it turns")
def _():
    for mode, config in MODES:
        n = Notify()
        s = Server(["blocking_handler"], {"watchdog_ms": 60000, "timeouts_ms": {"handler": 120000}, **config},
                   workers=2, env=env(n, 400))
        n.wait("WATCHDOG")
        with Conn(s) as c:
            c.send(request_bytes("GET", "/blocking?ms=" + str(7500 + ms(500))))
            n.wait("STATUS", pattern="a worker is stuck", seconds=20)
            mark = n.mark()
            time.sleep(1.2)
            is_(n.count("WATCHDOG", mark), 0, f"{mode}: silent while a worker is stuck")
            is_(c.response().status, 200, f"{mode}: it goes on")
        mark = n.mark()
        n.wait("WATCHDOG", mark)
        ok(True, f"{mode}: WATCHDOG=1 again")


@case("a server process that stands still: its supervisor does not speak for it")
def _():
    n = Notify()
    s = Server(["hello"], env=env(n, 400))
    n.wait("WATCHDOG")
    pid = s.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(0.5)
        mark = n.mark()
        time.sleep(1.5)
        is_(n.count("WATCHDOG", mark), 0, "silent")
    finally:
        os.kill(pid, signal.SIGCONT)
    n.wait("WATCHDOG", mark)
    ok(True, "WATCHDOG=1 again")


# ---- A systemd that has no time ----

@case("nobody reads the socket: nothing waits for that, and what counts is told in its order when somebody does")
def _():
    for mode, config in MODES:
        n = Notify(deaf=True)
        s = Server(["crashes", "hello"], config, env=env(n, 40))
        time.sleep(1.5)  # the socket's queue is full by now
        filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        filler.setblocking(False)
        try:
            for _ in range(10000):
                filler.sendto(b"X=1", n.path)
            full = False
        except BlockingIOError:
            full = True
        ok(full, f"{mode}: the socket is full")
        if not config:
            pid = s.pid
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: s.pid not in (pid, s.proc.pid) and s.event("restarted"), 15, "another server process")
        is_(s.get("/hello").status, 200, f"{mode}: it serves")
        mark = s.mark()
        s.reload_signal()
        n.listen()
        wait_for(lambda: "RELOADING" in n.states() and n.states()[-1] == "READY", 15, "the reload is told")
        ok(True, f"{mode}: RELOADING=1, then READY=1")
        is_(s.stop(), 0, f"{mode}: exit 0")


# ---- Sockets ----

ACTIVATE = """
import fcntl, os, sys
held = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 100) for n in sys.argv[1].split(",")]
for i, n in enumerate(held):
    os.dup2(n, 3 + i)
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), str(len(held))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Activated(Server):
    """Started as systemd starts the service of a socket unit."""

    def start(self, wait=True):
        fds = [s.fileno() for s in self.sockets]
        with open(self.log_path, "ab") as log:
            self.proc = subprocess.Popen([sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), GRAFTD, "-c",
                                          self.config_path], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                         env={**{k: v for k, v in os.environ.items() if not k.startswith("GRAFT_")},
                                              **self.env}, pass_fds=fds)
        if wait:
            self.wait_live()
        return self


def listening():
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    sock.listen(4096)
    return sock


class Clients:
    """Connect again and again, one request each; everybody must be let in and answered."""

    def __init__(self, address, n=6):
        self.address, self.answered, self.failures = address, 0, []
        self.over, self.lock = threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self._live, daemon=True) for _ in range(n)]
        for t in self.threads:
            t.start()

    def _live(self):
        while not self.over.is_set():
            try:
                with Conn(self.address, timeout=40) as c:
                    status = c.request("GET", "/hello", {"Connection": "close"}).status
                why = None if status == 200 else f"status {status}"
            except (HttpError, OSError) as error:
                why = f"{type(error).__name__}: {error}"
            with self.lock:
                self.answered += why is None
                if why:
                    self.failures.append(why)
            time.sleep(0.002)

    def more(self, n=40):
        until = self.answered + n
        wait_for(lambda: self.answered >= until or self.failures, 30, f"{n} more answers")

    def stop(self):
        self.over.set()
        for t in self.threads:
            t.join(secs(60))


@case("a restart behind a socket unit: under load nobody is refused, reset or left without an answer")
def _():
    for mode, config in MODES:
        sock = listening()
        clients = None
        for turn in range(3):
            n = Notify()
            s = Activated(["hello"], {"drain": {"delay_ms": 0, "idle_ms": 200, "timeout_ms": ms(30000)}, **config},
                          env=env(n, 2000), start=False)
            s.sockets = [sock]
            s.start()
            n.wait("READY")
            clients = clients or Clients(sock.getsockname())
            clients.more()
            is_(s.stop(), 0, f"{mode}: exit 0")
            wait_for(lambda: "STOPPING" in n.states(), 5, "STOPPING")
            with Conn(sock.getsockname(), timeout=40) as waiting:  # nobody serves now: it waits in the queue
                waiting.send(request_bytes("GET", "/hello"))
                s = Activated(["hello"], config, env={}, start=False)
                s.sockets = [sock]
                s.start()
                is_(waiting.response().status, 200, f"{mode}: who came in between is served by the next one")
            is_(s.stop(), 0, f"{mode}: exit 0")
        last = Activated(["hello"], config, env={}, start=False)
        last.sockets = [sock]
        last.start()
        clients.more()
        clients.stop()
        is_(clients.failures[:3], [], f"{mode}: {clients.answered} clients, all answered")
        is_(last.stop(), 0, "exit 0")
        sock.close()


@case("sockets of a socket unit outlive a crash")
def _():
    sock = listening()
    n = Notify()
    s = Activated(["hello", "crashes"], env=env(n), start=False)
    s.sockets = [sock]
    s.start()
    n.wait("READY")
    mark = n.mark()
    os.kill(s.pid, signal.SIGKILL)
    with Conn(sock.getsockname(), timeout=40) as c:
        is_(c.get("/hello").status, 200, "a client that comes at that moment is served")
    n.wait("READY", mark)
    is_(s.stop(), 0, "exit 0")
    sock.close()


# ---- The units ----

def units():
    """Copies of the units with the programs of this build."""
    folder = tempdir()
    for name in ("graftd.service", "graftd.socket"):
        with open(os.path.join(SRCDIR, "packaging/systemd", name + ".in")) as f:
            text = f.read()
        text = text.replace("@sbindir@/graftd", GRAFTD).replace("@bindir@/graftctl", GRAFTCTL)
        text = text.replace("@sysconfdir@", "/etc")
        is_(re.findall("@[a-z]+@", text), [], f"{name}: nothing else is to be filled in")
        with open(os.path.join(folder, name), "w") as f:
            f.write(text)
    return folder


ANALYZE = shutil.which("systemd-analyze")


def analyze(*args):
    run = subprocess.run([ANALYZE, "--no-pager", *args], capture_output=True, text=True, timeout=secs(60),
                         env={**os.environ, "SYSTEMD_COLORS": "0", "LC_ALL": "C.UTF-8"})
    return run.returncode, run.stdout + run.stderr


def analyze_knows(option):
    return ANALYZE and option in subprocess.run([ANALYZE, "--help"], capture_output=True, text=True).stdout


@case("systemd-analyze security: at most 3.0", analyze_knows("--offline"), "no systemd-analyze with --offline")
def _():
    for name, path in [("packaged", os.path.join(units(), "graftd.service"))] + \
            [("installed", p) for p in [os.environ.get("TEST_SYSTEMD_UNIT", "")] if os.path.exists(p)]:
        status, text = analyze("security", "--offline=true", "--threshold=30", path)
        found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", text)
        ok(found and float(found[1]) <= 3.0 and status == 0, f"{name}: exposure {found and found[1]}", text)


@case("systemd-analyze verify: clean", ANALYZE, "no systemd-analyze")
def _():
    folder = units()
    status, text = analyze("verify", "--man=no", *sorted(glob.glob(folder + "/graftd.*")))
    ours = [line for line in text.splitlines() if "graftd" in line]
    ok(status == 0 and not ours, "nothing to complain about", text)
    with open(os.path.join(folder, "graftd.service"), "a") as f:
        f.write("[Service]\nNoSuchDirective=1\n")
    ok("NoSuchDirective" in analyze("verify", "--man=no", os.path.join(folder, "graftd.service"))[1],
       "and it would complain")


@case("the unit says what graftd does")
def _():
    with open(os.path.join(SRCDIR, "packaging/systemd/graftd.service.in")) as f:
        lines = f.read().splitlines()
    for wanted in ("Type=notify", "NotifyAccess=main", "KillMode=mixed", "ExecReload=@bindir@/graftctl reload --config"):
        ok(wanted in lines, wanted)
    ok(any(re.match(r"WatchdogSec=\d+$", line) for line in lines), "WatchdogSec")


main()
