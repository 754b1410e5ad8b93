"""What the tests of graftctl upgrade share, beside grafttest."""

import json
import os
import shutil

from grafttest import *  # noqa: F403
from grafttest import Failed, SCALE, GRAFTD
import grafttest

__all__ = ["Failed", "IDLE", "ms", "program", "server", "upgrade", "gone", "good", "bad", "exe"]

IDLE = {"drain": {"idle_ms": int(300 * SCALE)}}


def ms(n):
    return int(n * SCALE)


def program(name="graftd", source=GRAFTD, mode=0o700):
    """A copy of the program in a folder of its own."""
    path = os.path.join(tempdir(mode), name)
    shutil.copyfile(source, path)
    os.chmod(path, 0o755)
    return path


def server(plugins=("hello", "slow"), config=None, path=None, **more):
    """One that was started from `path`."""
    before = grafttest.GRAFTD
    grafttest.GRAFTD = path or before
    try:
        return Server(plugins, {**IDLE, **(config or {})}, **more)
    finally:
        grafttest.GRAFTD = before


def upgrade(s, *args):
    """graftctl upgrade --json: (exit status, answer)."""
    done = s.ctl("--json", "upgrade", *args, timeout=120)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def gone(pid):
    wait_for(lambda: not alive(pid), 40, f"process {pid} ends")


def good(s, *args):
    """An upgrade that succeeds: (old pid, new pid)."""
    old = s.pid
    status, answer = upgrade(s, *args)
    is_((status, answer.get("ok")), (0, True), f"upgraded {answer}")
    new = s.pid
    is_((answer["old"]["pid"], answer["new"]["pid"]), (old, new), "old and new process are named")
    ok(old != new, "another process serves")
    gone(old)
    wait_for(lambda: children(s.proc.pid) == [new], 10, "the old one is reaped")
    return old, new


def bad(s, pattern, *args, error="failed"):
    """One that is refused."""
    before, kids = s.pid, children(s.proc.pid)
    status, answer = upgrade(s, *args)
    is_((status, answer.get("ok"), answer.get("error")), (1, False, error), f"refused {answer}")
    like(answer.get("reason", ""), pattern, "with the reason")
    is_(s.pid, before, "the same process serves")
    wait_for(lambda: children(s.proc.pid) == kids, 20, "no other one stays")
    is_((s.get("/hello").status, s.ops_get("/readyz").status), (200, 200), "and is ready")


def exe(pid):
    return os.readlink(f"/proc/{pid}/exe")
