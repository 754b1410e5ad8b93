#!/usr/bin/env python3
# The plugin itself: configuration, counters, every, workers, loop, log
import json, os, re, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

QUICK = {"drain": {"idle_ms": 20}}


def server(*plugins, config=None, workers=1, **more):
    return Server(dict(plugins) if plugins and isinstance(plugins[0], tuple) else list(plugins),
                  config={**QUICK, **({"plugins": config} if config else {}), **more}, workers=workers)


@case("the configuration")
def _():
    given = {"s": 'te"xt é', "i": -42, "b": True, "nested": {"a": [1, 2, {"x": None}]}, "every_ms": 1000}
    s = server("every_metrics_v1", config={"every-metrics": {"config": given}})
    text = s.get("/every/config").body.decode()
    m = re.match(r'\{"s":"(.*?)","i":(-?\d+),"b":(true|false),"config":(.*)\}\n$', text, re.S)
    is_((m[1], int(m[2]), m[3]), (given["s"], -42, "true"), "graft_config_str, _int, _bool")
    is_(json.loads(m[4]), given, 'graft_config: the "config" object as JSON text')
    s = server("every_metrics_v1", config={"every-metrics": {"config": {"s": 1, "i": "x", "b": 0, "every_ms": 1000}}})
    like(s.get("/every/config").text, r'"s":"fallback","i":-7,"b":', "another type: the fallback")
    s = server("every_metrics_v1")
    m = re.match(r'\{"s":"fallback","i":-7,"b":(true|false),"config":(.*)\}\n$', s.get("/every/config").text, re.S)
    is_(json.loads(m[2]) if m else None, {}, "without configuration: {}, and the fallbacks")


@case("graft_every")
def _():
    s = server(("every", "every_metrics_v1"), config={"every-metrics": {"config": {"every_ms": 5, "tick_ms": 20}}}, workers=2)
    wait_for(lambda: s.get("/every").json()["ticks"] > 5, 20, "ticks")
    found = s.get("/every").json()
    is_((found["overlaps"], found["outside"]), (0, 0), "never twice at once, only between start and cool")
    s.install("every_metrics_v2", "every")
    ok(s.reload()["ok"], "a swap")
    event = s.wait_event("plugin", msg=re.compile("every v1 fini"))
    like(event["msg"], "overlaps=0 outside=0", "the old version's have ended before its cool returned")
    ticks = [int(re.search(r"ticks=(\d+)", s.wait_event("plugin", msg=re.compile("every v1 " + w))["msg"])[1]) for w in ("cool", "fini")]
    is_(ticks[1], ticks[0], "none between cool and fini")
    wait_for(lambda: s.get("/every").json()["ticks"] > 3, 20, "ticks of v2")
    found = s.get("/every").json()
    is_((found["version"], found["overlaps"], found["outside"]), ("v2", 0, 0), "then the new one's run")


@case("counters")
def _():
    name = "graft_plugin_every_metrics_things_done"
    s = server(("every", "every_metrics_v1"), config={"every-metrics": {"config": {"every_ms": 1000}}}, workers=2)

    def value():
        return {k: v for k, v in s.metrics().items() if k.startswith(name)}
    is_(sum(value().values()), 0, "graft_counter: in /metrics from the beginning")
    for _ in range(10):
        s.get("/every/add?n=3")
        s.get("/every/pool?n=2")
    is_(sum(value().values()), 50, "graft_add on workers and on the pool")
    text = s.ops_get("/metrics").text
    like(text, r"# HELP " + name + r"\S* How many things were done\.", "with its help")
    like(text, r"# TYPE " + name + r"\S* counter", "as a counter")
    is_(len(value()), 1, "one line: the same name is the same counter")
    s.install("every_metrics_v2", "every")
    ok(s.reload()["ok"], "a swap")
    s.get("/every/add?n=1")
    is_(sum(value().values()), 51, "kept by plugin name: no swap resets it")
    s.wait_event("misuse", plugin="every-metrics")
    ok(True, "a bad name is misuse, and NULL")


