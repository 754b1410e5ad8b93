#!/usr/bin/env python3
# How the two sides meet: each sentence of that part of SDK.md
import os, re, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

QUICK = {"drain": {"idle_ms": 20}}
PLUGINS = f"-I{SRCDIR}/tests/plugins"
with open(os.path.join(ENV["TEST_BUILDDIR"], "Makefile")) as makefile:
    CHECKS = "-DGRAFT_CHECKS" in makefile.read()


TABLE = r"""
#include "contract.h"
#include <inttypes.h>
#include <stdio.h>

_Static_assert(offsetof(graft_host, size) == 0, "size first");
_Static_assert(sizeof((graft_host){ 0 }.size) == sizeof(((graft_plugin){ 0 }).size) || sizeof((graft_host){ 0 }.size) == sizeof(size_t), "");
_Static_assert(GRAFT_ABI == 1, "the entry symbol's number");
_Static_assert(GRAFT_NEXT == 0 && GRAFT_DONE == 1 && GRAFT_LATER == 2 && GRAFT_ERROR == 3, "values are ABI");
_Static_assert(GRAFT_STREAM == 1 && GRAFT_SERIAL == 1 && GRAFT_NEED_BODY == 2, "values are ABI");
_Static_assert(GRAFT_DEBUG == 0 && GRAFT_INFO == 1 && GRAFT_WARN == 2 && GRAFT_ERR == 3, "values are ABI");

/* Every member by its name: this page's order, `resume`, the v-ones. */
#define MEMBERS(X) X(method) X(path) X(target) X(param) X(query) X(header) X(header_count) X(header_at) X(body) X(peer) \
    X(request_id) X(route_pattern) X(is_tls) X(status) X(set_header) X(add_header) X(remove_header) X(write) \
    X(write_static) X(vprintf) X(send_file) X(flush) X(text) X(json) X(error) X(response_status) X(response_header) \
    X(response_body) X(reset_response) X(streaming) X(response_bytes) X(elapsed_us) X(done) X(resume) X(abort) X(gone) \
    X(post) X(offload) X(after) X(deadline) X(on_abort) X(on_body) X(body_pause) X(body_resume) X(on_writable) \
    X(pending) X(alloc) X(scratch) X(config) X(config_str) X(config_int) X(config_bool) X(vfail) X(vfail_req) X(vlog) \
    X(self_of) X(worker) X(workers) X(loop) X(cooling) X(every) X(counter) X(add)

static graft_metric *metric;
static graft_self *me;

static int init(graft_self *self, void **state)
{
    *state = NULL;
    me = self;
    metric = graft_counter(self, "things", "Things.");
    return metric ? 0 : graft_fail(self, "no counter");
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    const graft_host *host = *(const graft_host *const *)(const void *)req;
    unsigned missing = 0, disorder = 0;
    size_t before = 0;
#define CHECK_MEMBER(m) \
    missing += !GRAFT_HAS(host, graft_host, m) || !host->m; \
    disorder += offsetof(graft_host, m) <= before; \
    before = offsetof(graft_host, m);
    MEMBERS(CHECK_MEMBER)
    bool handles = *(const graft_host *const *)(const void *)me == host && *(const graft_host *const *)(const void *)metric == host;
    graft_printf(req, "%p missing=%u disorder=%u handles=%d whole=%d\n", (const void *)host, missing, disorder, handles,
                 host->size >= sizeof *host);
    return GRAFT_DONE;
}
GRAFT_PLUGIN(.name = NAME, .version = "1", .init = init, .routes = (const graft_route[]){ { "GET", "/" NAME, handler, 0 }, { 0 } })
"""


@case("the table")
def _():
    s = Server({n: compile_plugin(TABLE, f'-DNAME="{n}"', PLUGINS) for n in ("one", "two")}, config=QUICK, workers=1)
    one, two = s.get("/one").text.split(), s.get("/two").text.split()
    is_(one[1:], ["missing=0", "disorder=0", "handles=1", "whole=1"],
        "one table: size first, members by their names in this page's order; every handle begins with a pointer to it")
    isnt(one[0], two[0], "one for each loaded version")
    is_(s.get("/one").text.split()[0], one[0], "the same for each request")
    s.install(make_unique(os.path.join(s.plugin_dir, "one.so")), "one")
    ok(s.reload()["ok"], "a swap")
    isnt(s.get("/one").text.split()[0], one[0], "another for the next version")
    run = subprocess.run(["nm", "-D", "--defined-only", GRAFTD], capture_output=True, text=True)
    ours = [line for line in run.stdout.splitlines() if "@" not in line]     # libc's copied data is not ours
    if SANITIZER == "none":
        is_(ours, [], "the server exports no symbol")
    s = Server(["own_symbols"], config=QUICK)
    is_(s.get("/own-symbols").body, b"own\n", "so that it captures none of a plugin's own")


