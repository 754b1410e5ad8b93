"""What the tests of swaps share, beside grafttest: plugin files with bytes of their own, and proofs
that a swap left nothing behind."""

import concurrent.futures
import hashlib
import os
import re
import threading
import time

from grafttest import *  # noqa: F403
from grafttest import Failed
import grafttest

__all__ = ["Server", "Failed", "fresh", "put", "sha256_of", "damage", "footprint", "is_footprint", "settle", "is_settled", "In",
           "reason_of", "file_of", "IDENTITY", "has_identity", "later", "Marked", "mark_of"]

IDENTITY = ("plugin", "version", "id", "sha256", "config_sha256")


class Server(grafttest.Server):
    """grafttest's, but it does not wait for idle connections at its end."""

    def __init__(self, plugins=("hello", "echo"), config=None, **more):
        config = {"drain": {"idle_ms": 20}, **(config or {})}
        super().__init__(plugins, config, **more)


def fresh(what):
    """The bytes of a plugin, with some at the end that no server has seen: the same code, a new file."""
    with open(plugin_path(what), "rb") as f:
        return f.read() + b"graft-test" + os.urandom(16)


def put(server, data, name):
    """Puts these bytes, or this plugin, into the folder as NAME.so by rename; returns their SHA-256."""
    if isinstance(data, str):
        with open(plugin_path(data), "rb") as f:
            data = f.read()
    temporary = os.path.join(server.plugin_dir, f".{name}.{threading.get_ident()}")
    with open(temporary, "wb") as f:
        f.write(data)
    os.chmod(temporary, 0o644)
    os.rename(temporary, file_of(server, name))
    return hashlib.sha256(data).hexdigest()


def file_of(server, name):
    return os.path.join(server.plugin_dir, name + ".so")


