#!/usr/bin/env python3
# Swaps under load: bench/deploy.py, briefly, by reload and by USR2
"""What bench/deploy.py shows with 1,000 swaps and 1,000,000 requests, in some seconds each: no failed
request, connections accepted = connections opened, no answer older than the last completed swap,
everything back where it was. Latencies are judged gently here: the machine has other things to do."""
import os
import subprocess
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403


for trigger in ("reload", "usr2"):
    @case(f"triggered by {trigger}")
    def _(trigger=trigger):
        run = subprocess.run([sys.executable, os.path.join(SRCDIR, "bench", "deploy.py"), "--brief", "--tap",
                              "--trigger", trigger, "--connections", "32", *(["--memory-kb", "0"]
                              if SANITIZER != "none" else [])],
                             capture_output=True, text=True, timeout=secs(120))
        lines = run.stdout.splitlines()
        for line in lines:
            if line.startswith(("ok ", "not ok ")):
                ok(line.startswith("ok "), line.split(" - ", 1)[-1])
            elif line.startswith("#"):
                diag(line[1:].strip())
        is_(run.returncode, 0, f"deploy.py --trigger {trigger}")
        if run.returncode:
            diag(run.stderr[-3000:])

main()
