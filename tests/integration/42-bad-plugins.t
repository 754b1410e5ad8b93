#!/usr/bin/env python3
# Bad plugins: the old version serves throughout, the reason is exact, nothing is left behind
import os
import re
import shutil
import socket
import struct
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

LOAD_MS = int(500 * SCALE)

CONSTRUCTOR = ": do that work in init, which can fail with a reason"

# plugin, the stage that refuses it, the reason behind "sin.so: ", what its callbacks log in order
# (None: no code of it may have run)
SINS = [
    ("init_fails", "init", r"init failed: no database at 192\.0\.2\.1:5432: start it, or change config\.db", ""),
    ("init_fails_silently", "init", r"init failed: it gave no reason \(call graft_fail\(\) before returning -1\)", ""),
    ("ready_fails", "ready", r"ready says that it is not fit to serve: the cache holds 3 of 1000 entries: not fit to "
     r"serve", "init fini"),
    ("worker_init_fails", "worker_init", r"worker_init failed: worker 1 cannot open its connection",
     "init ready( worker_init 0 worker_fini 0)? fini"),
    ("start_fails", "start", r"start failed: the lease is held by another process",
     r"init ready( worker_init \d){2}( worker_fini \d){2} fini"),
    ("crash_in_constructor", "probe", r"a constructor crashed: SIGSEGV" + CONSTRUCTOR, None),
    ("exit_in_constructor", "probe", r"a constructor called exit\(0\)" + CONSTRUCTOR, None),
    ("hang_in_constructor", "probe", rf"a constructor did not return within {LOAD_MS} ms" + CONSTRUCTOR, None),
    ("unique_symbol", "preflight", r"1 symbol bound STB_GNU_UNIQUE \(\w+\), expected none: every version would share "
     r"it and none could be unloaded: compile with g\+\+ -fno-gnu-unique \(pkg-config --variable=gxxflags graft\)", None),
    ("exec_stack", "preflight", r"asks for an executable stack \(PT_GNU_STACK with PF_X\): link with -z noexecstack, .*",
     None),
    ("nodelete", "preflight", r"marked DF_1_NODELETE, so it could never be unloaded: link without -z nodelete", None),
    ("origin_runpath", "preflight", r'RUNPATH "\$ORIGIN/lib" with \$ORIGIN: plugins are loaded from a private copy, so '
     r'a library beside the plugin would not be found: link it statically, or give an absolute path .*', None),
    ("textrel", "preflight", r"text relocations \(DT_TEXTREL\), expected none: compile every part of it, also static "
     r"libraries, with -fPIC \(pkg-config --cflags graft\)", None),
    ("no_descriptor", "preflight", r"no descriptor: it does not define the symbol graft_plugin_v1: is it a graft "
     r"plugin\? Define it with GRAFT_PLUGIN\(\.\.\.\) from <graft/graft\.h>, outside of any namespace", None),
    ("wrong_minor", "probe", r"needs SDK 1\.\d+, this graftd offers 1\.\d+: rebuild with an older SDK \(or "
     r"-DGRAFT_NEEDS=\d+\) or upgrade graftd", None),
    ("wrong_size", "probe", r"its descriptor has \d+ bytes, this graftd knows \d+, and the rest is used: rebuild with "
     r"an older SDK or upgrade graftd", None),
    ("wrong_route_size", "probe", r"route 1 has \d+ bytes, this graftd knows \d+, and the rest is used: rebuild with an "
     r"older SDK or upgrade graftd", None),
    ("small_size", "probe", r"graft_plugin_v1 says it has 24 bytes, the smallest contract has \d+: define it with "
     r"GRAFT_PLUGIN\(\.\.\.\)", None),
    ("bad_name", "probe", r'bad name "Bad Name/\.\./x": expected a lower-case letter, then lower-case letters, digits '
     r"and '-', at most 64 characters", None),
    ("bad_route", "probe", r"""route 1: pattern "sin": expected it to begin with '/'""", None),
    ("bad_route_star", "probe", r'route 1: pattern "/sin/\*rest/more": "\*rest" must be the last segment', None),
    ("bad_route_param", "probe", r"""route 1: pattern "/sin/:": ":": expected a name of letters, digits, '_' and '-' """
     r"""behind ':', as a whole segment""", None),
    ("bad_route_twice", "probe", r'route 1: pattern "/sin/:a/:a": two parameters are named "a": rename one', None),
    ("bad_route_method", "probe", r'route 1 \(/sin\): bad method "GE T": expected a token such as GET, at most 32 '
     r'characters, or NULL for every method', None),
    ("bad_route_handler", "probe", r"route 1 \(/sin\) has no handler: a table of routes ends with \{ 0 \}", None),
    ("bad_route_flags", "probe", r"route 1 \(/sin\): unknown flags 0x40, this graftd knows GRAFT_STREAM \(0x1\): "
     r"rebuild with an older SDK or upgrade graftd", None),
]


