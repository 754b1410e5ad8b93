#!/usr/bin/env python3
# Signals: which end the process and how, early ones, twice, QUIT, and graftd as PID 1
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403


def ms(n):
    return int(n * SCALE)


def busy(config=None):
    """A server with a request that will not end by itself."""
    s = Server(["slow", "hello"], {"drain": {"idle_ms": 50, "timeout_ms": ms(60000)}, **(config or {})})
    c = Conn(s)
    c.send(request_bytes("GET", "/slow/timer?ms=600000"))
    wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
    return s, c


def in_main(s):
    """Until main's first lines have run: what comes while the dynamic loader works is nobody's."""
    def blocked():
        with open(f"/proc/{s.proc.pid}/status") as f:
            line = next(line for line in f if line.startswith("SigBlk:"))
        return int(line.split()[1], 16) >> (signal.SIGUSR2 - 1) & 1
    wait_for(blocked, 10, "main", every=0.0005)


@case("a second stop signal, at least 200 ms after the first, exits at once: 143, 130")
def _():
    for first, second, status in ((signal.SIGTERM, signal.SIGTERM, 143), (signal.SIGINT, signal.SIGINT, 130),
                                  (signal.SIGTERM, signal.SIGINT, 130), (signal.SIGINT, signal.SIGTERM, 143)):
        s, c = busy()
        s.send_signal(first)
        s.wait_event("drain_start")
        time.sleep(0.3)
        began = time.monotonic()
        s.send_signal(second)
        is_(s.wait_exit(), status, f"{first.name}, {second.name}: exit {status}")
        within(time.monotonic() - began, 0, secs(3), "at once")
        like(s.event("exit")["msg"], f"{second.name} again", "the log says why")
        is_(s.staged(), [], "no staged copy is left")
        is_(os.path.exists(s.control), False, "nor the control socket")
        c.close()


@case("two stop signals within 200 ms are one; a third, later, counts")
def _():
    for pause in (0.0, 0.02, 0.05):
        s, c = busy()
        s.send_signal(signal.SIGTERM)
        time.sleep(pause)
        s.send_signal(signal.SIGTERM)
        s.wait_event("drain_start")
        time.sleep(0.5)
        is_(s.proc.poll(), None, f"twice, {pause} s apart: it drains on")
        is_(len(s.find_events("drain_start")), 1, "once")
        s.send_signal(signal.SIGTERM)
        is_(s.wait_exit(), 143, "the third exits at once")
        c.close()


@case("QUIT stops at once: 131")
def _():
    path = os.path.join(tempdir(), "s.sock")
    s = Server(["slow", "hello"], listen=("127.0.0.1:0", f"unix:{path}"))
    c = Conn(s)
    c.send(request_bytes("GET", "/slow/timer?ms=600000"))
    wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
    s.send_signal(signal.SIGQUIT)
    is_(s.wait_exit(), 131, "exit 128 + 3")
    like(s.event("exit")["msg"], "SIGQUIT", "logged")
    is_(s.event("drain_start"), None, "no drain")
    is_((s.staged(), os.path.exists(s.control), os.path.exists(path)), ([], False, False), "nothing stays behind")
    ok(c.ends() in ("eof", "reset"), "connections end")
    s, c = busy()
    s.send_signal(signal.SIGTERM)
    s.wait_event("drain_start")
    s.send_signal(signal.SIGQUIT)
    is_(s.wait_exit(), 131, "in the middle of a drain, too")


@case("the second signal also while a handler blocks and while fini hangs")
def _():
    s = Server(["blocking_handler"], {"drain": {"idle_ms": 50, "timeout_ms": ms(60000)}}, workers=1)
    c = Conn(s)
    c.send(request_bytes("GET", "/blocking?ms=600000"))
    time.sleep(0.3)
    s.send_signal(signal.SIGTERM)
    s.wait_event("drain_start")
    time.sleep(0.3)
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 143, "a blocked worker: 143")
    c.close()
    s = Server(["fini_hangs"], {"drain": {"idle_ms": 50, "timeout_ms": ms(60000)}})
    s.send_signal(signal.SIGTERM)
    wait_for(lambda: any(e["msg"] == "life fini hangs" for e in s.log()), 10, "fini hangs")
    time.sleep(0.25)
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 143, "a fini that hangs: 143")


