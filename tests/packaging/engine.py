"""A Docker Engine of a test's own, and the images that the tests run in it.

Images are built by an engine that has this machine's network (Debian's mirrors): the base image is a debootstrap tree,
graft is built by packaging/docker from the tarball, and what cannot be had without a registry (haproxy, prometheus)
is made of Debian's packages under the official name. They are kept in the build folder, one file an image, for the
other tests of the same tarball. Then the test goes into network and mount namespaces of its own, so that nothing
which its engine does there is seen outside or stays."""

import atexit
import ctypes
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

from bare import Failure, run
from grafttest import ENV, SRCDIR, Conn, Failed, HttpError, request_bytes, skip_all, tempdir, wait_for

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
BASE = "debian:bookworm-slim"
PACKAGING = os.path.join(SRCDIR, "packaging")
DIST = ENV.get("GRAFT_TEST_DIST", "")
HOSTED = ["--network", "host"]


def need(*tools):
    """Skips the whole test where it cannot run."""
    lacking = [tool for tool in ("dockerd", "docker", "debootstrap", "ip", "unshare", *tools) if shutil.which(tool) is None]
    if os.geteuid() != 0 or lacking:
        skip_all("wants root" if not lacking else "wants " + ", ".join(lacking))
    if subprocess.run(["unshare", "--mount", "--net", "true"], check=False).returncode != 0:
        skip_all("wants namespaces of its own, which root may not make here")
    with open("/proc/mounts", encoding="utf-8") as file:
        if not any(line.split()[2].startswith("cgroup") for line in file):
            skip_all("wants /sys/fs/cgroup")
    if not os.path.exists(DIST):
        skip_all("GRAFT_TEST_DIST names no tarball (make dist)")


def isolate():
    """This process and all that it starts from now on: a network of their own, and mounts that nobody else sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise Failed(f"unshare: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rprivate", "/")
    run("ip", "link", "set", "lo", "up")


class Engine:
    """dockerd with its data, its socket and its containerd in a folder of its own; close() stops it."""

    def __init__(self, *options):
        self.folder = tempdir()
        self.socket = f"unix://{self.folder}/s"
        self.log = open(os.path.join(self.folder, "log"), "wb")
        self.env = {**os.environ, "DOCKER_HOST": self.socket, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": self.folder,
                    "COMPOSE_DOCKER_CLI_BUILD": "0"}
        self.env.pop("DOCKER_CONTEXT", None)
        # A containerd that runs on this machine is not to be used: its socket is hidden.
        os.makedirs("/run/containerd", exist_ok=True)
        command = ("mount --make-rprivate / && mount -t tmpfs none /run/containerd && exec setpriv --pdeathsig TERM dockerd "
                   f"--data-root {self.folder}/data --exec-root {self.folder}/exec --pidfile {self.folder}/pid -H {self.socket} "
                   + " ".join(options))
        self.proc = subprocess.Popen(["unshare", "--mount", "sh", "-c", command], stdout=self.log, stderr=self.log)
        atexit.register(self.close)
        wait_for(self.answers, 60, "dockerd answers")

    def answers(self):
        if self.proc.poll() is not None:
            raise Failed("dockerd ended:\n" + self.tail())
        try:
            self("info")
            return True
        except Failure:
            return False

    def tail(self):
        with open(os.path.join(self.folder, "log"), encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-30:])

    def __call__(self, *args, **more):
        """docker ARGS: what it prints."""
        return run("docker", *map(str, args), env=self.env, **more).strip()

    def inspect(self, name, what="container"):
        return json.loads(self(what, "inspect", name))[0]

    def build(self, tag, folder, *args):
        self("build", *HOSTED, "-t", tag, *args, folder)

    def load(self, *images):
        for image in images:
            self("load", "-q", "-i", path_of(image))

    def close(self):
        """Nothing that it started is left: no container, no process, no mount."""
        if self.proc.poll() is None:
            for command in (["swarm", "leave", "--force"], ["container", "prune", "-f"]):
                subprocess.run(["docker", *command], env=self.env, capture_output=True, check=False)
            ids = subprocess.run(["docker", "ps", "-aq"], env=self.env, capture_output=True, text=True, check=False).stdout.split()
            if ids:
                subprocess.run(["docker", "rm", "-fv", *ids], env=self.env, capture_output=True, check=False)
            self.proc.terminate()
            try:
                self.proc.wait(60)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        self.log.close()
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            for mount in reversed([line.split()[4] for line in file if line.split()[4].startswith(self.folder)]):
                subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


# ---- The images ----

STAND_INS = {
    "haproxy:2.6": """FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends haproxy && apt-get clean && mkdir -p /usr/local/etc/haproxy
USER haproxy
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
""",
    "prom/prometheus:v2.42.0": """FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends prometheus && apt-get clean && install -d -o nobody /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
""",
}

# A plugin author's, as in the README; and one that is refused when it is loaded.
HELLO = r"""#include <graft/graft.h>

