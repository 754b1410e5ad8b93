#!/usr/bin/env python3
# Drains under load: nothing that had begun to arrive before the signal fails, whoever sent the signal and how often
import os
import random
import signal
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

CLIENTS = 24 if SANITIZER == "none" else 12


def ms(n):
    return int(n * SCALE)


class Client(threading.Thread):
    """A keep-alive client with a mix of requests. It notes when each began and how it ended."""

    def __init__(self, load, number):
        super().__init__(daemon=True)
        self.load, self.random = load, random.Random(number)
        self.answered, self.failures, self.closes = 0, [], 0

    def ask(self, c):
        """One request or more at once, and their answers. The last answer."""
        kind = self.random.random()
        if kind < 0.5:
            return [c.request("GET", "/hello")]
        if kind < 0.6:
            return [c.request("GET", f"/version/timer?ms={self.random.randrange(400)}")]
        if kind < 0.7:
            return [c.request("GET", f"/version/offload?ms={self.random.randrange(100)}")]
        if kind < 0.75:
            return [c.request("GET", "/version/stream?chunks=5&ms=60")]
        if kind < 0.85:
            body = bytes([65 + self.random.randrange(26)]) * self.random.randrange(1, 60000)
            head = request_bytes("POST", "/echo", {"Content-Length": str(len(body))})
            c.send(head + body[:100], body[100:], pause=0.02)
            answer = c.response()
            if answer.body != body:
                raise HttpError("another body came back")
            return [answer]
        if kind < 0.9:
            text = request_bytes("GET", "/hello")
            c.send(text[:9], text[9:], pause=0.05)
            return [c.response()]
        n = self.random.randrange(2, 9)
        c.send(request_bytes("GET", f"/version/timer?ms={self.random.randrange(150)}")
               + request_bytes("GET", "/hello") * (n - 1))
        return [c.response() for _ in range(n)]

    def run(self):
        while not self.load.over.is_set():
            try:
                c = Conn(self.load.address, timeout=10)
            except (OSError, TimeoutError):
                if self.load.signalled:
                    return
                self.failures.append((time.monotonic(), "connect"))
                return
            try:
                while not self.load.over.is_set():
                    began = time.monotonic()
                    answers = self.ask(c)
                    self.answered += len(answers)
                    if any(a.status != 200 for a in answers):
                        self.failures.append((began, f"status {[a.status for a in answers]}"))
                    if answers[-1].header("Connection") == "close":
                        self.closes += 1
                        break
                    time.sleep(self.random.random() * 0.01)
            except (HttpError, OSError) as error:
                self.failures.append((began, f"{type(error).__name__}: {error}"))
            c.close()


class Load:
    def __init__(self, s):
        self.address, self.signalled = s.address, 0
        self.over = threading.Event()
        self.clients = [Client(self, n) for n in range(CLIENTS)]
        for c in self.clients:
            c.start()
        wait_for(lambda: sum(c.answered for c in self.clients) > 100 or self.failures(), 20, "the load")

    def failures(self, until=float("inf")):
        return [why for c in self.clients for began, why in c.failures if began < until]

    def stop(self):
        self.over.set()
        for c in self.clients:
            c.join(secs(20))


def under_load(what, stop, **config):
    s = Server(["hello", "echo", "versioned_v1"], {"drain": {"idle_ms": ms(1000)}, **config})
    load = Load(s)
    time.sleep(0.3)
    load.signalled = time.monotonic()
    stop(s)
    is_(s.wait_exit(), 0, f"{what}: exit 0")
    load.stop()
    is_(load.failures(until=load.signalled)[:5], [],
        f"{what}: nothing failed that began before ({sum(c.answered for c in load.clients)} requests)")
    is_(load.failures()[:5], [], f"{what}: nor what began later on a connection that was open")
    ok(sum(c.closes for c in load.clients) > 0, f"{what}: clients were told Connection: close")
    end = s.event("drain_end")
    is_(end and end["cut"], 0, f"{what}: nothing was cut")
    is_(len(s.find_events("drain_start")), 1, f"{what}: one drain")


@case("SIGTERM once")
def _():
    for _ in range(2):
        under_load("TERM", lambda s: s.send_signal(signal.SIGTERM))


@case("SIGTERM twice within 50 ms is one")
def _():
    def twice(s):
        s.send_signal(signal.SIGTERM)
        time.sleep(0.03)
        s.send_signal(signal.SIGTERM)
    under_load("TERM TERM", twice)


@case("SIGINT, and graftctl drain")
def _():
    under_load("INT", lambda s: s.send_signal(signal.SIGINT))
    under_load("graftctl drain", lambda s: is_(s.ctl("drain").returncode, 0, "graftctl drain"))


@case("with drain.delay_ms, while the load balancer still sends")
def _():
    under_load("with delay_ms", lambda s: s.send_signal(signal.SIGTERM),
               drain={"delay_ms": ms(700), "idle_ms": ms(1000)})


@case("right after a swap, and in the middle of many")
def _():
    s = Server({"hello": "hello", "echo": "echo", "v": "versioned_v1"}, {"drain": {"idle_ms": ms(1000)}})
    load = Load(s)
    for n in range(10):
        s.install(make_unique(f"versioned_v{1 + n % 3}"), "v")
        s.send_signal(signal.SIGUSR2)
        time.sleep(0.03)
    load.signalled = time.monotonic()
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "exit 0")
    load.stop()
    is_(load.failures()[:5], [], f"nothing failed ({sum(c.answered for c in load.clients)} requests)")


main()
