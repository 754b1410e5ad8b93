#!/usr/bin/env python3
# A version that becomes good just before the index is written for another one comes into it, too
import os
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

marked = Marked()


@case("two swaps, 60 to 99 ms apart: both are in the index")
def _():
    s = Server(["hello"], start=False)
    put(s, marked(1), "versioned")
    s.start()
    index = os.path.join(s.dir, "state", "index.json")

    def holds(sha256):
        try:
            return sha256 in open(index).read()
        except FileNotFoundError:
            return False
    missing, number = [], 1
    for ms in range(60, 100):
        number += 1
        one = put(s, marked(number), "versioned")
        two = fresh("hello")
        begun = time.monotonic()
        s.reload()
        sha256 = put(s, two, "hello")
        time.sleep(max(0, begun + ms / 1000 - time.monotonic()))
        s.reload()
        try:
            wait_for(lambda: holds(sha256) and holds(one), 3, f"{ms} ms")
        except Failed as error:
            missing.append(str(error))
    is_(missing, [], "both, whatever the time between them")
    sha256 = put(s, fresh("hello"), "hello")
    s.reload()
    is_(s.stop(), 0, "exit 0")
    ok(holds(sha256), "what became good just before the end, too")

main()
