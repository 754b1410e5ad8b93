#!/usr/bin/env python3
"""Deaths, shortages and deployments at random, at once and under load, for half an hour (`make chaos`; MINUTES and
SEED, or --seconds and --seed). Each turn is an operation on the plugin folder, perhaps a shortage (a full stage
folder, no descriptors, the n-th open, mmap or dlopen fails), and perhaps the death of the server process (a crash
of a plugin in one of ten ways, kill -9, kill -9 of the next one while it starts); then order must return.

Only requests whose connection was open in a process that died may fail. Each is given to its death; one too many, an
answer of a version that was not to serve, a connection closed or a reason missing is a defect. Between rounds, when
nobody asks, descriptors, mappings, threads, versions and staged files must be where they were. Prints TAP and
figures. A seed repeats the choices, not the moments."""

import argparse
import atexit
import os
import random
import shutil
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
for folder in (HERE, os.path.join(HERE, "..", "integration", "lib"), os.path.join(HERE, "..", "..", "bench")):
    sys.path.insert(0, folder)
import grafttest  # noqa: E402
from grafttest import (Failed, HttpError, SANITIZER, SCALE, SRCDIR, children, compile_plugin, diag, ok, secs,  # noqa: E402
                       skip, wait_for)
import common  # noqa: E402
from crowd import Crowd  # noqa: E402
import faults  # noqa: E402
from faults import Death  # noqa: E402
from model import Serving, Shelf  # noqa: E402
from shop import Shop  # noqa: E402
from swaptest import Server, footprint, fresh, put  # noqa: E402

ROUND_S = 40
LONG_MS, SHORT_MS = 60000, 1  # crash_window_ms: within it a second crash quarantines, and starts wait
VERSIONS = 5                  # versioned, crashes, hello, chaos-who, soak-trim


def build(*path):
    with open(os.path.join(SRCDIR, *path), encoding="utf-8") as file:
        return compile_plugin(file.read())


def private_kb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon:"))


