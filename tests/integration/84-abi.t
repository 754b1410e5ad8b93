#!/usr/bin/env python3
# The contract in bytes: today's header against every one that was released (tests/abi)
import glob
import os
import re
import shutil
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

if SANITIZER != "none":
    skip_all("compiles only: as good without a sanitizer")
if not shutil.which("abidiff"):
    skip_all("needs abidiff: Debian's abigail-tools")

TODAY = os.path.join(SRCDIR, "sdk/include/graft/graft.h")
RELEASED = sorted(glob.glob(os.path.join(SRCDIR, "tests/abi/1.*/graft/graft.h")),
                  key=lambda path: int(path.split("/")[-3].split(".")[1]))

# One function that takes all there is: abidiff looks at what can be reached from an exported name.
USES_ALL = """#include <graft/graft.h>
__attribute__((visibility("default"))) int all(graft_host *host, graft_plugin *plugin, graft_route *route, graft_req *req,
                                               graft_self *self, graft_metric *metric, graft_str str, graft_next next);
int all(graft_host *host, graft_plugin *plugin, graft_route *route, graft_req *req, graft_self *self, graft_metric *metric,
        graft_str str, graft_next next)
{
    return host && plugin && route && req && self && metric && str.len && next;
}
"""

def minor_of(header):
    with open(header, encoding="utf-8") as file:
        return int(re.search(r"^#define GRAFT_MINOR (\d+)$", file.read(), re.M)[1])


def compiled(header):
    """A shared object in whose debug information every type of this header is."""
    folder = tempdir()
    source, out = os.path.join(folder, "all.c"), os.path.join(folder, "all.so")
    with open(source, "w", encoding="ascii") as file:
        file.write(USES_ALL)
    subprocess.run([*ENV["TEST_CC"].split(), "-g", "-O0", "-shared", "-fPIC", "-fvisibility=hidden",
                    f"-I{os.path.dirname(os.path.dirname(header))}", "-o", out, source], check=True)
    return out


def numbers(header):
    """What the preprocessor and the compiler know by name and no debug information tells."""
    said = subprocess.run([*ENV["TEST_CC"].split(), "-dM", "-E", header], check=True,
                          capture_output=True, text=True).stdout
    found = dict(re.findall(r"^#define (GRAFT_[A-Z_]+) +(\d+)u?$", said, re.M))
    with open(header, encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
    found.update(re.findall(r"\b(GRAFT_[A-Z]+) =\s+(\d+)", text))
    found.pop("GRAFT_MINOR", None)
    return found


def differs(released, today):
    """What abidiff finds that may not be; none when nothing. Another minor's structs may be longer."""
    done = subprocess.run(["abidiff", "--leaf-changes-only", "--harmless", "--no-show-locs", compiled(released), compiled(today)],
                          capture_output=True, text=True, check=False)
    if done.returncode & 3:
        raise Failed(f"abidiff failed: {done.stdout}{done.stderr}")
    lines = done.stdout.splitlines() if done.returncode else []
    if minor_of(released) == minor_of(today):
        return lines
    wrong, size = [], 0
    for line in lines:
        grown = re.fullmatch(r"  type size changed from (\d+) to \d+ \(in bits\)", line)
        added = re.fullmatch(r"    '.*', at offset (\d+) \(in bits\)", line)
        if grown:
            size = int(grown[1])
        elif not (added and int(added[1]) >= size) and not re.fullmatch(
                r"|Leaf changes summary: .*|(Changed leaf types|Removed/Changed/Added (functions|variables)) summary: .*"
                r"|'struct \w+' changed:|  \d+ data member insertions?:", line):
            wrong.append(line)
    return wrong


@case("every minor that there is was kept, and today's header is one contract with each")
def _():
    is_([minor_of(header) for header in RELEASED], list(range(minor_of(TODAY) + 1)), "a header for every minor up to today's")
    for header in RELEASED:
        name = "1." + str(minor_of(header))
        is_(differs(header, TODAY), [], f"{name}: no type has changed but at its end")
        old, new = numbers(header), numbers(TODAY)
        ok(len(old) > 8, f"{name}: it has numbers", old)
        is_({key: new.get(key) for key in old}, old, f"{name}: no number has changed")


@case("what breaks plugins is found")
def _():
    with open(TODAY, encoding="utf-8") as file:
        text = file.read()
    minor = minor_of(TODAY)
    for name, before, after in (
            ("a member of a struct between others", "    const char *version;", "    const char *author;\n    const char *version;"),
            ("members that change places", "    const char *version; /* free text, for people */\n    const char *summary; /* one line, for people */",
             "    const char *summary;\n    const char *version;"),
            ("a member that is wider", "    size_t scratch_size;", "    long double scratch_size;"),
            ("a function of the table that takes more", "(*status)(graft_req *req, int code)", "(*status)(graft_req *req, int code, int why)"),
            ("a function of the table that returns something else", "    int (*flush)(graft_req *req);", "    void (*flush)(graft_req *req);"),
            ("a function that is gone", "    bool (*is_tls)(const graft_req *req); ", ""),
            ("another order of what a handler answers", "GRAFT_LATER = 2,", "GRAFT_LATER = 4,")):
        broken = os.path.join(tempdir(), "graft", "graft.h")
        os.mkdir(os.path.dirname(broken))
        for bumped in (minor, minor + 1):
            with open(broken, "w", encoding="utf-8") as file:
                changed = text.replace(before, after, 1).replace(f"#define GRAFT_MINOR {minor}", f"#define GRAFT_MINOR {bumped}")
                # the wrappers are not looked at, and would not compile
                file.write(re.sub(r"^static inline .*?^}$|^GRAFT_PRINTF_\(\d, \d\) static inline .*?^}$", "", changed, flags=re.S | re.M))
            if bumped == minor:
                ok(before in text, f"{name}: the header has what is to be changed")
            isnt(differs(RELEASED[-1], broken), [], f"{name}: found" + (", also in another minor" if bumped != minor else ""))
    broken = os.path.join(tempdir(), "graft.h")
    with open(broken, "w", encoding="utf-8") as file:
        file.write(text.replace("#define GRAFT_NEED_BODY 2u", "#define GRAFT_NEED_BODY 4u"))
    isnt(numbers(broken), numbers(TODAY), "a flag with another value: found")


@case("a member at the end: only with another minor")
def _():
    with open(TODAY, encoding="utf-8") as file:
        text = file.read()
    for bump, found in ((0, True), (1, False)):
        longer = os.path.join(tempdir(), "graft", "graft.h")
        os.mkdir(os.path.dirname(longer))
        with open(longer, "w", encoding="utf-8") as file:
            file.write(text.replace("} graft_plugin;", "    int (*more)(graft_self *self);\n} graft_plugin;")
                       .replace(f"#define GRAFT_MINOR {minor_of(TODAY)}", f"#define GRAFT_MINOR {minor_of(TODAY) + bump}"))
        is_(differs(RELEASED[-1], longer) != [], found, f"GRAFT_MINOR raised by {bump}")


main()