@case("signals from the first moment on are remembered: an early USR2 kills nobody")
def _():
    for n in range(12):
        s = Server(["hello"], {"drain": {"idle_ms": 20}}, wait=False)
        in_main(s)
        for _ in range(1 + n % 3):
            s.send_signal((signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1)[n % 3])
            time.sleep(n * 0.001)
        s.wait_live()
        is_(s.get("/hello").status, 200, f"early signals, try {n}: it serves")
        is_(s.stop(), 0, "exit 0")


@case("SIGTERM right at the start: exit 0, whenever it comes")
def _():
    codes = []
    for n in range(16):
        s = Server(["hello"], {"drain": {"idle_ms": 20}}, wait=False)
        in_main(s)
        time.sleep(n * 0.003)
        s.send_signal(signal.SIGTERM)
        codes.append(s.wait_exit())
        if s.staged() or os.path.exists(s.control):
            ok(False, f"try {n}: nothing stays behind", s.staged())
    is_(codes, [0] * 16, "always 0")


@case("an inherited mask or an ignored signal does not matter")
def _():
    everything = set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}

    def inherit():
        signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        for signo in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCHLD, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(signo, signal.SIG_IGN)
    s = Server(["hello"], preexec_fn=inherit)
    is_(s.reload_signal(signal.SIGUSR2)["ok"], True, "USR2 works")
    is_(s.reload_signal(signal.SIGHUP)["ok"], True, "HUP works")
    s.install(make_unique("hello"), "hello")
    is_(s.reload()["ok"], True, "the probe's end is seen")
    is_(s.stop(), 0, "TERM works")


@case("signals that graftd does not use keep their meaning")
def _():
    s = Server(["hello"])
    for signo in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG):
        s.send_signal(signo)
    time.sleep(0.2)
    is_(s.get("/hello").status, 200, "PIPE, CHLD, WINCH, URG: it serves on")
    is_(s.stop(), 0, "exit 0")


@case("without a supervisor a crash ends the process by its signal")
def _():
    for target, signo in (("/crash", signal.SIGSEGV), ("/crash/abort", signal.SIGABRT)):
        s = Server(["crash"], {"supervise": False})
        is_(s.pid, s.proc.pid, "supervise: false: one process")
        with Conn(s) as c:
            c.send(request_bytes("GET", target))
            is_(s.wait_exit(), 128 + signo, f"{target}: 128 + {signo}")


@case("exit 1 when it cannot start, 2 for the command line; the reason on stderr")
def _():
    run = graftd("--no-such-flag")
    is_(run.returncode, 2, "an unknown flag: 2")
    like(run.stderr, "no-such-flag", "it is named")
    run = graftd("-c", "/no/such/file.json")
    is_(run.returncode, 1, "no configuration: 1")
    like(run.stderr, "/no/such/file.json", "the file is named")
    with Server(["hello"]).connect() as c:
        run = graftd("--listen", f"127.0.0.1:{c.address[1]}", "--ops", "", "--control",
                     os.path.join(tempdir(), "c.sock"), "--plugins", tempdir(0o755), env={"TMPDIR": tempdir()})
    is_(run.returncode, 1, "an address in use: 1")
    like(run.stderr, "another process listens there", "and why")
    bad = Server(["init_fails"], wait=False, status=1)
    is_(bad.wait_exit(), 1, "a plugin that fails at the start: 1")


# ---- PID 1 ----

IN_PID_NS = """
import json, os, subprocess, sys, time
orphans, done = json.loads(sys.argv[1]), sys.argv[2]
# children of a process that ends before them become PID 1's
for ms in orphans:
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(ms / 1000)
            os._exit(3)
        os._exit(0)
    os.wait()
open(done, "w").close()
os.execv(sys.argv[3], sys.argv[3:])
"""


def namespaces_work():
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    run = subprocess.run(["unshare", "-p", "-f", "--mount-proc", "true"], capture_output=True)
    return run.returncode == 0


class Init(Server):
    """graftd as PID 1 of a PID namespace of its own. `orphans`: children that it inherits, by the
    milliseconds that they live."""

    orphans = ()

    def start(self, wait=True):
        done = os.path.join(self.dir, "done")
        command = ["unshare", "-p", "-f", "--mount-proc", "--kill-child", sys.executable, "-c", IN_PID_NS,
                   json.dumps(self.orphans), done, GRAFTD, "-c", self.config_path]
        env = {k: v for k, v in os.environ.items() if not k.startswith("GRAFT_")}
        with open(self.log_path, "ab") as log:
            self.proc = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        self.wait_live()
        return self

    @property
    def outside(self):
        """Its PID as we see it: unshare's one child."""
        with open(f"/proc/{self.proc.pid}/task/{self.proc.pid}/children") as f:
            return int(f.read().split()[0])

    def send_signal(self, signo):
        os.kill(self.outside, signo)

    def zombies(self):
        count = 0
        with open(f"/proc/{self.outside}/task/{self.outside}/children") as f:
            for pid in f.read().split():
                try:
                    with open(f"/proc/{pid}/stat") as stat:
                        count += stat.read().rsplit(")", 1)[1].split()[0] == "Z"
                except FileNotFoundError:
                    pass
        return count

    def children(self):
        with open(f"/proc/{self.outside}/task/{self.outside}/children") as f:
            return len(f.read().split())


