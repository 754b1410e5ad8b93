#!/usr/bin/env python3
# A plugin that crashes the server again and again: the server runs without it, 503 on its routes, and tells why
import os
import signal
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

# Crashes 100 ms after its start when its configuration says so; a middleware that refuses all without a key.
SOURCE = r"""
#include <graft/graft.h>
#include <stdlib.h>

static int on;

static void crash(void *state)
{
    (void)state;
    abort();
}

static int start(graft_self *self, void *state)
{
    return graft_config_bool(self, "crash", false) ? graft_every(self, 100, crash, state) : on;
}

static graft_next serve(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "served\n");
}

static graft_next guard(graft_req *req, void *state)
{
    (void)state;
    return graft_header(req, "X-Key").len > 0 ? GRAFT_NEXT : graft_error(req, 401, "no key");
}

GRAFT_PLUGIN(.name = NAME, .version = VERSION, .summary = "For 81-missing.t.", .start = start,
             ON_REQUEST
             .routes = (const graft_route[]){ { "GET", "/bad", serve }, { "POST", "/bad/:id/*rest", serve }, { 0 } })
"""
NAMED = {"auth": {"config": {"crash": True}}}


def build(name, version="1.0", middleware=False, routes=True):
    source = SOURCE if routes else SOURCE[:SOURCE.index(".routes")] + ")"
    return compile_plugin(source, f'-DNAME="{name}"', f'-DVERSION="{version}"', "-Wno-unused-function",
                          "-DON_REQUEST=" + (".on_request=guard," if middleware else ""))


def run_without(config, plugins, name, **more):
    """A server in which that plugin, which was never good with its configuration, has crashed twice."""
    s = Server(["hello"], more)
    for file, so in plugins.items():
        s.install(so, file)
    s.config.update(config)
    s.write_config()
    s.send_signal(signal.SIGHUP)
    s.wait_event("quarantine", 60)

    def missing():
        try:
            return s.ps(name, "missing")
        except (OSError, HttpError):
            return False
    wait_for(missing, 30, "the server without it")
    return s


def is_refused(answer, name, what):
    is_(answer.status, 503, f"{what}: 503")
    is_(answer.header("Content-Type"), "application/problem+json", "in the form of the server's errors")
    ok(int(answer.header("Retry-After") or 0) > 0, "with Retry-After")
    body = answer.json()
    is_((body["title"], body["status"]), ("Service Unavailable", 503), "title, status")
    like(body["detail"], rf'plugin "{name}" is missing: .*crashed the server twice', "which plugin, and why")


@case("its routes answer 503 and say why, all else serves; ps, readyz, metrics, routes and the log tell it")
def _():
    s = run_without({"plugins": {"bad": {"config": {"crash": True}}}}, {"bad": build("bad")}, "bad")
    is_refused(s.get("/bad"), "bad", "GET /bad")
    is_refused(s.request("POST", "/bad/7/a/b", body=b"x" * 100000), "bad", "POST with a body")
    is_(s.request("HEAD", "/bad").status, 503, "HEAD")
    is_(s.request("PUT", "/bad").status, 405, "a method that it never had: 405")
    is_(s.get("/other").status, 404, "a path that nobody has: 404")
    is_(s.get("/hello").status, 200, "the others serve")
    row = s.ps("bad")
    is_([v["state"] for v in row], ["missing"], "ps: missing")
    like(row[0]["reason"], 'plugin "bad" is missing: it is quarantined', "with the reason")
    like(s.ctl("ps").stdout, r"bad +1.0 +[0-9a-f]{12}\.0 +missing", "graftctl ps")
    is_(s.metrics()['graft_versions{state="missing"}'], 1, "metrics")
    ready = s.ops_get("/readyz")
    is_(ready.status, 200, "readyz: the server is ready, nobody insists on that plugin")
    like(ready.text, 'ok\nplugin "bad" is missing', "but tells it")
    is_(sorted((r["method"], r["pattern"]) for r in s.routes() if r["plugin"] == "bad"),
        [("GET", "/bad"), ("POST", "/bad/:id/*rest")], "routes")
    like(s.find_events("plugin_warning")[-1]["msg"], "quarantined .*its routes answer 503", "the log")
    pid = s.pid
    answer = s.reload()
    ok(answer["ok"] and not answer["changed"], "a reload changes nothing", answer)
    is_refused(s.get("/bad"), "bad", "then")
    s.reload(config=True)
    is_refused(s.get("/bad"), "bad", "after HUP")
    answer = s.api("POST", "/v1/plugins/bad/rollback")
    is_((answer["_status"], answer["error"]), (409, "refused"), "a rollback has nothing to go back to")
    like(answer["reason"], 'plugin "bad" is missing', "and says so")
    is_(s.pid, pid, "nothing crashes any more")
    s.install(build("other"), "other")
    answer = s.reload()
    ok(not answer["ok"] and "route conflict" in answer["reason"], "its routes are still its own", answer)
    s.uninstall("other")
    s.config["plugins"] = {}
    answer = s.reload(config=True)
    is_([(e["plugin"], e["error"]) for e in answer["changed"]], [("bad", None)], "mended by its configuration")
    is_(s.get("/bad").text, "served\n", "it serves")
    is_([v["state"] for v in s.ps("bad") if v["state"] != "cooling"], ["active"], "ps")
    is_(s.ops_get("/readyz").text, "ok\n", "readyz")
    s.stop()


