#!/usr/bin/env python3
# Shadow mode: a copy of some requests is tried on the canary, compared, and never answered from
import collections
import os
import signal
import statistics
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403

# One source for both versions: NEW is 0 in the stable one, 1 in the canary, which does under some paths
# what it should not.
SOURCE = r"""
#include <graft/graft.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static graft_metric *real, *shadows, *bodies;

static int init(graft_self *self, void **state)
{
    (void)state;
    real = graft_counter(self, NEW ? "new-real" : "old-real", "Requests of clients.");
    shadows = graft_counter(self, NEW ? "new-shadow" : "old-shadow", "Shadows.");
    bodies = graft_counter(self, "bodies", "Shadows with a body.");
    return 0;
}

static void ms(unsigned n)
{
    struct timespec t = { n / 1000, (long)(n % 1000) * 1000000L };
    nanosleep(&t, NULL);
}

static bool is(graft_req *req, const char *path)
{
    graft_str p = graft_path(req);
    return p.len == strlen(path) && memcmp(p.ptr, path, p.len) == 0;
}

static void answer(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "after all\n");
    graft_done(req);
}

static void give_up(graft_req *req, void *arg)
{
    (void)arg;
    graft_done(req);
}

static void work(void *arg)
{
    (void)arg;
    ms(NEW ? 300 : 1);
}

static void block(graft_req *req, void *arg)
{
    (void)arg;
    ms(20);
    graft_text(req, 200, "same\n");
    graft_done(req);
}

static const char large[250000];

static void piece(graft_req *req, void *arg)
{
    size_t n = (size_t)(intptr_t)arg;
    graft_printf(req, "piece %zu\n", n);
    graft_flush(req);
    if (n == 5)
        graft_done(req);
    else
        graft_after(req, 5, piece, (void *)(intptr_t)(n + 1));
}

static graft_next serve(graft_req *req, void *state)
{
    (void)state;
    bool shadow = graft_header(req, ":shadow").len > 0;
    graft_str body = graft_body(req);
    graft_add(shadow ? shadows : real, 1);
    if (shadow && body.len > 0)
        graft_add(bodies, 1);
    graft_set_header(req, "X-Version", NEW ? "new" : "old");
    if (shadow)
        graft_set_header(req, "X-Shadow", "yes");
    if (is(req, "/app/status"))
        return graft_text(req, NEW ? 404 : 200, "x\n");
    if (is(req, "/app/body"))
        return graft_text(req, 200, NEW ? "new\n" : "old\n");
    if (is(req, "/app/error") && NEW)
        return graft_fail_req(req, "on purpose");
    if (is(req, "/app/echo")) {
        graft_str user = graft_header(req, "X-User"), q = graft_query(req, "q"), peer = graft_peer(req);
        graft_str id = graft_request_id(req), target = graft_target(req);
        graft_printf(req, "%.*s|%.*s|%.*s|%.*s|%.*s|%zu\n", (int)user.len, user.ptr, (int)q.len, q.ptr,
                     (int)peer.len, peer.ptr, (int)id.len, id.ptr, (int)target.len, target.ptr,
                     graft_header_count(req));
        return GRAFT_DONE;
    }
    if (is(req, "/app/slow") && NEW) {
        graft_after(req, 500, answer, NULL);
        return GRAFT_LATER;
    }
    if (is(req, "/app/slow"))
        return graft_text(req, 200, "after all\n");
    if (is(req, "/app/block") && shadow)
        ms(20);
    if (is(req, "/app/block-later") && shadow) {
        graft_after(req, 1, block, NULL);
        return GRAFT_LATER;
    }
    if (is(req, "/app/large-slow") && NEW) {
        graft_after(req, 500, answer, NULL);
        return GRAFT_LATER;
    }
    if (is(req, "/app/large-slow") || is(req, "/app/large"))
        return graft_write_static(req, large, sizeof large) < 0 ? GRAFT_ERROR : GRAFT_DONE;
    if (is(req, "/app/never") && NEW) {
        graft_on_abort(req, give_up, NULL);
        return GRAFT_LATER;
    }
    if (is(req, "/app/abort") && NEW) {
        graft_abort(req);
        return GRAFT_LATER;
    }
    if (is(req, "/app/promise") && NEW) {
        graft_set_header(req, "Content-Length", "100");
        graft_write(req, "less", 4);
        return GRAFT_DONE;
    }
    if (is(req, "/app/offload")) {
        if (graft_offload(req, work, answer, NULL) == 0)
            return GRAFT_LATER;
        return graft_error(req, 503, "queue");
    }
    if (is(req, "/app/stream")) {
        piece(req, (void *)1);
        return GRAFT_LATER;
    }
    if (is(req, "/app/endless") && NEW) {
        for (int i = 0; i < 4000; i++)
            graft_write(req, "0123456789012345678901234567890123456789012345678901234567890123456789", 70);
        graft_flush(req);
        graft_on_abort(req, give_up, NULL);
        graft_after(req, 1, (void (*)(graft_req *, void *))serve, NULL);
        return GRAFT_LATER;
    }
    if (is(req, "/app/big")) {
        char *text = malloc(3 << 20);
        memset(text, 'a', 3 << 20);
        if (NEW)
            text[0] = 'b';
        graft_write(req, text, 3 << 20);
        free(text);
        return GRAFT_DONE;
    }
    if (is(req, "/app/same-file") || is(req, "/app/other-file")) {
        int fd = open(is(req, "/app/same-file") || !NEW ? FILES "/one" : FILES "/two", O_RDONLY | O_CLOEXEC);
        graft_write(req, "before ", 7);
        graft_send_file(req, fd, 0, 100000);
        graft_write(req, " behind", 7);
        return GRAFT_DONE;
    }
    return graft_text(req, 200, "same\n");
}

GRAFT_PLUGIN(.name = "app", .version = NEW ? "new" : "old", .summary = "For 89-shadow.t.", .init = init,
             .routes = (const graft_route[]){ { "GET", "/app/*rest", serve, 0 },
                                              { "POST", "/app/*rest", serve, 0 },
                                              { "GET", "/gone", serve, 0 } + 0 * NEW, { 0 } })
"""
SOURCE = SOURCE.replace('{ "GET", "/gone", serve, 0 } + 0 * NEW, ', "GONE ")