@case("workers and the loop")
def _():
    s = server("every_metrics_v1", "wrong_thread", "loop_user", workers=3, middleware=["loop-user"],
               config={"every-metrics": {"config": {"every_ms": 1000}}})
    seen = set()
    for _ in range(100):
        found = s.get("/every").json()
        seen.add(found["worker"])
        if found["workers"] != 3 or len(seen) == 3:
            break
    is_((sorted(seen), found["workers"]), ([0, 1, 2], 3), "graft_worker is 0 to graft_workers() - 1")
    is_(s.get("/wrong-thread").body, b"UINT_MAX\n", "elsewhere: UINT_MAX")
    s.wait_event("misuse", plugin="wrong-thread")
    ok(True, "and misuse")
    answer = s.get("/loop/done?ms=5")
    is_((answer.body, answer.header("X-Loop")), (b"loop 1\n", "1"), "graft_done from an event of the plugin's own")
    answer = s.get("/loop/stream?n=5&ms=5")
    is_((answer.body, answer.chunked), (b"loop 5\nloop 4\nloop 3\nloop 2\nloop 1\n", True), "graft_flush from one")
    is_(s.get("/loop/done?loop-mw=1&ms=5").body, b"loop 1\n", "graft_continue from one")
    wait_for(lambda: int(s.get("/loop/ticks").body) > 2, 10, "ticks of a persistent event")
    ok(True, "events live on the worker's loop")
    s.install(make_unique("loop_user"), "loop_user")
    ok(s.reload()["ok"], "a swap: worker_fini takes them off")
    is_(s.get("/loop/done?ms=5").body, b"loop 1\n", "the new version's serve")
    is_(s.find_events("plugin", msg="loop_user NESTED"), [], "no plugin is called from inside a call that a plugin made")


SELF = r"""
#include "contract.h"
#include "foreign.h"
#include <limits.h>
#include <stdio.h>
#include <stdatomic.h>
static graft_self *me;
static graft_metric *metric;
static atomic_uint any_ok, every_refused;

static void tick(void *state) { (void)state; }
static void any_thread(void *arg)
{
    graft_self *self = arg;
    const char *s = graft_config_str(self, "s", "");
    bool good = strcmp(s, "text") == 0 && graft_config_int(self, "i", 0) == 7 && graft_config_bool(self, "b", false) &&
                graft_config(self).len > 0 && graft_workers(self) == 2 && !graft_cooling(self);
    graft_log(self, GRAFT_WARN, "self thread says %d", good);
    atomic_store(&any_ok, good);
}
static int init(graft_self *self, void **state)
{
    *state = self;
    me = self;
    metric = graft_counter(self, "things", "Things.");
    return foreign_start(any_thread, self);
}
static int start(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_DEBUG, "self level debug");
    graft_log(self, GRAFT_INFO, "self level info");
    graft_log(self, GRAFT_WARN, "self level warn");
    graft_log(self, GRAFT_ERR, "self level err \"quoted\" \x01 end");
    return 0;
}
static graft_next handler(graft_req *req, void *state)
{
    atomic_store(&every_refused, graft_every(me, 10, tick, NULL) == -1);
    graft_printf(req, "self=%d any=%u every=%u cooling=%d size=%d minor=%d\n", graft_self_of(req) == state && me == state,
                 atomic_load(&any_ok), atomic_load(&every_refused), graft_cooling(me),
                 req->host->size >= sizeof(graft_host), req->host == me->host);
    return GRAFT_DONE;
}
static void later(graft_req *req, void *arg)
{
    (void)arg;
    if (!graft_cooling(me)) {
        graft_after(req, 20, later, NULL);
        return;
    }
    graft_text(req, 200, "cooling\n");
    graft_done(req);
}
static graft_next wait_cooling(graft_req *req, void *state)
{
    (void)state;
    return graft_after(req, 20, later, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static void fini(graft_self *self, void *state)
{
    (void)self;
    (void)state;
    foreign_join();
}
GRAFT_PLUGIN(.name = "self", .version = "1", .init = init, .start = start, .fini = fini,
             .routes = (const graft_route[]){ { "GET", "/self", handler, 0 }, { "GET", "/cooling", wait_cooling, 0 }, { 0 } })
"""


