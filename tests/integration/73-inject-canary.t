#!/usr/bin/env python3
# The n-th allocation, open, mmap or dlopen inside canary, promote, abort and rollback fails, for every n
"""Each verb either has done what it says or has done nothing: never something between, nothing left behind, and it
works when it is asked for again. inject/inject.c is armed from the request on the control socket to its answer."""
import http.client
import json
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403
from injecttest import *  # noqa: E402,F403

if SANITIZER != "none":
    skip_all("sanitizers have an allocator of their own")

injector, marked = Injector(), Marked()


def serving(s):
    """Who has which share, by the number that is patched into its file."""
    return sorted((v["version"], v["state"], v["weight"]) for v in s.ps("versioned")
                  if v["state"] in ("active", "canary"))


def ask(s, verb):
    """The answer's `ok`; None: the server had no memory for an answer."""
    try:
        answer = s.api("POST", f"/v1/plugins/versioned/{verb}")
        s.said = answer
        return None if "may have been done" in str(answer.get("reason")) else answer["ok"]
    except (OSError, HttpError, ValueError, KeyError, http.client.HTTPException):
        return None


def is_kept(s, *good):
    """The store has these versions of the plugin, newest first, and writes nothing of them any more: what is
    injected hits the rollback, and not the copy, made in the background, that it goes back to."""
    state = os.path.join(s.dir, "state")
    if not os.path.exists(os.path.join(state, "index.json")):
        return False
    with open(os.path.join(state, "index.json")) as f:
        index = json.load(f)
    listed = [v["sha256"] for p in index["plugins"] if p["plugin"] == "versioned" for v in p["good"]]
    return (listed == list(good) and "canaries" not in index
            and all(os.path.exists(os.path.join(state, "files", sha256)) for sha256 in good))


class Verb:
    """What is done before it, and what it asks for."""

    def __init__(self, name, before, verb):
        self.name, self.before, self.verb = name, before, verb

    def prepare(self, s):
        """The state that a server is in before: `stable` serves, `newer` lies in the folder."""
        s.serial += 2
        ask(s, "abort")  # of the attempt before
        stable = put(s, marked(s.serial), "versioned")
        if not s.reload()["ok"]:
            return "the stable version is not taken"
        newer = put(s, marked(s.serial + 1), "versioned")
        for verb in self.before:
            if ask(s, verb) is not True:
                return f"{verb} does not work before anything fails"
        if self.verb == "rollback":
            wait_for(lambda: is_kept(s, newer, stable), 20, "the store has both versions")
        return None


CANARY = "canary?weight=10"
VERBS = [
    Verb("canary", [], CANARY),
    Verb("another weight", [CANARY], "canary?weight=60"),
    Verb("promote", [CANARY], "promote"),
    Verb("abort", [CANARY], "abort"),
    Verb("rollback", [CANARY, "promote"], "rollback"),
]


def attempt(s, what, kind, n, many):
    """(whether there was such a call, whether it made the verb fail, what is wrong or None)"""
    wrong = what.prepare(s)
    if wrong:
        return True, False, wrong
    before = serving(s)
    injector.arm(kind, n, FOR_EVER if many else n + 1)
    done = ask(s, what.verb)
    calls = injector.disarm()
    wait_for(lambda: not s.status()["swapping"], 20, "the swap is over")
    after = serving(s)
    if done is False and after != before:
        return calls > n, True, f"refused, but {before} became {after}: {s.said}"
    if done is True and after == before:
        return calls > n, False, f"done, but still {before}"
    if done is False and calls <= n:
        return False, True, "refused, but nothing was injected"
    if after == before and ask(s, what.verb) is not True:
        return calls > n, True, f"it does not work the second time: {s.said}"
    wanted = serving(s)
    if done is True and after != wanted or wanted == before:
        return calls > n, not done, f"{before} became {wanted}"
    return calls > n, done is not True, None


def weight_of_all(s):
    return sum(weight for _, _, weight in serving(s))


def rest(s):
    """Its footprint when nothing goes on any more, the store's writing too."""
    seen = [footprint(s)]

    def same():
        seen.append(footprint(s))
        return seen[-1] == seen[-2] and not any("/state/files/" in path or "/.index" in path
                                                for path in seen[-1]["fds"])
    wait_for(same, 20, "nothing goes on", every=0.2)
    return seen[-1]


for what in VERBS:
    for kind, many, step in (("allocation", False, 1), ("allocation", True, 7), ("open", False, 1), ("mmap", False, 1),
                             ("dlopen", False, 1)):
        @case(f"{what.name}: {'all from the' if many else 'the'} n-th {kind} {'on fail' if many else 'fails'}")
        def _(what=what, kind=kind, many=many, step=step):
            s = Server({"versioned": "versioned_v1"}, env=injector.env)
            s.serial = 0
            wrongs, n, failed = [], 0, 0
            what.prepare(s)
            ask(s, "abort")
            settle(s, 1)
            before = rest(s)
            while len(wrongs) <= 3 and n <= 3000:
                hit, refused, wrong = attempt(s, what, kind, n, many)
                failed += refused
                if wrong:
                    wrongs.append(f"n={n}: {wrong}")
                if not hit:
                    break
                n += step
            is_(wrongs, [], f"{n} calls can fail; {failed} did, with an answer, and then it worked")
            is_(weight_of_all(s), 100, "all requests go somewhere")
            put(s, marked(s.serial + 7), "versioned")
            ask(s, "abort")
            ok(s.reload()["ok"], "a swap ends it")
            settle(s, 1)
            is_footprint(s, before, "nothing is left behind", ignore=("staged", "stage"))
            is_(s.metrics()['graft_versions{state="stuck"}'], 0, "none is stuck")
            is_(s.get("/version").status, 200, "it serves")


main()