@case("sizes and minors")
def _():
    s = Server({"grown": "grown"}, config=QUICK)
    is_([s.get("/grown").body, s.get("/sin").body], [b"grown\n", b"grown\n"],
        "the server strides by route_size; a descriptor and a route that are larger, all zero, are taken")
    for name, expected in (("wrong_minor", r"1\.\d+"), ("wrong_size", r"byte|member|newer"), ("wrong_route_size", r"byte|member|newer"),
                           ("small_size", r"24")):
        s = Server({"sin": "good"}, config=QUICK)
        s.install(name, "sin")
        answer = s.reload()
        is_((answer["ok"], s.get("/sin").body), (False, b"good\n"), f"{name} is refused")
        like(answer["failed"][0]["error"], expected, "and says why")
    s.install("wrong_minor", "sin")
    error = s.reload(retry=True)["failed"][0]["error"]
    found = re.findall(r"1\.(\d+)", error)
    is_((len(found) >= 2, int(found[0]) - int(found[1]) if len(found) > 1 else None), (True, 7), "a smaller minor refuses it and says both numbers")


COPIES = r"""
#include "contract.h"
static char name[] = "copies", version[] = "1.2.3", method[] = "GET", pattern[] = "/copies/:a", summary[] = "Copies.";
static int init(graft_self *self, void **state)
{
    (void)self;
    *state = NULL;
    memset(name, 'x', sizeof name - 1);
    memset(version, 'x', sizeof version - 1);
    memset(method, 'x', sizeof method - 1);
    memset(pattern, 'x', sizeof pattern - 1);
    memset(summary, 'x', sizeof summary - 1);
    return 0;
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_str p = graft_route_pattern(req), a = graft_param(req, "a");
    graft_printf(req, "%.*s %.*s\n", (int)p.len, p.ptr, (int)a.len, a.ptr);
    return GRAFT_DONE;
}
static const graft_route routes[] = { { method, pattern, handler, 0 }, { 0 } };
GRAFT_PLUGIN(.name = name, .version = version, .summary = summary, .init = init, .routes = routes)
"""


@case("the descriptor is copied")
def _():
    s = Server({"copies": compile_plugin(COPIES, PLUGINS)}, config=QUICK)
    is_(s.get("/copies/7").body, b"/copies/:a 7\n", "the server copies the descriptor and its strings before it runs any of the code")
    found = s.active("copies")
    is_((found["plugin"], found["version"]), ("copies", "1.2.3"), "name and version too")


HANDLES = r"""
#include "contract.h"
#include <stdio.h>
struct mine { unsigned char mark[64]; graft_req *req; const graft_host *host; unsigned calls; };
static void note(graft_req *req, const char *where)
{
    struct mine *m = graft_scratch(req);
    unsigned dirty = 0;
    if (m->calls++ == 0) {
        for (size_t i = 0; i < sizeof m->mark; i++)
            dirty += m->mark[i] != 0;
        memset(m->mark, NAME[0], sizeof m->mark);
        m->req = req;
        m->host = req->host;
    }
    for (size_t i = 0; i < sizeof m->mark; i++)
        dirty += m->mark[i] != (unsigned char)NAME[0];
    graft_log(graft_self_of(req), GRAFT_INFO, "handles %s same=%d dirty=%u calls=%u %p", where,
              m->req == req && m->host == req->host, dirty, m->calls, (void *)req);
}
static void over(graft_req *req, void *arg)
{
    (void)arg;
    note(req, "after");
    graft_continue(req, GRAFT_NEXT);
}
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    note(req, "on_request");
    return graft_after(req, 1, over, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static graft_next on_response(graft_req *req, void *state) { (void)state; note(req, "on_response"); return GRAFT_NEXT; }
static void on_finish(graft_req *req, void *state) { (void)state; note(req, "on_finish"); }
GRAFT_PLUGIN(.name = NAME, .version = "1", .scratch_size = sizeof(struct mine), .on_request = on_request,
             .on_response = on_response, .on_finish = on_finish)
"""


