#!/usr/bin/env python3
# What makes a swap: USR2, HUP, reload and the watch, alone, at once and at random moments; what vanishes
import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

SLOW_MS = int(600 * max(1, SCALE / 2))


def slow_server(plugins):
    return Server({**plugins, "sin": "good"}, {"plugins": {"sin": {"config": {"ms": SLOW_MS}}}})


def wait_slow(s, mark):
    s.wait_event("plugin", since=mark, msg=re.compile("^life ready hangs"))


# ---- Signals ----

def blocked(pid, signo):
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith("SigBlk:"):
                return int(line.split()[1], 16) >> (signo - 1) & 1
    return 0


@case("signals that come early are remembered, and kill nobody")
def _():
    for signo in (signal.SIGUSR2, signal.SIGHUP):
        s = Server({"hello": "hello"}, start=False)
        s.start(wait=False)
        wait_for(lambda: s.proc.poll() is not None or blocked(s.proc.pid, signo), 5, "main's first lines", every=0)
        s.send_signal(signo)
        s.wait_live()
        wait_for(lambda: len(s.find_events("swap")) == 2, 10, "the first load and the scan that the signal asked for")
        is_([e["ok"] for e in s.find_events("swap")], [True, True], f"{signo.name}: both went well")
        is_(s.get("/hello").status, 200, "it serves")


@case("USR2: a scan, and a swap when there is something new")
def _():
    s = Server({"versioned": "versioned_v1"})
    event = s.reload_signal()
    is_((event["ok"], event["changed"], event["generation"]), (True, [], 1), "nothing new")
    put(s, "versioned_v2", "versioned")
    event = s.reload_signal()
    is_((event["ok"], [c["plugin"] for c in event["changed"]]), (True, ["versioned"]), "a new file")
    is_(s.get("/version").text, "v2\n", "v2 serves")


@case("what comes during a swap makes another scan follow")
def _():
    s = slow_server({"versioned": "versioned_v1"})
    mark = s.mark()
    put(s, fresh("ready_hangs"), "sin")
    s.send_signal(signal.SIGUSR2)
    wait_slow(s, mark)
    put(s, "versioned_v2", "versioned")
    for _ in range(5):
        s.send_signal(signal.SIGUSR2)
    ok(s.status()["swapping"], "status: a swap is in progress")
    wait_for(lambda: s.get("/version").text == "v2\n", 20, "the file that came during the swap serves")
    swaps = s.find_events("swap", mark)
    is_([[c["plugin"] for c in e["changed"]] for e in swaps[:2]], [["sin"], ["versioned"]], "two swaps, in order")
    ok(2 <= len(swaps) <= 6, "no more scans than signals", swaps)
    wait_for(lambda: not s.status()["swapping"], 10, "and an end")


@case("a reload answers with a scan that began after it; those that wait share one")
def _():
    s = slow_server({"versioned": "versioned_v1"})
    mark = s.mark()
    put(s, fresh("ready_hangs"), "sin")
    first = later(s.reload)
    wait_slow(s, mark)
    sha256 = put(s, "versioned_v2", "versioned")
    others = [later(s.reload) for _ in range(4)] + [later(s.ctl, "--json", "reload")]
    first = first.result(secs(30))
    is_((first["ok"], [c["plugin"] for c in first["changed"]]), (True, ["sin"]), "the first: what it began with")
    answers = [o.result(secs(30)) for o in others]
    answers[-1] = json.loads(answers[-1].stdout)
    for answer in answers:
        is_((answer["ok"], [c["plugin"] for c in answer["changed"]], [c["id"][:12] for c in answer["changed"]]),
            (True, ["versioned"], [sha256[:12]]), "one that came later: what was there when it came")
    is_(len({json.dumps(a["changed"]) for a in answers}), 1, "all say the same")
    swaps = s.find_events("swap", mark)
    ok(2 <= len(swaps) <= 3, "they shared a scan", swaps)
    is_([c["plugin"] for e in swaps for c in e["changed"]], ["sin", "versioned"], "nothing was swapped twice")


# ---- HUP ----

