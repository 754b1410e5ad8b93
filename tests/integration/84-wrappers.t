#!/usr/bin/env python3
# What graft.h has, graft.hpp and the Rust crate have too, or it stands here why not
import glob
import os
import re
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

if SANITIZER != "none":
    skip_all("reads text only: as good without a sanitizer")

# Not wrapped, and why. What the two lists name must be in graft.h, and must not be wrapped.
NOT_IN_CXX = {
    "graft_printf": "std::string and write() do it; a format that is passed on cannot be checked by the compiler",
}
NOT_IN_RUST = {
    "vprintf": "write!(req, ...) formats in Rust, which cannot make a va_list",
}
RENAMED = {"loop": "event_loop"}  # a word of Rust's


def text(path):
    """Of a source, without its comments."""
    with open(os.path.join(SRCDIR, "sdk", path), encoding="utf-8") as f:
        return re.sub(r"/\*.*?\*/|^\s*//.*?$", "", f.read(), flags=re.S | re.M)


def functions():
    return re.findall(r"static inline [^;{]*?\b(graft_\w+)\(", text("include/graft/graft.h"))


def members(begin):
    """Those that are functions."""
    body = text("include/graft/graft.h").split(begin)[1].split("\n}")[0]
    found = [re.search(r"\(\*(\w+)\)\(|graft_handler \*(\w+)$", member) for member in body.split(";")]
    return [name[1] or name[2] for name in found if name]


def unwrapped(names, pattern, code):
    return {name for name in names if not re.search(pattern % re.escape(RENAMED.get(name, name)), code)}


def rust():
    files = sorted(glob.glob(os.path.join(SRCDIR, "sdk/rust/graft/src/*.rs")))
    return "".join(text(file) for file in files if not file.endswith("/sys.rs"))


@case("each function of graft.h is called by graft.hpp")
def _():
    ok(len(functions()) > 60, "graft.h has functions", len(functions()))
    is_(unwrapped(functions(), r"\b%s\(", text("include/graft/graft.hpp")), set(NOT_IN_CXX),
        "those that are not, with a reason in this file")


@case("each function of the host's table is called by the Rust crate")
def _():
    table = members("struct graft_host {")
    ok(len(table) > 60, "the table has functions", len(table))
    is_(unwrapped(table, r"\.%s\)\(", rust()), set(NOT_IN_RUST), "those that are not, with a reason in this file")


@case("each callback of a plugin can be written with both")
def _():
    callbacks = members("typedef struct graft_plugin {")
    ok(len(callbacks) >= 13, "a plugin has callbacks", callbacks)
    is_(unwrapped(callbacks, r"(?:\b|plugin\.)%s(?:: Some\(| = Some\()", rust()), set(), "the crate fills them in")
    with open(os.path.join(SRCDIR, "sdk/include/graft/graft.hpp"), encoding="utf-8") as f:
        is_(unwrapped(callbacks, r"[/,] \.%s\b", f.read().replace("/*", "/")), set(), "graft.hpp says with which template")


@case("a function that is new in graft.h is missed")
def _():
    for names, pattern, code, exceptions in ((functions(), r"\b%s\(", text("include/graft/graft.hpp"), NOT_IN_CXX),
                                             (members("struct graft_host {"), r"\.%s\)\(", rust(), NOT_IN_RUST)):
        is_(unwrapped([*names, "graft_new"], pattern, code) - set(exceptions), {"graft_new"}, "it is named")


main()
