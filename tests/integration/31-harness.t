#!/usr/bin/env python3
# graft-harness: the same bytes to it and to a real server have the same answer, log and blame; and
# what breaks the contract fails a test with a sentence that names the culprit.
import json, os, re, socket, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

PLUGINS = ["response_api", "later_api", "stream_down", "stream_up", "router", "self_info", "order_handler",
           "order_a", "order_b", "order_body", "double_done", "done_without_later", "bad_next_value", "bad_status"]
SETTINGS = {"middleware": ["order-a", "order-b", "order-body"], "workers": 1,
            "limits": {"body_bytes": 5000}, "timeouts_ms": {"handler": 1000, "body": 1000}}
SOURCES = os.path.join(ENV["TEST_SRCDIR"], "tests", "harness")


def build(name):
    """As an author does, with what pkg-config says."""
    out = os.path.join(tempdir(), name)
    flags = [subprocess.run(["pkg-config", which, "graft-harness"], check=True, capture_output=True,
                            text=True).stdout.split() for which in ("--cflags", "--libs")]
    made = subprocess.run([*ENV["TEST_CC"].split(), *ENV["TEST_CFLAGS"].split(), "-O1", "-g", "-Wall", "-Wextra", "-Werror",
                           *flags[0], os.path.join(SOURCES, name + ".c"), "-o", out, *flags[1]],
                          capture_output=True, text=True)
    if made.returncode != 0:
        raise Failed(made.stderr)
    return out


def get(target, method="GET", headers=(), body=None, **more):
    fields = [tuple(h.split(": ", 1)) for h in ("Connection: close", *headers)]
    return request_bytes(method, target, fields, body, **more)


def requests():
    resp = ["text", "text&code=404", "text&code=700", "json", "json-empty", "error", "error&code=100", "nothing", "status",
            "status&code=204", "status&code=304", "status&code=99", "headers", "bad-headers", "length-exact",
            "length-short", "length-long", "file", "file&offset=3&len=4&mid=1", "file&offset=1&len=99999", "file-bad",
            "static", "static-big&bytes=300000", "big&bytes=200000", "reset", "printf", "zero", "replace", "getters",
            "close", "fail", "late-header", "replace-late", "flush-length", "flush-length-short", "flush-done", "none"]
    for which in resp:
        yield get(f"/resp?which={which}")
        yield get(f"/resp?which={which}", "HEAD")
    yield get("/resp?which=flush-done", version="1.0")
    for which in ["timer", "offload", "post", "post-thread", "done-thread", "any-thread", "done-before", "post-order",
                  "after-dropped", "then-after-done", "deadline&deadline=50&ms=300", "on-abort", "abort", "abort-stream",
                  "alloc", "timer&ms=1500"]:
        yield get(f"/later?which={which}")
    for more in ["bytes=1000", "bytes=70000&chunk=1000&static=1", "bytes=5000&length=1", "bytes=9000&abort=4000"]:
        yield get(f"/down?{more}")
    for more in ["", "?late=40", "?early=1", "?pause=20"]:
        yield get(f"/up{more}", "POST", body=b"x" * 3000)
    yield get("/up", "POST", body=b"x" * 6000)
    yield get("/up", "PUT", ["Transfer-Encoding: chunked"]) + b"3\r\nabc\r\n0\r\n\r\n"
    yield get("/up", "PUT", ["Transfer-Encoding: chunked"]) + b"zz\r\nabc\r\n0\r\n\r\n"
    yield get("/up", "PUT", ["Content-Length: 10"]) + b"short"
    yield get("/info", "PUT", ["Content-Length: 10"]) + b"short"
    for path in ["/r/a/b", "/r/a/z", "/r/a/z/d", "/r/q/b/c", "/r/files/a/%2e%2E/b%2fc", "/r/files/", "/r/none", "/r/m"]:
        yield get(path)
    yield get("/r/m", "DELETE")
    yield get("/r/m", "OPTIONS")
    yield get("*", "OPTIONS")
    yield get("/info?q=a%20b+c&header=x-two", headers=["X-Two: 1", "X-two: 2", "Cookie: a=b"])
    yield get("/info/%41%2Fb/x/rest/of/it", "POST", body=b"abc\x00\xff")
    yield get("/info/up", "POST", body=b"abc")
    yield get("/info", "POST", ["Expect: 100-continue"], b"abc")
    for how in ["done", "error", "bad", "text", "later", "later-done", "later-error", "now", "now-done", "post", "offload",
                "thread", "twice", "abort"]:
        for where in ["a", "b-res", "body"]:
            yield get(f"/order?{where}={how}")
    yield get("/order?a-res=later&b=later", "POST", body=b"abc")
    for path in ["/double-done", "/done-without-later", "/bad-next-value", "/bad-status?code=99", "/nothing"]:
        yield get(path)
    yield b"GET / HTTP/1.1\r\n\r\n"
    yield b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"
    yield b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"
    yield b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20000 + b"\r\n\r\n"


