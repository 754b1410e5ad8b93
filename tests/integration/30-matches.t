#!/usr/bin/env python3
# routes[].match: middleware for some paths and methods
import os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

MARK = r"""
#include <graft/graft.h>
/* Says in X-Chain that it ran, in the order of on_request. */
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    graft_add_header(req, "X-Chain", NAME);
    graft_str deny = graft_query(req, "deny");
    return deny.len == 1 && deny.ptr[0] == NAME[0] ? graft_text(req, 401, NAME) : GRAFT_NEXT;
}
GRAFT_PLUGIN(.name = NAME, .version = "1", .on_request = on_request)
"""

WEB = r"""
#include <graft/graft.h>
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    graft_str pattern = graft_route_pattern(req), a = graft_param(req, "a"), rest = graft_param(req, "rest");
    graft_printf(req, NAME " %.*s a=%.*s rest=%.*s", (int)pattern.len, pattern.ptr, (int)a.len, a.ptr, (int)rest.len, rest.ptr);
    return GRAFT_DONE;
}
GRAFT_PLUGIN(.name = NAME, .version = "1",
             .routes = (const graft_route[]){ { "GET", "/" PREFIX "/list", handler, 0 }, { "POST", "/" PREFIX "/list", handler, 0 },
                                              { NULL, "/" PREFIX "/any", handler, 0 },
                                              { "GET", "/" PREFIX "/item/:a", handler, 0 },
                                              { NULL, "/" PREFIX "/files/" "*rest", handler, 0 },
                                              ALL { 0 } })
"""


def mark(name):
    return compile_plugin(MARK, f'-DNAME="{name}"')


def web(name, prefix, catch_all=False):
    return compile_plugin(WEB, f'-DNAME="{name}"', f'-DPREFIX="{prefix}"',
                          '-DALL={NULL,"/*rest",handler,0},' if catch_all else "-DALL=")


def server(routes, middleware=(), plugins=None, catch_all=True):
    return Server({**{n: mark(n) for n in "abcd"}, "web": web("web", "w", catch_all), **(plugins or {})},
                  config={"routes": routes, "middleware": list(middleware), "drain": {"idle_ms": 20}}, workers=1)


def chain(s, target, method="GET"):
    answer = s.request(method, target)
    return (answer.header("X-Chain") or "").replace(", ", ""), answer.status


@case("paths")
def _():
    s = server([{"match": "/w/files/secret/*", "middleware": ["a"]}, {"match": "/w/item/:x", "middleware": ["b"]},
                {"match": "/admin/*", "middleware": ["c"]}])
    is_(chain(s, "/w/list"), ("", 200), "a path that no match covers")
    is_(chain(s, "/w/files/x"), ("", 200), "a match narrower than a route: outside it the same handler")
    is_(chain(s, "/w/files/secret/x"), ("a", 200), "inside it, behind the middleware")
    is_(s.get("/w/files/secret/x/y").body, b"web /w/files/*rest a= rest=secret/x/y", "with the route's own parameters")
    is_(chain(s, "/w/item/7"), ("b", 200), "a match as wide as the route")
    is_(chain(s, "/admin/x"), ("c", 200), "/admin/* covers /admin/x also under a plugin's /*rest")
    is_(chain(s, "/admin/x", "DELETE"), ("c", 200), "for every method")
    is_(s.get("/admin/x/y").body, b"web /*rest a= rest=admin/x/y", "served by the handler of /*rest")
    for target in ("/admin/%78", "//admin/x", "/./admin/x", "/x/../admin/x", "/%61dmin/x", "/admin/../admin/./x", "/admin//x"):
        found, status = chain(s, target)
        ok(found == "c" or status >= 400 or s.get(target).body.find(b"rest=admin/") < 0,
           f"no path escapes: {target}", (found, status, s.get(target).body))
    is_(chain(s, "/administrator"), ("", 200), "a prefix ends at a segment")
    is_(chain(s, "/admin/x?deny=c"), ("c", 401), "which may refuse")


@case("methods")
def _():
    s = server([{"match": "GET /w/list", "middleware": ["a"]}, {"match": "POST /w/any", "middleware": ["b"]},
                {"match": "GET /w/any", "middleware": ["c"]}, {"match": "DELETE /*", "middleware": ["d"]}])
    is_(chain(s, "/w/list"), ("a", 200), "GET /w/list")
    is_(chain(s, "/w/list", "POST"), ("", 200), "not POST")
    is_(chain(s, "/w/list", "HEAD"), ("a", 200), "GET covers HEAD")
    is_(chain(s, "/w/any", "POST"), ("b", 200), "one method of a route for every method")
    is_(chain(s, "/w/any", "HEAD"), ("c", 200), "GET covers HEAD there too")
    is_(chain(s, "/w/any", "PUT"), ("", 200), "another is not covered")
    is_(chain(s, "/w/any", "DELETE"), ("d", 200), "DELETE /*")
    is_(chain(s, "/x/y", "DELETE"), ("d", 200), "anywhere")
    s = server([{"match": "HEAD /w/list", "middleware": ["a"]}])
    is_((chain(s, "/w/list"), chain(s, "/w/list", "HEAD")), (("", 200), ("a", 200)), "HEAD alone")


