#!/usr/bin/env python3
# Deaths, shortages and deployments at random under load: only what was open in a process that died fails
"""tests/chaos/chaos.py, for GRAFT_TEST_SECONDS (30); GRAFT_TEST_SEED repeats the choices (not the moments)."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "chaos"))
import chaos  # noqa: E402
from grafttest import case, main  # noqa: E402

SECONDS = float(os.environ.get("GRAFT_TEST_SECONDS", 30))
SEED = os.environ.get("GRAFT_TEST_SEED") or os.urandom(4).hex()


@case("chaos, and then order, in every turn")
def _():
    chaos.run(SECONDS, SEED)

main()
