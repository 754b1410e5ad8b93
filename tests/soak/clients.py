"""The difficult clients of the soak test. Each session opens one connection, behaves badly in one way,
and knows what the server may answer to that. Whatever else comes is an error with a sentence; a
session that is not over in time is one too, since that is what "stuck" means to a client."""

import random
import socket
import struct
import time

from common import fnv

HEAD_S, BODY_S, WRITE_S = 2.0, 4.0, 3.0  # the server's timeouts; see soak.py
GRACE_S = 6.0                            # for a machine that is busy


class Unexpected(Exception):
    pass


def reset_on_close(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def receive_all(sock, seconds):
    """All until the server closes: (bytes, closed in time)."""
    data, until = b"", time.monotonic() + seconds
    while time.monotonic() < until:
        sock.settimeout(max(0.01, until - time.monotonic()))
        try:
            part = sock.recv(65536)
        except socket.timeout:
            break
        except ConnectionError:
            return data, True
        if not part:
            return data, True
        data += part
    return data, False


def status_of(data):
    if not data.startswith(b"HTTP/1.1 ") or not data[9:12].isdigit():
        raise Unexpected(f"no HTTP answer: {data[:80]!r}")
    return int(data[9:12])


def answer_of(sock, seconds, data=b""):
    """One answer with a Content-Length: (status, body, what follows)."""
    until = time.monotonic() + seconds
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        if end:
            length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n")
                           if line.lower().startswith(b"content-length:")), 0)
            if len(rest) >= length:
                return status_of(data), rest[:length], rest[length:]
        sock.settimeout(max(0.01, until - time.monotonic()))
        try:
            part = sock.recv(65536)
        except socket.timeout:
            raise Unexpected(f"no whole answer within {seconds:.0f} s: {data[:80]!r}") from None
        if not part:
            raise Unexpected(f"closed within the answer: {data[:80]!r}")
        data += part


def dechunk(data):
    """The body of a chunked answer, and whether its last chunk was there."""
    body, rest = b"", data.partition(b"\r\n\r\n")[2]
    while True:
        line, end, rest = rest.partition(b"\r\n")
        if not end:
            return body, False
        size = int(line, 16)
        if size == 0:
            return body, rest == b"\r\n"
        if len(rest) < size + 2:
            return body + rest[:size], False
        body, rest = body + rest[:size], rest[size + 2:]


# ---- Sessions ----

def slow_head(sock, _):
    """A head that never ends must be cut off."""
    sock.sendall(b"GET /v HTTP/1.1\r\nHost: soak\r\nX-Slow: ")
    until = time.monotonic() + HEAD_S + GRACE_S
    sock.settimeout(0.2)
    while time.monotonic() < until:
        try:
            sock.sendall(b"x")
            data = sock.recv(4096)
        except socket.timeout:
            continue
        except ConnectionError:
            return
        if data and status_of(data) != 408:
            raise Unexpected(f"{data[:60]!r}, expected 408")
        return
    raise Unexpected(f"an unfinished head lives {HEAD_S + GRACE_S:.0f} s")


def slow_body(sock, rng):
    """A body that comes in small pieces, within the time for it, is served."""
    body = bytes(rng.randrange(256) for _ in range(200))
    sock.sendall(b"POST /v/post HTTP/1.1\r\nHost: soak\r\nContent-Length: 200\r\n\r\n")
    for at in range(0, 200, 20):
        sock.sendall(body[at:at + 20])
        time.sleep(0.1)
    status, text, _ = answer_of(sock, GRACE_S)
    if status != 200 or not text.endswith(b" 200 %016x\n" % fnv(body)):
        raise Unexpected(f"slow body: {status} {text!r}")


def slow_upload(sock, rng):
    """The same, chunked, to a handler that takes it as it comes."""
    body = bytes(rng.randrange(256) for _ in range(300))
    sock.sendall(b"POST /v/upload HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n")
    for at in range(0, 300, 30):
        for part in (b"1e\r\n", body[at:at + 30], b"\r\n"):
            sock.sendall(part)
            time.sleep(0.03)
    sock.sendall(b"0\r\n\r\n")
    status, text, _ = answer_of(sock, GRACE_S)
    if status != 200 or not text.endswith(b" 300 %016x\n" % fnv(body)):
        raise Unexpected(f"slow upload: {status} {text!r}")


def endless_body(sock, _):
    """A body that stops in the middle must be cut off."""
    sock.sendall(b"POST /v/post HTTP/1.1\r\nHost: soak\r\nContent-Length: 200\r\n\r\nabc")
    data, closed = receive_all(sock, BODY_S + GRACE_S)
    if not closed or (data and status_of(data) != 408):
        raise Unexpected(f"an unfinished body: closed {closed}, {data[:60]!r}")


