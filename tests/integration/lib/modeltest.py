"""Deployment histories: a small model of what serves after which operation, and the replay of a history
on a server, whose wire, `graftctl`, log and /metrics must all say what the model says.

`Model` is written from docs/OPERATIONS.md and the man pages, and is meant to be read as a specification.
`Replay` does the operations and compares; `history` makes random ones, `shrink` makes a bad one shorter.
An operation is a tuple of words, `put alpha good 3`; a history is replayed from its lines.

Three plugins: alpha and beta answer GET /alpha and /beta (`required` false: a start goes without them when
they are bad, one after a crash with what was good), gate is middleware around everything. A build is its
plugin, its kind and a number; it answers, and has as its version, KIND-NUMBER, so that an answer says who
gave it."""

import collections
import hashlib
import json
import os
import shutil
import signal
import time

from grafttest import Conn, Failed, HttpError, Server, compile_plugin, request_bytes, secs, SCALE, wait_for
import grafttest

__all__ = ["Model", "Replay", "Divergence", "history", "shrink", "as_lines", "from_lines", "build_all"]

HANDLERS = ("alpha", "beta")
PLUGINS = HANDLERS + ("gate",)

# Kind: what is wrong with such a build.
KINDS = {
    "good": None,
    "slow": None,         # init takes a while, within timeouts_ms.load
    "fail": None,         # answers 500 (gate: does not)
    "leak": None,         # leaves a thread behind: stuck once it is retired
    "noexec": "preflight",
    "ctor": "probe",
    "init": "init",
    "ready": "ready",
    "hang": "init",       # init takes longer than timeouts_ms.load
}
LOAD_MS = int(1500 * SCALE)


# ---- The model -----------------------------------------------------------------------------------

class Plugin:
    def __init__(self):
        self.file = None         # the build in the plugin folder
        self.stable = None       # what serves
        self.source = None       # where that came from: folder or store
        self.canary = None       # what serves a share of the requests, beside it
        self.weight = 0          # percent
        self.trial = None        # (build, weight): the last canary, until it is promoted, quarantined or has left
        self.good = []           # kept: builds that have been fully active, newest first, at most two
        self.quarantined = []    # not loaded by itself
        self.failed = set()      # failed in this process: reported again, not tried again
        self.crashes = collections.Counter()


class Expect:
    """What an operation must be answered, and what the log must say of it, in this order."""

    def __init__(self, exit=0, changed=(), failed=(), events=(), ended=()):
        self.exit = exit              # of graftctl
        self.changed = set(changed)   # (plugin, build or "removed")
        self.failed = set(failed)     # plugins
        self.events = list(events)    # (event, plugin, build), and last ("swap", ok, failed)
        self.ended = list(ended)      # ("retired" or "stuck", plugin, build): when that is, is left open
        self.at = 0                   # which of the swaps that are logged is the one that is answered
        self.follow = []              # events of the swaps that follow by themselves
        self.crash = []               # ("crash", plugin, build): told when the next process has been started


