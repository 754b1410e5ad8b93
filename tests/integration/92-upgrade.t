#!/usr/bin/env python3
# graftctl upgrade: another process on the same sockets, then another program, without a failed request
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from upgradetest import *  # noqa: E402,F403

# ---- Whole ----

OTHER = os.path.join(ENV["TEST_BUILDDIR"], "tests", "graftd-other-")


@case("under load: no failed request on kept and new connections; the supervisor becomes the new program in place")
def _():
    path = program()
    s = server(path=path)
    isnt(s.pid, s.proc.pid, "there is a supervisor")
    fresh = program()
    os.rename(fresh, path + ".new")
    os.rename(path + ".new", path)
    inode = os.stat(path).st_ino
    isnt(os.stat(f"/proc/{s.proc.pid}/exe").st_ino, inode, "the file was replaced")
    with Prober(s, "/hello", clients=3) as kept, Prober(s, "/hello", clients=3, keep_alive=False) as new, \
            Conn(s) as slow:
        slow.send(request_bytes("GET", f"/slow/timer?ms={ms(1500)}"))
        wait_for(lambda: s.status()["in_flight"] >= 1, 5, "a slow request is in progress")
        old = s.pid
        status, answer = upgrade(s)
        is_((status, answer.get("ok"), answer.get("note")), (0, True, None), f"done {answer}")
        pid = s.pid
        is_((answer["old"]["pid"], answer["new"]["pid"]), (old, pid), "old and new are named")
        is_(slow.response().status, 200, "the slow request ends on the old one")
        gone(old)
        kept.wait_count(50)
        new.wait_count(50)
    is_((kept.failures, new.failures), ([], []), "no request failed")
    is_(os.stat(f"/proc/{s.proc.pid}/exe").st_ino, inode, "the supervisor is the new program, as the same process")
    is_(os.stat(f"/proc/{pid}/exe").st_ino, inode, "so is the server process")
    is_(open(f"/proc/{s.proc.pid}/comm").read().strip(), "graftd", "under the same name")
    is_(children(s.proc.pid), [pid], "one child")
    is_(s.ops_get("/readyz").status, 200, "the ops address is the new one's")
    event = s.wait_event("upgrade", ok=True)
    is_((event["old_pid"], event["new_pid"]), (old, pid), "an event tells it")
    is_(len(s.staged()), 2, "the old one's copies are removed")
    s.install(make_unique("hello"), "hello")
    is_(s.reload()["ok"], True, "the new one swaps")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: any(c != pid for c in children(s.proc.pid)), 10, "the new supervisor starts another one")
    wait_for(lambda: s.get("/hello").status == 200, 10, "which serves")
    is_(s.stop(), 0, "exit 0")
    is_((s.staged(), os.path.exists(s.control), os.listdir(s.stage_dir)), ([], False, []), "nothing stays behind")


@case("twice in a row, also while the one before still drains; words for people")
def _():
    s = server()
    with Prober(s, "/hello", clients=2) as p, Conn(s) as slow:
        slow.send(request_bytes("GET", f"/slow/timer?ms={ms(3000)}"))
        wait_for(lambda: s.status()["in_flight"] >= 1, 5, "a slow request is in progress")
        first = s.pid
        done = s.ctl("upgrade")
        second = s.pid
        is_(done.returncode, 0, f"exit 0 {done.stderr}")
        like(done.stdout, rf"old: process {first}, graftd \S+\nnew: process {second}, graftd \S+\nupgraded in ", "what it prints")
        done = s.ctl("upgrade")
        is_(done.returncode, 0, f"once more {done.stderr}")
        third = s.pid
        is_(len({first, second, third}), 3, "three processes")
        is_(slow.response().status, 200, "the first one's request ends")
        gone(first), gone(second)
        p.wait_count(20)
    is_(p.failures, [], "no request failed")
    good(s)
    is_(s.stop(), 0, "exit 0")


@case("unix listeners: the file stays the same, nothing is refused")
def _():
    path = os.path.join(tempdir(), "s.sock")
    s = server(listen=(f"unix:{path}", "127.0.0.1:0"))
    inode = os.stat(path).st_ino
    with Prober(path, "/hello", clients=2) as kept, Prober(path, "/hello", clients=2, keep_alive=False) as new:
        good(s)
        kept.wait_count(20), new.wait_count(20)
    is_((kept.failures, new.failures), ([], []), "no request failed")
    is_(os.stat(path).st_ino, inode, "the same socket file")
    is_(s.stop(), 0, "exit 0")
    is_(os.path.exists(path), False, "removed in the end")