@case("of one plugin")
def _():
    s = server([{"match": "/*", "middleware": ["a"], "plugin": "other"}, {"match": "/*", "middleware": ["b"]}],
               plugins={"other": web("other", "o")})
    is_(chain(s, "/o/list"), ("ab", 200), "with `plugin` only where that plugin's handler serves")
    is_(chain(s, "/w/list"), ("b", 200), "not where another's does")


@case("several add up")
def _():
    s = server([{"match": "/w/*", "middleware": ["b"]}, {"match": "/w/files/*", "middleware": ["a", "c"]},
                {"match": "GET /w/files/x", "middleware": ["d"]}], middleware=["c"])
    is_(chain(s, "/w/files/x"), ("cbad", 200), "in file order, inside the global middleware; one named twice runs once, outermost")
    is_(chain(s, "/w/files/y"), ("cba", 200), "a narrower one left out")
    is_(chain(s, "/w/list"), ("cb", 200), "and the next")
    is_(chain(s, "/x"), ("c", 200), "the global one everywhere")
    s = server([{"match": "/w/*", "middleware": ["a", "a", "b"]}, {"match": "/*", "middleware": ["b", "a"]}])
    is_(chain(s, "/w/list"), ("ab", 200), "a plugin named twice runs once, at its outermost place")
    is_(chain(s, "/x"), ("ba", 200), "which depends on the path")


@case("where no route is")
def _():
    s = server([{"match": "/w/*", "middleware": ["a"]}, {"match": "/none/*", "middleware": ["b"]},
                {"match": "GET /w/list", "middleware": ["d"]}], middleware=["c"], catch_all=False)
    for target, expected in (("/w/none", "ca"), ("/none/x", "cb"), ("/else", "c")):
        is_(chain(s, target), (expected, 404), f"404 under a match runs its middleware: {target}")
    is_(chain(s, "/none/x?deny=b"), ("cb", 401), "so that auth answers before 404 tells what exists")
    is_(chain(s, "/w/list", "PUT"), ("ca", 405), "405 too, for what covers path and method")
    warned = [e for e in s.log() if e["level"] == "warn" and "/none/*" in e["msg"]]
    ok(warned, "a match that covers no route is a warning")
    ok(not [e for e in s.log() if e["level"] == "warn" and "/w/" in e["msg"]], "others are not")


@case("routes shows the chains")
def _():
    s = server([{"match": "/w/files/secret/*", "middleware": ["a"]}, {"match": "GET /w/list", "middleware": ["b"]}], middleware=["c"])
    rows = {(r["method"], r["pattern"]): r["chain"] for r in s.routes()}
    is_(rows.get(("GET", "/w/list")), ["c", "b", "web"], "graftctl routes: the chain of a route")
    is_(rows.get(("POST", "/w/list")), ["c", "web"], "of another method")
    ok(any("secret" in pattern and found == ["c", "a", "web"] for (_, pattern), found in rows.items()),
       "where a match is narrower than a route, a route of its own", rows)


@case("changed by a reload")
def _():
    s = server([{"match": "/w/*", "middleware": ["a"]}])
    before = s.active("web")["id"]
    is_(chain(s, "/w/list"), ("a", 200), "before")
    s.config["routes"] = [{"match": "/w/*", "middleware": ["b"]}]
    ok(s.reload(config=True)["ok"], "reload --config")
    is_(chain(s, "/w/list"), ("b", 200), "after")
    is_(s.active("web")["id"], before, "with the same versions")
    s.config["routes"] = [{"match": "/w/*", "middleware": ["nobody"]}]
    ok(not s.reload(config=True)["ok"], "a middleware that is not there: refused")
    is_(chain(s, "/w/list"), ("b", 200), "and nothing changes")
    for bad in ("w/list", "GET", "GE T /x", "/a/*rest/b", ""):
        s.config["routes"] = [{"match": bad, "middleware": ["a"]}]
        ok(not s.reload(config=True)["ok"], f"a match that is none: {bad!r}")
    s.config["routes"] = [{"match": "/w/*", "middleware": ["a"]}]
    s.config["plugins"] = {"web": {"mount": "/m"}}
    ok(s.reload(config=True)["ok"], "a mount")
    is_(chain(s, "/m/w/list"), ("", 200), "moves its routes: a match speaks of paths as they are requested")
    is_(chain(s, "/w/list"), ("a", 404), "and covers what is there now")


main()
