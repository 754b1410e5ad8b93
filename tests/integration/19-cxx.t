#!/usr/bin/env python3
# graft.hpp: the example in C++ serves and is swapped; no exception leaves a plugin; what LATER owes is paid.
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *

THROWS = r"""
#include <graft/graft.hpp>
#include <cstring>
#include <memory>

using namespace std::chrono_literals;

static graft_next std_exception(graft::request &)
{
    throw std::runtime_error("a sad story");
}
static graft_next no_exception(graft::request &)
{
    throw 42;
}
static graft_next http(graft::request &req)
{
    req.text(200, "never seen");
    throw graft::http_error(418, "a \"teapot\"");
}
static graft_next after(graft::request &req)
{
    graft::after(req.defer(), 5ms, [](graft::later) { throw std::runtime_error("late story"); });
    return GRAFT_LATER;
}
static graft_next dropped(graft::request &req)
{
    auto held = std::make_unique<graft::later>(req.defer());
    graft::after(std::move(*held), 5ms, [](graft::later) {});
    return GRAFT_DONE; /* counts as GRAFT_LATER */
}
static graft_next deferred(graft::request &req)
{
    graft::later owed = req.defer();
    throw std::runtime_error("after defer");
}
static graft_next at_once(graft::request &req)
{
    graft::later owed = req.defer();
    owed->text(200, "at once");
    owed.done();
    return GRAFT_LATER;
}
static graft_next twice(graft::request &req)
{
    graft::later owed = req.defer();
    graft::later again = req.defer();
    return GRAFT_LATER;
}
static graft_next work(graft::request &req)
{
    const bool http = req.query("http") == "1";
    auto work = [http]() -> std::string {
        if (http)
            throw graft::http_error(409, "work says no");
        throw std::runtime_error("work story");
    };
    graft::offload(req.defer(), work, [](graft::later owed, std::string) { owed.done(); });
    return GRAFT_LATER;
}
static graft_next work_void(graft::request &req)
{
    auto count = std::make_shared<int>(0);
    graft::offload(req.defer(), [count] { ++*count; }, [count](graft::later owed) {
        graft::post(std::move(owed), [count](graft::later then) {
            then->text(200, std::to_string(++*count));
            then.done();
        });
    });
    return GRAFT_LATER;
}
static graft_next stream(graft::request &req)
{
    req.write("a part of it");
    req.flush();
    graft::after(req.defer(), 20ms, [](graft::later) { throw std::runtime_error("in a stream"); });
    return GRAFT_LATER;
}
static graft_next small(graft::request &req)
{
    graft_req *raw = req.get();
    req.after(1ms, [raw](graft::exchange &x) {
        if (x.get() == raw)
            throw std::runtime_error("small story");
    });
    graft::after(req.defer(), 30ms, [](graft::later owed) {
        owed->text(200, "small");
        owed.done();
    });
    return GRAFT_LATER;
}
struct up {
    std::size_t bytes;
};
static graft_next upload(graft::request &req)
{
    up &sum = req.make<up>(std::size_t{ 0 });
    auto *owed = new graft::later(req.defer());
    req.on_abort([owed](graft::exchange &) { delete owed; });
    req.on_body([&sum, owed](graft::exchange &x, std::string_view chunk, bool last) {
        sum.bytes += chunk.size();
        if (last) {
            x.text(200, std::to_string(sum.bytes));
            owed->done();
            delete owed;
        }
    });
    return GRAFT_LATER;
}
static graft_next on_request(graft::request &req)
{
    req.scratch<up>().bytes = 7;
    const auto how = req.query("mw");
    if (how == "throw")
        throw std::runtime_error("middleware story");
    if (how == "refuse")
        throw graft::http_error(401, "who are you?");
    if (how == "later")
        graft::after(req.defer(), 2ms, [](graft::later owed) { owed.done(); });
    if (how == "later-refuse")
        graft::after(req.defer(), 2ms, [](graft::later owed) { owed.error(403, "not you"); });
    if (how == "drop")
        graft::after(req.defer(), 2ms, [](graft::later) {});
    return GRAFT_NEXT;
}
static graft_next on_response(graft::request &req)
{
    req.add_header("X-Scratch", std::to_string(req.scratch<up>().bytes));
    return GRAFT_NEXT;
}
static void on_finish(graft::exchange &x)
{
    if (x.query("mw") == "finish")
        throw std::runtime_error("finish story");
}
static graft_next reads(graft::request &req)
{
    std::string all = std::to_string(req.header_count()) + " ";
    req.each_header([&](std::string_view name, std::string_view) { all += name.substr(0, 1); });
    return req.text(200, all);
}
struct state {
    explicit state(graft::self self) : timer(self.every<&state::tick>(20ms, this))
    {
        const auto schema = static_cast<std::uint32_t>(self.config_int("schema", 2));
        numbers = &self.shared<std::uint64_t>("numbers", schema);
        if (const auto *old = self.shared_old<std::uint64_t>("numbers", 2))
            *numbers = *old + 1;
        wrong = self.shared_old<char>("numbers", 2) || self.shared_old<std::uint64_t>("numbers", 9);
        if (self.config_bool("no-period", false))
            timer = self.every<&state::tick>(0ms, this);
        const char *fail = self.config_str("fail", "");
        if (std::strcmp(fail, "init") == 0)
            throw std::runtime_error("init story");
        ready_fails = std::strcmp(fail, "ready") == 0;
        self.shared<up>("block", 1).bytes++;
    }
    void ready(graft::self) const
    {
        if (ready_fails)
            throw graft::unavailable("ready story");
    }
    void cool(graft::self)
    {
        throw std::runtime_error("cool story");
    }
    void tick()
    {
        throw std::runtime_error("tick story");
    }
    ~state() noexcept(false)
    {
        throw std::runtime_error("end story");
    }
    graft_next number(graft::request &req)
    {
        return req.text(200, std::to_string(*numbers) + (wrong ? " wrong" : ""));
    }
    bool ready_fails, wrong;
    std::uint64_t *numbers;
    std::unique_ptr<graft::timer> timer;
};
static std::string export_state(graft::self, state &s)
{
    return std::to_string(*s.numbers);
}
static void import_state(graft::self self, std::uint32_t schema, std::string_view data, state &s)
{
    if (std::strcmp(self.config_str("fail", ""), "import") == 0)
        throw std::runtime_error("import story");
    *s.numbers += schema * 100 + (data == "0");
}
/* 50 ms more than an unsigned int of them */
static graft_next forever(graft::request &req)
{
    req.after(std::chrono::milliseconds(4294967346), [](graft::exchange &x) { x.text(200, "too soon"); });
    graft::after(req.defer(), 200ms, [](graft::later owed) { owed.done(); });
    return GRAFT_LATER;
}
static const graft_route routes[] = {
    { "GET", "/std", graft::handler<std_exception>, 0 },
    { "GET", "/int", graft::handler<no_exception>, 0 },
    { "GET", "/http", graft::handler<http>, 0 },
    { "GET", "/after", graft::handler<after>, 0 },
    { "GET", "/dropped", graft::handler<dropped>, 0 },
    { "GET", "/deferred", graft::handler<deferred>, 0 },
    { "GET", "/at-once", graft::handler<at_once>, 0 },
    { "GET", "/twice", graft::handler<twice>, 0 },
    { "GET", "/work", graft::handler<work>, 0 },
    { "GET", "/work-void", graft::handler<work_void>, 0 },
    { "GET", "/stream", graft::handler<stream>, 0 },
    { "GET", "/small", graft::handler<small>, 0 },
    { "GET", "/reads", graft::handler<reads>, 0 },
    { "GET", "/number", graft::handler<&state::number>, 0 },
    { "GET", "/forever", graft::handler<forever>, 0 },
    { "POST", "/upload", graft::handler<upload>, GRAFT_STREAM },
    {},
};
GRAFT_PLUGIN(.name = "throws", .version = "1", .scratch_size = sizeof(up), .init = graft::init<state>,
             .ready = graft::hook<&state::ready>, .cool = graft::end_hook<&state::cool>,
             .fini = graft::fini<state>, .routes = routes, .on_request = graft::middleware<on_request>,
             .on_response = graft::middleware<on_response>, .on_finish = graft::finish<on_finish>,
             .state_schema = 3, .export_state = graft::export_state<export_state>,
             .import_state = graft::import_state<import_state>)
"""


