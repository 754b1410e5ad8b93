#!/usr/bin/env python3
# Rust: the example is built by rustc and by cargo, serves and is unmapped; panics stay inside; what keeps a version.
import os
import re
import shutil
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

# Debian's, where it is there: what a package is built with.
PATH = "/usr/bin:/bin:" + ENV.get("PATH", "")
RUSTC, CARGO = shutil.which("rustc", path=PATH), shutil.which("cargo", path=PATH)
CRATE = os.path.join(SRCDIR, "sdk/rust/graft")
if SANITIZER != "none":
    skip_all("Rust's code has no sanitizer here")
if not RUSTC:
    skip_all("rustc is not installed (Debian: apt-get install rustc)")
BUILT = tempdir()

PINS = r"""
use graft::{Next, Request};
use std::cell::RefCell;

thread_local! { static OWN: RefCell<Vec<u8>> = RefCell::new(Vec::new()); }

fn pin(req: &mut Request, _: &()) -> Next {
    match req.param("how") {
        Some(b"local") => OWN.with(|v| v.borrow_mut().push(1)),
        Some(b"current") => drop(std::thread::current()),
        Some(b"print") => print!(" "),
        Some(b"spawn") => drop(std::thread::spawn(|| OWN.with(|v| v.borrow_mut().push(1))).join()),
        Some(b"hook") => {
            drop(std::panic::take_hook());
            let caught = std::panic::catch_unwind(|| panic!("with the hook of std"));
            drop(caught);
        }
        _ => {}
    }
    req.text(200, "ok\n")
}

graft::plugin! {
    name: "pins", version: "1", summary: "", state: (), routes: [("GET", "/pin/:how", pin)],
}
"""

ELSEWHERE = r"""
use graft::{Next, Request};

fn after(req: &mut Request, _: &()) -> Next {
    let later = req.defer();
    drop(std::thread::spawn(move || later.after(5, |later, x| {
        x.text(200, "from a thread\n");
        later.done();
    })).join());
    Next::Later
}

fn offload(req: &mut Request, _: &()) -> Next {
    req.defer().offload(|| 6, |later, _, n| drop(std::thread::spawn(move || {
        later.offload(move || n * 7, |later, x, n| {
            x.text(200, &format!("{}\n", n));
            later.done();
        });
    }).join()));
    Next::Later
}

graft::plugin! {
    name: "elsewhere", version: "1", summary: "", state: (),
    routes: [("GET", "/after", after), ("GET", "/offload", offload)],
}
"""


def rustc(*args):
    run = subprocess.run([RUSTC, "--edition", "2021", "-O", "-D", "warnings", *args], capture_output=True, text=True)
    if run.returncode or run.stderr:
        raise Failed(f"rustc {' '.join(args)}:\n{run.stderr}")


def plugin(name, source):
    """The .so of a Rust source, with the crate as it is installed."""
    so, crate = os.path.join(BUILT, f"{name}.so"), os.path.join(BUILT, "libgraft.rlib")
    if not os.path.exists(crate):
        rustc("--crate-type", "rlib", "--crate-name", "graft", "-o", crate, f"{CRATE}/src/lib.rs")
    if not os.path.exists(so):
        rustc("--crate-type", "cdylib", "--crate-name", name, "-C", "strip=debuginfo", "--extern", f"graft={crate}",
              "-o", so, source)
    return so


def source(name, text):
    """The same, of a text."""
    path = os.path.join(BUILT, f"{name}.rs")
    with open(path, "w") as f:
        f.write(text)
    return plugin(name, path)


def words():
    return plugin("words", os.path.join(SRCDIR, "examples/rust/src/lib.rs"))


@case("sys.rs has the members of graft.h, in their order")
def _():
    with open(f"{SRCDIR}/sdk/include/graft/graft.h") as f:
        header = f.read()
    with open(f"{CRATE}/src/sys.rs") as f:
        rust = f.read()
    names = {"loop": "event_loop"}  # a word of Rust's
    for struct, begin in (("graft_host", "struct graft_host {"), ("graft_plugin", "typedef struct graft_plugin {")):
        body = re.sub(r"/\*.*?\*/", "", header.split(begin)[1].split("\n}")[0], flags=re.S)
        wanted = []
        for line in filter(str.strip, body.split(";")):
            pointer = re.search(r"\(\*(\w+)\)", line)
            wanted += [pointer[1]] if pointer else re.findall(r"(\w+)\s*(?:,|$)", line)
        found = re.findall(r"^    pub (\w+):", rust.split(f"pub struct {struct} {{")[1].split("\n}")[0], re.M)
        is_(found, [names.get(n, n) for n in wanted], struct)