# ---- What does not get ready ----

@case("a program that does not get ready changes nothing, and graftctl says why")
def _():
    s = server(config={"timeouts_ms": {"upgrade": ms(2500), "load": ms(20000)}})
    plain = program()
    os.chmod(plain, 0o644)
    opened = program()
    os.chmod(opened, 0o775)
    folder = os.path.dirname(s.config_path)
    broken = os.path.join(folder, "broken")
    with open(broken, "wb") as f:
        f.write(b"\x7fELF" + b"\0" * 100)
    os.chmod(broken, 0o755)
    copies = s.staged()
    with Prober(s, "/hello", clients=2) as p:
        bad(s, "graftd.*No such file", "--binary", "/no/such/graftd")
        bad(s, "not executable", "--binary", plain)
        bad(s, "nobody else may write", "--binary", opened)
        bad(s, "expected a program", "--binary", folder)
        bad(s, "exit status 1 .*cannot start the server process", "--binary", broken)
        bad(s, "ended with exit status", "--binary", shutil.which("false"))
        bad(s, "speaks version 99 .*speaks version ", "--binary", OTHER + "wire")
        s.install("init_fails", "bad")
        bad(s, "ended with exit status 1 .*bad", )
        s.install("init_hangs", "bad")
        bad(s, r"not ready within \d+ ms \(timeouts_ms.upgrade\)")
        if SANITIZER == "none":
            crash = compile_plugin('#include <graft/graft.h>\n#include <signal.h>\n'
                                   'static int init(const struct graft_self *s, void **state)'
                                   '{ (void)s; (void)state; raise(SIGSEGV); return 0; }\n'
                                   'GRAFT_PLUGIN(.name = "bad", .version = "1", .init = init);\n')
            s.install(crash, "bad")
            bad(s, "crashed|exit status")
        s.uninstall("bad")
        text = open(s.config_path).read()
        s.write_config('{"workers": "two"}')
        bad(s, r"graft\.json:1:13")
        s.write_config(text.replace('"supervise"', '"supervise"').replace("{", '{"supervise": false,', 1))
        bad(s, "supervise is false", error="refused")
        s.write_config(text)
    is_(p.failures, [], "no request failed meanwhile")
    is_(s.staged(), copies, "no copies stay behind")
    mark = s.mark()
    is_(s.reload()["ok"], True, "swaps work again")
    good(s)
    is_(s.stop(), 0, "exit 0")


@case("one whose plugins are not well does not get ready; when they become well in time it takes over")
def _():
    s = server(config={"timeouts_ms": {"upgrade": ms(2000)}})
    s.install("health", "health")
    is_(s.reload()["ok"], True, "a plugin with health")
    s.config["plugins"] = {"health": {"config": {"how": "ill"}}}
    s.write_config()  # the process that serves goes on with what it has
    with Prober(s, "/hello", clients=2) as p:
        bad(s, r"not ready within \d+ ms \(timeouts_ms.upgrade\)")
        s.config["plugins"] = {"health": {"config": {"how": "well"}}}
        s.write_config()
        good(s)
    is_(p.failures, [], "no request failed")
    is_(s.stop(), 0, "exit 0")


@case("without a supervisor: refused with a sentence")
def _():
    s = Server(["hello"], {"supervise": False})
    status, answer = upgrade(s)
    is_((status, answer["error"]), (1, "refused"), "refused")
    like(answer["reason"], "no supervisor.*restart the service", "and what to do instead")
    is_(s.api("POST", "/v1/upgrade?binary=graftd")["error"], "bad_request", "a relative path is refused")


@case("a program whose supervisor takes the state in another form: its process serves, the supervisor stays")
def _():
    s = server()
    with Prober(s, "/hello") as p:
        old = s.pid
        status, answer = upgrade(s, "--binary", OTHER + "state")
        is_((status, answer["ok"]), (0, True), f"upgraded {answer}")
        like(answer["note"] or "", "the supervisor goes on", "with a note")
        gone(old)
        is_(exe(s.pid), os.path.realpath(OTHER + "state"), "the new program serves")
        is_(exe(s.proc.pid), os.path.realpath(GRAFTD), "the supervisor is what it was")
        good(s, "--binary", GRAFTD)
    is_(p.failures, [], "no request failed")
    is_(s.stop(), 0, "exit 0")


