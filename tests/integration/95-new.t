#!/usr/bin/env python3
# graftctl new and dev: a folder that builds, is tried and is swapped on every save; what they refuse.
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

SDK = ENV["TEST_BUILDDIR"] + "/sdk"


RUSTC = shutil.which("rustc")


def environment(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GRAFT_", "MAKE", "MFLAGS")) and k != "GRAFTD"}
    return {**env, "DEBFULLNAME": "Ada L., Countess", "DEBEMAIL": "ada@example.org", **more}


def run(folder, *command, **more):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=secs(120),
                          env=environment(**more))


def new(folder, name, *options):
    done = run(folder, GRAFTCTL, "new", name, *options)
    is_((done.returncode, done.stderr), (0, ""), f"new {name} {' '.join(options)}")
    return os.path.join(folder, name)


def edit(path, old, new_text):
    """As an editor saves: another file in its place."""
    with open(path) as f:
        text = f.read()
    if old not in text:
        raise Failed(f"{path}: no {old!r} in it")
    with open(path + "~new", "w") as f:
        f.write(text.replace(old, new_text))
    shutil.copymode(path, path + "~new")
    os.rename(path + "~new", path)


@case("what new refuses, and that it leaves nothing behind")
def _():
    folder = tempdir()
    for name in ("", "Shop", "9to5", "a_b", "a/b", "..", "a.b", "a-", "-a", "a" * 65, "ä"):
        done = run(folder, GRAFTCTL, "new", "--lang", "c", name) if not name.startswith("-") else \
            run(folder, GRAFTCTL, "new", name)
        is_(done.returncode, 2, f"the name '{name}'")
    like(run(folder, GRAFTCTL, "new", "Shop").stderr, "no name for a plugin 'Shop': expected a to z", "says why")
    done = run(folder, GRAFTCTL, "new", "shop", "--lang", "cobol")
    is_(done.returncode, 2, "a language")
    like(done.stderr, "unknown language 'cobol': expected c, c\\+\\+ or rust", "says which there are")
    done = run(folder, GRAFTCTL, "new", "shop", GRAFT_TEMPLATES="/nowhere")
    is_(done.returncode, 1, "no templates")
    like(done.stderr, "no templates in /nowhere/c-handler: install .*graft-dev", "says what to install")
    is_(os.listdir(folder), [], "nothing was made")
    os.mkdir(os.path.join(folder, "shop"))
    done = run(folder, GRAFTCTL, "new", "shop")
    is_(done.returncode, 1, "a folder that is there")
    like(done.stderr, "shop is here already: choose another name", "says so")
    is_((os.listdir(folder), os.listdir(os.path.join(folder, "shop"))), (["shop"], []), "and is left alone")
    full = os.path.join(folder, "full")
    shutil.copytree(os.path.join(SRCDIR, "sdk/templates"), full)
    os.symlink("nowhere", os.path.join(full, "common", "zz"))
    done = run(folder, GRAFTCTL, "new", "shop2", GRAFT_TEMPLATES=full)
    is_((done.returncode, sorted(os.listdir(folder))), (1, ["full", "shop"]), "a template that cannot be read")


def names_are_filled(path, name):
    """Every name and every text of the project."""
    wrong = []
    for folder, _, files in os.walk(path):
        for file in files:
            full = os.path.join(folder, file)
            with open(full) as f:
                text = f.read()
            if "NAME" in file or re.search(r"@(RUN|NAME|IDENT|LANG|TOOLS|AUTHOR|EMAIL|DATE|YEAR)@", text):
                wrong.append(full)
            if (file in ("test.sh", "rules")) != text.startswith("#!"):
                wrong.append(full + ": its first line")
            if text.startswith("#!") != bool(os.stat(full).st_mode & stat.S_IXUSR):
                wrong.append(full + ": mode")
    is_(wrong, [], f"{name}: no hole is left, scripts can be run")


