#!/usr/bin/env python3
# The man pages name every key, variable, flag, command and event that the programs know.
import os
import re
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *


def page(name):
    with open(os.path.join(SRCDIR, "docs", name)) as f:
        return f.read().replace("\\-", "-")


def out(*args):
    return subprocess.run(args, capture_output=True, text=True).stdout


@case("graft.json.5")
def _():
    text, help_ = page("graft.json.5"), out(GRAFTD, "-h")
    keys = re.findall(r"^  ([a-z_]+(?:\.[a-z_]+)?): ", help_, re.M)
    ok(len(keys) > 30, "graftd -h lists the keys")
    missing = [k for k in keys if f"\\fB{k}\\fP" not in text]
    is_(missing, [], "every key has its place")
    extra = [k for k in re.findall(r"\\fB([a-z_]+(?:\.[a-z_]+)?)\\fP", text) if k not in keys]
    is_(extra, [], "and no key is there that graftd does not know")
    variables = set(re.findall(r"GRAFT_[A-Z_]+", help_))
    is_(sorted(v for v in variables if v not in text), [], "every variable is named")


@case("graftd.8")
def _():
    text, help_ = page("graftd.8"), out(GRAFTD, "-h")
    flags = set(re.findall(r"(?<!\S)(--[a-z]+)", help_))
    ok(len(flags) >= 9, "graftd -h lists the flags")
    is_(sorted(f for f in flags if f not in text), [], "every flag is named")
    for path in ("/livez", "/readyz", "/startupz", "/metrics", "/status"):
        ok(f".I {path}\n" in text, f"{path} is explained")
    for signo in ("USR2", "HUP", "TERM", "INT", "QUIT", "USR1"):
        ok("SIG" + signo in text, f"SIG{signo} is explained")


def events():
    """The names of all log events, as the server's source has them."""
    names = {"ops", "control", "request_failed", "cut"}  # chosen at run time
    for folder, _, files in os.walk(os.path.join(SRCDIR, "server")):
        for name in files:
            if name.endswith(".c"):
                with open(os.path.join(folder, name)) as f:
                    names |= set(re.findall(r'log_(?:msg|begin)\((?:\s*&?[\w.>-]+,)?\s*[^,"]+,\s*"(\w+)"', f.read()))
    return names


@case("the log's events")
def _():
    names = events()
    ok(len(names) > 20 and {"listening", "swap", "watch", "drain_end"} <= names, "the source names events", sorted(names))
    for name, form in (("graftd.8", r"^\.BR? %s\b"), ("OPERATIONS.md", "^\\|[^|]*`%s`")):
        text = page(name)
        is_(sorted(n for n in names if not re.search(form % n, text, re.M)), [], f"{name} has each")


@case("graftctl.1")
def _():
    text, help_ = page("graftctl.1"), out(GRAFTCTL, "--help")
    commands = re.findall(r"^  ([a-z]+)(?: [A-Z@.a-z]+)?  ", help_.split("\noptions:")[0], re.M)
    ok(len(commands) >= 8, "graftctl --help lists the commands")
    missing = [c for c in commands if not re.search(rf"^\.BR?I? {c}\b", text, re.M)]
    is_(missing, [], "every command is explained")
    is_(sorted(f for f in set(re.findall(r"--[a-z-]+", help_)) if f not in text), [], "every flag is named")


@case("they are formatted without complaint")
def _():
    for name in ("graftd.8", "graftctl.1", "graft.json.5"):
        try:
            run = subprocess.run(["man", "--warnings", "-l", os.path.join(SRCDIR, "docs", name)], capture_output=True,
                                 text=True, env={**os.environ, "MANPAGER": "cat", "LC_ALL": "C.UTF-8"})
        except FileNotFoundError:
            skip("man is not installed", name)
            continue
        is_((run.returncode, run.stderr), (0, ""), name)


main()