def sha256_of(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def damage(server, sha256):
    """Changes the last byte of this file in the store of good versions; its path."""
    path = os.path.join(server.dir, "state", "files", sha256)
    os.chmod(path, 0o600)
    with open(path, "r+b") as f:
        f.seek(-1, 2)
        f.write(b"?")
    return path


def reason_of(answer, plugin=None):
    """All that a reload's answer says about what failed."""
    said = [f["error"] for f in answer.get("failed", []) if plugin in (None, f["plugin"])]
    return " | ".join([str(answer.get("reason"))] + [str(text) for text in said])


def has_identity(event):
    return all(event.get(key) for key in IDENTITY)


# ---- Nothing left behind ----

def _stage(server):
    """Everything in the stage folder, by its path there."""
    out = []
    for folder, folders, files in os.walk(server.stage_dir):
        out += [os.path.relpath(os.path.join(folder, f), server.stage_dir) for f in folders + files]
    return sorted(out)


def footprint(server, seconds=5):
    """_footprint, when the store is not just copying and writing: it has files open meanwhile, its own and staged ones."""
    until = time.monotonic() + seconds
    while True:
        found = _footprint(server)
        busy = any("/state/files/" in path or "index.json" in path or path.endswith(".so") for path in found["fds"])
        if time.monotonic() > until or not busy:
            return found
        time.sleep(0.02)


def _open_kinds(pid):
    kinds = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            kind = re.sub(r"\d+", "", os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def _footprint(server):
    """What a server holds of the machine, such that it can be compared: open descriptors by kind (but
    clients' connections), staged files mapped and on disk, threads, children."""
    pid = server.pid
    kinds = _open_kinds(pid)
    for _ in range(5):  # on a busy machine the connection over which the PID was asked for closes late
        time.sleep(0.004)
        kinds["socket:[]"] = min(kinds["socket:[]"], _open_kinds(pid)["socket:[]"])
    kinds["socket:[]"] -= server.status()["connections"]["now"]
    mapped = {line.split(None, 5)[5].strip() for line in server.maps(server.stage_dir)}
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        children = len(f.read().split())
    return {"fds": kinds, "mapped": sorted(os.path.dirname(path) for path in mapped),
            "staged": len(server.staged()), "stage": len(_stage(server)), "threads": server.threads(),
            "children": children}


def is_footprint(server, before, name, seconds=5, ignore=()):
    """The server comes back to what it held `before`."""
    now = None

    def same():
        nonlocal now
        now = footprint(server)
        return all(now[key] == before[key] for key in before if key not in ignore)
    try:
        wait_for(same, seconds, name, every=0.02)
    except Failed:
        wrong = {key: (before[key], now[key]) for key in before if now[key] != before[key]}
        return ok(False, name, f"before and after: {wrong}\n{_stage(server)}")
    return ok(True, name)


def settle(server, active, seconds=10):
    """Waits until exactly this many versions are loaded, all active; returns them by plugin."""
    found = None

    def settled():
        nonlocal found
        found = server.ps()
        return len(found) == active and all(v["state"] == "active" for v in found)
    try:
        wait_for(settled, seconds, "settle", every=0.02)
    except Failed:
        raise Failed(f"expected {active} versions, all active, found "
                     f"{[(v['plugin'], v['id'], v['state'], v['reason']) for v in found]}") from None
    return {v["plugin"]: v for v in found}


def is_settled(server, active, name, stuck=0):
    """Loaded, mapped and staged are exactly the versions that serve."""
    def wanted():
        versions = server.ps()
        kept = sorted(v["id"] + ".so" for v in versions if v["state"] in ("active", "stuck"))
        mapped = {os.path.basename(line.split(None, 5)[5].strip()) for line in server.maps(server.stage_dir)}
        staged = [os.path.basename(path) for path in server.staged()]
        return (len(versions) == active + stuck and len(kept) == active + stuck and sorted(mapped) == kept and
                sorted(staged) == kept)
    try:
        wait_for(wanted, 10, name, every=0.02)
    except Failed as error:
        maps = {line.split(None, 5)[5].strip() for line in server.maps(server.stage_dir)}
        return ok(False, name, f"{error}\n{server.ps()}\nmapped {maps}\nstaged {_stage(server)}")
    return ok(True, name)


# ---- At the same time ----

_threads = concurrent.futures.ThreadPoolExecutor(64)


def later(call, *args, **options):
    """Calls in a thread of its own; .result(seconds) waits for what it returns."""
    return _threads.submit(call, *args, **options)


class In:
    """A request that is under way on a connection of its own: its bytes are sent, and, for a stream, the
    first chunk has come."""

    def __init__(self, server, target, method="GET", body=None, started=None):
        self.conn = server.connect(timeout=30)
        self.target = target
        self.conn.send(request_bytes(method, target, body=body))
        if started:
            while started not in self.conn.data:
                if not self.conn.fill():
                    raise Failed(f"{target}: ended before {started!r}: {self.conn.data!r}")

    def answer(self):
        """The whole answer; the connection stays open."""
        return self.conn.response()

    def close(self):
        self.conn.close()


# ---- Versions that can be told apart ----

_MARK = b"MARK-00000000"


class Marked:
    """Builds of the plugin `versioned` that answer a number: marked(7) are the bytes of one that answers
    MARK-00000007."""

    def __init__(self):
        folder = os.path.join(SRCDIR, "tests", "plugins")
        with open(os.path.join(folder, "versioned.c")) as f:
            source = f.read()
        with open(compile_plugin(source, "-I" + folder, f'-DVERSION="{_MARK.decode()}"'), "rb") as f:
            self.data = f.read()
        if _MARK not in self.data:
            raise Failed("no mark in the plugin")

    def __call__(self, n):
        return self.data.replace(_MARK, b"MARK-%08d" % n)


def mark_of(answer):
    """The number in an answer of such a plugin."""
    found = {int(m) for m in re.findall(rb"MARK-(\d{8})", answer.body)}
    if len(found) != 1:
        raise Failed(f"an answer of {len(found)} versions: {answer}")
    return found.pop()