def slow_reader(sock, _):
    """A big answer, read slowly, arrives whole."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sock.sendall(b"GET /v/big?kb=2048 HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
    data = b""
    sock.settimeout(GRACE_S)
    while True:
        try:
            part = sock.recv(65536)
        except socket.timeout:
            raise Unexpected(f"a big answer stands still after {len(data)} bytes") from None
        if not part:
            break
        data += part
        time.sleep(0.02)
    body, whole = dechunk(data)
    marks = {body[at:at + 18] for at in range(0, len(body), 1024)}
    if not whole or len(body) != 2048 * 1024 or len(marks) != 1:
        raise Unexpected(f"a big answer: whole {whole}, {len(body)} bytes, versions {sorted(marks)[:3]}")


def no_reader(sock, _):
    """A client that never reads is cut off, and what it got is visibly not whole."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(b"GET /v/big?kb=16384 HTTP/1.1\r\nHost: soak\r\n\r\n")
    time.sleep(WRITE_S + 2)
    data, closed = receive_all(sock, GRACE_S)
    if not closed or dechunk(data)[1]:
        raise Unexpected(f"a client that reads nothing: closed {closed}, got {len(data)} bytes")


def aborted(sock, rng):
    """A client that leaves at any moment is nobody's trouble."""
    request = rng.choice((b"GET /v/timer?ms=200 HTTP/1.1\r\nHost: soak\r\n\r\n",
                          b"GET /v/offload?ms=50 HTTP/1.1\r\nHost: soak\r\n\r\n",
                          b"GET /v/stream?chunks=0&ms=20 HTTP/1.1\r\nHost: soak\r\n\r\n",
                          b"GET /v/big?kb=4096 HTTP/1.1\r\nHost: soak\r\n\r\n",
                          b"POST /v/upload HTTP/1.1\r\nHost: soak\r\nContent-Length: 5000\r\n\r\nabc",
                          b"POST /v/post HTTP/1.1\r\nHost: soak\r\nContent-Length: 5000\r\n\r\nabc",
                          b"GET /v HT"))
    sock.sendall(request)
    time.sleep(rng.random() * 0.15)
    if rng.random() < 0.5:
        reset_on_close(sock)


def half_closed(sock, _):
    """A FIN right behind a request that is answered at once does not mean that the client left."""
    sock.sendall(b"GET /v HTTP/1.1\r\nHost: soak\r\n\r\n")
    sock.shutdown(socket.SHUT_WR)
    data, closed = receive_all(sock, GRACE_S)
    if not closed or status_of(data) != 200:
        raise Unexpected(f"half closed: closed {closed}, {data[:60]!r}")


def garbage(sock, rng):
    """What is no request gets a refusal and the end of the connection."""
    sock.sendall(rng.choice((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
                             b"GET  /v HTTP/1.1\r\nHost: soak\r\n\r\n",
                             b"GET /v HTTP/1.1\r\nHost : soak\r\n\r\n",
                             b"GET /v HTTP/9.9\r\nHost: soak\r\n\r\n",
                             b"POST /v/post HTTP/1.1\r\nHost: soak\r\nContent-Length: 1\r\nTransfer-Encoding: chunked"
                             b"\r\n\r\n0\r\n\r\n",
                             b"GET /v HTTP/1.1\r\n\r\n")))
    data, closed = receive_all(sock, HEAD_S + GRACE_S)
    if not closed or (data and status_of(data) not in (400, 408, 414, 431, 501, 505)):
        raise Unexpected(f"garbage: closed {closed}, {data[:60]!r}")


def pipelined(sock, rng):
    """Five requests in one packet, five answers in their order."""
    tags = [rng.randrange(1, 9) * 100 for _ in range(5)]
    sock.sendall(b"".join(b"POST /v/post HTTP/1.1\r\nHost: soak\r\nContent-Length: %d\r\n\r\n%s" % (tag, b"x" * tag)
                          for tag in tags))
    rest = b""
    for i, tag in enumerate(tags):
        try:
            status, text, rest = answer_of(sock, GRACE_S, rest)
        except (Unexpected, ConnectionError):
            if i > 0:  # a drain answers the request in progress with Connection: close
                return
            raise
        if status != 200 or b" %d " % tag not in text:
            raise Unexpected(f"pipelined: {status} {text!r}, expected the answer to {tag} bytes")


SESSIONS = (slow_head, slow_body, slow_upload, endless_body, slow_reader, no_reader, aborted, aborted,
            half_closed, garbage, pipelined)


def run(session, address, seed):
    """One session; raises Unexpected."""
    rng = random.Random(seed)
    with socket.create_connection(address, 10) as sock:
        try:
            session(sock, rng)
        except ConnectionError as error:
            if session not in (aborted, garbage, endless_body, no_reader):
                raise Unexpected(f"{type(error).__name__} in {session.__name__}") from None
