#!/usr/bin/env python3
# Minors of the contract: a plugin of the first header serves for ever; what needs more than there is is refused
import os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

HEADER = os.path.join(SRCDIR, "sdk/include/graft/graft.h")
MINOR = int(re.search(r"^#define GRAFT_MINOR (\d+)$", open(HEADER).read(), re.M)[1])


@case("a plugin of minor 0")
def _():
    kept = open(os.path.join(SRCDIR, "tests/abi/1.0/graft/graft.h")).read()
    like(kept, r"\n#define GRAFT_MINOR 0\n", "the header that is kept is that of minor 0")
    ok(MINOR >= 1, "this header is newer")
    s = Server(["minor0"], {"middleware": ["minor0"]}, workers=2)
    is_(s.get("/minor0").body, b"minor 0: host long enough, ready 1, workers 2\n", "loads and is called")
    wait_for(lambda: s.find_events("plugin", msg=re.compile("minor0 on_finish 200")), 10, "its on_finish")
    is_(sum(v for k, v in s.metrics().items() if k.startswith("graft_plugin_minor0_counted")), 1, "its counter")
    s.install(make_unique("minor0"), "minor0")
    ok(s.reload()["ok"], "and is replaced")
    s.wait_event("plugin", msg=re.compile("minor0 fini"))
    s.wait_event("retired", plugin="minor0")
    ok(True, "after its fini")


@case("both headers are one contract")
def _():
    def members(path, begin, end):
        text = re.sub(r"/\*.*?\*/", "", open(path).read(), flags=re.S)
        body = text[text.index(begin) + len(begin):]
        body = body[:body.index(end)]
        return [re.sub(r"\s+", " ", line).strip() for line in body.split(";")][:-1]
    kept = os.path.join(SRCDIR, "tests/abi/1.0/graft/graft.h")
    for begin, end in (("typedef struct graft_plugin {", "} graft_plugin;"), ("struct graft_host {", "\n};")):
        old, new = members(kept, begin, end), members(HEADER, begin, end)
        is_(new[:len(old)], old, f"{begin[:-2]}: only ever appended to")
        ok(len(new) > len(old), "and was")


SOURCE = """#include <graft/graft.h>
static graft_next answer(graft_req *req, void *state) { (void)state; return graft_text(req, 200, "new\\n"); }
GRAFT_PLUGIN(.name = "needs", .version = "1", .routes = (const graft_route[]){ { "GET", "/needs", answer, 0 }, { 0 } })
"""


@case("GRAFT_NEEDS")
def _():
    s = Server({"needs": compile_plugin(SOURCE)})
    is_(s.get("/needs").body, b"new\n", "a plugin of this minor loads")
    s.install(compile_plugin(SOURCE, f"-DGRAFT_NEEDS={MINOR + 1}"), "needs")
    r = s.reload()
    is_(r["ok"], False, "one that needs the next minor is refused")
    like(str(r), rf"needs SDK 1\.{MINOR + 1}, this graftd offers 1\.{MINOR}", "with both numbers")
    is_(s.get("/needs").body, b"new\n", "and the old one serves")
    s.install(compile_plugin(SOURCE + "/* again */", "-DGRAFT_NEEDS=0"), "needs")
    ok(s.reload()["ok"], "one of this header that needs less loads")


NEWER = """#include <graft/graft.h>
static int init(graft_self *self, void **state)
{
    (void)state;
    bool fresh = false;
    return %s ? 0 : -1;
}
GRAFT_PLUGIN(.name = "needs", .version = "1", .init = init, )
"""


@case("with GRAFT_NEEDS=0 what minor 1 brought is not declared: a plugin cannot use it by mistake")
def _():
    for call in ('graft_shared(self, "b", 64, 1, &fresh) != NULL', 'graft_shared_old(self, "b", NULL, NULL) != NULL || fresh',
                 'graft_buf_add((graft_buf *)self, "x", 1) == 0 || fresh'):
        name = call.split("(")[0]
        ok(compile_plugin(NEWER % call), f"{name} compiles")
        try:
            compile_plugin(NEWER % call, "-DGRAFT_NEEDS=0", "-Werror=implicit-function-declaration")
            ok(False, f"{name} with GRAFT_NEEDS=0 does not")
        except Failed as error:
            like(error, name, f"{name} with GRAFT_NEEDS=0 does not")
    ask = "!GRAFT_HAS(self->host, graft_host, shared) || self->host->shared(self, \"b\", 64, 1, &fresh) != NULL"
    s = Server({"needs": compile_plugin(NEWER % ask, "-DGRAFT_NEEDS=0")})
    ok(s.active("needs"), "but where GRAFT_HAS finds it it can be used")


main()