class Model:
    def __init__(self):
        self.plugins = {name: Plugin() for name in PLUGINS}
        self.deaths = 0
        self.fresh_process()

    def fresh_process(self):
        self.generation = 0
        self.swaps = collections.Counter()
        self.rollbacks = self.retired = 0
        self.stuck = []
        for p in self.plugins.values():
            p.failed = set()

    # -- what is common --

    def end(self, name, build):
        """A version is replaced. One that leaves a thread behind cannot be unmapped."""
        if build.kind == "leak":
            self.stuck.append((name, build))
            return "stuck", name, build
        self.retired += 1
        return "retired", name, build

    def end_canary(self, name):
        p = self.plugins[name]
        if not p.canary:
            return []
        canary, p.canary, p.weight, p.trial = p.canary, None, 0, None
        return [self.end(name, canary)]

    def serve(self, name, build, source="folder"):
        """Fully active: it is good, it and its predecessor are kept, and it is not quarantined any more."""
        p = self.plugins[name]
        p.stable, p.source = build, source
        p.good = ([build] + [b for b in p.good if b != build])[:2]
        p.trial = p.trial if p.trial and p.trial[0] != build else None
        p.quarantined = [b for b in p.quarantined if b != build]

    def quarantine(self, name, build):
        p = self.plugins[name]
        p.good = [b for b in p.good if b != build]
        p.quarantined = [b for b in p.quarantined if b != build] + [build]
        p.trial = p.trial if p.trial and p.trial[0] != build else None

    def published(self, events=(), failed=(), **more):
        self.generation += 1
        self.swaps["ok"] += 1
        return Expect(failed=failed, events=[*events, ("swap", True, sorted(failed))], **more)

    def not_swapped(self, failed, events=(), **more):
        """A swap is all or nothing: what serves serves on."""
        self.swaps["failed"] += 1
        return Expect(1, failed=failed, events=[*events, ("swap", False, sorted(failed))], **more)

    def load(self, wanted):
        """The builds that do not load are told, and not tried again by themselves. Callbacks run only when every
        file has passed its checks. An init that returns too late leaves its version stuck for a while."""
        bad = [(n, b) for n, b in wanted if KINDS[b.kind] in ("preflight", "probe")] or \
              [(n, b) for n, b in wanted if KINDS[b.kind]]
        for name, build in bad:
            self.plugins[name].failed.add(build)
        return ([("plugin_failed", n, b) for n, b in bad],
                [("stuck", n, b) for n, b in bad if b.kind == "hang"],
                bool(bad) and KINDS[bad[0][1].kind] not in ("preflight", "probe"))

    def nobody(self, known=()):
        """A configuration that is read tells of entries of plugins that no file declares."""
        return [("plugin_warning", None, None) for name in HANDLERS for p in [self.plugins[name]]
                if not p.stable and name not in known and (not p.file or KINDS[p.file.kind] in ("preflight", "probe"))]

    # -- operations --

    def put(self, name, build):
        self.plugins[name].file = build

    def remove(self, name):
        self.plugins[name].file = None

    def scan(self, retry=False, config=False):
        """USR2, reload; with config HUP: looks at the plugin folder and swaps."""
        load, leave, told, back = [], [], [], []
        for name, p in self.plugins.items():
            if p.file is None:
                leave += [name] if p.stable else []
            elif p.file == p.canary:
                pass
            elif p.file == p.stable:
                back.append(name)
            elif p.file in p.quarantined and not retry:
                told.append(name)
                if not p.stable and p.good:
                    load.append((name, p.good[0]))  # nothing of it serves: the last good version does
            elif p.file in p.failed and not retry:
                told.append(name)
            else:
                p.failed.discard(p.file)  # also when another file's failure keeps it from being tried
                load.append((name, p.file))
        warned = self.nobody() if config else []
        if "gate" in leave:  # `middleware` names it: nothing is loaded, but files are checked
            events, _, _ = self.load([(n, b) for n, b in load if KINDS[b.kind] in ("preflight", "probe")])
            return self.not_swapped(told + [name for _, name, _ in events] + ["gate"], events + warned)
        events, ended, tried = self.load(load)
        if events:
            for name, build in load:
                if tried and build.kind == "leak":  # its init ran
                    self.stuck.append((name, build))
                    ended.append(("stuck", name, build))
            events = warned + events if tried else events + warned
            return self.not_swapped(told + [name for _, name, _ in events if name], events, ended=ended)
        return self.swap(load, leave, told, back, config, warned)

    def swap(self, load, leave, told, back, config, warned):
        changed, canaries, loaded, ended = [], [], [], []
        for name in leave:
            p = self.plugins[name]
            changed.append((name, "removed"))
            ended += [self.end(name, p.stable)] + self.end_canary(name)
            p.stable = None
        for name in back:  # the stable version's own file: it serves as the folder's, and a canary ends
            self.plugins[name].source = "folder"
            if self.plugins[name].canary:
                changed.append((name, "removed"))
                ended += self.end_canary(name)
        for name, build in load:
            p = self.plugins[name]
            changed.append((name, build))
            loaded.append(("plugin_loaded", name, build))
            if p.canary:  # a newer file takes the canary's place
                ended.append(self.end(name, p.canary))
                p.canary, p.trial = build, (build, p.weight)
                canaries.append(("canary", name, build))
            else:
                ended += [self.end(name, p.stable)] if p.stable else []
                self.serve(name, build, "folder" if build == p.file else "store")
        if not changed and not config:
            self.swaps["unchanged"] += 1
            return Expect(failed=told, events=[("swap", True, sorted(told))])
        return self.published(warned + canaries + loaded, told, changed=changed, ended=ended)

    def canary(self, name, weight):
        """The file that waits in the folder gets a share; also one that failed before or is quarantined."""
        p = self.plugins[name]
        if p.file is None or p.file == p.stable:
            return self.not_swapped([name])
        if p.file == p.canary and weight == p.weight:
            self.swaps["unchanged"] += 1
            return Expect(events=[("swap", True, [])])
        if p.file == p.canary:
            p.weight, p.trial = weight, (p.canary, weight)
            return self.published([("canary", name, p.canary)])
        if not p.stable and KINDS[p.file.kind] not in ("preflight", "probe"):
            p.failed.discard(p.file)
            return self.not_swapped([name])  # beside nothing there is no canary; the next scan tries it
        events, ended, _ = self.load([(name, p.file)])
        if events:
            return self.not_swapped([name], events, ended=ended)
        ended += self.end_canary(name)
        p.canary, p.weight, p.trial = p.file, weight, (p.file, weight)
        return self.published([("canary", name, p.canary), ("plugin_loaded", name, p.canary)],
                              changed=[(name, p.canary)], ended=ended)

    def promote(self, name):
        p = self.plugins[name]
        if not p.canary:
            return self.not_swapped([name])
        canary, ended = p.canary, [self.end(name, p.stable)]
        p.canary, p.weight = None, 0
        self.serve(name, canary)
        return self.published(changed=[(name, canary)], ended=ended)

    def abort(self, name):
        """The canary leaves and is quarantined; its file stays where it is."""
        p = self.plugins[name]
        if not p.canary:
            return self.not_swapped([name])
        self.quarantine(name, p.canary)
        return self.published([("quarantine", name, p.canary)], changed=[(name, "removed")],
                              ended=self.end_canary(name))

    def rollback(self, name):
        """The good version before serves again, out of the store; the one replaced is quarantined, and with it a
        canary of the plugin: nothing but what was good serves by itself afterwards."""
        p = self.plugins[name]
        before = [b for b in p.good if b != p.stable]
        if not p.stable or not before:
            return self.not_swapped([])
        replaced, canary = p.stable, p.canary
        ended = [self.end(name, replaced)] + self.end_canary(name)
        self.serve(name, before[0], "store")
        out = [replaced] + ([canary] if canary and canary != before[0] else [])
        for build in out:
            self.quarantine(name, build)
        self.rollbacks += 1
        return self.published([("plugin_loaded", name, before[0]), ("rollback", name, before[0])] +
                              [("quarantine", name, build) for build in out],
                              changed=[(name, before[0])] + ([(name, "removed")] if canary else []), ended=ended)

    def find(self, again):
        """What a start finds in the folder: (wanted, told, events, follow). In the place of a quarantined file it takes
        the last good version, and of what is a canary, which follows by itself; when it is done again, of what failed,
        too."""
        wanted, told, events, follow = [], [], [], []
        for name, p in self.plugins.items():
            canary, weight = p.trial or (None, 0)
            p.stable = p.source = p.canary = None
            p.weight = 0
            if p.file and p.file == canary and p.good:
                wanted.append((name, p.good[0]))
                events.append(("canary", None, None))  # said: it follows
                follow.append((name, p.file, weight))
            elif p.file in p.quarantined:
                told.append(name)
                wanted += [(name, p.good[0])] if p.good else []
                events += [] if p.good else [("plugin_failed", name, p.file)]
                events.append(("plugin_warning", None, None))
            elif again and p.file in p.failed:
                told.append(name)
                wanted += [(name, p.good[0])] if p.good else []
                events += [("plugin_warning", None, None)] if p.good else []
            elif p.file:
                wanted.append((name, p.file))
                events += [("plugin_failed", name, p.file)] if KINDS[p.file.kind] in ("preflight", "probe") else []
        return wanted, told, events + self.nobody([name for name, _ in wanted] if again else []), follow

    def try_start(self, again=False, crashed=False):
        """One try: what it logs, what has ended, and unless it is to be done again, what serves. alpha and beta are not
        required: it goes without them; but after a crash only when there is no good version to serve instead."""
        wanted, told, events, follow = self.find(again)
        checked, _, _ = self.load([w for w in wanted if KINDS[w[1].kind] in ("preflight", "probe")])
        tried, ended, _ = self.load([w for w in wanted if KINDS[w[1].kind] not in ("preflight", "probe")])
        bad = [name for _, name, _ in checked + tried]
        failed = told + bad
        if crashed and not again and any(name == "gate" or self.plugins[name].good for name in bad):
            self.swaps["failed"] += 1
            for name, build in wanted:
                if build.kind == "leak":  # its init ran
                    self.stuck.append((name, build))
                    ended.append(("stuck", name, build))
            return events + tried + [("swap", False, sorted(failed)), ("plugin_warning", None, None)], ended, None
        loaded = []
        for name, build in wanted:
            if not KINDS[build.kind]:
                self.serve(name, build, "folder" if build == self.plugins[name].file else "store")
                loaded.append(("plugin_loaded", name, build))
        return events + tried + loaded, ended, (loaded, failed, follow)

    def start(self, crashed=False):
        """A process begins with what the folder holds. One that follows a crash does it again, with good versions in
        the place of files that failed."""
        self.fresh_process()
        events, ended, done = self.try_start(crashed=crashed)
        first = []
        if done is None:
            first, before = events, ended
            events, ended, done = self.try_start(again=True)
            ended = before + ended
        loaded, failed, follow = done
        expect = self.published(events, failed, changed=[(n, b) for _, n, b in loaded], ended=ended)
        expect.events = first + expect.events
        expect.at = len([e for e in first if e[0] == "swap"])
        for name, build, weight in follow:
            p = self.plugins[name]
            p.canary, p.weight = build, weight
            then = self.published([("canary", name, build), ("plugin_loaded", name, build)])
            expect.follow += then.events
        return expect

    def restart(self):
        """TERM, then a start with the same folders."""
        return self.start()

    def kill(self):
        """The server process dies of something that is nobody's fault: another one takes its place."""
        self.deaths += 1
        expect = self.start(crashed=True)
        expect.crash = [("crash", None, None)]
        expect.events.append(("restarted", None, None))
        return expect

    def crash(self, name, canary=False):
        """A request crashes it. The identity that does so twice is quarantined."""
        self.deaths += 1
        p = self.plugins[name]
        build, before = p.canary if canary else p.stable, []
        p.crashes[build] += 1
        if p.crashes[build] >= 2:
            self.quarantine(name, build)
            before.append(("quarantine", name, build))
        expect = self.start(crashed=True)
        expect.crash = [("crash", name, build)]
        expect.events = before + expect.events + [("restarted", name, build)]
        return expect

    # -- what makes sense --

    def allows(self, op):
        """Whether a history may go on like this. Left out are: starts without gate (exit 1), deaths that leave
        nothing good of a plugin (503), and more than three deaths (each start is later than the one before)."""
        what, name = op[0], op[1] if len(op) > 1 else None
        if what not in ("restart", "kill", "crash", "crash-canary"):
            return True
        culprit = name and (self.plugins[name].stable if what == "crash" else self.plugins[name].canary)
        if what != "restart" and self.deaths == 3 or name and not culprit:
            return False
        for other, p in self.plugins.items():
            good, quarantined = list(p.good), list(p.quarantined)
            if other == name and p.crashes[culprit]:  # the second crash of this identity
                quarantined.append(culprit)
                good = [b for b in good if b != culprit]
            if p.file in quarantined and not good and (what != "restart" or other == "gate"):
                return False
            if other == "gate" and (not p.file or p.file not in quarantined and KINDS[p.file.kind] and
                                    (what == "restart" or not good)):
                return False
        return True