def example():
    with open(os.path.join(SRCDIR, "examples/cxx/notes.cc")) as f:
        return compile_plugin(f.read(), cxx=True)


@case("the example serves")
def _():
    s = Server({"notes": example()}, {"plugins": {"notes": {"config": {"limit": 2}}}})
    first = s.post("/notes", b"one\0two")
    is_((first.status, first.body), (201, b"1\n"), "a note is stored")
    is_(s.get("/notes/1").body, b"one\0two", "and read, byte for byte")
    missing = s.get("/notes/7")
    is_((missing.status, missing.json()["detail"]), (404, "no note 7"), "http_error: its status and its text")
    is_(s.get("/notes/x").json()["detail"], "id: expected a number", "400")
    s.post("/notes", b"two")
    is_(s.post("/notes", b"three").status, 507, "the limit")
    is_(s.get("/notes-find?text=two").body, b"2\n", "searched on the pool")
    is_(s.get("/notes-wait?ms=5").body, b"waited\n", "later")
    is_(s.metrics()["graft_plugin_notes_stored"], 2, "its counter")
    first = s.active("notes")["id"]
    s.install(make_unique(example()), "notes")
    ok(s.reload()["ok"], "swapped")
    is_(s.get("/notes/1").body, b"one\0two", "the new version has the notes")
    s.wait_event("retired", id=first, unmapped=True)
    ok(True, "and the old one is unmapped")


