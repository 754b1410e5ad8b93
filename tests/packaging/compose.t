#!/usr/bin/env python3
# docker-compose up: three servers behind HAProxy, Prometheus sees them; plugins replaced, a server restarted, under load
"""Wants root, the network (Debian's mirrors) and two minutes. GRAFT_TEST_DIST: a tarball of `make dist`."""
import json
import os
import shutil
import subprocess
import sys
import time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration", "lib")]
from grafttest import *  # noqa: E402,F403
from bare import run  # noqa: E402
from engine import BASE, PACKAGING, Builder, Engine, get, isolate, need, plugin_of  # noqa: E402

need("docker-compose")
SERVERS = ("graft1", "graft2", "graft3")

with Builder() as builder:
    builder.all()
isolate()
docker = Engine()
docker.load("graft", "shop", BASE, "haproxy:2.6", "prom/prometheus:v2.42.0")
PORT, PROMETHEUS = free_port(), free_port()
PROJECT = os.path.join(tempdir(0o755), "compose")
shutil.copytree(os.path.join(PACKAGING, "compose"), PROJECT)


def compose(*args):
    return run("docker-compose", "--project-name", "graft", *args, cwd=PROJECT,
               env={**docker.env, "GRAFT_PORT": str(PORT), "PROMETHEUS_PORT": str(PROMETHEUS)})


def ctl(server, *args):
    return json.loads(docker("exec", f"graft_{server}_1", "graftctl", "--json", *args))


def versions(server):
    """The SHA-256 of hello as it serves there."""
    return [v["sha256"] for v in ctl(server, "ps")["versions"] if v["plugin"] == "hello" and v["state"] == "active"]


def put(path, name="hello.so"):
    compose("run", "--rm", "-v", f"{path}:/new/{name}:ro", "put")


def query(expression):
    answer = get(PROMETHEUS, "/api/v1/query?query=" + expression)
    return json.loads(answer[1])["data"]["result"] if answer and answer[0] == 200 else []


@case("up")
def _():
    began = time.monotonic()
    compose("up", "-d")
    wait_for(lambda: get(PORT) == (200, b"hello, world\n"), 30, "an answer through HAProxy")
    diag(f"answers {time.monotonic() - began:.1f} s after docker-compose up")
    for server in SERVERS:
        wait_for(lambda: docker.inspect(f"graft_{server}_1")["State"]["Health"]["Status"] == "healthy", 30, f"{server} healthy")
    ok(True, "all three are healthy")
    wait_for(lambda: len(query("up%20%3D%3D%201")) == 3, 40, "Prometheus sees all three")
    ok(True, "Prometheus sees all three")
    with Prober(("127.0.0.1", PORT), every=0.001) as load:
        load.wait_count(300)
    ok(all(v["served"] > 0 for server in SERVERS for v in ctl(server, "ps")["versions"] if v["plugin"] == "hello"),
       "requests go to all three")


@case("a plugin replaced in the volume, under load")
def _():
    times = []
    first, second = plugin_of("graft", docker), plugin_of("shop", docker)
    with Prober(("127.0.0.1", PORT), every=0.002, clients=8) as load:
        for path, text in ((second, b"hello, shop\n"), (first, b"hello, world\n"), (second, b"hello, shop\n")):
            before = [versions(server) for server in SERVERS]
            began = time.monotonic()
            put(path)
            moved = time.monotonic()
            wait_for(lambda: all(versions(s) != old for s, old in zip(SERVERS, before)), 20, "all three have it")
            times.append((moved - began, time.monotonic() - moved))
            time.sleep(1)
            is_(get(PORT), (200, text), f"it serves: {text.decode().strip()}")
        load.wait_count(500)
    is_(load.failures[:5], [], f"none of {load.count} requests failed in three replacements")
    is_(set(load.seen), {b"hello, world\n", b"hello, shop\n"}, "both versions have answered")
    is_((load.seen[0], load.seen[-1]), (b"hello, world\n", b"hello, shop\n"), "the first one first, the last one last")
    diag("put, then seen in all three (s): " + ", ".join(f"{a:.1f} + {b:.2f}" for a, b in times) + f"; slowest answer {load.slowest * 1000:.0f} ms")


@case("one that is broken changes nothing")
def _():
    bad = os.path.join(tempdir(0o755), "hello.so")
    with open(bad, "wb") as file:
        file.write(b"\x7fELF, but nothing more")
    before = [versions(server) for server in SERVERS]
    with Prober(("127.0.0.1", PORT), every=0.002, clients=8) as load:
        put(bad)
        wait_for(lambda: all("plugin_failed" in docker("logs", f"graft_{s}_1") for s in SERVERS), 20, "all three refuse it")
        load.wait_count(300)
    is_([versions(server) for server in SERVERS], before, "what served serves")
    is_(load.failures[:5], [], f"none of {load.count} requests failed")
    put(plugin_of("shop", docker))


@case("a server restarted, under load")
def _():
    with Prober(("127.0.0.1", PORT), every=0.002, clients=8) as load:
        load.wait_count(300)
        began = time.monotonic()
        compose("restart", "-t", "40", "graft2")
        took = time.monotonic() - began
        wait_for(lambda: docker.inspect("graft_graft2_1")["State"]["Health"]["Status"] == "healthy", 30, "healthy again")
        time.sleep(3)
        load.wait_count(300)
    is_(load.failures[:5], [], f"none of {load.count} requests failed while graft2 drained and came back")
    diag(f"docker-compose restart graft2: {took:.1f} s")
    ok(any(v["served"] > 0 for v in ctl("graft2", "ps")["versions"]), "and graft2 gets requests again")


@case("down")
def _():
    compose("down", "-v", "-t", "40")
    is_(docker("ps", "-aq"), "", "nothing is left")
    is_(docker("volume", "ls", "-q", "-f", "name=plugins"), "", "and no volume of plugins")


main()
