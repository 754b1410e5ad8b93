#!/usr/bin/env python3
# The image for arm64, built by a cross compiler, serves, swaps and drains (emulated by qemu-user)
"""Wants root, the network (Debian's mirrors) and three minutes. GRAFT_TEST_DIST: a tarball of `make dist`."""
import json
import os
import signal
import subprocess
import sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration", "lib")]
from grafttest import *  # noqa: E402,F403
from bare import Failure, run  # noqa: E402
from engine import Builder, get, isolate, need  # noqa: E402

need("qemu-aarch64-static", "setpriv")
ROOT = os.path.join(tempdir(0o755), "root")
# Programs for arm64 are run by qemu below this process alone: a user namespace has such a list of its own (Linux 6.7).
# O: graftd runs graft-probe from a descriptor, which qemu could not open by a name.
BINFMT = r":graft-arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:" \
         r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:%s:OF"
IN_QEMU = """
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' "$0" >/proc/sys/fs/binfmt_misc/register
cd "$1"
shift
mount --rbind /proc proc
mount --rbind /dev dev
exec chroot . "$@"
"""


def inside(*args):
    """The words that run a program of the image."""
    qemu = BINFMT % run("which", "qemu-aarch64-static").strip()
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", IN_QEMU, qemu, ROOT, *args]


with Builder() as builder:
    builder.graft("graft:arm64", "--build-arg", "TARGETARCH=arm64")
    container = builder.engine("create", "graft:arm64")
    builder.engine("export", "-o", ROOT + ".tar", container)
    diag(f"the image for arm64: {builder.engine.inspect('graft:arm64', 'image')['Size'] / 1e6:.1f} MB for docker")
os.mkdir(ROOT)
run("tar", "-C", ROOT, "-xf", ROOT + ".tar", "--no-same-owner")
for folder in ("proc", "dev", "run/graft", "var/cache/graft", "var/lib/graft"):
    os.makedirs(os.path.join(ROOT, folder), exist_ok=True)
try:
    run(*inside("/usr/sbin/graftd", "-V"))
    EMULATED = True
except Failure as error:
    EMULATED, WHY = False, str(error).splitlines()[-1]
isolate()


@case("what was built is for arm64")
def _():
    for folder, _, names in os.walk(ROOT):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                head = file.read(20)
            if head[:4] == b"\x7fELF" and head[18:20] != b"\xb7\x00":
                ok(False, f"{path} is", head)
    ok(os.path.exists(os.path.join(ROOT, "lib/ld-linux-aarch64.so.1")), "all of it, with the interpreter")


@case("it serves, swaps, and drains", EMULATED, "no binfmt_misc of a user namespace's own: " + ("" if EMULATED else WHY))
def _():
    like(run(*inside("/usr/sbin/graftd", "-V")), r"^graftd \d", "graftd -V")
    port, ops = free_port(), free_port()
    env = {"PATH": os.environ["PATH"], "GRAFT_LISTEN": f"127.0.0.1:{port}", "GRAFT_OPS": f"127.0.0.1:{ops}", "GRAFT_WORKERS": "2"}
    with open(os.path.join(tempdir(), "log"), "wb") as log:
        server = subprocess.Popen(inside("/usr/sbin/graftd"), env=env, stdout=log, stderr=log)
    try:
        wait_for(lambda: server.poll() is not None or get(port), 60, "an answer", every=0.2)
        is_(get(port), (200, b"hello, world\n"), "it serves")
        is_(get(ops, "/readyz"), (200, b"ok\n"), "and is ready")
        with Prober(("127.0.0.1", port), clients=2) as load:
            load.wait_count(50)
            plugins = os.path.join(ROOT, "usr/lib/graft/plugins")
            os.unlink(os.path.join(plugins, "echo.so"))
            with open(os.path.join(plugins, "hello.so"), "rb") as file:
                again = file.read() + b"another file"
            with open(os.path.join(plugins, ".hello.new"), "wb") as file:
                file.write(again)
            os.rename(os.path.join(plugins, ".hello.new"), os.path.join(plugins, "hello.so"))
            server.send_signal(signal.SIGUSR2)
            wait_for(lambda: get(port, "/echo")[0] == 404, 60, "a swap", every=0.2)
            load.wait_count(50)
        is_(load.failures[:5], [], f"none of {load.count} requests failed in a swap")
    finally:
        server.terminate()
        is_(server.wait(60), 0, "drained: exit status 0")
    with open(log.name, "rb") as file:
        events = [json.loads(line) for line in file if line.startswith(b"{")]
    is_([e["event"] for e in events if e["level"] == "error"], [], "the log has no error")


main()