# ---- Builds --------------------------------------------------------------------------------------

Build = collections.namedtuple("Build", "kind number")

PLACE = b"MARKED-00000000"
SOURCE = r"""
#include <graft/graft.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MARK "MARKED-00000000"
static const char *volatile mark = MARK; /* what it says is written into the file afterwards */

static int is(const char *kind)
{
    const char *m = mark;
    return strncmp(m, kind, strlen(kind)) == 0;
}

static void pass(long ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
    nanosleep(&t, NULL);
}

__attribute__((constructor)) static void early(void)
{
    if (is("ctor"))
        _exit(3);
}

static void *live(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static int init(graft_self *self, void **state)
{
    pthread_t thread;
    *state = NULL;
    if (is("slow"))
        pass(60);
    if (is("hang"))
        pass(HANG_MS);
    if (is("leak") && pthread_create(&thread, NULL, live, NULL) == 0)
        pthread_detach(thread);
    return is("init") ? graft_fail(self, "init of the model's build") : 0;
}

static int ready(graft_self *self, void *state)
{
    (void)state;
    return is("ready") ? graft_fail(self, "ready of the model's build") : 0;
}

static void crash(void)
{
    abort();
}

#ifdef GATE
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    if (graft_query(req, "gate-crash").ptr)
        crash();
    graft_set_header(req, "X-Gate", mark);
    return GRAFT_NEXT;
}

GRAFT_PLUGIN(.name = NAME, .version = MARK, .init = init, .ready = ready, .on_request = on_request)
#else
static graft_next serve(graft_req *req, void *state)
{
    (void)state;
    if (graft_query(req, "crash").ptr)
        crash();
    return graft_text(req, is("fail") ? 500 : 200, mark);
}

GRAFT_PLUGIN(.name = NAME, .version = MARK, .init = init, .ready = ready,
             .routes = (const graft_route[]){ { "GET", "/" NAME, serve, 0 }, { 0 } })
#endif
"""