# ---- What else goes on at the time ----

@case("while one gets ready: swaps are busy, another upgrade is refused; then all of it works")
def _():
    s = server(config={"timeouts_ms": {"upgrade": ms(60000), "load": ms(60000)}})
    s.install(compile_plugin(SLOW_INIT, f"-DSECONDS={int(3 * SCALE)}"), "wait")
    result = []
    t = threading.Thread(target=lambda: result.append(upgrade(s)))
    t.start()
    wait_for(lambda: s.event("upgrade", msg=lambda m: "gets ready" in m), 20, "the other one gets ready")
    answer = s.reload()
    is_((answer["ok"], answer["error"]), (False, "busy"), "reload: busy")
    like(answer["reason"], "being upgraded", "and why")
    is_(s.api("POST", "/v1/plugins/hello/rollback")["error"], "busy", "rollback: busy")
    is_(s.api("POST", "/v1/upgrade")["error"], "busy", "another upgrade: busy")
    t.join(secs(60))
    is_(result[0][0], 0, f"the upgrade is done {result}")
    wait_for(lambda: s.reload()["ok"], 20, "reload works")
    is_(s.stop(), 0, "exit 0")


SLOW_INIT = """
#include <graft/graft.h>
#include <unistd.h>
static int init(const struct graft_self *s, void **state)
{ (void)s; (void)state; sleep(SECONDS); return 0; }
GRAFT_PLUGIN(.name = "wait", .version = "1", .init = init);
"""


@case("TERM while one gets ready: the server drains, exit 0")
def _():
    s = server(config={"timeouts_ms": {"upgrade": ms(60000), "load": ms(60000)}})
    s.install(compile_plugin(SLOW_INIT, f"-DSECONDS={int(20 * SCALE)}"), "wait")
    result = []
    t = threading.Thread(target=lambda: result.append(upgrade(s)))
    t.start()
    wait_for(lambda: s.event("upgrade", msg=lambda m: "gets ready" in m), 20, "the other one gets ready")
    pids = children(s.proc.pid)
    is_(len(pids), 2, "two server processes")
    is_(s.stop(), 0, "exit 0")
    t.join(secs(60))
    is_(result[0][0], 1, "the upgrade failed")
    is_([alive(p) for p in pids], [False, False], "both have ended")


@case("during a drain: refused")
def _():
    s = server()
    with Conn(s) as slow:
        slow.send(request_bytes("GET", f"/slow/timer?ms={ms(1500)}"))
        wait_for(lambda: s.status()["in_flight"] >= 1, 5, "a slow request is in progress")
        s.send_signal(signal.SIGTERM)
        wait_for(lambda: s.status()["draining"], 5, "it drains")
        status, answer = upgrade(s)
        is_((status, answer["error"]), (1, "draining"), "draining")
        is_(slow.response().status, 200, "the request ends")
    is_(s.wait_exit(), 0, "exit 0")


@case("TERM while the old one still drains: the supervisor waits for it")
def _():
    s = server()
    with Conn(s) as slow:
        slow.send(request_bytes("GET", f"/slow/timer?ms={ms(2000)}"))
        wait_for(lambda: s.status()["in_flight"] >= 1, 5, "a slow request is in progress")
        old = s.pid
        is_(upgrade(s)[0], 0, "upgraded")
        s.send_signal(signal.SIGTERM)
        is_(slow.response().status, 200, "its request ends")
    is_(s.wait_exit(), 0, "exit 0")
    ok(not alive(old), "nobody stays")


LATE = """#include <graft/graft.h>
#include <fcntl.h>
#include <unistd.h>
static int init(graft_self *self, void **state)
{
    (void)self, (void)state;
    usleep(700000);
    int fd = open("%s", O_WRONLY | O_APPEND | O_CREAT, 0644);
    return fd < 0 || write(fd, "x", 1) != 1 || close(fd);
}
GRAFT_PLUGIN(.name = "late", .version = "1", .init = init)
"""


