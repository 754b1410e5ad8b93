#!/usr/bin/env python3
# The SDK's reference: all that is public is on the page that is made from the header's comments
import importlib.util
import os
import re
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *
from htmlpage import Page

if SANITIZER != "none":
    skip_all("reads text only: as good without a sanitizer")

HEADER = os.path.join(SRCDIR, "sdk/include/graft/graft.h")
MAKER = os.path.join(SRCDIR, "docs/site/sdk_reference.py")
SPEC = importlib.util.spec_from_file_location("sdk_reference", MAKER)
MAKE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MAKE)


def made(text):
    path = os.path.join(tempdir(), "graft.h")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return subprocess.run([sys.executable, MAKER, path], capture_output=True, text=True, check=False)


def header():
    with open(HEADER, encoding="utf-8") as file:
        return file.read()


def public():
    """The header's public names, found in another way than the page's maker finds them. The server's side of the
    table is checked by the compiler: each wrapper calls its member."""
    code = re.sub(r"/\*.*?\*/", "", header(), flags=re.S)
    names = set(re.findall(r"static inline [^;{]*?\b(graft_\w+)\(", code))
    names |= set(re.findall(r"^typedef (?:struct|enum) (graft_\w+) \{", code, re.M)) | {"graft_host", "graft_handler"}
    return names | {name for name in re.findall(r"^#define (GRAFT_\w+)[( ]", code, re.M)
                    if not name.endswith("_")}


@case("the page has all that is public, and only links that lead somewhere")
def _():
    run = made(header())
    is_((run.returncode, run.stderr), (0, ""), "it is made")
    page = Page(run.stdout)
    is_((page.bad, page.loads), ([], []), "every element is closed, and nothing is loaded from elsewhere")
    is_(len(page.ids), len(set(page.ids)), "no place is there twice")
    is_([link for link in page.links if link[:1] != "#" or link[1:] not in page.ids], [], "every link leads to a place")
    names = public()
    ok(len(names) > 70, "the header has public names", len(names))
    is_(sorted(names - set(page.ids)), [], "each has its place")
    for line in re.findall(r"^    (?:\w+ )*\w+ \*?\(\*(\w+)\)\(", header(), re.M):
        ok(re.search(rf"\(\*{line}\)", run.stdout), f"{line}: a member that is a function")


@case("what has no comment is found, each by itself")
def _():
    text = header()
    is_(MAKE.complaints(MAKE.parse(text)), [], "nothing to complain of")
    functions = re.findall(r"\n\n(/\*(?:(?!\*/).)*?\*/\n)((?:GRAFT_PRINTF_\(\d, \d\) )?static inline [^;{]*?\b(graft_\w+)\()", text, re.S)
    ok(len(functions) > 55, "functions with a comment", len(functions))
    missed = [name for comment, code, name in functions
              if MAKE.complaints(MAKE.parse(text.replace(comment + code, code, 1))) != [f"{name}: no comment"]]
    is_(missed, [], "a function's comment that is gone is missed, and nothing else")
    silent = [name for comment, code, name in functions
              if not any(name in line and "on which threads" in line for line in MAKE.complaints(MAKE.parse(
                  text.replace(comment + code, re.sub(r"\[\w+\]", "", comment) + code, 1))))]
    is_(silent, [], "so is one that does not say the threads")


@case("a new function, member, type or value without a comment is refused by name")
def _():
    for name, before, added in (
            ("graft_new", "/* Wrappers of later minors", "static inline int graft_new(graft_req *req)\n{\n    return !req;\n}\n\n"),
            ("graft_plugin.more", "} graft_plugin;", "\n    int (*more)(graft_self *self);\n"),
            ("graft_host.more", "\n    /* GRAFT_MINOR 1 ends here. */", "    int (*more)(graft_self *self);\n"),
            ("graft_route.more", "} graft_route;", "    unsigned more;\n"),
            ("graft_next.GRAFT_MORE", "    GRAFT_ERROR = 3", "    GRAFT_MORE = 4,\n"),
            ("graft_thing", "/* What a plugin serves", "typedef struct graft_thing {\n    int a; /* a */\n} graft_thing;\n\n"),
            ("GRAFT_MORE", "/* graft_plugin.flags */", "#define GRAFT_MORE 8u\n\n")):
        text = header()
        ok(before in text, f"{name}: there is a place for it")
        run = made(text.replace(before, added + before, 1))
        is_((run.returncode, run.stdout), (1, ""), f"{name}: no page")
        like(run.stderr, rf"graft\.h: {re.escape(name)}: no comment\n", f"{name}: named")


main()
