"""The load of the chaos driver: clients that read every answer strictly, hold its version against the
model, and note each failure with the moments that decide whose it is: when its connection was opened,
when the request began, when it failed. What did not fail in a process that died is a defect."""

import collections
import random
import re
import select
import socket
import threading
import time

from common import fnv
from grafttest import Conn, HttpError, diag, request_bytes, secs

MARK = re.compile(rb"VERSION-(\d{10})")
Failure = collections.namedtuple("Failure", "opened begun at text")
Past = collections.namedtuple("Past", "opened begun ended")  # a request that is over


class Wrong(Exception):
    """An answer that must not be, whoever crashed."""


def plain(dice):
    return request_bytes("GET", dice.choice(("/v", "/v", "/v/static"))), lambda body: re.fullmatch(MARK.pattern + rb"\n", body)


def timed(dice):
    return request_bytes("GET", f"/v/{dice.choice(('timer', 'offload'))}?ms={dice.randrange(1, 60)}"), \
        lambda body: re.fullmatch(rb"(?:VERSION-\d{10}\n){2}", body)


def stream(dice):
    chunks = dice.randrange(1, 8)
    return request_bytes("GET", f"/v/stream?chunks={chunks}&ms={dice.randrange(1, 15)}"), \
        lambda body: re.fullmatch(rb"(?:VERSION-\d{10}\n){%d}" % chunks, body)


def big(dice):
    kb = dice.randrange(1, 400)
    return request_bytes("GET", f"/v/big?kb={kb}"), lambda body: len(body) == kb * 1024 and len(MARK.findall(body)) == kb


def upload(dice):
    sent = dice.randbytes(dice.randrange(0, 1500))
    return request_bytes("POST", dice.choice(("/v/post", "/v/upload")), body=sent), \
        lambda body: body.endswith(b" %d %016x\n" % (len(sent), fnv(sent)))


KINDS = (plain, plain, plain, plain, plain, timed, timed, stream, upload, big)


class Client:
    """One thread, one connection at a time."""

    def __init__(self, crowd, seed):
        self.crowd, self.dice = crowd, random.Random(seed)
        self.conn, self.opened, self.begun, self.left = None, 0.0, None, 0
        self.thread = threading.Thread(target=self.live, daemon=True)

    def live(self):
        crowd = self.crowd
        while not crowd.over.is_set():
            if not crowd.gate.is_set():
                self.close()
                crowd.still.add(self)
                crowd.gate.wait(0.2)
                continue
            crowd.still.discard(self)
            try:
                self.request()
            except Wrong as error:
                crowd.defect(str(error))
                self.close()
            except (HttpError, OSError) as error:
                now = time.monotonic()
                crowd.failures.append(Failure(self.opened, self.begun or now, now, f"{type(error).__name__}: {error}"))
                self.close()
            self.begun = None
            crowd.over.wait(self.dice.random() * 0.006)
        self.close()

    def close(self):
        if self.conn is not None:
            self.conn.close()
            self.crowd.conns.append((self.opened, time.monotonic()))
        self.conn = None

    def ready(self):
        """A connection to send on. One that the server closed while nothing was asked is looked at before."""
        if self.conn is not None and (self.left == 0 or self.conn.data):
            if self.conn.data:
                raise Wrong(f"bytes behind an answer: {self.conn.data[:100]!r}")
            self.close()
        if self.conn is not None and select.select([self.conn.sock], [], [], 0)[0]:
            now = time.monotonic()
            self.crowd.closed.append(Failure(self.opened, now, now, "closed between two requests"))
            self.close()
        if self.conn is None:
            self.opened = time.monotonic()  # before: a connection counts as open from its SYN on
            self.conn = Conn(self.crowd.address, timeout=30)
            self.left = self.dice.choice((1, 3, 20, 100))

    def request(self):
        self.begun = None
        self.ready()
        data, right = self.dice.choice(KINDS)(self.dice)
        self.left -= 1
        begun = self.begun = time.monotonic()
        self.conn.send(data)
        answer = self.conn.response()
        ended = time.monotonic()
        self.crowd.past.append(Past(self.opened, begun, ended))
        pid = int(answer.header("X-Pid") or 0)
        if answer.status != 200 or not pid:
            raise Wrong(f"{data[:40]!r} on a connection {ended - self.opened:.3f} s old: {answer.status} "
                        f"{answer.body[:300]!r}, X-Pid {pid}")
        if not right(answer.body):
            raise Wrong(f"{data[:40]!r}: another body: {answer.body[:200]!r}")
        self.crowd.answered(pid, {int(n) for n in MARK.findall(answer.body)}, begun, ended)
        if (answer.header("Connection") or "").lower() == "close":
            raise Wrong(f"{data[:40]!r}: Connection: close")