@case("HUP and reload --config read the configuration again, then swap")
def _():
    for how in ("hup", "verb"):
        s = Server({"versioned": "versioned_v1", "hello": "hello"})

        def ask():
            if how == "hup":
                event = s.reload_signal(signal.SIGHUP)
                return {**event, "reason": event["msg"]}
            return s.reload(config=True)
        put(s, "versioned_v2", "versioned")
        s.config["plugins"] = {"versioned": {"mount": "/m"}}
        s.config["log"] = {"level": "debug"}
        answer = ask()
        ok(answer["ok"] and [c["plugin"] for c in answer["changed"]] == ["versioned"], f"{how}: both at once", answer)
        is_((s.get("/m/version").text, s.get("/version").status), ("v2\n", 404), "the new file at its new mount")

        generation, good = s.status()["generation"], json.dumps(s.config)
        for text, reason in (('{"listen": ["127.0.0.1:0"],\n "no_such_key": 1}', r"graft\.json:2:\d+: .*no_such_key"),
                             ('{"workers": "two"}', r"graft\.json:1:\d+: .*workers"), ("{", r"graft\.json:1:\d+: "),
                             ('{"plugins": {"hello": {"mount": "bad"}}}', r"graft\.json:1:\d+: .*mount")):
            s.write_config(text)
            if how == "hup":
                mark = s.mark()
                s.send_signal(signal.SIGHUP)
                event = s.wait_event("swap", since=mark)
                answer = {**event, "reason": event["msg"]}
                is_(len(s.find_events("swap", mark)), 1, "one swap event")
            else:
                answer = s.api("POST", "/v1/reload?config=1")
            ok(not answer["ok"] and re.search(reason, answer["reason"]), f"{how}: {text!r} is refused", answer)
            is_((s.status()["generation"], s.get("/m/version").text), (generation, "v2\n"), "and changes nothing")
        s.write_config(good)

        s.config["plugins"] = {"versioned": {"mount": "/n"}}
        put(s, b"bad", "bad")
        answer = ask()
        ok(not answer["ok"] and "not ELF" in answer["reason"], f"{how}: a bad plugin with a good configuration", answer)
        is_((s.get("/m/version").text, s.get("/n/version").status), ("v2\n", 404), "the old configuration stays in force")
        s.uninstall("bad")
        is_(s.reload()["ok"] and s.get("/m/version").text, "v2\n", "also for a reload without --config")

        s.config.update(workers=1, stage_dir=s.dir, listen=["127.0.0.1:0", "[::1]:0"])
        mark = s.mark()
        ok(ask()["ok"], f"{how}: what needs a restart")
        warned = " ".join(e["msg"] for e in s.find_events("config", mark, level="warn"))
        ok(all(key in warned for key in ("workers", "stage_dir", "listen")) and "restart" in warned, "is named", warned)
        is_((s.get("/n/version").text, len(s.status()["workers"])), ("v2\n", 2), "the rest is in effect, that is not")


# ---- The watch ----

def watched(plugins, **more):
    return Server(plugins, {"watch": True}, **more)


def becomes(s, text, what, target="/version"):
    wait_for(lambda: s.get(target).text == text, 15, what)
    return ok(True, what)


@case("the watch: new, replaced, overwritten, linked, removed")
def _():
    s = watched({"hello": "hello"})
    put(s, "versioned_v1", "versioned")
    becomes(s, "v1\n", "a new file")
    put(s, "versioned_v2", "versioned")
    becomes(s, "v2\n", "replaced by rename")
    shutil.copyfile(plugin_path("versioned_v3"), file_of(s, "versioned"))
    becomes(s, "v3\n", "overwritten in place")
    mark = s.mark()
    with open(plugin_path("versioned_v1"), "rb") as f:
        data = f.read()
    with open(file_of(s, "versioned"), "wb", buffering=0) as f:
        for at in range(0, len(data), 2000):
            f.write(data[at:at + 2000])
            time.sleep(0.03)
    becomes(s, "v1\n", "written slowly")
    within(len(s.find_events("swap", mark)), 1, 4, "scans were held back while it was written")
    mark = s.mark()
    put(s, "versioned_v1", "versioned")
    s.wait_event("swap", since=mark)
    time.sleep(0.4)
    is_([e["changed"] for e in s.find_events("swap", mark)], [[]], "the same bytes: a scan, no swap")
    mark, gone = s.mark(), time.monotonic()
    s.uninstall("versioned")
    wait_for(lambda: s.get("/version").status == 404, 15, "removed")
    ok(time.monotonic() - gone >= 1.0, "a removed file is missed twice, 1 s apart", time.monotonic() - gone)
    wait_for(lambda: [e for e in s.find_events("swap", mark) if e["changed"]], 5, "the event, which follows the first 404")
    is_([[c["error"] for c in e["changed"]] for e in s.find_events("swap", mark) if e["changed"]], [["removed"]],
        "one swap removed it")
    put(s, "versioned_v2", "versioned")
    becomes(s, "v2\n", "back again")
    mark = s.mark()
    s.uninstall("versioned")
    time.sleep(0.5)
    put(s, "versioned_v2", "versioned")
    time.sleep(1.5)
    is_([e["changed"] for e in s.find_events("swap", mark) if e["changed"]], [],
        "away for half a second: it never left")
    is_(s.get("/version").text, "v2\n", "and serves")


