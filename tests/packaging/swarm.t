#!/usr/bin/env python3
# A Swarm under load: a new image, broken images that are taken back, a new plugin alone; no request fails
"""Wants root, the network (Debian's mirrors) and four minutes. GRAFT_TEST_DIST: a tarball of `make dist`."""
import hashlib
import json
import os
import shutil
import sys
import time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration", "lib")]
from grafttest import *  # noqa: E402,F403
from bare import run  # noqa: E402
from engine import BASE, PACKAGING, Builder, Engine, get, isolate, need, plugin_of  # noqa: E402

need()

with Builder() as builder:
    builder.all()
isolate()
docker = Engine()
docker.load("graft", "shop", "ill", "broken", BASE, "haproxy:2.6")
PORT = free_port()
STACK = os.path.join(tempdir(0o755), "swarm")
shutil.copytree(os.path.join(PACKAGING, "swarm"), STACK)
WORLD, SHOP = (200, b"hello, world\n"), (200, b"hello, shop\n")
TIMES = {}


def deploy(image, *files):
    names = [word for name in ("stack.yml", *files) for word in ("-c", name)]
    run("docker", "stack", "deploy", "--resolve-image", "never", *names, "graft", cwd=STACK,
        env={**docker.env, "GRAFT_IMAGE": image, "GRAFT_PORT": str(PORT)})


def update():
    return (docker.inspect("graft_graft", "service").get("UpdateStatus") or {}).get("State", "")


def tasks():
    """Containers of graft that run."""
    return docker("ps", "-q", "--filter", "name=graft_graft", "--filter", "status=running").split()


def updated(image, outcome, *files):
    """A deployment of that image, until Swarm says how it ended; seconds."""
    before = (docker.inspect("graft_graft", "service").get("UpdateStatus") or {}).get("StartedAt")
    began = time.monotonic()
    deploy(image, *files)
    wait_for(lambda: (docker.inspect("graft_graft", "service").get("UpdateStatus") or {}).get("StartedAt") != before, 30, "the update begins",
             every=0.2)
    wait_for(lambda: update() in ("completed", "paused", "rollback_completed", "rollback_paused"), 240, f"{image}: {outcome}", every=0.2)
    is_(update(), outcome, f"{image}: {outcome}")
    return time.monotonic() - began


class Watched(Prober):
    """Load through HAProxy that fails the test with the first request that failed; what it says of that."""

    def __init__(self):
        super().__init__(("127.0.0.1", PORT), every=0.004, clients=8)

    def all_well(self, what):
        is_(self.failures[:5], [], f"none of {self.count} requests failed: {what}")
        diag(f"{what}: {self.count} requests, {len(self.failures)} failed, slowest {self.slowest * 1000:.0f} ms")


@case("deploy")
def _():
    docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1")
    began = time.monotonic()
    deploy("graft")
    wait_for(lambda: get(PORT) == WORLD, 60, "an answer through HAProxy", every=0.1)
    diag(f"answers {time.monotonic() - began:.1f} s after docker stack deploy")
    wait_for(lambda: len(tasks()) == 3, 60, "three tasks", every=0.2)
    wait_for(lambda: all(docker.inspect(t)["State"]["Health"]["Status"] == "healthy" for t in tasks()), 60, "healthy", every=0.2)
    ok(True, "three healthy tasks")


@case("another image, task by task")
def _():
    old = set(tasks())
    with Watched() as load:
        load.wait_count(500)
        began = time.monotonic()
        deploy("shop")
        wait_for(lambda: len(tasks()) == 3 and not old & set(tasks()), 120, "no old task is left", every=0.2)
        TIMES["image"] = time.monotonic() - began
        wait_for(lambda: update() == "completed", 120, "the update is completed", every=0.2)
        load.wait_count(500)
    load.all_well("an image update")
    diag(f"the update: {TIMES['image']:.1f} s until all tasks were new, {time.monotonic() - began:.1f} s until Swarm called it completed")
    is_((get(PORT), old & set(tasks())), (SHOP, set()), "the new one serves, none of the old tasks is left")
    is_(set(load.seen), {WORLD[1], SHOP[1]}, "both have answered")
    codes = {docker.inspect(t)["State"]["ExitCode"] for t in docker("ps", "-aq", "--filter", "name=graft_graft", "--filter", "status=exited").split()}
    is_(codes, {0}, "the old ones drained: exit status 0")


@case("an image that does not start is taken back")
def _():
    old = set(tasks())
    with Watched() as load:
        took = updated("broken", "rollback_completed")
        load.wait_count(500)
    load.all_well("an image that does not start")
    diag(f"taken back after {took:.1f} s")
    is_((get(PORT), set(tasks())), (SHOP, old), "the same tasks serve")
    is_(set(load.seen), {SHOP[1]}, "nothing else has answered")


@case("an image that starts and is not well is taken back")
def _():
    old = set(tasks())
    with Watched() as load:
        took = updated("ill", "rollback_completed")
        load.wait_count(500)
    load.all_well("an image that is never healthy")
    diag(f"taken back after {took:.1f} s")
    is_({docker.inspect(task)["Config"]["Image"].split(":")[0] for task in tasks()}, {"shop"}, "every task has the old image")
    ok(len(old & set(tasks())) >= 2, "two tasks and more were never touched")
    is_((get(PORT), set(load.seen)), (SHOP, {SHOP[1]}), "nothing else has answered")


@case("a plugin alone, in a volume that the tasks watch")
def _():
    docker("volume", "create", "graft-plugins")
    docker("run", "--rm", "-v", "graft-plugins:/usr/lib/graft/plugins", "shop", "-V")
    updated("shop", "completed", "plugins.yml")
    wait_for(lambda: len(tasks()) == 3 and get(PORT) == SHOP, 60, "three tasks", every=0.2)
    old = set(tasks())
    world = plugin_of("graft", docker)
    with open(world, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()

    def has(task):
        return any(v["sha256"] == digest and v["state"] == "active" for v in json.loads(docker("exec", task, "graftctl", "--json", "ps"))["versions"])
    with Watched() as load:
        load.wait_count(500)
        began = time.monotonic()
        run(os.path.join(STACK, "put"), world, env=docker.env)
        wait_for(lambda: all(has(task) for task in tasks()), 60, "all three tasks have it", every=0.1)
        TIMES["plugin"] = time.monotonic() - began
        load.wait_count(500)
    load.all_well("a plugin alone")
    diag(f"the plugin: {TIMES['plugin']:.1f} s, with the container that copies it")
    is_((get(PORT), set(tasks())), (WORLD, old), "it serves, in the same tasks")
    ok(TIMES["plugin"] * 3 < TIMES["image"], "much faster than an image", TIMES)


main()