def bad_server(**config):
    return Server({"sin": "good"}, {"timeouts_ms": {"load": LOAD_MS, "adopt": int(3000 * SCALE)}, **config}, workers=2)


def life(s, mark):
    return " ".join(e["msg"][5:] for e in s.find_events(since=mark, msg=re.compile("^life ")))


def ask(s, how, **options):
    """The same answer, whichever way it is asked for: {"ok", "failed", "reason"}."""
    if how == "usr2":
        event = s.reload_signal()
        return {**event, "reason": event["msg"]}
    return s.reload(**options)


def is_refused(s, p, what, stage, reason, how="reload", plugin="sin", file="sin.so", known=True):
    """Asks for a swap of what lies there: refused for this reason, and nothing has changed."""
    good, held = s.active("sin"), s.held
    mark, count = s.mark(), p.count
    answer = ask(s, how)
    failed = [f for f in answer["failed"] if f["plugin"] == plugin]
    ok(not answer["ok"] and len(failed) >= 1 and
       re.fullmatch(re.escape(file) + ": " + reason, failed[0]["error"], re.S), f"{what}: refused by {how}",
       f"expected {file}: {reason}\nfound {answer}")
    ok(failed and failed[0]["error"] in str(answer["reason"]), f"{what}: the sentence is also the reason", answer)
    event = s.wait_event("plugin_failed", since=mark, file=lambda f: f and f.endswith("/" + file))
    ok(event["stage"] == stage and event["plugin"] == plugin and event["level"] == "error" and failed and event["error"] == failed[0]["error"],
       f"{what}: the log says at which stage, and the same", event)
    swaps = s.find_events("swap", mark)
    ok(len(swaps) == 1 and swaps[0]["ok"] is False and swaps[0]["failed"] == [{**f} for f in answer["failed"]],
       f"{what}: one swap event with the same", swaps)
    again = s.reload()
    ok(again["ok"] and [f for f in again["failed"] if f["plugin"] == plugin and f["error"] == failed[0]["error"]],
       f"{what}: asked again, it is told again, but is no failure", again)
    ok(not s.find_events("plugin_failed", mark)[1:], f"{what}: logged once", s.find_events("plugin_failed", mark))
    wait_for(lambda: p.count > count + 2, 10, "the probes go on")
    now = s.active("sin")
    ok(now["id"] == good["id"] and now["sha256"] == good["sha256"], f"{what}: ps says what serves", now)
    is_footprint(s, held, f"{what}: nothing is left of it")
    return answer


@case("each sin")
def _():
    s = bad_server()
    s.held = footprint(s)
    hows = ["reload", "usr2"]
    with Prober(s, "/sin", every=0.005, check=lambda r: None if r.body == b"good\n" else r.body) as p:
        for i, (what, stage, reason, lived) in enumerate(SINS):
            mark = s.mark()
            put(s, what, "sin")
            is_refused(s, p, what, stage, reason, hows[i % 2])
            # A line that waits for its ring is written before long.
            wait_for(lambda: re.fullmatch(lived or "", life(s, mark)) is not None, 3, f"{what}: {lived!r} is run: "
                     f"{life(s, mark)!r}")
            ok(True, f"{what}: what had begun was undone, in order" if lived is not None else f"{what}: never ran here")
            answer = s.reload(retry=True)
            ok(not answer["ok"] and answer["failed"], f"{what}: --retry tries, and fails again", answer)
            run = s.ctl("reload", "--retry") if i % 5 == 0 else None
            if run:
                ok(run.returncode == 1 and re.search(reason, run.stdout + run.stderr), f"{what}: graftctl says it, exit 1",
                   run)
            is_footprint(s, s.held, f"{what}: nothing is left of that either")
    is_(p.failures, [], f"the old version served throughout ({p.count} probes)")
    put(s, fresh("good"), "sin")
    ok(s.reload()["ok"], "and can still be replaced by a good one")
    is_footprint(s, s.held, "without a trace")