def self_server(wait=True, **more):
    return Server({"self": compile_plugin(SELF, f"-I{SRCDIR}/tests/plugins", "-pthread")},
                  config={**QUICK, "plugins": {"self": {"config": {"s": "text", "i": 7, "b": True}}}, **more}, workers=2, wait=wait)


@case("self, from any thread")
def _():
    s = self_server(log={"level": "debug", "format": "json"})
    s.wait_event("plugin", msg="self thread says 1")
    ok(True, "graft_config, _str, _int, _bool, graft_log, graft_workers, graft_cooling from a foreign thread")
    is_(s.get("/self").body, b"self=1 any=1 every=1 cooling=0 size=1 minor=1\n",
        "graft_self_of is the version's; graft_every off the loader is refused; the table is whole")
    s.wait_event("misuse", plugin="self")
    for level, name in (("debug", "debug"), ("info", "info"), ("warn", "warn"), ("error", "err")):
        event = s.wait_event("plugin", msg=re.compile("self level " + name))
        is_((event["level"], event["plugin"], event["version"], bool(re.match(r"[0-9a-f]{12}\.\d+$", event["id"]))),
            (level, "self", "1", True), f"graft_log {level}, with plugin, version and id")
    is_(event["msg"], 'self level err "quoted" \x01 end', "its text, escaped in the log")
    s = self_server(wait=False, log={"level": "warn", "format": "json"})
    s.wait_event("plugin", msg=re.compile("self level err"), level="error")
    is_(s.find_events("plugin", msg=re.compile("self level (info|debug)")), [], "what is below log.level is not written")


@case("graft_cooling")
def _():
    s = self_server()
    with s.connect() as c:
        c.send(request_bytes(target="/cooling"))
        wait_for(lambda: s.active("self")["in_flight"], 5, "the request")
        s.install(make_unique(os.path.join(s.plugin_dir, "self.so")), "self")
        ok(s.reload()["ok"], "a swap")
        is_(c.response().body, b"cooling\n", "graft_cooling: no new requests come here")
    with s.connect() as c:
        c.send(request_bytes(target="/cooling"))
        wait_for(lambda: s.active("self")["in_flight"], 5, "the request")
        s.send_signal(15)
        is_(c.response().body, b"cooling\n", "also when a drain has closed the listeners")
    is_(s.wait_exit(), 0, "which ends well")


FAILS = r"""
#include "contract.h"
static int init(graft_self *self, void **state)
{
    *state = NULL;
    graft_str s = graft_config(self);
    return s.len > 2 ? graft_fail(self, "wanted %s, found %.*s", "nothing", (int)s.len, s.ptr) : 0;
}
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "ok\n");
}
GRAFT_PLUGIN(.name = "fails", .version = "1", .init = init, .routes = (const graft_route[]){ { "GET", "/fails", handler, 0 }, { 0 } })
"""


@case("graft_fail")
def _():
    s = server(("fails", compile_plugin(FAILS, f"-I{SRCDIR}/tests/plugins")))
    s.config["plugins"] = {"fails": {"config": {"a": 1}}}
    answer = s.reload(config=True)
    is_(answer["ok"], False, "init: -1")
    like(answer["failed"][0]["error"], r'wanted nothing, found \{"a": ?1\}', "graft_fail's reason, from reload")
    like(s.wait_event("plugin_failed")["error"], "wanted nothing", "and in the log")
    is_(s.get("/fails").body, b"ok\n", "the old version serves")


main()
