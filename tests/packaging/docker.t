#!/usr/bin/env python3
# The Docker image: small, without root, read-only; health, settings, a plugin author's image, an end under load
"""Wants root, the network (Debian's mirrors) and two minutes. GRAFT_TEST_DIST: a tarball of `make dist`."""
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration", "lib")]
from grafttest import *  # noqa: E402,F403
import engine as images  # noqa: E402
from engine import Builder, Engine, get, isolate, need  # noqa: E402

need()
MB = 1 << 20
LIBC = re.compile(r"/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|nss_\w+))\.so[.\d]*$")

with Builder() as builder:
    builder.all()
isolate()
docker = Engine()
docker.load("graft", "shop", "ill")


def start(*args, image="graft", command=()):
    """(container, port of the host that leads to 8080)"""
    port = free_port()
    return docker("run", "-d", "-p", f"127.0.0.1:{port}:8080", *args, image, *command), port


def health(container):
    return docker.inspect(container)["State"]["Health"]["Status"]


def serves(port):
    wait_for(lambda: get(port), 20, "an answer")
    return get(port)


def files():
    """{path: member} of all that the image holds; without the empty files that Docker puts there."""
    container = docker("create", "graft")
    path = os.path.join(tempdir(), "image.tar")
    docker("export", "-o", path, container)
    docker("rm", "-v", container)
    with tarfile.open(path) as tar:
        return {"/" + member.name: member for member in tar if not member.isdir() and member.size > 0}


@case("what the image says of itself")
def _():
    config = docker.inspect("graft", "image")["Config"]
    is_((config["User"], config["StopSignal"], config["Entrypoint"], config["Cmd"]),
        ("999:999", "SIGTERM", ["graftd"], ["-c", "/etc/graft/graft.json"]), "user, signal, entry point, default arguments")
    is_(config["Healthcheck"]["Test"], ["CMD", "graftctl", "ready"], "its health is graftd's readiness")
    is_(sorted(config["ExposedPorts"]), ["8080/tcp", "9180/tcp"], "its ports")
    labels = config["Labels"]
    is_(labels["org.opencontainers.image.version"], re.search(r"graft-([0-9.]+)\.tar", images.DIST).group(1), "its version")
    is_(sorted(name.rsplit(".", 1)[1] for name in labels),
        ["description", "licenses", "revision", "title", "vendor", "version"], "its labels")


@case("what is in it")
def _():
    found = files()
    size = sum(member.size for member in found.values())
    libc = sum(member.size for path, member in found.items() if LIBC.search(path))
    diag(f"the image: {size / MB:.1f} MB, of that {libc / MB:.1f} MB the C library; {docker.inspect('graft', 'image')['Size'] / 1e6:.1f} MB for docker")
    ok(libc > MB, "it has the C library")
    ok(size - libc <= 30 * MB, "not more than 30 MB over the C library", size - libc)
    programs = sorted(path for path, member in found.items() if member.mode & 0o111 and ".so" not in path)
    is_(programs, ["/usr/bin/graftctl", "/usr/libexec/graft/graft-probe", "/usr/sbin/graftd"], "no program besides, so no shell")
    is_([path for path, member in found.items() if member.mode & 0o6000], [], "nothing is set-user-ID")
    is_(sorted(os.path.basename(path) for path in found if path.startswith("/usr/lib/graft/plugins/")),
        ["access-log.so", "counter.so", "echo.so", "hello.so", "request-id.so", "slow.so"], "the plugins")
    ok(found["/etc/ssl/certs/ca-certificates.crt"].size > 100000, "CA certificates")


@case("read-only, without any capability, without a flag for a folder")
def _():
    container, port = start("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
                            "-e", "GRAFT_LIMITS_CONNECTIONS=900")
    began = time.monotonic()
    is_(serves(port), (200, b"hello, world\n"), "it serves")
    diag(f"served {time.monotonic() - began:.2f} s after docker run")
    wait_for(lambda: health(container) == "healthy", 30, "healthy")
    ok(True, "healthy")
    status = open(f"/proc/{docker.inspect(container)['State']['Pid']}/status", encoding="ascii").read()
    is_(re.search(r"^Uid:\s+(\d+)", status, re.M).group(1), "999", "not root")
    is_(re.search(r"^CapEff:\s+(\w+)", status, re.M).group(1).strip("0"), "", "no capability")
    like(docker("exec", container, "graftctl", "ps"), "hello +1.0.0", "docker exec NAME graftctl")
    like(docker("exec", container, "graftctl", "reload"), "generation 1", "and a scan")
    logs = [json.loads(line) for line in docker("logs", container).splitlines()]
    is_([line["msg"] for line in logs if line["level"] in ("warn", "error")], [], "the log has no warning")
    is_(docker("stop", container), container, "docker stop")
    is_(docker.inspect(container)["State"]["ExitCode"], 0, "exit status 0: drained")


