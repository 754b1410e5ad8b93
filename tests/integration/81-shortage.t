#!/usr/bin/env python3
# A supervisor that lacks descriptors when its server process dies: tried again soon, and told as what it is
import datetime
import os
import resource
import signal
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403


def moment(event):
    return datetime.datetime.fromisoformat(event["ts"].replace("Z", "+00:00")).timestamp()


@case("no descriptor for a socketpair: another try after 100 ms, 200 ms, 400 ms, not after 5 s")
def _():
    s = Server(["hello"])
    pid, boss = s.pid, s.proc.pid
    before = resource.prlimit(boss, resource.RLIMIT_NOFILE)
    mark = s.mark()
    resource.prlimit(boss, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{boss}/fd")), before[1]))
    os.kill(pid, signal.SIGKILL)
    tries = wait_for(lambda: (lambda found: found if len(found) >= 3 else None)(
        [e for e in s.find_events(None, mark) if "another try" in str(e.get("msg"))]), 20, "three tries")
    resource.prlimit(boss, resource.RLIMIT_NOFILE, before)
    wait_for(lambda: s.get("/hello").status == 200, 20, "it serves again")
    gaps = [moment(b) - moment(a) for a, b in zip(tries, tries[1:])]
    ok(all(gap < 2 for gap in gaps[:2]), f"the first tries follow soon: {gaps}")
    is_([e["event"] for e in tries[:3]], ["exit"] * 3, "they are told as tries to start")
    like(tries[0]["msg"], "Too many open files", "with the reason")
    is_([e["pid"] for e in s.find_events("crash", mark)], [pid], "there was one crash")
    is_(s.stop(), 0, "exit 0")


@case("no descriptor to look into the stage folder: what the dead process staged is removed when there are some again")
def _():
    s = Server(["hello", "echo"])
    pid, boss = s.pid, s.proc.pid
    before = resource.prlimit(boss, resource.RLIMIT_NOFILE)
    staged = s.staged()
    resource.prlimit(boss, resource.RLIMIT_NOFILE, (3, before[1]))
    mark = s.mark()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(s.find_events("exit", mark)) >= 2, 20, "two tries")
    is_(s.staged(), staged, "they lie there")
    resource.prlimit(boss, resource.RLIMIT_NOFILE, before)
    wait_for(lambda: s.get("/hello").status == 200, 20, "it serves again")
    wait_for(lambda: len(s.staged()) == 2, 20, "the copies of the dead one are gone")
    is_([path for path in s.staged() if path in staged], [], "only those of the one that serves are left")
    is_(s.stop(), 0, "exit 0")


main()
