#!/usr/bin/env python3
# The state folder: full, hostile, damaged, shared or removed, it changes nothing that serves and says so
import ctypes
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *
from swaptest import *

marked = Marked()


def put(s, n):
    path = os.path.join(tempdir(), "versioned.so")
    with open(path, "wb") as f:
        f.write(marked(n))
    return s.install(path, "versioned")


def serve(n=1, **more):
    s = Server([], start=False, **more)
    put(s, n)
    return s.start()


def again(s, config=None, wait=True, **more):
    s.finish()
    os.unlink(s.log_path)
    return Server([], dir=s.dir, config=config, wait=wait, **more)


def mark(s):
    return mark_of(s.get("/version"))


def rollback(s):
    return s.api("POST", "/v1/plugins/versioned/rollback")


def state(s, *parts):
    return os.path.join(s.dir, "state", *parts)


def index(s):
    with open(state(s, "index.json")) as f:
        return json.load(f)


def written(s, n):
    """Until the index names n good versions."""
    wait_for(lambda: os.path.exists(state(s, "index.json")) and len(index(s)["plugins"][0]["good"]) == n, 10,
             f"{n} good versions are written")


def warnings(s):
    return [e["msg"] for e in s.find_events("state") if e["level"] == "warn"]


@case("what lies in it, and who may read it")
def _():
    s = serve(1)
    put(s, 2)
    s.reload()
    written(s, 2)
    is_(os.stat(state(s)).st_mode & 0o7777, 0o700, "a folder of mode 0700, though it was made with another")
    is_(os.stat(state(s, "index.json")).st_mode & 0o7777, 0o600, "the index")
    good = index(s)["plugins"][0]["good"]
    is_([g["version"] for g in good], ["MARK-00000002", "MARK-00000001"], "the serving version, then its predecessor")
    is_([g["config"] for g in good], [{}, {}], "with the configuration they ran with")
    for g in good:
        is_(os.stat(state(s, "files", g["sha256"])).st_mode & 0o7777, 0o400, "a file")
    is_(set(os.listdir(state(s))), {".lock", ".owner", "files", "index.json"}, "and nothing else")


@case("a known good file is not probed again")
def _():
    counter = os.path.join(tempdir(), "count")
    so = compile_plugin('#include <graft/graft.h>\n#include <fcntl.h>\n#include <unistd.h>\n'
                        '__attribute__((constructor)) static void count(void) {\n'
                        f'    int fd = open("{counter}", O_WRONLY | O_CREAT | O_APPEND, 0600);\n'
                        '    if (fd >= 0) { if (write(fd, "x", 1) != 1) _exit(1); close(fd); } }\n'
                        'static graft_next h(graft_req *r, void *s) { (void)s; return graft_text(r, 200, "counted\\n"); }\n'
                        'GRAFT_PLUGIN(.name = "counted", .version = "1",\n'
                        '    .routes = (const graft_route[]){ { "GET", "/counted", h, 0 }, { 0 } })\n')
    s = Server({"counted": so})
    is_(os.path.getsize(counter), 2, "a new file: its constructor runs in the probe and in the server")
    written(s, 1)
    s = again(s)
    is_((s.get("/counted").status, os.path.getsize(counter)), (200, 3), "after a restart in the server alone")
    s = again(s, config={"plugins": {"counted": {"config": {"a": 1}}}})
    is_((s.get("/counted").status, os.path.getsize(counter)), (200, 5), "with another configuration it is not known good")


@case("killed at any moment of a row of swaps, it starts and serves what it says")
def _():
    s = serve(1)
    for turn in range(6):
        for n in range(turn * 10, turn * 10 + 4):
            put(s, n)
            s.reload()
        if turn % 2:
            rollback(s)
        time.sleep(0.02 * turn)
        s.kill()
        s = again(s)
        active = s.active("versioned")
        is_(active["version"], f"MARK-{mark(s):08d}", f"turn {turn}: ps says what answers")
        is_(warnings(s), [], "nothing was damaged")


@case("a swap just before the index is written: what it has made good is written, too")
def _():
    s = serve(1)
    written(s, 1)
    n = 1
    for delay in range(60, 110, 4):
        for wait in (delay / 1000, 0):
            n += 1
            put(s, n)
            s.reload()
            time.sleep(wait)
        try:
            wait_for(lambda: [g["version"] for g in index(s)["plugins"][0]["good"]][0] == f"MARK-{n:08d}", 3, "it is written")
        except Failed:
            ok(False, f"{delay} ms after a swap", index(s))
            return
    ok(True, "at any time after a swap")