def lives(folder, name, lang, *kind):
    path = new(folder, name, "--lang", lang, *kind)
    names_are_filled(path, name)
    for file in ("README.md", "Makefile", "test.sh", ".gitignore", ".github/workflows/ci.yml", "debian/control",
                 "debian/rules", "debian/changelog", "debian/copyright", "debian/source/format"):
        ok(os.path.exists(os.path.join(path, file)), f"{name} has {file}")
    made = run(path, "make")
    is_((made.returncode, "warning" in made.stderr), (0, False), f"{name}: make, without a warning")
    done = run(path, "make", "check")
    ok(done.returncode == 0, f"{name}: make check", done.stdout + done.stderr)
    ok(len(re.findall("^ok - ", done.stdout, re.M)) >= 3, f"{name}: it tried something", done.stdout)
    done = run(path, GRAFTCTL, "check", f"{name}.so")
    warned = r"warning \(preflight\): imports __cxa_thread_atexit_impl[^\n]*\n" if lang == "rust" else ""
    like(done.stdout, r"\A\S+: \S+ 0\.1\.0, \d routes, sha256 \S+\n" + warned + r"It would be loaded\.\n\Z",
         f"{name}: check finds nothing")
    done = run(path, "make", "install", f"DESTDIR={path}/dest", "PLUGINDIR=/lib")
    is_(os.listdir(os.path.join(path, "dest/lib")), [f"{name}.so"], f"{name}: make install")
    shutil.rmtree(os.path.join(path, "dest"))
    edit(os.path.join(path, "test.sh"), '"hello', '"good bye')
    ok(run(path, "make", "check").returncode != 0, f"{name}: make check fails when the answer is another")
    run(path, "make", "clean")
    left = [f for f in os.listdir(path) if f.endswith((".so", ".d", ".new", "target"))]
    is_(left, [], f"{name}: make clean")


def live_all(*which):
    folder = tempdir()
    threads = [threading.Thread(target=guarded, args=(folder, *one)) for one in which]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def guarded(folder, name, *more):
    try:
        lives(folder, name, *more)
    except Exception as error:
        ok(False, f"{name}: {error}")


@case("C and C++, handler and middleware: built, tried, checked, installed, cleaned",
      SANITIZER == "none", "compiles by the installed flags, without sanitizers")
def _():
    live_all(("shop", "c"), ("my-shop-2", "c", "--middleware"))
    live_all(("cxx-shop", "c++"), ("cxx-mw", "c++", "--middleware"))


@case("Rust, handler and middleware", SANITIZER == "none" and RUSTC,
      "rustc is not installed, or a sanitizer is at work: Rust's code has none here")
def _():
    live_all(("rs-shop", "rust"), ("rs-mw", "rust", "--middleware"))


@case("a name that the crate, or Rust itself, has too", SANITIZER == "none" and RUSTC,
      "rustc is not installed, or a sanitizer is at work: Rust's code has none here")
def _():
    for name in ("graft", "core"):
        done = run(new(tempdir(), name, "--lang", "rust"), "make")
        ok(done.returncode == 0, f"{name}: make", done.stderr)


class Dev:
    """make dev in a project, with what it prints."""

    def __init__(self, path, **variables):
        self.out = os.path.join(path, "dev.log")
        with open(self.out, "w") as log:
            self.proc = subprocess.Popen(["make", "dev", *(f"{k}={v}" for k, v in variables.items())], cwd=path,
                                         stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                         env=environment())

    def text(self):
        with open(self.out) as f:
            return f.read()

    def says(self, pattern, since=0, seconds=20):
        return wait_for(lambda: re.search(pattern, self.text()[since:]), seconds, f"make dev says {pattern!r}")

    def mark(self):
        return len(self.text())

    def pid(self):
        """Of graftctl, below make."""
        return wait_for(lambda: children(self.proc.pid), 10, "graftctl below make")[0]

    def stop(self):
        for pid in children(self.proc.pid):
            os.kill(pid, signal.SIGTERM)
        return self.proc.wait(timeout=secs(20))


def steady(file):
    """Waits a moment longer than a file system's clock may tick."""
    time.sleep(0.02)
    return file


@case("make dev: saves are built and swapped in within a second, what is bad is told, and nothing is left",
      SANITIZER == "none", "compiles by the installed flags, without sanitizers")
