#!/usr/bin/env python3
# The n-th allocation, open or mmap fails while a server process is started after a crash: another one serves
"""In whichever process it is: the supervisor, which must live on, or the new server process, which may end and be
started again, but must never stay without serving. Armed from just before kill -9 until one serves."""
import os
import signal
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from injecttest import *  # noqa: E402,F403

if SANITIZER != "none":
    skip_all("sanitizers have an allocator of their own")

EACH, STEP = 64, 9  # the first so many one by one, then every ninth: most of a start's calls are libraries'
injector = Injector()


def serves(s, old):
    try:
        now = s.status()
        return now.get("pid", old) != old and now["generation"] > 0 and s.get("/hello").status == 200
    except (OSError, HttpError):
        return False


def restart(s, kind, n):
    """Whether there was such a call; wrong: a sentence or None."""
    old = s.pid
    injector.arm(kind, n, n + 1)
    try:
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: serves(s, old), 20, "another server process")
    except Failed as error:
        return True, str(error)
    finally:
        calls = injector.disarm()
    if s.proc.poll() is not None:
        return True, "the supervisor has ended"
    return calls > n, None


for kind in ("allocation", "growth", "open", "mmap"):
    @case(f"the n-th {kind} fails in a start after a crash")
    def _(kind=kind):
        s = Server(["hello", "counter"], {"crash_window_ms": 1}, env=injector.env)
        n, met, wrong = 0, True, None
        while met and not wrong and n < 500:
            met, wrong = restart(s, kind, n)
            n += 1 if n < EACH else STEP
        ok(not wrong, f"{kind}: up to number {n}, another process serves each time", f"number {n}: {wrong}")
        ok(n > 4, "some were met")
        is_((s.get("/counter").status, s.ops_get("/readyz").status), (200, 200), "all is well in the end")
        is_(s.stop(), 0, "exit 0")


@case("the n-th mmap fails in a start after a crash: a stack that is full in that process is told as whose it was")
def _():
    s = Server(["hello", "crashes"], {"crash_window_ms": 1}, env=injector.env, workers=1)
    n, met, wrong = 0, True, None
    while met and not wrong and n < 200:
        met, wrong = restart(s, "mmap", n)
        if not wrong:
            pid, mark = s.pid, s.mark()
            with Conn(s) as conn:
                conn.send(request_bytes("GET", "/crashes/overflow"))
                conn.ends(20)
            event = s.wait_event("crash", 20, since=mark, pid=pid)
            if (event.get("plugin"), event.get("thread")) != ("crashes", "worker-0"):
                wrong = f"told as {event}"
            wait_for(lambda p=pid: serves(s, p), 20, "another process")
        n += 1
    ok(not wrong, f"up to number {n}, each is told", f"number {n - 1}: {wrong}")
    ok(n > 10, "some were met")
    is_(s.stop(), 0, "exit 0")


main()
