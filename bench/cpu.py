#!/usr/bin/env python3
"""CPU per request: graftd `hello` with no other plugin, nginx `return 200` and a bare epoll loop.

The server is pinned to one core and the load to another; the three take turns, so that whatever the
machine does meanwhile meets them all. What counts are the ratios of one run; microseconds drift with
the machine. User and system time are told apart by the kernel's clock tick, so a round of a few
seconds knows user time to some percent only: the sums over all rounds are the better figures.

    cpu.py --rounds 7 --seconds 4
"""

import argparse
import os
import signal
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import common  # noqa: E402


class Series:
    """One server's rounds."""

    def __init__(self, server, path):
        self.server, self.path = server, path
        self.rounds = []

    def round(self, options):
        user, system = common.cpu_seconds(self.server.process.pid)
        load = common.Load(self.server.address, [f"name=plain,path={self.path}"], core=options.load_core,
                           connections=options.connections, seconds=options.seconds, binary=options.graftload)
        result = load.finish(options.seconds + 60)
        if result["failed"]:
            raise SystemExit(f"{self.server.name}: {result['failed']} requests failed\n{load.complaints}")
        user_after, system_after = common.cpu_seconds(self.server.process.pid)
        self.rounds.append((result["answered"], user_after - user, system_after - system,
                            result["answered"] / result["seconds"]))

    def per_request_us(self, which):
        """Microseconds a request, round by round: 1 user, 2 system."""
        return [1e6 * one[which] / one[0] for one in self.rounds]

    def pooled_us(self, which):
        return 1e6 * sum(one[which] for one in self.rounds) / sum(one[0] for one in self.rounds)

    def totals_us(self):
        return [user + system for user, system in zip(self.per_request_us(1), self.per_request_us(2))]


def spread(values):
    return f"{common.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


def graft_start(options, work):
    server = common.Graftd(work, options.graftd, log={"level": "warn", "format": "json"})
    target = os.path.join(server.plugins, "hello.so")
    common.compile_plugin(os.path.join(common.TOP, "plugins/hello/hello.c"), target)
    return server.start(core=options.server_core)


def servers_start(options, work):
    """In the order of the rounds; those that were started are in `running` also when one fails."""
    makers = {"graftd": (lambda: graft_start(options, work), options.path),
              "nginx": (lambda: common.Nginx(work).start(core=options.server_core), "/"),
              "bare": (lambda: common.Bare(work).start(options.server_core, options.bare), "/")}
    for name in options.servers.split(","):
        make, path = makers[name]
        yield name, Series(make(), path)


def report(checks, options, series):
    checks.note(f"{'server':<12}{'requests':>10}{'requests/s':>12}   user us/request           system us/request"
                "         user+system, pooled")
    for name, one in series.items():
        checks.note(f"{name:<12}{sum(r[0] for r in one.rounds):>10}{common.median([r[3] for r in one.rounds]):>12.0f}"
                    f"   {spread(one.per_request_us(1)):<25} {spread(one.per_request_us(2)):<25} "
                    f"{one.pooled_us(1):.3f} + {one.pooled_us(2):.3f}")
    if "graftd" not in series:
        return
    graft = series["graftd"]
    if "nginx" in series:
        rounds = [a / b for a, b in zip(graft.per_request_us(1), series["nginx"].per_request_us(1)) if b]
        pooled = graft.pooled_us(1) / series["nginx"].pooled_us(1)
        checks.check(pooled <= options.user_ratio, f"user time, graftd / nginx: {pooled:.3f} over all rounds, median "
                     f"and range of the rounds {spread(rounds)} (wanted <= {options.user_ratio:g})")
    if "bare" in series:
        rounds = [a / b for a, b in zip(graft.totals_us(), series["bare"].totals_us())]
        pooled = ((graft.pooled_us(1) + graft.pooled_us(2)) /
                  (series["bare"].pooled_us(1) + series["bare"].pooled_us(2)))
        checks.check(pooled <= options.total_ratio, f"user + system, graftd / bare epoll: {pooled:.3f} over all rounds, "
                     f"median and range of the rounds {spread(rounds)} (wanted <= {options.total_ratio:g})")


def options_of():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--graftd")
    add("--graftload")
    add("--bare")
    add("--servers", default="graftd,nginx,bare", help="which, in this order")
    add("--path", default="/hello", help="asked of graftd (/hello)")
    add("--rounds", type=int, default=7)
    add("--seconds", type=float, default=4, help="of a round (4)")
    add("--connections", type=int, default=64)
    add("--server-core", type=int, default=0)
    add("--load-core", type=int, default=1)
    add("--user-ratio", type=float, default=0.6)
    add("--total-ratio", type=float, default=1.15)
    add("--tap", action="store_true")
    add("--json", metavar="FILE")
    return parser.parse_args()


def main():
    options = options_of()
    checks = common.Checks(options.tap)
    figures = {"machine": common.machine(), "options": vars(options)}
    checks.note(figures["machine"])
    with common.WorkFolder("cpu") as work:
        series = {}
        try:
            for name, one in servers_start(options, work):
                series[name] = one
            for _ in range(options.rounds):
                for one in series.values():
                    one.round(options)
        finally:
            for one in series.values():
                one.server.stop(signal.SIGTERM, 10)
    report(checks, options, series)
    figures["rounds"] = {name: one.rounds for name, one in series.items()}
    common.write_json(options.json, figures)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
