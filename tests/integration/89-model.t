#!/usr/bin/env python3
# Random deployment histories: wire, ps, log and metrics say what a small model says (`make model`: a thousand)
import os
import random
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *
import modeltest


def replay(ops):
    """None, or how the server and the model differ."""
    it = modeltest.Replay()
    try:
        it.run(ops)
    except modeltest.Divergence as error:
        return str(error)
    finally:
        it.close()
    return None


def agrees(ops, name):
    why = replay(ops)
    ok(why is None, name, f"{why}\n{modeltest.as_lines(ops)}")


@case("histories that once differed")
def _():
    modeltest.build_all()
    for name, lines in {
            "a file that failed its checks, asked for as a canary": "put alpha noexec 1\nhup\ncanary alpha 10\ncanary alpha 10",
            "a canary beside nothing": "put alpha ready 1\nrestart\ncanary alpha 5\nput alpha good 2\ncanary alpha 5\nreload",
            "a canary that was aborted, and a restart": "put alpha fail 2\ncanary alpha 1\nabort alpha\nrestart\nrollback alpha",
            "bad files, then a death: what was good serves": "put alpha init 1\nreload\nput beta noexec 2\nreload\nkill\nreload\n"
            "put gate ctor 3\nreload\nkill\nretry\nput alpha good 4\nput beta good 5\nput gate good 6\nreload\nrollback beta",
            "a canary, a bad file and a death": "put beta leak 1\nreload\nput alpha good 2\ncanary alpha 10\nput gate hang 3\nkill\nusr2",
            "a quarantined canary, and a death": "put alpha good 2\nreload\nrollback alpha\ncanary alpha 50\nkill\nrestart\nabort alpha\nkill",
            "one hangs while another that leaves a thread is loaded": "put alpha hang 1\nput beta leak 2\nreload",
            "two crashes": "put beta good 1\nreload\ncrash beta\ncrash beta\nreload\nretry\nrollback beta",
            "a rollback beside a canary": "put gate good 1\nreload\nput gate good 2\ncanary gate 33\nrollback gate\nusr2",
            "a rollback to what is the canary": "put gate good 1\nreload\nput gate good 2\nreload\nput gate good 1\ncanary gate 33\n"
            "rollback gate\nusr2\nrestart",
            "two canaries and one of the middleware": "put alpha fail 1\ncanary alpha 25\nput beta good 2\ncanary beta 50\n"
            "put gate slow 3\ncanary gate 10\npromote gate\nabort beta\npromote alpha",
            "canaries over crashes and restarts": "put alpha good 1\ncanary alpha 33\nput gate slow 2\ncanary gate 50\nkill\n"
            "crash-canary alpha\npromote gate\ncrash-canary alpha\nrestart\nrollback gate",
            "threads that stay": "put alpha leak 1\nreload\nput alpha good 2\nput beta init 3\nreload\nput beta leak 4\nreload\nrollback beta",
    }.items():
        agrees(modeltest.from_lines(lines), name)


@case("random ones")
def _():
    modeltest.build_all()
    for seed in range(900000, 900000 + (20 if SANITIZER == "none" else 6)):
        agrees(modeltest.history(random.Random(seed)), f"seed {seed}")


@case("the model and the replay can fail", SANITIZER == "none", "it tests the test, and does so without a sanitizer")
def _():
    modeltest.build_all()
    right = modeltest.Model.promote

    def wrong(model, name):  # what served before would not be kept
        expect = right(model, name)
        model.plugins[name].good = model.plugins[name].good[:1]
        return expect
    modeltest.Model.promote = wrong
    ops = modeltest.from_lines("put beta good 1\nreload\nput alpha good 2\ncanary alpha 10\nreload\npromote alpha\nusr2")
    short = modeltest.shrink(ops, lambda less: replay(less) is not None)
    modeltest.Model.promote = right
    is_(modeltest.as_lines(short), "put alpha good 2\ncanary alpha 10\npromote alpha", "a wrong model is found out, and the history shrunk")


main()