def _():
    temp = tempdir()
    os.environ["TMPDIR"] = temp
    path = new(tempdir(), "shop")
    source = os.path.join(path, "shop.c")
    port = free_port()
    dev = Dev(path, LISTEN=f"127.0.0.1:{port}")
    try:
        dev.says(r"shop\.so: built in .*, graftd started in ")

        def get():
            with Conn(("127.0.0.1", port)) as c:
                return c.get("/shop").text
        is_(get(), "hello, world\n", "it serves")
        times = []
        for i in range(5):
            mark, began = dev.mark(), time.monotonic()
            edit(steady(source), '"world"' if i == 0 else f'"w{i - 1:03}!"', f'"w{i:03}!"')
            dev.says(r"shop [0-9a-f]{12}\.\d+ serves: built in .*, swapped in ", mark)
            times.append(time.monotonic() - began)
            is_(get(), f"hello, w{i:03}!\n", "the saved text is served")
        diag(f"from save to outcome: {', '.join(f'{t * 1000:.0f} ms' for t in times)}")
        within(min(times), 0, 1, "seconds from save to outcome")
        mark = dev.mark()
        edit(steady(source), "static void fini", "static voidd fini")
        dev.says(r"shop\.c:\d+.*error", mark)
        dev.says(r"not built, what served before serves \(make: exit 2\)", mark)
        is_(get(), "hello, w004!\n", "what does not compile changes nothing")
        mark = dev.mark()
        edit(steady(source), "static voidd fini", "static void fini")
        edit(source, 'if (s == NULL)', 'if (s != NULL)')
        dev.says(r"refused, what served before serves: shop\.so: init failed: no memory", mark)
        is_(get(), "hello, w004!\n", "nor what is refused")
        mark = dev.mark()
        edit(steady(source), 'if (s != NULL)', 'if (s == NULL)')
        edit(os.path.join(path, "graft.json"), '"hello"', '"hi"')
        dev.says(r"serves: built in|nothing has changed", mark)
        wait_for(lambda: get() == "hi, w004!\n", 10, "the saved configuration is served")
        mark = dev.mark()
        edit(steady(os.path.join(path, "README.md")), "A plugin", "My plugin")
        os.mkdir(os.path.join(path, "more"))
        time.sleep(0.3)
        is_(dev.text()[mark:], "", "a save that changes nothing is not worth a word")
        with open(os.path.join(path, "Makefile"), "a") as f:
            f.write("\nshop.so: more/name.h\n")
        with open(os.path.join(path, "more/name.h"), "w") as f:
            f.write("#define NAME_IN_FOLDER 1\n")
        dev.says("serves: built in|nothing has changed", mark)
        ok(True, "a new folder is watched as well")
        pid = dev.pid()
        before = sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
        time.sleep(0.5)
        after = sum(map(int, open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
        within(after - before, 0, 1, "clock ticks used while nothing happens")
        dev.stop()
        is_(os.listdir(temp), [], "no folder is left")
        wait_for(lambda: not alive(pid), 10, "it has ended")
    finally:
        dev.stop()
        del os.environ["TMPDIR"]


@case("make dev while init hangs: it says so, and Ctrl-C ends it", SANITIZER == "none",
      "compiles by the installed flags, without sanitizers")
def _():
    temp = tempdir()
    os.environ["TMPDIR"] = temp
    path = new(tempdir(), "shop")
    dev = Dev(path, LISTEN=f"127.0.0.1:{free_port()}")
    try:
        dev.says(r"shop\.so: built in .*, graftd started in ")
        mark = dev.mark()
        edit(steady(os.path.join(path, "shop.c")), "    if (s == NULL)", "    for (;;)\n        (void)getenv(\"A\");\n    if (s == NULL)")
        dev.says(r"the server still loads shop\.so: does init, ready or start wait", mark)
        began = time.monotonic()
        dev.stop()
        within(time.monotonic() - began, 0, secs(9), "seconds until it has ended")
        is_(os.listdir(temp), [], "no folder is left")
    finally:
        dev.stop()
        del os.environ["TMPDIR"]


@case("make dev into a server that runs", SANITIZER == "none", "compiles by the installed flags, without sanitizers")
def _():
    s = Server(["hello"])
    path = new(tempdir(), "shop")
    dev = Dev(path, CONTROL=s.control, PLUGINS=s.plugin_dir)
    try:
        dev.says(r"shop [0-9a-f]{12}\.\d+ serves: built in .*, swapped in ")
        is_(s.get("/shop").body, b"hello, world\n", "swapped into it")
        mark = dev.mark()
        edit(steady(os.path.join(path, "shop.c")), '"world"', '"there"')
        dev.says(r"shop [0-9a-f]{12}\.\d+ serves", mark)
        is_(s.get("/shop").body, b"hello, there\n", "and again")
    finally:
        dev.stop()
    is_(s.get("/hello").status, 200, "it goes on when dev has ended")


@case("what dev refuses")
def _():
    folder = tempdir()
    for args, code, text in ((["dev", "shop"], 2, "'shop' is no NAME.so"),
                             (["--control", "/x", "dev", "shop.so"], 2, "--control needs --plugins DIR")):
        done = run(folder, GRAFTCTL, *args)
        is_(done.returncode, code, f"{' '.join(args)}: exit {code}")
        ok(text in done.stderr, f"and says: {text}", done.stderr)


main()
