#!/usr/bin/env python3
# graftctl gdb: two versions alive at once, each with its symbols; what keeps a debugger away is said.
import os
import re
import shutil
import subprocess
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

GDB = shutil.which("gdb")
HELD = r"""
#include <graft/graft.h>
#include <unistd.h>
__attribute__((noinline)) static graft_next answer_it(graft_req *req, const char *text)
{
    return graft_text(req, 200, text);
}
static void late(graft_req *req, void *arg)
{
    if (access(FILE, F_OK) != 0 && graft_after(req, 50, late, arg) == 0)
        return;
    answer_it(req, VERSION "\n");
    graft_done(req);
}
static graft_next held(graft_req *req, void *state)
{
    (void)state;
    if (graft_query(req, "hold").ptr == NULL)
        return answer_it(req, VERSION "\n");
    return graft_after(req, 50, late, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
GRAFT_PLUGIN(.name = "held", .version = VERSION,
             .routes = (const graft_route[]){ { "GET", "/held", held, 0 }, { 0 } }, )
"""
FOLDER = tempdir()
GO, END = os.path.join(FOLDER, "go"), os.path.join(FOLDER, "end")


def held(version):
    return compile_plugin(HELD, f'-DVERSION="{version}"', f'-DFILE="{END}"')


def when_told(s, *first):
    """Another process: waits for the file GO, runs what is first, asks for /held."""
    return subprocess.Popen([sys.executable, "-c", f"""if True:
        import os, socket, subprocess, time
        while not os.path.exists({GO!r}):
            time.sleep(0.05)
        if {first!r}:
            subprocess.run({first!r}, check=True, stdout=subprocess.DEVNULL)
            time.sleep(0.5)
        s = socket.create_connection({s.address!r})
        s.sendall(b"GET /held HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        while s.recv(4096): pass"""])


def debug(s, *commands, **more):
    arguments = [word for command in commands for word in ("-ex", command)]
    return subprocess.run([GRAFTCTL, "--control", s.control, "gdb", "--", "-nx", "-batch", *arguments],
                          capture_output=True, text=True, timeout=secs(60), stdin=subprocess.DEVNULL, **more)


