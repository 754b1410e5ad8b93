#!/usr/bin/env python3
"""Crashes, hand-overs and rollbacks: how long until it serves again, and what that costs.

graftd runs under its supervisor. Parts, all of them unless some are named:

    recovery     crashes by SIGSEGV and abort in a handler and by kill -9, with 1, 5 and 20 plugins: from the
                 signal (or from sending the request that crashes) to the first answer of the next process on
                 the same sockets, seen by a client that connects anew every millisecond. Wanted: < 300 ms
    failed       the same under connections that always have a request in progress: how many of those fail.
                 Wanted: no more than there are connections, and none refused
    queue        clients that wait in the accept queue of a process that is killed. Wanted: all are served
    handover     swaps of a plugin that exports its state, under load: swap time, how long its own requests were
                 held, and p99 of another plugin's with swaps / without
    rollback     graftctl rollback, from the question to an answer by the version before. Wanted: < 100 ms
    canary       a canary that always fails, at 50 %, under load: from the answer with which its failing is no chance
                 any more to the last request that it answers. Wanted: < 1 s
    orphan       the supervisor is killed while a request is in progress: until the server process has drained

    recovery.py                 all: some minutes
    recovery.py --brief         a few of each
"""

import argparse
import os
import random
import re
import selectors
import shutil
import signal
import socket
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import common  # noqa: E402

CRASHES = os.path.join(common.TOP, "tests/plugins/crashes.c")
HANDOVER = os.path.join(common.TOP, "tests/plugins/handover.c")
PARTS = ("recovery", "failed", "queue", "handover", "rollback", "canary", "orphan")

EXTRA = """#include <graft/graft.h>
static graft_next hello(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "hello\\n");
}
GRAFT_PLUGIN(.name = NAME, .version = "1.0.0",
             .routes = (const graft_route[]){ { "GET", "/" NAME, hello, 0 }, { 0 } }, )
"""

CANARY = """#include <graft/graft.h>
static graft_next answer(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, STATUS, "answer\\n");
}
GRAFT_PLUGIN(.name = "judged", .version = "1.0.0",
             .routes = (const graft_route[]){ { "GET", "/judged", answer, 0 }, { 0 } }, )
"""


# ---- Servers and clients ----

def start(options, work, plugins, config=None):
    """A graftd with these plugins: {name: path of a .c, or (path, flag...)}, and this configuration."""
    folder = os.path.join(work, f"plugins-{common.Graftd.count}")
    os.makedirs(folder, mode=0o755)
    for name, what in plugins.items():
        source, *flags = (what,) if isinstance(what, str) else what
        common.compile_plugin(source, os.path.join(folder, name + ".so"), *flags)
    server = common.Graftd(work, options.graftd, plugins=folder, workers=options.workers, crash_window_ms=1)
    server.config.update(config or {})
    return server.start()


def shipped(name):
    return os.path.join(common.TOP, f"plugins/{name}/{name}.c")


def touch(server, name):
    """The same plugin, as bytes that were never seen: behind the section headers nobody looks."""
    target = os.path.join(server.plugins, name + ".so")
    with open(target, "rb") as file:
        data = file.read()
    part = os.path.join(server.plugins, "." + name)
    with open(part, "wb") as file:
        file.write(data[:data.rfind(b"graft-bench")] if b"graft-bench" in data[-64:] else data)
        file.write(b"graft-bench" + os.urandom(16))
    os.chmod(part, 0o644)
    os.rename(part, target)