FILES = tempdir()
for _name, _byte in (("one", b"1"), ("two", b"2")):
    with open(os.path.join(FILES, _name), "wb") as _f:
        _f.write(_byte * 200000)


# Around everything, with state to hand over, which waits for all requests of the version before.
AROUND = r"""
#include <graft/graft.h>

static graft_next pass(graft_req *req, void *state)
{
    (void)req, (void)state;
    return GRAFT_NEXT;
}

static int out(graft_self *self, void *state, graft_buf *to)
{
    (void)self, (void)state;
    return graft_buf_add(to, "x", 1);
}

static int in(graft_self *self, void *state, uint32_t schema, graft_str data)
{
    (void)self, (void)state, (void)schema;
    return data.len == 1 ? 0 : graft_fail(self, "no state");
}

GRAFT_PLUGIN(.name = "around", .version = VERSION, .summary = "For 89-shadow.t.", .on_request = pass,
             .state_schema = 1, .export_state = out, .import_state = in)
"""


def build(new, extra=0):
    gone = "" if new else '{ "GET", "/gone", serve, 0 },'
    return compile_plugin(SOURCE, f"-DNEW={new}", f'-DFILES="{FILES}"', f"-DGONE={gone}", f"-DEXTRA={extra}")


def begin(shadow=100, weight=0, config=None, **more):
    """The old version serves, the new one is a canary with shadows."""
    s = Server([], config, **more)
    s.install(build(0), "app")
    ok(s.reload()["ok"], "the stable version serves")
    s.install(build(1), "app")
    run = s.ctl("canary", "app", "--weight", str(weight), "--shadow", str(shadow))
    is_(run.returncode, 0, f"canary --weight {weight} --shadow {shadow}")
    return s


def canary(s):
    return s.ps("app", "canary")[0]


def shadow_of(s):
    """Its figures, when nothing is in flight any more."""
    def quiet():
        now = canary(s).get("shadow")
        return now if now and now["in_flight"] == 0 else None
    time.sleep(0.05)
    return strip(wait_for(quiet, 20, "all shadows have ended"))