_codes, _bytes, _by_sha = {}, {}, {}


def build_all():
    """Compiles what the builds are made from."""
    for name in PLUGINS:
        flags = [f'-DNAME="{name}"', f"-DHANG_MS={LOAD_MS + 400}"] + (["-DGATE"] if name == "gate" else [])
        for kind, more in (("", ()), ("noexec", ("-z", "execstack"))):
            with open(compile_plugin(SOURCE, *flags, *more), "rb") as f:
                _codes[name, kind] = f.read()


def bytes_of(name, build):
    key = name, build
    if key not in _bytes:
        word = f"{build.kind}-{build.number:08d}".encode()
        code = _codes[name, build.kind if build.kind == "noexec" else ""]
        _bytes[key] = data = code.replace(PLACE, word.ljust(len(PLACE), b"\0")) + word  # unique, also when cut short
        _by_sha[hashlib.sha256(data).hexdigest()[:12]] = key
    return _bytes[key]


def sha_of(name, build):
    return hashlib.sha256(bytes_of(name, build)).hexdigest()


def build_of(id):
    """The build that an id, or a SHA-256, is of."""
    return _by_sha.get((id or "")[:12], (None, None))[1]


def build_from(text):
    kind, _, number = text.partition("-")
    return Build(kind, int(number))