def count_maps(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        return len(file.readlines())


class Chaos:
    def __init__(self, seed, clients):
        self.dice = random.Random(seed)
        self.injector = None
        if SANITIZER == "none":
            from injecttest import Injector  # pylint: disable=import-outside-toplevel
            self.injector = Injector()
        self.server = Server(["hello", "crashes"], {
            "plugins": {}, "middleware": ["chaos-who"], "crash_window_ms": SHORT_MS, "watchdog_ms": int(1500 * SCALE),
            "watchdog_kill": True, "limits": {"versions": 30}, "drain": {"idle_ms": 200}}, start=False,
            env=self.injector.env if self.injector else None)
        self.disk = faults.Disk(self.server.stage_dir)
        atexit.register(self.disk.close)
        put(self.server, open(build("tests", "chaos", "who.c"), "rb").read(), "chaos-who")
        put(self.server, open(build("tests", "soak", "trim.c"), "rb").read(), "soak-trim")
        self.serving, self.shelf = Serving(), Shelf()
        self.crowd = None
        self.clients, self.seed = clients, seed
        self.deaths, self.turns, self.crash_events, self.by_fault = [], 0, 0, {}
        self.census, self.pids = [], set()
        self.rounds = 0

    def begin(self):
        self.shop = Shop(self.server, self.serving, self.shelf, None, self.dice)
        first = self.shop.put()
        self.serving.may({first})
        self.server.start()
        wait_for(lambda: self.server.status()["generation"] > 0, 20, "the first generation")
        self.crowd = self.shop.crowd = Crowd(self.server.address, self.serving, self.seed, self.clients)
        self.shop.state = (first, None)
        self.shelf.served(first)
        self.before = self.first_measure()
        self.crowd.start()

    # ---- A turn ----

    def shortage(self):
        roll = self.dice.random()
        if roll < 0.62:
            return None
        if roll < 0.74 and self.disk.why is None:
            return faults.FullDisk(self.server, self.dice)
        if roll < 0.87 or self.injector is None:
            whose = self.dice.choice(("server", "server", "supervisor"))
            return faults.Descriptors(self.pid if whose == "server" else self.server.proc.pid, whose, self.dice)
        return faults.Injected(self.injector, self.dice)

    def death_kind(self):
        roll = self.dice.random()
        if roll < 0.5:
            return None
        return "kill -9" if roll < 0.58 else "kill -9 at its start" if roll < 0.62 else self.dice.choice(faults.CRASHES)

    def die(self, kind, alone, delay):
        time.sleep(delay)
        first = Death("kill -9" if kind == "kill -9 at its start" else kind, self.pid, alone and kind == first_of(kind))
        if first.happen(self.server):
            self.deaths.append(first)
        if kind != "kill -9 at its start":
            return
        pid = faults.heir(self.server, self.pid)
        time.sleep(self.second_delay)
        second = Death(kind, pid, False)
        if pid is not None and second.happen(self.server):
            self.deaths.append(second)

    def turn(self):
        self.turns += 1
        self.pid = self.server.status()["pid"]
        deaths, shortage, kind, operation = len(self.deaths), self.shortage(), self.death_kind(), self.shop.one()
        delay, hold, lead = self.dice.random() * 0.06, self.dice.random() * 0.3, self.dice.random() * 0.04
        self.second_delay = self.dice.random() ** 2 * 0.08
        if kind in faults.CRASHES:
            self.blamed = self.shop.active("crashes")
        if kind:
            self.shop.before_death()
        mark = self.server.mark()
        if shortage:
            self.by_fault[shortage.name] = self.by_fault.get(shortage.name, 0) + 1
            shortage.begin()
            time.sleep(lead)
        dying = threading.Thread(target=self.die, args=(kind, not shortage and operation == self.shop.nothing, delay))
        ending = threading.Timer(hold, shortage.end) if shortage else None
        if ending:
            ending.start()
        if kind:
            dying.start()
        outcome = operation()
        if kind:
            dying.join()
        if ending:
            ending.join()
        died = self.deaths[deaths:]
        self.recover(died, kind, mark, shortage)
        what = f"turn {self.turns}: {outcome.name} ({outcome.said[:200]}), {shortage or 'nothing lacking'}, {kind or 'no death'}"
        if died and died[-1].recovered > secs(1):
            diag(f"{what}: the first answer after {died[-1].recovered:.1f} s")
        self.shop.resolve(outcome, died)
        if outcome.said == "no answer" and not died:
            self.crowd.defect(f"{what}: nobody answered, and no process died")
        self.shop.mend(what, bool(died))
        if self.options_verbose:
            diag(what)

    def recover(self, died, kind, mark, shortage):
        """Until a process serves that is another one, if one died; it must be the same, if none did."""
        old = {death.pid for death in died}

        def serves():
            try:
                now = self.server.status()
            except (OSError, HttpError):
                return None
            return now["pid"] if now["pid"] not in old and now["generation"] > 0 else None
        heir = wait_for(serves, 60, "a process that serves")
        if kind and not died:
            self.crowd.defect(f"turn {self.turns}: {kind}: the process lives on")
        if not died and heir != self.pid:
            event = self.server.event("crash", mark)
            self.crowd.defect(f"turn {self.turns}: process {self.pid} died by itself: {event}")
            self.crash_events += 1
            self.pids.add(self.pid)
        if died:
            wait_for(lambda: heir in self.crowd.first, 60, "its first answer")
            last = died[-1]
            last.recovered = self.crowd.first[heir] - last.moment
            self.told(died, mark, shortage)
        self.account(died)

    def told(self, died, mark, shortage):
        """The log names each death, and whose it was."""
        for death in died:
            self.crash_events += 1
            event = self.server.wait_event("crash", 30, since=mark, pid=death.pid)
            self.pids.add(death.pid)
            if death.kind in faults.CRASHES and death.kind != "exit" and not shortage:
                if event.get("signal") != faults.SIGNALS[death.kind] or event.get("plugin") != "crashes" or \
                        event.get("id", "")[:12] not in (self.blamed[:12], self.shop.active("crashes")[:12]) or \
                        not str(event.get("function", "")).startswith("sink_"):
                    self.crowd.defect(f"{death.kind} of {self.blamed}: told as {event}")

    def account(self, died):
        """Whose the failures are; no death costs more than the connections that were open."""
        time.sleep(0.02)
        self.crowd.take(self.deaths[-4:])
        for death in died:
            if death.kind == "loop":  # the watchdog came a moment before the first client was cut off
                death.moment = min([death.dead] + [one.at for one in death.failed + death.closed])
            death.active, death.busy = self.crowd.active(death.moment, death.dead)
            death.busy += sum(1 for one in death.failed if one.begun <= death.moment)
            if len(death.failed) > min(death.active, self.clients):  # each client has one at a time
                self.crowd.defect(f"{death.kind}: {len(death.failed)} requests failed, {death.active} connections were open: "
                                  f"{[(f'{one.begun - death.begun:.4f}', f'{one.at - death.begun:.4f}') for one in death.failed]}, "
                                  f"dead after {death.dead - death.begun:.4f}")

    # ---- Scenes: what takes more than a turn ----

    def scene(self, more, then):
        """With a long crash window: `more` brings a version of `crashes` that does not stay, `then` makes it crash
        twice; it must be quarantined, and the one before serves."""
        s, shop = self.server, self.shop
        s.config["crash_window_ms"] = LONG_MS
        put(s, fresh("crashes"), "crashes")
        s.write_config()
        shop.mend("a longer crash window")
        good = s.active("crashes")
        index = os.path.join(s.dir, "state", "index.json")
        try:
            wait_for(lambda: good["sha256"] in open(index, encoding="utf-8").read(), 20, "it is kept")
        except Failed:
            with open(index, encoding="utf-8") as file:
                self.crowd.defect(f"crashes {good['id']} is not in the index after 20 s: {s.api('GET', '/v1/versions')['kept']}; "
                                  f"files {os.listdir(os.path.join(s.dir, 'state', 'files'))}; {file.read()[:3000]}; "
                                  f"{s.find_events('state')[-3:]}; {s.find_events('crash')[-2:]}")
            s.config["crash_window_ms"] = SHORT_MS
            s.write_config()
            shop.mend("no scene")
            return
        mark, begun, pid = s.mark(), time.monotonic(), s.pid
        more()
        then()
        wait_for(lambda: s.find_events("quarantine", mark), 60, "the quarantine")
        wait_for(self.steady, 60, "a process that serves on")
        dead = [e for e in s.find_events("crash", mark)]
        self.crash_events += len(dead)
        self.pids |= {e["pid"] for e in dead}
        death = Death("crash loop" if len(dead) > 1 else "crash", pid, False)
        death.begun = death.moment = begun
        death.dead = time.monotonic()
        self.deaths.append(death)
        self.crowd.take([death])
        death.active, death.busy = self.crowd.active(death.begun, death.dead)
        if len(dead) != 2:
            self.crowd.defect(f"quarantined after {len(dead)} crashes, not after 2")
        if len(death.failed) > 2 * self.clients:
            self.crowd.defect(f"2 crashes: {len(death.failed)} requests failed of {self.clients} clients")
        now = s.active("crashes")
        if (now["sha256"], now["config_sha256"]) != (good["sha256"], good["config_sha256"]):
            self.crowd.defect(f"after the quarantine crashes {now['id']} serves, expected {good['id']}")
        s.config["crash_window_ms"] = SHORT_MS
        s.config["plugins"].pop("crashes", None)
        put(s, fresh("crashes"), "crashes")
        s.write_config()
        shop.resolve(shop.nothing(), [death])
        shop.mend("the quarantine")

    def steady(self):
        """Serves, and half a second later the same process still does."""
        try:
            pid = self.server.status()["pid"]
            time.sleep(0.5)
            return self.server.status()["pid"] == pid and self.server.ps("crashes", "active")
        except (OSError, HttpError):
            return False

    def repeat_offender(self):
        def more():
            put(self.server, fresh("crashes"), "crashes")
            self.shop.mend("the offender")

        def then():
            for _ in range(2):
                death = Death("segv", self.server.pid, False)
                death.happen(self.server)
                wait_for(lambda: self.server.pid != death.pid and self.server.status()["generation"] > 0, 60, "the next process")
        self.scene(more, then)

    def crash_loop(self):
        def more():
            self.server.config["plugins"]["crashes"] = {"config": {"when": "every"}}
            self.server.write_config()
            self.shop.ask("/v1/reload?config=1")
        self.scene(more, lambda: None)

    # ---- Between rounds ----

    def first_measure(self):
        """When the store's files have been copied, too: the same twice."""
        before = None
        while True:
            now = self.measure()
            if before and before["server"] == now["server"]:
                return now
            before = now
            time.sleep(0.3)

    def measure(self):
        """What the server holds when nobody asks, and what its supervisor does."""
        settled = wait_for(lambda: (lambda found: len(found) == VERSIONS and all(v["state"] == "active" for v in found))
                           (self.server.ps()), 30, f"{VERSIONS} versions, all active")
        del settled
        parent = self.server.proc.pid
        self.server.get("/soak-trim")
        held = footprint(self.server)
        held.pop("stage")  # a plugin's folder stays, empty, when a process died between making it and filling it
        return {"server": held, "supervisor": {
            "descriptors": len(os.listdir(f"/proc/{parent}/fd")), "children": len(children(parent)),
            "crash areas": sum("graft-crash" in line for line in open(f"/proc/{parent}/maps", encoding="utf-8"))},
            "mappings": (count_maps(parent), count_maps(self.server.pid)),
            "kb": (private_kb(parent), private_kb(self.server.pid))}

    def pause(self):
        """A round is over: all must be where it was."""
        self.rounds += 1
        self.shop.settle()
        self.crowd.pause()
        self.crowd.take([])
        before, now, until = self.before, None, time.monotonic() + secs(15)
        while time.monotonic() < until:
            now = self.measure()
            if all(now[key] == before[key] for key in ("server", "supervisor")):
                break
            time.sleep(0.1)
        for whose in ("server", "supervisor"):
            for key, value in before[whose].items():
                if now[whose][key] != value:
                    names = [name for _, folders, files in os.walk(self.server.stage_dir) for name in folders + files]
                    self.crowd.defect(f"round {self.rounds}: {whose}: {key} {value} -> {now[whose][key]}; staged {names}")
        kept = os.path.join(self.server.dir, "state", "files")
        files = len(os.listdir(kept))
        if files > 2 * VERSIONS + 2:
            self.crowd.defect(f"round {self.rounds}: {files} files are in the store")
        self.census.append({**now, "kept": files})
        diag(f"round {self.rounds}, {len(self.deaths)} deaths, {self.crowd.count} answers: supervisor "
             f"{now['kb'][0]} KB, {now['mappings'][0]} mappings; server {now['kb'][1]} KB, {now['mappings'][1]} mappings")
        self.crowd.go_on()

    def round(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turn()
        self.shop.settle()
        if SANITIZER == "none" and seconds >= 10:
            (self.crash_loop if self.rounds % 2 else self.repeat_offender)()
        self.pause()

    def run(self, seconds, verbose=False):
        self.options_verbose = verbose
        self.begin()
        begun = time.monotonic()
        rounds = max(1, round(seconds / ROUND_S))
        try:
            for n in range(1, rounds + 1):
                self.round(max(1.0, begun + seconds * n / rounds - time.monotonic()))
        except (Failed, OSError, HttpError, KeyError) as error:
            self.crowd.defect(f"turn {self.turns}: it could not go on: {type(error).__name__}: {error}")
        self.seconds = time.monotonic() - begun
        self.crowd.stop()
        self.crowd.take(self.deaths[-3:])
        self.report()

    # ---- The report ----

    def report(self):
        crowd, deaths, shop = self.crowd, self.deaths, self.shop
        kinds = {kind: [d for d in deaths if d.kind == kind] for kind in sorted({d.kind for d in deaths})}
        diag(f"{self.seconds:.0f} s, {self.turns} turns, {self.rounds} rounds; {crowd.count} requests answered "
             f"({crowd.count / self.seconds:.0f} a second, {self.clients} clients)")
        diag(f"operations: {shop.counts}, {shop.refused} of them refused with a reason; swap median "
             f"{common.median(shop.duration_us) / 1000:.1f} ms, at most {max(shop.duration_us, default=0) / 1000:.0f} ms")
        diag(f"deaths: {len(deaths)} ({', '.join(f'{kind} {len(all_)}' for kind, all_ in kinds.items())}); "
             f"shortages: {self.by_fault}")
        if shop.late:
            diag(f"{len(shop.late)} deaths came less than {secs(1.5):.1f} s behind an operation that was not in the store's index "
                 f"yet, and what was before it served, e.g. after {'; '.join(shop.late[:5])}")
        failed = [len(d.failed) for d in deaths]
        diag(f"failed requests: {sum(failed)}; a death: mean {sum(failed) / max(1, len(failed)):.2f}, at most "
             f"{max(failed, default=0)}; open then: mean {sum(d.active for d in deaths) / max(1, len(deaths)):.2f}; in progress "
             f"at that moment: mean {sum(d.busy for d in deaths) / max(1, len(deaths)):.2f}; idle connections closed: "
             f"{sum(len(d.closed) for d in deaths)}")
        for kind, all_ in kinds.items():
            diag(f"  {kind}: {len(all_)}, failed {sum(len(d.failed) for d in all_)}, in progress {sum(d.busy for d in all_)}, "
                 f"open {sum(d.active for d in all_)}")
        some = [d.recovered for d in deaths if d.recovered is not None]
        self.alone = [d.recovered for d in deaths if d.recovered is not None and d.alone]
        for what, values in (("alone", self.alone), ("with whatever went on beside it", some)):
            diag(f"first answer of the next process, {what}: {len(values)}, median {common.median(values) * 1000:.0f} ms, at most "
                 f"{max(values, default=0) * 1000:.0f} ms")
        if self.census:
            first, last = self.census[0], self.census[-1]
            diag(f"supervisor: private {first['kb'][0]} -> {last['kb'][0]} KB, mappings {first['mappings'][0]} -> "
                 f"{last['mappings'][0]}; server: {first['kb'][1]} -> {last['kb'][1]} KB, {first['mappings'][1]} -> "
                 f"{last['mappings'][1]}; kept files {first['kept']} -> {last['kept']}")
        for text in crowd.stale[:10]:
            diag("DEFECT " + text)
        ok(crowd.count > 0 and self.turns > 0, f"{crowd.count} answers in {self.turns} turns")
        ok(not crowd.stale, f"{len(crowd.stale)} answers of a version that was not to serve")
        ok(not crowd.defects, f"{len(crowd.defects)} other defects")
        ok(all(len(d.failed) <= max(d.active, 1) * (2 if d.kind == "crash loop" else 1) for d in deaths),
           f"{len(deaths)} deaths cost {sum(failed)} requests, none more than the connections that were open: "
           f"{sum(d.active for d in deaths)}")
        told = len(self.server.find_events("crash"))
        for event in self.server.find_events("crash", pid=lambda pid: pid not in self.pids):
            diag(f"DEFECT a crash that nobody caused: {event}")
        ok(told == self.crash_events, f"{told} crash events for {self.crash_events} deaths")
        if len(self.census) > 1:
            growth = self.census[-1]["kb"][0] - self.census[0]["kb"][0]
            ok(growth < 512 or SANITIZER != "none", f"the supervisor's memory: {growth:+d} KB")
        limit = 0.3 * SCALE * (1 if self.seconds > 120 else 3)
        ok(not self.alone or common.median(self.alone) < limit, f"recovered within {limit * 1000:.0f} ms (median)")
        if self.disk.why not in (None, "closed"):
            skip(self.disk.why, "a full disk in the stage folder")


def first_of(kind):
    return "" if kind == "kill -9 at its start" else kind


def run(seconds, seed, clients=8, verbose=False, log=None):
    diag(f"seed {seed}; {common.machine()}")
    chaos = Chaos(seed, clients)
    try:
        chaos.run(seconds, verbose)
    finally:
        chaos.server.finish()
        chaos.disk.close()
        if log:
            shutil.copyfile(chaos.server.log_path, log)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=float, default=60 * float(os.environ.get("MINUTES") or 30))
    add("--seed", default=os.environ.get("SEED") or os.urandom(4).hex())
    add("--clients", type=int, default=8)
    add("--log", help="where to keep the server's log")
    add("--verbose", action="store_true", help="a line for each turn")
    options = parser.parse_args()
    sys.argv[1:] = []

    @grafttest.case("chaos")
    def _():
        run(options.seconds, options.seed, options.clients, options.verbose, options.log)
    grafttest.main()


if __name__ == "__main__":
    main()