@case("a plugin that is removed as soon as it serves: what is kept of it is in the store")
def _():
    s = Server(["hello"])
    for n in range(1, 6):
        put(s, n)
        s.reload()
        s.uninstall("versioned")
        ok(s.reload()["ok"] and s.get("/version").status == 404, f"build {n} came and went")
        kept = [k for k in s.api("GET", "/v1/versions")["kept"] if k["plugin"] == "versioned"]
        is_((kept[0]["version"], kept[0]["serves"]), (f"MARK-{n:08d}", False), "it is kept")
        wait_for(lambda: os.path.exists(state(s, "index.json")) and kept[0]["sha256"] in open(state(s, "index.json")).read(), 5,
                 f"the index names build {n}")


@case("a damaged index is said, moved away and begun anew")
def _():
    s = serve(1)
    put(s, 2)
    s.reload()
    written(s, 2)
    s.stop()
    with open(state(s, "index.json"), "r+b") as f:
        f.truncate(100)
    s = again(s)
    is_(mark(s), 2, "the server serves")
    is_(len(warnings(s)), 1, "one warning")
    like(warnings(s), r"what was kept and quarantined is lost: .*index\.json:1:\d+: .*index\.json\.bad", "says what and where")
    ok(os.path.exists(state(s, "index.json.bad")), "the old one can be looked at")
    written(s, 1)
    is_(rollback(s)["_status"], 409, "there is nothing to go back to")


@case("a folder that is not ours to use: said once, and kept until the restart")
def _():
    elsewhere = tempdir()
    s = Server([], start=False)
    os.rmdir(state(s))
    os.symlink(elsewhere, state(s))
    put(s, 1)
    s.start()
    is_(len(warnings(s)), 1, "one warning")
    like(warnings(s), r"until the restart only: .*state: a symbolic link: set state_dir", "that says why")
    put(s, 2)
    s.reload()
    is_((rollback(s)["ok"], mark(s)), (True, 1), "a rollback works all the same")
    is_(os.listdir(elsewhere), [], "nothing was written there")


@case("two servers do not share one")
def _():
    a = serve(1)
    b = Server([], start=False, config={"state_dir": state(a)})
    put(b, 7)
    b.start()
    like(warnings(b), "another graftd uses it: give each a state_dir of its own", "the second says so")
    put(b, 8)
    b.reload()
    is_((rollback(b)["ok"], mark(b), mark(a)), (True, 7, 1), "and keeps its own until the restart")
    written(a, 1)
    is_(index(a)["quarantine"], [], "the first one's is not touched")


@case("removed while the server runs: one warning, everything else goes on")
def _():
    s = serve(1)
    written(s, 1)
    shutil.rmtree(state(s))
    put(s, 2)
    ok(s.reload()["ok"] and mark(s) == 2, "a swap")
    s.wait_event("state", level="warn")
    put(s, 3)
    ok(s.reload()["ok"] and mark(s) == 3, "another")
    time.sleep(0.3)
    is_(len(warnings(s)), 1, "one warning")
    like(warnings(s), r"cannot be written: .*: what serves is not touched", "says what it means")
    answer = rollback(s)
    is_((answer["ok"], mark(s)), (False, 3), "a rollback has nothing to go back to")


def small_disk(path, size, read_only=False):
    """For the child: a disk of this size at path, in a mount namespace of its own."""
    def enter():
        libc = ctypes.CDLL(None, use_errno=True)
        flags = {"CLONE_NEWNS": 0x20000, "MS_REC": 0x4000, "MS_PRIVATE": 1 << 18}
        if (libc.unshare(flags["CLONE_NEWNS"]) or
                libc.mount(b"none", b"/", None, flags["MS_REC"] | flags["MS_PRIVATE"], None) or
                libc.mount(b"tmpfs", path.encode(), b"tmpfs", int(read_only), f"size={size},mode=0700".encode())):
            raise OSError(ctypes.get_errno(), "mount")
    return enter


def may_mount():
    if os.geteuid() != 0:
        return False
    pid = os.fork()
    if pid == 0:
        try:
            small_disk("/tmp", "4k")()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


