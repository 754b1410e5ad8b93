#!/usr/bin/env python3
# What is installed: nothing exported, few libraries, an SDK that builds plugins, a sound configuration.
import os
import re
import subprocess
import sys
import tempfile

GRAFTD, PROBE = os.environ["GRAFTD"], os.environ["TEST_PROBE"]
PLUGINS, SRCDIR = os.environ["TEST_DIST_PLUGINS"], os.environ["TEST_SRCDIR"]
INSTALLED = os.environ.get("TEST_INSTALLED") == "yes"
PLAIN = os.environ["TEST_SANITIZER"] == "none"
results = []


def case(title, problem):
    """One TAP line; `problem` is what is wrong, or nothing."""
    results.append(not problem)
    if problem:
        print(f"# {problem}", file=sys.stderr)
    print(f"{'not ' if problem else ''}ok {len(results)} - {title}", flush=True)


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


def exports(path):
    """Symbols of its own: a name with a version is libc's data, copied into the program."""
    lines = run("nm", "-D", "--defined-only", path).stdout.splitlines()
    return {line.split()[-1] for line in lines if "@" not in line}


def needed(path):
    return set(re.findall(r"NEEDED.*\[(.*?)\]", run("readelf", "-dW", path).stdout))


def build_plugin(folder, compiler, source, out, *flags):
    """As the guide says it: cc $(pkg-config --cflags --libs graft) -o NAME.so NAME.c"""
    pc = run("pkg-config", "--cflags", "--libs", "graft")
    if pc.returncode != 0:
        return pc.stderr
    out = os.path.join(folder, out)
    made = run(*compiler.split(), source, *flags, *pc.stdout.split(), "-o", out)
    if made.returncode != 0 or made.stderr:
        return made.stderr or "the compiler failed"
    surplus = exports(out) ^ {"graft_plugin_v1"}
    return surplus and f"{out} exports {exports(out)}"


def config_accepted(path):
    with tempfile.TemporaryDirectory(prefix="graft-stage-") as stage:
        folders = {"GRAFT_PLUGIN_DIR": PLUGINS, "GRAFT_STAGE_DIR": stage}
        said = run(GRAFTD, "-t", "-c", path, env={**os.environ, **folders})
    return said.returncode != 0 and f"exit {said.returncode}: {said.stdout}{said.stderr}"


def foreign_paths(unit):
    """Programs that the unit names and that are not there."""
    programs = re.findall(r"^Exec\w+=(\S+)", open(unit).read(), re.M)
    return [p for p in programs if not os.access(p, os.X_OK)] or not programs


names = ["hello", "echo", "request-id", "access-log", "slow", "counter"]
absent = [n for n in names if not os.path.exists(f"{PLUGINS}/{n}.so")]
case("the distribution's plugins are there", absent and f"missing in {PLUGINS}: {absent}")
if PLAIN:
    case("graftd exports no symbol", exports(GRAFTD))
    surplus = needed(PROBE) - {"libc.so.6", "libevent_core-2.1.so.7", "ld-linux-x86-64.so.2"}
    case("the probe is linked to libc and libevent_core only", surplus)
    bad = [n for n in names if exports(f"{PLUGINS}/{n}.so") != {"graft_plugin_v1"}]
    case("a plugin exports its descriptor only", bad)
case("the default configuration is accepted", config_accepted(f"{SRCDIR}/packaging/graft.json"))
with tempfile.TemporaryDirectory(prefix="graft-sdk-") as folder:
    hello = f"{SRCDIR}/plugins/hello/hello.c"
    case("graft.pc builds a plugin in C", build_plugin(folder, os.environ["TEST_CC"], hello, "hello.so"))
if INSTALLED:
    version = run(GRAFTD, "-V").stdout
    offered = run("pkg-config", "--modversion", "graft").stdout.strip()
    case("graft.pc and graftd agree on the version", offered not in version and f"{version} / {offered}")
    folder = run("pkg-config", "--variable=plugindir", "graft").stdout.strip()
    case("graft.pc names the plugin folder", folder != PLUGINS and f"{folder}, expected {PLUGINS}")
    unit = os.environ["TEST_SYSTEMD_UNIT"]
    case("the systemd unit runs what is installed", foreign_paths(unit))
print(f"1..{len(results)}")
sys.exit(0 if all(results) else 1)