static graft_next hello(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "%s\n");
}
%s
GRAFT_PLUGIN(
    .name    = "hello",
    .version = "%s",
    .summary = "Says hello.",
    %s
    .routes  = (const graft_route[]){ { "GET", "/hello", hello, 0 }, { 0 } },
)
"""
ILL = """
static int health(graft_self *self, void *state)
{
    (void)state;
    return graft_fail(self, "the database is away");
}
"""
BROKEN = """
static int init(graft_self *self, void **state)
{
    (void)state;
    return graft_fail(self, "no database");
}
"""


# Images of plugins: what hello says, what else is in it, its version, a member of its own.
PLUGINS = {
    "shop": ("hello, shop", "", "1.1.0", ""),
    "ill": ("hello, ill", ILL, "1.2.0", ".health = health,"),
    "broken": ("hello, broken", BROKEN, "1.3.0", ".init = init,"),
}


def path_of(image):
    """Where a built image is kept: of this tarball, made by this file."""
    key = hashlib.sha256()
    for path in (DIST, os.path.abspath(__file__)):
        with open(path, "rb") as file:
            key.update(file.read())
    kept = os.path.join(os.path.dirname(ENV["TEST_PLUGINS"]), "images")
    folder = os.path.join(kept, key.hexdigest()[:16])
    if not os.path.isdir(folder):
        shutil.rmtree(kept, ignore_errors=True)  # another tarball's
        os.makedirs(folder)
    return os.path.join(folder, re.sub(r"[:/]", "_", image) + ".tar")


class Builder:
    """The engine that builds, started when the first image is wanted that is not there yet."""

    def __init__(self):
        self.engine = None
        self.source = None

    def close(self):
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def base(self):
        """debian:bookworm-slim: a debootstrap tree without what the official image leaves out."""
        tree = os.path.join(tempdir(0o755), "root")
        run("debootstrap", "--variant=minbase", "bookworm", tree)
        with open(os.path.join(tree, "usr/sbin/policy-rc.d"), "w", encoding="ascii") as file:
            file.write("#!/bin/sh\nexit 101\n")
            os.fchmod(file.fileno(), 0o755)
        shutil.copy("/etc/resolv.conf", os.path.join(tree, "etc/resolv.conf"))
        left_out = ["usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists"]
        run("sh", "-c", 'rm -rf "$@"; mkdir -p var/cache/apt/archives/partial var/lib/apt/lists/partial', "sh", *left_out, cwd=tree)
        run("tar", "-C", tree, "-cf", tree + ".tar", ".")
        run("rm", "-rf", tree)
        self.engine("import", tree + ".tar", BASE)
        os.unlink(tree + ".tar")
        self.keep(BASE)

    def start(self):
        if self.engine is None:
            self.engine = Engine("--bridge=none", "--iptables=false")
            folder = tempdir(0o755)
            run("tar", "-xf", DIST, "-C", folder)
            self.source = glob.glob(os.path.join(folder, "graft-*"))[0]
            if os.path.exists(path_of(BASE)):
                self.engine.load(BASE)
            else:
                self.base()
        return self.engine

    def keep(self, image):
        self.engine("save", "-o", path_of(image) + ".new", image)
        os.rename(path_of(image) + ".new", path_of(image))

    def graft(self, tag, *args):
        self.start().build(tag, self.source, "-f", os.path.join(self.source, "packaging/docker/Dockerfile"), *args)

    def stand_in(self, name):
        folder = tempdir()
        with open(os.path.join(folder, "Dockerfile"), "w", encoding="ascii") as file:
            file.write(STAND_INS[name])
        self.start().build(name, folder)

    def plugin(self, name):
        folder = tempdir()
        shutil.copy(os.path.join(self.source, "packaging/docker/Dockerfile.plugin"), folder)
        with open(os.path.join(folder, "hello.c"), "w", encoding="ascii") as file:
            file.write(HELLO % PLUGINS[name])
        self.start().build(name, folder, "-f", os.path.join(folder, "Dockerfile.plugin"))

    def all(self):
        """Whatever the tests want, unless it is kept from another one."""
        names = ("graft", *STAND_INS, *PLUGINS)
        if all(os.path.exists(path_of(name)) for name in (BASE, *names)):
            return
        self.graft("graft:dev", "--target", "dev")
        self.graft("graft")
        for name in STAND_INS:
            self.stand_in(name)
        for name in PLUGINS:
            self.plugin(name)
        for name in names:
            self.keep(name)


def get(port, target="/hello", host="127.0.0.1", timeout=5):
    """(status, body); None: nobody answers."""
    try:
        with Conn((host, port), timeout=timeout) as conn:
            conn.send(request_bytes("GET", target))
            answer = conn.response()
            return answer.status, answer.body
    except (OSError, HttpError):
        return None


def plugin_of(image, engine, name="hello"):
    """A plugin's file, out of an image."""
    container = engine("create", image)
    path = os.path.join(tempdir(0o755), name + ".so")
    engine("cp", f"{container}:/usr/lib/graft/plugins/{name}.so", path)
    engine("rm", container)
    return path
