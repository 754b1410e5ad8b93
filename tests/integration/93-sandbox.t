#!/usr/bin/env python3
# Under the unit's system call filter, capabilities and umask, as a user without rights: all that a server does works
import ctypes
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import grafttest  # noqa: E402
from grafttest import *  # noqa: E402,F403

USER = 61222


def library():
    for name in ("libseccomp.so.2", "libseccomp.so"):
        try:
            return ctypes.CDLL(name) and name
        except OSError:
            pass
    return None


LIBSECCOMP = library()
if os.geteuid() != 0 or not LIBSECCOMP or not shutil.which("setpriv") or not shutil.which("systemd-analyze"):
    skip_all("needs root, libseccomp, setpriv and systemd-analyze")
if SANITIZER != "none":
    skip_all("sanitizers make calls of their own")

with open(os.path.join(SRCDIR, "packaging/systemd/graftd.service.in")) as unit:
    UNIT = unit.read()


def directives(name):
    return re.findall(rf"^{name}=(.*)$", UNIT, re.M)


def calls(group):
    """The system calls of a group, as systemd has it."""
    run = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", group], capture_output=True, text=True,
                         env={**os.environ, "SYSTEMD_COLORS": "0"})
    found = set()
    for word in (line.strip() for line in run.stdout.splitlines()[1:]):
        if word.startswith("@"):
            found |= calls(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def allowed():
    """What SystemCallFilter= leaves: the first line allows, "~" takes away."""
    out = set()
    for line in directives("SystemCallFilter"):
        for group in line.lstrip("~").split():
            out = out - calls(group) if line.startswith("~") else out | calls(group)
    return sorted(out | calls("@default"))


# Applies the filter to itself, then becomes graftd. clone3 is ENOSYS where RestrictNamespaces looks at clone's flags.
SANDBOX = f"""#!{sys.executable}
import ctypes, json, os, sys
lib, libc = ctypes.CDLL("{LIBSECCOMP}"), ctypes.CDLL(None)
lib.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(lib.seccomp_init(0x50000 | {errno.EPERM}))
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "allowed")) as f:
    names = json.load(f)
for name in names:
    number = lib.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        lib.seccomp_rule_add(context, 0x50000 | {errno.ENOSYS} if name == "clone3" else 0x7fff0000, number, 0)
os.umask(0o077)
if lib.seccomp_load(context) != 0:
    sys.exit("the filter is not taken")
os.execv({GRAFTD!r}, [{GRAFTD!r}, *sys.argv[1:]])
"""


def sandbox():
    folder = tempdir(0o755)
    with open(os.path.join(folder, "allowed"), "w") as f:
        json.dump(allowed(), f)
    inner, outer = os.path.join(folder, "inner"), os.path.join(folder, "graftd")
    caps = directives("CapabilityBoundingSet")[0].lower().removeprefix("cap_")
    with open(inner, "w") as f:
        f.write(SANDBOX)
    with open(outer, "w") as f:
        f.write(f"#!/bin/sh\nexec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs "
                f"--bounding-set=-all,+{caps} --inh-caps=-all,+{caps} --ambient-caps=-all,+{caps} {inner} \"$@\"\n")
    for path in (inner, outer, os.path.join(folder, "allowed")):
        os.chmod(path, 0o755)
    return outer


OUTER = sandbox()


def server(plugins, config=None, **more):
    folder = tempdir(0o755)
    os.chown(folder, USER, USER)
    before = grafttest.GRAFTD
    grafttest.GRAFTD = OUTER
    try:
        s = Server(plugins, config, dir=folder, start=False, **more)
        os.chown(os.path.join(folder, "state"), USER, USER)
        os.chmod(s.config_path, 0o644)
        return s.start()
    finally:
        grafttest.GRAFTD = before


def back(s, old):
    def another():
        try:
            now = s.status()
        except (OSError, HttpError):
            return False
        return now["pid"] != old and now["generation"] > 0
    wait_for(another, 20, "another process")


def proc(pid, key):
    with open(f"/proc/{pid}/status") as f:
        return next(line.split()[1] for line in f if line.startswith(key + ":"))


if subprocess.run([OUTER, "-V"], capture_output=True).returncode != 0:
    skip_all("another user cannot run the programs where they were built")


@case("it is in force; swaps, a canary, a rollback, a hand-over and HUP")
def _():
    port = low_port() or free_port()  # where every port is anybody's
    s = server(["hello", "counter", "crashes", "slow"], {"middleware": ["counter"], "crash_window_ms": 1,
               "drain": {"idle_ms": 100}}, listen=(f"127.0.0.1:{port}", "unix:" + os.path.join(tempdir(0o777), "s")))
    pid = s.pid
    for process in (s.proc.pid, pid):
        is_((proc(process, "Uid"), proc(process, "Seccomp"), proc(process, "NoNewPrivs"), int(proc(process, "CapBnd"), 16)),
            (str(USER), "2", "1", 1 << 10), "user, filter, no new privileges, capabilities")
    is_([Conn(to).get("/hello").status for to in s.addresses()], [200, 200], "it serves, also on a port below 1024")
    s.install(make_unique("hello"), "hello")
    is_(s.ctl("reload").returncode, 0, "a swap: the probe runs")
    is_(s.ctl("rollback", "hello").returncode, 0, "a rollback: the store is written")
    s.install(make_unique("hello"), "hello")
    is_((s.ctl("canary", "hello", "--weight", "50").returncode, s.ctl("promote", "hello").returncode), (0, 0), "a canary")
    s.install(make_unique("counter"), "counter")
    is_(s.ctl("reload").returncode, 0, "a hand-over")
    s.write_config()
    os.chmod(s.config_path, 0o644)
    is_(s.ctl("reload", "--config").returncode, 0, "ExecReload")
    total = s.get("/counter").json()["total"]
    for how, function in (("segv", "sink_segv"), ("offload", "sink_segv"), ("overflow", "sink_overflow")):
        pid, mark = s.pid, s.mark()
        with Conn(s) as c:
            c.send(request_bytes("GET", f"/crashes/{how}"))
            c.ends(20)
        event = s.wait_event("crash", 20, since=mark, pid=pid)
        is_((event["plugin"], event["function"].split("+")[0]), ("crashes", function), f"a crash ({how}) is told")
        back(s, pid)
    ok(s.get("/counter").json()["total"] > total, "and shared blocks have survived")
    pid = s.pid
    is_(s.ctl("upgrade", "--binary", GRAFTD).returncode, 0, "an upgrade")
    wait_for(lambda: children(s.proc.pid) == [s.pid] and s.pid != pid, 20, "the new one alone")
    is_(s.get("/hello").status, 200, "serves")
    is_([e["msg"] for e in s.find_events() if "not permitted" in e.get("msg", "")], [], "nothing was refused to it")
    is_(s.stop(), 0, "a drain: exit 0")
    is_(s.staged(), [], "nothing stays behind")


@case("the watchdog looks into a worker that stands still, waiting and computing, and replaces it")
def _():
    s = server(["blocking_handler", "crashes"], {"watchdog_ms": 1000, "timeouts_ms": {"handler": 600000}}, workers=2)
    with Conn(s) as c:
        c.send(request_bytes("GET", "/blocking?ms=2500"))
        event = s.wait_event("worker_stuck")
        is_(event["plugin"], "blocking-handler", "one that waits")
        like(event.get("stack", ""), r"\.so: ", "with its stack")
        c.response()
    s.config["watchdog_kill"] = True
    s.write_config()
    os.chmod(s.config_path, 0o644)
    ok(s.reload_signal(signal.SIGUSR2)["ok"] and s.ctl("reload", "--config").returncode == 0, "watchdog_kill")
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/crashes/loop"))
        event = s.wait_event("crash", 20, pid=pid)
    is_(event["plugin"], "crashes", "one that computes")
    like(event["function"], r"^sink_loop\+0x", "with its function")
    back(s, pid)
    is_(s.stop(), 0, "exit 0")


main()
