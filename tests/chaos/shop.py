"""The one who deploys in the chaos driver, and what it may expect: each operation says beforehand which
versions may answer, and afterwards which (stable, canary) there can be. A server that dies meanwhile
leaves a few of these open; nothing else does."""

import os
import time

from grafttest import HttpError, SRCDIR, secs, tempdir, wait_for
import common
from swaptest import fresh, put

SINS = ("init_fails", "ready_fails", "worker_init_fails", "start_fails", "constructor_aborts", "constructor_exits",
        "route_conflict", "no_descriptor", "harmless")


class Outcome:
    """What an operation may have led to: pairs of (stable, canary)."""

    def __init__(self, name, states, said="", at=0.0):
        self.name, self.states, self.said, self.at = name, set(states), said, at


class Shop:
    def __init__(self, server, serving, shelf, crowd, dice):
        self.server, self.serving, self.shelf, self.crowd, self.dice = server, serving, shelf, crowd, dice
        self.work = tempdir()
        self.state = (None, None)   # (stable, canary), as last seen
        self.file = None            # the number that lies in the plugin folder
        self.serial = 0
        self.counts, self.refused = {}, 0
        self.history, self.past = [], set()  # states and when they were seen; those that may come back
        self.young = set()                   # the versions of these, while a death is on its way
        self.late = []                       # deaths after which one of these came back: see recent()
        self.duration_us = []
        self.templates = {}
        soak = os.path.join(SRCDIR, "tests", "soak", "bad.c")
        self.compile("versioned", os.path.join(SRCDIR, "bench", "plugins", "versioned.c"))
        for n, sin in enumerate(SINS, 1):
            self.compile(sin, soak, f"-DSIN={n}")

    def compile(self, name, source, *flags):
        path = os.path.join(self.work, name + ".template")
        common.compile_plugin(source, path, *flags)
        self.templates[name] = common.Template(path)

    def ask(self, target):
        """The answer, or None when the process that was to give it died."""
        try:
            return self.server.api("POST", target)
        except (OSError, HttpError, ValueError):
            return None

    def path(self, name):
        return os.path.join(self.server.plugin_dir, name + ".so")

    def put(self):
        """A version never seen before lies in the folder."""
        sha = self.templates["versioned"].put(self.shelf.number + 1, self.path("versioned"))
        self.file = self.shelf.add(sha)
        return self.file

    def may(self, *versions):
        self.serving.may({n for n in versions if n is not None} | self.young)

    def reload(self, more=""):
        """A scan, with the configuration as it is written; again when too many versions are still in use."""
        retry = "" if self.file in self.shelf.quarantined else "&retry=1"
        until = time.monotonic() + secs(20)
        while True:
            answer = self.ask("/v1/reload?config=1" + retry + more)
            if answer is None or answer.get("ok") or answer.get("error") != "busy" or time.monotonic() > until:
                return answer
            time.sleep(0.05)

    def outcome(self, name, answer, done, undone, both=None):
        """`done` when it says so, `undone` when it is refused with a reason, either when nobody answered."""
        self.counts[name] = self.counts.get(name, 0) + 1
        if answer is None:
            return Outcome(name, both or [done, undone], "no answer", time.monotonic())
        if answer.get("ok"):
            self.duration_us.append(answer.get("duration_us", 0))
            return Outcome(name, [done], "ok", time.monotonic())
        self.refused += 1
        said = str(answer.get("reason") or answer.get("error") or answer)
        if len(said) < 10:
            self.crowd.defect(f"{name}: refused without a reason: {answer}")
        # Out of memory for the answer, or pending: it says that it may have been done.
        maybe = answer.get("error") == "pending" or "may have been done" in said
        return Outcome(name, [done, undone] if maybe else [undone], said, time.monotonic())

    # ---- The operations ----

    def swap(self):
        before = self.state
        n = self.put()
        self.may(*before, n)
        return self.outcome("swap", self.reload(), (n, None), before)

    def canary(self):
        before, n, weight = self.state, self.put(), self.dice.choice((1, 10, 50, 90))
        self.may(*before, n)
        return self.outcome("canary", self.ask(f"/v1/plugins/versioned/canary?weight={weight}"), (before[0], n), before)

    def weigh(self):
        return self.outcome("another weight", self.ask(f"/v1/plugins/versioned/canary?weight={self.dice.randrange(100)}"),
                            self.state, self.state)

    def promote(self):
        return self.outcome("promote", self.ask("/v1/plugins/versioned/promote"), (self.state[1], None), self.state)

    def abort(self):
        done = self.outcome("abort", self.ask("/v1/plugins/versioned/abort"), (self.state[0], None), self.state)
        if done.said == "ok":
            self.shelf.barred(self.state[1])
        return done

    def rollback(self):
        before = self.state
        self.may(*before, *self.shelf.good)
        answer = self.ask("/v1/plugins/versioned/rollback")
        to = [self.shelf.of(str(one.get("id"))) for one in (answer or {}).get("changed", []) if one.get("ok", True)]
        if answer and answer.get("ok"):
            if len(to) != 1 or to[0] not in self.shelf.good or to[0] == before[0]:
                self.crowd.defect(f"rollback from {before}: {answer}; good were {self.shelf.good[-5:]}")
            else:
                self.shelf.barred(before[0])
                return self.outcome("rollback", answer, (to[0], None), before)
        self.refusal = answer
        return self.outcome("rollback", answer, before, before, [(n, None) for n in self.shelf.good] + [before])

    def bad(self):
        """A file that cannot serve changes nothing. A start after a death does without it, and answers who asked
        meanwhile: that went well, but for the file that it names."""
        self.serial += 1
        sin = self.dice.choice(SINS[:-1])
        self.templates[sin].put(self.serial, self.path("bad"))
        answer = self.reload()
        os.unlink(self.path("bad"))
        named = answer is not None and any("bad.so" in str(one.get("error")) for one in answer.get("failed", []))
        if answer is not None and answer.get("ok") and not named:
            self.crowd.defect(f"{sin} was loaded: {answer}")
        return self.outcome("bad plugin", answer, self.state, self.state)

    def configure(self):
        self.serial += 1
        self.server.config["plugins"]["hello"] = {"config": {"n": self.serial}}
        self.server.write_config()
        return self.outcome("configuration", self.reload(), self.state, self.state)

    def come_and_go(self):
        self.serial += 1
        self.templates["harmless"].put(self.serial, self.path("extra"))
        answer = self.reload()
        os.unlink(self.path("extra"))
        return self.outcome("come and go", answer, self.state, self.state)

    def renew_crashes(self):
        put(self.server, fresh("crashes"), "crashes")
        return self.outcome("another swap", self.reload(), self.state, self.state)

    def nothing(self):
        return Outcome("nothing", [self.state])

    def one(self):
        """An operation that fits to what serves."""
        if self.state[1] is not None:
            kinds = (self.promote, self.promote, self.abort, self.weigh, self.configure, self.nothing)
        else:
            kinds = (self.swap,) * 8 + (self.canary,) * 4 + (self.bad, self.configure, self.come_and_go,
                                                             self.renew_crashes, self.nothing)
            if len(self.shelf.good) > 1 and self.file == self.state[0]:
                kinds += (self.rollback,) * 2
        return self.dice.choice(kinds)

    # ---- What came of it ----

    def recent(self):
        """The states of a moment ago: what an operation led to is noted in the store's index a little later, and a death
        in between leaves the state before, or the version that was good before."""
        return {state for at, state in self.history if time.monotonic() - at < secs(1.5)} | {self.state}

    def before_death(self):
        """What may answer when the process dies in this turn."""
        self.past = self.recent()
        young = len(self.past) > 1
        self.past |= {(n, None) for n in self.shelf.good[-4:]} if young else set()
        self.young = {n for state in self.past for n in state if n is not None}
        self.may(*self.serving.now())

    def seen(self):
        """(stable, canary) as ps tells."""
        by_state = {}
        for v in self.server.ps("versioned"):
            by_state.setdefault(v["state"], []).append(self.shelf.of(v["sha256"]))
        active, canary = by_state.get("active", []), by_state.get("canary", [])
        return (active[0] if len(active) == 1 else None, canary[0] if len(canary) == 1 else None)

    def after_death(self, states):
        """What a process that starts makes of it: a canary waits until the good version serves, other files serve."""
        out = states | {(stable, None) for stable, _ in states}
        if self.file not in self.shelf.quarantined and not any(canary for _, canary in states):
            out.add((self.file, None))
        return out

    def resolve(self, outcome, deaths):
        """After an operation, when the server serves again: what serves must be what can have come of it."""
        states = self.after_death(set(outcome.states)) if deaths else set(outcome.states)
        now = self.seen()
        self.young = set()
        if deaths and now not in states and now in self.came_late(states):
            self.late.append(f"{outcome.name} ({outcome.said}): {now} instead of {sorted(states, key=str)}")
            states.add(now)
        if now not in states:
            self.crowd.defect(f"{outcome.name} ({outcome.said}), {[d.kind for d in deaths]}: serves {now}, expected one of "
                              f"{sorted(states, key=str)}; the file is {self.file}, "
                              f"{'quarantined' if self.file in self.shelf.quarantined else 'not quarantined'}")
        before = self.state
        if outcome.name == "abort" and now[1] is None and now[0] == before[0] and not deaths:
            self.shelf.barred(before[1])
        if outcome.name == "rollback" and now[0] != before[0] and self.file == before[0]:
            self.shelf.barred(before[0])
        self.take(now, self.file if deaths else None)

    def came_late(self, states):
        """What a process makes of an index that does not know of the last moment. A canary is in it at once, perhaps
        before the version beside which it began: then it is beside the one before."""
        beside = {(stable, canary) for stable, _ in self.past for _, canary in states if canary is not None}
        return (self.after_death(self.past) | beside | {(self.file, None)}) - self.barred_file()

    def barred_file(self):
        return {(self.file, None)} if self.file in self.shelf.quarantined else set()

    def take(self, now, *more):
        if now != self.state:
            self.history = self.history[-50:] + [(time.monotonic(), self.state), (time.monotonic(), now)]
        self.state = now
        self.may(*now, *more)
        if now[0] is not None:
            self.shelf.served(now[0])

    def mend(self, what, died=False):
        """Nothing is lacking any more: a scan must succeed, and the file in the folder serves unless it is barred, or
        is a canary, also again after a death."""
        stable, canary = self.state
        wanted = {(self.file, None)} if canary is None and self.file not in self.shelf.quarantined else {self.state}
        if died and self.file not in self.shelf.quarantined:
            wanted |= {(stable, self.file), (self.file, None)}
        self.may(*self.state, *(n for state in wanted for n in state))
        answer = self.reload()
        if answer is None or not answer.get("ok"):
            self.crowd.defect(f"after {what}: a scan fails: {str(answer)[:600]}")
        now = self.seen()
        if now not in wanted:
            self.crowd.defect(f"after {what} and a scan: serves {now}, expected one of {wanted}: {str(answer)[:600]}")
        self.take(now)

    def settle(self):
        """No canary any more."""
        if self.state[1] is not None:
            outcome = self.promote()
            self.resolve(outcome, [])

    def active(self, name):
        """The id of what serves under a name."""
        return wait_for(lambda: [v["id"] for v in self.server.ps(name, "active")], 20, f"{name} serves")[0]
