#!/usr/bin/env python3
# Rust: the example is built by rustc and by cargo, serves and is unmapped; panics stay inside; what keeps a version.
import os
import re
import shutil
import subprocess
import sys
import time
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

WHOLE = r"""
use graft::{Exchange, HandOver, Later, Next, Plain, Receive, Request, Server, State};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::time::Duration;

static CUT: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicUsize = AtomicUsize::new(0);

struct Whole {
    shared: &'static AtomicU64,
    fresh: bool,
    old: u64,
    ticks: Arc<AtomicU64>,
    own: u64,
    refused: bool,
    panics: String,
}

impl State for Whole {
    fn init(server: &Server) -> Result<Self, String> {
        let ticks = Arc::new(AtomicU64::new(0));
        let counts = ticks.clone();
        server.every(Duration::from_millis(10), move || {
            if counts.fetch_add(1, SeqCst) == 0 {
                panic!("first tick");
            }
        })?;
        let panics = server.config_str("panics", "");
        if panics == "init" {
            panic!("init, after a timer");
        }
        let schema = server.config_int("schema", 1) as u32;
        let (shared, fresh) = server.shared::<AtomicU64>("hits", schema)?;
        let old = server.shared_old::<AtomicU64>("hits", 1).map_or(0, |n| n.load(SeqCst));
        let refused = server.config_bool("refused", false)
            && server.every(Duration::ZERO, || {}).is_err()
            && server.shared::<AtomicU64>("a/b", 1).is_err();
        Ok(Whole { shared, fresh, old, ticks, own: 0, refused, panics })
    }
    fn worker_init(&self, server: &Server) -> Result<(), String> {
        if self.panics == "worker_init" {
            panic!("in worker_init");
        }
        if server.worker().is_none() || server.event_loop().is_null() {
            return Err("no worker".to_owned());
        }
        Ok(())
    }
    fn start(&self, _: &Server) -> Result<(), String> {
        STARTED.fetch_add(1, SeqCst);
        if self.panics == "start" { panic!("in start") } else { Ok(()) }
    }
    fn worker_fini(&self, _: &Server) {
        panic!("in worker_fini");
    }
}

impl HandOver for Whole {
    fn export_state(&self, _: &Server) -> Result<Vec<u8>, String> {
        if self.panics == "export" {
            panic!("in export");
        }
        Ok((self.own + 1).to_string().into_bytes())
    }
    fn import_state(&mut self, _: &Server, schema: u32, data: &[u8]) -> Result<(), String> {
        if self.panics == "import" {
            panic!("in import");
        }
        self.own = std::str::from_utf8(data).unwrap().parse().map_err(|_| "no number".to_owned())?;
        self.own += u64::from(schema) * 100;
        Ok(())
    }
}

fn state(req: &mut Request, w: &Whole) -> Next {
    w.shared.fetch_add(1, SeqCst);
    req.status(202);
    let (hits, ticks) = (w.shared.load(SeqCst), w.ticks.load(SeqCst));
    let _ = write!(req, "{} {} {} {} ", hits, w.fresh, w.old, w.own);
    let _ = write!(req, "{} {} {}", w.refused, STARTED.load(SeqCst), ticks > 1);
    Next::Done
}

fn reads(req: &mut Request, _: &Whole) -> Next {
    let names: Vec<String> = req.headers().filter(|(n, _)| n.starts_with(b"X-"))
        .map(|(n, v)| String::from_utf8_lossy(n).into_owned() + "=" + &String::from_utf8_lossy(v)).collect();
    let target = String::from_utf8_lossy(req.target()).into_owned();
    let pattern = String::from_utf8_lossy(req.route_pattern().unwrap_or(b"none")).into_owned();
    let text = format!("{} {} {} {}", names.join(","), target, pattern, req.is_tls());
    req.text(200, "thrown away");
    req.set_header("X-Gone", "1");
    assert_eq!(req.response_header("x-gone"), Some(&b"1"[..]));
    assert!(req.remove_header("X-Gone") && req.response_header("X-Gone").is_none());
    assert_eq!(req.response_body(), Some(&b"thrown away"[..]));
    assert!(req.reset() && req.response_status() == 200);
    assert_eq!((req.response_bytes(), req.pending()), (0, 0));
    assert!(req.deadline(Duration::from_secs(3)));
    req.write(text.as_bytes());
    req.write_static(b" static");
    let path = std::env::temp_dir().join(format!("whole-{}", std::process::id()));
    std::fs::write(&path, b"fromXa f and more").unwrap();
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    req.send_file(file, 4, 4);
    Next::Done
}

struct Sum {
    bytes: usize,
    pieces: usize,
}
impl Receive for Sum {
    fn chunk(&mut self, x: &mut Exchange, chunk: &[u8]) {
        if chunk.starts_with(b"panic") {
            panic!("in a chunk");
        }
        self.bytes += chunk.len();
        self.pieces += 1;
        x.body_pause();
        x.body_resume();
    }
    fn end(self, later: Later, x: &mut Exchange) {
        if self.bytes == 3 {
            panic!("in the end");
        }
        x.text(200, &format!("{} {}", self.bytes, self.pieces > 0));
        later.done();
    }
    fn cut(self, later: Later, x: &mut Exchange) {
        CUT.fetch_add(1000, SeqCst);
        x.text(200, "to nobody");
        later.done();
    }
}

fn upload(req: &mut Request, _: &Whole) -> Next {
    let later = req.defer();
    drop(std::thread::spawn(move || later.receive(Sum { bytes: 0, pieces: 0 })).join());
    Next::Later
}

fn down(later: Later, x: &mut Exchange, mut left: usize) {
    static BLOCKED: AtomicBool = AtomicBool::new(false);
    while left > 0 {
        left -= 1;
        match x.write(&[b'x'; 65536]) {
            0 => continue,
            1 => {
                BLOCKED.store(true, SeqCst);
                x.flush();
                return later.writable(move |later, x| down(later, x, left));
            }
            _ => {
                CUT.fetch_add(1, SeqCst);
                return later.done();
            }
        }
    }
    x.write(if BLOCKED.load(SeqCst) { b"waited" } else { b"never!" });
    later.done();
}

fn stream(req: &mut Request, _: &Whole) -> Next {
    down(req.defer(), req, 320);
    Next::Later
}

fn small(req: &mut Request, _: &Whole) -> Next {
    let n = 7u64;
    req.on_abort(move |_| { CUT.fetch_add(n, SeqCst); });
    req.on_writable(|_| panic!("no more room"));
    req.after(1, |_| panic!("small"));
    req.defer().after(40, |later, x| {
        x.text(200, "small");
        later.done();
    });
    Next::Later
}

fn cut(req: &mut Request, _: &Whole) -> Next {
    req.text(200, &CUT.load(SeqCst).to_string())
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Mine {
    asked: u64,
}
unsafe impl Plain for Mine {}

fn on_request(req: &mut Request, _: &Whole) -> Next {
    let seven = req.body().map_or(0, |b| b.len() as u64);
    req.scratch_mut::<Mine>().asked += 7 + seven;
    Next::Next
}
fn on_response(req: &mut Request, _: &Whole) -> Next {
    let asked = req.scratch::<Mine>().asked.to_string();
    req.add_header("X-Asked", &asked);
    if req.query("big").is_some() {
        req.scratch::<[u64; 100]>();
    }
    Next::Next
}
fn on_finish(x: &Exchange, _: &Whole) {
    if x.query("finish").is_some() {
        panic!("finish {}", x.scratch::<Mine>().asked);
    }
}

graft::plugin! {
    name: "whole", version: "1", summary: "", state: Whole,
    flags: graft::sys::GRAFT_SERIAL, scratch: Mine, hand_over: 2,
    routes: [
        ("*", "/state", state),
        ("GET", "/reads/:a", reads),
        ("POST", "/upload", upload, stream),
        ("GET", "/stream", stream),
        ("GET", "/small", small),
        ("GET", "/cut", cut),
    ],
    on_request: on_request, on_response: on_response, on_finish: on_finish,
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


def whole(**more):
    return Server({"whole": source("whole", WHOLE)}, {"middleware": ["whole"], **more})


def tells(s, mark, line):
    wait_for(lambda: [e for e in s.find_events(since=mark, plugin="whole", level="error") if line in str(e)], 10,
             f"the log has '{line}'")
    ok(True, f"the log has: {line}")


@case("all of graft.h: what a request has, streams, uploads, and what may never be called")
def _():
    s = whole()
    mark = s.mark()
    read = s.request("GET", "/reads/b?c=%20", {"X-One": "1", "X-Two": "2"})
    is_(read.text, "X-One=1,X-Two=2 /reads/b?c=%20 /reads/:a false staticXa f", "a request")
    is_((read.header("X-Gone"), read.header("X-Asked")), (None, "7"), "a field that was removed, and scratch")
    is_(s.post("/state", b"").status, 202, "every method")
    is_(s.post("/upload", b"x" * 300000).text, "300000 true", "a body as it arrives")
    is_(s.post("/upload", b"").text, "0 false", "an empty one")
    is_(s.post("/upload", b"abc").status, 500, "a panic at its end")
    tells(s, mark, "panic in on_body: in the end")
    with s.connect() as c:
        c.send(request_bytes("POST", "/upload", body=b"panic"))
        isnt(c.ends(), None, "a panic before it: the connection is cut")
    tells(s, mark, "panic in on_body: in a chunk")
    is_(s.get("/state?big=1").status, 500, "scratch that is larger than what was asked for")
    tells(s, mark, "scratch of 800 bytes, but plugin! has 8: say scratch: T there")
    is_(s.get("/small").text, "small", "callbacks that may never be called")
    tells(s, mark, "panic in a callback: small")
    s.get("/state?finish=1")
    tells(s, mark, "panic in on_finish: finish 7")
    big = s.get("/stream")
    is_((len(big.body), big.body[-6:]), (320 * 65536 + 6, b"waited"), "a stream that waits for its reader")
    is_(s.get("/cut").text, "0", "nothing was cut")
    for sent, n in ((request_bytes("GET", "/stream"), 1), (request_bytes("GET", "/small"), 8),
                    (b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabcd", 1008)):
        with s.connect() as c:
            c.send(sent)
            time.sleep(0.02)
        wait_for(lambda: s.get("/cut").text == str(n), 10, f"{n}: the client left")
    wait_for(lambda: s.active("whole")["in_flight"] == 0, 10, "nothing is owed any more")
    is_(s.find_events("misuse"), [], "nothing was misused")


@case("timers, shared blocks, hand-over: a panic stays inside, and the version is unmapped")
def _():
    s = whole()
    wait_for(lambda: s.get("/state").text.endswith(" true"), 10, "a timer that panicked is called again")
    tells(s, 0, "panic in a timer: first tick")
    like(s.get("/state").text, r"^\d+ true 0 0 false 1 true$", "a new block, and no state")

    def swap(why=None, **config):
        s.config["plugins"] = {"whole": {"config": config}}
        answer = s.reload(config=True)
        if why:
            like(answer["failed"], why, f"{config}: refused")
        else:
            ok(answer["ok"], f"{config}: swapped", answer)
    for where in ("init, after a timer", "in worker_init", "in start", "in import"):
        swap(f"panic: {where}", panics=where.split()[-1].replace("timer", "init"))
    hits = int(s.get("/state").text.split()[0])
    first = s.active("whole")["id"]
    mark = s.mark()
    swap(one=1)
    like(s.get("/state").text, rf"^{hits + 1} false 0 201 false 1", "the block goes on, and the state was handed over")
    s.wait_event("retired", id=first, unmapped=True)
    tells(s, mark, "panic in worker_fini: in worker_fini")
    swap(schema=2)
    like(s.get("/state").text, rf"^1 true {hits + 1} 402 false 1", "another schema: a new block, the old one is read")
    swap(panics="export", schema=2)
    swap("panic: in export", one=2)
    is_(s.find_events("misuse"), [], "nothing was misused")
    s = Server({"whole": source("whole", WHOLE)}, {"plugins": {"whole": {"config": {"refused": True}}}})
    like(s.get("/state").text, " true 1 ", "no period, a bad name: an error")


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