def elf_with(offset, new):
    data = bytearray(fresh("good"))
    data[offset:offset + len(new)] = new
    return bytes(data)


@case("files that are no plugins for this machine")
def _():
    s = bad_server()
    s.held = footprint(s)
    whole = fresh("good")
    files = [
        ("text", b"#!/bin/sh\necho hello, I am a script\n" * 5,
         r"not ELF: it begins with bytes 23 21 2f 62, expected 7f 45 4c 46: build it with cc -shared"),
        ("one byte", b"x", r"(not ELF|truncated|incomplete): .*"),
        ("another machine's", elf_with(18, struct.pack("<H", 183)), r"built for .*(AArch64|aarch64|ARM).*, this graftd "
         r"is .*x86.64.*: build it for this machine"),
        ("32-bit", elf_with(4, b"\1"), r"built for .*32-bit.*, this graftd is .*64-bit.*: build it for this machine"),
        ("big-endian", elf_with(5, b"\2"), r"built for .*big-endian.*, this graftd is .*little-endian.*: build it for "
         r"this machine"),
        ("an object file", elf_with(16, struct.pack("<H", 1)), r"an object file \(ET_REL\), .*"),
        ("an executable", elf_with(16, struct.pack("<H", 2)), r"an executable \(ET_EXEC\), .*"),
        ("no program headers", elf_with(56, struct.pack("<H", 0)), r"no usable headers .*"),
        ("noise behind the magic", whole[:64] + os.urandom(4096), r".+: .+"),
    ]
    if os.uname().machine != "x86_64":
        files = [f for f in files if f[0] != "another machine's"]
    with Prober(s, "/sin", every=0.005) as p:
        for what, data, reason in files:
            put(s, data, "sin")
            answer = s.reload()
            found = reason_of(answer)
            ok(not answer["ok"] and re.search("sin\\.so: " + reason, found), f"{what}: refused", f"{reason}\n{found}")
            is_footprint(s, s.held, f"{what}: nothing is left of it")
    is_(p.failures, [], "the old version served throughout")
    is_(s.active("sin")["served"] >= p.count, True, "and is what ps says")