@case("a bad configuration is an exception, and the reason")
def _():
    s = Server({"notes": example()}, {"plugins": {"notes": {"config": {"limit": 0}}}}, start=False)
    run = graftd("-c", s.config_path)
    is_(run.returncode, 1, "refused")
    like(run.stderr, "config.limit is 0: expected 1 or more", "with what was thrown")


@case("no exception leaves the plugin: an answer, and a line that names it")
def _():
    s = Server({"throws": compile_plugin(THROWS, cxx=True)}, {"middleware": ["throws"]})

    def logged(text):
        def found():
            return [e for e in s.find_events(since=mark, plugin="throws") if text in str(e)]
        event = wait_for(found, 10, f"a line with '{text}'")[0]
        ok(event["level"] == "error", f"the log has: {text}", event)

    for target, status, line in (
            ("/std", 500, "exception: a sad story"), ("/int", 500, "something that is no std::exception"),
            ("/after", 500, "exception in a callback: late story"),
            ("/dropped", 500, "dropped without done"), ("/deferred", 500, "exception in a handler: after defer"),
            ("/twice", 500, "deferred twice"), ("/work", 500, "exception in offloaded work: work story"),
            ("/at-once?mw=throw", 500, "exception: middleware story"), ("/at-once?mw=drop", 500, "dropped without done"),
            ("/at-once?mw=finish", 200, "exception in on_finish: finish story"),
            ("/small", 200, "exception in a callback: small story")):
        mark = s.mark()
        is_(s.get(target).status, status, f"{target}: {status}")
        logged(line)
    for target, status, detail in (("/http", 418, 'a "teapot"'), ("/work?http=1", 409, "work says no"),
                                   ("/at-once?mw=refuse", 401, "who are you?"),
                                   ("/at-once?mw=later-refuse", 403, "not you")):
        answer = s.get(target)
        is_((answer.status, answer.json()["detail"]), (status, detail), f"{target}: {status}")
    is_(s.get("/at-once").body, b"at once", "done before the handler returns")
    is_(s.get("/at-once?mw=later").header("X-Scratch"), "7", "middleware that waits, and its scratch")
    is_(s.get("/work-void").body, b"2", "work without a result, then a post")
    is_(s.post("/upload", b"x" * 100000).body, b"100000", "a body as it arrives")
    mark = s.mark()
    with s.connect() as c:
        c.send(request_bytes("GET", "/stream"))
        isnt(c.ends(), None, "a stream that throws is cut")
        ok(b"a part of it" in c.data and not c.data.endswith(b"0\r\n\r\n"), "and does not look complete", c.data)
    logged("exception in a callback: in a stream")
    logged("exception in a timer: tick story")
    is_(s.find_events("misuse"), [], "nothing was misused")
    mark = s.mark()
    s.install(make_unique(compile_plugin(THROWS, cxx=True)), "throws")
    ok(s.reload()["ok"], "swapped")
    logged("exception: cool story")
    logged("exception: end story")


@case("what throws while it is loaded is refused, and says why")
def _():
    s = Server({"throws": compile_plugin(THROWS, cxx=True)})
    for fail in ("init", "ready", "import"):
        s.config["plugins"] = {"throws": {"config": {"fail": fail}}}
        like(s.reload(config=True)["failed"], f"{fail} story", f"in {fail}")
    is_(s.get("/at-once").status, 200, "what served before serves")

    s.config["plugins"] = {"throws": {"config": {"no-period": True}}}
    like(s.reload(config=True)["failed"], "a timer: under 1 ms", "a timer without a period")


@case("what a request has, shared blocks and hand-over")
def _():
    s = Server({"throws": compile_plugin(THROWS, cxx=True)})
    is_(s.request("GET", "/reads", {"X": "1", "Y": "2"}).text, "3 HXY", "header fields")
    is_(s.get("/forever").text, "", "a time longer than the server can count does not become a short one")
    is_(s.get("/number").text, "0", "a new block")
    s.config["plugins"] = {"throws": {"config": {"n": 1}}}
    ok(s.reload(config=True)["ok"], "swapped")
    is_(s.get("/number").text, "301", "the block goes on, and the state was handed over")
    s.config["plugins"] = {"throws": {"config": {"schema": 4}}}
    ok(s.reload(config=True)["ok"], "swapped")
    is_(s.get("/number").text, "602", "another schema: a new block, and the old one was read")
    is_(s.find_events("misuse"), [], "nothing was misused")


main()