def init(plugins, config=None, orphans=(), **more):
    s = Init(plugins, config, start=False, **more)
    s.orphans = orphans
    return s.start()


PID1 = namespaces_work()
WHY = "needs root and PID namespaces"


@case("as PID 1: TERM drains and exits 0; USR2 swaps", PID1, WHY)
def _():
    s = init(["hello", "versioned_v1"], {"drain": {"idle_ms": 50}})
    isnt(s.status()["pid"], 1, "the supervisor is PID 1, the server process is not")
    s.install(make_unique("hello"), "hello")
    mark = s.mark()
    s.send_signal(signal.SIGUSR2)
    is_(s.wait_event("swap", since=mark)["ok"], True, "USR2 swaps: the probe runs")
    with Conn(s) as c:
        c.send(request_bytes("GET", "/version/timer?ms=600"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.send_signal(signal.SIGTERM)
        is_(c.response().status, 200, "it ends")
    is_(s.wait_exit(), 0, "exit 0")


@case("as PID 1: it reaps the dead of others", PID1, WHY)
def _():
    s = init(["hello"], orphans=[0] * 5 + [700] * 5 + [1500] * 90)
    is_(s.get("/hello").status, 200, "it serves")
    for n in range(4):
        s.install(make_unique("hello"), "hello")
        is_(s.reload()["ok"], True, "swaps work meanwhile")
    wait_for(lambda: s.children() == 1, 20, "all are reaped, and none but the server lives", every=0.1)
    ok(True, "no dead child is left")
    is_(s.stop(), 0, "exit 0")


@case("as PID 1: crashes are survived and the dead reaped; killed in a drain: 137", PID1, WHY)
def _():
    s = init(["hello", "slow"], {"drain": {"idle_ms": 50}})

    def server():
        with open(f"/proc/{s.outside}/task/{s.outside}/children") as f:
            pids = [int(pid) for pid in f.read().split()]
        return pids[0] if len(pids) == 1 else None
    for n in range(3):
        pid = wait_for(server, 10, "one child")
        os.kill(pid, signal.SIGSEGV)
        wait_for(lambda: s.event("crash", signal="SIGSEGV") and server() not in (None, pid), 20, "another process, the dead one reaped")
        is_(s.get("/hello").status, 200, f"crash {n}: it serves")
    is_(s.zombies(), 0, "no zombie")
    with Conn(s) as c:
        c.send(request_bytes("GET", "/slow/timer?ms=600000"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.send_signal(signal.SIGTERM)
        s.wait_event("drain_start")
        os.kill(server(), signal.SIGKILL)
        is_(s.wait_exit(), 137, "the exit status is the server process's")


@case("as PID 1: twice within 50 ms, the second one later, the deadline, QUIT", PID1, WHY)
def _():
    s = init(["hello"], {"drain": {"idle_ms": 50}})
    s.send_signal(signal.SIGTERM)
    time.sleep(0.03)
    try:
        s.send_signal(signal.SIGTERM)
    except (IndexError, ProcessLookupError, FileNotFoundError):
        pass
    is_(s.wait_exit(), 0, "TERM twice: exit 0")
    for what, signals, status, timeout in (("TERM, TERM", (signal.SIGTERM, signal.SIGTERM), 143, 60000),
                                           ("INT, INT", (signal.SIGINT, signal.SIGINT), 130, 60000),
                                           ("TERM", (signal.SIGTERM,), 3, 800),
                                           ("QUIT", (signal.SIGQUIT,), 131, 60000)):
        s = init(["slow"], {"drain": {"idle_ms": 50, "timeout_ms": ms(timeout)}})
        c = Conn(s)
        c.send(request_bytes("GET", "/slow/timer?ms=600000"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        for i, signo in enumerate(signals):
            time.sleep(0.3 * i)
            s.send_signal(signo)
        is_(s.wait_exit(), status, f"{what}: exit {status}")
        c.close()


main()
