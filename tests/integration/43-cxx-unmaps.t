#!/usr/bin/env python3
# a plugin in C++ was never unmapped: libstdc++, loaded for it, was bound to its templates
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

USES_TEMPLATES = r"""
#include <graft/graft.h>
#include <map>
#include <string>
static std::map<int, std::string> texts;
static graft_next get(graft_req *req, void *)
{
    std::string text = graft_header(req, "X-Text").ptr ? "with " : "without ";
    text.insert(0, 40, '*').append(std::to_string(graft_response_status(req)));
    return graft_text(req, 200, (texts[1] = text).c_str());
}
static const graft_route routes[] = { { "GET", "/templates", get, 0 }, {} };
GRAFT_PLUGIN(.name = "templates", .version = "1", .routes = routes)
"""


@case("each version is unmapped, the one that brought libstdc++ too")
def _():
    so = compile_plugin(USES_TEMPLATES, cxx=True)
    s = Server({"templates": so}, {"supervise": False})
    ok(s.maps("libstdc++"), "libstdc++ came with the plugin")
    for _ in range(3):
        like(s.get("/templates").text, r"^\*{40}without 200$", "it serves")
        old = s.active("templates")["id"]
        s.install(make_unique(so), "templates")
        ok(s.reload()["ok"], "swapped")
        s.wait_event("retired", id=old, unmapped=True)
        is_(s.maps(old), [], f"{old} is unmapped")
    is_(s.find_events("stuck"), [], "nothing is stuck")


main()
