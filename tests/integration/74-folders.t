#!/usr/bin/env python3
# The stage and plugin folders: vanished, full, no longer executable, unfit, while the server runs and at its start
import os
import re
import shutil
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403


def own_folder(s):
    name, = os.listdir(s.stage_dir)
    return os.path.join(s.stage_dir, name)


def files(s):
    return {kind: n for kind, n in footprint(s)["fds"].items() if kind != "socket:[]"}


def swaps(s, n, name):
    put(s, fresh(f"versioned_v{n}"), "versioned")
    answer = s.reload()
    ok(answer["ok"] and s.get("/version").text == f"v{n}\n", name, answer)


# A cleaner of /tmp removes what nobody has opened for long, piece by piece or all at once.
REMOVALS = (
    ("the whole stage folder", lambda s: shutil.rmtree(s.stage_dir)),
    ("this process's folder in it", lambda s: shutil.rmtree(own_folder(s))),
    ("its lock", lambda s: os.unlink(own_folder(s) + "/.lock")),
    ("the copies", lambda s: [shutil.rmtree(f"{own_folder(s)}/{name}") for name in ("hello", "versioned")]),
    ("lock and copies", lambda s: [os.unlink(own_folder(s) + "/.lock"), shutil.rmtree(own_folder(s) + "/hello"),
                                   shutil.rmtree(own_folder(s) + "/versioned")]),
)


@case("what somebody removes of the stage folder is made again for the next swap")
def _():
    for what, remove in REMOVALS:
        s = Server({"hello": "hello", "versioned": "versioned_v1"})
        before, path = files(s), own_folder(s)
        mark = s.mark()
        remove(s)
        is_((s.get("/version").text, s.reload()["ok"]), ("v1\n", True), f"{what} removed: it serves, and a scan finds nothing new")
        swaps(s, 2, "the next swap goes well")
        is_((own_folder(s), os.stat(path).st_mode & 0o7777), (path, 0o700), "under the same path, private")
        told = s.find_events("stage", mark, level="warn")
        is_(len(told), 0 if what == "the copies" else 1, "it is told, once")
        swaps(s, 3, "and the one after it")
        other = Server({"hello": "hello"}, {"stage_dir": s.stage_dir})
        is_(len(os.listdir(s.stage_dir)), 2, "another server's start sees that it is in use")
        other.finish()
        swaps(s, 1, "a third swap")
        settle(s, 2)
        is_(files(s), before, "no descriptor more or less")
        is_(s.stop(), 0, "it drains")
        is_(os.listdir(s.stage_dir), [], "and leaves nothing")


@case("a stage folder that cannot be made again: refused, saying why; then it can")
def _():
    s = Server({"hello": "hello", "versioned": "versioned_v1"})
    shutil.rmtree(s.stage_dir)
    with open(s.stage_dir, "w"):
        pass
    before = files(s)
    put(s, "versioned_v2", "versioned")
    for _ in range(2):
        answer = s.reload()
        ok(not answer["ok"] and re.search(r"versioned\.so: the stage folder .* was removed and cannot be made again: Not a "
                                          r"directory: .*uid \d+", reason_of(answer)), "a file in its place: refused, and why", answer)
    is_(s.get("/version").text, "v1\n", "the old version serves")
    is_(files(s), before, "nothing leaked")
    os.unlink(s.stage_dir)
    answer = s.reload()
    ok(answer["ok"] and s.get("/version").text == "v2\n", "the way is free: it swaps, without --retry", answer)


def mounted(s, options):
    os.makedirs(s.stage_dir, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", s.stage_dir], check=True, stderr=subprocess.DEVNULL)


def can_mount():
    folder = tempdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", folder], stderr=subprocess.DEVNULL).returncode != 0:
        return False
    subprocess.run(["umount", folder], check=True)
    return True


def stage_refused(s, reason, name):
    for _ in range(2):
        answer = s.reload()
        ok(not answer["ok"] and re.search(reason, reason_of(answer)), f"{name}: refused, and why", answer)
        is_(s.get("/version").text, "v1\n", "the old version serves")


@case("the stage folder fills up, or its mount turns noexec: refused, and taken when that is mended", can_mount(), "no mount here")
def _():
    s = Server({"hello": "hello", "versioned": "versioned_v1"}, start=False)
    mounted(s, "size=24m,mode=700")
    try:
        s.start()
        before = files(s)
        put(s, fresh("versioned_v2"), "versioned")
        with open(f"{s.stage_dir}/ballast", "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(1 << 16))
            except OSError:
                pass
        stage_refused(s, r"cannot write its copy: No space left on device: make room there or set stage_dir", "full")
        os.unlink(f"{s.stage_dir}/ballast")
        subprocess.run(["mount", "-o", "remount,noexec", s.stage_dir], check=True)
        stage_refused(s, r"failed to map segment.*: has the mount of .*/stage/.* become noexec", "noexec")
        subprocess.run(["mount", "-o", "remount,exec", s.stage_dir], check=True)
        answer = s.reload()
        ok(answer["ok"] and s.get("/version").text == "v2\n", "mended: taken, without --retry", answer)
        is_settled(s, 2, "exactly what serves is loaded, mapped and staged")
        is_(files(s), before, "no descriptor more or less")
        is_(s.stop(), 0, "it drains")
        is_(os.listdir(s.stage_dir), [], "and leaves nothing")
    finally:
        subprocess.run(["umount", "-l", s.stage_dir], check=True)


@case("a plugin folder that is not there, or is no folder: exit 1 with what to do")
def _():
    for what, make in (("No such file or directory", shutil.rmtree),
                       ("Not a directory", lambda path: [shutil.rmtree(path), open(path, "w").close()])):
        s = Server({"hello": "hello"}, start=False)
        make(s.plugin_dir)
        s.start(wait=False)
        is_(s.wait_exit(), 1, "exit 1")
        ok(any(re.search(rf"cannot read the plugin folder .*: {what}: .*: make it, or name another one", line)
               for line in s.other_lines), "says what, and what to do", s.other_lines)
        is_(os.listdir(s.stage_dir), [], "leaves nothing staged")

main()
