#!/usr/bin/env python3
# Core dumps: each crash leaves one, of the thread and the place that the log names, and nobody waits for it
import glob
import os
import platform
import pwd
import re
import resource
import signal
import struct
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

PATTERN = open("/proc/sys/kernel/core_pattern").read().strip()
if PATTERN.startswith("|") or "/" in PATTERN:
    skip_all("cores go elsewhere here: kernel.core_pattern")
if SANITIZER != "none":
    skip_all("a sanitizer's process is too large for a core")

# GET /big/fill makes the process large, /big/crash ends it.
BIG = r"""
#include <graft/graft.h>
#include <stdlib.h>
#include <string.h>
static char *volatile memory;
static graft_next fill(graft_req *req, void *state)
{
    size_t len = (size_t)400 << 20;
    (void)state;
    if ((memory = malloc(len)) == NULL)
        return graft_text(req, 500, "no memory");
    memset(memory, 'x', len);
    return graft_text(req, 200, "filled");
}
static graft_next crash(graft_req *req, void *state)
{
    (void)req, (void)state;
    abort();
}
GRAFT_PLUGIN(.name = "big", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/big/fill", fill, 0 }, { "GET", "/big/crash", crash, 0 }, { 0 } }, )
"""


def unlimited():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def server(plugins, config=None, folder=None, **more):
    folder = folder or tempdir()
    s = Server(plugins, {"crash_window_ms": 1, **(config or {})}, preexec_fn=unlimited, cwd=folder, **more)
    s.cores = folder
    return s


def end(s, target):
    """The `crash` event of the process that this request ends."""
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", target))
        c.ends(20)
    return s.wait_event("crash", 20, pid=pid)


def core(s, pid):
    """The core file of a process that has ended; it is removed."""
    wait_for(lambda: not alive(pid), 30, "its end")
    found = glob.glob(os.path.join(s.cores, "*"))
    if len(found) != 1:
        raise Failed(f"expected one core file, found {found}")
    with open(found[0], "rb") as f:
        data = f.read(1 << 22)
    size = os.path.getsize(found[0])
    os.unlink(found[0])
    return data, size


def notes(data):
    """(type, bytes) of each note, and the offset where the last segment ends."""
    phoff, phnum = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    whole, found = 0, []
    for i in range(phnum):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, phoff + i * 56)
        whole = max(whole, offset + size)
        at = offset
        while kind == 4 and at < offset + size:
            name, desc, note = struct.unpack_from("<III", data, at)
            begin = at + 12 + (name + 3) // 4 * 4
            found.append((note, data[begin:begin + desc]))
            at = begin + (desc + 3) // 4 * 4
    return found, whole


def file_at(desc, address):
    """Whose mapping this address is in: NT_FILE."""
    count, _ = struct.unpack_from("<QQ", desc)
    names = desc[16 + 24 * count:].split(b"\0")
    for i in range(count):
        begin, end, _ = struct.unpack_from("<QQQ", desc, 16 + 24 * i)
        if begin <= address < end:
            return os.path.basename(names[i].decode())
    return None


@case("whatever the signal: a whole core, whose first thread is the one that the crash event names",
      platform.machine() == "x86_64", "registers of x86-64")
def _():
    s = server(["crashes", "hello"])
    for how, place in (("segv", True), ("ill", True), ("overflow", True), ("abort", False), ("double-free", False), ("offload", True)):
        event = end(s, f"/crashes/{how}")
        data, size = core(s, event["pid"])
        is_(data[:4] + data[16:18], b"\x7fELF\x04\x00", f"{how}: a core file")
        found, whole = notes(data)
        is_(size, whole, "written to its end")
        status = next(desc for kind, desc in found if kind == 1)
        signo, tid = struct.unpack_from("<h", status, 12)[0], struct.unpack_from("<i", status, 32)[0]
        is_((signal.Signals(signo).name, tid), (event["signal"], event["tid"]), "signal and thread")
        if place:
            at = struct.unpack_from("<Q", status, 112 + 16 * 8)[0]
            is_(file_at(next(desc for kind, desc in found if kind == 0x46494c45), at), event["id"] + ".so",
                "it stands in the plugin's code, where it crashed")
        wait_for(lambda: s.event("restarted", id=event["id"]) and s.get("/hello").status == 200, 20, "another process")
    is_(s.stop(), 0, "exit 0")


