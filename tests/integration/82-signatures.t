#!/usr/bin/env python3
# Signatures of plugin files: minisign's own and hostile ones, links, races, keys that come and go, graftctl check
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

if "libsodium" not in subprocess.run(["ldd", GRAFTD], capture_output=True, text=True).stdout:
    @case("built without libsodium: a configuration that asks for signatures is refused")
    def _():
        for value in ({"required": True, "keys": ["RWQ" + "A" * 53]}, {"keys": ["RWQ" + "A" * 53]}):
            s = Server({"versioned": "versioned_v1"}, {"signatures": value}, start=False)
            for args in (["-t"], []):
                run = subprocess.run([GRAFTD, "-c", s.config_path, *args], capture_output=True, text=True)
                is_(run.returncode, 1, f"graftd {' '.join(args)}: exit 1")
                like(run.stderr, r"graft\.json:\d+:\d+: signatures: this graftd cannot verify any: it was built without "
                                 r"libsodium: build it with --with-sodium \(Debian: libsodium-dev\), or remove", "and why")
    main()

if not shutil.which("minisign"):
    skip_all("minisign is not installed (packaging/deps check)")


class Key:
    """A key pair of minisign."""

    def __init__(self):
        self.dir = tempdir()
        self.pub, self.secret = os.path.join(self.dir, "k.pub"), os.path.join(self.dir, "k.key")
        subprocess.run(["minisign", "-G", "-W", "-p", self.pub, "-s", self.secret], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        os.chmod(self.pub, 0o644)
        with open(self.pub) as f:
            self.text = f.read().splitlines()[1]
        self.id = base64.b64decode(self.text)[2:10]
        self.shown = self.id[::-1].hex().upper()

    def sign(self, data, *options):
        """The signature of these bytes, as minisign writes it."""
        path = os.path.join(self.dir, "file.so")
        with open(path, "wb") as f:
            f.write(data)
        subprocess.run(["minisign", "-S", "-m", path, "-s", self.secret, *options], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        with open(path + ".minisig", "rb") as f:
            return f.read()


KEY, OTHER = Key(), Key()


def write(path, data, mode=0o644):
    with open(path + ".new", "wb") as f:
        f.write(data)
    os.chmod(path + ".new", mode)
    os.rename(path + ".new", path)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def read(name):
    with open(plugin_path(name), "rb") as f:
        return f.read()


def sig_of(s, name="versioned"):
    return os.path.join(s.plugin_dir, name + ".so.minisig")


def signed_server(plugins=None, keys=(KEY,), required=True, **more):
    """One whose plugins are all signed by the first key."""
    plugins = plugins or {"versioned": "versioned_v1"}
    config = {"signatures": {"required": required, "keys": [k.text for k in keys]}, **more.pop("config", {})}
    s = Server(plugins, config, start=False, **more)
    for name in plugins:
        write(sig_of(s, name), KEY.sign(read(plugins[name])))
    s.start()
    return s


def version(s):
    return s.get("/version").text.strip()


MARKED = r"""
#include <graft/graft.h>
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void code_runs(void)
{
    int fd = open("%s", O_CREAT | O_WRONLY | O_APPEND, 0644);
    if (fd >= 0 && write(fd, "x", 1) == 1)
        close(fd);
}
static graft_next version(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "marked\n");
}
GRAFT_PLUGIN(.name = "versioned", .version = "9",
             .routes = (const graft_route[]){ { "GET", "/version", version, 0 }, { 0 } }, )
"""


def marked():
    """Bytes of a plugin that leaves a mark when any of its code runs, and where."""
    mark = os.path.join(tempdir(0o755), "mark")
    with open(compile_plugin(MARKED % mark), "rb") as f:
        return f.read(), mark


# ---- Required ----

@case("a start needs signatures of every file, by -t and by the server itself")
def _():
    s = Server({"versioned": "versioned_v1"}, {"signatures": {"required": True, "keys": [KEY.text]}}, start=False)
    why = r"versioned\.so: (signature: )?not signed: signatures\.required is true, expected versioned\.so\.minisig " \
          r"beside it, found no such file: sign it \(minisign -Sm versioned\.so\)"
    run = subprocess.run([GRAFTD, "-t", "-c", s.config_path], capture_output=True, text=True)
    is_(run.returncode, 1, "-t: exit 1")
    like(run.stdout, "refused: " + why, "and why")
    s.start(wait=False)
    is_(s.wait_exit(), 1, "graftd: exit 1")
    like(s.tail(), why, "and why")
    failed = s.find_events("plugin_failed")
    is_([e["stage"] for e in failed], ["signature"], "the event names the stage")
    write(sig_of(s), KEY.sign(read("versioned_v1")))
    run = subprocess.run([GRAFTD, "-t", "-c", s.config_path], capture_output=True, text=True)
    is_(run.returncode, 0, "-t with the signature")
    s.start()
    is_(version(s), "v1", "and it starts")


@case("both of minisign's algorithms, keys as text and as a file, with any trusted comment")
def _():
    for keys in ([KEY.text], [KEY.pub], [OTHER.pub, KEY.text]):
        for options in ([], ["-l"], ["-t", ""], ["-l", "-t", "x" * 2000]):
            s = Server({"versioned": "versioned_v1"}, {"signatures": {"required": True, "keys": keys}}, start=False)
            write(sig_of(s), KEY.sign(read("versioned_v1"), *options))
            run = subprocess.run([GRAFTD, "-t", "-c", s.config_path], capture_output=True, text=True)
            is_(run.returncode, 0, f"{len(keys)} keys, minisign {' '.join(options)[:20]}")
    s = signed_server()
    data = fresh("versioned_v2")
    write(sig_of(s), KEY.sign(data, "-l"))
    put(s, data, "versioned")
    is_((s.ctl("reload").returncode, version(s)), (0, "v2"), "a swap to a file with a legacy signature")


@case("no code of a file without a good signature runs, in no process")
def _():
    s = signed_server()
    data, mark = marked()
    put(s, data, "versioned")
    for what, text in (("none", None), ("another key's", OTHER.sign(data)), ("another file's", KEY.sign(data + b"x")),
                       ("junk", b"junk\n")):
        remove(sig_of(s)) if text is None else write(sig_of(s), text)
        is_(s.ctl("reload").returncode, 1, f"signature: {what}: reload exits 1")
        ok(not os.path.exists(mark), "and no constructor has run")
        run = subprocess.run([GRAFTCTL, "check", "--key", KEY.text, file_of(s, "versioned")], capture_output=True, text=True)
        is_((run.returncode, os.path.exists(mark)), (1, False), "nor has one in graftctl check")
    is_(version(s), "v1", "the old version serves")
    is_(s.staged(), [f for f in s.staged() if s.active("versioned")["id"] in f], "only its copy is staged")
    write(sig_of(s), KEY.sign(data))
    is_(s.ctl("reload").returncode, 0, "with a good signature it is loaded")
    is_((version(s), os.path.exists(mark)), ("marked", True), "and runs, and leaves its mark")


@case("nor when it comes by a canary, by --retry, behind a crash, by an upgrade or at the next start")
def _():
    s = signed_server(config={"crash_window_ms": 1})
    first, index = s.active("versioned"), os.path.join(s.dir, "state", "index.json")
    wait_for(lambda: os.path.exists(index) and first["sha256"] in open(index).read(), 10, "what serves is kept")
    data, mark = marked()
    put(s, data, "versioned")
    write(sig_of(s), OTHER.sign(data))
    for args in (["canary", "versioned", "--weight", "0"], ["canary", "versioned", "--weight", "50"], ["reload", "--retry"]):
        run = s.ctl(*args)
        is_(run.returncode, 1, f"{' '.join(args)}: exit 1")
        like(run.stdout + run.stderr, f"signed with the key {OTHER.shown}", "and why")
    s.config["plugins"] = {"versioned": {"rollout": {"steps": [50]}}}
    s.write_config()
    is_(s.ctl("reload", "--config").returncode, 0, "a rollout is configured")
    is_(s.ctl("--json", "reload", "--retry").returncode, 1, "which does not begin either")
    run = s.ctl("upgrade")
    is_(run.returncode, 1, "an upgrade: exit 1")
    like(run.stderr, f"signed with the key {OTHER.shown}", "and why")
    for n in range(2):
        pid = s.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: serves_again(s, pid), 20, "another process")
        is_((version(s), s.active("versioned")["sha256"]), ("v1", first["sha256"]), f"crash {n}: the signed version serves")
    s.stop()
    for args in (["-t"], []):
        run = subprocess.run([GRAFTD, "-c", s.config_path, *args], capture_output=True, text=True, timeout=secs(40))
        is_(run.returncode, 1, f"a start {' '.join(args)}: exit 1")
        like(run.stdout + run.stderr, f"signed with the key {OTHER.shown}", "and why")
    is_(os.path.exists(mark), False, "none of its code has run, in no process")


def serves_again(s, pid):
    try:
        return s.pid != pid and s.status()["generation"] > 0
    except (OSError, HttpError):
        return False


# ---- Hostile signature files ----

def with_line(text, i, line):
    lines = text.split(b"\n")
    lines[i] = line
    return b"\n".join(lines)


def with_raw(text, i, change):
    raw = bytearray(base64.b64decode(text.split(b"\n")[i]))
    change(raw)
    return with_line(text, i, base64.b64encode(bytes(raw)))


def flip(at):
    def change(raw):
        raw[at] ^= 1
    return change


def setting(at, data):
    def change(raw):
        raw[at:at + len(data)] = data
    return change


def hostile(good, data):
    """(name, bytes or a function that makes something of the path, what is said)"""
    lines = good.split(b"\n")
    again = r"sign the plugin again \(minisign -Sm\)"
    malformed = r"malformed signature: \S+versioned\.so\.minisig: line %d: expected %s, found .*: " + again
    wrong = r"wrong signature: \S+versioned\.so\.minisig \(key " + KEY.shown + r"\) is not of this file: it was changed " \
        r"after signing, or that is the signature of another version: sign it again \(minisign -Sm\)"
    tampered = r"the trusted comment in \S+versioned\.so\.minisig was changed after signing, found \".*\": get the " \
        r"signature again from who made it, or " + again
    yield "missing", remove, r"not signed: signatures\.required is true, expected versioned\.so\.minisig beside it, found"
    yield "empty", b"", malformed % (1, "\"untrusted comment: ...\"")
    yield "binary", bytes(range(256)) * 8, malformed % (1, "\"untrusted comment: ...\"")
    yield "a terminal's escapes", b"\x1b[2J\x1b]0;x\x07", r"found \"\\u001b\[2J\\u001b\]0;x\\u0007\""
    yield "one line", lines[0] + b"\n", malformed % (2, r"a signature \(100 characters of base64\)")
    yield "two lines", b"\n".join(lines[:2]) + b"\n", malformed % (3, "\"trusted comment: ...\"")
    yield "three lines", b"\n".join(lines[:3]) + b"\n", malformed % (4, "the trusted comment's signature .*")
    yield "five lines", good + b"more\n", malformed % (5, "the end of the file")
    yield "a line too many between", with_line(good, 1, b"\n" + lines[1]), malformed % (2, "a signature .*")
    yield "a public key", open(KEY.pub, "rb").read(), malformed % (2, "a signature .*")
    yield "base64 that is none", with_line(good, 1, b"!" * 100), malformed % (2, "a signature .*")
    yield "another algorithm", with_raw(good, 1, setting(0, b"EX")), malformed % (2, "a signature by the algorithm Ed or ED")
    yield "the other algorithm", with_raw(good, 1, setting(0, b"Ed")), wrong
    yield "an unknown key", OTHER.sign(data), \
        rf"signed with the key {OTHER.shown} \(\S+\), expected one of {KEY.shown}: sign it with one of these, or add " \
        r"that public key to signatures\.keys"
    yield "another key under a known key's id", with_raw(OTHER.sign(data), 1, setting(2, KEY.id)), wrong
    yield "another file's", KEY.sign(data + b"\0"), wrong
    yield "one bit of the signature", with_raw(good, 1, flip(20)), wrong
    yield "zeros", with_raw(good, 1, setting(10, bytes(64))), wrong
    yield "another trusted comment", with_line(good, 2, b"trusted comment: version 99"), tampered
    yield "a trusted comment with one more blank", with_line(good, 2, lines[2] + b" "), tampered
    yield "no trusted comment", with_line(good, 2, b"trusted comment: "), tampered
    yield "one bit of the trusted comment's signature", with_raw(good, 3, flip(63)), tampered
    yield "the trusted comment of another signature", b"\n".join(lines[:2] + KEY.sign(data + b"x").split(b"\n")[2:]), tampered
    yield "too large", good + b"x" * 20000, \
        r"versioned\.so\.minisig has \d+ bytes, expected at most 16384: it is no signature of minisign: " + again
    yield "a terabyte of nothing", lambda path: subprocess.run(["truncate", "-s", "1T", path], check=True), \
        r"has 1099511627776 bytes, expected at most 16384"
    yield "a folder", os.mkdir, r"versioned\.so\.minisig is a folder, expected a regular file: put the file there that"
    yield "a FIFO", os.mkfifo, r"versioned\.so\.minisig is a device, pipe or socket, expected a regular file"
    yield "a device", lambda path: os.symlink("/dev/zero", path), r"is a device, pipe or socket, expected a regular file"
    yield "a link to nothing", lambda path: os.symlink("nothing", path), \
        r"versioned\.so\.minisig is a link to a file that is not there: mend the link"
    yield "a link to itself", lambda path: os.symlink(path, path), r"versioned\.so\.minisig Too many levels of symbolic"


@case("every fault of a signature has its sentence, is no news the second time, and is tried again when mended")
def _():
    s = signed_server()
    first = s.active("versioned")["id"]
    data = fresh("versioned_v2")
    good = KEY.sign(data)
    put(s, data, "versioned")
    for name, text, why in hostile(good, data):
        remove(sig_of(s))
        if isinstance(text, bytes):
            write(sig_of(s), text)
        elif text is not remove:
            text(sig_of(s))
        run = s.ctl("--json", "reload")
        is_(run.returncode, 1, f"{name}: reload exits 1")
        said = reason_of(json.loads(run.stdout))
        like(said, r"versioned\.so: .*" + why, "and says why")
        ok("\n" not in said and len(said) < 2400, "in one line", said)
        is_(s.ctl("reload").returncode, 0, "the second time it is no news")
        is_((version(s), s.active("versioned")["id"]), ("v1", first), "the old version serves")
    remove(sig_of(s))
    is_(s.ctl("reload", "--retry").returncode, 1, "--retry tries it again")
    write(sig_of(s), good)
    is_(s.ctl("reload").returncode, 0, "a new signature beside the same file is tried by itself")
    is_(version(s), "v2", "and serves")


@case("a signature that the server's user may not read", OTHERS, NO_OTHERS)
def _():
    s = Server({"versioned": "versioned_v1"}, {"signatures": {"required": True, "keys": [KEY.text]}, "user": "nobody",
                                               "ops": "", "workers": 1}, start=False)
    os.chmod(s.dir, 0o755)
    shutil.rmtree(os.path.join(s.dir, "stage"), ignore_errors=True)
    write(sig_of(s), KEY.sign(read("versioned_v1")), 0o600)
    s.start(wait=False)
    is_(s.wait_exit(), 1, "exit 1")
    like(s.tail(), r"versioned\.so\.minisig cannot be opened: Permission denied: let the user of graftd read it", "and why")


# ---- Not required ----

@case("not required: what is signed must be signed well, what is not is taken")
def _():
    s = Server({"versioned": "versioned_v1"}, {"signatures": {"keys": [KEY.text]}})
    is_(version(s), "v1", "a start without a signature")
    data = fresh("versioned_v2")
    put(s, data, "versioned")
    for what, text in (("a bad one", KEY.sign(data + b"x")), ("an unknown key's", OTHER.sign(data)), ("junk", b"junk")):
        write(sig_of(s), text)
        is_((s.ctl("reload").returncode, version(s)), (1, "v1"), f"{what} is refused")
    write(sig_of(s), KEY.sign(data))
    is_((s.ctl("reload").returncode, version(s)), (0, "v2"), "a good one is taken")
    remove(sig_of(s))
    put(s, fresh("versioned_v1"), "versioned")
    is_((s.ctl("reload").returncode, version(s)), (0, "v1"), "and none")


@case("without keys nobody looks at signatures")
def _():
    s = Server({"versioned": "versioned_v1"}, {"signatures": {"required": False}})
    write(sig_of(s), b"junk")
    put(s, "versioned_v2", "versioned")
    is_((s.ctl("reload").returncode, version(s)), (0, "v2"), "junk is no hindrance")


# ---- Keys that come and go ----

@case("keys are read again on HUP: what serves goes on, with a warning; what is new must fit the new keys")
def _():
    s = signed_server()
    first = s.active("versioned")["id"]
    mark = s.mark()
    s.config["signatures"]["keys"] = [OTHER.text]
    s.write_config()
    event = s.reload_signal(signal.SIGHUP)
    is_((event["ok"], [e["id"] for e in event["unchanged"]]), (True, [first]), "the key is gone, the version stays")
    like(s.wait_event("plugin_warning", since=mark)["msg"],
         rf"^versioned\.so: goes on serving, but would not be loaded again: signed with the key {KEY.shown} .*expected "
         rf"one of {OTHER.shown}", "that is told")
    mark = s.mark()
    is_(s.ctl("reload").returncode, 0, "a scan with the same configuration")
    is_(s.find_events("plugin_warning", mark), [], "says nothing more")
    data = fresh("versioned_v2")
    write(sig_of(s), KEY.sign(data))
    put(s, data, "versioned")
    is_((s.ctl("reload").returncode, version(s)), (1, "v1"), "a new file, signed with the old key, is refused")
    s.config["signatures"]["keys"] = [OTHER.text, KEY.text]
    s.write_config()
    is_((s.ctl("reload", "--config").returncode, version(s)), (0, "v2"), "and tried again when the key is back")
    s.config["signatures"]["keys"] = [OTHER.text]
    s.config["plugins"] = {"versioned": {"config": {"new": True}}}
    s.write_config()
    is_((s.ctl("reload", "--config").returncode, version(s)), (1, "v2"), "a new configuration loads it again: refused")
    s.config["signatures"] = {"required": True, "keys": []}
    s.write_config()
    run = s.ctl("reload", "--config")
    is_(run.returncode, 1, "a configuration that demands the impossible is refused")
    like(run.stderr, r"graft\.json:\d+:\d+: signatures: required is true, but keys names none", "with its place")
    is_(version(s), "v2", "and changes nothing")


@case("what is kept for a rollback is held against the keys as well, also after a restart")
def _():
    state = tempdir()
    s = signed_server(keys=(KEY, OTHER), config={"state_dir": state})
    data = fresh("versioned_v2")
    write(sig_of(s), OTHER.sign(data))
    put(s, data, "versioned")
    ok(s.reload()["ok"], "the next version is signed with another key")

    def keys(*wanted):
        s.config["signatures"]["keys"] = [k.text for k in wanted]
        ok(s.reload_signal(signal.SIGHUP)["ok"], "HUP")
    keys(OTHER)
    run = s.ctl("rollback", "versioned")
    is_((run.returncode, version(s)), (1, "v2"), "the key of the version before is gone: no rollback")
    like(run.stderr, f"signed with the key {KEY.shown}, which is none of signatures.keys any more", "and why")
    config = s.config
    s.finish()
    os.unlink(s.log_path)
    s = Server([], dir=s.dir, config=config)
    is_(s.ctl("rollback", "versioned").returncode, 1, "nor after a restart")
    keys(OTHER, KEY)
    run = s.ctl("rollback", "versioned")
    is_((run.returncode, version(s)), (0, "v1"), "it is back: rollback")
    s.stop()

    s = Server({"versioned": "versioned_v1"}, {"state_dir": tempdir()})
    data = fresh("versioned_v2")
    write(sig_of(s), KEY.sign(data))
    put(s, data, "versioned")
    ok(s.reload()["ok"], "nobody asks for signatures")
    s.config["signatures"] = {"required": True, "keys": [KEY.text]}
    ok(s.reload_signal(signal.SIGHUP)["ok"], "now they are required")
    run = s.ctl("rollback", "versioned")
    is_((run.returncode, version(s)), (1, "v2"), "what was kept before is not taken")
    like(run.stderr, "kept when nobody asked for signatures", "and why")
    s.stop()


@case("a new key under the id of an old one is another key, for what is kept too")
def _():
    raw = base64.b64decode(OTHER.text)
    forged = base64.b64encode(raw[:2] + KEY.id + raw[10:]).decode()
    s = signed_server(keys=(KEY, OTHER), config={"state_dir": tempdir()})
    data = fresh("versioned_v2")
    write(sig_of(s), OTHER.sign(data))
    put(s, data, "versioned")
    ok(s.reload()["ok"], "the next version is signed with another key")
    s.config["signatures"]["keys"] = [forged, OTHER.text]
    ok(s.reload_signal(signal.SIGHUP)["ok"], "HUP")
    run = s.ctl("rollback", "versioned")
    is_((run.returncode, version(s)), (1, "v2"), "no rollback to what the old key has signed")
    like(run.stderr, f"signed with the key {KEY.shown}, which is none of signatures.keys any more", "and why")
    s.config["signatures"]["keys"] = [KEY.text, OTHER.text]
    ok(s.reload_signal(signal.SIGHUP)["ok"], "the old one is back")
    is_((s.ctl("rollback", "versioned").returncode, version(s)), (0, "v1"), "rollback")
    s.stop()


@case("a start with a wrong key does not cost what is kept")
def _():
    config = {"state_dir": tempdir(), "plugins": {"versioned": {"required": False}}}
    s = signed_server(keys=(KEY, OTHER), config=config)
    index = os.path.join(config["state_dir"], "index.json")
    data = fresh("versioned_v2")
    write(sig_of(s), OTHER.sign(data))
    put(s, data, "versioned")
    ok(s.reload()["ok"], "the next version is signed with another key")
    wait_for(lambda: os.path.exists(index) and json.load(open(index))["plugins"][0]["good"][1:], 10, "both are kept")
    is_((s.ctl("rollback", "versioned").returncode, version(s)), (0, "v1"), "and is taken back")

    def again(*keys):
        s.config["signatures"]["keys"] = [k.text for k in keys]
        s.finish()
        os.unlink(s.log_path)
        return Server([], dir=s.dir, config=s.config)
    s = again(OTHER)
    is_(s.get("/version").status, 404, "without the key of the good version nothing of it serves")
    like(s.wait_event("plugin_warning")["msg"], f"cannot be used: it was signed with the key {KEY.shown}", "and why")
    s.install("hello")
    write(sig_of(s, "hello"), OTHER.sign(read("hello")))
    ok(s.reload()["ok"], "another plugin comes, and the store is written")
    s = again(OTHER, KEY)
    is_((version(s), s.active("versioned")["source"]), ("v1", "store"), "with the key it serves again")
    s.stop()


# ---- Where it lies ----

@case("links: beside the resolved file first, beside the link where none is there")
def _():
    s = signed_server()
    releases = tempdir(0o755)
    data = fresh("versioned_v2")
    real = os.path.join(releases, "libversioned-2.so.1")
    write(real, data)
    os.symlink(real, file_of(s, "versioned") + ".new")
    os.rename(file_of(s, "versioned") + ".new", file_of(s, "versioned"))
    write(sig_of(s), KEY.sign(data))
    write(real + ".minisig", KEY.sign(data + b"x"))
    run = s.ctl("reload")
    is_((run.returncode, version(s)), (1, "v1"), "the one beside the resolved file counts, although the other is good")
    like(run.stdout + run.stderr, r"wrong signature: " + real + r"\.minisig", "and is named")
    remove(real + ".minisig")
    is_((s.ctl("reload").returncode, version(s)), (0, "v2"), "without it, the one beside the link does")
    data = fresh("versioned_v1")
    write(real + ".minisig", KEY.sign(data))
    write(real, data)
    remove(sig_of(s))
    is_((s.ctl("reload").returncode, version(s)), (0, "v1"), "it need not be beside the link")


def kubernetes(s, n, data, signature):
    """What the kubelet does: a new folder, one renamed link."""
    folder = os.path.join(s.plugin_dir, f"..2026_{n}")
    os.mkdir(folder)
    write(os.path.join(folder, "versioned.so"), data)
    if signature is not None:
        write(os.path.join(folder, "versioned.so.minisig"), signature)
    new = os.path.join(s.plugin_dir, "..data_tmp")
    os.symlink(os.path.basename(folder), new)
    os.rename(new, os.path.join(s.plugin_dir, "..data"))


@case("a folder as Kubernetes mounts it: file and signature change in one rename, and the watch sees it")
def _():
    s = Server({}, {"signatures": {"required": True, "keys": [KEY.pub]}, "watch": True}, start=False)
    data = read("versioned_v1")
    kubernetes(s, 1, data, KEY.sign(data))
    for name in ("versioned.so", "versioned.so.minisig"):
        os.symlink(f"..data/{name}", os.path.join(s.plugin_dir, name))
    s.start()
    is_(version(s), "v1", "it starts")
    for n, name in ((2, "versioned_v2"), (3, "versioned_v1")):
        data = fresh(name)
        kubernetes(s, n, data, KEY.sign(data))
        wait_for(lambda: version(s) == name[-2:], 20, f"{name} serves")
    mark = s.mark()
    kubernetes(s, 4, fresh("versioned_v2"), None)
    like(s.wait_event("plugin_failed", since=mark)["error"], r"versioned\.so\.minisig is a link to a file that is not there", "a release without a signature is refused")
    is_(version(s), "v1", "the old one serves")


@case("the watch sees a signature that comes later, also beside the file that a link leads to")
def _():
    s = signed_server(config={"watch": True})
    data = fresh("versioned_v2")
    put(s, data, "versioned")
    s.wait_event("plugin_failed", stage="signature")
    is_(version(s), "v1", "the file alone is refused")
    write(sig_of(s), KEY.sign(data))
    wait_for(lambda: version(s) == "v2", 20, "its signature is seen")
    real = os.path.join(tempdir(0o755), "v.so")
    data = fresh("versioned_v1")
    write(real, data)
    remove(sig_of(s))
    mark = s.mark()
    os.symlink(real, file_of(s, "versioned") + ".new")
    os.rename(file_of(s, "versioned") + ".new", file_of(s, "versioned"))
    s.wait_event("plugin_failed", since=mark, stage="signature")
    write(real + ".minisig", KEY.sign(data))
    wait_for(lambda: version(s) == "v1", 20, "its signature beside the resolved file is seen")
    ok(True, "both were seen")


# ---- Races ----

@case("files that change under a scan never get unsigned code in")
def _():
    s = signed_server()
    bad, mark = marked()
    files = [fresh("versioned_v1"), fresh("versioned_v2")]
    pairs = [(d, KEY.sign(d)) for d in files] + [(bad, KEY.sign(files[0])), (bad, OTHER.sign(bad))]
    stop = threading.Event()

    def mix():
        n = 0
        while not stop.is_set():
            n += 1
            data, signature = pairs[n * 7 % len(pairs)]
            if n % 3:
                write(sig_of(s), signature)
            put(s, data, "versioned")
            if n % 5 == 0:
                write(sig_of(s), pairs[n % len(pairs)][1])
            with open(file_of(s, "versioned"), "r+b") as f:  # in place, too
                f.write(pairs[(n + 1) % len(pairs)][0])

    thread = threading.Thread(target=mix)
    thread.start()
    seen = set()
    try:
        for _ in range(60):
            s.reload(retry=True)
            seen.add(version(s))
    finally:
        stop.set()
        thread.join()
    ok(seen <= {"v1", "v2"}, "only signed code has answered", seen)
    ok(not os.path.exists(mark), "and none of the other has run")
    data = fresh("versioned_v2")
    put(s, data, "versioned")
    write(sig_of(s), KEY.sign(data))
    is_((s.ctl("reload").returncode, version(s)), (0, "v2"), "a good pair is loaded as before")


# ---- graftctl check ----

def check(*args, **more):
    return subprocess.run([GRAFTCTL, *args], capture_output=True, text=True, **more)


@case("graftctl check: the signature among the findings, by key or by configuration")
def _():
    folder = tempdir()
    so = os.path.join(folder, "hello.so")
    write(so, read("hello"))
    run = check("check", so, "--key", KEY.text)
    is_(run.returncode, 1, "not signed")
    like(run.stdout, r"not signed\nrefused \(signature\): not signed: .*: sign it \(minisign -Sm hello\.so\).*It would be "
                     r"refused", "with its cure")
    is_(check("check", so).returncode, 0, "without a key nothing is demanded")
    write(so + ".minisig", KEY.sign(read("hello")))
    for args in (["--key", KEY.text], ["--key", KEY.pub], [f"--key={KEY.text}"], ["--key", OTHER.text, "--key", KEY.pub]):
        run = check("check", so, *args)
        is_(run.returncode, 0, f"check {args[0]}")
        like(run.stdout, "signature good\nIt would be loaded", "says that it is good")
    is_(check("check", so, "--key", "k.pub", cwd=KEY.dir).returncode, 0, "a key file by a relative path")
    config = os.path.join(folder, "graft.json")
    for keys, status, word in (([KEY.text], 0, "good"), ([OTHER.text], 1, "bad")):
        with open(config, "w") as f:
            json.dump({"signatures": {"required": True, "keys": keys}}, f)
        run = check("--json", "check", so, "-c", config)
        answer = json.loads(run.stdout)
        is_((run.returncode, answer["ok"], answer["signature"]), (status, not status, word), f"a configuration: {word}")
    is_([f["stage"] for f in answer["findings"]], ["signature"], "the finding's stage")
    is_(json.loads(check("--json", "check", so).stdout)["signature"], None, "null when none is asked for")
    run = check("check", so, "--key", "junk")
    is_(run.returncode, 1, "what is no key")
    like(run.stderr, r"graftctl: --key: expected a minisign public key .*found \"junk\"", "is told")
    run = check("check", so, "-c", "/no/such.json")
    is_(run.returncode, 1, "no such configuration")
    for args in (["check", so, "--key"], ["check", so, "-c"], ["check", so, "-c", config, "--key", KEY.text],
                 ["--key", KEY.text, "check", so], ["status", "--key", KEY.text], ["check", so, "--keys", KEY.text]):
        is_(check(*args).returncode, 2, f"usage: {' '.join(args)[:40]}")


TWO_FAULTS = """
#include <graft/graft.h>
static graft_next h(graft_req *r, void *s) { (void)s; return graft_text(r, 200, ""); }
GRAFT_PLUGIN(.name = "two", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/a/:x", h, 0 }, { "GET", "/a/:y", h, 0 }, { 0 } }, )
"""


@case("graftctl check: every finding at once, each with its cure")
def _():
    so = os.path.join(tempdir(), "many.so")
    shutil.copyfile(compile_plugin(MARKED % "/dev/null", "-Wl,-z,nodelete", "-Wl,-z,execstack", "-Wl,-rpath,$ORIGIN"), so)
    os.chmod(so, 0o666)
    answer = json.loads(check("--json", "check", so, "--key", KEY.text).stdout)
    texts = [(f["stage"], f["text"]) for f in answer["findings"] if f["severity"] == "refusal"]
    for stage, pattern in (("stage", r"writable by others .*: chmod go-w many\.so$"),
                           ("signature", r"not signed: .*: sign it \(minisign -Sm many\.so\)"),
                           ("preflight", r"executable stack .*: link with -z noexecstack"),
                           ("preflight", r"DF_1_NODELETE, .*: link without -z nodelete"),
                           ("preflight", r"\$ORIGIN: .*: link it statically, or give an absolute path")):
        ok([t for s, t in texts if s == stage and re.search(pattern, t)], f"{stage}: {pattern}", texts)
    is_(len(texts), 5, "five in all")
    answer = json.loads(check("--json", "check", compile_plugin(TWO_FAULTS)).stdout)
    is_([(f["severity"], f["stage"]) for f in answer["findings"]], [("refusal", "routes")], "two routes that are one")
    many = TWO_FAULTS.replace("/a/:x", "a").replace("/a/:y", "/:b/:b").replace('"two"', '"Two"')
    text = json.loads(check("--json", "check", compile_plugin(many)).stdout)["findings"][0]["text"]
    like(text, r"^bad name .*; route 1: .*begin with '/'; route 2: .*rename one$", "every fault of a descriptor")
    undefined = TWO_FAULTS.replace("static graft_next h(", "extern int nowhere(void);\nstatic graft_next h(").replace(
        "(void)s;", "(void)s; nowhere();")
    text = json.loads(check("--json", "check", compile_plugin(undefined)).stdout)["findings"][0]["text"]
    like(text, r"undefined symbol: nowhere: define it, or link the library that does", "dlopen's words, with a cure")
    if os.geteuid() == 0:
        os.chown(so, 12345, 12345)
        text = json.loads(check("--json", "check", so).stdout)["findings"][0]["text"]
        like(text, r"owned by uid 12345, expected root .*: chown root many\.so; and writable by more than its owner: "
                   r"chmod go-w many\.so$", "owner and mode together")
    run = check("check", os.path.join(tempdir(), "none.so"))
    like(run.stdout, r"cannot open it: No such file or directory: is its path right\?", "no such file")


main()
