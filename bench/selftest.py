#!/usr/bin/env python3
"""Can graftload fail? A server that answers wrongly in one known way at a time, and what graftload must
count then. A driver that reports 0 failures is worth what this test is worth. Prints TAP."""

import os
import socket
import sys
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import common  # noqa: E402

HEAD = b"HTTP/1.1 200 OK\r\n"
GOOD = HEAD + b"Content-Length: 19\r\n\r\nVERSION-0000000005\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

# name, the answer to each request (None: close; RESET), what counts up, further options
RESET = object()
CASES = (
    ("a good answer", GOOD, None),
    ("a good chunked answer, cut anywhere", CHUNKED + b"8\r\nVERSION-\r\nB\r\n0000000005\n\r\n0\r\n\r\n", None),
    ("closed before the answer", None, "closed"),
    ("reset before the answer", RESET, "reset"),
    ("closed within the head", HEAD, "truncated"),
    ("closed within the body", GOOD[:-3], "truncated"),
    ("closed before the last chunk", CHUNKED + b"13\r\nVERSION-0000000005\n\r\n", "truncated"),
    ("closed before the end of the last chunk", CHUNKED + b"13\r\nVERSION-0000000005\n\r\n0\r\n", "truncated"),
    ("another status", GOOD.replace(b"200 OK", b"500 No"), "status"),
    ("another length", HEAD + b"Content-Length: 20\r\n\r\nVERSION-0000000005 \n", "body"),
    ("another end", HEAD + b"Content-Length: 19\r\n\r\nVERSION-0000000005!", "body"),
    ("no version", HEAD + b"Content-Length: 19\r\n\r\nversion-0000000005\n", "body"),
    ("bytes behind the answer", GOOD + b"x", "framing"),
    ("no length", HEAD + b"\r\nVERSION-0000000005\n", "framing"),
    ("two lengths", GOOD.replace(b"\r\n\r\n", b"\r\nContent-Length: 19\r\n\r\n"), "framing"),
    ("length and chunked", CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 19\r\n\r\n"), "framing"),
    ("a length that is no number", GOOD.replace(b"19", b"19a"), "framing"),
    ("a chunk size that is no number", CHUNKED + b"xyz\r\n", "framing"),
    ("no CRLF behind a chunk", CHUNKED + b"13\r\nVERSION-0000000005\nxx0\r\n\r\n", "framing"),
    ("no HTTP at all", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "framing"),
    ("an older version", GOOD.replace(b"5\n", b"4\n"), "stale"),
    ("a version that nobody deployed", GOOD.replace(b"5\n", b"7\n"), "future"),
    ("two versions in one answer", CHUNKED + b"12\r\nVERSION-0000000005\r\n13\r\nVERSION-0000000006\n\r\n0\r\n\r\n", "mixed"),
    ("no answer in time", b"", "timeout"),
)


def serve_one(sock, answer, name):
    """Answers with these bytes, in pieces of 7."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while sock.recv(65536):
        if answer is RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        pieces = [answer] if name.startswith("bytes behind") else []  # what follows must come along
        for piece in pieces or [answer[i:i + 7] for i in range(0, len(answer or b""), 7)]:
            sock.sendall(piece)
        if answer == b"":
            sock.recv(1)
        if not name.startswith(("a good", "another", "an older", "a version", "two versions")):
            return


def serve(listener, answer, name):
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock:
            try:
                serve_one(sock, answer, name)
            except ConnectionError:
                pass  # graftload has seen enough


def one(checks, board, name, answer, expected):
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(listener, answer, name), daemon=True)
    thread.start()
    load = common.Load(f"127.0.0.1:{listener.getsockname()[1]}", ["name=plain,path=/,tail=\n"] if expected != "body" else
                       ["name=plain,path=/,answer=19,tail=\n"], board=board, versioned=True, connections=1, requests=3,
                       seconds=20, timeout=300)
    result = load.finish(60)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
    counted = {**{key: value for key, value in result["failures"].items() if value},
               **{key: result[key] for key in ("stale", "mixed", "future") if result[key]}}
    wanted = {expected: 3} if expected else {}
    if expected in ("stale", "mixed", "future", None):
        sums = result["answered"] == 3 and result["failed"] == 0
    else:
        sums = result["answered"] == 0 and result["failed"] == 3
    checks.check(counted == wanted and sums and load.process.returncode == (1 if expected else 0),
                 f"{name}: {expected or 'nothing'} counted (found {counted or 'nothing'}, exit status "
                 f"{load.process.returncode})")


def main():
    checks = common.Checks(tap=True)
    with common.WorkFolder("selftest") as work:
        board = common.Board(os.path.join(work, "board"))
        board["completed"], board["newest"] = 5, 6
        board.begin(common.QUIET)
        for name, answer, expected in CASES:
            one(checks, board, name, answer, expected)
        board.close()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