def request(path):
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def connect(server):
    sock = socket.create_connection(("127.0.0.1", server.port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.I)


def whole(data):
    """(status, body) when `data` is a whole answer with a length, else None."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = LENGTH.search(head + b"\r\n")
    if not end or length is None or len(body) < int(length[1]):
        return None
    return int(head.split(b" ", 2)[1]), body


def ask(server, path):
    with connect(server) as sock:
        sock.sendall(request(path))
        data = b""
        while whole(data) is None:
            part = sock.recv(65536)
            if not part:
                raise SystemExit(f"{path}: no answer; so far {data!r}")
            data += part
        return whole(data)


def crash(server, pid, how):
    """Does it; the connection that did, or None."""
    if how == "kill -9":
        os.kill(pid, signal.SIGKILL)
        return None
    sock = connect(server)
    sock.sendall(request(f"/crashes/{how}"))
    return sock


def first_answer(server, old, seconds=20):
    """Connects anew each millisecond until one is answered by another process than `old`: its PID."""
    poll, until, due = selectors.DefaultSelector(), time.monotonic() + seconds, 0.0
    try:
        while time.monotonic() < until:
            if time.monotonic() >= due:
                due = time.monotonic() + 0.001
                sock = connect(server)  # a refused one is an error of its own: the sockets stay
                sock.sendall(request("/crashes/pid"))
                sock.setblocking(False)
                poll.register(sock, selectors.EVENT_READ, bytearray())
            for key, _ in poll.select(max(0.0, due - time.monotonic())):
                try:
                    part = key.fileobj.recv(65536)
                except OSError:
                    part = b""
                key.data.extend(part)
                answer = whole(bytes(key.data))
                if answer and int(answer[1]) != old:
                    return int(answer[1])
                if answer or not part:
                    poll.unregister(key.fileobj)
                    key.fileobj.close()
        raise SystemExit(f"no answer within {seconds} s after a crash:\n{server.log_tail()}")
    finally:
        for key in list(poll.get_map().values()):
            key.fileobj.close()
        poll.close()


class Clients:
    """Connections that always have a request in progress, until asked to stop."""

    def __init__(self, server, paths):
        self.server = server
        self.poll = selectors.DefaultSelector()
        self.answered = self.failed = self.refused = self.wrong = 0
        for path in paths:
            self.begin(path)

    def begin(self, path):
        try:
            sock = connect(self.server)
            sock.sendall(request(path))
        except ConnectionRefusedError:
            self.refused += 1
            return
        except OSError:
            self.failed += 1
            return
        sock.setblocking(False)
        self.poll.register(sock, selectors.EVENT_READ, [path, bytearray()])

    def turn(self, seconds):
        """Serves them for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _ in self.poll.select(left):
                self.read(key)

    def read(self, key):
        path, data = key.data
        try:
            part = key.fileobj.recv(65536)
        except OSError:
            part = b""
        data.extend(part)
        answer = whole(bytes(data))
        if answer:
            self.answered += 1
            self.wrong += answer[0] != 200
            data.clear()
            try:
                key.fileobj.sendall(request(path))
                return
            except OSError:
                part = b""  # the next request was never received: it failed, too
        if not part:
            self.failed += 1
            self.poll.unregister(key.fileobj)
            key.fileobj.close()
            self.begin(path)

    def close(self):
        for key in list(self.poll.get_map().values()):
            key.fileobj.close()
        self.poll.close()


# ---- Figures ----

def spread(values, unit="ms"):
    values = sorted(values)
    p99 = values[min(len(values) - 1, int(len(values) * 0.99))]
    return f"median {common.median(values):.1f}, p99 {p99:.1f}, max {values[-1]:.1f} {unit}"


def recovery(options, checks, work):
    figures = {}
    extra = os.path.join(work, "extra.c")
    with open(extra, "w", encoding="ascii") as file:
        file.write(EXTRA)
    for count in (1, 5, 20):
        plugins = {"crashes": CRASHES}
        plugins.update({f"extra{n}": (extra, f'-DNAME="extra{n}"') for n in range(1, count)})
        server = start(options, work, plugins)
        try:
            for how in ("segv", "abort", "kill -9"):
                times = []
                for _ in range(options.crashes):
                    old = int(ask(server, "/crashes/pid")[1])
                    began = time.monotonic()
                    held = crash(server, old, how)
                    first_answer(server, old)
                    times.append((time.monotonic() - began) * 1e3)
                    if held:
                        held.close()
                    time.sleep(0.02)
                figures[f"{how}, {count}"] = times
                checks.check(max(times) < 300, f"{how}, {count} plugins: {len(times)} crashes: {spread(times)} "
                             "(wanted < 300)")
        finally:
            code = server.stop()
        checks.check(code == 0, f"exit status {code}")
    return figures


def failed(options, checks, work):
    server = start(options, work, {"crashes": CRASHES, "slow": shipped("slow"), "hello": shipped("hello")})
    figures = {}
    try:
        for how in ("segv", "kill -9"):
            paths = ["/hello"] * (options.connections // 2) + ["/slow/timer?ms=20"] * (options.connections // 2)
            clients, counts = Clients(server, paths), []
            clients.turn(0.2)
            for _ in range(options.crashes):
                old, before = server.pid, clients.failed
                server.unlink()
                held = crash(server, old, how)
                clients.turn(0.25)
                counts.append(clients.failed - before)
                if held:
                    held.close()
            figures[how] = {"failed": counts, "answered": clients.answered, "refused": clients.refused}
            checks.check(max(counts) <= len(paths) and not clients.refused and not clients.wrong,
                         f"{how}: {len(paths)} connections with a request in progress, {len(counts)} crashes, "
                         f"{clients.answered} answers: failed per crash {spread(counts, '')}; refused {clients.refused}, "
                         f"wrong status {clients.wrong}")
            clients.close()
    finally:
        server.stop()
    return figures


def stands_still(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8", errors="replace") as file:
            if file.read().rsplit(")", 1)[1].split()[0] != "T":
                return False
    return True


def queue(options, checks, work):
    server = start(options, work, {"crashes": CRASHES, "hello": shipped("hello")})
    waiting, served = 0, 0
    try:
        for _ in range(max(2, options.crashes // 5)):
            old = server.pid
            server.unlink()
            os.kill(old, signal.SIGSTOP)
            while not stands_still(old):
                time.sleep(0.001)
            socks = [connect(server) for _ in range(100)]
            for sock in socks:
                sock.sendall(request("/hello"))
            os.kill(old, signal.SIGKILL)
            for sock in socks:
                waiting += 1
                try:
                    data = sock.recv(65536)
                    while data and whole(data) is None:
                        part = sock.recv(65536)
                        data = data + part if part else b""
                    served += bool(data) and whole(data)[0] == 200
                except OSError:
                    pass
                sock.close()
    finally:
        server.stop()
    checks.check(served == waiting, f"{served} of {waiting} clients in the queues of processes that were killed were served")
    return {"waiting": waiting, "served": served}


def latency(load, kind, phase):
    return next(one["latency"][phase] for one in load["kinds"] if one["name"] == kind)


def handover_run(options, work, name, config):
    """Swaps of a plugin that exports its state, in windows that alternate with quiet ones."""
    server = start(options, work, {"handover": HANDOVER, "hello": shipped("hello")}, {
        "timeouts_ms": {"handover": 1000}, "plugins": {"handover": {"config": config}}})
    board = common.Board(os.path.join(work, "board-" + name))
    board["newest"] = 2 ** 63
    load = common.Load(server.address, ["name=own,weight=50,path=/count", "name=other,weight=50,path=/hello"],
                       board=board, connections=options.connections, seconds=900, binary=options.graftload)
    durations, refused = [], []
    try:
        time.sleep(1)
        while len(durations) + len(refused) < options.swaps:
            board.begin(common.QUIET)
            time.sleep(options.window)
            board.begin(common.SWAPS)
            until = time.monotonic() + options.window
            while time.monotonic() < until:
                touch(server, "handover")
                due = time.monotonic() + 0.1
                answer = server.ask("POST", "/v1/reload")
                if answer.get("ok"):
                    durations.append(answer["duration_us"] / 1e3)
                else:
                    refused.append(answer)
                time.sleep(max(0.0, due - time.monotonic()))
            board.begin(common.OTHER)
            time.sleep(0.2)
        board["stop"] = 1
        result = load.finish(60)
    finally:
        load.kill()
        server.stop()
        board.close()
    kinds = {kind: {phase: latency(result, kind, phase) for phase in ("quiet", "swaps")} for kind in ("own", "other")}
    return {"kinds": kinds, "durations_ms": durations, "refused": refused, "failed": result["failed"],
            "answered": result["answered"]}


def handover(options, checks, work):
    figures = {}
    for name, config in (("at once", {}), ("export takes 50 ms", {"export": "slow", "ms": 50})):
        figures[name] = one = handover_run(options, work, name.replace(" ", "-"), config)
        own, other = one["kinds"]["own"], one["kinds"]["other"]
        checks.check(not one["failed"] and not one["refused"], f"{name}: {len(one['durations_ms'])} hand-overs under "
                     f"{options.connections} connections, {one['answered']} requests, failed {one['failed']}, refused "
                     f"swaps {len(one['refused'])} {one['refused'][:1] or ''}")
        checks.note(f"  swap time (duration_us, hand-over and all): {spread(one['durations_ms'])}")
        for kind, phases in (("its own requests", own), ("another plugin's", other)):
            for phase, found in phases.items():
                checks.note(f"  {kind:<17} {phase:<6} {found['count']:>8}  p50 {found['p50_us'] / 1e3:.3f}  "
                            f"p99 {found['p99_us'] / 1e3:.3f}  max {found['max_us'] / 1e3:.3f} ms")
        ratio = other["swaps"]["p99_us"] / max(1, other["quiet"]["p99_us"])
        if not config:
            checks.check(ratio <= options.p99_ratio, f"{name}: p99 of another plugin's requests with hand-overs / "
                         f"without: {ratio:.2f} (wanted <= {options.p99_ratio:g})")
        else:  # what was held is let go in a burst: the ratio is shown
            checks.check(own["swaps"]["max_us"] >= 50000 > 5 * other["swaps"]["p99_us"], f"{name}: its own requests "
                         f"waited for up to {own['swaps']['max_us'] / 1e3:.1f} ms, another plugin's did not: p99 "
                         f"{other['swaps']['p99_us'] / 1e3:.1f} ms, {ratio:.2f} times that without")
    return figures


def rollback(options, checks, work):
    server = start(options, work, {"hello": shipped("hello"), "crashes": CRASHES})
    times = []
    try:
        for _ in range(max(3, options.crashes // 2)):
            good = next(v["id"] for v in server.versions() if v["plugin"] == "hello" and v["state"] == "active")
            touch(server, "hello")
            if not server.ask("POST", "/v1/reload")["ok"]:
                raise SystemExit("a reload failed:\n" + server.log_tail())
            time.sleep(0.15)  # it is good once its predecessor and it have been kept
            began = time.monotonic()
            answer = server.ask("POST", "/v1/plugins/hello/rollback")
            status = ask(server, "/hello")[0]
            times.append((time.monotonic() - began) * 1e3)
            now = next(v["id"] for v in server.versions() if v["plugin"] == "hello" and v["state"] == "active")
            if not answer.get("ok") or status != 200 or now.split(".")[0] != good.split(".")[0]:
                raise SystemExit(f"rollback: {answer}, {status}, {good} -> {now}")
    finally:
        server.stop()
    checks.check(max(times) < 100, f"{len(times)} rollbacks, answered by the version before: {spread(times)} (wanted < 100)")
    return times


class Witness(Clients):
    """What a canary that always fails has answered, beside a stable version that never does, and when. `due`: when the
    share of failures is above 1 %, and twice the stable version's, by less than one chance in ten thousand."""

    def __init__(self, server, paths):
        self.canary = self.stable = 0
        self.first = self.due = self.last = None
        super().__init__(server, paths)

    def read(self, key):
        before, wrong = self.answered, self.wrong
        super().read(key)
        if self.answered == before:
            return
        now = time.monotonic()
        if self.wrong == wrong:
            self.stable += 1
            return
        self.canary += 1
        self.first, self.last = self.first or now, now
        share = 2 * self.canary / (2 * self.canary + self.stable)
        if self.due is None and max(0.01 ** self.canary, share ** self.canary) < 1e-4:
            self.due = now


def canary(options, checks, work):
    source = os.path.join(work, "judged.c")
    with open(source, "w", encoding="ascii") as file:
        file.write(CANARY)
    server = start(options, work, {"judged": (source, "-DSTATUS=200")}, {
        "plugins": {"judged": {"rollout": {"steps": [50], "step_ms": 600000}}}})
    times, answers = [], []
    try:
        bad = os.path.join(work, "judged.so")
        common.compile_plugin(source, bad, "-DSTATUS=500")
        for _ in range(max(5, options.crashes // 2)):
            os.replace(shutil.copy(bad, os.path.join(server.plugins, ".bad")), os.path.join(server.plugins, "judged.so"))
            touch(server, "judged")
            if not server.ask("POST", "/v1/reload")["ok"]:
                raise SystemExit("a reload failed:\n" + server.log_tail())
            time.sleep(random.random() * 0.2)  # anywhere between two looks of the judge
            clients = Witness(server, ["/judged"] * options.connections)
            clients.turn(1.5)
            clients.close()
            if clients.due is None or clients.failed or any(v["weight"] for v in server.versions() if v["state"] == "canary"):
                raise SystemExit(f"not taken back: {vars(clients)}\n{server.log_tail()}")
            times.append((clients.last - clients.due) * 1e3)
            answers.append(clients.canary)
    finally:
        server.stop()
    checks.check(max(times) < 1000, f"{len(times)} canaries that fail, {options.connections} connections: from the answer that "
                 f"proves it to its last {spread(times)} (wanted < 1000); answers that failed: median "
                 f"{common.median(answers):.0f}, max {max(answers)}")
    return {"ms": times, "failed": answers}


def alive(pid):
    """A zombie, which its new parent may not have noticed, has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def orphan(options, checks, work):
    times, answered = [], 0
    for _ in range(max(2, options.crashes // 10)):
        server = start(options, work, {"slow": shipped("slow")})
        pid, sock = server.pid, connect(server)
        server.unlink()
        sock.sendall(request("/slow/timer?ms=300"))
        time.sleep(0.1)
        began = time.monotonic()
        server.process.kill()
        answered += sock.recv(65536).startswith(b"HTTP/1.1 200")
        sock.close()
        server.process.wait()
        while alive(pid) and time.monotonic() - began < 40:
            time.sleep(0.002)
        times.append((time.monotonic() - began) * 1e3)
    checks.check(answered == len(times), f"the supervisor killed {len(times)} times, a request of 200 ms more in progress: "
                 f"{answered} answered; until the server process was gone {spread(times)} (drain.idle_ms is 1000)")
    return times


def options_of():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    add("--graftd", help="the server (default: $GRAFTD, or in the build tree)")
    add("--graftload", help="the load driver (default: $GRAFTLOAD, or in the build tree)")
    add("--crashes", type=int, default=100, help="of each kind (100)")
    add("--swaps", type=int, default=300, help="with hand-over, at least so many (300)")
    add("--window", type=float, default=3, help="seconds with and without swaps (3)")
    add("--connections", type=int, default=32)
    add("--workers", type=int, default=2)
    add("--p99-ratio", type=float, default=1.25)
    add("--brief", action="store_true", help="10 crashes of each kind, 40 swaps")
    add("--tap", action="store_true")
    add("--json", metavar="FILE", help="write the figures there")
    add("--keep", action="store_true", help="keep the work folder")
    options = parser.parse_args()
    if options.brief:
        options.crashes, options.swaps, options.window = 10, 40, 1
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"{part}: expected {', '.join(PARTS)}")
    return options


def main():
    options = options_of()
    checks = common.Checks(options.tap)
    figures = {"machine": common.machine(), "options": vars(options)}
    checks.note(figures["machine"])
    with common.WorkFolder("recovery", options.keep) as work:
        for part in options.parts or PARTS:
            figures[part] = globals()[part](options, checks, work)
    common.write_json(options.json, figures)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
