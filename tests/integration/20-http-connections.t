#!/usr/bin/env python3
# Connections: FINs, resets, early answers to uploads, long pipelines, HEAD, HTTP/1.0, streams
import os
import random
import socket
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

GET = request_bytes("GET", "/hello")
PLUGINS = ["hello", "echo", "response_api", "later_api", "stream_down", "stream_up", "order_body", "order_handler"]
MB = 1 << 20


def pattern(n):
    """What stream_down sends."""
    return b"".join(bytes([i & 255]) * 64 for i in range(n // 64 + 1))[:n]


def quiet(s, what):
    """No request is left of the case, and no connection."""
    ok(wait_for(lambda: s.status()["in_flight"] == 0 or None, 5, f"{what}: in_flight 0"), f"{what}: no request is left")


def fin_behind(s, what, request, method="GET", count=1, check=None):
    with Conn(s) as c:
        c.send(request)
        c.shut()
        got = [c.response(method) for _ in range(count)]
        is_([r.status for r in got], [200] * count, f"{what}: answered")
        if check:
            ok(check(got[-1]), f"{what}: the right answer", got[-1].body[:100])
        is_(c.ends(), "eof", f"{what}: then closed")
        is_(c.data, b"", f"{what}: and nothing more")


@case("a FIN right behind a complete request still gets its answer")
def _():
    s = Server(PLUGINS)
    fin_behind(s, "a GET and a FIN", GET, check=lambda r: r.body == b"hello, world\n")
    fin_behind(s, "a HEAD and a FIN", request_bytes("HEAD", "/hello"), "HEAD")
    fin_behind(s, "a POST and a FIN", request_bytes("POST", "/echo", body=b"abc"), check=lambda r: r.body == b"abc")
    fin_behind(s, "a chunked POST and a FIN",
               request_bytes("POST", "/echo", {"Transfer-Encoding": "chunked"}) + chunked(b"abc", b"def"),
               check=lambda r: r.body == b"abcdef")
    big = os.urandom(3 * MB)
    fin_behind(s, "3 MB and a FIN", request_bytes("POST", "/echo", body=big), check=lambda r: r.body == big)
    fin_behind(s, "200 requests and a FIN", GET * 200, count=200)
    fin_behind(s, "500 requests and a FIN", request_bytes("POST", "/echo", body=b"x" * 300) * 500, count=500)
    quiet(s, "after all")


@case("a FIN a moment later, while a big answer leaves")
def _():
    s = Server(PLUGINS)
    big = os.urandom(7 * MB)
    with Conn(s, rcvbuf=16384) as c:
        c.send(request_bytes("POST", "/echo", body=big))
        c.fill()
        time.sleep(0.1)
        c.shut()
        is_(c.response().body == big, True, "the whole answer comes")
        is_(c.ends(), "eof", "then closed")
    quiet(s, "after it")


@case("a FIN while a request waits means that the client left")
def _():
    s = Server(PLUGINS)
    for what, behind in (("alone", b""), ("with a pipelined request behind", GET), ("with half a head behind", GET[:9]),
                         ("with 50 requests behind", GET * 50)):
        with Conn(s) as c:
            mark = s.mark()
            c.send(request_bytes("GET", "/later?which=on-abort&ms=3000") + behind)
            time.sleep(0.05)
            c.shut()
            end = c.ends(2)
            ok(end is not None, f"{what}: closed at once", f"{end} {c.data!r}")
            is_(c.data, b"", f"{what}: without an answer")
            wait_for(lambda: [e for e in s.log()[mark:] if "on_abort gone=1" in e["msg"]], 5, "on_abort")
            ok(True, f"{what}: on_abort ran")
    with Conn(s) as c:
        c.send(request_bytes("GET", "/down?bytes=100000000"))
        c.fill()
        c.shut()
        while c.fill():
            pass
        ok(len(c.data) < 100000000, "a stream under way is cut", len(c.data))
    quiet(s, "after all")


@case("a FIN inside a head or a body")
def _():
    s = Server(PLUGINS)
    whole = request_bytes("POST", "/echo", body=b"hello")
    for cut in (1, 3, 10, 30, len(whole) - 6, len(whole) - 5, len(whole) - 1):
        with Conn(s) as c:
            c.send(whole[:cut])
            c.shut()
            ok(c.ends(5) is not None, f"closed when the client ends after {cut} of {len(whole)} bytes")
            ok(c.data == b"" or c.data.startswith(b"HTTP/1.1 400 "), "and nothing is served", c.data)
    with Conn(s) as c:
        c.send(GET + whole[:30])
        c.shut()
        is_(c.response().status, 200, "a complete request before half a one is answered")
        ok(c.ends(5) is not None, "then closed")
    for part in (b"5\r\nhel", b"5\r\nhello\r\n", b"5", b"0\r\n", b"0\r\nX: y\r\n"):
        with Conn(s) as c:
            c.send(request_bytes("POST", "/echo", {"Transfer-Encoding": "chunked"}) + part)
            c.shut()
            ok(c.ends(5) is not None, f"closed when chunks end after {part!r}")
            ok(b"HTTP/1.1 200" not in c.data, "and half a body is not served", c.data)
    mark = s.mark()
    with Conn(s) as c:
        c.send(request_bytes("POST", "/up", {"Content-Length": "100"}) + b"abc")
        c.shut()
        ok(c.ends(5) is not None, "closed when a streamed upload ends early")
        wait_for(lambda: [e for e in s.log()[mark:] if "stream_up aborted" in e["msg"]], 5, "on_abort")
        ok(b"HTTP/1.1 200" not in c.data, "and it is not taken for a whole one", c.data)
    quiet(s, "after all")


@case("resets at any moment")
def _():
    s = Server(PLUGINS)
    requests = [b"", GET[:7], GET, GET * 30, request_bytes("POST", "/echo", body=b"x" * 100000)[:50000],
                request_bytes("GET", "/later?which=on-abort&ms=100"), request_bytes("GET", "/later?which=offload&ms=30"),
                request_bytes("GET", "/down?bytes=10000000"), request_bytes("POST", "/up", {"Content-Length": "9"}) + b"ab",
                request_bytes("GET", "/later?which=on-abort&ms=100") + GET * 3]
    for pause in (0, 0.01, 0.06):
        for request in requests:
            c = Conn(s)
            c.send(request)
            time.sleep(pause)
            c.abort()
    quiet(s, "after 30 resets")
    is_(s.get("/hello").status, 200, "and the server serves")
    ok(wait_for(lambda: s.status()["connections"]["now"] == 0, 5, "connections 0"), "no connection is left")


@case("an early answer to an upload arrives, although nobody reads the upload")
def _():
    s = Server(PLUGINS, {"limits": {"body_bytes": 100000}, "middleware": []})
    for what, head, status in (
            ("413 by its length", request_bytes("POST", "/echo", {"Content-Length": str(50 * MB)}), 413),
            ("404", request_bytes("POST", "/nothing", {"Content-Length": str(50 * MB)}), 404),
            ("405", request_bytes("POST", "/hello", {"Content-Length": str(50 * MB)}), 405),
            ("413 in chunks", request_bytes("POST", "/echo", {"Transfer-Encoding": "chunked"}), 413),
            ("the handler's own 413", request_bytes("POST", "/up?early=1", {"Content-Length": str(50 * MB)}), 413)):
        piece = b"4000\r\n" + b"x" * 16384 + b"\r\n" if "chunks" in what else b"x" * 16384
        for patience, name in ((0.0, "as fast as it can"), (0.002, "slowly")):
            with Conn(s) as c:
                c.send(head)
                c.sock.settimeout(0.3)
                began = time.monotonic()
                sent = 0
                while sent < 200 * 1024 and time.monotonic() - began < secs(5):  # fewer than the 256 KiB that are read
                    try:
                        c.sock.sendall(piece)
                    except (socket.timeout, OSError):
                        break
                    sent += len(piece)
                    time.sleep(patience)
                answer = c.response()
                is_(answer.status, status, f"{what}: answered, the client writes {name}")
                is_((answer.header("Connection") or "").lower(), "close", f"{what}: and the connection ends")
                ok(c.ends(5) is not None, f"{what}: closed")
    with Conn(s) as c:
        c.send(request_bytes("POST", "/echo", {"Content-Length": str(50 * MB)}))
        is_(c.response().status, 413, "413 comes before any of the body")
        is_(c.ends(5), "eof", "the write side is shut at once")
        began = time.monotonic()
        c.sock.settimeout(secs(10))
        try:
            while time.monotonic() - began < secs(10):
                c.sock.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            pass
        within(time.monotonic() - began, 0.5, secs(6), "a client that goes on is given about 2 s")
    began, sent = time.monotonic(), 0
    with Conn(s) as c:
        c.send(request_bytes("POST", "/echo", {"Content-Length": str(50 * MB)}))
        try:
            while sent < 40 * MB:
                c.sock.sendall(b"x" * 65536)
                sent += 65536
        except OSError:
            pass
        ok(sent < 30 * MB, "and no more than 256 KiB and what the kernel holds", sent)
    quiet(s, "after all")


@case("a small body that nobody reads does not cost the connection")
def _():
    s = Server(PLUGINS)
    with Conn(s) as c:
        answer = c.request("POST", "/nothing", body=b"x" * 100)
        is_(answer.status, 404, "404 to a POST whose body has arrived")
        if (answer.header("Connection") or "").lower() != "close":
            is_(c.get("/hello").status, 200, "and the connection goes on")


@case("bodies byte by byte, and in odd pieces")
def _():
    s = Server(PLUGINS)
    body = bytes(range(256)) * 2
    for what, request in (("length", request_bytes("POST", "/echo", body=body)),
                          ("chunked", request_bytes("POST", "/echo", {"Transfer-Encoding": "chunked"}) +
                           chunked(*[body[i:i + 7] for i in range(0, len(body), 7)]))):
        for size, pause in ((1, 0.0005), (2, 0.001), (13, 0.001), (100, 0.002)):
            with Conn(s) as c:
                c.send(*[request[i:i + size] for i in range(0, len(request), size)], pause=pause)
                is_(c.response().body == body, True, f"{what}, {size} bytes at a time")
                is_(c.get("/hello").status, 200, "and the next request")
    with Conn(s) as c:
        c.send(*[bytes([b]) for b in GET * 3], pause=0.0003)
        is_([c.response().status for _ in range(3)], [200] * 3, "three requests byte by byte")


@case("very long pipelines are answered in order")
def _():
    s = Server(PLUGINS)
    with Conn(s) as c:
        requests = [request_bytes("GET", f"/hello/n{i}") if i % 3 else request_bytes("POST", "/echo", body=b"hello, n%d\n" % i)
                    for i in range(1000)]
        c.send(b"".join(requests))
        wrong = [i for i in range(1000) if c.response().body != b"hello, n%d\n" % i]
        is_(wrong, [], "1000 requests in one write")
    with Conn(s) as c:
        targets = [("/later?which=timer&ms=5", b"timer\n"), ("/hello/x", b"hello, x\n"), ("/later?which=offload&ms=3", b"offload\n"),
                   ("/resp?which=text", b"text\n"), ("/later?which=post&ms=1", b"post\n")] * 8
        c.send(b"".join(request_bytes("GET", t) for t, _ in targets))
        is_([c.response().body for _ in targets], [b for _, b in targets], "slow ones and fast ones mixed keep their order")
    with Conn(s, rcvbuf=4096) as c:
        c.sock.settimeout(0.5)
        one = request_bytes("POST", "/echo", body=b"y" * 2000)
        sent = 0
        try:
            while sent < 20000:  # until the server stops to read, since nobody reads its answers
                c.sock.sendall(one)
                sent += 1
        except socket.timeout:
            pass
        ok(sent < 20000, "a client that writes requests and reads nothing is not read from for ever", sent)
        whole = sent
        time.sleep(0.2)
        same = [c.response().body == b"y" * 2000 for _ in range(whole)]
        is_(all(same), True, f"then it reads, and all {whole} answers come")


@case("HEAD of everything")
def _():
    s = Server(PLUGINS)
    with Conn(s) as c:
        for which in ("text", "json", "json-empty", "error", "nothing", "status", "headers", "length-exact", "big", "static",
                      "static-big", "printf", "zero", "flush-length", "flush-done", "reset"):
            get = s.get(f"/resp?which={which}")
            head = c.request("HEAD", f"/resp?which={which}")
            is_(head.status, get.status, f"HEAD {which}: the status of GET")
            if get.header("Content-Length") is not None and head.header("Content-Length") is not None:
                is_(head.header("Content-Length"), get.header("Content-Length"), f"HEAD {which}: the length of GET")
            after = c.get("/hello")
            is_(after.body, b"hello, world\n", f"HEAD {which}: and the connection goes on")
        head = c.request("HEAD", "/down?bytes=1000000")
        is_((head.status, c.get("/hello").status), (200, 200), "HEAD of a stream")
        head = c.request("HEAD", "/down?bytes=1000000&length=1")
        is_((head.status, head.header("Content-Length"), c.get("/hello").status), (200, "1000000", 200),
            "HEAD of a stream with a length")


@case("answers without a body: 204 and 304")
def _():
    s = Server(PLUGINS)
    with Conn(s) as c:
        for code in (204, 304):
            for method in ("GET", "HEAD"):
                r = c.request(method, f"/resp?which=status&code={code}")
                is_((r.status, r.body), (code, b""), f"{method} {code}: no body")
                is_(r.header("Transfer-Encoding"), None, f"{method} {code}: no coding")
                if code == 204:
                    is_(r.header("Content-Length"), None, "204: no length")
                is_(c.get("/hello").body, b"hello, world\n", f"{method} {code}: the next answer is whole")
        for code in (200, 201, 299, 300, 404, 418, 499, 500, 503, 599):
            r = c.request("GET", f"/resp?which=status&code={code}")
            is_((r.status, r.body), (code, b"status 0\n"), f"{code}")


@case("HTTP/1.0 clients")
def _():
    s = Server(PLUGINS)

    def old(target, *headers, method="GET"):
        return request_bytes(method, target, headers, version="1.0", host=None)
    with Conn(s) as c:
        c.send(old("/down?bytes=1000000"))
        r = c.response()
        is_((r.status, r.header("Transfer-Encoding"), r.header("Content-Length")), (200, None, None), "a stream has no chunks")
        is_(r.body == pattern(1000000), True, "and ends by closing")
        is_(c.reset, False, "with a FIN")
    with Conn(s) as c:
        c.send(old("/down?bytes=1000000", ("Connection", "keep-alive")))
        r = c.response()
        is_((len(r.body), (r.header("Connection") or "").lower()), (1000000, "close"), "keep-alive cannot be had with a stream")
    with Conn(s) as c:
        c.send(old("/down?bytes=1000000&length=1", ("Connection", "keep-alive")))
        r = c.response()
        is_((len(r.body), (r.header("Connection") or "").lower()), (1000000, "keep-alive"), "but with a stream of known length")
        c.send(old("/hello", ("Connection", "Keep-Alive")) * 2)
        is_([c.response().body for _ in range(2)], [b"hello, world\n"] * 2, "more requests on it")
        is_(c.is_open(), True, "it stays open")
        c.send(old("/hello"))
        r = c.response()
        is_(r.status, 200, "the last one")
        is_(c.ends(), "eof", "and without keep-alive it closes")
    with Conn(s) as c:
        c.send(old("/down?bytes=1000000&abort=500000"))
        try:
            c.response()
            ok(False, "an aborted stream ends with a reset, since a FIN would look like its end")
        except HttpError as e:
            like(str(e), "reset", "an aborted stream ends with a reset, since a FIN would look like its end")
    with Conn(s) as c:
        c.send(old("/resp?which=status&code=204", ("Connection", "keep-alive")))
        is_(c.response().status, 204, "204 to HTTP/1.0")
        c.send(old("/hello", method="HEAD"))
        is_(c.response("HEAD").status, 200, "HEAD from HTTP/1.0")
        is_(c.ends(), "eof", "closes")


@case("100 Continue comes when the body is wanted, and only then")
def _():
    s = Server(PLUGINS)
    expect = {"Expect": "100-continue", "Content-Length": "5"}
    with Conn(s) as c:
        c.send(request_bytes("POST", "/echo", expect))
        is_(c.is_open(0.05), False, "something comes before the body")
        like(c.data, r"^HTTP/1.1 100 Continue\r\n\r\n$", "100 and no more")
        c.send(b"hello")
        r = c.response()
        is_((r.status, r.interim, r.body), (200, [100], b"hello"), "then the answer")
        c.send(request_bytes("POST", "/up", expect))
        c.fill()
        like(c.data, "^HTTP/1.1 100 Continue\r\n\r\n$", "the same for a stream, on the same connection")
        c.send(b"hel", b"lo", pause=0.03)
        is_(c.response().interim, [100], "and once only")
    with Conn(s) as c:
        c.send(request_bytes("POST", "/up?early=1", expect))
        r = c.response()
        is_((r.status, r.interim), (413, []), "a handler that answers without the body sends no 100")
        is_((r.header("Connection") or "").lower(), "close", "and the connection ends, since the body may come or not")
    for status, target in ((404, "/nothing"), (405, "/hello")):
        with Conn(s) as c:
            c.send(request_bytes("POST", target, expect))
            r = c.response()
            is_((r.status, r.interim), (status, []), f"{status} without 100")
    s = Server(PLUGINS + ["order_a"], {"middleware": ["order-a"]})
    with Conn(s) as c:
        c.send(request_bytes("POST", "/echo?a=text", {**expect, "Content-Length": "8000000"}))
        r = c.response()
        is_((r.status, r.interim, (r.header("Connection") or "").lower()), (403, [], "close"),
            "a middleware that answers 8 MB unread: no 100, and the connection ends")
        is_(c.ends(), "eof", "closed")
    with Conn(s) as c:
        c.send(request_bytes("POST", "/echo?a=later&ms=200", expect))
        is_(c.is_open(0.1), True, "while a middleware is LATER no 100 is sent")
        c.fill()
        like(c.data, "^HTTP/1.1 100 Continue\r\n\r\n$", "but when it has let the request pass")
        c.send(b"hello")
        is_(c.response().body, b"hello", "and then all goes on")
    s = Server(PLUGINS, {"middleware": ["order-body"]})
    with Conn(s) as c:
        c.send(request_bytes("POST", "/up?early=1", expect))
        c.fill()
        like(c.data, "^HTTP/1.1 100 Continue\r\n\r\n$", "a middleware that needs the body has 100 sent before the handler runs")
        c.send(b"hello")
        is_(c.response().status, 413, "then the handler's answer")
        is_(c.get("/hello").status, 200, "and the connection goes on, the body was read")


def random_exchange(rng):
    """One request as bytes, its method, and what is wrong with an answer to it (a function)."""
    body = rng.randbytes(rng.choice((0, 1, 5, 100, 3000, 20000, 70000, 300000)))
    kind = rng.randrange(10)

    def expect(status, wanted=None):
        return lambda r: None if r.status == status and wanted in (None, r.body) else f"{r.status} {r.body[:60]!r} {len(r.body)}"
    if kind == 0:
        return request_bytes("POST", "/echo", body=body), "POST", expect(200, body)
    if kind == 1:
        pieces, at = [], 0
        while at < len(body):
            n = rng.choice((1, 7, 4000, 66000))
            pieces.append(body[at:at + n])
            at += n
            if len(pieces) > 40:
                pieces.append(body[at:])
                break
        return (request_bytes("PUT", "/echo", {"Transfer-Encoding": "chunked"}) +
                chunked(*pieces, trailers=rng.choice((b"", b"X: y\r\n")))), "PUT", expect(200, body)
    if kind == 2:
        n = rng.randrange(1000)
        return request_bytes("GET", f"/hello/n{n}"), "GET", expect(200, b"hello, n%d\n" % n)
    if kind == 3:
        which = rng.choice(("timer", "offload", "post", "post-thread", "done-thread"))
        return request_bytes("GET", f"/later?which={which}&ms={rng.randrange(4)}"), "GET", expect(200)
    if kind == 4:
        n, length = rng.choice((0, 1, 65536, 500000)), rng.randrange(2)
        return request_bytes("GET", f"/down?bytes={n}&length={length}&chunk={rng.choice((700, 16384))}"), "GET", expect(200, pattern(n))
    if kind == 5:
        return (request_bytes("POST", f"/up?late={rng.choice((0, 3))}", body=body), "POST",
                lambda r: None if r.body.startswith(b"bytes=%d " % len(body)) and b"last=1" in r.body else repr(r.body))
    if kind == 6:
        return request_bytes("HEAD", rng.choice(("/hello", "/echo", "/down?bytes=100000"))), "HEAD", expect(200)
    if kind == 7:
        return request_bytes("GET", "/nothing"), "GET", expect(404)
    if kind == 8:
        return request_bytes("GET", "/resp?which=status&code=204"), "GET", expect(204)
    return request_bytes("GET", "/hello", version="1.0", headers={"Connection": "keep-alive"}), "GET", expect(200, b"hello, world\n")


def random_session(s, seed, found):
    rng = random.Random(seed)
    plan = [random_exchange(rng) for _ in range(rng.choice((1, 5, 30)))]
    whole = b"".join(request for request, _, _ in plan)

    def write():
        at = 0
        while at < len(whole):
            n = rng.choice((1, 3, 50, 1000, 1400, 30000, 300000))
            if not c.send(whole[at:at + n]):
                return
            at += n
            if rng.random() < 0.3:
                time.sleep(rng.random() * 0.003)
    try:
        with Conn(s, timeout=20, rcvbuf=rng.choice((None, 4096))) as c:
            writer = threading.Thread(target=write)
            writer.start()
            try:
                for i, (_, method, check) in enumerate(plan):
                    why = check(c.response(method))
                    if why:
                        raise HttpError(f"answer {i + 1} of {len(plan)}: {why}")
                if not c.is_open(0.001):
                    raise HttpError(f"more than was asked for, or closed: {c.data[:60]!r}")
            finally:
                writer.join(secs(20))
    except Exception as error:
        found.append(f"TEST_SEED={seed}: {type(error).__name__}: {error}")


@case("random pipelines of everything, divided at random")
def _():
    s = Server(PLUGINS, {"limits": {"send_bytes": 100000}})
    first, found = int(os.environ.get("TEST_SEED") or time.time() * 1000), []
    until = time.monotonic() + 8

    def live(n):
        while time.monotonic() < until and len(found) < 5:
            random_session(s, first + n, found)
            n += 8
            if "TEST_SEED" in os.environ:
                return
    threads = [threading.Thread(target=live, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    is_(found, [], f"{s.status()['connections']['accepted']} connections, each answer the right one")
    quiet(s, "after them")


@case("many connections at once, all kinds")
def _():
    s = Server(PLUGINS)
    with Prober(s, "/hello", clients=4, every=0) as a, Prober(s, "/later?which=timer&ms=2", clients=8, every=0) as b, \
            Prober(s, "/down?bytes=100000", clients=2, every=0, value=lambda r: len(r.body)) as c, \
            Prober(s, "/hello", clients=3, every=0, keep_alive=False) as d:
        time.sleep(1.5)
    for name, p in (("plain", a), ("later", b), ("stream", c), ("a connection each", d)):
        is_(p.failures, [], f"{name}: {p.count} answers without a failure")
    is_(c.versions(), [100000], "streams are whole")
    quiet(s, "after it")

main()