# ---- Histories -----------------------------------------------------------------------------------

def as_lines(ops):
    return "\n".join(" ".join(map(str, op)) for op in ops)


def from_lines(text):
    out = []
    for line in text.splitlines():
        words = line.strip().split()
        if words and not words[0].startswith("#"):
            out.append(tuple(int(w) if w.isdigit() else w for w in words))
    return out


OPERATIONS = {"put": 3, "again": 1, "remove": 0.5, "scan": 3, "retry": 0.7, "canary": 3, "promote": 2, "abort": 1,
              "rollback": 2.5, "restart": 0.8, "kill": 0.4, "crash": 1.2, "crash-canary": 1}  # how often


def history(rng):
    """5 to 12 operations that the model allows."""
    model, ops, number, before = Model(), [], 0, collections.defaultdict(list)
    first = [("put", name, "good", 0) for name in PLUGINS]
    for op in first:
        apply(model, op)
        before[op[1]].append(op)
    model.start()
    kinds = list(KINDS)
    chances = [10, 1.5, 3, 0.8, 1.5, 1.5, 2, 1.5, 0.2]
    wanted = rng.randint(5, 12)
    while len(ops) < wanted:
        name = rng.choices(PLUGINS, (5, 3, 3))[0]
        what = rng.choices(*zip(*OPERATIONS.items()))[0]
        if what in ("put", "again") or what == "canary" and rng.random() < 0.6:
            number += 1
            op = ("put", name, rng.choices(kinds, chances)[0], number)
            if what == "again":
                op = rng.choice(before[name])
            before[name].append(op)
            some = [op]
            if what == "canary":
                some.append(("canary", name, rng.choice((0, 1, 5, 10, 25, 33, 50, 75, 99))))
            elif rng.random() < 0.7:
                some.append((rng.choice(("reload", "reload", "usr2", "hup")),))
        elif what == "scan":
            some = [(rng.choice(("reload", "usr2", "hup")),)]
        elif what in ("retry", "restart", "kill"):
            some = [(what,)]
        elif what == "canary":
            some = [("canary", name, rng.choice((0, 1, 5, 10, 25, 33, 50, 75, 99)))]
        else:
            some = [(what, name)]
        for op in some:
            if model.allows(op):
                apply(model, op)
                ops.append(op)
    return ops


def apply(model, op):
    """What the model makes of an operation; None where nobody is asked."""
    what, args = op[0], op[1:]
    if what == "put":
        return model.put(args[0], Build(args[1], args[2]))
    if what in ("reload", "usr2"):
        return model.scan()
    if what == "hup":
        return model.scan(config=True)
    if what == "retry":
        return model.scan(retry=True)
    if what == "crash-canary":
        return model.crash(*args, canary=True)
    return getattr(model, what)(*args)


def shrink(ops, diverges):
    """A shorter history that still diverges: operations are dropped while it does."""
    at = len(ops) - 1
    while at >= 0:
        less = ops[:at] + ops[at + 1:]
        if diverges(less):
            ops = less
        at -= 1
        at = min(at, len(ops) - 1)
    return ops


# ---- The replay ----------------------------------------------------------------------------------

class Divergence(Exception):
    """The server does not do, or does not say, what the model does."""


# Of the process itself; at warn or error they count.
BESIDE = {"listening", "ops", "control", "config", "limits", "watch", "stage", "state", "drain", "loader", "memory",
          "exit", "plugin", "drain_start", "drain_end", "cooling", "request_failed"}
APART = {"crash", "retired", "stuck"}  # when these come is left open


def even(n, weight):
    """How many of n requests in a row a share of weight percent may be. Shares follow an even sequence: in
    no block of 200 is one of these weights further off than this."""
    return n * weight / 100 - EVEN, n * weight / 100 + EVEN


EVEN = 6
BLOCK = 200


