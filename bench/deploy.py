#!/usr/bin/env python3
"""Deploys while clients are served, and counts what that costs.

graftd runs with bench/plugins/versioned.c; graftload keeps 64 connections busy, 10 % of the requests
being timers, offloaded jobs and streams that last longer than the time between two swaps. In windows
that alternate with quiet ones, a new version (bytes never seen before) is put into the plugin folder
20 times a second and swapped in. Wanted: no failed request, no answer from a version older than the
last completed swap, connections accepted = connections opened, latency, memory, descriptors,
mappings and stage folder as they were. nginx, reloaded by HUP under the same load, stands beside it.

    deploy.py                   at least 1,000 swaps and 1,000,000 requests: a few minutes
    deploy.py --flat            10,000 swaps, back to back: what is left of them
    deploy.py --brief --tap     about ten seconds, gentle limits: part of the tests
"""

import argparse
import os
import signal
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import common  # noqa: E402

MARK = 18  # bytes of "VERSION-0000000001"
LONG = ("timer", "offload", "stream")


def kinds(span_ms):
    """11 % take longer than the time between two swaps; 1 % open a connection of their own."""
    chunks = 5
    return [
        f"name=plain,weight=67,path=/v,answer={MARK + 1}",
        f"name=static,weight=8,path=/v/static,answer={MARK + 1}",
        "name=post,weight=8,method=POST,path=/v/post,body=600,tail=fnv",
        "name=upload,weight=4,method=POST,path=/v/upload,body=4096,chunk=1000,tail=fnv",
        "name=head,weight=1,method=HEAD,path=/v",
        f"name=close,weight=1,path=/v,close=1,answer={MARK + 1}",
        f"name=timer,weight=4,path=/v/timer?ms={span_ms},answer={2 * (MARK + 1)}",
        f"name=offload,weight=3,path=/v/offload?ms={span_ms},answer={2 * (MARK + 1)}",
        f"name=stream,weight=4,path=/v/stream?chunks={chunks}&ms={span_ms // (chunks - 1)},"
        f"answer={chunks * (MARK + 1)}",
    ]