def dumping(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return bool(re.search(r"^CoreDumping:\s+1", f.read(), re.M))
    except (FileNotFoundError, ProcessLookupError):
        return False


def crash_and_ask(s):
    """Whether the core was still being written when the next process had answered, and how long that took. Clients
    that the process which crashed had accepted learn of its end when its core is written, not before."""
    pid = s.pid
    if s.get("/big/fill").status != 200:
        raise Failed("no memory")
    with Conn(s) as c:
        c.send(request_bytes("GET", "/big/crash"))
        wait_for(lambda: dumping(pid) or not alive(pid), 20, "the dump begins", every=0.001)
        began = time.monotonic()
        status = s.get("/hello").status
        found = dumping(pid), time.monotonic() - began, status
    s.wait_event("crash", pid=pid, plugin="big")
    wait_for(lambda: not alive(pid), 30, "the end of the dump")
    size = os.path.getsize(glob.glob(os.path.join(s.cores, "*"))[0])
    ok(size > 400 << 20, "a process of 400 MB: its core is whole", size)
    for path in glob.glob(os.path.join(s.cores, "*")):
        os.unlink(path)
    return found


@case("the next process serves while the core is still written")
def _():
    s = server({"big": compile_plugin(BIG), "hello": "hello"})
    for _ in range(4):  # a busy machine may write the core first
        still, took, status = crash_and_ask(s)
        is_(status, 200, "the next one serves")
        if still and took < 0.3:
            break
    ok(still, "when it has answered, the one that crashed still writes its core")
    within(took, 0, 0.3, "within 300 ms")
    is_(s.stop(), 0, "exit 0")


@case("a watchdog's kill leaves a core, too; and a crash without a supervisor")
def _():
    s = server(["crashes"], {"watchdog_ms": 1000, "watchdog_kill": True, "timeouts_ms": {"handler": 600000}})
    event = end(s, "/crashes/loop")
    found, _ = notes(core(s, event["pid"])[0])
    status = next(desc for kind, desc in found if kind == 1)
    is_((struct.unpack_from("<h", status, 12)[0], struct.unpack_from("<i", status, 32)[0]), (signal.SIGABRT, event["tid"]),
        "its first thread is the worker that stood still")
    s = server(["crashes"], {"supervise": False}, status=139)
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/crashes/segv"))
        c.ends(20)
    is_(s.wait_exit(), 139, "one process: 139")
    ok(core(s, pid)[1] > 100000, "and a core")


@case("a server that has become another user", OTHERS, NO_OTHERS)
def _():
    nobody = pwd.getpwnam("nobody")
    for supervise in (True, False):
        folder = tempdir()
        os.chown(folder, nobody.pw_uid, -1)
        s = Server(["crashes"], {"user": "nobody", "supervise": supervise, "crash_window_ms": 1}, start=False,
                   dir=tempdir(0o755), preexec_fn=unlimited, cwd=folder, status=0 if supervise else 139)
        s.cores = folder
        os.chown(s.dir, nobody.pw_uid, -1)
        s.start()
        pid = s.pid
        is_(os.stat(f"/proc/{pid}").st_uid, nobody.pw_uid, "it is nobody's")
        with Conn(s) as c:
            c.send(request_bytes("GET", "/crashes/segv"))
            c.ends(20)
        if not supervise:
            s.wait_exit()
        ok(core(s, pid)[1] > 100000, f"supervise {supervise}: there is a core")


main()
