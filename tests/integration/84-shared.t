#!/usr/bin/env python3
# graft_shared: the same memory for every version, a new block for another layout, no trace of failed swaps
import os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *


def tell(s):
    return s.get("/shared").json()


def swap(s, what):
    s.install(make_unique(what), "shared")
    return s.reload()


@case("the same block, version after version")
def _():
    s = Server({"shared": "shared_v1"}, workers=2)
    first = tell(s)
    is_((first["fresh"], first["aligned"], first["zeroed"], first["value"]), (True, True, True, 0), "fresh, aligned, zeroed")
    ok(first["bad_refused"], "bad names and sizes: NULL")
    ok(first["late_refused"], "outside of init: NULL")
    ok(s.find_events("misuse", plugin="shared", msg=re.compile("outside of init")), "and misuse")
    for n in range(10):
        s.get("/shared/add")
    with Prober(s, "/shared/add", clients=2) as p:
        for n in range(6):
            ok(swap(s, "shared_v2" if n % 2 == 0 else "shared_v1")["ok"], f"swap {n} under load")
    found = tell(s)
    is_((found["version"], found["fresh"], found["old"]), ("v1", False, [0, 0, 0]), "the same block: not fresh, no older one")
    is_(found["value"], 10 + p.count, "each request counted once, over all versions")
    wait_for(lambda: len(s.ps("shared")) == 1, 20, "one version")
    is_(len(s.maps("memfd:counts")), 1, "one block is mapped")


@case("another layout")
def _():
    s = Server({"shared": "shared_v1"}, workers=2)
    for n in range(7):
        s.get("/shared/add")
    ok(swap(s, "shared_big")["ok"], "a version with another size and schema")
    found = tell(s)
    is_((found["version"], found["fresh"], found["zeroed"]), ("big", True, True), "gets a new block")
    is_(found["old"], [7, 4096, 1], "and reads the previous one")
    is_(found["value"], 7, "so that nothing is lost")
    wait_for(lambda: len(s.ps("shared")) == 1, 20, "the old version is gone")
    ok(swap(s, "shared_v1")["ok"], "back to the first layout")
    found = tell(s)
    is_((found["fresh"], found["old"]), (True, [7, 8192, 2]), "the block that was replaced is gone: a new one")
    s.wait_event("plugin", msg=re.compile("shared big old after promotion: none"))
    ok(True, "graft_shared_old reads nothing once the version has been promoted")
    wait_for(lambda: len(s.ps("shared")) == 1, 20, "one version")
    is_(len(s.maps("memfd:counts")), 2, "what it has read stays mapped as long as it is loaded")
    ok(swap(s, "shared_v2")["ok"], "the next version")
    wait_for(lambda: len(s.maps("memfd:counts")) == 1, 20, "then one block is left")
    is_(tell(s)["fresh"], False, "the current one")


@case("failed swaps leave no trace")
def _():
    s = Server({"shared": "shared_v1"}, workers=2)
    for n in range(5):
        s.get("/shared/add")
    for how in "irws":
        is_(swap(s, "shared_bad_" + how)["ok"], False, f"a version with another layout that fails ({how})")
        wait_for(lambda: len(s.maps("memfd:counts")) == 1, 20, "its block is unmapped")
        is_(int(s.get("/shared/add").text), 6 + "irws".index(how), "the current block is as it was")
    ok(swap(s, "shared_big")["ok"], "one that does not fail")
    found = tell(s)
    is_((found["fresh"], found["zeroed"], found["old"]), (True, True, [9, 4096, 1]), "gets a block without their dirt")


main()