def traced():
    """Whether a process may be traced here at all."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        return subprocess.run([GDB, "-nx", "-batch", "-p", str(child.pid), "-ex", "info proc"], capture_output=True,
                              text=True, stdin=subprocess.DEVNULL).stdout.find(f"process {child.pid}") >= 0
    finally:
        child.kill()
        child.wait()


if SANITIZER != "none":
    skip_all("debuggers and sanitizers do not agree")
MAY = bool(GDB) and traced()
WHY = "gdb is not installed" if not GDB else "processes may not be traced here"


@case("two versions alive at once: symbols, breakpoints, backtraces", MAY, WHY)
def _():
    s = Server({"held": held("v1")}, {"timeouts_ms": {"handler": 60000}}, workers=1)
    with s.connect() as c:
        c.send(request_bytes("GET", "/held?hold=1"))
        v1 = wait_for(lambda: [v for v in s.ps("held") if v["in_flight"] == 1], 5, "a request that holds v1")[0]["id"]
        s.install(held("v2"), "held")
        ok(s.reload()["ok"], "swapped")
        v2 = s.active("held")["id"]
        is_({v["id"] for v in s.ps("held")}, {v1, v2}, "both are mapped")
        asker = when_told(s)
        done = debug(s, "graft-versions", "break answer_it", "info breakpoints", f"shell touch {GO}", "continue",
                     "backtrace", "info symbol $pc", "print text", f"shell touch {END}", "continue", "backtrace 1",
                     "info symbol $pc", "print text", "delete", "detach")
        asker.wait()
        is_(done.returncode, 0, "gdb ends well")
        for id_ in (v1, v2):
            like(done.stdout, rf"held@{id_} \((active|cooling)\): \S+/{id_}\.so at 0x", f"{id_} is named")
            like(done.stdout, rf"Yes +\S+/{id_}\.so", f"graft-versions lists {id_} with its symbols")
        like(done.stdout, r"Breakpoint 1 at 0x[0-9a-f]+: answer_it. \(2 locations\)", "a breakpoint in both")
        like(done.stdout, r"\n1\.1 .* in answer_it at .*\n1\.2 .* in answer_it at ", "with the line of each")
        first, second = done.stdout.find(f"{v2}.so\n$1"), done.stdout.find(f"{v1}.so\n$2")
        ok(0 < first < second, "the new request stops in v2, the one held in v1", done.stdout[-4000:] + done.stderr)
        like(done.stdout, r'\$1 = 0x\S+ "v2\\n".*\$2 = 0x\S+ "v1\\n"', "and their arguments can be read")
        like(done.stdout, r"#0 +answer_it .*#1 .* held ", "a backtrace names the plugin's functions")
        is_(c.response().body, b"v1\n", "and when gdb has gone the held request is answered")
    s.wait_event("retired", id=v1, unmapped=True)
    is_(s.get("/held").body, b"v2\n", "it serves")


@case("a version that is loaded, and one that is unloaded, while gdb is there", MAY, WHY)
def _():
    os.unlink(GO)
    s = Server({"held": held("v1")}, workers=1)
    old = s.active("held")["id"]
    s.install(held("v2"), "held")
    asker = when_told(s, GRAFTCTL, "--control", s.control, "reload")
    done = debug(s, "break answer_it", f"shell touch {GO}", "continue", "print text", "info symbol $pc",
                 "graft-versions", "delete", "detach")
    asker.wait()
    new = s.active("held")["id"]
    isnt(new, old, "swapped under gdb")
    listed = done.stdout.split("$1 =")[-1]
    like(done.stdout, rf'\$1 = 0x\S+ "v2\\n".*{new}\.so', "the breakpoint holds in the new version")
    like(listed, rf"Yes +\S+/{new}\.so", "gdb has its symbols")
    ok(f"{old}.so" not in listed, "and has forgotten the one that is unmapped", done.stdout)


@case("a staged copy that somebody removed is read from memory", MAY and os.geteuid() == 0, "needs root, and gdb")
def _():
    s = Server({"held": held("v1")}, workers=1)
    for path in s.staged():
        os.unlink(path)
    done = debug(s, "info symbol answer_it", "info line answer_it", "detach")
    like(done.stdout, r"held@\S+ \(active\): its copy was removed, read from memory, at 0x", "says so")
    like(done.stdout, r"answer_it in section \.text", "it has symbols")
    like(done.stdout, r"Line \d+ of .* starts at address 0x[0-9a-f]+ <answer_it>", "and lines")


@case("what keeps a debugger away is said")
def _():
    s = Server(["hello"])
    empty = tempdir()
    done = debug(s, env={**os.environ, "PATH": empty})
    is_(done.returncode, 1, "without gdb: exit 1")
    like(done.stderr, "gdb is missing: install it .*apt-get install gdb|may not be traced", "says what to install")
    if MAY:
        tracer = subprocess.Popen([sys.executable, "-c", f"""if True:
            import ctypes, time
            assert ctypes.CDLL(None).ptrace(0x4206, {s.pid}, 0, 0) == 0 # PTRACE_SEIZE does not stop it
            time.sleep(60)"""])
        wait_for(lambda: s.proc_status("TracerPid") == tracer.pid, 10, "somebody else traces it")
        done = debug(s)
        is_(done.returncode, 1, "traced already: exit 1")
        like(done.stderr, rf"is traced by process {tracer.pid} already", "says by whom")
        tracer.kill()
        tracer.wait()
    if OTHERS and MAY:
        os.chmod(os.path.dirname(s.control), 0o755)
        os.chown(s.control, 65534, 65534)
        done = debug(s, user=65534, group=65534, extra_groups=[], env={**os.environ, "HOME": "/"})
        is_(done.returncode, 1, "another user: exit 1")
        like(done.stderr, r"neither root nor the server's user|may not be traced by us .*run it as root", "says who may")
    s.stop()
    done = debug(s)
    is_(done.returncode, 4, "no server: exit 4")


main()
