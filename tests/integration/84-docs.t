#!/usr/bin/env python3
# What the README and the guides show works: C is served, configuration is taken, a first plugin is made as they say
import os
import re
import shutil
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from docblocks import ALL
from grafttest import *

if SANITIZER != "none":
    skip_all("it is about the docs: as good without a sanitizer")

NAMED = """#include <graft/graft.h>
static graft_next pass(graft_req *req, void *state) { (void)req; (void)state; return GRAFT_NEXT; }
GRAFT_PLUGIN(.name = "%s", .version = "1", .on_request = pass, )
"""


@case("each C and C++ block compiles, and serves where it is a whole plugin")
def _():
    shown = [block for block in ALL if block.language in ("c", "cpp")]
    ok(len(shown) >= 15, "blocks", len(shown))
    for where, language, text, _ in shown:
        try:
            made = compile_plugin(text, "-Wall", "-Werror", f"-I{SRCDIR}/sdk/harness", cxx=language == "cpp")
        except Failed as error:
            ok(False, f"{where}: compiles", error)
            continue
        ok(True, f"{where}: compiles")
        if "GRAFT_PLUGIN(" in text:  # else a part of one
            name = re.search(r'\.name\s*= "([^"]+)"', text)[1]
            s = Server({"shown": made}, workers=1)
            ok(s.active(name), f"{where}: {name} serves")
            s.stop()


def tried(text):
    """graftd -t with this configuration, or entry of one, and a plugin of each name that it has."""
    folder = tempdir()
    text = text if text.startswith("{") else "{" + text + "}"
    for name in set(re.findall(r'"(?!signatures")([a-z][a-z0-9-]*)": \{ "(?:mount|config|required|enabled|rollout)"', text)
                    + re.findall(r'"([a-z-]+)"', " ".join(re.findall(r'"middleware": \[(.*?)\]', text)))):
        shutil.copyfile(compile_plugin(NAMED % name), os.path.join(folder, name + ".so"))
    path = os.path.join(tempdir(), "graft.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return graftd("-t", "-c", path, "--plugins", folder)


@case("each block of JSON is a configuration, or an entry of one, that graftd -t takes")
def _():
    shown = [block for block in ALL if block.language == "json"]
    ok(len(shown) >= 5, "blocks", len(shown))
    for where, _, text, _ in shown:
        if '"signatures"' in text and not shutil.which("minisign"):
            skip("needs minisign", where)
            continue
        if '"signatures"' in text:  # its key is a file, which graftd -t reads
            key = os.path.join(tempdir(), "release.pub")
            subprocess.run(["minisign", "-G", "-W", "-p", key, "-s", key + ".key"], check=True, capture_output=True)
            os.chmod(key, 0o644)
            text = text.replace("/etc/graft/release.pub", key)
        run = tried(text)
        is_(run.returncode, 0, f"{where}: fit to start")
        diag(run.stdout + run.stderr) if run.returncode else None
    isnt(tried('"plugin": {}').returncode, 0, "what is not a configuration is refused")


main()
