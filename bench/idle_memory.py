#!/usr/bin/env python3
"""Memory of an idle keep-alive connection: 8,000 of them, each having had one request answered, are
held open; what counts is by how much the server's private dirty memory grew, by connection. (The
kernel's own memory for a socket is the same for every server and not counted.)"""

import argparse
import os
import signal
import socket
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import common  # noqa: E402


def ask(sock, path):
    """One request, one answer with a Content-Length."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    data = b""
    while True:
        part = sock.recv(4096)
        if not part:
            raise SystemExit(f"the server closed the connection after {data!r}")
        data += part
        head, end, body = data.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if end and line.lower().startswith(b"content-length:") and len(body) >= int(line.split(b":")[1]):
                return


def open_connections(server, path, count):
    socks = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", server.port), 10)
        ask(sock, path)
        socks.append(sock)
    return socks


def measure(server, path, count):
    """Bytes a connection, and the two readings in KB."""
    for sock in open_connections(server, path, 50):  # what the first requests allocate is not growth
        sock.close()
    time.sleep(0.5)
    before = common.memory_kb(server.process.pid)[1]
    socks = open_connections(server, path, count)
    time.sleep(0.5)
    after = common.memory_kb(server.process.pid)[1]
    ask(socks[0], path)  # they are still served
    ask(socks[-1], path)
    for sock in socks:
        sock.close()
    time.sleep(1)
    return (after - before) * 1024 / count, before, after, common.memory_kb(server.process.pid)[1]


def graft_start(options, work):
    server = common.Graftd(work, options.graftd)
    common.compile_plugin(os.path.join(common.TOP, "plugins/hello/hello.c"), os.path.join(server.plugins, "hello.so"))
    return server.start()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--graftd")
    add("--servers", default="graftd,nginx")
    add("--connections", type=int, default=8000)
    add("--bytes", type=float, default=600, help="wanted of graftd, less than (600)")
    add("--tap", action="store_true")
    add("--json", metavar="FILE")
    options = parser.parse_args()
    checks = common.Checks(options.tap)
    figures = {"machine": common.machine()}
    checks.note(figures["machine"])
    makers = {"graftd": (graft_start, "/hello"), "nginx": (lambda _, work: common.Nginx(work).start(), "/")}
    for name in options.servers.split(","):
        make, path = makers[name]
        with common.WorkFolder("idle") as work:
            server = make(options, work)
            try:
                each, before, after, closed = measure(server, path, options.connections)
            finally:
                server.stop(signal.SIGTERM, 10)
        figures[name] = {"bytes": each, "before_kb": before, "after_kb": after, "closed_kb": closed}
        text = (f"{name}: {each:.0f} bytes of private dirty memory for each of {options.connections} idle "
                f"connections ({before} -> {after} KB, {closed} KB when they were closed)")
        if name == "graftd":
            checks.check(each < options.bytes, f"{text} (wanted < {options.bytes:g})")
        else:
            checks.note(text)
    common.write_json(options.json, figures)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
