#!/usr/bin/env python3
"""Everything at once, for an hour (SOAK_SECONDS for less): swaps of two plugins, files that come, go,
are overwritten in place or are no plugins at all, configuration reloads, and rolling restarts (a new
server takes the listening socket over before the old one drains), all under the load of graftload and
of clients that are slow, leave, or send garbage.

Nothing may fail, leak or hang without a reason: graftload counts every request; every other client
knows what it may be answered; twice in each server's life all clients pause, and memory, descriptors,
mappings, staged files and versions are compared. Before that, one stream is opened for each of 2,000
swaps of another plugin, and memory must grow by stream, not by swap. Prints TAP."""

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "..", "bench"))
import clients  # noqa: E402
import common  # noqa: E402
import deploy  # noqa: E402

SINS = ("init_fails", "ready_fails", "worker_init_fails", "start_fails", "constructor_aborts",
        "constructor_exits", "route_conflict", "no_descriptor", "harmless")
TIMEOUTS = {"head": int(clients.HEAD_S * 1000), "body": int(clients.BODY_S * 1000),
            "write": int(clients.WRITE_S * 1000), "handler": 15000, "load": 5000, "adopt": 5000}


VERSIONS = 40  # most clients hold a version for a second or less, some for 5: seldom, a swap is refused as busy


class Faults:
    """What went wrong, from any thread; the first of each sort is kept in words."""

    def __init__(self):
        self.lock = threading.Lock()
        self.count = 0
        self.said = []

    def add(self, text):
        with self.lock:
            self.count += 1
            if len(self.said) < 50:
                self.said.append(f"{time.strftime('%H:%M:%S')} {text}")

    def take(self):
        """All so far, and begins anew."""
        with self.lock:
            said, self.said = self.said, []
            count, self.count = self.count, 0
        return count, said


class Crowd:
    """Threads that run one difficult session after another, except while paused."""

    def __init__(self, address, faults, size):
        self.address, self.faults = address, faults
        self.gate = threading.Event()
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.busy = 0
        self.counts = {session.__name__: 0 for session in clients.SESSIONS}
        self.threads = [threading.Thread(target=self.live, args=(i,), daemon=True) for i in range(size)]

    def start(self):
        self.gate.set()
        for thread in self.threads:
            thread.start()

    def live(self, seed):
        rng = random.Random(seed)
        while not self.over.is_set():
            if not self.gate.wait(0.2):
                continue
            with self.lock:
                self.busy += 1
            session = rng.choice(clients.SESSIONS)
            try:
                clients.run(session, self.address, rng.random())
            except (clients.Unexpected, OSError, ValueError) as error:
                self.faults.add(f"{session.__name__}: {error}")
            with self.lock:
                self.busy -= 1
                self.counts[session.__name__] += 1
            time.sleep(rng.random() * 0.1)

    def pause(self, seconds=30):
        self.gate.clear()
        until = time.monotonic() + seconds
        while self.busy and time.monotonic() < until:
            time.sleep(0.05)
        if self.busy:
            self.faults.add(f"{self.busy} sessions are not over {seconds} s after the pause began")

    def stop(self):
        self.over.set()
        self.gate.set()
        for thread in self.threads:
            thread.join(40)