@case("the watch: swapped links, as orchestrators do it; by flag and by variable")
def _():
    for how in ({"args": ["--watch"]}, {"env": {"GRAFT_WATCH": "true"}}):
        s = Server({"hello": "hello"}, start=False, **how)
        volume = os.path.join(s.dir, "volume")
        for n in (1, 2):
            os.makedirs(f"{volume}/..{n}")
            shutil.copy(plugin_path(f"versioned_v{n}"), f"{volume}/..{n}/versioned.so")
        os.symlink("..1", f"{volume}/..data")
        os.symlink(f"{volume}/..data/versioned.so", file_of(s, "versioned"))
        s.start()
        is_(s.get("/version").text, "v1\n", f"{how}: v1")
        for n in (2, 1):
            os.symlink(f"..{n}", f"{volume}/..new")
            os.rename(f"{volume}/..new", f"{volume}/..data")
            becomes(s, f"v{n}\n", f"..data swapped: v{n}")


@case("the watch: the folder itself is a link that is swapped")
def _():
    s = Server({"hello": "hello"}, start=False, args=["--watch"])
    for n in (1, 2):
        shutil.copytree(s.plugin_dir, f"{s.dir}/release-{n}")
        shutil.copy(plugin_path(f"versioned_v{n}"), f"{s.dir}/release-{n}/versioned.so")
    shutil.rmtree(s.plugin_dir)
    os.symlink("release-1", s.plugin_dir)
    s.start()
    is_(s.get("/version").text, "v1\n", "v1")
    for n in (2, 1):
        os.symlink(f"release-{n}", f"{s.dir}/new")
        os.rename(f"{s.dir}/new", s.plugin_dir)
        becomes(s, f"v{n}\n", f"release-{n}")
    put(s, "versioned_v3", "versioned")
    becomes(s, "v3\n", "a file in the folder that it leads to now")
    is_(s.get("/hello").status, 200, "what is in both went on")
    os.unlink(s.plugin_dir)
    os.mkdir(s.plugin_dir)


@case("the watch: a folder above the plugin folder is moved away and another one comes")
def _():
    s = Server({"hello": "hello"}, start=False, args=["--watch"])
    top = f"{s.dir}/srv"

    def release(n, at):
        os.makedirs(f"{at}/app/plugins")
        shutil.copy(plugin_path(f"versioned_v{n}"), f"{at}/app/plugins/versioned.so")
    release(1, top)
    s.config["plugin_dir"] = f"{top}/app/plugins"
    s.write_config()
    s.start()
    is_(s.get("/version").text, "v1\n", "v1")
    for n, what, of, pause in ((2, "the parent", "/app", 0), (1, "the parent's parent", "", 0),
                               (3, "the parent", "/app", 0.6), (2, "the parent's parent", "", 0.6)):
        spare = tempfile.mkdtemp(dir=s.dir)
        release(n, f"{spare}/srv")
        os.rename(top + of, f"{spare}/old")
        time.sleep(pause)
        is_(s.get("/version").status, 200, "while it is away, the old one serves")
        os.rename(f"{spare}/srv{of}", top + of)
        becomes(s, f"v{n}\n", f"{what} is another one, {pause} s later: v{n}")
    shutil.rmtree(top)
    time.sleep(0.6)
    release(3, top)
    becomes(s, "v3\n", "all of it removed, and made again step by step")