@case("docker stop: what is in progress is answered, in time")
def _():
    container, port = start()
    serves(port)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(get(port, "/slow/timer?ms=3000"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    began = time.monotonic()
    docker("stop", container)
    took = time.monotonic() - began
    for thread in threads:
        thread.join()
    is_(answers, [(200, b"timer 1.0.0\n")] * 4, "requests that take longer than the signal")
    diag(f"docker stop: {took:.1f} s")
    ok(1.5 < took < secs(9), "before Docker's ten seconds", took)
    is_(docker.inspect(container)["State"]["ExitCode"], 0, "exit status 0")


@case("one that never ends is cut before Docker kills")
def _():
    container, port = start()
    serves(port)
    with Conn(("127.0.0.1", port)) as conn:
        conn.send(request_bytes("GET", "/slow/timer?ms=60000"))
        time.sleep(0.5)
        docker("stop", container)
    is_(docker.inspect(container)["State"]["ExitCode"], 3, "exit status 3, not 137")


@case("settings: arguments, variables, a file")
def _():
    like(docker("run", "--rm", "graft", "-V"), r"^graftd \d", "arguments in the place of the default ones")
    container, port = start("-e", "GRAFT_LISTEN=:8080,:8081", "-e", 'GRAFT_MIDDLEWARE=["request-id"]',
                            "-e", 'GRAFT_PLUGINS={"hello": {"mount": "/shop"}}', "-e", "GRAFT_LIMITS_BODY_BYTES=5")
    serves(port)
    is_(get(port, "/shop/hello"), (200, b"hello, world\n"), "an object in a variable")
    with Conn(("127.0.0.1", port)) as conn:
        answer = conn.request("GET", "/shop/hello")
        ok(answer.header("X-Request-Id"), "an array in a variable", answer.headers)
        is_(conn.request("POST", "/echo", body=b"123456").status, 413, "a limit")
    path = os.path.join(tempdir(0o755), "graft.json")
    with open(path, "w", encoding="ascii") as file:
        json.dump({"plugins": {"echo": {"enabled": False}}, "listen": ["127.0.0.1:1"]}, file)
    container, port = start("--read-only", "-v", f"{path}:/etc/graft/graft.json:ro")
    serves(port)
    is_([get(port, path)[0] for path in ("/hello", "/echo")], [200, 404], "a file; of its addresses the image's count")
    bad = subprocess.run(["docker", "run", "--rm", "-e", "GRAFT_WORKERS=many", "graft"], env=docker.env, capture_output=True, text=True, check=False)
    is_(bad.returncode, 1, "a setting that is wrong: exit status 1")
    like(bad.stderr, "variable GRAFT_WORKERS: expected a whole number", "and why")


@case("as another user, in folders of the orchestrator's")
def _():
    container, port = start("--read-only", "--user", "12345:12345", "--tmpfs", "/tmp:exec,mode=1777")
    is_(serves(port)[0], 200, "it serves")
    like(docker("exec", container, "graftctl", "status"), "generation", "graftctl finds it")


@case("a plugin author's image: five lines")
def _():
    with open(os.path.join(images.PACKAGING, "docker", "Dockerfile.plugin"), encoding="ascii") as file:
        is_(len([line for line in file if not line.startswith("#")]), 5, "they are five")
    container, port = start("--read-only", image="shop")
    is_(serves(port), (200, b"hello, shop\n"), "its plugin serves")
    like(docker("exec", container, "graftctl", "ps"), r"hello +1\.1\.0", "its version")


@case("a plugin that is not well: unhealthy, and it says why")
def _():
    container, port = start("--health-interval", "1s", "--health-start-period", "2s", image="ill")
    is_(serves(port), (200, b"hello, ill\n"), "it serves")
    wait_for(lambda: health(container) == "unhealthy", 60, "unhealthy")
    like(docker.inspect(container)["State"]["Health"]["Log"][-1]["Output"], "the database is away", "docker inspect says why")


main()
