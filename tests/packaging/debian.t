#!/usr/bin/env python3
# Debian packages: built, the same twice, sound, installed on a bare Debian, upgraded under load, removed
"""Wants root, the network (Debian's mirrors) and four minutes. GRAFT_TEST_DIST: a tarball of `make dist`."""
import atexit
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration", "lib")]
from grafttest import *  # noqa: E402,F403
from bare import Bare, Failure, lives, run  # noqa: E402

NAMES = ("graftd", "graft-plugins", "graft-dev", "graft-doc")
WANTED = ("debootstrap", "dpkg-buildpackage", "dh", "lintian", "fakeroot")
LACKING = [tool for tool in WANTED if shutil.which(tool) is None]
if os.geteuid() != 0 or LACKING:
    skip_all("wants root" if not LACKING else "wants " + ", ".join(LACKING))
DIST = os.environ.get("GRAFT_TEST_DIST")
if not DIST or not os.path.exists(DIST):
    skip_all("GRAFT_TEST_DIST names no tarball (make dist)")
VERSION = re.search(r"graft-([0-9.]+)\.tar", DIST).group(1)


def unpack(name):
    """The source as a package maintainer has it: the tarball and packaging/debian as debian/."""
    folder = os.path.join(tempdir(0o755), name)
    os.mkdir(folder)
    shutil.copy(DIST, os.path.join(folder, f"graft_{VERSION}.orig.tar.xz"))
    run("tar", "-xf", DIST, "-C", folder)
    source = os.path.join(folder, f"graft-{VERSION}")
    shutil.copytree(os.path.join(source, "packaging", "debian"), os.path.join(source, "debian"))
    return source


def build(source, what="full"):
    env = {**os.environ, "DEB_BUILD_OPTIONS": "nocheck parallel=2", "HOME": tempdir()}
    for name in [key for key in env if key.startswith(("MAKE", "TEST_", "GRAFT_"))]:
        env.pop(name)
    run("dpkg-buildpackage", "-us", "-uc", "--build=" + what, cwd=source, env=env)
    return os.path.dirname(source)


def edit(path, old, new):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert old in text, f"{old!r} is not in {path}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(old, new, 1))


def debs(folder):
    return {os.path.basename(path).split("_")[0]: path for path in glob.glob(os.path.join(folder, "*.deb"))}


def field(deb, name):
    return run("dpkg-deb", "-f", deb, name).strip()


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def second_release():
    """The next version of all: another changelog, and hello says something else."""
    source = unpack("second")
    edit(os.path.join(source, "debian", "changelog"), f"({VERSION}-1)", f"({VERSION}-2)")
    edit(os.path.join(source, "plugins", "hello", "hello.c"), "hello, world", "hello again")
    return build(source, "binary")


FIRST = debs(build(unpack("first")))
BARE = Bare(os.path.join(tempdir(0o755), "root"))
atexit.register(BARE.close)


@case("the packages that are built")
def _():
    is_(sorted(name for name in FIRST if not name.endswith("-dbgsym")), sorted(NAMES), "their names")
    like(field(FIRST["graftd"], "Provides"), r"\bgraft-abi-1 \(= \d+\)", "graftd provides the ABI, with its minor as version")
    like(field(FIRST["graft-plugins"], "Depends"), r"\bgraft-abi-1 \(>= \d+\)", "plugins depend on it")
    like(run("dpkg-deb", "-c", FIRST["graft-doc"]), "/html/index.html", "the site is in graft-doc")
    ok(int(field(FIRST["graftd"], "Installed-Size")) < 4096, "graftd is less than 4 MB")


@case("lintian has nothing to say")
def _():
    """But of what a distribution sets that takes it: the maintainer's address, the bug that asks for the package."""
    changes = glob.glob(os.path.join(os.path.dirname(FIRST["graftd"]), "*.changes"))[0]
    said = subprocess.run(["lintian", "--allow-root", "--fail-on", "none", "--suppress-tags", "initial-upload-closes-no-bugs,bogus-mail-host,bogus-mail-host-in-debian-changelog",
                           changes], capture_output=True, text=True, check=False).stdout
    is_([line for line in said.splitlines() if re.match("[EW]: ", line)], [], "no error and no warning")


@case("built twice, in another folder: the same bytes")
def _():
    again = debs(build(unpack("another-folder-with-a-longer-name")))
    for name in sorted(FIRST):
        is_(sha256(again[name]), sha256(FIRST[name]), name)


@case("on a bare Debian: install, serve, upgrade under load, remove")
def _():
    second = debs(second_release())
    bare = BARE
    for folder, files in (("first", FIRST), ("second", second)):
        os.makedirs(bare.path("repo", folder))
        for name in NAMES:
            shutil.copy(files[name], bare.path("repo", folder, name + ".deb"))
    bare.sh("apt-get -qq update; apt-get -qqy --no-install-recommends install /repo/first/graftd.deb")
    like(bare.sh("id graft"), "uid=", "the user graft is there")
    ok(not os.path.exists(bare.path("run/graft/control.sock")), "nothing was started without an init system")
    lives(bare, lambda release, name: bare.sh(f"apt-get -qqy install /repo/{release}/{name}.deb 2>&1"),
          lambda name: bare.sh(f"apt-get -qqy remove {name}"))
    bare.sh("apt-get -qqy purge graftd")
    ok(not os.path.exists(bare.path("usr/sbin/graftd")) and not os.path.exists(bare.path("etc/graft")), "purged")


@case("what the packages bring tests of (autopkgtest), on the same Debian")
def _():
    """Each with what it says that it depends on, and the packages of the first case."""
    tests = os.path.join(HERE, "..", "..", "packaging", "debian", "tests")
    with open(os.path.join(tests, "control"), encoding="ascii") as file:
        wanted = re.findall(r"^Tests: (.*)\nDepends: (.*)$", file.read(), re.M)
    BARE.sh("apt-get -qqy --no-install-recommends install /repo/first/graftd.deb /repo/first/graft-dev.deb")
    for name, depends in wanted:
        packages = " ".join(each.split("|")[0].strip() for each in depends.split(","))
        shutil.copy(os.path.join(tests, name), BARE.path("repo"))
        try:
            BARE.sh(f"apt-get -qqy --no-install-recommends install {packages}")
            said = BARE.sh(f"/repo/{name}")
            ok(True, name)
            diag("\n".join(line for line in said.splitlines() if re.match(r"\d+ ms: ", line)))
        except Failure as error:
            ok(False, name, str(error))
    is_([name for name, _ in wanted], ["live-swap", "dh-graft", "new-middleware", "first-hour"], "all that control names")
    BARE.sh("apt-get -qqy purge graftd graft-dev")
    left = [path for path in ("usr/sbin/graftd", "etc/graft", "usr/include/graft", "usr/share/graft") if os.path.exists(BARE.path(path))]
    is_(left, [], "purged: nothing is left of them")
    is_(processes_in(BARE.root), [], "no process is left")


def processes_in(root):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.realpath(f"/proc/{pid}/root") == os.path.realpath(root):
                with open(f"/proc/{pid}/comm", encoding="ascii") as file:
                    found.append(file.read().strip())
        except OSError:
            pass
    return found


main()