@case("truncated at many places, and empty")
def _():
    s = bad_server()
    s.held = footprint(s)
    whole = fresh("good")[:-26]  # exactly what the linker wrote
    places = [0, 3, 20, 63, 64, 200, 4096, len(whole) // 2, len(whole) - 64, len(whole) - 1]
    with Prober(s, "/sin", every=0.005) as p:
        for size in places:
            put(s, whole[:size], "sin")
            answer = s.reload()
            found = reason_of(answer)
            ok(not answer["ok"] and re.search(r"sin\.so: (incomplete: (empty file|its .* would reach byte \d+, the file "
               rf"has {size}): write it beside the folder and move it in \(mv\)|truncated: .*)", found),
               f"{size} of {len(whole)} bytes", found)
            is_footprint(s, s.held, f"{size} bytes: nothing is left of it")
    is_(p.failures, [], "the old version served throughout")
    put(s, whole, "sin")
    ok(s.reload()["ok"], "whole, it is fine")


class Writer(threading.Thread):
    """Writes the file where it lies, in parts, with a pause between them."""

    def __init__(self, path, data, seconds, parts=12):
        super().__init__()
        self.path, self.data, self.pause, self.parts = path, data, seconds / parts, parts
        self.begun = threading.Event()

    def run(self):
        step = len(self.data) // self.parts + 1
        with open(self.path, "wb", buffering=0) as f:
            for at in range(0, len(self.data), step):
                f.write(self.data[at:at + step])
                self.begun.set()
                time.sleep(self.pause)


@case("still being written")
def _():
    s = bad_server()
    s.held = footprint(s)
    with Prober(s, "/sin", every=0.005) as p:
        data = fresh("good")
        writer = Writer(file_of(s, "sin"), data, 0.3)
        writer.start()
        writer.begun.wait()
        answer = s.reload()
        writer.join()
        ok(answer["ok"] and answer["changed"], "ready within the time that it is waited for: swapped", answer)
        is_(s.active("sin")["sha256"], sha256_of(file_of(s, "sin")), "the whole file")

        writer = Writer(file_of(s, "sin"), fresh("good"), 2.5, parts=40)
        writer.start()
        writer.begun.wait()
        before = s.active("sin")["id"]
        answer = s.reload()
        ok(not answer["ok"] and re.search(r"sin\.so: incomplete: .*: write it beside the folder and move it in \(mv\)",
           reason_of(answer)), "it takes longer: refused, and how to do it better", answer)
        is_(s.active("sin")["id"], before, "the old version stays")
        writer.join()
        answer = s.reload()
        ok(answer["ok"] and s.active("sin")["sha256"] == sha256_of(file_of(s, "sin")),
           "once it is whole, a reload is enough", answer)
    is_(p.failures, [], "the old versions served throughout")
    is_footprint(s, s.held, "nothing is left")


@case("owned by somebody else, writable by others, not a file")
def _():
    s = bad_server()
    s.held = footprint(s)
    path = file_of(s, "sin")

    def refused(what, reason):
        answer = s.reload()
        ok(not answer["ok"] and re.search(r"sin\.so: " + reason, reason_of(answer)), what, answer)
        answer = s.reload()
        ok(answer["ok"] and answer["failed"], f"{what}: told again, but not tried", answer)
        is_footprint(s, s.held, f"{what}: nothing is left")

    def fine(what):
        answer = s.reload()
        ok(answer["ok"] and not answer["failed"], what, answer)
    with Prober(s, "/sin", every=0.005) as p:
        put(s, fresh("good"), "sin")
        os.chmod(path, 0o664)
        refused("writable by its group", r"writable by its group \(mode 0664\), expected by its owner alone: "
                r"chmod go-w sin\.so")
        os.chmod(path, 0o646)
        refused("writable by others", r"writable by others \(mode 0646\), expected by its owner alone: chmod go-w")
        os.chmod(path, 0o644)
        fine("chmod was enough")
        if os.geteuid() == 0:
            put(s, fresh("good"), "sin")
            os.chown(path, 12345, 0)
            refused("foreign-owned", r"owned by uid 12345, expected root or uid 0 \(graftd's\): chown root sin\.so")
            os.chown(path, 0, 0)
            fine("chown was enough")
            target = os.path.join(s.dir, "target")
            shutil.copy(plugin_path("good"), target)
            os.chown(target, 12345, 0)
            os.unlink(path)
            os.symlink(target, path)
            refused("a link to a foreign-owned file", r"owned by uid 12345")
            os.chown(target, 0, 0)
            fine("the file's owner counts, not the link's")
        else:
            skip("only root can give files away", "foreign-owned")
        os.unlink(path)
        os.symlink("sin.so", path)
        refused("a link to itself", r"cannot be looked at: Too many levels of symbolic links")
        os.unlink(path)
        os.mkdir(path)
        refused("a folder", r"is (a folder|not a regular file)")
        os.rmdir(path)
        os.mkfifo(path)
        refused("a FIFO", r"is (a FIFO|not a regular file)")
        os.unlink(path)
        os.symlink("/dev/zero", path)
        refused("a device", r"is (a device|not a regular file)")
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            refused("a socket", r"is (a socket|not a regular file)")
        os.unlink(path)
        put(s, "good", "sin")
        for name in (".hidden.so", "sin.so.old", "README", "so", ".so"):
            with open(os.path.join(s.plugin_dir, name), "wb") as f:
                f.write(b"nothing")
        fine("dot files and other names are no plugins")
    is_(p.failures, [], "the old version served throughout")


@case("two files with one name, two plugins with one route")
def _():
    s = bad_server()
    s.held = footprint(s)
    with Prober(s, "/sin", every=0.005) as p:
        put(s, "duplicate_name_a", "a")
        put(s, "duplicate_name_b", "b")
        answer = s.reload()
        like(reason_of(answer), r'duplicate name "duplicate": a\.so and b\.so both declare it: remove one of them',
             "duplicate name, naming both")
        ok(not answer["ok"] and s.get("/duplicate").status == 404, "none of them serves", answer)
        is_footprint(s, s.held, "nothing is left of them")
        os.unlink(file_of(s, "b"))
        answer = s.reload()
        ok(answer["ok"] and not answer["failed"], "one is removed: the other is fine", answer)
        is_(s.get("/duplicate").text, "duplicate a\n", "and serves")
        shutil.copy(file_of(s, "a"), file_of(s, "copy"))
        answer = s.reload()
        ok(not answer["ok"] and "duplicate name" in reason_of(answer), "a copy of what serves is a duplicate too",
           answer)
        is_(s.get("/duplicate").text, "duplicate a\n", "it goes on serving")
        os.unlink(file_of(s, "copy"))
        ok(s.reload()["ok"], "the copy goes")
        s.uninstall("a")
        ok(s.reload()["ok"], "both go")

        put(s, "route_conflict_a", "a")
        ok(s.reload()["ok"], "a plugin with /conflict")
        put(s, "route_conflict_b", "b")
        answer = s.reload()
        like(reason_of(answer), r'b\.so: route conflict: GET /conflict of plugin "route-conflict-[ab]" \(\w+\.\d+\) and '
             r'GET /conflict of plugin "route-conflict-[ab]" \(\w+\.\d+\) are the same route: change one, or give one '
             r'plugin a "mount"', "another with the same route")
        is_(s.get("/conflict").text, "conflict a\n", "the first serves")
        again = s.reload()
        ok(again["ok"] and "route conflict" in reason_of(again), "told again, but not tried", again)
        s.config["plugins"] = {"route-conflict-b": {"mount": "/b"}}
        answer = s.reload(config=True)
        ok(answer["ok"] and not answer["failed"], "a mount is enough", answer)
        is_((s.get("/conflict").text, s.get("/b/conflict").text), ("conflict a\n", "conflict b\n"), "both serve")
    is_(p.failures, [], "the others served throughout")
    is_settled(s, 3, "nothing is left of what failed")


@case("a descriptor that is larger but says nothing new")
def _():
    s = bad_server()
    put(s, "grown", "sin")
    ok(s.reload()["ok"], "serves")
    is_((s.get("/grown").text, s.get("/sin").text), ("grown\n", "grown\n"), "with all its routes")


@case("a bad one beside good ones does not hold them up for ever")
def _():
    s = Server({"hello": "hello", "versioned": "versioned_v1"})
    put(s, b"not a plugin", "bad")
    ok(not s.reload()["ok"], "new and bad: nothing is swapped")
    put(s, "versioned_v2", "versioned")
    answer = s.reload()
    ok(answer["ok"] and [c["plugin"] for c in answer["changed"]] == ["versioned"] and
       [f["plugin"] for f in answer["failed"]] == ["bad"], "known to be bad: told, and the others are swapped", answer)
    is_(s.get("/version").text, "v2\n", "v2 serves")
    run = s.ctl("reload")
    ok(run.returncode == 0 and "not ELF" in run.stdout + run.stderr, "graftctl reload: exit 0, and told", run)
    put(s, fresh("init_fails"), "sin")
    put(s, "versioned_v3", "versioned")
    answer = s.reload()
    ok(not answer["ok"] and s.get("/version").text == "v2\n", "a new bad one holds up", answer)
    answer = s.reload()
    ok(answer["ok"] and s.get("/version").text == "v3\n", "once", answer)
    s.config["plugins"] = {"sin": {"config": {"db": "elsewhere"}}}
    answer = s.reload(config=True)
    ok(not answer["ok"] and "sin.so: init failed" in reason_of(answer), "a new configuration is a new attempt", answer)
    put(s, "good", "sin")
    ok(s.reload()["ok"] and s.get("/sin").text == "good\n", "a good file in its place is loaded")
    s.uninstall("bad")
    answer = s.reload()
    is_((answer["ok"], answer["failed"]), (True, []), "what is gone is no longer told")


@case("at the start: every reason, exit 1; or without it where it is not required")
def _():
    s = Server({"hello": "hello", "sin": "init_fails", "noelf": "hello", "stack": "exec_stack"}, start=False)
    put(s, b"nonsense", "noelf")
    s.status_expected = 1
    s.start(wait=False)
    is_(s.wait_exit(), 1, "exit 1")
    s.log()
    text = "\n".join([str(e) for e in s.events] + s.other_lines)
    for reason in ("sin.so: init failed: no database", "noelf.so: not ELF", "stack.so: asks for an executable stack"):
        ok(reason in text, f"said: {reason}", text)
    is_(s.staged(), [], "nothing stays staged")
    s = Server({"hello": "hello", "sin": "init_fails"}, {"plugins": {"sin": {"required": False}}})
    is_((s.get("/hello").status, s.get("/sin").status), (200, 404), "not required: it starts without it")
    event = s.event("plugin_failed")
    ok(event and "no database" in event["error"], "and says why", event)
    is_settled(s, 1, "nothing is left of it")

main()