@case("a full disk: one warning, nothing that serves is touched", may_mount(), "mounts need root")
def _():
    s = Server([], start=False)
    s.popen["preexec_fn"] = small_disk(state(s), "8k")
    put(s, 1)
    s.start()
    with Prober(s, "/version", value=mark_of) as p:
        for n in range(2, 6):
            put(s, n)
            ok(s.reload()["ok"] and mark(s) == n, f"swap to build {n}")
            time.sleep(0.15)
        p.wait_count(5)
    is_(p.failures, [], "no request failed")
    is_(len(warnings(s)), 1, "one warning")
    like(warnings(s), r"cannot be written: .*state.*No space left on device", "that says why")
    answer = rollback(s)
    is_((answer["ok"], mark(s)), (False, 5), "what could not be kept cannot serve again")
    like(answer["reason"], "not in the store", "says so")
    subprocess.run(["nsenter", f"--mount=/proc/{s.pid}/ns/mnt", "mount", "-o", "remount,size=1m", state(s)], check=True)
    # Named after what broke: without another change nothing was written any more.
    wait_for(lambda: any("written again" in e["msg"] for e in s.find_events("state")), 20, "room is made: it is written")
    with open(f"/proc/{s.pid}/root{state(s, 'index.json')}") as f:
        is_(json.load(f)["plugins"][0]["good"][0]["sha256"], s.active("versioned")["sha256"], "what serves is in the index")


@case("a read-only disk: one warning, and kept until the restart", may_mount(), "mounts need root")
def _():
    s = Server([], start=False)
    s.popen["preexec_fn"] = small_disk(state(s), "8k", read_only=True)
    put(s, 1)
    s.start()
    is_(len(warnings(s)), 1, "one warning")
    like(warnings(s), r"until the restart only: .*state.*Read-only file system", "that says why")
    put(s, 2)
    s.reload()
    is_((rollback(s)["ok"], mark(s), len(warnings(s))), (True, 1, 1), "a rollback works all the same")


@case("where it is: STATE_DIRECTORY, and a changed state_dir waits for the restart")
def _():
    folder = os.path.join(tempdir(), "made", "state")
    s = Server([], start=False, config={"state_dir": ""}, env={"STATE_DIRECTORY": folder + ":/nowhere"})
    put(s, 1)
    s.start()
    wait_for(lambda: os.path.exists(os.path.join(folder, "index.json")), 10, "the index")
    is_(os.stat(folder).st_mode & 0o7777, 0o700, "made, of mode 0700")
    s.config["state_dir"] = os.path.join(s.dir, "other")
    ok(s.reload(config=True)["ok"], "another folder in the configuration")
    like([e["msg"] for e in s.find_events("config")], "takes effect only at a restart: state_dir", "is named")


@case("another user: an empty folder is given to it, one with something in it is not", OTHERS, NO_OTHERS)
def _():
    nobody = pwd.getpwnam("nobody")
    for held in (False, True):
        folder = tempdir(0o755)
        s = Server([], start=False, dir=os.path.join(folder, "s"), config={"user": "nobody"})
        os.chown(s.dir, nobody.pw_uid, -1)
        for path in (s.dir, s.plugin_dir):
            os.chmod(path, 0o755)
        if held:
            open(state(s, "somebody's"), "w").close()
        put(s, 1)
        s.start()
        if held:
            like(warnings(s), r"state: owned by uid 0, expected \d+ \(graftd's\)", "something in it: it stays root's, and is not used")
            is_(os.stat(state(s)).st_uid, 0, "untouched")
        else:
            written(s, 1)
            is_((os.stat(state(s)).st_uid, warnings(s)), (nobody.pw_uid, []), "an empty one is nobody's now")


@case("busy: a rollback past limits.versions is refused and not repeated by itself")
def _():
    s = serve(1, config={"limits": {"versions": 2}})
    put(s, 2)
    s.reload()
    wait_for(lambda: len(s.ps("versioned")) == 1, 10, "build 1 is retired")
    written(s, 2)
    with s.connect(timeout=30) as conn:
        conn.send(request_bytes("GET", "/version/timer?ms=1500"))
        wait_for(lambda: s.active("versioned")["in_flight"] == 1, 10, "a request holds build 2")
        put(s, 3)
        ok(s.reload()["ok"], "build 3")
        answer = rollback(s)
        is_((answer["_status"], answer["error"], mark(s)), (409, "busy", 3), "two versions are loaded: busy")
        like(answer["reason"], "graftctl retire versioned@", "says what holds them")
        is_(mark_of(conn.response()), 2, "the request ends")
    wait_for(lambda: len(s.ps("versioned")) == 1, 10, "build 2 is retired")
    time.sleep(0.2)
    is_(mark(s), 3, "nothing was rolled back behind anybody's back")
    is_((rollback(s)["ok"], mark(s)), (True, 2), "asked again, it is")


main()
