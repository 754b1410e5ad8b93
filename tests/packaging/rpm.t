#!/usr/bin/env python3
# RPM packages: built, sound, installed beside a graftd that serves, upgraded under load, removed
"""Debian's rpm, in a bare Debian: what the packages need of libraries is Debian's own there (--nodeps). Root and network."""
import atexit
import glob
import os
import re
import shutil
import subprocess
import sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration", "lib")]
from grafttest import *  # noqa: E402,F403
from bare import Bare, lives, run  # noqa: E402

LACKING = [tool for tool in ("debootstrap", "rpmbuild", "rpmlint") if shutil.which(tool) is None]
if os.geteuid() != 0 or LACKING:
    skip_all("wants root" if not LACKING else "wants " + ", ".join(LACKING))
DIST = os.environ.get("GRAFT_TEST_DIST")
if not DIST or not os.path.exists(DIST):
    skip_all("GRAFT_TEST_DIST names no tarball (make dist)")
FOLDER = os.path.join(HERE, "..", "..", "packaging", "rpm")
LIBRARIES = "libelf1,libevent-core-2.1-7,libevent-2.1-7,libevhtp0,libmd0,libsodium23"


def build(release, *edits, top=None):
    """The packages, by name. top: the folder that they are built in."""
    top = top or tempdir(0o755)
    os.mkdir(os.path.join(top, "SOURCES"))
    name = os.path.basename(DIST)
    if edits:
        run("tar", "-xf", DIST, "-C", top)
        for path, old, new in edits:
            path = os.path.join(top, name.removesuffix(".tar.xz"), path)
            with open(path, encoding="utf-8") as file:
                text = file.read()
            assert old in text
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.replace(old, new, 1))
        run("tar", "-cJf", os.path.join(top, "SOURCES", name), "-C", top, name.removesuffix(".tar.xz"))
    else:
        shutil.copy2(DIST, os.path.join(top, "SOURCES"))
    spec = os.path.join(top, "graft.spec")
    with open(os.path.join(FOLDER, "graft.spec"), encoding="utf-8") as file:
        text = re.sub(r"^(Release: +)1%", rf"\g<1>{release}%", file.read(), flags=re.M)
    with open(spec, "w", encoding="utf-8") as file:
        file.write(text)
    os.utime(spec, (os.path.getmtime(DIST),) * 2)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "TEST_", "GRAFT_"))}
    run("rpmbuild", "--nodeps", "--nocheck", "--with", "html", "--define", f"_topdir {top}", "-ba", spec, env=env)
    return {re.sub(r"-[0-9].*", "", os.path.basename(path)): path for path in glob.glob(os.path.join(top, "RPMS", "*", "*.rpm"))}


TOP = os.path.join(tempdir(0o755), "rpmbuild")
os.mkdir(TOP)
FIRST = build(1, top=TOP)
SECOND = build(2, ("plugins/hello/hello.c", "hello, world", "hello again"))  # and in another folder


@case("the packages that are built")
def _():
    is_(sorted(FIRST), ["graft-devel", "graft-doc", "graft-plugins", "graftd"], "their names")
    like(run("rpm", "-qp", "--provides", FIRST["graftd"]), r"(?m)^graft-abi-1 = \d+$", "graftd provides the ABI")
    like(run("rpm", "-qpl", FIRST["graft-doc"]), "/html/index.html", "the site is among the guides")
    like(run("rpm", "-qp", "--requires", FIRST["graft-plugins"]), r"(?m)^graft-abi-1 >= \d+$", "plugins require it")


@case("rpmlint has nothing to say")
def _():
    said = subprocess.run(["rpmlint", "-r", os.path.join(FOLDER, "graft.rpmlintrc"), os.path.join(FOLDER, "graft.spec"),
                           *FIRST.values()], capture_output=True, text=True, check=False).stdout
    is_(re.findall(r"^.*: [EW]: .*$", said, re.M), [], "no error and no warning")


def files(package):
    """What it installs, with sizes, times, digests, modes and owners."""
    return run("rpm", "-qp", "--nosignature", "--dump", package).splitlines()


@case("built twice: the same bytes; in another folder: the same files")
def _():
    """rpm itself writes the folder that it builds in into the source package, whose digest is in the others."""
    kept = TOP + ".kept"
    os.rename(TOP, kept)
    os.mkdir(TOP)
    try:
        again = build(1, top=TOP)
        for name in sorted(FIRST):
            with open(again[name], "rb") as one, open(FIRST[name].replace(TOP, kept), "rb") as other:
                ok(one.read() == other.read(), name)
    finally:
        shutil.rmtree(TOP)
        os.rename(kept, TOP)
    for name in ("graftd", "graft-devel", "graft-doc"):  # all that the second release's change is not in
        is_(files(SECOND[name]), files(FIRST[name]), f"{name}: built elsewhere")


@case("installed, served, upgraded under load, removed")
def _():
    bare = Bare(os.path.join(tempdir(0o755), "root"), LIBRARIES + ",rpm")
    atexit.register(bare.close)
    for folder, files in (("first", FIRST), ("second", SECOND)):
        os.makedirs(bare.path("repo", folder))
        for name in ("graftd", "graft-plugins"):
            shutil.copy(files[name], bare.path("repo", folder, name + ".rpm"))
    bare.sh("useradd --system --home-dir /var/lib/graft graft; rpm -U --nodeps /repo/first/graftd.rpm")
    lives(bare, lambda release, name: bare.sh(f"rpm -U --nodeps /repo/{release}/{name}.rpm 2>&1"),
          lambda name: bare.sh(f"rpm -e --nodeps {name}"))
    bare.sh("rpm -e graftd")
    ok(not os.path.exists(bare.path("usr/sbin/graftd")), "removed")


main()