class Deployer:
    """Puts versions into the plugin folder and has them swapped in; tells the board."""

    def __init__(self, server, template, board, trigger):
        self.server, self.template, self.board = server, template, board
        self.trigger = trigger
        self.target = os.path.join(server.plugins, "versioned.so")
        self.number = 0
        self.swaps, self.faults, self.times_us = 0, [], []
        self.log_at = 0

    def put(self):
        self.number += 1
        self.board["newest"] = self.number  # before it can be seen
        return self.template.put(self.number, self.target)

    def swap(self):
        """One deployment; True when it is complete on every worker."""
        sha = self.put()
        begin = time.monotonic()
        by_signal = self.trigger == "usr2" or (self.trigger == "mix" and self.number % 2)
        fault = self.signalled(sha) if by_signal else self.asked(sha)
        if fault:
            self.faults.append(f"version {self.number}: {fault}")
            return False
        self.board["completed"] = self.number
        self.swaps += 1
        self.times_us.append((time.monotonic() - begin) * 1e6)
        return True

    def asked(self, sha):
        answer = self.server.ask("POST", "/v1/reload")
        if not answer.get("ok"):
            return f"reload: {answer}"
        return self.wrong(answer, sha)

    def signalled(self, sha, seconds=10):
        os.kill(self.server.process.pid, signal.SIGUSR2)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for event in self.new_swaps():
                if self.wrong(event, sha) is None:
                    return None if event.get("ok") else f"swap event: {event}"
            time.sleep(0.001)
        return f"no swap event with {sha[:12]} within {seconds} s"

    def new_swaps(self):
        with open(self.server.log_path, "rb") as file:
            file.seek(self.log_at)
            data = file.read()
        data = data[:data.rfind(b"\n") + 1]
        self.log_at += len(data)
        for line in data.splitlines():
            if b'"swap"' in line:
                event = common.json.loads(line)
                if event.get("event") == "swap":
                    yield event

    @staticmethod
    def wrong(report, sha):
        for one in report.get("changed", []):
            if one.get("plugin") == "versioned" and str(one.get("id", "")).startswith(sha[:12]):
                return None
        return f"{sha[:12]} is not among what changed: {report.get('changed')}"

    def swaps_for(self, seconds, rate):
        """Swaps at this rate; one that is late is not made up for by a burst."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            due = time.monotonic() + 1 / rate
            self.swap()
            time.sleep(max(0.0, due - time.monotonic()))


def settle(server, seconds=10):
    """Waits until nothing is in flight, one version of the plugin is left and no client is
    connected; answers what was still there when the time was over, else None."""
    until = time.monotonic() + seconds
    while True:
        status, versions = server.ask("GET", "/v1/status"), server.versions()
        left = [f"{v['plugin']}@{v['id']} {v['state']}" for v in versions if v["state"] != "active"]
        if not left and not status["in_flight"] and not status["connections"]["now"]:
            return None
        if time.monotonic() > until:
            return f"in flight {status['in_flight']}, connections {status['connections']['now']}, {left}"
        time.sleep(0.05)


def descriptors_at_rest(pid):
    """The server closes its end of the last control connection a moment later."""
    fewest = common.descriptors(pid)
    for _ in range(10):
        time.sleep(0.02)
        fewest = min(fewest, common.descriptors(pid))
    return fewest


def snapshot(server):
    pid = server.pid
    rss, dirty = common.memory_kb(pid)
    mapped, _ = common.mappings(pid)
    return {"rss_kb": rss, "dirty_kb": dirty, "descriptors": descriptors_at_rest(pid), "file_mappings": mapped,
            "staged": common.files_below(server.stage),
            "accepted": server.ask("GET", "/v1/status")["connections"]["accepted"]}


def load_start(server, board, options, seconds):
    return common.Load(server.address, kinds(options.span_ms), board=board, versioned=True,
                       connections=options.connections, seconds=seconds, timeout=15000,
                       binary=options.graftload, core=options.load_core)


def graft_windows(options, deployer, board):
    """Quiet and swapping windows in turn until both targets are reached (or time is over)."""
    until = time.monotonic() + options.seconds_max
    first = deployer.swaps
    while time.monotonic() < until:
        board.begin(common.QUIET)
        time.sleep(options.window)
        board.begin(common.SWAPS)
        deployer.swaps_for(options.window, options.rate)
        board.begin(common.OTHER)  # what was begun during the swaps ends, and is unloaded
        time.sleep(0.3)
        if deployer.swaps - first >= options.swaps and board["answered"] >= options.requests:
            return
        if len(deployer.faults) > 20:
            return


def graft_run(options, work):
    template_path = os.path.join(work, "template.so")
    common.compile_plugin(os.path.join(common.HERE, "plugins/versioned.c"), template_path)
    board = common.Board(os.path.join(work, "board"))
    server = common.Graftd(work, options.graftd, workers=options.workers,
                           offload={"threads": options.offload_threads, "queue": 4096})
    deployer = Deployer(server, common.Template(template_path), board, options.trigger)
    deployer.put()
    server.start(core=options.server_core)
    load = None
    try:
        board["completed"] = 1
        load = load_start(server, board, options, options.warm_up)  # so that pools are as large as they get
        deployer.swaps_for(options.warm_up, options.rate)
        load.finish(60)
        warm_up_left = settle(server)
        before = snapshot(server)
        deployer.times_us.clear()
        first_event, first_swap = len(server.events("swap")), deployer.swaps

        load = load_start(server, board, options, options.seconds_max + 60)
        graft_windows(options, deployer, board)
        board["stop"] = 1
        result = load.finish(60)
        left = settle(server) or warm_up_left
        after = snapshot(server)
        swaps = [event for event in server.events("swap")[first_event:] if event.get("ok")]
        misuse = server.events("misuse") + server.events("crash") + server.events("stuck")
        return {"load": result, "complaints": load.complaints, "before": before, "after": after, "left": left,
                "swaps": deployer.swaps - first_swap, "faults": deployer.faults,
                "duration_us": sorted(event["duration_us"] for event in swaps),
                "publish_us": sorted(event["publish_us"] for event in swaps),
                "asked_us": sorted(deployer.times_us), "log": misuse, "exit": server.stop()}
    finally:
        if load is not None:
            load.kill()
        server.stop(signal.SIGKILL)
        board.close()


def nginx_run(options, work):
    """The same windows with nginx, where a deployment is a new configuration and HUP. Its requests
    are all plain: it has no others."""
    board = common.Board(os.path.join(work, "nginx-board"))
    board["newest"] = 2 ** 63
    server = common.Nginx(work, options.workers or os.cpu_count()).start(core=options.server_core)
    load = common.Load(server.address, ["name=plain,path=/"], board=board, connections=options.connections,
                       seconds=600, binary=options.graftload, core=options.load_core)
    swaps = 0
    try:
        time.sleep(0.5)
        until = time.monotonic() + options.nginx_seconds
        while time.monotonic() < until:
            board.begin(common.QUIET)
            time.sleep(options.window)
            board.begin(common.SWAPS)
            window = time.monotonic() + options.window
            while time.monotonic() < window:
                swaps += 1
                server.hup(f"version {swaps}")
                time.sleep(1 / options.rate)
            board.begin(common.OTHER)
            time.sleep(0.3)
        board["stop"] = 1
        return {"load": load.finish(60), "swaps": swaps}
    finally:
        load.kill()
        server.stop()
        board.close()


def latency(result, kind, phase):
    for one in result["load"]["kinds"]:
        if one["name"] == kind:
            return one["latency"][phase]
    return None


def ratio_of(result, kind="plain", which="p99_us"):
    quiet, swaps = latency(result, kind, "quiet"), latency(result, kind, "swaps")
    return swaps[which] / quiet[which] if quiet and quiet[which] else float("inf")


def table(checks, name, result):
    load = result["load"]
    checks.note(f"{name}: {load['sent']} requests, {result['swaps']} swaps in {load['seconds']:.1f} s "
                f"({load['answered'] / load['seconds']:.0f} requests/s), failed {load['failed']}")
    for kind in load["kinds"]:
        for phase in ("quiet", "swaps"):
            one = kind["latency"][phase]
            if one["count"]:
                checks.note(f"  {kind['name']:<8} {phase:<6} {one['count']:>9}  p50 {one['p50_us'] / 1e3:8.3f}  "
                            f"p90 {one['p90_us'] / 1e3:8.3f}  p99 {one['p99_us'] / 1e3:8.3f}  "
                            f"max {one['max_us'] / 1e3:8.3f} ms")


def check_requests(checks, options, result):
    load = result["load"]
    checks.note(result["complaints"])
    checks.check(not any(load["failures"].values()) and load["answered"] == load["sent"] > 0,
                 f"{load['sent']} requests sent, {load['answered']} answered, {load['failed']} failed "
                 f"{ {k: v for k, v in load['failures'].items() if v} or '' }")
    checks.check(load["sent"] >= options.requests and result["swaps"] >= options.swaps,
                 f"at least {options.requests} requests and {options.swaps} swaps "
                 f"(found {load['sent']} and {result['swaps']})")
    for fault in result["faults"][:10]:
        checks.note(fault)
    checks.check(not result["faults"], f"every swap succeeded and said so ({len(result['faults'])} did not)")
    checks.check(load["stale"] + load["mixed"] + load["future"] == 0,
                 f"no answer older than the last completed swap ({load['stale']}), on two versions "
                 f"({load['mixed']}) or from the future ({load['future']})")
    spanned = sum(kind["spanned"] for kind in load["kinds"] if kind["name"] in LONG)
    during = sum(kind["latency"]["swaps"]["count"] for kind in load["kinds"])
    checks.check(spanned >= options.spanned * during,
                 f"{spanned} timers, offloads and streams spanned a swap: {spanned / max(during, 1):.1%} of the "
                 f"{during} requests during swaps (wanted {options.spanned:.0%})")
    opened = load["connections"]["opened"]
    accepted = result["after"]["accepted"] - result["before"]["accepted"]
    checks.check(accepted == opened and not load["connections"]["closed_idle"],
                 f"connections accepted {accepted} = opened {opened}; closed under a client "
                 f"{load['connections']['closed_idle']}")


def check_costs(checks, options, result):
    checks.check(ratio_of(result) <= options.p99_ratio,
                 f"p99 of plain requests with swaps / without: {ratio_of(result):.2f} "
                 f"(wanted <= {options.p99_ratio:g})")
    duration, publish = common.median(result["duration_us"]), common.median(result["publish_us"])
    checks.check(result["duration_us"] and duration <= options.duration_us,
                 f"swap duration_us: median {duration:.0f}, max {max(result['duration_us'], default=0)} "
                 f"(wanted <= {options.duration_us})")
    checks.check(result["publish_us"] and publish <= options.publish_us,
                 f"publish_us: median {publish:.0f}, max {max(result['publish_us'], default=0)} "
                 f"(wanted <= {options.publish_us})")


def check_leaks(checks, options, result):
    before, after = result["before"], result["after"]
    checks.check(result["left"] is None, f"nothing is left in flight or cooling: {result['left'] or 'nothing'}")
    dirty = after["dirty_kb"] - before["dirty_kb"]
    if options.memory_kb:
        checks.check(dirty < options.memory_kb, f"private dirty memory {before['dirty_kb']} -> {after['dirty_kb']} KB, "
                     f"resident {before['rss_kb']} -> {after['rss_kb']} KB (wanted < +{options.memory_kb})")
    for what in ("descriptors", "file_mappings", "staged"):
        checks.check(after[what] == before[what], f"{what} {before[what]} -> {after[what]}")
    checks.check(not result["log"], f"no misuse, crash or stuck version in the log {result['log'][:3] or ''}")
    checks.check(result["exit"] == 0, f"graftd drained and exited 0 (found {result['exit']})")


BRIEF = {"swaps": 40, "requests": 2000, "window": 1.5, "warm_up": 1.5, "seconds_max": 60, "rate": 20, "p99_ratio": 20,
         "duration_us": 200000, "publish_us": 50000, "memory_kb": 8192, "spanned": 0.02}

# Spans are short, since hundreds of swaps a second would meet limits.versions during long ones.
FLAT = {"swaps": 10000, "requests": 100000, "window": 10, "rate": 1000, "span_ms": 12, "connections": 8,
        "p99_ratio": float("inf"), "spanned": 0.05}


def options_of():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--graftd", help="the server (default: $GRAFTD, or in the build tree)")
    add("--graftload", help="the load driver (default: $GRAFTLOAD, or in the build tree)")
    add("--swaps", type=int, default=1000, help="at least so many (1000)")
    add("--requests", type=int, default=1000000, help="at least so many (1000000)")
    add("--rate", type=float, default=20, help="swaps a second in the windows with swaps (20)")
    add("--window", type=float, default=5, help="seconds of a window (5)")
    add("--warm-up", type=float, default=3, help="seconds of load and swaps before the baseline (3)")
    add("--seconds-max", type=float, default=900, help="ends then, whatever was reached (900)")
    add("--connections", type=int, default=64)
    add("--workers", type=int, default=0, help="graftd's and nginx's (0: one per core)")
    add("--offload-threads", type=int, default=32)
    add("--span-ms", type=int, default=80, help="how long timers, offloads and streams take (80)")
    add("--trigger", choices=("reload", "usr2", "mix"), default="mix", help="how a swap is asked for (mix)")
    add("--server-core", type=int, help="pin the server to this core")
    add("--load-core", type=int, help="pin graftload to this core")
    add("--p99-ratio", type=float, default=1.25)
    add("--duration-us", type=int, default=10000)
    add("--publish-us", type=int, default=1000)
    add("--memory-kb", type=int, default=1024, help="wanted growth; 0: not judged, as with sanitizers")
    add("--spanned", type=float, default=0.1, help="share of the requests during swaps that span one (0.1)")
    add("--nginx", action="store_true", help="run nginx beside it")
    add("--nginx-seconds", type=float, default=20)
    add("--only-nginx", action="store_true")
    add("--flat", action="store_true", help="10,000 swaps without a pause between them; p99 is shown, not judged")
    add("--brief", action="store_true", help="a run of ten seconds with gentle limits")
    add("--tap", action="store_true")
    add("--json", metavar="FILE", help="write the figures there")
    add("--keep", action="store_true", help="keep the work folder")
    options = parser.parse_args()
    for chosen, preset in ((options.brief, BRIEF), (options.flat, FLAT)):
        for key, value in preset.items() if chosen else ():
            if getattr(options, key) == parser.get_default(key):
                setattr(options, key, value)
    if common.SANITIZED:
        options.memory_kb = 0
    return options


def main():
    options = options_of()
    checks = common.Checks(options.tap)
    figures = {"machine": common.machine(), "options": vars(options)}
    checks.note(figures["machine"])
    with common.WorkFolder("deploy", options.keep) as work:
        if not options.only_nginx:
            figures["graftd"] = graft_run(options, work)
            table(checks, "graftd", figures["graftd"])
            check_requests(checks, options, figures["graftd"])
            check_costs(checks, options, figures["graftd"])
            check_leaks(checks, options, figures["graftd"])
        if options.nginx or options.only_nginx:
            figures["nginx"] = nginx_run(options, work)
            table(checks, "nginx (HUP)", figures["nginx"])
            checks.note(f"nginx: p99 with HUPs / without: {ratio_of(figures['nginx']):.2f}")
    common.write_json(options.json, figures)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