@case("the watch: what is no plugin file makes no scan and uses nothing up")
def _():
    s = watched({"hello": "hello", "versioned": "versioned_v1"})
    mark = s.mark()
    for n in range(1500):
        os.symlink("/etc/passwd", f"{s.plugin_dir}/link-{n}")
    with open(f"{s.plugin_dir}/app.log", "w", buffering=1) as f:
        for name in ("4913", ".versioned.so.swp", "versioned.so~", "#versioned.so#", "README"):
            with open(f"{s.plugin_dir}/{name}", "w") as other:
                other.write(name)
            os.unlink(f"{s.plugin_dir}/{name}")
            f.write("x\n")
            time.sleep(0.1)
    time.sleep(0.5)
    is_(s.find_events("swap", mark), [], "no scan was made for them")
    is_(s.find_events("watch", mark), [], "and all can still be watched")
    os.mkdir(f"{s.dir}/elsewhere")
    shutil.copy(plugin_path("versioned_v2"), f"{s.dir}/elsewhere/v.so")
    os.unlink(file_of(s, "versioned"))
    os.symlink(f"{s.dir}/elsewhere/v.so", file_of(s, "versioned"))
    becomes(s, "v2\n", "a plugin becomes a link among them")
    shutil.copy(plugin_path("versioned_v3"), f"{s.dir}/elsewhere/new")
    os.rename(f"{s.dir}/elsewhere/new", f"{s.dir}/elsewhere/v.so")
    becomes(s, "v3\n", "what it leads to is replaced")


def few_watches(n):
    """For preexec_fn: a user namespace in which inotify gives `n` watches."""
    def unshare():
        uid, gid = os.geteuid(), os.getegid()
        if ctypes.CDLL(None).unshare(0x10000000) != 0:  # CLONE_NEWUSER
            os._exit(99)
        for file, text in (("self/setgroups", "deny"), ("self/uid_map", f"0 {uid} 1"), ("self/gid_map", f"0 {gid} 1"),
                           ("sys/user/max_inotify_watches", str(n))):
            with open(f"/proc/{file}", "w") as f:
                f.write(text)
    return unshare


def can_limit_watches():
    try:
        return subprocess.run(["true"], preexec_fn=few_watches(1)).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@case("the watch: inotify has no watches left: said, and graftctl reload does it", can_limit_watches(),
      "no user namespace with limits of its own")
def _():
    for n in (0, 1, 5):
        s = Server({"hello": "hello"}, start=False, args=["--watch"], preexec_fn=few_watches(n))
        for i in range(8):
            os.mkdir(f"{s.dir}/volume-{i}")
            os.symlink(f"{s.dir}/volume-{i}/none.so", f"{s.plugin_dir}/linked-{i}.so")
            shutil.copy(plugin_path("hello"), f"{s.dir}/volume-{i}/none.so")
        s.config["plugins"] = {"hello": {"enabled": False}}
        s.write_config()
        s.start()
        said = s.find_events(level="warn" if n else "error", msg=re.compile(r"cannot watch .*fs\.inotify\.max_user_watches"))
        ok(said, f"{n} watches: said, with the cure", s.tail())
        put(s, "versioned_v1", "versioned")
        if n:
            becomes(s, "v1\n", "the plugin folder is what is watched first")
        ok(s.reload()["ok"] and s.get("/version").text == "v1\n", "reload swaps")


@case("the watch can be switched on and off by HUP")
def _():
    s = Server({"versioned": "versioned_v1"})
    put(s, "versioned_v2", "versioned")
    time.sleep(0.6)
    is_(s.get("/version").text, "v1\n", "not watched")
    s.config["watch"] = True
    ok(s.reload_signal(signal.SIGHUP)["ok"], "switched on")
    is_(s.get("/version").text, "v2\n", "HUP swaps too")
    put(s, "versioned_v3", "versioned")
    becomes(s, "v3\n", "watched")
    s.config["watch"] = False
    ok(s.reload_signal(signal.SIGHUP)["ok"], "switched off")
    before = footprint(s)
    put(s, "versioned_v1", "versioned")
    time.sleep(0.6)
    is_(s.get("/version").text, "v3\n", "not watched any more")
    is_footprint(s, before, "nothing is left of the watch")


# ---- What vanishes ----