@case("handles")
def _():
    s = Server({**{n: compile_plugin(HANDLES, f'-DNAME="{n}"', PLUGINS) for n in "ab"}, "hello": "hello"},
               config={**QUICK, "middleware": ["a", "b"]}, workers=1)
    for _ in range(3):
        mark = s.mark()
        s.get("/hello")
        s.wait_event("plugin", since=mark, plugin="a", msg=re.compile("on_finish"))
        events = s.find_events("plugin", mark, msg=re.compile("^handles"))
        is_([e["plugin"] for e in events], ["a", "a", "b", "b", "b", "a", "b", "a"], "log lines belong to the plugin of the handle")
        is_([e["msg"] for e in events if "same=1 dirty=0" not in e["msg"]], [],
            "host never changes, scratch is zeroed at first and the plugin's own, callbacks get the same handle")
        is_(len({e["msg"].split()[-1] for e in events}), 2, "each plugin in a chain gets a graft_req of its own")


THREADS = r"""
#include "contract.h"
#include "foreign.h"
struct box { graft_req *req; unsigned wrong; };
static void end(graft_req *req, void *arg)
{
    struct box *b = arg;
    graft_printf(req, "wrong=%u\n", b->wrong);
    graft_done(req);
}
static void thread(void *arg)
{
    struct box *b = arg;
    graft_req *req = b->req;
    b->wrong += graft_write(req, "x", 1) != -1;
    b->wrong += graft_printf(req, "x") != -1;
    b->wrong += graft_flush(req) != -1;
    b->wrong += graft_set_header(req, "X-A", "b") != -1;
    b->wrong += graft_status(req, 404) != -1;
    b->wrong += graft_after(req, 1, end, b) != -1;
    b->wrong += graft_offload(req, thread, end, b) != -1;
    b->wrong += graft_deadline(req, 1) != -1;
    b->wrong += graft_query(req, "x").ptr != NULL;
    b->wrong += graft_body(req).ptr != NULL;
    b->wrong += graft_alloc(req, 1) != NULL;
    b->wrong += graft_pending(req) != 0;
    if (graft_post(req, end, b) != 0)
        graft_abort(req);
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    struct box *b = graft_scratch(req);
    b->req = req;
    return foreign_start(thread, b) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static graft_metric *metric;
static void self_thread(void *arg)
{
    graft_self *self = arg;
    graft_fail(self, "nobody asked");
    graft_add(metric, 1);
    graft_loop(self);
}
static void work(void *arg)
{
    struct box *b = arg;
    sleep_ms(50);
    graft_method(b->req);
    graft_header(b->req, "Host");
}
static graft_next pool(graft_req *req, void *state)
{
    (void)state;
    struct box *b = graft_scratch(req);
    b->req = req;
    b->wrong += graft_counter(graft_self_of(req), "other", "Other.") != NULL;
    if (graft_offload(req, work, NULL, b) != 0 || foreign_start(self_thread, graft_self_of(req)) != 0)
        return GRAFT_ERROR;
    graft_printf(req, "wrong=%u\n", b->wrong);
    return GRAFT_DONE;
}
static int init(graft_self *self, void **state)
{
    *state = NULL;
    metric = graft_counter(self, "some", "Some.");
    return 0;
}
static void fini(graft_self *self, void *state) { (void)self; (void)state; foreign_join(); }
GRAFT_PLUGIN(.name = "threads", .version = "1", .scratch_size = sizeof(struct box), .init = init, .fini = fini,
             .routes = (const graft_route[]){ { "GET", "/threads", handler, 0 }, { "GET", "/threads/pool", pool, 0 }, { 0 } })
"""


