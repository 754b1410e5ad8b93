#!/usr/bin/env python3
# The HTTP cases pass while the plugins that answer them are swapped ten times a second
import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import grafttest  # noqa: E402
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403


def cases_module():
    """20-http-cases.t without running it."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "20-http-cases.t")
    loader = importlib.machinery.SourceFileLoader("http_cases", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("http_cases", loader))
    kept, run = list(grafttest._cases), grafttest.main
    grafttest.main = lambda: None
    try:
        loader.exec_module(module)
    finally:
        grafttest.main, grafttest._cases[:] = run, kept
    return module


class Swapper(threading.Thread):
    """Replaces all plugins of the folder by new files with the same code, and swaps, at this rate."""

    def __init__(self, server, names, rate):
        super().__init__()
        self.server, self.names, self.period = server, names, 1 / rate
        self.over, self.swaps, self.failures = threading.Event(), 0, []

    def run(self):
        while not self.over.is_set():
            began = time.monotonic()
            for name in self.names:
                put(self.server, fresh(name), name)
            answer = self.server.reload()
            if answer["ok"] and len(answer["changed"]) == len(self.names):
                self.swaps += 1
            else:
                self.failures.append(answer)
            self.over.wait(max(0, self.period - (time.monotonic() - began)))

    def stop(self):
        self.over.set()
        self.join()


@case("all cases, several rounds")
def _():
    cases = cases_module()
    # A case may hold a version as long as its request lasts: none may be refused as busy.
    s = Server(["hello", "echo"], {"limits": {"versions": 64}}, listen=["127.0.0.1:0", "[::1]:0"])
    settle(s, 2)
    before = footprint(s)
    swapper = Swapper(s, ["hello", "echo"], 10)
    began = time.monotonic()
    swapper.start()
    rounds = 0
    while rounds < 2 or (time.monotonic() - began < 6 and SANITIZER == "none"):
        found = cases.all_at_once(s.addresses()[rounds % 2], 8)
        ok(not found, f"{len(cases.CASES)} cases, round {rounds + 1}",
           "\n".join(f"{cases.CASES[i]['name']}: {why}" for i, why in list(found.items())[:20]))
        rounds += 1
    swapper.stop()
    seconds = time.monotonic() - began
    is_(swapper.failures, [], "no swap failed")
    ok(swapper.swaps >= 5 * seconds / SCALE, f"{swapper.swaps} swaps in {seconds:.1f} s")
    is_settled(s, 2, "every old version is gone")
    is_footprint(s, before, "nothing is left behind", seconds=15)
    is_(s.status()["in_flight"], 0, "no request is left")

main()
