#!/usr/bin/env python3
# Plugins in a ConfigMap's volume, as the kubelet writes it, for a user that is not root: swapped under load
import itertools
import os
import shutil
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

# The user of packaging/kubernetes and the image. Without root: whoever runs the test.
POD_USER = 999
AS_POD = {"user": POD_USER, "group": POD_USER, "extra_groups": [POD_USER]} if OTHERS else {}


class Volume:
    """A folder as the kubelet makes and replaces it: files in a dated folder, ..data leads to that, and a link
    for each file leads through ..data. An update is the rename of one link, but what was there before is
    removed at once, whoever reads it."""

    def __init__(self, path):
        self.path, self.dates = path, itertools.count(1)
        os.mkdir(path)
        self.chown(path, 0o2777)

    def chown(self, path, mode):
        if AS_POD:
            os.chown(path, 0, POD_USER)  # fsGroup
        os.chmod(path, mode)

    def update(self, **files):
        before = os.readlink(f"{self.path}/..data") if os.path.lexists(f"{self.path}/..data") else None
        dated = f"..2026_01_01_00_00_{next(self.dates):02}.123456789"
        os.mkdir(f"{self.path}/{dated}")
        self.chown(f"{self.path}/{dated}", 0o2755)
        for name, data in files.items():
            with open(f"{self.path}/{dated}/{name}.so", "wb") as f:
                f.write(data)
            self.chown(f.name, 0o644)
        os.symlink(dated, f"{self.path}/..data_tmp")
        os.rename(f"{self.path}/..data_tmp", f"{self.path}/..data")
        links = {f"{name}.so" for name in files}
        for name in sorted(links - set(os.listdir(self.path))):
            os.symlink(f"..data/{name}", f"{self.path}/{name}")
        for name in os.listdir(self.path):
            if not name.startswith("..") and name not in links:
                os.unlink(f"{self.path}/{name}")
        if before:
            shutil.rmtree(f"{self.path}/{before}")


def pod(**files):
    """A server with that volume; what it writes to are emptyDirs: root's, of everybody, with fsGroup."""
    s = Server({}, start=False, dir=tempdir(0o755), env={"GRAFT_WATCH": "true"}, **AS_POD)
    shutil.rmtree(s.plugin_dir)
    s.volume = Volume(s.plugin_dir)
    s.volume.update(**files)
    for name in ("cache", "run", "lib"):
        os.mkdir(f"{s.dir}/{name}")
        s.volume.chown(f"{s.dir}/{name}", 0o2777)
    s.stage_dir, s.control = f"{s.dir}/cache/stage", f"{s.dir}/run/control.sock"
    s.config.update(stage_dir=s.stage_dir, control=s.control, state_dir=f"{s.dir}/lib/state")
    s.write_config()
    os.chmod(s.config_path, 0o644)
    s.start()
    if AS_POD:
        is_(os.stat(f"/proc/{s.pid}").st_uid, POD_USER, f"it runs as user {POD_USER}")
    is_(os.stat(s.stage_dir).st_mode & 0o7777, 0o700, "its folder in the emptyDir is nobody else's")
    is_([e["msg"] for e in s.find_events("state", level="warn")], [], "it keeps what is good")
    return s


def built(name):
    with open(plugin_path(name), "rb") as f:
        return f.read()


def answers(s, target, text, what):
    wait_for(lambda: s.get(target).text == text, 15, what)
    return ok(True, what)


@case("each update of the ConfigMap is one swap, and no request fails")
def _():
    hello = built("hello")
    s = pod(versioned=built("versioned_v1"), hello=hello)
    is_(s.get("/version").text, "v1\n", "v1")
    mark = s.mark()
    with Prober(s, "/version", every=0.001, clients=2) as p, Prober(s, "/version/timer?ms=25", clients=2) as timers, \
            Prober(s, "/hello", every=0.001) as others:
        began = time.monotonic()
        s.volume.update(versioned=built("versioned_v2"), hello=hello)
        answers(s, "/version", "v2\n", "a changed file: v2")
        diag(f"serves {(time.monotonic() - began) * 1000:.0f} ms after the volume began to change")
        s.volume.update(versioned=built("versioned_v2"), hello=hello)
        s.volume.update(versioned=b"bad", hello=hello)
        s.wait_event("swap", since=mark, ok=False)
        is_(s.get("/version").text, "v2\n", "a file that is none: v2 serves on")
        s.volume.update(versioned=built("versioned_v3"), hello=fresh("hello"), echo=built("echo"))
        answers(s, "/version", "v3\n", "three files at once: v3")
        changed = [{c["plugin"] for c in e["changed"]} for e in s.find_events("swap", mark, ok=True) if e["changed"]]
        is_(changed, [{"versioned"}, {"versioned", "hello", "echo"}], "in one swap")
        s.volume.update(versioned=built("versioned_v3"), hello=hello)
        wait_for(lambda: not s.ps("echo"), 15, "a file that is taken out: its plugin goes")
        for probes in (p, timers, others):
            probes.wait_count(20)
    diag(f"{p.count + timers.count + others.count} requests")
    is_(p.failures + timers.failures + others.failures, [], "no request failed")
    is_(sorted(set(p.seen)), [b"v1\n", b"v2\n", b"v3\n"], "each answer is of a version that was there")
    is_settled(s, 2, "exactly what serves is loaded, mapped and staged")
    is_(s.stop(), 0, "it drains")


@case("a hurried series of updates: the last one serves, and no request fails")
def _():
    marked = Marked()
    s = pod(versioned=marked(0), hello=built("hello"))
    with Prober(s, "/version", every=0.001, clients=2, value=mark_of) as p:
        for n in range(1, 25):
            s.volume.update(versioned=marked(n), hello=built("hello"))
            time.sleep((0, 0.05, 0.3)[n % 3])
        wait_for(lambda: mark_of(s.get("/version")) == 24, 20, "the last one")
        p.wait_count(20)
    diag(f"{p.count} requests, {len([e for e in s.find_events('swap') if e['changed']])} swaps")
    is_(p.failures, [], "no request failed")
    is_(p.seen[-1], 24, "the last update serves")
    is_([e["msg"] for e in s.find_events("swap", ok=False)], [], "no scan failed, though files went away beneath it")
    is_settled(s, 2, "all others are gone")

main()
