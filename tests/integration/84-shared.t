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


def built(version, size, schema):
    with open(os.path.join(SRCDIR, "tests/plugins/shared.c")) as f:
        return compile_plugin(f.read(), f"-I{SRCDIR}/tests/plugins", f'-DVERSION="{version}"', f"-DSIZE={size}", f"-DSCHEMA={schema}")


@case("another size alone, another schema alone: a new block each")
def _():
    for size, schema, what in ((4104, 1, "size"), (4096, 2, "schema")):
        s = Server({"shared": "shared_v1"}, workers=2)
        for n in range(3):
            s.get("/shared/add")
        ok(swap(s, built(what, size, schema))["ok"], f"a version with another {what}")
        found = tell(s)
        is_((found["version"], found["fresh"], found["zeroed"], found["old"]), (what, True, True, [3, 4096, 1]),
            "a new block; the one before can be read")
        s.stop()


@case("while a canary and the stable version serve, both count in the same memory, or each in its own")
def _():
    s = Server({"shared": "shared_v1"}, workers=2)
    for n in range(5):
        s.get("/shared/add")
    s.install(make_unique("shared_v2"), "shared")
    is_(s.ctl("canary", "shared", "--weight", "50").returncode, 0, "a canary with the same layout")
    with Prober(s, "/shared/add", clients=2, every=0) as p:
        wait_for(lambda: p.count > 300, 20, "load")
        is_(s.ctl("promote", "shared").returncode, 0, "promoted under load")
        p.wait_count(50)
    is_(p.failures, [], "no request failed")
    is_(sorted(int(text) for text in p.seen), list(range(6, 6 + p.count)), "each request got a number of its own, by whichever version")
    is_(len(s.maps("memfd:counts")), 1, "one block")
    before = tell(s)["value"]
    s.install(make_unique("shared_big"), "shared")
    is_(s.ctl("canary", "shared", "--weight", "50").returncode, 0, "a canary with another layout")
    for n in range(40):
        s.get("/shared/add")
    both = {found["version"]: found for found in (tell(s) for _ in range(8))}
    is_(sorted(both), ["big", "v2"], "both serve")
    is_((both["big"]["fresh"], both["big"]["old"]), (True, [before, 4096, 1]), "the canary has a block of its own, and read the other")
    is_(both["v2"]["value"] + both["big"]["value"], before + before + 40, "each counts in its own, from where it began")
    is_(s.ctl("abort", "shared").returncode, 0, "abort")
    found = tell(s)
    is_((found["version"], found["value"]), ("v2", both["v2"]["value"]), "the stable version's block is as it was")
    s.stop()


OLD = r"""
#include <graft/graft.h>
static void look(graft_self *self, const char *when)
{
    uint32_t schema = 0;
    bool there = graft_shared_old(self, "b", NULL, &schema) != NULL;
    graft_log(self, GRAFT_INFO, "%s: old %s %u", when, there ? "there" : "none", (unsigned)schema);
}
static int init(graft_self *self, void **state)
{
    *state = self;
    if (graft_shared(self, "b", 64, SCHEMA, NULL) == NULL)
        return graft_fail(self, "no block");
    look(self, "init");
    return 0;
}
static int export_state(graft_self *self, void *state, graft_buf *out)
{
    (void)self, (void)state;
    return graft_buf_add(out, "x", 1);
}
static int import_state(graft_self *self, void *state, uint32_t schema, graft_str data)
{
    (void)state, (void)schema, (void)data;
    look(self, "import");
    return 0;
}
static void cool(graft_self *self, void *state)
{
    (void)state;
    look(self, "cool");
}
GRAFT_PLUGIN(.name = "old", .version = "1", .init = init, .cool = cool, .export_state = export_state, .import_state = import_state, )
"""


@case("graft_shared_old reads the block before until a canary is promoted, when it takes over the state, too")
def _():
    s = Server({"old": compile_plugin(OLD, "-DSCHEMA=1")})
    s.install(compile_plugin(OLD, "-DSCHEMA=2"), "old")
    is_(s.ctl("canary", "old", "--weight", "10").returncode, 0, "a canary")
    canary = s.ps("old", "canary")[0]["id"]
    is_(s.ctl("promote", "old").returncode, 0, "promoted")
    s.install(compile_plugin(OLD, "-DSCHEMA=3"), "old")
    ok(s.reload()["ok"], "and replaced")
    s.wait_event("plugin", id=canary, msg=re.compile("^cool"))
    is_([e["msg"] for e in s.find_events("plugin", id=canary)],
        ["init: old there 1", "import: old there 1", "cool: old none 0"], "there in init and import_state, none afterwards")
    s.stop()


ELSEWHERE = r"""
#include <graft/graft.h>
static int unlike(graft_self *self)
{
    return graft_shared(self, "b", 64, 1, NULL) == NULL && graft_shared_old(self, "b", NULL, NULL) == NULL;
}
static int in_pool;
static void work(void *arg)
{
    in_pool = unlike(arg);
}
static void then(graft_req *req, void *arg)
{
    (void)arg;
    graft_printf(req, "worker %d pool %d", unlike(graft_self_of(req)), in_pool);
    graft_done(req);
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_offload(req, work, then, graft_self_of(req)) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
GRAFT_PLUGIN(.name = "elsewhere", .version = "1", .routes = (const graft_route[]){ { "GET", "/elsewhere", handler, 0 }, { 0 } }, )
"""


@case("on a worker or the pool both answer NULL, and the log tells whose mistake it is")
def _():
    s = Server({"elsewhere": compile_plugin(ELSEWHERE)})
    is_(s.get("/elsewhere").text, "worker 1 pool 1", "NULL")
    for what in ("graft_shared was called", "graft_shared_old was called"):
        wait_for(lambda w=what: len(s.find_events("misuse", plugin="elsewhere", what=re.compile(w))) == 2, 10, f"misuse: {what}, twice")


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
