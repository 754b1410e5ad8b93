#!/usr/bin/env python3
# Everything at once, at random: good and bad plugins, configurations, triggers, clients that leave
"""GRAFT_TEST_SECONDS (6) of it; GRAFT_TEST_SEED repeats the choices (not the moments)."""
import os
import random
import signal
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

SECONDS = float(os.environ.get("GRAFT_TEST_SECONDS", 6))
SEED = os.environ.get("GRAFT_TEST_SEED") or os.urandom(4).hex()
BAD = ["init_fails", "init_fails_silently", "ready_fails", "worker_init_fails", "start_fails", "crash_in_constructor",
       "exit_in_constructor", "unique_symbol", "exec_stack", "nodelete", "no_descriptor", "wrong_minor", "bad_route",
       "bad_name", "origin_runpath"]
ORDER_A = {"match": "/version/*", "middleware": ["order-a"]}


class Chaos:
    def __init__(self, server):
        self.server, self.over, self.wrong = server, threading.Event(), []
        self.marked, self.number, self.asked, self.requests = Marked(), 0, 0, 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.live, args=(self.client, f"{SEED} client {i}")) for i in range(6)]
        self.threads.append(threading.Thread(target=self.live, args=(self.deployer, SEED + " deployer")))
        self.threads.append(threading.Thread(target=self.live, args=(self.reloader, SEED + " reloader")))

    def live(self, what, seed):
        dice = random.Random(seed)
        while not self.over.is_set():
            try:
                what(dice)
            except Exception as error:  # told at the end
                with self.lock:
                    self.wrong.append(f"{what.__name__}: {type(error).__name__}: {error}")
                time.sleep(0.05)

    # -- clients --

    def client(self, dice):
        with self.server.connect(timeout=20) as conn:
            for _ in range(dice.randrange(1, 12)):
                if not self.one_request(conn, dice):
                    conn.abort()
                    return
                with self.lock:
                    self.requests += 1

    def one_request(self, conn, dice):
        """False: the client has had enough."""
        kind = dice.choice(("plain", "plain", "plain", "timer", "offload", "stream", "upload", "sin", "hello"))
        if kind == "upload":
            body = bytes(dice.randrange(1, 30000))
            conn.send(request_bytes("POST", "/version/upload", body=body)[:-len(body)] + body[:len(body) // 2])
            if dice.random() < 0.2:
                return False
            time.sleep(dice.random() * 0.02)
            conn.send(body[len(body) // 2:])
            answer = conn.response()
            assert answer.status == 200 and answer.body.endswith(b" %d\n" % len(body)), answer
            mark_of(answer)
            return True
        path = {"plain": "/version", "timer": f"/version/timer?ms={dice.randrange(60)}", "sin": "/sin", "hello": "/hello",
                "offload": f"/version/offload?ms={dice.randrange(40)}", "stream": "/version/stream?chunks=4&ms=10"}[kind]
        conn.send(request_bytes(target=path))
        if kind in ("timer", "offload", "stream") and dice.random() < 0.15:
            time.sleep(dice.random() * 0.02)
            return False
        answer = conn.response()
        if kind in ("sin", "hello"):
            assert answer.status == 200, answer
        else:
            assert answer.status == 200, answer
            mark_of(answer)
        return True

    # -- those who deploy --

    def put_version(self, dice):
        self.number += 1
        put(self.server, self.marked(self.number), "versioned")

    def put_sin(self, dice):
        put(self.server, fresh(dice.choice(BAD) if dice.random() < 0.6 else "good"), "sin")

    def put_hello(self, dice):
        put(self.server, fresh("hello"), "hello")

    def put_nonsense(self, dice):
        put(self.server, os.urandom(dice.randrange(1, 5000)), "nonsense")

    def drop_nonsense(self, dice):
        try:
            self.server.uninstall("nonsense")
        except FileNotFoundError:
            pass

    def put_extra(self, dice):
        put(self.server, dice.choice(("life_v1", "life_v2", "every_metrics_v1", "every_metrics_v2")), "extra")

    def drop_extra(self, dice):
        try:
            self.server.uninstall("extra")
        except FileNotFoundError:
            pass

    def configure(self, dice):
        self.server.config["routes"] = [ORDER_A] if dice.random() < 0.5 else []
        self.server.config["plugins"] = {"sin": {"config": {"n": dice.randrange(5)}}}
        self.server.write_config()

    def deployer(self, dice):
        for _ in range(dice.randrange(1, 3)):
            dice.choice((self.put_version, self.put_version, self.put_sin, self.put_hello, self.put_nonsense,
                         self.drop_nonsense, self.put_extra, self.drop_extra, self.configure))(dice)
        self.server.send_signal(dice.choice((signal.SIGUSR2, signal.SIGUSR2, signal.SIGHUP)))
        time.sleep(dice.random() ** 3 * 0.05)

    def reloader(self, dice):
        query = "&".join(word for word in ("retry=1", "config=1", "allow_empty=1") if dice.random() < 0.3)
        answer = self.server.api("POST", "/v1/reload" + ("?" + query if query else ""))
        assert answer["ok"] or answer["reason"], answer
        assert self.server.status()["ok"] and self.server.ps() and self.server.routes()
        time.sleep(dice.random() * 0.05)

    def run(self, seconds):
        for thread in self.threads:
            thread.start()
        time.sleep(seconds)
        self.over.set()
        for thread in self.threads:
            thread.join()


@case("chaos, and then order")
def _():
    diag(f"GRAFT_TEST_SEED={SEED}")
    s = Server({"hello": "hello", "sin": "good", "mw": "order_a"}, {"limits": {"versions": 4}}, workers=3,
               args=["--watch"])
    put(s, Marked()(0), "versioned")
    wait_for(lambda: s.get("/version").status == 200, 15, "all are loaded")
    settle(s, 4)
    s.reload(config=True)
    before = footprint(s)
    chaos = Chaos(s)
    with Prober(s, "/version", every=0.002, value=mark_of) as p, \
            Prober(s, "/sin", every=0.005, check=lambda r: None if r.body == b"good\n" else r.body) as good:
        chaos.run(SECONDS)
    is_(p.failures + good.failures, [], f"no probe failed ({p.count + good.count})")
    is_(chaos.wrong[:5], [], f"nor any of {chaos.requests} requests of other clients")
    is_(p.seen, sorted(p.seen), "no answer was older than the one before it")

    chaos.drop_nonsense(None)
    chaos.drop_extra(None)
    for name, what in (("sin", "good"), ("hello", "hello")):
        put(s, what, name)
    s.config.update(routes=[], plugins={})
    sha256 = put(s, chaos.marked(chaos.number + 1), "versioned")
    answer = wait_for(lambda: (lambda a: a if a["ok"] or a.get("error") != "busy" else None)(s.reload(config=True)), 20,
                      "no longer busy")
    ok(answer["ok"] and not answer["failed"], "order: a reload", answer)
    is_((mark_of(s.get("/version")), s.active("versioned")["sha256"]), (chaos.number + 1, sha256), "the last one serves")
    settle(s, 4, seconds=20)
    is_settled(s, 4, "exactly what serves is loaded, mapped and staged")
    is_footprint(s, before, "nothing else is left", seconds=15)
    is_(s.status()["in_flight"], 0, "no request is left")
    events = s.find_events("swap")
    is_([e for e in events if not e["ok"] and len(e["msg"]) < 10], [], "every failed swap has a reason")
    serving = {e["plugin"]: e["id"] for e in s.find_events("plugin_loaded")}
    is_({v["plugin"]: v["id"] for v in s.ps()}, {k: v for k, v in serving.items() if k in ("hello", "sin", "order-a",
        "versioned")}, "ps and the log agree")
    is_([e for e in s.log() if e["event"] in ("misuse", "crash", "stuck", "dropped") and
         "bad name of a counter" not in e["msg"]], [], "nothing odd in the log")
    diag(f"{len(events)} swap events, {len([e for e in events if e['changed']])} of them changed something, "
         f"{len([e for e in events if not e['ok']])} failed; {s.metrics()['graft_versions_retired_total']:.0f} versions "
         f"retired")

main()