@case("the example serves, and each version is unmapped")
def _():
    s = Server({"words": words()})
    is_(s.post("/words", b"a b a").body, b"3\n", "a body")
    is_(s.get("/words/a").body, b"2\n", "a parameter")
    missing = s.get("/words/c%20%25s")
    is_((missing.status, missing.json()["detail"]), (404, "nobody said 'c %s'"), "an RFC 9457 problem")
    is_(s.get("/words-sum?n=1000").body, b"333833500\n", "work on the pool")
    is_(s.get("/words-wait?ms=5").body, b"waited\n", "a timer")
    is_(s.metrics()["graft_plugin_words_counted"], 3, "a counter")
    for _ in range(3):
        for target in ("/words/a", "/words-sum?n=10", "/words-wait?ms=1", "/words-panic/now", "/words-panic/work"):
            s.get(target)
        old = s.active("words")["id"]
        s.install(make_unique(words()), "words")
        ok(s.reload()["ok"], "swapped")
        s.wait_event("retired", id=old, unmapped=True)
        is_(s.maps(old), [], f"{old} is unmapped, after panics too")


@case("a panic costs its request, and says what and where it was")
def _():
    s = Server({"words": words()})
    for how, line in (("now", "panic: in a handler"), ("later", "panic in a callback: in a timer"),
                      ("work", "panic in offloaded work: on the pool"), ("drop", "dropped without done"),
                      ("nothing", "Next::Later without defer")):
        mark = s.mark()
        is_(s.get(f"/words-panic/{how}").status, 500, f"{how}: 500")
        wait_for(lambda: [e for e in s.find_events(since=mark, plugin="words", level="error") if line in str(e)], 10,
                 f"the log has '{line}'")
    is_(s.get("/words/a").status, 404, "it serves on")
    is_(s.find_events("misuse"), [], "nothing was misused")
    for first, reason in (("two words", "config.first is 'two words': expected one word; 100%s sure"),
                          ("panic", "panic: config.first says so")):
        s.config["plugins"] = {"words": {"config": {"first": first}}}
        like(s.reload(config=True)["failed"], re.escape(reason), f"refused: {reason}")
    s.config["plugins"] = {"words": {"config": {"first": "one"}}}
    ok(s.reload(config=True)["ok"] and s.get("/words/one").body == b"1\n", "a configuration is read")


@case("a Later that is used on another thread goes to its worker by itself")
def _():
    s = Server({"elsewhere": source("elsewhere", ELSEWHERE)})
    is_(s.get("/after").body, b"from a thread\n", "a timer")
    is_(s.get("/offload").body, b"42\n", "the pool")
    is_(s.find_events("misuse"), [], "nothing was misused")


@case("what docs/RUST.md says of thread-locals is so")
def _():
    so = source("pins", PINS)
    run = subprocess.run([GRAFTCTL, "check", so], capture_output=True, text=True)
    is_(run.returncode, 0, "graftctl check: it would be loaded")
    like(run.stdout, "warning .*__cxa_thread_atexit_impl", "with a warning, as for each file with std in it")
    with open(f"{SRCDIR}/docs/RUST.md") as f:
        page = f.read()
    s = Server({"pins": so})
    for how in ("none", "spawn", "print", "local", "current", "hook"):
        is_(s.get(f"/pin/{how}").body, b"ok\n", f"{how}: it serves")
        old = s.active("pins")["id"]
        s.install(make_unique(so), "pins")
        ok(s.reload()["ok"], "swapped")
        state = wait_for(lambda: s.find_events("retired", id=old) or s.find_events("stuck", id=old), 10, "its end")[0]
        row = re.search(rf"^\| .*`{how}` \| (unmapped|stays) \|", page, re.M)
        is_("stays" if state["event"] == "stuck" else "unmapped", row and row[1], f"{how}, as docs/RUST.md says")
        if state["event"] == "stuck":
            like(state["reason"], "still mapped after dlclose: .*thread_local", "and the log says why")


@case("cargo builds it, without a network", CARGO, "cargo is not installed (Debian: apt-get install cargo)")
def _():
    folder = tempdir()
    shutil.copytree(os.path.join(SRCDIR, "examples/rust"), f"{folder}/examples/rust")
    shutil.copytree(CRATE, f"{folder}/sdk/rust/graft")
    run = subprocess.run([CARGO, "build", "--offline", "--release"], cwd=f"{folder}/examples/rust", capture_output=True,
                         text=True, env={**os.environ, "PATH": PATH, "CARGO_HOME": f"{folder}/home"})
    ok(run.returncode == 0, "cargo build --offline --release", run.stderr)
    s = Server({"words": f"{folder}/examples/rust/target/release/libwords.so"})
    is_(s.post("/words", b"x y").body, b"2\n", "it serves")


main()