def body_of(raw):
    """Head and body, chunks put together: how a stream was cut into pieces is not the same twice."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, rest = rest.partition(b"\r\n\r\n")
    if b"\r\ntransfer-encoding: chunked" not in head.lower():
        return head, rest
    whole = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if size == b"0":
            return head, whole + b"<end>"
        whole, rest = whole + rest[:int(size, 16)], rest[int(size, 16) + 2:]
    return head, whole


def plain(raw):
    """What may differ: time, ids, ports."""
    head, body = body_of(raw)
    text = head + b"\n\n" + body
    text = re.sub(rb"\r\nDate: [^\r]*", b"", text)
    text = re.sub(rb"\b[0-9a-f]{32}\b", b"ID", text)
    text = re.sub(rb"\b(127\.0\.0\.1|192\.0\.2\.1):\d+", b"PEER", text)
    return text


def said(events):
    return sorted(f"{e['level']} {e['event']} {e.get('plugin')} " +
                  re.sub(r"\b[0-9a-f]{32}\b", "ID", e["msg"]) + f" {e.get('route')}"
                  for e in events if e["event"] in ("misuse", "plugin"))


def on_harness(program, lines):
    folder = tempdir()
    settings, out = os.path.join(folder, "settings.json"), os.path.join(folder, "out")
    with open(settings, "w") as f:
        json.dump(SETTINGS, f)
    run = subprocess.run([program, settings, out, *map(plugin_path, PLUGINS)], input="".join("~" * (b"thread" in x) + x.hex() + "\n" for x in lines),
                         capture_output=True, text=True, timeout=240)
    answers = []
    for line in open(out):
        kind, _, rest = line.rstrip("\n").partition(" ")
        if kind == "answer":
            answers.append((bytes.fromhex(rest.rpartition(" ")[0]), []))
        else:
            answers[-1][1].append(json.loads(rest))
    is_(len(answers), len(lines), f"the harness has answered all ({run.returncode}, {run.stderr[-300:]}{run.stdout[-300:]})")
    return answers


def on_server(s, raw):
    mark, got = s.mark(), b""
    with socket.create_connection(("127.0.0.1", s.port), timeout=30) as c:
        c.sendall(raw)
        try:
            while piece := c.recv(65536):
                got += piece
        except ConnectionResetError:
            pass
    return got, mark


@case("the same requests on the harness and on a real server")
def _():
    lines = list(requests())
    harness = on_harness(build("replay"), lines)
    s = Server({p.replace("_", "-"): p for p in PLUGINS}, config={**SETTINGS, "log": {"level": "info"}}, workers=1)
    wrong = []
    for raw, (answer, log) in zip(lines, harness):
        got, mark = on_server(s, raw)
        title = raw[:70].decode("latin-1").split("\r\n")[0]
        if plain(got) != plain(answer):
            wrong.append(f"{title}: the server answered {plain(got)[:300]!r}, the harness {plain(answer)[:300]!r}")
        try:
            wait_for(lambda: said(s.find_events(since=mark)) == said(log), 5 * SCALE, "the same log")
        except Failed:
            wrong.append(f"{title}: the server's log has {said(s.find_events(since=mark))}, the harness's {said(log)}")
    for line in wrong:
        diag(line)
    is_(len(wrong), 0, f"{len(lines)} requests, answers and log lines the same")


@case("what breaks the contract fails a test, and is told with its name")
def _():
    bad = build("bad")
    sentences = {
        "never": r"not ok \d+ - plugin bad 7 broke the contract: it answered GET /bad/1 \(route /bad/:x\) with GRAFT_LATER "
                 r"and still owes graft_done at the end of the test",
        "twice": r"not ok \d+ - plugin bad broke the contract: graft_done: nothing is owed: .*, on route /bad/:x",
        "thread": r"not ok \d+ - plugin bad: \d thread\(s\) that appeared during init still live after fini",
        "expected": r"not ok \d+ - a breach of the contract was expected and has not come: nothing of the kind",
        "check": r"not ok \d+ - graft_test_body\(r\)\n#   at .*bad.c:\d+\n#   got well\\x0a\n#   expected ill\\x0a",
        "inside": r"Bail out! graft-harness: graft_test_advance was called from inside a callback \(handler of plugin bad 7, "
                  r"route /bad/:x\)",
        "exits": r"Bail out! graft-harness: exit\(\) was called in handler of plugin bad 7, route /bad/:x",
        "no end": r"Bail out! graft-harness: the program ended without graft_test_end\(\)",
        "two ends": r"Bail out! graft-harness: graft_test_end was called twice",
        "null": r"Bail out! graft-harness: graft_test_status was given NULL: expected a request",
        "forgotten": r"Bail out! graft-harness: graft_test_body was given a request that is over",
        "no target": r"Bail out! graft-harness: a request needs a method and a target",
    }
    if ENV["TEST_SANITIZER"] == "none":
        sentences["free"] = r"not ok - Aborted: in handler of plugin bad 7, route /bad/:x"
        sentences["crash"] = r"not ok - Segmentation fault: in handler of plugin bad 7, route /bad/:x"
        sentences["offload"] = r"not ok - Segmentation fault: in offload of plugin bad 7, route /bad/:x"
    for what, sentence in sentences.items():
        run = subprocess.run([bad, what], capture_output=True, text=True, timeout=120)
        like(run.stdout, sentence, what)
        isnt(run.returncode, 0, f"{what}: the program fails")
    run = subprocess.run([bad, "config"], capture_output=True, text=True, timeout=120)
    like(run.stdout, r"^#   refused: config:\d+:\d+: ", "why a start failed is told without being asked")
    run = subprocess.run([bad], capture_output=True, text=True, timeout=120)
    is_((run.returncode, run.stdout), (0, "1..0\n"), "what is well is silent")


main()
