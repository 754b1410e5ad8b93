#!/usr/bin/env python3
# HTTP/1.1 on the wire: each case of tests/cases, over TCP, IPv6 and a unix socket, one by one and at once
"""A case is a line of JSON: `send`, a list of writes (code points are bytes); `ok`, the acceptable
sequences of status codes; `close` true: the server must close, false: it must answer one more
request, absent: either; `body`: the last answer's (`nohead`: the HEAD answer has none); `methods`:
of the requests, where answers to HEAD are to be read; `interim`: the 1xx answers before the last."""
import json
import os
import random
import re
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

DATE = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT"
CASES = []
for name in ("http1.jsonl", "http1-more.jsonl"):
    with open(os.path.join(SRCDIR, "tests", "cases", name)) as f:
        CASES += [json.loads(line) for line in f if line.strip()]


def method_of(one, i):
    if "methods" in one:
        return one["methods"][i]
    return "HEAD" if i == 0 and one["send"][0].startswith("HEAD ") else "GET"


def answers(conn, one):
    """All final answers that come, until no acceptable sequence is longer."""
    got, error = [], None
    while any(len(want) > len(got) and want[:len(got)] == [r.status for r in got] for want in one["ok"]):
        try:
            got.append(conn.response(method_of(one, len(got))))
        except (HttpError, OSError) as e:
            error = str(e)
            break
    return got, error


def wrong(one, to, pause, cut=None):
    """What is wrong with the server's answer to this case, or None. `cut`: of random numbers, says
    where the bytes are divided instead of as the case says."""
    with Conn(to) as conn:
        parts = [part.encode("latin-1") for part in one["send"]]
        if cut:
            whole = b"".join(parts)
            places = sorted({0, len(whole), *(cut.randrange(len(whole) + 1) for _ in range(cut.randrange(1, 6)))})
            parts = [whole[a:b] for a, b in zip(places, places[1:])]
        conn.send(*parts, pause=pause)
        got, error = answers(conn, one)
        statuses = [r.status for r in got]
        if statuses not in one["ok"]:
            return f"expected {one['ok']}, found {statuses}; {error}"
        last = got[-1]
        if "body" in one and one["body"] != "nohead" and last.body != one["body"].encode("latin-1"):
            return f"body {last.body[:300]!r}"
        # A body that is there when the head is read needs no 100: on a busy machine the pause is short.
        if "interim" in one and not cut and last.interim not in (one["interim"], []):
            return f"interim answers {last.interim}"
        if last.status == 405 and not last.header("Allow"):
            return "405 without Allow"
        for answer in got:
            if answer.status < 500 and not re.fullmatch(DATE, answer.header("Date") or ""):
                return f"{answer.status} with Date: {answer.header('Date')}"
            if answer.header("Content-Type") == "application/problem+json" and answer.body:
                if answer.json()["status"] != answer.status:
                    return f"{answer.status} says {answer.body!r}"
        return wrong_end(conn, one, last)


def wrong_end(conn, one, last):
    says_close = "close" in (last.header("Connection") or "").lower()
    if one.get("close") is False:
        if says_close:
            return "Connection: close where it must stay open"
        more = conn.get("/hello/after")
        if more.status != 200 or more.body != b"hello, after\n":
            return f"the next request on the connection: {more}"
        return None
    if one.get("close") is True or says_close:
        if not says_close:
            return "closes without saying Connection: close"
        end = conn.ends()
        if end != "eof":
            return f"must close, found {end}"
    else:
        conn.is_open(0.03)
    return f"more bytes: {conn.data[:200]!r}" if conn.data else None


def all_at_once(to, clients, seed=None):
    """{index: what is wrong} of all cases, by this many clients at once."""
    left, found, lock = list(range(len(CASES))), {}, threading.Lock()

    def live():
        while True:
            with lock:
                if not left:
                    return
                i = left.pop()
            try:
                why = wrong(CASES[i], to, 0.005, random.Random(f"{seed} {i}") if seed is not None else None)
            except Exception as error:  # for the main thread to show
                why = repr(error)
            if why:
                found[i] = why
    threads = [threading.Thread(target=live) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@case("every case by itself")
def _():
    s = Server(["hello", "echo"])
    for one in CASES:
        try:
            why = wrong(one, s, 0.004 if len(one["send"]) > 8 else 0.01)
        except Exception as error:
            why = repr(error)
        ok(why is None, f"{one['name']} ({one['why']})", f"{why}\nsent {str(one['send'])[:400]}")


for kind, listen, clients in (("TCP", "127.0.0.1:0", 12), ("IPv6", "[::1]:0", 8),
                              ("a unix socket", "unix:" + os.path.join(tempdir(), "s"), 8)):
    @case(f"all cases at once over {kind}", HAS_V6 or kind != "IPv6", "no IPv6")
    def _(kind=kind, listen=listen, clients=clients):
        s = Server(["hello", "echo"], listen=["127.0.0.1:0", listen] if kind != "TCP" else [listen])
        found = all_at_once(s.addresses()[-1], clients)
        ok(not found, f"{len(CASES)} cases by {clients} clients over {kind}",
           "\n".join(f"{CASES[i]['name']}: {why}" for i, why in found.items()))
        is_(s.status()["in_flight"], 0, "and no request is left")


@case("where the bytes are divided changes nothing")
def _():
    s = Server(["hello", "echo"])
    seed = int(os.environ.get("TEST_SEED") or time.time())
    for i in range(3):
        found = all_at_once(s, 12, seed + i)
        ok(not found, f"{len(CASES)} cases divided at random (TEST_SEED={seed + i})",
           "\n".join(f"{CASES[i]['name']}: {why}" for i, why in found.items()))
    is_(s.status()["in_flight"], 0, "and no request is left")

main()