@case("the new one dies when the old one has let go of ops, control and the store: it takes them back")
def _():
    inits = os.path.join(tempdir(), "inits")
    s = server({"hello": "hello", "versioned": "versioned_v1", "late": compile_plugin(LATE % inits)})
    old, mark, said = s.pid, s.mark(), []
    asks = threading.Thread(target=lambda: said.append(upgrade(s)))
    asks.start()
    new = wait_for(lambda: [pid for pid in children(s.proc.pid) if pid != old], 20, "a second process")[0]
    os.kill(old, signal.SIGSTOP)  # it will hear that it is to yield, and that the other one is dead, at once
    wait_for(lambda: os.path.getsize(inits) == 2, 20, "the other one has loaded its plugins")
    time.sleep(1)  # and is ready: no longer, for after 5 s it would take over from one that stands still
    os.kill(new, signal.SIGKILL)
    gone(new)
    os.kill(old, signal.SIGCONT)
    asks.join()
    is_((said[0][0], said[0][1].get("error")), (1, "failed"), f"refused: {said[0][1]}")
    s.wait_event("upgrade", 10, since=mark, msg=re.compile("nothing was changed"))
    is_((s.pid, children(s.proc.pid)), (old, [old]), "the same process serves, and answers at control")
    is_(s.ops_get("/livez").status, 200, "and at ops")
    sha256 = s.install("versioned_v2", "versioned")
    ok(s.reload()["ok"], "a swap")
    index = os.path.join(s.dir, "state", "index.json")
    wait_for(lambda: sha256 in open(index, encoding="utf-8").read(), 20, "the store is written")
    good(s)
    is_(s.stop(), 0, "exit 0")


@case("the new one crashes right after it took over: another one follows it on the same sockets")
def _():
    s = server(["hello", "crashes"])
    address = s.address
    old, new = good(s)
    with Conn(s) as c:
        c.send(request_bytes("GET", "/crashes/abort"))
        c.ends(20)
    event = s.wait_event("crash", 20, pid=new)
    is_(event["plugin"], "crashes", "whose fault it was")
    wait_for(lambda: s.pid not in (old, new) and s.get("/hello").status == 200, 20, "another one serves")
    is_(s.address, address, "there")
    is_(s.stop(), 0, "exit 0")


@case("the old one crashes while it drains: that is told, and starts nothing")
def _():
    s = server()
    with Conn(s) as slow:
        slow.send(request_bytes("GET", f"/slow/timer?ms={ms(20000)}"))
        wait_for(lambda: s.status()["in_flight"] >= 1, 5, "a slow request is in progress")
        old = s.pid
        is_(upgrade(s)[0], 0, "upgraded")
        new = s.pid
        os.kill(old, signal.SIGKILL)
        s.wait_event("crash", 20, pid=old)
        gone(old)
        is_((children(s.proc.pid), s.get("/hello").status), ([new], 200), "the new one serves on")
    is_(s.stop(), 0, "exit 0")


@case("shared blocks: every request is counted once, through upgrades under load")
def _():
    s = server(["hello", "counter"])
    target = "/counter" if False else "/hello"
    s.config["middleware"] = ["counter"]
    is_(s.reload(config=True)["ok"], True, "counted")
    with Prober(s, target, clients=2, keep_alive=False) as p:
        for _ in range(2):
            good(s)
        p.wait_count(20)
    is_(p.failures, [], "no request failed")
    text = s.get("/counter").text
    like(text, rf"/hello\D+{p.count}\b", f"{p.count} requests, {p.count} counted")
    is_(s.stop(), 0, "exit 0")


@case("the store: the quarantine and what can be gone back to are the next one's; one process writes it")
def _():
    s = server()
    s.install(make_unique("hello"), "hello")
    is_(s.reload()["ok"], True, "a second version")
    answer = s.api("POST", "/v1/plugins/hello/rollback")
    is_(answer["ok"], True, "rolled back")
    serves = s.active("hello")["sha256"]
    good(s)
    is_(s.active("hello")["sha256"], serves, "the good version serves, not the quarantined one")
    wait_for(lambda: not s.event("state", msg=lambda m: "another graftd" in m), 1, "the lock was handed on")
    s.install(make_unique("hello"), "hello")
    is_(s.reload()["ok"], True, "a third version")
    is_(s.api("POST", "/v1/plugins/hello/rollback")["ok"], True, "and back")
    is_(s.active("hello")["sha256"], serves, "from the store")
    is_(s.stop(), 0, "exit 0")