def strip(shadow):
    return {k: v for k, v in shadow.items() if k not in ("percent", "in_flight", "examples")}


def figures(requests, **outcomes):
    return {"requests": requests, "same": 0, "status": 0, "body": 0, "failed": 0, "dropped": 0, **outcomes}


def calm(s, n):
    """Until the shadows made are at least n, and none is in flight."""
    wait_for(lambda: (canary(s).get("shadow") or {}).get("requests", 0) >= n, 20, f"{n} shadows")
    return shadow_of(s)


def ask(s, n, target="/app/x", method="GET", pause=0, headers=()):
    """One after the other on one connection, without giving the shadows more to do than they may have."""
    seen = collections.Counter()
    with s.connect() as conn:
        for i in range(n):
            answer = conn.request(method, target, headers)
            seen[(answer.status, answer.header("X-Version"), answer.header("X-Shadow"))] += 1
            if pause:
                time.sleep(pause)
    return seen


def counters(s):
    out = collections.Counter()
    for name, value in s.metrics().items():
        if name.startswith("graft_plugin_app_"):
            out[name.removeprefix("graft_plugin_app_").split("{")[0].removesuffix("_total")] += int(value)
    return out


def metric(s, outcome):
    return sum(v for k, v in s.metrics().items()
               if k.startswith("graft_shadow_requests_total") and f'outcome="{outcome}"' in k)


