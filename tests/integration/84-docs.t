#!/usr/bin/env python3
# What the README and the guides show works: C is served, configuration is taken, a first plugin is made as they say
import glob
import os
import re
import shutil
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

if SANITIZER != "none":
    skip_all("it is about the docs: as good without a sanitizer")

PAGES = [os.path.join(SRCDIR, "README.md"), *sorted(glob.glob(os.path.join(SRCDIR, "docs/*.md")))]


def blocks(path):
    """Its code blocks: (page:line, language or "", text). One is fenced, or four columns in after an empty line."""
    with open(path, encoding="utf-8") as file:
        lines = [*file.read().split("\n"), ""]
    found, at = [], 0
    while at < len(lines):
        begin, language, taken = at, lines[at][3:], []
        if lines[at].startswith("```"):
            at += 1
            while lines[at] != "```":
                taken.append(lines[at])
                at += 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1]):
            language = ""
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at]):
                taken.append(lines[at][4:])
                at += 1
            at -= 1
        if taken:
            found.append((f"{os.path.basename(path)}:{begin + 1}", language, "\n".join(taken).strip("\n") + "\n"))
        at += 1
    return found


def kind(language, text):
    if language:
        return language
    if "#include <graft/" in text:
        return "c"
    if text.startswith('{"level"'):
        return "log"  # a line of it, folded
    return "json" if re.match(r'\{|"[a-z_]+": ', text) else ""


ALL = [(where, kind(language, text), text) for path in PAGES for where, language, text in blocks(path)]
NAMED = """#include <graft/graft.h>
static graft_next pass(graft_req *req, void *state) { (void)req; (void)state; return GRAFT_NEXT; }
GRAFT_PLUGIN(.name = "%s", .version = "1", .on_request = pass, )
"""


@case("each C and C++ block compiles, and serves where it is a whole plugin")
def _():
    shown = [block for block in ALL if block[1] in ("c", "cpp")]
    ok(len(shown) >= 15, "blocks", len(shown))
    for where, language, text in shown:
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
    shown = [block for block in ALL if block[1] == "json"]
    ok(len(shown) >= 5, "blocks", len(shown))
    for where, _, text in shown:
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


def made_as_shown(page):
    """The first plugin of a page: its source is saved, and the lines after it are run in a shell as they are there,
    but for where the server of this test has its folder, its address and its control socket."""
    here = [block for block in ALL if block[0].startswith(page + ":")]
    first = next(i for i, block in enumerate(here) if block[1] == "c")
    commands = next(block for block in here[first:] if block[2].startswith("cc "))
    is_([commands[2].count(word) for word in ("graftctl reload", "curl http://127.0.0.1:8080/hello")], [1, 1],
        f"{commands[0]}: builds, swaps and asks")
    s, folder = Server({}), tempdir()
    text = commands[2]
    for shown, mine in (("/usr/local/lib/graft/plugins", s.plugin_dir), ("127.0.0.1:8080", f"127.0.0.1:{s.port}"),
                        ('"$(pkg-config --variable=plugindir graft)"', s.plugin_dir)):
        text = text.replace(shown, mine)
    os.symlink(GRAFTCTL, os.path.join(folder, "graftctl"))
    env = {**ENV, "PATH": folder + ":" + ENV["PATH"], "GRAFT_CONTROL": s.control}
    for answer in ("hello, world", "hello again"):
        with open(os.path.join(folder, "hello.c"), "w", encoding="utf-8") as file:
            file.write(here[first][2].replace("hello, world", answer))
        run = subprocess.run(["sh", "-euc", text], cwd=folder, env=env, capture_output=True, text=True, timeout=secs(60), check=False)
        is_((run.returncode, run.stdout.splitlines()[-1:]), (0, [answer]), f"{commands[0]}: {answer}")
        diag(run.stdout + run.stderr) if run.returncode else None
    s.finish()


@case("a first plugin, as the README and the guide say")
def _():
    made_as_shown("README.md")
    made_as_shown("PLUGIN-GUIDE.md")
    rest = [where for where, language, _ in ALL if language not in ("c", "cpp", "json")]
    diag(f"blocks that this test does not run, but for the two above: {len(rest)}: {' '.join(rest)}")


main()