@case("five upgrades in a row leave nothing behind: descriptors, copies, zombies")
def _():
    s = server(["hello", "counter"], {"middleware": ["counter"]}, listen=("127.0.0.1:0", "unix:" + os.path.join(tempdir(), "s")))

    def held():
        found = []
        for n in os.listdir(f"/proc/{s.proc.pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{s.proc.pid}/fd/{n}").split(":")[0])
            except FileNotFoundError:
                pass  # closed since it was listed
        return sorted(found)
    good(s)
    wait_for(lambda: not any(fd.startswith("pipe") for fd in held()), 10, "no pipe is left")

    def steady():  # what the one before had is given back behind its end
        first = held()
        time.sleep(0.3)
        return first if held() == first else None
    before, staged = wait_for(steady, 10, "nothing is given back any more"), len(s.staged())
    for _ in range(4):
        good(s)
    wait_for(lambda: held() == before, 10, f"as many descriptors as before {before} {held()}")
    is_(held(), before, "the supervisor's descriptors")
    is_(len(s.staged()), staged, "as many staged copies")
    environ = open(f"/proc/{s.pid}/environ", "rb").read()
    ok(b"GRAFTD_STATE" not in environ, "the number of the state is not passed on")
    is_(s.stop(), 0, "exit 0")


@case("handed-over sockets go on, queue and all; a number in the environment that is nobody's state")
def _():
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    s = server(listen=(f"fd:{listening.fileno()}",), pass_fds=(listening.fileno(),), env={"GRAFTD_STATE": "0"})
    with Prober(s, "/hello", clients=2, keep_alive=False) as p:
        good(s)
        p.wait_count(20)
    is_(p.failures, [], "no request failed")
    is_(s.stop(), 0, "exit 0")
    listening.close()


# ---- listen, workers (user: 92-upgrade-user.t) ----

@case("workers: more and fewer under load")
def _():
    s = server(workers=2)
    with Prober(s, "/hello", clients=2) as kept, Prober(s, "/hello", clients=4, keep_alive=False) as new:
        for n in (4, 1, 3):
            s.config["workers"] = n
            s.write_config()
            good(s)
            is_(len(s.status()["workers"]), n, f"{n} workers")
            kept.wait_count(20), new.wait_count(40)
    is_((kept.failures, new.failures), ([], []), "no request failed")
    port = f":{s.port:04X} "
    listening = [line for line in open("/proc/net/tcp") if port in line and " 0A " in line]
    is_(len(listening), 3, "as many sockets as workers")
    is_(s.stop(), 0, "exit 0")


@case("listen: one added, one removed, the rest untouched; the removed one is drained and refuses then")
def _():
    path = os.path.join(tempdir(), "s.sock")
    s = server(listen=("127.0.0.1:0", f"unix:{path}", "127.0.0.2:0"))
    first, _, third = s.addresses()
    added = os.path.join(tempdir(), "t.sock")
    port = free_port()
    s.config["listen"] = ["127.0.0.1:0", f"127.0.0.1:{port}", f"unix:{added}"]
    mark = s.mark()
    event = s.reload_signal(signal.SIGHUP)
    is_(event["ok"], True, "HUP")
    like(s.wait_event("config", since=mark, level="warn")["msg"], "graftctl upgrade", "says what applies it")
    with Prober(first, "/hello", clients=2) as p, Conn(third) as slow:
        slow.send(request_bytes("GET", f"/slow/timer?ms={ms(1500)}"))
        wait_for(lambda: s.status()["in_flight"] >= 1, 5, "a slow request on the one that goes")
        good_before = s.pid
        status, answer = upgrade(s)
        is_(status, 0, f"upgraded {answer}")
        for to in (first, ("127.0.0.1", port), added):
            with Conn(to) as c:
                is_(c.get("/hello").status, 200, f"{to} answers")
        is_(slow.response().status, 200, "the slow request ends")
        gone(good_before)
        for to in (third, path):
            try:
                Conn(to).close()
                ok(False, f"{to} refuses")
            except (ConnectionRefusedError, FileNotFoundError):
                ok(True, f"{to} refuses")
        p.wait_count(20)
    is_(p.failures, [], "no request failed")
    is_(os.path.exists(path), False, "the socket file is removed")
    s.config["listen"] = ["127.0.0.1:0"]
    s.write_config()
    good(s)
    is_(s.stop(), 0, "exit 0")
    is_(os.path.exists(added), False, "so is the other one")


@case("an address that is in use: nothing is changed")
def _():
    s, other = server(), Server(["hello"])
    s.config["listen"].append("127.0.0.1:%d" % other.port)
    s.write_config()
    bad(s, "listen 127.0.0.1:%d: .*in use" % other.port)
    s.config["listen"].pop()
    s.write_config()
    good(s)


main()