@case("the share is exact, clients are answered by the stable version alone, figures add up")
def _():
    n = 4000
    for percent in (10, 33, 100):
        s = begin(percent, workers=1)
        is_(ask(s, n), {(200, "old", None): n}, f"{percent} %: every answer is the stable version's")
        got = calm(s, int(n * percent / 100) - n // 100)
        within(got["requests"] / n, percent / 100 - 0.01, percent / 100 + 0.01, f"{percent} %: as many shadows, within 1 %")
        is_(got["same"] + got["dropped"], got["requests"], "all the same, but for what was dropped")
        made = counters(s)
        is_((made["old_real"], made["new_real"], made["old_shadow"]), (n, 0, 0), "clients' requests: one version's")
        is_(made["new_shadow"], got["same"], "and each shadow ran once on the other")
        version = canary(s)
        is_((version["served"], version["errors"], version["in_flight"]), (0, 0, 0), "shadows are no requests of the version")
        is_(s.status()["in_flight"], 0, "nor of the server")
        is_(s.metrics()['graft_http_responses_total{class="2xx"}'], n, "and no answers")
        is_(version["shadow"]["percent"], percent, "ps says which share")
        is_([v for k, v in s.metrics().items() if k.startswith("graft_shadow_percent")], [percent], "/metrics too")
        is_(metric(s, "same") + metric(s, "dropped"), got["requests"], "and has the figures")
        is_(s.stop(), 0, "drained")


@case("only GET and HEAD without a body; only what the stable version serves")
def _():
    s = begin(100)
    ask(s, 50, method="POST")
    with s.connect() as conn:
        for _ in range(20):
            conn.request("GET", "/app/x", body=b"12345")
    is_(sum(counters(s)[k] for k in ("new_shadow", "new_real")), 0, "no POST, and no GET with a body, has a shadow")
    ask(s, 20, "/nowhere")
    is_(shadow_of(s), figures(0), "nor has a request of no version")
    for _ in range(10):
        ask(s, 1, method="HEAD", pause=0.02)
    is_(calm(s, 10), figures(10, same=10), "HEAD has")
    is_(s.ctl("canary", "app", "--weight", "60").returncode, 0, "a weight beside it")
    is_(canary(s)["shadow"]["percent"], 100, "leaves the shadow as it was asked for")
    seen = ask(s, 1000, pause=0.001)
    within(seen[(200, "new", None)] / 1000, 0.58, 0.62, "the canary answers its own share")
    now = calm(s, 10 + seen[(200, "old", None)])
    is_(now["requests"], 10 + seen[(200, "old", None)], "shadows are made of the others")
    is_(s.ctl("canary", "app", "--weight", "60", "--shadow", "0").returncode, 0, "no more shadows")
    ask(s, 100)
    is_(shadow_of(s)["requests"], now["requests"], "and none are made")
    for wrong in ("101", "-1", "x", ""):
        is_(s.ctl("canary", "app", "--weight", "5", "--shadow", wrong).returncode, 1, f"shadow '{wrong}' is refused")
    is_(s.api("POST", "/v1/plugins/app/canary?shadow=5&shadow=6")["_status"], 400, "so is a share of nothing")
    is_(s.api("POST", "/v1/plugins/app/canary?weight=5&weight=6")["_status"], 400, "or twice the same")
    is_(s.stop(), 0, "drained")


@case("a shadow is a copy: method, target, headers, peer and id; marked for plugins, and nobody can send the mark")
def _():
    s = begin(100)
    for i in range(15):
        answer = s.request("GET", f"/app/echo?q=a%20{i}", [("X-User", f"user-{i}"), ("X-Other", "b"), ("X-Other", "c")])
        like(answer.body.decode(), rf"^user-{i}\|a {i}\|127.0.0.1:[0-9]+\|[0-9a-f]{{32}}\|/app/echo\?q=a%20{i}\|", "the answer")
        time.sleep(0.01)
    is_(calm(s, 15), figures(15, same=15), "its shadow's is the same, byte by byte")
    before = counters(s)["old_shadow"]
    is_(s.request("GET", "/app/x", [(":shadow", "1")]).status, 400, "the mark cannot be sent")
    is_(counters(s)["old_shadow"], before, "and no plugin has seen it")
    is_(counters(s)["bodies"], 0, "no shadow has a body")
    is_(s.stop(), 0, "drained")


@case("differences in status and body are counted, with examples that cannot hurt")
def _():
    s = begin(100)
    mark, started = s.mark(), time.time()
    for target, n in (("/app/status", 3), ("/app/body", 4), ("/app/error", 2), ("/app/x", 5), ("/gone", 1)):
        is_(ask(s, n, target, pause=0.02), {(200, "old", None): n}, f"{target}: the stable version answers")
    got = calm(s, 15)
    is_(got, figures(15, same=5, status=6, body=4), "each by its kind: 404, 500 and no route differ in status")
    is_([metric(s, o) for o in ("same", "status", "body", "failed", "dropped")], [5, 6, 4, 0, 0], "/metrics says the same")
    examples = canary(s)["shadow"]["examples"]
    is_((examples[0]["outcome"], examples[0]["path"], examples[0]["status"], examples[0]["shadow_status"]),
        ("status", "/gone", 200, 404), "the last one is the first example")
    ok(1 < len(examples) <= 4, "there are a few", examples)
    event = s.wait_event("shadow", since=mark, plugin="app")
    ok(event["level"] == "warn" and event["requests"] >= 1 and event["stable"] == s.active("app")["id"], "an event tells of it", event)
    text = s.ctl("ps").stdout
    like(text, r"app@[0-9a-f.]+: shadow of 100 %: 15 requests, 5 same; status differs 6, body differs 4, failed 0, dropped 0", "graftctl ps")
    like(text, r"    GET /gone: 200, shadow 404; 5 bytes, shadow [0-9]+", "with the examples")
    s.request("GET", "/app/status?secret=1")
    calm(s, 16)
    ask(s, 1, "/app/body/" + "x" * 300)
    ask(s, 1, "/app/%0a%1b[31m\"<%ff/../status")
    calm(s, 18)
    shown = str(canary(s)["shadow"]["examples"])
    ok("secret" not in shown and "\\n" not in shown and "\\x1b" not in shown, "no query, no control characters", shown)
    ok(all(len(e["path"]) <= 88 and e["path"].isascii() and e["path"].isprintable() for e in canary(s)["shadow"]["examples"]), "short and plain")
    time.sleep(1)
    is_(len(s.find_events("shadow", mark)), 1, "one line, however many differ")
    is_(len([e for e in s.find_events("request_failed", mark) if not e.get("shadow")]), 0, "what failed in shadows is marked in the log")
    for _ in range(400):
        s.get("/app/error")
    calm(s, 400)
    many = len(s.find_events("request_failed", mark))
    most = 2 * 10 * (2 + int(time.time() - started))  # of each worker ten in a second
    ok(0 < many <= most, f"the log is not filled: {many} lines")
    is_(s.stop(), 0, "drained")


@case("LATER, offload, streams, files and large bodies are compared like others")
def _():
    s = begin(100, config={"offload": {"threads": 4}})
    for target, kind in (("/app/stream", "same"), ("/app/slow", "same"), ("/app/offload", "same"), ("/app/same-file", "same"),
                         ("/app/other-file", "body"), ("/app/big", "body"), ("/app/abort", "failed"), ("/app/promise", "failed"),
                         ("/app/endless", "body")):
        before = shadow_of(s)
        for _ in range(3):
            is_(s.get(target).status, 200, f"{target}: the client is answered")
        # /app/endless: another body, ended early
        after = calm(s, before["requests"] + 3)
        is_({k: after[k] - before[k] for k in after}, figures(3, **{kind: 3}), f"{target}: {kind}")
    for target in ("/app/same-file", "/app/stream"):
        before = shadow_of(s)
        ask(s, 2, target, "HEAD", pause=0.1)
        is_(calm(s, before["requests"] + 2)["same"] - before["same"], 2, f"HEAD of {target}: the same")
    is_((canary(s)["served"], canary(s)["errors"]), (0, 0), "no shadow counts as a request of the version, however it ended")
    is_(s.metrics()['graft_http_responses_total{class="cut"}'], 0, "nor as one that was cut")
    is_(s.stop(), 0, "drained")


@case("a slow shadow does not slow the answers; so many at once, the others are dropped")
def _():
    s = begin(0, workers=1, config={"timeouts_ms": {"handler": 2000}, "offload": {"threads": 4}})

    def median(target):
        times = []
        with s.connect() as conn:
            for _ in range(150):
                began = time.perf_counter()
                conn.get(target)
                times.append(time.perf_counter() - began)
        return statistics.median(times)
    for target in ("/app/slow", "/app/never", "/app/offload"):
        s.ctl("canary", "app", "--weight", "0", "--shadow", "0")
        plain = min(median(target) for _ in range(2))
        s.ctl("canary", "app", "--weight", "0", "--shadow", "100")
        before, began = canary(s).get("shadow", figures(0)), time.monotonic()
        mirrored = min(median(target) for _ in range(2))
        ok(mirrored < 5 * plain + 0.01, f"{target}: {plain * 1e3:.2f} ms without, {mirrored * 1e3:.2f} ms with shadows of 300 ms and more")
        now = canary(s)["shadow"]
        ok(now["in_flight"] <= 16, "no more than 16 at once", now)
        wait_for(lambda: canary(s)["shadow"]["in_flight"] == 0, 20, "they end")
        now, took = canary(s)["shadow"], time.monotonic() - began
        is_(now["requests"] - before["requests"], 300, "each request is counted")
        made = 300 - (now["dropped"] - before["dropped"])
        most = 16 * (took / 0.5 + 2) if target == "/app/slow" else took / 0.3 + 2  # offloaded: one thread of the four
        ok(target == "/app/never" or 1 <= made <= most, f"{made} were made in {took:.1f} s, the others dropped", now)
        if target == "/app/never":
            ok(now["failed"] - before["failed"] >= 16, "and those without an end failed at timeouts_ms.handler", now)
    is_(s.stop(), 0, "drained")


@case("a canary whose handlers block its worker is given a hundredth of the worker's time")
def _():
    for target in ("/app/block", "/app/block-later"):
        s = begin(0, workers=1)

        def answers(seconds):
            """How many one client gets."""
            n, until = 0, time.monotonic() + seconds
            with s.connect() as conn:
                while time.monotonic() < until:
                    conn.get(target)
                    n += 1
            return n
        plain = answers(1)
        s.ctl("canary", "app", "--weight", "0", "--shadow", "100")
        began = time.monotonic()
        mirrored = max(answers(1) for _ in range(5))
        made, took = counters(s)["new_shadow"], time.monotonic() - began
        ok(1 <= made <= took / 1.9 + 2, f"{target}: {made} shadows of 20 ms in {took:.1f} s")
        ok(mirrored > plain / 2, f"{target}: {mirrored:.0f} answers a second, {plain} without shadows")
        is_(s.stop(), 0, "drained")


@case("while as many shadows run as may, large answers cost their clients nothing more")
def _():
    s = begin(0, workers=1, config={"timeouts_ms": {"handler": 60000}})

    def median():
        times = []
        with s.connect() as conn:
            for _ in range(300):
                began = time.process_time(), time.perf_counter()
                conn.get("/app/large-slow")
                times.append(time.perf_counter() - began[1])
        return statistics.median(times)
    plain = min(median() for _ in range(3))
    s.ctl("canary", "app", "--weight", "0", "--shadow", "100")
    mirrored = min(median() for _ in range(3))
    now = canary(s)["shadow"]
    ok(now["dropped"] > 800, "nearly all are dropped", now)
    ok(mirrored < 1.5 * plain + 0.0001, f"{plain * 1e6:.0f} us without shadows, {mirrored * 1e6:.0f} us with")
    is_(s.stop(), 0, "drained")


@case("shadows of large answers take a bounded share of the worker's time, however many are asked for")
def _():
    s = begin(0, workers=1)

    def answers(target, seconds):
        n, until = 0, time.monotonic() + seconds
        with s.connect() as conn:
            while time.monotonic() < until:
                conn.get(target)
                n += 1
        return n / seconds
    for target in ("/app/large", "/app/x"):
        plain, mirrored, made = [], [], 0
        for _ in range(3):  # in turn: the machine may be busy for a while
            s.ctl("canary", "app", "--weight", "0", "--shadow", "0")
            plain.append(answers(target, 1))
            s.ctl("canary", "app", "--weight", "0", "--shadow", "100")
            before = canary(s).get("shadow", figures(0))["same"]
            mirrored.append(answers(target, 1))
            made += canary(s)["shadow"]["same"] - before
        ok(max(mirrored) > statistics.median(plain) / 2, f"{target}: {mirrored} answers a second, {plain} without shadows")
        ok(made >= (1 if target == "/app/large" else 50 / SCALE), f"{made} shadows in three seconds")
    is_(s.stop(), 0, "drained")


@case("by the configuration: rollout.shadow, which HUP changes; a newer file goes on with it")
def _():
    rollout = {"steps": [0, 50], "auto": False, "shadow": 20}
    s = Server([], {"plugins": {"app": {"rollout": rollout}}}, workers=1)
    s.install(build(0), "app")
    s.reload()
    s.install(build(1), "app")
    mark = s.mark()
    ok(s.reload()["ok"], "a changed file begins a rollout")
    is_(s.wait_event("canary", since=mark)["shadow"], 20, "the event says the share of shadows")
    ask(s, 1000)
    within(calm(s, 180)["requests"], 190, 210, "a fifth")
    rollout["shadow"] = 50
    ok(s.reload_signal(signal.SIGHUP)["ok"], "HUP")
    is_(canary(s)["shadow"]["percent"], 50, "another share")
    s.install(build(1, 7), "app")
    ok(s.reload()["ok"], "a newer file takes the canary's place")
    is_((canary(s)["shadow"]["percent"], canary(s)["shadow"]["requests"]), (50, 0), "with shadows of its own")
    for wrong in (101, -1, "x", 1.5):
        rollout["shadow"] = wrong
        s.write_config()
        is_(graftd("-t", "-c", s.config_path).returncode, 1, f"shadow {wrong!r} is refused")
    is_(s.stop(), 0, "drained")


@case("shadows of a version that leaves end at once: abort, promote, a newer file, another plugin's swap, the drain")
def _():
    for how in ("abort", "promote", "newer", "weight"):
        s = begin(100, config={"timeouts_ms": {"handler": 60000}})
        was = canary(s)["id"]
        for _ in range(10):
            s.get("/app/never")
        wait_for(lambda: canary(s)["shadow"]["in_flight"] > 0, 10, "shadows without an end run")
        mark = s.mark()
        if how == "newer":
            s.install(build(1, 1), "app")
            ok(s.reload()["ok"], "a newer file")
        elif how == "weight":
            is_(s.ctl("canary", "app", "--weight", "30").returncode, 0, "weight")
            is_(canary(s)["id"], was, "the canary stays")
            is_(s.ctl("abort", "app").returncode, 0, "and then leaves")
        else:
            is_(s.ctl(how, "app").returncode, 0, how)
        gone = was if how != "promote" else None
        event = s.wait_event("retired", 20, since=mark, **({"id": gone} if gone else {}))
        ok(event["unmapped"], f"{how}: the version that leaves is unloaded, though its shadows had no end", event)
        ok(all(a.status == 200 for a in (s.get("/app/x"), s.get("/app/y"))), "and it serves on")
        is_(s.stop(), 0, f"{how}: drained")

    s = Server([], {"timeouts_ms": {"handler": 60000, "handover": int(10000 * max(1, secs(1)))}})
    s.install(build(0), "app")
    s.install(compile_plugin(AROUND, '-DVERSION="a"'), "around")
    s.reload()
    s.config["middleware"] = ["around"]
    ok(s.reload_signal(signal.SIGHUP)["ok"], "a middleware with state")
    s.install(build(1), "app")
    is_(s.ctl("canary", "app", "--weight", "0", "--shadow", "100").returncode, 0, "canary")
    for _ in range(10):
        s.get("/app/never")
    wait_for(lambda: canary(s)["shadow"]["in_flight"] > 0, 10, "shadows without an end run")
    s.install(compile_plugin(AROUND, '-DVERSION="b"'), "around")
    answer = s.reload()
    ok(answer["ok"], "its hand-over does not wait for shadows", answer)
    is_(s.active("around")["version"], "b", "the new one serves")
    now = shadow_of(s)
    is_((now["dropped"], now["failed"]), (10, 0), "the shadows were dropped")
    ask(s, 10, pause=0.02)
    is_(calm(s, 20)["same"], 10, "and others are made")
    is_(s.stop(), 0, "drained")

    s = begin(100, config={"timeouts_ms": {"handler": 60000}, "drain": {"timeout_ms": int(20000 * max(1, secs(1)))}})
    for _ in range(10):
        s.get("/app/never")
    wait_for(lambda: canary(s)["shadow"]["in_flight"] > 0, 10, "shadows without an end run")
    began = time.monotonic()
    is_(s.stop(), 0, "the drain ends them: clean")
    ok(time.monotonic() - began < secs(10), "and soon", time.monotonic() - began)


@case("under load, while canaries come and go: no request fails, no shadow is lost or counted twice")
def _():
    s = begin(50, config={"timeouts_ms": {"handler": 5000}})
    targets = ("/app/x", "/app/slow", "/app/never", "/app/stream", "/app/same-file", "/app/abort")
    probes = [Prober(s, target, every=0.002, value=lambda r: r.header("X-Shadow")).start() for target in targets]
    for i in range(12):
        step = i % 4
        if step == 0:
            s.ctl("canary", "app", "--weight", "20", "--shadow", "100")
        elif step == 1:
            s.install(build(1, 10 + i), "app")
            s.reload()
        elif step == 2:
            s.ctl("abort", "app")
        else:
            s.install(build(1, 100 + i), "app")
            s.ctl("canary", "app", "--weight", "0", "--shadow", "100")
        time.sleep(0.2)
    for p in probes:
        p.stop()
    # /app/never and /app/abort are answered by the canary while it has a weight: not asked of these
    for target, p in zip(targets, probes):
        if target not in ("/app/never", "/app/abort"):
            is_(p.failures, [], f"{target}: no request failed")
        is_(set(p.seen), {None}, f"{target}: no answer was a shadow's")
    got = shadow_of(s)
    is_(sum(v for k, v in got.items() if k != "requests"), got["requests"], "each shadow has one outcome")
    wait_for(lambda: len(s.ps("app")) == 2, 20, "the versions that left are unloaded")
    is_([v["in_flight"] for v in s.ps("app")], [0, 0], "nothing is pinned")
    is_(s.stop(), 0, "drained")


main()
