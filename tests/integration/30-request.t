#!/usr/bin/env python3
# The request: what the getters say
import os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

NO_ROUTE = r"""
#include "contract.h"
/* Middleware that answers for paths without a route: what is known of such a request. */
static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    graft_str pattern = graft_route_pattern(req), path = graft_path(req), x = graft_param(req, "x");
    if (pattern.ptr)
        return GRAFT_NEXT;
    graft_printf(req, "none pattern=%s param=%s path=%.*s\n", pattern.ptr ? "there" : "absent", x.ptr ? "there" : "absent",
                 (int)path.len, path.ptr);
    return GRAFT_DONE;
}
GRAFT_PLUGIN(.name = "no-route", .version = "1", .on_request = on_request)
"""


def server(*plugins, **more):
    return Server(list(plugins), config={"drain": {"idle_ms": 20}}, workers=1, **more)


@case("getters")
def _():
    s = server("self_info")
    with s.connect() as c:
        port = c.sock.getsockname()[1]

        def info(target="/info", method="GET", headers=(), **more):
            return c.request(method, target, headers, **more).json()
        found = info("/info?a=1&q=x%20y+z&q=second")
        is_((found["method"], found["path"], found["target"]), ("GET", "/info", "/info?a=1&q=x%20y+z&q=second"),
            "graft_method, graft_path, graft_target: as sent")
        is_(found["q"], "x y z", "graft_query: decoded; the first of that name")
        is_(info("/info?q=")["q"], "", "an empty value is one")
        is_(info("/info?Q=1")["q"], None, "absent: {NULL,0}; names are case-sensitive")
        is_(info("/info?%71=1")["q"], "1", "names are decoded too")
        for method in ("POST", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
            is_(info(method=method)["method"], method, f"graft_method: {method}")
        is_(found["peer"], f"127.0.0.1:{port}", "graft_peer")
        is_(found["tls"], False, "graft_is_tls")
        is_(found["route_pattern"], "/info", "graft_route_pattern")
        ids = [info()["request_id"] for _ in range(50)]
        is_((len(set(ids)), {len(i) for i in ids}), (50, {32}), "graft_request_id: another for each request")
        found = info("/info?header=x-many", headers=[("X-Many", "one"), ("X-Other", "o"), ("x-MANY", "two"), ("X-Many", "three")])
        is_(found["header"], "one, two, three", "graft_header: case-insensitive; several fields joined by \", \"")
        is_([n for n, _ in found["headers"]], ["Host", "X-Many", "X-Other", "x-MANY", "X-Many"], "graft_header_at: each, in order")
        is_(found["past_last"], False, "false past the last")
        is_(info("/info?header=x-none")["header"], None, "a field that is not there is absent")
        is_(info("/info?header=x-empty", headers={"X-Empty": ""})["header"], "", "an empty one is not")
        is_(info("/info", "POST", body=b"a\0b")["body"], "a\0b", "graft_body: the whole body, any bytes")


@case("paths")
def _():
    s = server("self_info", "router")
    with s.connect() as c:
        def info(target):
            return c.get(target).json()
        found = info("/info/a%2Fb/x/c%2Fd/e%20f")
        is_(found["path"], "/info/a%2Fb/x/c%2Fd/e f", 'graft_path: percent-decoded; "%2F" stays encoded')
        is_(found["a"], "a/b", "decoded only inside a :param")
        is_(found["rest"], "c%2Fd/e f", "not in a *rest")
        is_(info("/info/./a/../b/x/y/%2e%2e/z")["path"], "/info/b/x/z", "dot segments removed, also encoded ones")
        is_(info("/info/a/x/b/?x")["rest"], "b/", "*rest: all that follows")
        for target, expected in (("/r/a/b", "GET /r/a/b x=- rest=-"), ("/r/a/z", "GET /r/a/:x x=z rest=-"),
                                 ("/r/a/z/d", "GET /r/a/:x/d x=z rest=-"), ("/r/a/b/c", "GET /r/:x/b/c x=a rest=-"),
                                 ("/r/files/x/y", "GET /r/files/*rest x=- rest=x/y")):
            is_(c.get(target).text.strip(), expected, f"literal beats :param beats *rest, with backtracking: {target}")
        is_(c.request("HEAD", "/r/a/b").status, 200, "GET also serves HEAD")
        is_(c.get("/r/a").status, 404, "a :param is one segment")


@case("without a route")
def _():
    s = Server({"no_route": compile_plugin(NO_ROUTE, f"-I{SRCDIR}/tests/plugins"), "router": "router"},
               config={"middleware": ["no-route"], "drain": {"idle_ms": 20}})
    is_(s.get("/none/%78").body, b"none pattern=absent param=absent path=/none/x\n", "graft_route_pattern is absent on 404")
    is_(s.get("/r/a/q").status, 200, "and there where a route is")


@case("peers")
def _():
    path = os.path.join(tempdir(), "s")
    s = server("self_info", listen=("127.0.0.1:0", "unix:" + path, "[::1]:0"))
    is_(Conn(path).get("/info").json()["peer"], "unix", 'graft_peer: "unix"')
    with Conn(s.addresses()[2]) as c:
        is_(c.get("/info").json()["peer"], f"[::1]:{c.sock.getsockname()[1]}", "[v6]:port")


main()