class Replay:
    """One history on one server. `close` ends it."""

    def __init__(self, patience=5):
        self.model = Model()
        self.patience = patience
        self.server = Server([], {
            "middleware": ["gate"], "version_header_from": ["127.0.0.1"], "drain": {"idle_ms": 20},
            "limits": {"connections": 100},
            "plugins": {name: {"required": False} for name in HANDLERS},
            "timeouts_ms": {"load": LOAD_MS, "adopt": int(10000 * SCALE)}}, start=False)
        for name in PLUGINS:
            self.do_put(name, "good", 0)
        self.new_process()
        self.server.start()
        expect = self.model.start()
        self.compare(expect, 0)

    def close(self):
        s = self.server
        if s.proc is not None and s.proc.poll() is None:
            s.send_signal(signal.SIGQUIT)
            try:
                s.wait_exit(20)
            except Failed:
                s.kill()
        said = [line for line in s.other_lines if grafttest.REPORTS.search(line)]
        grafttest._servers.remove(s)
        shutil.rmtree(s.dir, ignore_errors=True)
        if said:
            raise Divergence("a sanitizer or an assertion: " + said[0])

    def new_process(self):
        self.wire = collections.Counter()   # (plugin, build, class): answers
        self.classes = collections.Counter()
        self.old_ids = set()
        self.ids = {}

    def run(self, ops):
        for at, op in enumerate(ops):
            if not self.model.allows(op):
                continue
            try:
                self.step(op)
            except (Divergence, Failed, HttpError, OSError) as error:
                raise Divergence(f"at operation {at + 1}, {' '.join(map(str, op))}: {error}") from None

    def step(self, op):
        since = self.server.mark()
        self.before = {n: (list(p.good), list(p.quarantined), p.canary, p.trial) for n, p in self.model.plugins.items()}
        self.serving = {n: p.stable for n, p in self.model.plugins.items()}
        expect = apply(self.model, op)
        answer = getattr(self, "do_" + op[0].replace("-", "_"))(*op[1:])
        if expect is None:
            return
        if answer is not None:
            self.same("the exit status", answer.returncode, expect.exit)
            said = json.loads(answer.stdout)
            self.same("the answer's ok", said["ok"], expect.exit == 0)
            if "changed" in said:
                self.same_swap("the answer", said, expect)
        if op[0] == "restart":
            since = 0
        self.compare(expect, since)

    # -- operations --

    def do_put(self, name, kind, number):
        build = Build(kind, number)
        s = self.server
        path = os.path.join(s.plugin_dir, f".{name}.new")
        with open(path, "wb") as f:
            f.write(bytes_of(name, build))
        os.chmod(path, 0o644)
        os.rename(path, os.path.join(s.plugin_dir, name + ".so"))
        if s.proc is None:
            self.model.put(name, build)

    def do_remove(self, name):
        try:
            self.server.uninstall(name)
        except FileNotFoundError:
            pass

    def ctl(self, *words):
        return self.server.ctl("--json", *map(str, words))

    def do_reload(self):
        return self.ctl("reload")

    def do_retry(self):
        return self.ctl("reload", "--retry")

    def do_usr2(self):
        self.server.send_signal(signal.SIGUSR2)

    def do_hup(self):
        self.server.send_signal(signal.SIGHUP)

    def do_canary(self, name, weight):
        return self.ctl("canary", name, "--weight", weight)

    def do_promote(self, name):
        return self.ctl("promote", name)

    def do_abort(self, name):
        return self.ctl("abort", name)

    def do_rollback(self, name):
        return self.ctl("rollback", name)

    def do_restart(self):
        s = self.server
        code = s.stop()
        self.same("the exit status of a drained server", code, 0)
        loud = [e for e in s.log() if e.get("event") in ("drain_start", "drain_end") and e["level"] != "info"]
        self.same("complaints of the drain", loud, [])
        os.unlink(s.log_path)
        s.events.clear()
        s._log_at, s._log_rest, s._checked = 0, b"", False
        self.new_process()
        s.start()

    def settled(self):
        """Until what is kept and quarantined is on the disk, which takes a moment: a death before loses it."""
        def written():
            try:
                with open(os.path.join(self.server.dir, "state", "index.json")) as f:
                    index = json.load(f)
            except (OSError, ValueError):
                return None
            return (sorted((p["plugin"], build_of(g["sha256"])) for p in index["plugins"] for g in p["good"]),
                    sorted((q["plugin"], build_of(q["sha256"])) for q in index["quarantine"]),
                    sorted((c["plugin"], build_of(c["sha256"]), c["weight"]) for c in index.get("canaries", [])))
        before = self.before.items()
        self.soon("index.json: good, quarantined, canaries", written, (
            sorted((n, b) for n, p in before for b in p[0]), sorted((n, b) for n, p in before for b in p[1]),
            sorted((n, *p[3]) for n, p in before if p[3])))

    def do_kill(self):
        self.settled()
        pid = self.server.pid
        os.kill(pid, signal.SIGKILL)
        self.replaced(pid)

    def do_crash(self, name, build=None):
        self.settled()
        pid = self.server.pid
        build = build or self.serving[name]
        with Conn(self.server) as conn:
            target = "/alpha?gate-crash=1" if name == "gate" else f"/{name}?crash=1"
            conn.send(request_bytes("GET", target, {"X-Graft-Version": f"{name}={self.ids[name, build]}"}))
            if conn.ends(20) is None or conn.data:
                raise Divergence(f"{target} was to crash the server: {conn.data!r}")
        self.replaced(pid)

    def do_crash_canary(self, name):
        self.do_crash(name, self.before[name][2])

    def replaced(self, pid):
        """Until another process serves."""
        def another():
            try:
                return self.server.status()["pid"] != pid and self.server.ops_get("/readyz").status == 200
            except (OSError, HttpError, KeyError, ValueError):
                return False
        wait_for(another, 30, "another server process")
        self.new_process()

    # -- comparing --

    def same(self, what, found, expected):
        if found != expected:
            raise Divergence(f"{what}: expected {show(expected)}, found {show(found)}")

    def soon(self, what, find, expected):
        """What is counted or ended just behind an answer may need a moment."""
        until, found = time.monotonic() + secs(self.patience), find()
        while found != expected and time.monotonic() < until:
            time.sleep(0.005)
            found = find()
        self.same(what, found, expected)

    def same_swap(self, what, said, expect):
        self.same(what + ": changed", {(c["plugin"], c["error"] or build_of(c["id"])) for c in said["changed"]},
                  {(n, b) for n, b in expect.changed})
        self.same(what + ": failed", {f["plugin"] for f in said["failed"]}, expect.failed)

    def compare(self, expect, since):
        self.log_says(expect, since)
        self.ps_says()
        self.wire_says()
        self.metrics_say()
        self.nothing_more(expect, since)

    def shown(self, event):
        name = event["event"]
        if name == "swap":
            return name, event["ok"], sorted(f["plugin"] for f in event["failed"])
        if name == "rollback":
            return name, event["plugin"], build_of(event["to"])
        if name == "canary" and "plugin" not in event:
            return name, None, None
        return name, event.get("plugin"), build_of(event.get("id") or event.get("sha256"))

    def said(self, since, wanted):
        return [self.shown(e) for e in self.server.log()[since:] if wanted(e)]

    def log_says(self, expect, since):
        """Exactly these events, in this order, and nothing else at warn or error."""
        def in_order(e):
            if e["event"] == "canary" and "stable_requests" in e:
                return False  # what its judge says meanwhile
            return e["event"] not in APART and (e["event"] not in BESIDE or e["level"] in ("warn", "error"))

        def failed_unnamed():  # a file that was never loaded has no id
            return [e[:2] if e[0] == "plugin_failed" else e for e in self.said(since, in_order)]
        self.soon("the log", failed_unnamed,
                  [e[:2] if e[0] == "plugin_failed" else e for e in expect.events + expect.follow])
        self.soon("the log's crash", lambda: self.said(since, lambda e: e["event"] == "crash"), expect.crash)
        self.soon("the log's retired and stuck versions", lambda: sorted(
            self.said(since, lambda e: e["event"] in ("retired", "stuck"))), sorted(expect.ended))
        swap = self.server.find_events("swap", since)
        if swap:
            self.same_swap("the swap event", swap[expect.at], expect)
            self.same("the swap event's generation", swap[-1]["generation"], self.model.generation)

    def nothing_more(self, expect, since):
        self.log_says(expect, since)

    def ps_says(self):
        model = self.model
        versions, kept, out = [], [], []
        for name, p in model.plugins.items():
            if p.stable:
                versions.append((name, p.stable, "active", 100 - p.weight, p.source))
            if p.canary:
                versions.append((name, p.canary, "canary", p.weight, "folder"))
            kept += [(name, b, b == p.stable) for b in p.good]
            out += [(name, b) for b in p.quarantined]
        versions += [(name, b, "stuck", 0) for name, b in model.stuck]
        found = None

        def ps():
            nonlocal found
            found = self.server.api("GET", "/v1/versions")
            return (sorted((v["plugin"], build_of(v["id"]), v["state"], v["weight"]) +
                           ((v["source"],) if v["state"] != "stuck" else ()) for v in found["versions"]),
                    sorted((k["plugin"], build_of(k["sha256"]), k["serves"]) for k in found["kept"]),
                    sorted((q["plugin"], build_of(q["sha256"])) for q in found["quarantined"]))
        self.soon("ps: versions, kept, quarantined", ps, (sorted(versions), sorted(kept), sorted(out)))
        self.old_ids |= set(self.ids.values())
        before, self.ids = self.ids, {}
        for v in found["versions"]:
            build = build_of(v["id"])
            self.same("ps: the version of an id", (v["version"], v["sha256"]),
                      (f"{build.kind}-{build.number:08d}", sha_of(v["plugin"], build)))
            if v["state"] != "stuck":
                self.ids[v["plugin"], build] = v["id"]
        for key, id in before.items():
            if self.ids.get(key) != id:
                self.ended(key, id)
        self.same("status: the generation", self.server.status()["generation"], model.generation)

    def ended(self, key, id):
        """The log tells what a version has served; another version of the same build counts for itself."""
        served = sum(self.wire.pop((*key, kind), 0) for kind in ("2xx", "4xx", "5xx"))
        for event in self.server.find_events(None, id=id):
            if event["event"] in ("retired", "stuck"):
                self.same(f"{event['event']}: what {id} has served", event["served"], served)

    # -- the wire --

    def ask(self, conn, target, n=1, headers=()):
        conn.send(request_bytes("GET", target, headers) * n)
        for _ in range(n):
            answer = conn.response()
            gate = answer.header("X-Gate")
            gate = build_from(gate) if gate else None
            body = None
            kind = f"{answer.status // 100}xx"
            self.classes[kind] += 1
            if answer.status in (200, 500):
                body = build_from(answer.text)
                self.same("a build and its status", answer.status, 500 if body.kind == "fail" else 200)
                self.wire[target.strip("/"), body, kind] += 1
            if gate:
                self.wire["gate", gate, kind] += 1
            yield answer.status, body, gate

    def wire_says(self):
        gate = self.model.plugins["gate"]
        with Conn(self.server) as conn:
            for name in HANDLERS:
                p = self.model.plugins[name]
                n = BLOCK if p.canary or gate.canary else 3
                seen = list(self.ask(conn, "/" + name, n))
                if p.stable:
                    self.share(name, p, collections.Counter(body for _, body, _ in seen), n)
                else:
                    self.same(f"GET /{name} of no version", {status for status, _, _ in seen}, {404})
                self.share("gate", gate, collections.Counter(g for _, _, g in seen), n)
            for (name, build), id in self.ids.items():
                target = "/" + (name if name != "gate" else "alpha")
                for status, body, by in self.ask(conn, target, 1, {"X-Graft-Version": f"{name}={id}"}):
                    self.same(f"X-Graft-Version {name}={id}", by if name == "gate" else body, build)
            gone = sorted(self.old_ids - set(self.ids.values()))[-1:]
            for id in gone:
                for status, _, _ in self.ask(conn, "/alpha", 1, {"X-Graft-Version": f"alpha={id}"}):
                    self.same(f"X-Graft-Version alpha={id}, which does not serve", status, 421)

    def share(self, name, p, seen, n):
        self.same(f"who answers for {name}", set(seen) - {p.stable, p.canary}, set())
        low, high = even(n, p.weight) if p.canary and p.weight else (0, 0)
        if not low <= seen[p.canary] * bool(p.canary) <= high:
            raise Divergence(f"{name}: {seen[p.canary]} of {n} requests met the canary at {p.weight} %")

    # -- counts --

    def metrics_say(self):
        model = self.model
        versions = collections.Counter(canary=0, active=0, stuck=len(model.stuck))
        for p in model.plugins.values():
            versions["active"] += p.stable is not None
            versions["canary"] += p.canary is not None
        expected = {
            "graft_generation": model.generation,
            "graft_rollbacks_total": model.rollbacks,
            "graft_versions_retired_total": model.retired,
            "graft_kept": sum(len(p.good) for p in model.plugins.values()),
            "graft_quarantined": sum(len(p.quarantined) for p in model.plugins.values()),
            "graft_misuse_total": 0,
            **{f'graft_versions{{state="{k}"}}': n for k, n in versions.items()},
            **{f'graft_swaps_total{{outcome="{k}"}}': model.swaps[k] for k in ("ok", "unchanged", "failed")},
            **{f'graft_http_responses_total{{class="{k}"}}': self.classes[k] for k in ("2xx", "4xx", "5xx", "cut")},
        }
        for (name, build), id in self.ids.items():
            p = model.plugins[name]
            labels = f'plugin="{name}",version="{build.kind}-{build.number:08d}",id="{id}"'
            for kind in ("2xx", "4xx", "5xx"):
                expected[f'graft_requests_total{{{labels},class="{kind}"}}'] = self.wire[name, build, kind]
            expected[f"graft_errors_total{{{labels}}}"] = self.wire[name, build, "5xx"]
            expected[f"graft_version_weight_percent{{{labels}}}"] = p.weight if build == p.canary else 100 - p.weight

        def found():
            metrics = self.server.metrics()
            return {key: metrics.get(key, 0) for key in expected}
        until = time.monotonic() + secs(self.patience)
        got = found()
        while got != expected and time.monotonic() < until:
            time.sleep(0.005)
            got = found()
        wrong = {key: (expected[key], got[key]) for key in expected if got[key] != expected[key]}
        if wrong:
            raise Divergence("/metrics, expected and found: " +
                             ", ".join(f"{k} {a:g} {b:g}" for k, (a, b) in wrong.items()))
        self.soon("ps: served and errors", lambda: {
            (v["plugin"], build_of(v["id"])): (v["served"], v["errors"])
            for v in self.server.ps() if v["state"] != "stuck"},
            {key: (sum(self.wire[(*key, kind)] for kind in ("2xx", "4xx", "5xx")), self.wire[(*key, "5xx")])
             for key in self.ids})


def show(what):
    if isinstance(what, Build):
        return f"{what.kind}-{what.number}"
    if isinstance(what, (set, list, tuple)):
        return "(" + ", ".join(show(w) for w in (sorted(what, key=str) if isinstance(what, set) else what)) + ")"
    return str(what)
