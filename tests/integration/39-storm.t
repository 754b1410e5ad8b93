#!/usr/bin/env python3
# A storm: plugins that do something else with each request, clients that leave, swaps meanwhile
import errno, os, random, re, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

SECONDS = float(ENV.get("STORM_SECONDS") or 5)
SEED = int(ENV.get("STORM_SEED") or random.randrange(1 << 32))


class Client:
    """Sends whatever, takes whatever comes, leaves whenever. An answer that begins is HTTP."""

    def __init__(self, s, seed):
        self.s, self.rnd, self.sent, self.answers, self.bad = s, random.Random(seed), 0, 0, []

    def request(self):
        r = self.rnd
        target = r.choice(("/storm", "/storm/up", "/storm-serial", "/storm-serial/up", "/nowhere", "/hello"))
        method = r.choice(("GET", "GET", "POST", "PUT", "HEAD"))
        headers = [("X-Many", "a"), ("x-many", "b")] if r.random() < 0.3 else []
        body, version = None, "1.0" if r.random() < 0.1 else "1.1"
        if method in ("POST", "PUT"):
            body = b"x" * r.choice((0, 1, 500, 5000, 70000, 300000))
            if r.random() < 0.3 and version == "1.1":
                headers.append(("Transfer-Encoding", "chunked"))
                body = chunked(*[body[i:i + 9000] for i in range(0, len(body), 9000)])
            if r.random() < 0.1:
                headers.append(("Expect", "100-continue"))
        self.sent += 1
        return method, request_bytes(method, f"{target}?seed={r.getrandbits(50)}", headers, body, version=version)

    def connection(self):
        r = self.rnd
        with Conn(self.s, timeout=20, rcvbuf=r.choice((None, None, 4096, 16384))) as c:
            for _ in range(r.randrange(1, 6)):
                batch = [self.request() for _ in range(r.choice((1, 1, 1, 2, 5)))]
                raw = b"".join(data for _, data in batch)
                if r.random() < 0.15:
                    c.send(raw[:r.randrange(len(raw))])
                    time.sleep(r.random() * 0.02)
                    if r.random() < 0.5:
                        c.abort()
                    return
                c.send(raw)
                if r.random() < 0.15:
                    time.sleep(r.random() * 0.02)
                    if r.random() < 0.3:
                        c.shut()
                        time.sleep(0.01)
                    elif r.random() < 0.5:
                        c.abort()
                    return
                for method, _ in batch:
                    try:
                        c.response(method)
                    except HttpError as error:
                        if not re.match("closed|reset|a body without length ended with", str(error)):
                            self.bad.append(str(error))
                        return
                    self.answers += 1
                    if c.eof:
                        return

    def live(self, until):
        while time.monotonic() < until:
            try:
                self.connection()
            except (BrokenPipeError, ConnectionResetError):
                pass
            except OSError as error:
                if error.errno == errno.ENOTCONN:       # shut() after the server's reset
                    continue
                self.bad.append(f"{type(error).__name__}: {error}")


@case("a storm")
def _():
    diag(f"STORM_SEED={SEED}")
    s = Server(["storm", "storm_serial", "hello"],
               config={"middleware": ["storm", "storm-serial"], "drain": {"idle_ms": 20}, "limits": {"body_bytes": 200000},
                       "offload": {"threads": 3, "queue": 64}, "timeouts_ms": {"handler": 2000, "body": 3000, "write": 3000}},
               workers=3)
    until = time.monotonic() + SECONDS
    clients = [Client(s, SEED + n) for n in range(8)]
    threads = [threading.Thread(target=c.live, args=(until,)) for c in clients]
    for t in threads:
        t.start()
    swaps = []
    while time.monotonic() < until:
        time.sleep(0.3)
        s.install(make_unique("storm"), "storm")
        if len(swaps) % 2:
            s.install(make_unique("storm_serial"), "storm_serial")
        swaps.append(s.reload())
    for t in threads:
        t.join()
    diag(f"{sum(c.sent for c in clients)} requests, {sum(c.answers for c in clients)} answers, {len(swaps)} swaps")
    ok(sum(c.answers for c in clients) > 20, "answers came")
    is_([b for c in clients for b in c.bad][:5], [], "each of them is HTTP, and nobody waits for ever")
    is_([r for r in swaps if not r["ok"] and r.get("error") != "busy" and "versions" not in str(r)][:3], [], "swaps succeed meanwhile")
    wait_for(lambda: s.status()["in_flight"] == 0, 30, "the end of all requests")
    wait_for(lambda: len(s.ps()) == 3, 30, "the end of all old versions")
    is_(s.find_events("misuse")[:3], [], "nobody broke the contract")
    is_(s.find_events("stuck")[:3], [], "no version is stuck")
    is_(s.stop(), 0, "the drain ends well")
    ends = [{k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", e["msg"])} for e in s.find_events("plugin", msg=re.compile("^storm.*requests="))]
    ok(len(ends) > len(swaps), f"{len(ends)} versions have ended", ends)
    is_([e for e in ends if e["requests"] != e["finished"]], [], "on_finish ran once for each request whose on_request was called")
    is_([e for e in ends if not e["works"] == e["thens"] == e["offloads"]], [], "work and then ran once for each offload")


main()
