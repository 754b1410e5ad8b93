#!/usr/bin/env python3
# Start and stop: flags, configuration errors, addresses, plugins at the start, users, workers
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403


def refused_start(s, seconds=30):
    """Starts a server that must not start: (exit status, what it said)."""
    s.start(wait=False)
    code = s.wait_exit(seconds)
    s.log()
    return code, "\n".join(s.other_lines)


@case("a server starts, answers and drains")
def _():
    s = Server()
    is_(s.get("/hello").body, b"hello, world\n", "it answers")
    status = s.status()
    is_((status["ok"], status["pid"], status["generation"], status["draining"], len(status["workers"])),
        (True, s.pid, 1, False, 2), "status says so")
    is_(sorted(v["plugin"] for v in s.ps(state="active")), ["echo", "hello"], "ps names both plugins")
    swap = s.find_events("swap")
    is_(len(swap), 1, "one swap event: the first load")
    is_((swap[0]["ok"], swap[0]["generation"], sorted(c["plugin"] for c in swap[0]["changed"])),
        (True, 1, ["echo", "hello"]), "and what it says")
    for e in s.log():
        if not ({"ts", "level", "event", "msg"} <= set(e) and re.fullmatch(
                r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", e["ts"]) and e["level"] in ("debug", "info", "warn", "error")):
            ok(False, "every line has ts, level, event, msg", e)
    stage = s.staged()
    is_(len(stage), 2, "two staged copies")
    is_(stat.S_IMODE(os.stat(s.control).st_mode), 0o600, "the control socket is 0600")
    is_(s.stop(), 0, "SIGTERM: exit 0")
    ok(s.event("drain_start") and s.event("drain_end"), "drain_start and drain_end are in the log")
    is_(s.staged(), [], "nothing staged is left")
    is_(os.path.exists(s.control), False, "nor the control socket")
    is_(s.other_lines, [], "and the log is JSON only")


@case("SIGINT drains, SIGQUIT leaves at once")
def _():
    is_(Server().stop(signal.SIGINT), 0, "SIGINT: exit 0")
    s = Server(["later_api"])
    with Conn(s) as c:
        c.send(request_bytes("GET", "/later?which=timer&ms=60000"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "in flight")
        began = time.monotonic()
        is_(s.stop(signal.SIGQUIT), 128 + signal.SIGQUIT, "SIGQUIT: 131")
        within(time.monotonic() - began, 0, secs(5), "and at once")
    is_(s.staged(), [], "nothing staged is left")


@case("flags that ask")
def _():
    r = graftd("-V")
    is_((r.returncode, r.stderr), (0, ""), "-V: exit 0")
    like(r.stdout, r"^graftd \d+\.\d+\.\d+", "the version")
    is_(graftd("--version").stdout, r.stdout, "--version says the same")
    r = graftd("-h")
    is_((r.returncode, r.stderr), (0, ""), "-h: exit 0")
    for word in ("--listen", "--plugins", "--workers", "--ops", "--control", "--watch", "GRAFT_LISTEN", "limits.head_bytes",
                 "timeouts_ms.adopt", "drain.timeout_ms"):
        ok(word in r.stdout, f"-h names {word}")
    is_(max(map(len, r.stdout.splitlines())) <= 100, True, "and its lines are short")


@case("flags that are wrong: exit 2")
def _():
    for args in (["-x"], ["--nope"], ["--nope=1"], ["foo"], ["-t", "foo"], ["--listen"], ["-c"], ["--workers"], ["--watch=1"],
                 ["--work", "2"], ["-V", "--nope"], ["--"] + ["x"]):
        r = graftd(*args)
        is_(r.returncode, 2, " ".join(args))
        ok(r.stderr.startswith("graftd: ") and "usage:" in r.stderr and r.stdout == "", "  says why, on stderr", r.stderr)


@case("values that are wrong: exit 1, or 2, and say what was expected")
def _():
    for args, word in ((["--workers", "x"], "x"), (["--workers", "-1"], "-1"), (["--workers", "99999"], "99999"),
                       (["--listen", "nonsense"], "nonsense"), (["--listen", "127.0.0.1:99999"], "99999"),
                       (["--listen", "unix:relative"], "relative"), (["--listen", "fd:x"], "fd:x"),
                       (["--ops", "127.0.0.1"], "127.0.0.1"), (["-c", "/no/such/file"], "/no/such/file")):
        r = graftd(*args, "-t")
        ok(r.returncode in (1, 2), " ".join(args) + f": {r.returncode}")
        ok(word in r.stderr and r.stderr.startswith("graftd: "), "  names it", r.stderr)
    for name, value in (("GRAFT_WORKERS", "x"), ("GRAFT_LISTEN", "x"), ("GRAFT_WATCH", "maybe"), ("GRAFT_LOG_LEVEL", "loud"),
                        ("GRAFT_DRAIN_TIMEOUT_MS", "soon")):
        r = graftd("-t", env={name: value})
        is_(r.returncode, 1, f"{name}={value}: exit 1")
        ok(name in r.stderr and value in r.stderr, "  names both", r.stderr)


@case("errors in the configuration name file, line and column")
def _():
    folder = tempdir()
    path = os.path.join(folder, "graft.json")
    for text, line, column, words in (
            ('{\n  "limitz": {}\n}', 2, 3, ["limitz", "limits"]),
            ('{\n  "limits": {"head_bites": 1}\n}', 2, 14, ["head_bites", "head_bytes"]),
            ('{"listen": "127.0.0.1:80"}', 1, 12, ["listen", "[ ]"]),
            ('{"workers": "2"}', 1, 13, ["workers", "without quotes"]),
            ('{"workers": -1}', 1, 13, ["workers", "-1"]),
            ('{"workers": 1.5}', 1, 13, ["workers"]),
            ('{"limits": {"field_bytes": 9000}}', 1, 28, ["field_bytes", "8191", "9000"]),
            ('{"limits": {"target_bytes": 8192}}', 1, 29, ["target_bytes", "8191"]),
            ('{"workers": 2,}', 1, 15, []),
            ('{"workers": 2', 1, None, []),
            ('{"workers": 2} x', 1, 16, []),
            ('{"workers": 2, "workers": 3}', 1, 16, ["workers"]),
            ("[]", 1, 1, ["object"]),
            ("", 1, 1, []),
            ('{"log": {"level": "loud"}}', 1, 19, ["loud", "info"]),
            ('{"head_bytes": 1}', 1, 2, ["limits"]),
            ('{"plugins": {"Bad Name": {}}}', 1, 14, ["Bad Name"]),
            ('{"plugins": {"hello": {"confg": {}}}}', 1, 24, ["confg", "config"]),
            ('{"plugins": {"hello": {"mount": "x"}}}', 1, 33, ["mount"]),
            ('{"routes": [{"match": "nonsense", "middleware": ["a"]}]}', 1, 23, ["match"]),
            ('{"routes": [{"middleware": ["a"]}]}', 1, 13, ["match"]),
            ('{"listen": []}', 1, 12, ["listen"])):
        with open(path, "w") as f:
            f.write(text)
        for args in (("-t",), ()):
            r = graftd("-c", path, *args)
            is_(r.returncode, 1, f"{text!r} {' '.join(args)}: exit 1")
            place = f"{re.escape(path)}:{line}:" + (str(column) if column else r"\d+")
            like(r.stderr, f"^graftd: {place}: ", "  place")
            for word in words:
                ok(word in r.stderr, f"  names {word}", r.stderr)


@case("graftd -t")
def _():
    s = Server(start=False)
    r = graftd("-t", "-c", s.config_path)
    is_(r.returncode, 0, "a good folder: exit 0")
    like(r.stdout, r"hello\.so: hello 1\.0\.0", "names the plugin")
    is_(s.staged(), [], "leaves nothing staged")
    s.install("wrong_minor")
    s.install("crash_in_constructor")
    r = graftd("-t", "-c", s.config_path)
    is_(r.returncode, 1, "two bad files: exit 1")
    like(r.stdout, r"crash_in_constructor.*SIGSEGV.*wrong_minor.*SDK 1\.8", "and both reasons")
    like(r.stdout, r"hello\.so: hello 1\.0\.0", "besides what is good")
    s.uninstall("wrong_minor"), s.uninstall("crash_in_constructor")
    s.config["middleware"] = ["no-such"]
    s.write_config()
    r = graftd("-t", "-c", s.config_path)
    is_(r.returncode, 1, "middleware that no file declares: exit 1")
    like(r.stdout, "no-such", "named")
    s.config["middleware"] = ["no-such", "gone", "no-such"]
    s.write_config()
    r = graftd("-t", "-c", s.config_path)
    is_((r.stdout.count("plugin no-such,"), r.stdout.count("plugin gone,")), (1, 1), "once, however often it is named")


@case("-t and a log file that cannot be opened")
def _():
    s = Server(start=False)
    folder = tempdir()
    for path, why in ((os.path.join(folder, "none", "graft.log"), "No such file"), (folder, "Is a directory")):
        s.config["log"] = {"file": path}
        s.write_config()
        r = graftd("-t", "-c", s.config_path)
        is_(r.returncode, 1, f"{why}: exit 1")
        like(r.stdout, f"refused: .*{re.escape(path)}: {why}", "named")
    path = os.path.join(folder, "graft.log")
    s.config["log"] = {"file": path}
    s.write_config()
    is_(graftd("-t", "-c", s.config_path).returncode, 0, "one that can be made: exit 0")
    ok(not os.path.exists(path), "and -t does not make it")


@case("-t beside a server that runs")
def _():
    s = Server()
    r = graftd("-t", "-c", s.config_path)
    is_(r.returncode, 0, "exit 0: its addresses are not bound")
    is_(s.get("/hello").status, 200, "and the server goes on")
    is_(len(s.staged()), 2, "with its staged copies")


@case("flags before variables before the file")
def _():
    s = Server(env={"GRAFT_WORKERS": "3"}, workers=1)
    is_(len(s.status()["workers"]), 3, "a variable counts before the file")
    s = Server(env={"GRAFT_WORKERS": "3"}, args=["--workers", "4"], workers=1)
    is_(len(s.status()["workers"]), 4, "a flag counts before a variable")
    s = Server(args=["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:" + str(free_port())])
    is_(len(s.addresses()), 2, "--listen twice: two addresses")
    s = Server(env={"GRAFT_PORT": "tcp://10.0.0.1:80", "GRAFT_SERVICE_HOST": "10.0.0.1"})
    is_(s.get("/hello").status, 200, "what Kubernetes injects is no error")
    other = tempdir()
    shutil.copy(plugin_path("echo"), other)
    s = Server(["hello"], args=["--plugins", other])
    is_((s.get("/hello").status, s.post("/echo", b"x").status), (404, 200), "--plugins")


@case("no configuration file at all")
def _():
    folder = tempdir()
    shutil.copy(plugin_path("hello"), folder)
    s = Server(start=False)
    s.config.update(ops="x", control="x")
    s.config_path = os.path.join(s.dir, "empty.json")
    s.write_config("{}")
    s = Server(start=False)
    s.write_config("{}")
    s.args = ["--plugins", folder, "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--control", s.control]
    s.env = {"GRAFT_STAGE_DIR": s.stage_dir}
    s.start()
    is_(s.get("/hello").status, 200, "flags alone do")


@case("addresses: several, IPv6, unix")
def _():
    path = os.path.join(tempdir(), "s")
    listen = ["127.0.0.1:0", "unix:" + path, f"127.0.0.1:{free_port()}"] + (["[::1]:0"] if HAS_V6 else [])
    s = Server(listen=listen)
    is_(len(s.addresses()), len(listen), "a listening event for each")
    for address in s.addresses():
        with Conn(address) as c:
            is_([c.get("/hello").status for _ in range(3)], [200] * 3, f"served on {address}")
    is_(s.status()["connections"]["accepted"], len(listen), "each was counted")
    ok(stat.S_ISSOCK(os.stat(path).st_mode), "the unix socket is there")
    is_(s.stop(), 0, "stops")
    is_(os.path.exists(path), False, "and is removed at the end")


@case("an address for all interfaces", HAS_V6, "no IPv6")
def _():
    port = free_port()
    s = Server(listen=[f":{port}"])
    for host in ("127.0.0.1", "::1"):
        with Conn((host, port)) as c:
            is_(c.get("/hello").status, 200, f"{host}")
    s = Server(["self_info"], listen=[f":{free_port()}"])
    with Conn(("127.0.0.1", s.addresses()[0][1])) as c:
        like(c.get("/info").body, r"127\.0\.0\.1:\d+", "an IPv4 peer on a dual socket is named as IPv4")


@case("an address in use: exit 1, never a silent share")
def _():
    s = Server(listen=[f"127.0.0.1:{free_port()}"])
    t = Server(listen=[f"127.0.0.1:{s.port}"], start=False)
    code, said = refused_start(t)
    is_(code, 1, "a second server: exit 1")
    like(said, rf"127\.0\.0\.1:{s.port}.*another process listens", "and says why")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        t = Server(listen=[f"127.0.0.1:{taken.getsockname()[1]}"], start=False)
        is_(refused_start(t)[0], 1, "also when the other one set SO_REUSEPORT")
    path = os.path.join(tempdir(), "s")
    s = Server(listen=["unix:" + path])
    t = Server(listen=["unix:" + path], start=False)
    code, said = refused_start(t)
    is_(code, 1, "a unix socket in use: exit 1")
    is_(s.request("GET", "/hello").status, 200, "and it is not taken away")
    s.kill()
    ok(os.path.exists(path), "a killed server leaves its socket file")
    t = Server(listen=["unix:" + path])
    is_(t.get("/hello").status, 200, "which the next one replaces")
    file = os.path.join(tempdir(), "file")
    open(file, "w").write("precious")
    code, said = refused_start(Server(listen=["unix:" + file], start=False))
    is_((code, open(file).read()), (1, "precious"), "a file that is no socket is left alone")
    for key in ("ops", "control"):
        s = Server()
        address = s.control if key == "control" else "%s:%d" % s.ops
        t = Server(config={key: address}, start=False)
        code, said = refused_start(t)
        is_(code, 1, f"{key} in use: exit 1")
        ok(address in said, "  names it", said)
        is_(s.status()["ok"], True, "  and the first one keeps it")


@case("sockets handed over: fd:N")
def _():
    with socket.socket() as a, socket.socket(socket.AF_UNIX) as b:
        path = os.path.join(tempdir(), "s")
        a.bind(("127.0.0.1", 0)), a.listen()
        b.bind(path), b.listen()
        s = Server(listen=[f"fd:{a.fileno()}", f"fd:{b.fileno()}"], pass_fds=(a.fileno(), b.fileno()))
        is_([e["handed_over"] for e in s.find_events("listening")], [True, True], "both listen")
        for address in (a.getsockname(), path):
            with Conn(address) as c:
                is_(c.get("/hello").status, 200, f"served on {address}")
        is_(s.stop(), 0, "stops")
        ok(os.path.exists(path), "a path that is another's is not removed")
        with socket.create_connection(a.getsockname(), 5):
            pass
        ok(True, "and the socket still takes connections for who holds it")
    with socket.socket() as c:
        c.bind(("127.0.0.1", 0))
        code, said = refused_start(Server(listen=[f"fd:{c.fileno()}"], pass_fds=(c.fileno(),), start=False))
        is_(code, 1, "a socket that does not listen: exit 1")
        like(said, f"fd:{c.fileno()}", "named")
    code, said = refused_start(Server(listen=["fd:97"], start=False))
    is_(code, 1, "a descriptor that is not there: exit 1")
    r, w = os.pipe()
    code, said = refused_start(Server(listen=[f"fd:{r}"], pass_fds=(r,), start=False))
    is_(code, 1, "a pipe: exit 1")


@case("sockets handed over: LISTEN_FDS")
def _():
    with socket.socket() as a:
        a.bind(("127.0.0.1", 0))
        a.listen()
        port = a.getsockname()[1]
        s = Server(listen=["127.0.0.1:1"], start=False)

        def hand_over():
            os.dup2(a.fileno(), 3)
        # LISTEN_PID must be the server's own: a shell says it, and becomes graftd.
        script = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"'
        import subprocess
        with open(s.log_path, "ab") as log:
            s.proc = subprocess.Popen(["sh", "-c", script, GRAFTD, "-c", s.config_path], stdout=log, stderr=log,
                                      stdin=subprocess.DEVNULL, preexec_fn=hand_over, close_fds=False,
                                      env=server_env_for(s))
        s.wait_live()
        with Conn(("127.0.0.1", port)) as c:
            is_(c.get("/hello").status, 200, "served on the socket, not on `listen`")
        is_([e["handed_over"] for e in s.find_events("listening")], [True], "one listener")
        is_(s.stop(), 0, "stops")


def server_env_for(s):
    return {k: v for k, v in os.environ.items() if not k.startswith(("GRAFT_", "LISTEN_"))}


@case("an empty plugin folder serves 404, and a warning says so")
def _():
    s = Server([])
    is_(s.get("/").status, 404, "404")
    is_(s.get("/hello").status, 404, "404 for everything")
    ok(s.find_events(level="warn", msg=re.compile("empty|404")), "a warning", s.tail())
    s.install("hello")
    is_(s.reload()["ok"], True, "a plugin that comes later")
    is_(s.get("/hello").status, 200, "serves")
    t = Server(start=False)
    shutil.rmtree(t.plugin_dir)
    code, said = refused_start(t)
    is_(code, 1, "a plugin folder that is not there: exit 1")
    ok(t.plugin_dir in said + t.tail(), "named", said)


@case("bad plugins at the start: exit 1 with all reasons")
def _():
    s = Server(["hello", "wrong_minor", "init_fails", "unique_symbol"], start=False)
    code, said = refused_start(s)
    is_(code, 1, "exit 1")
    failed = {e.get("file", "").rsplit("/", 1)[-1]: e["error"] for e in s.find_events("plugin_failed")}
    for file, words in (("wrong_minor.so", "1.8"), ("init_fails.so", "no database at 192.0.2.1"), ("unique_symbol.so", "UNIQUE")):
        ok(words in failed.get(file, ""), f"plugin_failed names {file} and why", failed)
        ok(file in said and words in said, f"and so does stderr", said)
    is_(s.event("listening"), None, "it never listened")
    is_(s.staged(), [], "nothing staged is left")
    s = Server({"hello": "hello", "sin": "init_fails"}, {"plugins": {"sin": {"required": False}}})
    is_(s.get("/hello").status, 200, "with required false it serves the others")
    ok(s.event("plugin_failed"), "and logs the failure")
    s = Server(["hello", "duplicate_name_a", "duplicate_name_b"], start=False)
    code, said = refused_start(s)
    is_(code, 1, "two files of one name: exit 1")
    like(said, "duplicate name.*duplicate_name_[ab].so.*duplicate_name_[ab].so", "both named")
    s = Server(["route_conflict_a", "route_conflict_b"], start=False)
    code, said = refused_start(s)
    is_(code, 1, "two plugins of one route: exit 1")
    like(said, "route-conflict-a.*route-conflict-b|route-conflict-b.*route-conflict-a", "both named")


@case("plugins that are required, disabled, mounted")
def _():
    s = Server(config={"plugins": {"nothere": {"required": True}}}, start=False)
    code, said = refused_start(s)
    is_(code, 1, "a required plugin that is missing: exit 1")
    like(said, "nothere", "named")
    s = Server(config={"plugins": {"echo": {"enabled": False}, "hello": {"mount": "/api/v1"}}})
    is_((s.post("/echo", b"x").status, s.get("/hello").status, s.get("/api/v1/hello").status, s.get("/api/v1/hello/x").body),
        (404, 404, 200, b"hello, x\n"), "enabled false; mount")


@case("another user", OTHERS, NO_OTHERS)
def _():
    nobody = pwd.getpwnam("nobody")
    folder = tempdir()
    os.chmod(folder, 0o755)
    s = Server(start=False, dir=os.path.join(folder, "s"), config={"user": "nobody"})
    for path in (s.dir, s.plugin_dir):
        os.chmod(path, 0o755)
    os.chown(os.path.join(s.dir, "state"), nobody.pw_uid, -1)
    os.chown(s.dir, nobody.pw_uid, -1)
    s.start()
    with open(f"/proc/{s.pid}/status") as f:
        text = f.read()
    like(text, rf"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}\t", "runs as nobody")
    like(text, rf"Gid:\t{nobody.pw_gid}\t{nobody.pw_gid}\t{nobody.pw_gid}\t", "and its group")
    is_(re.search(r"Groups:\t(.*)", text)[1].strip() in ("", str(nobody.pw_gid)), True, "and no other groups")
    is_(s.get("/hello").status, 200, "serves")
    is_(os.stat(s.stage_dir).st_uid, nobody.pw_uid, "owns the stage folder")
    is_(os.stat(s.control).st_uid, nobody.pw_uid, "and the control socket")
    s.install(make_unique("hello"), "hello")
    is_(s.reload()["ok"], True, "swaps")
    is_(s.stop(), 0, "drains")
    code, said = refused_start(Server(config={"user": "no-such-user"}, start=False))
    is_(code, 1, "a user that is not there: exit 1")
    like(said, "no-such-user", "named")


@case("-t with another user sees what that user would see", OTHERS, NO_OTHERS)
def _():
    nobody = pwd.getpwnam("nobody")
    folder = tempdir()
    os.chmod(folder, 0o755)
    s = Server(start=False, dir=os.path.join(folder, "s"), config={"user": "nobody"})
    os.chown(s.dir, nobody.pw_uid, -1)
    os.chmod(s.plugin_dir, 0o755)
    file = os.path.join(s.plugin_dir, "hello.so")

    def said(code, what, pattern=None):
        r = graftd("-t", "-c", s.config_path)
        is_(r.returncode, code, f"{what}: exit {code}")
        like(r.stdout, pattern or "fit to start: 0 refused, 0 warnings", "says so")

    os.chown(file, nobody.pw_uid, -1)
    said(0, "a plugin of that user's")
    s.start()
    is_(s.get("/hello").status, 200, "and a start takes it")
    said(0, "beside a server whose stage folder is that user's")
    os.chmod(file, 0o600)
    os.chown(file, 0, -1)
    said(1, "a plugin that only root can read", r"refused: hello\.so: .*Permission denied: make it, .*readable for uid")
    ok(not s.reload()["ok"], "and a reload refuses it")
    os.chmod(file, 0o644)
    os.chmod(s.config_path, 0o600)
    os.chown(s.config_path, 0, -1)
    said(0, "a configuration that only root can read", r"warning: .*graft\.json cannot be read by the user nobody: SIGHUP")


@case("another user: a log file becomes its own, a device or pipe stays whose it is", OTHERS, NO_OTHERS)
def _():
    nobody = pwd.getpwnam("nobody").pw_uid
    for kind in ("file", "pipe", "device"):
        folder = tempdir()
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "log.out")
        try:
            if kind == "pipe":
                os.mkfifo(path)
                reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            elif kind == "device":
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError as error:
            skip(str(error), f"a {kind}")
            continue
        s = Server(start=False, dir=os.path.join(folder, "s"), config={"user": "nobody", "log": {"file": path}})
        for there in (s.dir, s.plugin_dir):
            os.chmod(there, 0o755)
        os.chown(s.dir, nobody, -1)
        s.start(wait=False)
        wait_for(lambda: os.path.exists(s.control) and s.ctl("status").returncode == 0, 20, "the server")
        is_(os.stat(path).st_uid, nobody if kind == "file" else 0, f"the owner of a {kind}")
        is_(s.stop(), 0, "drains")
        if kind == "pipe":
            os.close(reader)


@case("standard descriptors that are closed: none of the server's own takes their numbers")
def _():
    for closed in ((0,), (1,), (2,), (0, 1, 2)):
        def close():
            for fd in closed:
                os.close(fd)
        path = os.path.join(tempdir(), "log.out")
        s = Server(config={"log": {"file": path}}, preexec_fn=close, start=False)
        s.log_path = path
        s.start(wait=False)
        s.wait_live()
        is_({os.readlink(f"/proc/{pid}/fd/{fd}") for pid in (s.pid, s.proc.pid) for fd in closed}, {"/dev/null"}, f"{closed}: /dev/null")
        is_(s.get("/hello").status, 200, "serves")
        s.install(make_unique("hello"), "hello")
        is_(s.reload()["ok"], True, "swaps")
        is_(s.stop(), 0, "drains")


@case("the number of workers")
def _():
    for n in (1, 3, 16):
        s = Server(workers=n)
        is_(len(s.status()["workers"]), n, f"workers {n}")
        is_(len([e for e in os.listdir(f"/proc/{s.pid}/task")
                 if open(f"/proc/{s.pid}/task/{e}/comm").read().startswith("worker-")]), n, f"  {n} threads named worker-N")
        is_(s.get("/hello").status, 200, "  serves")
        s.stop()
    s = Server(workers=0)
    within(len(s.status()["workers"]), 1, len(os.sched_getaffinity(0)), "workers 0: at most one for each usable core")
    cpu = min(os.sched_getaffinity(0))
    s = Server(workers=0, preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
    is_(len(s.status()["workers"]), 1, "workers 0 with one usable core: one")


def blocked(s):
    """Until main has begun: before that the loader runs, and no program can keep a signal off."""
    def mask():
        with open(f"/proc/{s.proc.pid}/status") as f:
            return int(re.search(r"SigBlk:\t(\w+)", f.read())[1], 16) & 1 << (signal.SIGUSR2 - 1)
    wait_for(mask, 5, "signals blocked", every=0)


@case("signals before it is ready are not lost and kill nobody")
def _():
    for signo in (signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1):
        s = Server(start=False)
        s.start(wait=False)
        blocked(s)
        for _ in range(20):
            s.send_signal(signo)
            time.sleep(0.002)
        s.wait_live()
        is_(s.get("/hello").status, 200, f"signal {signo} from the first moment: it serves")
    s = Server(start=False)
    s.start(wait=False)
    blocked(s)
    s.send_signal(signal.SIGTERM)
    code = s.wait_exit()
    is_(code, 0, "SIGTERM while it starts: drained clean")
    is_(s.staged(), [], "and nothing staged is left")


@case("the log: text, file, level, reopening")
def _():
    s = Server(config={"log": {"format": "text"}}, start=False)
    s.start(wait=False)
    wait_for(lambda: re.search(r"listening on 127\.0\.0\.1:\d+", "\n".join([*map(str, s.log()), *s.other_lines])), 10,
             "text log")
    is_(s.log(), [], "format text: no JSON")
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "stops")
    folder = tempdir()
    path = os.path.join(folder, "graft.log")
    s = Server(config={"log": {"file": path}}, start=False)
    s.start(wait=False)
    wait_for(lambda: os.path.exists(path) and '"event":"control"' in open(path).read(), 10, "log file")
    os.rename(path, path + ".1")
    s.send_signal(signal.SIGUSR1)
    wait_for(lambda: os.path.exists(path), 10, "USR1 makes a new file")
    s.install(make_unique("hello"), "hello")
    s.send_signal(signal.SIGUSR2)
    wait_for(lambda: '"event":"swap"' in open(path).read(), 10, "what follows is in the new file")
    ok(True, "USR1: a renamed log file is let go of")
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "stops")
    s = Server(config={"log": {"access": True}})
    s.get("/hello?q=1"), s.get("/nothing"), s.post("/echo", b"abc")
    s.wait_event("access", 5)
    wait_for(lambda: len(s.find_events("access")) == 3, 5, "three access events")
    ok(True, "log.access: an event for each request")
    one = s.event("access", target="/hello?q=1")  # the workers' lines come in any order
    is_((one["method"], one["target"], one["status"], one["bytes"], one["plugin"]), ("GET", "/hello?q=1", 200, 13, "hello"),
        "what it says")
    like(one["peer"], r"^127\.0\.0\.1:\d+$", "with the peer")
    is_(sorted(e["status"] for e in s.find_events("access")), [200, 200, 404], "404 too")
    s = Server(["self_info", "access-log"], {"middleware": ["access-log"]})
    like(s.get("/info").body, r"127\.0\.0\.1:\d+", "a handler is told the peer")
    wait_for(lambda: s.find_events(plugin="access-log", msg=re.compile(r"peer\W+127\.0\.0\.1:\d+")), 5, "access-log's line")
    ok(True, "and so is an on_finish, when the answer has left")

main()