class Shop:
    """The plugin folder and all that is done to it. Only one thing at a time, by one thread."""

    def __init__(self, work, board, faults, rng):
        self.work, self.board, self.faults, self.rng = work, board, faults, rng
        self.plugins = os.path.join(work, "plugins")
        os.makedirs(self.plugins, mode=0o755)
        self.server = None
        self.number = self.serial = 0
        self.counts = {}
        self.templates = {}
        source = os.path.join(common.HERE, "plugins/versioned.c")
        for name, flags in (("versioned", ()), ("streamer", ('-DPREFIX="/s"', '-DNAME="streamer"'))):
            path = os.path.join(work, name + ".template")
            common.compile_plugin(source, path, *flags)
            self.templates[name] = common.Template(path)
        for i, sin in enumerate(SINS, 1):
            path = os.path.join(work, sin + ".template")
            common.compile_plugin(os.path.join(HERE, "bad.c"), path, f"-DSIN={i}")
            self.templates[sin] = common.Template(path)

    def path(self, name):
        return os.path.join(self.plugins, name + ".so")

    def reload(self, what, ok=True, query="", wanted=None):
        """Asks for a scan; a fault when its outcome is not the expected one. `wanted`: the (name, sha)
        that shall serve then; only with it may the scan be refused as busy, see repeated()."""
        answer = self.server.ask("POST", "/v1/reload" + query)
        if wanted and not answer.get("ok") and answer.get("error") == "busy":
            return self.repeated(what, answer, *wanted)
        if bool(answer.get("ok")) is not ok:
            self.faults.add(f"{what}: expected ok {ok}, found {str(answer)[:400]}")
        return answer

    def repeated(self, what, answer, name, sha, seconds=20):
        """Slow clients may hold limits.versions versions: such a scan is refused as busy with a
        sentence, and repeats by itself when a version retires. Nobody asks again here."""
        self.counts["busy"] = self.counts.get("busy", 0) + 1
        if not any("busy: " in str(one.get("error")) for one in answer.get("failed", [])):
            self.faults.add(f"{what}: busy without a sentence: {str(answer)[:300]}")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for one in self.server.versions():
                if one["plugin"] == name and one["state"] == "active" and one["id"].startswith(sha[:12]):
                    return {"ok": True, "changed": [one]}
            time.sleep(0.02)
        self.faults.add(f"{what}: refused as busy, and {name} {sha[:12]} does not serve {seconds} s later")
        return answer

    def changed(self, what, answer, name, sha):
        ids = [str(one.get("id")) for one in answer.get("changed", []) if one.get("plugin") == name]
        if not any(one.startswith(sha[:12]) for one in ids):
            self.faults.add(f"{what}: {name} {sha[:12]} is not among what changed: {str(answer)[:300]}")
            return False
        return True

    # ---- What is done; each leaves the folder as good as it was ----

    def put_first(self):
        self.number = 1
        self.board["newest"] = self.board["completed"] = 1
        self.templates["versioned"].put(1, self.path("versioned"))
        self.templates["streamer"].put(1, self.path("streamer"))
        common.compile_plugin(os.path.join(HERE, "trim.c"), self.path("trim"))

    def swap(self, what="swap"):
        self.number += 1
        self.board["newest"] = self.number
        sha = self.templates["versioned"].put(self.number, self.path("versioned"))
        if self.changed(what, self.reload(what, wanted=("versioned", sha)), "versioned", sha):
            self.board["completed"] = self.number

    def swap_other(self):
        self.serial += 1
        sha = self.templates["streamer"].put(1000000 + self.serial, self.path("streamer"))
        self.changed("swap_other", self.reload("swap_other", wanted=("streamer", sha)), "streamer", sha)

    def overwrite(self):
        """cp new.so plugins/: the same inode, while it is loaded."""
        self.number += 1
        self.board["newest"] = self.number
        aside = os.path.join(self.work, "aside.so")
        sha = self.templates["versioned"].put(self.number, aside)
        shutil.copyfile(aside, self.path("versioned"))
        if self.changed("overwrite", self.reload("overwrite", wanted=("versioned", sha)), "versioned", sha):
            self.board["completed"] = self.number

    def by_signal(self):
        """SIGUSR2, three times in a burst; then a reload, which waits for a scan after them."""
        self.number += 1
        self.board["newest"] = self.number
        sha = self.templates["versioned"].put(self.number, self.path("versioned"))
        for _ in range(3):
            os.kill(self.server.process.pid, signal.SIGUSR2)
        self.reload("by_signal", wanted=("versioned", sha))
        ids = [v["id"] for v in self.server.versions() if v["plugin"] == "versioned" and v["state"] == "active"]
        if len(ids) != 1 or not ids[0].startswith(sha[:12]):
            self.faults.add(f"by_signal: active is {ids}, expected {sha[:12]}")
        else:
            self.board["completed"] = self.number

    def nothing_new(self):
        answer = self.reload("nothing_new")
        if answer.get("changed"):
            self.faults.add(f"nothing_new: {str(answer)[:300]}")

    def configuration(self):
        """The same file with another configuration is a swap."""
        self.serial += 1
        self.server.config["plugins"] = {"streamer": {"config": {"serial": self.serial}}}
        with open(self.server.config_path, "w", encoding="utf-8") as file:
            common.json.dump(self.server.config, file)
        answer = self.reload("configuration", query="?config=1")
        if not any(one.get("plugin") == "streamer" for one in answer.get("changed", [])):
            self.faults.add(f"configuration: streamer is not among what changed: {str(answer)[:300]}")

    def come_and_go(self):
        """A plugin file is added, served, and removed."""
        self.serial += 1
        self.templates["harmless"].put(self.serial, self.path("extra"))
        self.reload("come")
        os.unlink(self.path("extra"))
        self.reload("go")

    def bad_plugin(self):
        """A plugin that cannot serve is refused with a reason, and stands in nobody's way."""
        self.serial += 1
        sin = self.rng.choice(SINS[:-1])
        self.templates[sin].put(self.serial, self.path("bad"))
        self.refused(sin)
        if sin != "route_conflict" and self.rng.random() < 0.5:
            self.swap(f"swap beside {sin}")
        os.unlink(self.path("bad"))
        self.reload(f"after {sin}")

    def not_a_plugin(self):
        self.serial += 1
        what = self.rng.choice(("text", "truncated", "duplicate"))
        data = bytes(self.templates["harmless"].data)
        if what == "text":
            data = b"#!/bin/sh\n# %d\n" % self.serial
        elif what == "truncated":
            data = data[:len(data) // 2] + b"%d" % self.serial
        else:
            self.templates["versioned"].put(2000000000 + self.serial, os.path.join(self.work, "aside.so"))
            with open(os.path.join(self.work, "aside.so"), "rb") as file:
                data = file.read()
        with open(self.path("bad"), "wb") as file:
            file.write(data)
        self.refused(what)
        os.unlink(self.path("bad"))
        self.reload(f"after {what}")

    def refused(self, what):
        answer = self.reload(what, ok=False)
        reasons = [str(one.get("error") or "") for one in answer.get("failed", [])]
        if not any(reasons):
            self.faults.add(f"{what}: refused without a reason: {str(answer)[:300]}")

    OPERATIONS = (("swap", 60), ("swap_other", 10), ("overwrite", 5), ("by_signal", 6), ("nothing_new", 4),
                  ("configuration", 3), ("come_and_go", 4), ("bad_plugin", 6), ("not_a_plugin", 2))

    def one(self):
        names, weights = zip(*self.OPERATIONS)
        name = self.rng.choices(names, weights)[0]
        getattr(self, name)()
        self.counts[name] = self.counts.get(name, 0) + 1


def listening_socket():
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    sock.setblocking(False)
    return sock


def wait_still(server, seconds=30):
    """Nothing in flight, one version of each plugin; None, or what is left when the time is over."""
    until = time.monotonic() + seconds
    while True:
        status = server.ask("GET", "/v1/status")
        left = [f"{v['plugin']}@{v['id']} {v['state']} in flight {v['in_flight']} {v.get('oldest') or ''} "
                f"{v.get('reason') or ''}" for v in server.versions() if v["state"] != "active"]
        if not left and not status["in_flight"]:
            return None
        if time.monotonic() > until:
            return f"in flight {status['in_flight']}, {left}"
        time.sleep(0.05)


def settled(read, within=5):
    """What `read` answers three times in a row: the connections that asked just before are closed by the server, and
    counted as closed, a moment after they have answered."""
    until, last, times = time.monotonic() + within, read(), 1
    while times < 3 and time.monotonic() < until:
        time.sleep(0.1)
        now = read()
        last, times = now, times + 1 if now == last else 1
    return last


def descriptors(server):
    """Beside those of the open connections."""
    connections = server.ask("GET", "/v1/status")["connections"]["now"]
    time.sleep(0.05)  # the connection that asked is closed
    return common.descriptors(server.pid) - connections


def census(server):
    """What must be the same at two moments when nobody asks for anything. Open connections, which
    graftload keeps during a pause, are told apart from other descriptors."""
    pid = server.pid
    rss, dirty = common.memory_kb(pid)
    return {"descriptors": settled(lambda: descriptors(server)), "mapped files": common.mappings(pid)[0],
            "staged files": common.files_below(server.stage), "versions": len(server.versions()),
            "dirty_kb": dirty, "rss_kb": rss}


def trim(address):
    """The C library's free memory goes back to the system: what is left is in use. See trim.c."""
    with socket.create_connection(address, 10) as sock:
        sock.sendall(b"GET /soak-trim HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
        data, closed = clients.receive_all(sock, 10)
    if not closed or clients.status_of(data) != 200:
        raise clients.Unexpected(f"/soak-trim: {data[:80]!r}")


# ---- One open stream a swap ----

def stream_open(address):
    sock = socket.create_connection(address, 10)
    sock.sendall(b"GET /s/stream?chunks=0&ms=2000 HTTP/1.1\r\nHost: soak\r\n\r\n")
    data = b""
    while b"VERSION-" not in data:
        part = sock.recv(4096)
        if not part:
            raise clients.Unexpected(f"a stream ended at once: {data[:100]!r}")
        data += part
    return sock


def streams_part(checks, shop, address, swaps, judged):
    """Half as many streams without swaps tell what a stream costs; then one stream a swap."""
    dirty = lambda: common.memory_kb(shop.server.pid)[1]  # noqa: E731
    for _ in range(30):
        shop.swap("warming up")
    socks, alone = [], swaps // 2
    wait_still(shop.server)
    start, before = census(shop.server), dirty()
    for _ in range(alone):
        socks.append(stream_open(address))
    middle = dirty()
    for _ in range(swaps):
        socks.append(stream_open(address))
        shop.swap("swap beside streams")
    time.sleep(1)
    end, now = dirty(), census(shop.server)
    each_alone, each_swap = (middle - before) * 1024 / alone, (end - middle) * 1024 / swaps
    checks.check(each_swap <= 1.25 * each_alone + 1024 * 1024 / swaps or not judged,
                 f"{swaps} swaps of another plugin, a stream left open at each: {each_swap:.0f} bytes a stream "
                 f"(without swaps {each_alone:.0f})")
    same = [key for key in ("descriptors", "mapped files", "staged files", "versions")
            if now[key] != start[key]]
    checks.check(not same, "beside the open streams nothing is left of the swaps "
                 f"{[f'{key} {start[key]} -> {now[key]}' for key in same] or ''}")
    for sock in socks:
        sock.close()
    checks.check(wait_still(shop.server) is None, f"{len(socks)} streams end when their clients leave")


# ---- The soak ----

class Soak:
    def __init__(self, options, work, checks):
        self.options, self.work, self.checks = options, work, checks
        self.faults = Faults()
        self.board = common.Board(os.path.join(work, "board"))
        self.shop = Shop(work, self.board, self.faults, random.Random(options.seed))
        self.listener = listening_socket()
        self.address = self.listener.getsockname()
        self.crowd = Crowd(self.address, self.faults, options.clients)
        self.load = None
        self.servers = []

    def server_start(self):
        fd = self.listener.fileno()
        server = common.Graftd(self.work, self.options.graftd, self.shop.plugins, listen=[f"fd:{fd}"],
                               workers=self.options.workers, timeouts_ms=TIMEOUTS,
                               limits={"versions": VERSIONS},
                               offload={"threads": 16, "queue": 4096},
                               drain={"delay_ms": 0, "idle_ms": 500, "timeout_ms": 30000})
        server.start(pass_fds=(fd,))
        self.servers.append(server)
        self.shop.server = server
        return server

    def load_start(self, seconds):
        self.load = common.Load(f"127.0.0.1:{self.address[1]}", deploy.kinds(80), board=self.board, versioned=True,
                                connections=self.options.connections, seconds=seconds, timeout=20000,
                                binary=self.options.graftload)

    def operate(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            begin = time.monotonic()
            try:
                self.shop.one()
            except (OSError, ValueError, KeyError) as error:
                self.faults.add(f"an operation: {type(error).__name__} {error}")
                if self.shop.server.process.poll() is not None:
                    return
            time.sleep(max(0, 1 / self.options.rate - (time.monotonic() - begin)))

    def pause(self):
        """All clients stop; what the server then still has is what it keeps."""
        self.board["pause"] = 1
        self.crowd.pause()
        until = time.monotonic() + 25
        while self.board["waiting"] and time.monotonic() < until:
            time.sleep(0.05)
        left = wait_still(self.shop.server)
        if left:
            self.faults.add(f"not still after the clients paused: {left}")
        held = census(self.shop.server)["dirty_kb"]
        trim(self.address)
        found = census(self.shop.server)
        found["held_kb"] = held
        self.board["pause"] = 0
        self.crowd.gate.set()
        return found

    def drain(self, old, number):
        """The old server ends under load; its successor serves already."""
        how = ("TERM", "INT", "control")[number % 3]
        begin = time.monotonic()
        if how == "control":
            old.ask("POST", "/v1/drain")
        else:
            old.process.send_signal(getattr(signal, "SIG" + how))
        try:
            code = old.process.wait(45)
        except common.subprocess.TimeoutExpired:
            code = f"none after {time.monotonic() - begin:.0f} s"
        ends = old.events("drain_end")
        bad = [event for name in ("misuse", "crash", "stuck") for event in old.events(name)]
        self.checks.check(code == 0 and not bad, f"server {number}, drained by {how} under load: exit status {code} after "
                          f"{time.monotonic() - begin:.1f} s {ends[-1:] if code else ''} {bad[:2] or ''}")
        old.stop(signal.SIGKILL)

    def compare(self, number, first, second):
        moved = {key: f"{first[key]} -> {second[key]}" for key in first
                 if key not in ("dirty_kb", "rss_kb", "held_kb") and first[key] != second[key]}
        growth = second["dirty_kb"] - first["dirty_kb"]
        limit, held = self.options.memory_kb, second["held_kb"] - first["held_kb"]
        self.checks.check(not moved, f"server {number}: descriptors, mappings, staged files and versions are where they "
                          f"were {moved or ''}")
        self.checks.check((growth < limit and held < 4 * limit) or not limit, f"server {number}: private dirty memory {first['dirty_kb']} -> "
                          f"{second['dirty_kb']} KB (wanted < +{limit}); with what the C library holds free "
                          f"{first['held_kb']} -> {second['held_kb']} KB")

    def round(self, number, seconds):
        sent, done = self.board["sent"], sum(self.shop.counts.values())
        self.operate(seconds / 2)
        first = self.pause()
        self.operate(seconds / 2)
        second = self.pause()
        self.compare(number, first, second)
        count, said = self.faults.take()
        for text in said:
            self.checks.note(text)
        self.checks.check(count == 0 and self.board["failed"] + self.board["stale"] == 0,
                          f"server {number}: {sum(self.shop.counts.values()) - done} operations, "
                          f"{self.board['sent'] - sent} requests, {self.board['failed']} failed, {self.board['stale']} "
                          f"stale, {count} faults")

    def run(self):
        begin = time.monotonic()
        self.shop.put_first()
        self.server_start()
        streams_part(self.checks, self.shop, self.address, self.options.streams,
                     judged=self.options.memory_kb > 0)
        rounds = max(1, round(self.options.seconds / 120))
        left = max(10.0, self.options.seconds - (time.monotonic() - begin))
        self.load_start(left * 3 + 600)
        self.crowd.start()
        for number in range(1, rounds + 1):
            self.round(number, left / rounds)
            old = self.shop.server
            self.server_start()
            self.drain(old, number)
        self.finish()

    def finish(self):
        self.crowd.stop()
        self.board["stop"] = 1
        result = self.load.finish(60)
        self.checks.note(self.load.complaints)
        self.checks.check(result["failed"] + result["stale"] + result["mixed"] + result["future"] == 0 and
                          result["answered"] == result["sent"] > 0 and not any(result["failures"].values()),
                          f"graftload: {result['sent']} requests, {result['failed']} failed {result['failures']}, "
                          f"{result['stale']} stale, {result['connections']}")
        self.checks.check(all(self.crowd.counts.values()), f"difficult clients: {self.crowd.counts}")
        self.checks.note(f"operations: {self.shop.counts}")
        count, said = self.faults.take()
        for text in said:
            self.checks.note(text)
        self.checks.check(count == 0, f"{count} faults at the end")
        self.drain(self.shop.server, len(self.servers))

    def close(self):
        self.crowd.over.set()
        if self.load is not None:
            self.load.kill()
        for server in self.servers:
            server.stop(signal.SIGKILL)
        self.listener.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS") or 3600))
    add("--graftd")
    add("--graftload")
    add("--workers", type=int, default=2)
    add("--connections", type=int, default=32, help="graftload's (32)")
    add("--clients", type=int, default=16, help="difficult clients at a time (16)")
    add("--rate", type=float, default=10, help="operations on the plugin folder a second (10)")
    add("--streams", type=int, default=None, help="swaps with an open stream each (2000; 200 below ten minutes)")
    add("--memory-kb", type=int, default=1024, help="growth within half a server's life of memory in use; "
        "four times that with what the C library holds free; 0: not judged")
    add("--seed", type=int, default=1)
    add("--keep", action="store_true")
    options = parser.parse_args()
    if options.streams is None:
        options.streams = 2000 if options.seconds >= 600 else 200
    if common.SANITIZED:
        options.memory_kb = 0
    checks = common.Checks(tap=True)
    checks.note(common.machine())
    with common.WorkFolder("soak", options.keep) as work:
        soak = Soak(options, work, checks)
        try:
            soak.run()
        except (SystemExit, OSError, clients.Unexpected, common.subprocess.TimeoutExpired) as error:
            checks.check(False, f"the soak could not go on: {type(error).__name__} {error}".replace("\n", " "))
            if soak.servers:
                checks.note(soak.servers[-1].log_tail(10))
        finally:
            soak.close()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