@case("the checks build verifies threads", CHECKS, "not built with --enable-checks")
def _():
    s = Server({"threads": compile_plugin(THREADS, PLUGINS, "-pthread")}, config=QUICK, workers=1)
    is_(s.get("/threads").body, b"wrong=0\n", "[worker] functions do nothing on another thread")
    wanted = {"graft_" + n for n in ("write", "printf", "flush", "set_header", "status", "after", "offload", "deadline", "query",
                                     "body", "alloc", "pending")}

    def found():  # the answer may be here before the control thread has written the lines
        return {e["what"].split()[0] for e in s.find_events("misuse", plugin="threads")}
    wait_for(lambda: found() >= wanted, 5, "the lines are written")
    is_(found(), wanted, "and are named in the log")
    is_({e["route"] for e in s.find_events("misuse", plugin="threads")}, {"/threads"}, "with the route")
    mark = s.mark()
    is_(s.get("/threads/pool").body, b"wrong=0\n", "[loader] functions do nothing elsewhere")
    wanted = {"graft_method", "graft_header", "graft_counter", "graft_fail", "graft_add", "graft_loop"}
    found = wait_for(lambda: wanted <= {e["what"].split()[0] for e in s.find_events("misuse", mark)}, 10, f"{wanted} in the log")
    ok(found, "named too: [any] functions off the worker when nothing is LATER, and what is not for a foreign thread at all")


NESTED = r"""
#include "contract.h"
/* Every callback counts how many of us stand on this stack, and does what could call another. */
static _Thread_local unsigned depth;
static _Thread_local unsigned nested;
static void enter(void) { nested += depth++ > 0; }
static void leave(void) { depth--; }
static void posted(graft_req *req, void *arg) { (void)req; (void)arg; enter(); leave(); }
static void last(graft_req *req, void *arg)
{
    (void)arg;
    enter();
    graft_printf(req, "nested=%u\n", nested);
    graft_post(req, posted, NULL);
    graft_done(req);
    leave();
}
static void work(void *arg) { (void)arg; }
static void then(graft_req *req, void *arg)
{
    (void)arg;
    enter();
    graft_flush(req);
    graft_post(req, last, NULL);
    leave();
}
static void writable(graft_req *req, void *arg) { (void)req; (void)arg; enter(); leave(); }
static void on_body(graft_req *req, graft_str chunk, bool end, void *arg)
{
    (void)chunk;
    (void)arg;
    enter();
    graft_body_pause(req);
    graft_body_resume(req);
    if (end && graft_offload(req, work, then, NULL) != 0)
        graft_abort(req);
    leave();
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    static const char block[400000];
    enter();
    graft_on_writable(req, writable, NULL);
    if (graft_query(req, "big").ptr)
        graft_write_static(req, block, sizeof block);
    graft_write(req, "x\n", 2);
    graft_flush(req);
    graft_on_body(req, on_body, NULL);
    graft_post(req, posted, NULL);
    leave();
    return GRAFT_LATER;
}
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    enter();
    if (graft_query(req, "now").ptr) {
        graft_continue(req, GRAFT_NEXT);
        leave();
        return GRAFT_LATER;
    }
    leave();
    return GRAFT_NEXT;
}
static graft_next on_response(graft_req *req, void *state)
{
    (void)state;
    (void)req;
    enter();
    leave();
    return GRAFT_NEXT;
}
static void on_finish(graft_req *req, void *state)
{
    (void)state;
    enter();
    graft_log(graft_self_of(req), GRAFT_INFO, "nested %u", nested);
    leave();
}
GRAFT_PLUGIN(.name = "nested", .version = "1", .routes = (const graft_route[]){ { NULL, "/nested", handler, GRAFT_STREAM }, { 0 } },
             .on_request = on_request, .on_response = on_response, .on_finish = on_finish)
"""


@case("never from inside a call that a plugin made")
def _():
    s = Server({"nested": compile_plugin(NESTED, PLUGINS), "loop_user": "loop_user"},
               config={**QUICK, "middleware": ["nested", "loop-user"]}, workers=1)
    with s.connect() as c:
        for method, query, body in (("GET", "", None), ("POST", "", b"x" * 200000), ("POST", "?now=1&big=1", b"x" * 10),
                                    ("GET", "?now=1", None)):
            like(c.request(method, "/nested" + query, body=body).body, rb"nested=0".decode(),
                 f"done, continue, flush, post, on_body only mark: {method} {query}")
        is_(c.get("/loop/stream?n=3&ms=2").status, 200, "from an event of the plugin's own")
    wait_for(lambda: len(s.find_events("plugin", msg=re.compile("^nested"))) == 5, 10, "five ends")
    is_({e["msg"] for e in s.find_events("plugin", msg=re.compile("^nested"))}, {"nested 0"}, "in no callback of five requests")
    is_(s.find_events("plugin", msg="loop_user NESTED"), [], "also there")


main()