@case("another file mends it; a file that is taken away ends it; canary is refused; mounts hold")
def _():
    s = run_without({"plugins": {"bad": {"config": {"crash": True}, "mount": "/m"}}}, {"bad": build("bad")}, "bad")
    is_refused(s.get("/m/bad"), "bad", "below its mount")
    is_(s.get("/bad").status, 404, "not elsewhere")
    s.config["plugins"]["bad"]["config"] = {}
    s.uninstall("bad")
    ok(s.reload(config=True)["ok"], "the file is taken away")
    is_((s.get("/m/bad").status, [v for v in s.ps("bad") if v["state"] == "missing"]), (404, []), "404")
    s.install(build("bad", "2.0"), "bad")
    ok(s.reload()["ok"], "another file")
    is_(s.get("/m/bad").text, "served\n", "serves")
    s.stop()


@case("a middleware that is missing lets nobody through: its routes answer 503, the rest serves")
def _():
    routes = [{"match": "/hello/*", "middleware": ["auth"]}, {"match": "/hello", "middleware": ["auth"]}]
    s = run_without({"plugins": NAMED, "routes": routes},
                    {"auth": build("auth", middleware=True, routes=False), "good": build("good")}, "auth")
    for headers in ((), (("X-Key", "k"),)):
        is_refused(s.request("GET", "/hello", headers), "auth", f"a route behind it, {headers}")
    is_(s.get("/bad").text, "served\n", "a route that is not behind it")
    ready = s.ops_get("/readyz")
    is_(ready.status, 503, "readyz fails: the configuration names it")
    like(ready.text, r'plugin "auth" is missing.*named by routes\[0\]', "and says where")
    s.uninstall("auth")
    answer = s.reload()
    is_(answer["ok"], False, "taking its file away is refused")
    is_refused(s.get("/hello"), "auth", "and opens nothing")
    s.stop()


@case("global middleware: everything is 503, outer middleware runs")
def _():
    s = run_without({"plugins": NAMED, "middleware": ["request-id", "auth"]},
                    {"auth": build("auth", middleware=True, routes=False), "request-id": "request-id"}, "auth")
    answer = s.get("/hello")
    is_refused(answer, "auth", "a route")
    ok(answer.header("X-Request-Id"), "outer middleware has run", answer.headers)
    is_(s.get("/nowhere").status, 503, "what has no route, too")
    is_(s.ops_get("/readyz").status, 503, "readyz fails")
    is_(s.ops_get("/livez").status, 200, "livez does not: a restart would not help")
    s.stop()


@case("reload --retry tries it again; when it crashes again the server goes without again")
def _():
    s = run_without({"plugins": {"bad": {"config": {"crash": True}}}}, {"bad": build("bad")}, "bad")
    mark = s.mark()
    try:
        s.reload(retry=True)
    except (OSError, HttpError):
        pass
    s.wait_event("restarted", 60, since=mark)

    def missing():
        try:
            return s.get("/bad").status == 503 and s.get("/hello").status == 200
        except (OSError, HttpError):
            return False
    wait_for(missing, 30, "without it again")
    is_refused(s.get("/bad"), "bad", "503 again")
    pid = s.pid
    os.kill(pid, signal.SIGKILL)

    def another():
        try:
            return s.pid != pid and s.get("/bad").status == 503
        except (OSError, HttpError):
            return False
    wait_for(another, 20, "another process")
    is_refused(s.get("/bad"), "bad", "after another crash: what it declared is still known")
    s.stop()


@case("a start of the supervisor with a quarantined file that nothing good is kept of: exit 1, as ever")
def _():
    s = run_without({"plugins": {"bad": {"config": {"crash": True}}}}, {"bad": build("bad")}, "bad")
    s.finish()
    os.unlink(s.log_path)
    s = Server([], s.config, dir=s.dir, wait=False)
    is_(s.wait_exit(), 1, "exit 1")
    s.config["plugins"]["bad"]["required"] = False
    s = Server([], s.config, dir=s.dir)
    is_((s.get("/bad").status, s.get("/hello").status), (404, 200), "not required: without it")
    s.stop()


main()
