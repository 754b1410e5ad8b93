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


@case("counter: slots that a process had claimed when it crashed are free again", SANITIZER != "tsan", "TSan's own abort")
def _():
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "plugins", "counter", "counter.c")
    broken = compile_plugin(f"""
#include <stdlib.h>
#include <string.h>
static void *copy_or_crash(void *to, const void *from, size_t n)
{{
    if (n > 4 && memcmp(from, "/die", 4) == 0)
        abort(); /* a slot is being named */
    return memcpy(to, from, n);
}}
#define memcpy copy_or_crash
#include "{os.path.abspath(source)}"
""")

    def slot(path):
        h = 2166136261
        for c in path.encode():
            h = (h ^ c) * 16777619 % 2**32
        return h % 256
    at = slot("/hello")
    deadly = [p for p in (f"/die/{n}" for n in range(20000)) if slot(p) == at][:8]
    s = Server({"hello": "hello", "counter": broken}, {"middleware": ["counter"], "crash_window_ms": 1})
    for path in deadly:
        pid = s.pid
        mark = s.mark()
        try:
            s.get(path)
        except (OSError, HttpError):
            pass
        s.wait_event("restarted", 20, since=mark)

        def again():
            try:
                return s.pid != pid
            except (OSError, HttpError):
                return False
        wait_for(again, 20, "another process")
    is_(s.get("/hello").status, 200, "eight crashes in the slots that a path has")
    found = s.get("/counter").json()
    is_(([p for p in found["paths"] if p["path"] == "/hello"], found["other"]), ([{"path": "/hello", "count": 1}], 0),
        "the path has one of them all the same")
    is_(s.stop(), 0, "exit 0")


main()