class Crowd:
    def __init__(self, address, serving, seed, size=8):
        self.address, self.serving = address, serving
        self.gate, self.over = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.still = set()                       # the clients that have paused
        self.failures = collections.deque()
        self.closed = collections.deque()
        self.past = collections.deque(maxlen=20000)
        self.conns = collections.deque(maxlen=20000)  # (opened, closed)
        self.defects, self.stale = [], []
        self.count = 0
        self.first = {}                          # pid -> when its first answer was here
        self.clients = [Client(self, f"{seed} client {n}") for n in range(size)]

    def start(self):
        self.gate.set()
        for client in self.clients:
            client.thread.start()

    def pause(self):
        """Until nobody asks and no connection is open."""
        self.gate.clear()
        until = time.monotonic() + secs(60)
        while len(self.still) < len(self.clients) and time.monotonic() < until:
            time.sleep(0.01)
        if len(self.still) < len(self.clients):
            self.defect(f"{len(self.clients) - len(self.still)} requests hang")

    def go_on(self):
        self.gate.set()

    def stop(self):
        self.over.set()
        self.gate.set()
        for client in self.clients:
            client.thread.join(secs(40))

    def defect(self, text):
        with self.lock:
            self.defects.append(f"{time.strftime('%H:%M:%S')} {text}")
            if len(self.defects) <= 40:
                diag("DEFECT " + self.defects[-1])

    def answered(self, pid, marks, begun, ended):
        self.count += 1
        if pid not in self.first:
            with self.lock:
                self.first.setdefault(pid, ended)
        if len(marks) != 1:
            self.defect(f"one answer of the versions {sorted(marks)}")
        elif not marks <= self.serving.allowed(begun, ended):
            with self.lock:
                self.stale.append(f"{time.strftime('%H:%M:%S')} process {pid}, version {marks.pop()} answered, allowed "
                                  f"{sorted(self.serving.allowed(begun, ended))}, {ended - begun:.3f} s")

    def active(self, begin, end):
        """How many connections were open at any moment between, and how many requests in progress at the first."""
        conns = sum(1 for opened, closed in list(self.conns) if opened <= end and closed >= begin)
        conns += sum(1 for client in self.clients if client.conn is not None and client.opened <= end)
        return conns, sum(1 for one in list(self.past) if one.begun <= begin <= one.ended)

    def take(self, deaths):
        """Gives each failure since the last call to the death that it is of: the connection was open before that
        process was gone, and it failed when it died, or as soon as its client looked. What is of none is a defect."""
        for queue, what in ((self.failures, "failed"), (self.closed, "closed")):
            while queue:
                one = queue.popleft()
                whose = min((d for d in deaths if one.opened <= d.dead and d.begun <= one.at <= d.dead + secs(0.5)),
                            key=lambda d: abs(one.at - d.dead), default=None)
                if whose is None:
                    now = time.monotonic()
                    self.defect(f"{what}, and no process died: {one.text}; its connection was opened {now - one.opened:.3f} s "
                                f"ago, the request begun {now - one.begun:.3f}, the end {now - one.at:.3f}")
                else:
                    getattr(whose, what).append(one)
