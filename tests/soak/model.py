#!/usr/bin/env python3
"""Random deployment histories against a small model (tests/integration/lib/modeltest.py): what the wire, ps,
the log and /metrics say must be what the model says, after every operation. HISTORIES=1000 of them,
from SEED=1 on: history n is that of SEED + n alone. A history that diverges is shrunk and printed as
lines that `model.py FILE` (or - for its input) replays. Prints TAP."""

import os
import random
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration", "lib"))
import modeltest  # noqa: E402


def replay(ops, **how):
    """None, or how it diverges."""
    it = None
    try:
        it = modeltest.Replay(**how)
        it.run(ops)
    except modeltest.Divergence as error:
        return str(error)
    finally:
        if it:
            it.close()
    return None


def judge(seed, ops, number):
    why = replay(ops)
    if not why:
        return True
    print(f"# seed {seed}: {why}", flush=True)
    short = modeltest.shrink(ops, lambda less: replay(less, patience=2) is not None)
    print(f"not ok {number} - a history diverges from the model")
    for line in [f"seed {seed}, shrunk; then: {replay(short)}"] + modeltest.as_lines(short).splitlines():
        print("#   " + line, flush=True)
    return False


def main():
    os.nice(10)
    modeltest.build_all()
    if len(sys.argv) > 1:
        with sys.stdin if sys.argv[1] == "-" else open(sys.argv[1]) as f:
            why = replay(modeltest.from_lines(f.read().replace("#   ", "")))
        print(why or "it does what the model does")
        return 1 if why else 0
    histories, seed = int(os.environ.get("HISTORIES") or 1000), int(os.environ.get("SEED") or 1)
    limit = int(os.environ.get("DIVERGENCES") or 5)
    begun, bad, done, operations = time.monotonic(), 0, 0, 0
    for n in range(histories):
        ops = modeltest.history(random.Random(seed + n))
        bad += not judge(seed + n, ops, n + 1)
        done, operations = n + 1, operations + len(ops)
        if done % 50 == 0:
            print(f"# {done} histories, {operations} operations, {time.monotonic() - begun:.0f} s, {bad} diverge",
                  flush=True)
        if bad >= limit:
            break
    print(f"{'not ok' if bad else 'ok'} {bad + 1} - {done} histories of {operations} operations, {bad} diverge")
    print(f"1..{bad + 1}")
    return 1 if bad else 0


sys.exit(main())