@case("the last plugin stays without --allow-empty")
def _():
    s = Server({"hello": "hello", "versioned": "versioned_v1"})
    s.uninstall("hello")
    s.uninstall("versioned")
    answer = s.reload()
    ok(not answer["ok"] and "every plugin has vanished" in reason_of(answer) and "--allow-empty" in reason_of(answer),
       "both gone: refused, and how", answer)
    is_((s.get("/hello").status, s.get("/version").status), (200, 200), "both serve")
    event = s.reload_signal()
    ok(not event["ok"] and event["level"] == "error", "USR2: the same", event)
    run = s.ctl("reload", "--allow-empty")
    is_(run.returncode, 0, "graftctl reload --allow-empty")
    is_((s.get("/hello").status, s.get("/version").status), (404, 404), "now they are gone")
    wait_for(lambda: s.ps() == [], 10, "both are unloaded")
    is_(s.ps(), [], "nothing is loaded")
    is_(s.ops_get("/readyz").status, 200, "an empty server is ready")
    put(s, "hello", "hello")
    ok(s.reload()["ok"] and s.get("/hello").status == 200, "and takes new ones")


@case("a plugin that the configuration names does not vanish")
def _():
    for config, where in (
            ({"middleware": ["order-a"]}, r"middleware\[0\]"),
            ({"routes": [{"match": "/*", "middleware": ["order-a"]}]}, r"routes\[0\]"),
            ({"plugins": {"order-a": {"required": True}}}, r"plugins\.order-a\.required")):
        s = Server({"hello": "hello", "mw": "order_a"}, config)
        s.uninstall("mw")
        answer = s.reload()
        like(reason_of(answer), r'plugin "order-a" has vanished \(.*/mw\.so is gone\), but ' + where + " names it: put the "
             "file back, or take it out of the configuration", f"{where}: refused, and what to do")
        ok(not answer["ok"] and not s.reload(allow_empty=True)["ok"], "also with --allow-empty", answer)
        is_(s.get("/hello").header("X-Order"), None if "plugins" in config else "a", "it still runs")
        is_(len(s.ps("order-a", "active")), 1, "ps says so")
        for key in config:
            s.config.pop(key)
        answer = s.reload(config=True)
        ok(answer["ok"] and [c["error"] for c in answer["changed"]] == ["removed"], "no longer named: removed", answer)
    s = Server({"hello": "hello", "mw": "order_a"}, {"plugins": {"order-a": {"config": {"a": 1}}}})
    s.uninstall("mw")
    ok(s.reload()["ok"], "an entry that does not say required holds nothing")


@case("a configuration that names what is not there is refused, and changes nothing")
def _():
    s = Server({"hello": "hello"})
    for config, reason in (
            ({"middleware": ["auth"]}, r'middleware\[0\] names "auth", but no such plugin is loaded: put it into .* or take '
             r'it out of the configuration'),
            ({"middleware": ["hello"]}, r'middleware\[0\] names "hello", which is no middleware'),
            ({"routes": [{"match": "/*", "middleware": ["auth"]}]}, r'routes\[0\].* names "auth", but no such plugin'),
            ({"plugins": {"auth": {"required": True}}}, r'plugins\.auth is required, but no file in .* declares that name: '
             r'put it there, or set "required": false')):
        kept = dict(s.config)
        s.config.update(config)
        mark = s.mark()
        answer = s.reload(config=True)
        ok(not answer["ok"] and re.search(reason, reason_of(answer)), f"{config}: refused, and what to do", answer)
        is_([e["ok"] for e in s.find_events("swap", mark)], [False], "one swap event")
        is_((s.get("/hello").status, s.status()["generation"]), (200, 1), "nothing changed")
        s.config = kept
    ok(s.reload(config=True)["ok"], "the old configuration is fine")


@case("what became bad, moved or was hidden has not vanished; a folder that cannot be read changes nothing")
def _():
    s = Server({"hello": "hello", "versioned": "versioned_v1"})
    put(s, b"bad", "versioned")
    answer = s.reload()
    ok(not answer["ok"] and s.get("/version").text == "v1\n", "became bad: refused, the old one stays", answer)
    answer = s.reload()
    ok(answer["ok"] and answer["changed"] == [] and s.get("/version").text == "v1\n", "told again: it stays", answer)
    os.unlink(file_of(s, "versioned"))
    put(s, "versioned_v1", "another")
    answer = s.reload()
    ok(answer["ok"] and answer["changed"] == [], "another file declares its name: it stays", answer)
    os.rename(s.plugin_dir, s.plugin_dir + "-away")
    for _ in range(2):
        answer = s.reload(allow_empty=True)
        ok(not answer["ok"] and re.search(r"cannot read the plugin folder .*: No such file or directory: nothing is "
           r"changed", reason_of(answer)), "the folder is gone: nothing is changed", answer)
    with open(s.plugin_dir, "w"):
        pass
    answer = s.reload(allow_empty=True)
    ok(not answer["ok"] and "cannot read the plugin folder" in reason_of(answer), "it is a file: nothing is changed",
       answer)
    os.unlink(s.plugin_dir)
    os.rename(s.plugin_dir + "-away", s.plugin_dir)
    is_((s.get("/hello").status, s.get("/version").text), (200, "v1\n"), "both served all the time")
    answer = s.reload()
    is_((answer["ok"], answer["changed"]), (True, []), "it is back: nothing has changed")


@case("a start with an empty folder serves 404 and warns")
def _():
    s = Server({})
    is_(s.get("/hello").status, 404, "404")
    ok(s.find_events(level="warn", msg=re.compile("no plugin in .*: every request is answered 404")), "a warning",
       s.tail())


# ---- At random ----

@case("replace the file, send USR2: at random moments, the last one serves")
def _():
    n = int(os.environ.get("GRAFT_TEST_USR2", 200))
    marked = Marked()
    s = Server({"hello": "hello"})
    put(s, marked(0), "versioned")
    s.reload()
    before = footprint(s)
    dice = random.Random(os.environ.get("GRAFT_TEST_SEED") or os.urandom(4).hex())
    mark = s.mark()
    with Prober(s, "/version", every=0.001, clients=2, value=mark_of) as p, \
            Prober(s, "/version/timer?ms=25", clients=2, value=mark_of) as timers:
        for i in range(1, n + 1):
            sha256 = put(s, marked(i), "versioned")
            s.send_signal(signal.SIGUSR2)
            time.sleep(dice.choice((0, 0, 0.001, 0.002, 0.004, 0.01, 0.02)) * dice.random() * 2 * max(1, SCALE / 3))
        time.sleep(secs(1))
        is_(mark_of(s.get("/version")), n, f"one second after the last of {n}, the last serves")
        v = s.active("versioned")
        is_(v["sha256"], sha256, "and is what ps says")
    is_(p.failures + timers.failures, [], f"no request failed ({p.count} probes)")
    events = s.find_events("swap", mark)
    is_([e for e in events if not e["ok"]], [], "no swap failed")
    within(len(events), 2, n, "no more scans than signals")
    diag(f"{n} signals, {len(events)} scans, {len([e for e in events if e['changed']])} swaps")
    loaded = [int(m) for e in s.find_events("plugin_loaded", mark) for m in re.findall(r"MARK-(\d+)", e["version"])]
    is_(loaded, sorted(loaded), "never an older one after a newer one")
    is_settled(s, 2, "all others are gone")
    is_footprint(s, before, "nothing is left behind")


@case("all triggers at once")
def _():
    marked = Marked()
    s = watched({"hello": "hello"})
    put(s, marked(0), "versioned")
    wait_for(lambda: s.get("/version").status == 200, 10, "the watch loads it")
    over = threading.Event()
    answers = []

    def looks():  # ps and metrics read what the loader is at work on
        while not over.is_set():
            s.ps(), s.metrics(), s.status()

    def reloads(**how):
        while not over.is_set():
            answers.append(s.reload(**how))
            time.sleep(0.01)
    threads = [threading.Thread(target=reloads), threading.Thread(target=reloads, kwargs={"retry": True}),
               threading.Thread(target=looks),
               threading.Thread(target=lambda: [answers.append(s.api("POST", "/v1/reload?config=1")) or time.sleep(0.02)
                                                for _ in iter(over.is_set, True)])]
    with Prober(s, "/version", every=0.001, value=mark_of) as p:
        for thread in threads:
            thread.start()
        for i in range(1, 61):
            sha256 = put(s, marked(i), "versioned")
            s.send_signal(random.choice((signal.SIGUSR2, signal.SIGHUP)))
            time.sleep(random.random() * 0.02)
        time.sleep(secs(0.5))
        over.set()
        for thread in threads:
            thread.join()
        answer = s.reload()
        ok(answer["ok"], "a last reload", answer)
        is_((mark_of(s.get("/version")), s.active("versioned")["sha256"]), (60, sha256), "the last file serves")
    is_(p.failures, [], "no request failed")
    is_(p.seen, sorted(p.seen), "and none was answered by an older version than the one before it")
    is_([a for a in answers if not a["ok"]], [], f"{len(answers)} reloads, none failed")
    is_settled(s, 2, "two versions are left")

main()
