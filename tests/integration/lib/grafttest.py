"""What graft's integration tests share: TAP, servers, strict HTTP clients, plugins made on the spot.
Python's standard library only. A test begins with

    import os, sys
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
    from grafttest import *

    @case("hello answers")
    def _():
        s = Server(["hello"])
        is_(s.get("/hello").body, b"hello, world\\n", "the text")

    main()

and runs as `tests/env ../tests/integration/NN-name.t` in the build folder. Servers that a case
starts end with the case. Anything that a sanitizer reports fails the test, as does a server that
ends with a status that was not expected. Seconds pass through secs(), so that a slow build has time."""

import atexit
import collections
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

__all__ = ["ok", "is_", "isnt", "like", "within", "diag", "skip", "skip_all", "case", "main", "secs",
           "wait_for", "Failed", "Server", "Conn", "Response", "HttpError", "Prober", "plugin_path",
           "compile_plugin", "make_unique", "request_bytes", "graftd", "SANITIZER", "SCALE", "ENV",
           "chunked", "alive", "back", "children", "tempdir", "GRAFTD", "GRAFTCTL", "SRCDIR", "PROBE", "free_port", "HAS_V6",
           "OTHERS", "NO_OTHERS", "as_user", "low_port", "stands_still"]

ENV = os.environ
GRAFTD, GRAFTCTL = ENV["GRAFTD"], ENV["GRAFTCTL"]
SRCDIR, PROBE = ENV["TEST_SRCDIR"], ENV["TEST_PROBE"]
SANITIZER = ENV.get("TEST_SANITIZER", "none")
SCALE = float(ENV.get("TEST_TIMEOUT_SCALE") or {"none": 1, "asan": 4, "tsan": 8}.get(SANITIZER, 4))
def _others_reach(path):
    """Whether any user may run the program `path`, in a clone below /root, say; False where it is not built."""
    if not os.path.exists(path):
        return False
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True


# Tests in which the server becomes another user: whether they can be, and else why not.
OTHERS = os.geteuid() == 0 and _others_reach(os.path.abspath(PROBE)) and _others_reach(os.path.abspath(GRAFTD))
NO_OTHERS = "needs root" if os.geteuid() != 0 else "another user cannot run the programs where they were built"
REPORTS = re.compile(r"ERROR: AddressSanitizer|runtime error:|WARNING: ThreadSanitizer|"
                     r"ERROR: LeakSanitizer|FATAL: ThreadSanitizer|this must hold and does not|==\d+== .*(?:Invalid|lost)")


def secs(seconds):
    """A time limit, longer where everything is slower."""
    return seconds * SCALE


# ---- TAP ----

class Failed(Exception):
    """Something that a test cannot go on without."""


_lock = threading.Lock()
_count = _failed = 0
_cases = []
_servers = []
_temps = []


def ok(good, name, why=""):
    """One TAP line; `why` (text or anything with a repr) is shown when it is `not ok`."""
    global _count, _failed
    with _lock:
        _count += 1
        _failed += not good
        name = str(name).replace("#", "\\#").replace("\n", " ")
        print(f"{'ok' if good else 'not ok'} {_count} - {name}", flush=True)
        if not good and why != "":
            _diag(why)
    return bool(good)


def is_(got, expected, name):
    return ok(got == expected, name, f"expected {expected!r}\nfound    {got!r}")


def isnt(got, unexpected, name):
    return ok(got != unexpected, name, f"found {got!r}")


def like(got, pattern, name):
    text = got.decode("latin-1") if isinstance(got, bytes) else str(got)
    return ok(re.search(pattern, text, re.S), name, f"expected a match of {pattern!r}\nfound {text!r}")


def within(got, low, high, name):
    return ok(low <= got <= high, name, f"expected {low} to {high}\nfound {got}")


def _diag(what):
    text = what if isinstance(what, str) else repr(what)
    for line in text.splitlines():
        print("# " + line[:2000], flush=True)


def diag(what):
    with _lock:
        _diag(what)


def skip(why, name):
    global _count
    with _lock:
        _count += 1
        print(f"ok {_count} - {name} # SKIP {why}", flush=True)


def skip_all(why):
    print(f"1..0 # SKIP {why}", flush=True)
    sys.exit(0)


def case(title, only_if=True, why_not=""):
    """Registers a function for main(). `only_if` false: skipped with `why_not`."""
    def add(fn):
        _cases.append((title, fn, only_if, why_not))
        return fn
    return add


def main():
    """Runs the cases in their order (or those whose title contains an argument of the command line),
    prints the plan, exits 0 or 1."""
    for title, fn, only_if, why_not in _cases:
        if sys.argv[1:] and not any(word in title for word in sys.argv[1:]):
            continue
        if not only_if:
            skip(why_not, title)
            continue
        diag(f"-- {title}")
        before, failed = len(_servers), _failed
        try:
            fn()
        except Exception as error:  # a test goes on with its next case
            text = str(error) if isinstance(error, Failed) else traceback.format_exc()
            ok(False, title, text)
        if _failed > failed:
            for server in _servers[before:]:
                diag(f"the end of {server.name}'s log:\n" + server.tail())
        for server in _servers[before:]:
            server.finish()
        del _servers[before:]
    print(f"1..{_count}", flush=True)
    sys.exit(1 if _failed or not _count else 0)


def wait_for(condition, seconds=10, what="the condition", every=0.01):
    """Polls until `condition()` is true and returns its value; raises Failed after secs(seconds)."""
    until = time.monotonic() + secs(seconds)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {secs(seconds):.0f} s")
        time.sleep(every)


def tempdir(mode=0o700):
    """A folder that is removed at the end."""
    path = tempfile.mkdtemp(prefix="graft-test-")
    os.chmod(path, mode)
    _temps.append(path)
    return path


@atexit.register
def _clean_up():
    for server in list(_servers):
        server.kill()
    for path in _temps:
        shutil.rmtree(path, ignore_errors=True)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def free_port(family=socket.AF_INET):
    """A port that was free a moment ago; better is to listen on port 0."""
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return s.getsockname()[1]


def _has_v6():
    try:
        return bool(free_port(socket.AF_INET6))
    except OSError:
        return False


HAS_V6 = _has_v6()


# ---- Plugins ----

def plugin_path(name):
    """The built .so of a test plugin or a shipped one; a path is taken as it is."""
    if os.sep in name:
        return name
    for folder in (ENV["TEST_PLUGINS"], ENV["TEST_DIST_PLUGINS"]):
        path = os.path.join(folder, name + ".so")
        if os.path.exists(path):
            return path
    raise Failed(f"{name}.so: neither a test plugin nor a shipped one (make test-programs)")


_compiled = {}


def compile_plugin(source, *cflags, cxx=False):
    """Path of a plugin compiled from this text. The same text and flags are compiled once."""
    key = hashlib.sha256(repr((source, cflags, cxx)).encode()).hexdigest()[:16]
    if key in _compiled:
        return _compiled[key]
    folder = tempdir()
    text, out = os.path.join(folder, "p.cc" if cxx else "p.c"), os.path.join(folder, key + ".so")
    with open(text, "w") as f:
        f.write(source)
    compiler = (ENV["TEST_CXX"] if cxx else ENV["TEST_CC"]).split()
    flags = ["-std=gnu++20", "-fno-gnu-unique"] if cxx else ["-std=gnu11"]
    run = subprocess.run([*compiler, *flags, "-g", "-O1", *ENV.get("TEST_CFLAGS", "").split(), "-D_GNU_SOURCE",
                          f"-I{SRCDIR}/sdk/include", "-fPIC", "-fvisibility=hidden", *cflags, "-o", out, text,
                          "-shared", "-Wl,-Bsymbolic", "-Wl,--exclude-libs,ALL"],
                         capture_output=True, text=True)
    if run.returncode:
        raise Failed("a test's plugin does not compile:\n" + run.stderr)
    _compiled[key] = out
    return out


def make_unique(so, n=None):
    """Path of a copy with bytes (behind the section headers) that no server has seen; with `n`, the
    same number gives the same bytes."""
    path = os.path.join(tempdir(), os.path.basename(plugin_path(so)))
    shutil.copyfile(plugin_path(so), path)
    with open(path, "ab") as f:
        f.write(b"graft-test" + (struct.pack("<q", n) if n is not None else os.urandom(16)))
    return path


# ---- HTTP, strictly ----

def listens(path):
    """Whether somebody accepts at this unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        try:
            s.connect(path)
        except OSError:
            return False
    return True


class HttpError(Exception):
    """The other side's bytes are not HTTP/1.1, or do not come."""


Response = collections.namedtuple("Response", "status reason version headers body chunked interim")


def _header(self, name, default=None):
    """The field's value; several joined by ', '."""
    values = [v for k, v in self.headers if k.lower() == name.lower()]
    return ", ".join(values) if values else default


Response.header = _header
Response.text = property(lambda self: self.body.decode("utf-8", "replace"))
Response.json = lambda self: json.loads(self.body)

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


def request_bytes(method="GET", target="/", headers=(), body=None, version="1.1", host="a"):
    """A request as bytes. With `body` (bytes) a Content-Length is added unless the headers have one."""
    pairs = list(headers.items() if isinstance(headers, dict) else headers)
    names = {k.lower() for k, _ in pairs}
    if host is not None and "host" not in names:
        pairs.insert(0, ("Host", host))
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("Content-Length", str(len(body))))
    head = f"{method} {target} HTTP/{version}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in pairs) + "\r\n"
    return head.encode("latin-1") + (body or b"")


def chunked(*chunks, trailers=b""):
    return b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks if c) + b"0\r\n" + trailers + b"\r\n"


class Conn:
    """One client connection. `to`: a Server, (host, port), or the path of a unix socket."""

    def __init__(self, to, timeout=10, rcvbuf=None):
        self.address = to.address if isinstance(to, Server) else to
        self.timeout = secs(timeout)
        self.data = b""
        self.eof = self.reset = False
        family = (socket.AF_UNIX if isinstance(self.address, str) else
                  socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET)
        self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.address)
        if family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def abort(self):
        """Closes with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def shut(self):
        """Sends a FIN; answers can still be read."""
        self.sock.shutdown(socket.SHUT_WR)

    def send(self, *parts, pause=0.02):
        """Writes each part, with a pause between them. A server that closed meanwhile is no error here:
        the next read shows what it said."""
        try:
            for i, part in enumerate(parts):
                if i:
                    time.sleep(pause)
                self.sock.sendall(part)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def fill(self, timeout=None):
        """Receives more; False at the end."""
        if self.eof:
            return False
        self.sock.settimeout(self.timeout if timeout is None else timeout)
        try:
            part = self.sock.recv(262144)
        except ConnectionResetError:
            self.reset = True
            part = b""
        if not part:
            self.eof = True
            return False
        self.data += part
        return True

    def _more(self, what):
        try:
            if self.fill():
                return
        except socket.timeout:
            raise HttpError(f"timeout in {what}; so far {self.data[:200]!r}") from None
        raise HttpError(f"{'reset' if self.reset else 'closed'} in {what}; so far {self.data[:200]!r}")

    def _line(self, what):
        while b"\r\n" not in self.data:
            self._more(what)
        line, self.data = self.data.split(b"\r\n", 1)
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise HttpError(f"control bytes in {what}: {line!r}")
        return line

    def _bytes(self, n, what):
        while len(self.data) < n:
            self._more(what)
        taken, self.data = self.data[:n], self.data[n:]
        return taken

    def _fields(self, what):
        fields = []
        while True:
            line = self._line(what)
            if not line:
                return fields
            name, colon, value = line.partition(b":")
            if not colon or not _TOKEN.match(name):
                raise HttpError(f"no field: {line!r}")
            fields.append((name.decode(), value.strip(b" \t").decode("latin-1")))

    def _head(self):
        line = self._line("the status line")
        m = re.match(rb"HTTP/1\.([01]) ([1-5]\d\d) ([\t\x20-\x7e]*)\Z", line)
        if not m:
            raise HttpError(f"no status line: {line!r}")
        return int(m[2]), m[3].decode(), "1." + m[1].decode(), self._fields("the head")

    def _chunks(self):
        body = b""
        while True:
            line = self._line("a chunk's size")
            if not re.match(rb"[0-9A-Fa-f]{1,16}\Z", line):
                raise HttpError(f"no chunk size: {line!r}")
            size = int(line, 16)
            if size == 0:
                if self._fields("the trailers"):
                    raise HttpError("trailers that nobody announced")
                return body
            body += self._bytes(size, "a chunk")
            if self._bytes(2, "a chunk's end") != b"\r\n":
                raise HttpError("a chunk does not end where it says")

    def head(self, method="GET"):
        """Status line and fields only: (status, reason, version, fields, interim answers)."""
        interim = []
        while True:
            status, reason, version, fields = self._head()
            if status >= 200:
                return status, reason, version, fields, interim
            if any(k.lower() in ("content-length", "transfer-encoding") for k, _ in fields):
                raise HttpError(f"{status} with a body")
            interim.append(status)

    def response(self, method="GET"):
        """The next whole answer, with 1xx ones before it in `interim`."""
        status, reason, version, fields, interim = self.head(method)
        length = [v for k, v in fields if k.lower() == "content-length"]
        coding = [v for k, v in fields if k.lower() == "transfer-encoding"]
        if len(length) > 1 or len(coding) > 1 or (length and coding):
            raise HttpError(f"ambiguous framing: {fields}")
        if coding and coding[0].lower() != "chunked":
            raise HttpError(f"Transfer-Encoding: {coding[0]}")
        if length and not re.match(r"\d+\Z", length[0]):
            raise HttpError(f"Content-Length: {length[0]}")
        if status == 204 and (length or coding):
            raise HttpError(f"204 with {length or coding}")
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif coding:
            body = self._chunks()
        elif length:
            body = self._bytes(int(length[0]), "the body")
        else:
            while True:
                try:
                    if not self.fill():
                        break
                except socket.timeout:
                    raise HttpError("a body without length does not end") from None
            if self.reset:
                raise HttpError("a body without length ended with a reset")
            body, self.data = self.data, b""
        return Response(status, reason, version, fields, body, bool(coding), interim)

    def last_response(self):
        """The answer to a connection's last request (Connection: close), read to the end: quick also
        for many megabytes."""
        raw = bytearray(self.data)
        self.sock.settimeout(self.timeout)
        while True:
            part = self.sock.recv(1 << 20)
            if not part:
                break
            raw += part
        head, found, body = bytes(raw).partition(b"\r\n\r\n")
        self.eof, self.data = True, head + found
        status, reason, version, fields, interim = self.head()
        answer = Response(status, reason, version, fields, body, False, interim)
        if answer.header("Transfer-Encoding") is None:
            if answer.header("Content-Length") not in (None, str(len(body))):
                raise HttpError(f"{len(body)} bytes, Content-Length: {answer.header('Content-Length')}")
            return answer
        pieces, at = [], 0
        while True:
            end = body.find(b"\r\n", at)
            if end < 0 or not re.match(rb"[0-9A-Fa-f]{1,16}\Z", body[at:end]):
                raise HttpError(f"no chunk size: {body[at:at + 40]!r}")
            size, at = int(body[at:end], 16), end + 2
            if body[at + size:at + size + 2] != b"\r\n":
                raise HttpError("a chunk does not end where it says")
            if size == 0:
                break
            pieces.append(body[at:at + size])
            at += size + 2
        if at + 2 != len(body):
            raise HttpError(f"{body[at + 2:at + 42]!r} behind the last chunk")
        return answer._replace(body=b"".join(pieces), chunked=True)

    def request(self, method="GET", target="/", headers=(), body=None, **more):
        """Sends one request on this connection and reads its answer."""
        self.send(request_bytes(method, target, headers, body, **more))
        return self.response(method)

    def get(self, target):
        return self.request("GET", target)

    def ends(self, seconds=5):
        """How the connection ends: 'eof', 'reset', or None when it is open after that time. What comes
        before the end stays in `data`."""
        until = time.monotonic() + secs(seconds)
        while not self.eof:
            try:
                self.fill(max(0.001, until - time.monotonic()))
            except socket.timeout:
                return None
        return "reset" if self.reset else "eof"

    def is_open(self, seconds=0.15):
        """Still open, and silent, for this time (not scaled: a server that has decided, has)."""
        try:
            return self.fill(seconds) and False
        except socket.timeout:
            return not self.data


# ---- Servers ----

def graftd(*args, env=None, timeout=20, **more):
    """Runs graftd to its end: CompletedProcess with text."""
    return subprocess.run([GRAFTD, *map(str, args)], capture_output=True, text=True, timeout=secs(timeout),
                          stdin=subprocess.DEVNULL, env=server_env(env), **more)


def server_env(more=None):
    """This environment without what would configure a server behind the test's back."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("GRAFT_", "LISTEN_")) and k not in
           ("CACHE_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET")}
    env.update(more or {})
    return env


def children(pid):
    """The PIDs of a process's children."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(word) for word in f.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def back(server, old, seconds=30):
    """Waits until another server process than `old` serves; its pid."""
    def another():
        try:
            now = server.status()
        except (OSError, HttpError):
            return None
        return now["pid"] if now["pid"] != old and now["generation"] > 0 else None
    return wait_for(another, seconds, "another server process")


def stands_still(pid):
    """Whether every thread of it is stopped."""
    for stat in glob.glob(f"/proc/{pid}/task/*/stat"):
        with open(stat) as f:
            if f.read().rsplit(")", 1)[1].split()[0] != "T":
                return False
    return True


def as_user(uid, gid, groups, fn):
    """What fn() returns in a child that is another user."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.write(w, json.dumps(fn()).encode())
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        text = f.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else None


def low_port():
    """A free port below 1024, which only root may bind here; None: there is none such."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
        if os.geteuid() != 0 or int(f.read()) < 1024:
            return None
    for port in range(1023, 500, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    return None


def alive(pid):
    """Whether there is such a process that has not ended. Killed, its first thread can be a zombie while another
    one still waits for a disk and keeps everything open."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _merge(into, more):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and key != "plugins":
            _merge(into[key], value)
        else:
            into[key] = value
    return into


class Server:
    """A graftd in a folder of its own (self.dir): plugins/, stage/, graft.json, control.sock, log.

    plugins   names (see plugin_path) or {name of the file: name or path}
    config    merged over the defaults below; self.config can be changed before reload(config=True)
    args, env more of the command line and the environment
    wait      False: do not wait until it listens; start=False: not even start
    status    the exit status that finish() expects after SIGTERM"""

    number = 0

    def __init__(self, plugins=("hello", "echo"), config=None, args=(), env=None, workers=2, listen=("127.0.0.1:0",),
                 start=True, wait=True, status=0, dir=None, **popen):
        Server.number += 1
        self.name = f"server {Server.number}"
        self.dir = dir or tempdir()
        self.plugin_dir = os.path.join(self.dir, "plugins")
        self.stage_dir = os.path.join(self.dir, "stage")
        self.control = os.path.join(self.dir, "control.sock")
        self.log_path = os.path.join(self.dir, "log")
        self.config_path = os.path.join(self.dir, "graft.json")
        self.args, self.env, self.popen = list(args), env, popen
        self.status_expected = status
        self.proc = None
        self._log_at, self._log_rest, self.events, self.other_lines = 0, b"", [], []
        self._log_lock = threading.Lock()
        self._checked = False
        os.makedirs(self.plugin_dir, mode=0o755, exist_ok=True)
        for name, what in (plugins.items() if isinstance(plugins, dict) else
                           [(os.path.basename(p).removesuffix(".so"), p) for p in plugins]):
            self.install(what, name)
        self.config = _merge({
            "listen": list(listen), "plugin_dir": self.plugin_dir, "stage_dir": self.stage_dir,
            "state_dir": os.path.join(self.dir, "state"), "control": self.control,
            "ops": "127.0.0.1:0", "workers": workers,
            "timeouts_ms": {"adopt": int(10000 * SCALE), "load": int(30000 * SCALE)},
        }, config or {})
        os.makedirs(os.path.join(self.dir, "state"), exist_ok=True)
        self.write_config()
        _servers.append(self)
        if start:
            self.start(wait)

    def write_config(self, text=None):
        with open(self.config_path + ".new", "w") as f:
            f.write(text if text is not None else json.dumps(self.config, indent=2))
        os.rename(self.config_path + ".new", self.config_path)

    # -- its process --

    def start(self, wait=True):
        with open(self.log_path, "ab") as log:
            self.proc = subprocess.Popen([GRAFTD, "-c", self.config_path, *map(str, self.args)], stdout=log, stderr=log,
                                         stdin=subprocess.DEVNULL, env=server_env(self.env), **self.popen)
        if wait:
            self.wait_live()
        return self

    def wait_live(self, seconds=20):
        """Until it listens everywhere and the control socket answers."""
        def live():
            if self.proc.poll() is not None:
                raise Failed(f"graftd ended with {self.proc.returncode} instead of serving:\n" + self.tail())
            return self.event("ops" if self.config["ops"] else "listening") and (
                not self.config["control"] or self.event("control"))
        wait_for(live, seconds, f"{self.name} does not listen")

    @property
    def pid(self):
        """Of the process that serves, whoever was started: self.proc is its supervisor, where there is one. What
        a test looks up in /proc, it looks up by this one."""
        try:
            return self.status()["pid"]
        except (OSError, HttpError, KeyError):
            return next(iter(children(self.proc.pid)), self.proc.pid)

    def send_signal(self, signo):
        self.proc.send_signal(signo)

    def wait_exit(self, seconds=40):
        """The exit status, as a shell says it (128+N for signal N)."""
        try:
            code = self.proc.wait(secs(seconds))
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} does not end within {secs(seconds):.0f} s:\n" + self.tail()) from None
        self._check()
        return code if code >= 0 else 128 - code

    def stop(self, signo=signal.SIGTERM, seconds=40):
        """Signal and exit status."""
        if self.proc.poll() is None:
            self.send_signal(signo)
        return self.wait_exit(seconds)

    def finish(self):
        """At the end of a case: a server that still runs must drain with the expected status."""
        if self.proc is None or self.proc.poll() is not None:
            self._check()
            return
        try:
            code = self.stop()
            if code != self.status_expected:
                ok(False, f"{self.name} drains and exits {self.status_expected}", f"{code}\n" + self.tail())
        except Failed as error:
            self.kill()
            ok(False, f"{self.name} drains", str(error))

    def kill(self):
        """SIGKILL for all of it: nobody is left to clean up."""
        if self.proc is not None and self.proc.poll() is None:
            below = children(self.proc.pid)
            self.proc.kill()
            for pid in below:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.proc.wait()
            wait_for(lambda: not any(alive(pid) for pid in below), 10, "the server process is gone")
            # Descriptors are closed by the last of a process's threads, which may end after the one that is seen.
            wait_for(lambda: not listens(self.control), 10, "its sockets are closed")

    def _check(self):
        """What a sanitizer said fails the test, once."""
        if self.proc is None or self._checked:
            return
        self._checked = True
        self.log()
        said = [line for line in self.other_lines if REPORTS.search(line)]
        if said:
            ok(False, f"{self.name}: nothing reported by sanitizers or assertions", "\n".join(self.other_lines[:80]))

    # -- its log --

    def log(self):
        """All events so far, as dictionaries; lines that are no JSON are in `other_lines`."""
        with self._log_lock:
            try:
                with open(self.log_path, "rb") as f:
                    f.seek(self._log_at)
                    data = f.read()
            except FileNotFoundError:
                data = b""
            self._log_at += len(data)
            *lines, self._log_rest = (self._log_rest + data).split(b"\n")
            for line in lines:
                try:
                    event = json.loads(line)
                    self.events.append(event if isinstance(event, dict) else {"msg": event})
                except ValueError:
                    self.other_lines.append(line.decode("utf-8", "replace"))
            return self.events

    def find_events(self, name=None, since=0, **match):
        """Those of this name whose members equal (or, given a function or a pattern, satisfy) `match`."""
        def fits(event):
            for key, wanted in match.items():
                value = event.get(key)
                if callable(wanted):
                    if not wanted(value):
                        return False
                elif isinstance(wanted, re.Pattern):
                    if not wanted.search(str(value)):
                        return False
                elif value != wanted:
                    return False
            return True
        return [e for e in self.log()[since:] if (name is None or e.get("event") == name) and fits(e)]

    def event(self, name, since=0, **match):
        found = self.find_events(name, since, **match)
        return found[0] if found else None

    def wait_event(self, name, timeout=10, since=0, **match):
        """The first such event at or behind position `since` (see mark()); Failed when none comes."""
        try:
            return wait_for(lambda: self.event(name, since, **match), timeout, f"event {name} {match}")
        except Failed as error:
            raise Failed(f"{error}; the log's end:\n{self.tail()}") from None

    def mark(self):
        """A position in the log, for `since`."""
        return len(self.log())

    def tail(self, lines=25):
        self.log()
        last = [json.dumps(e, ensure_ascii=False)[:600] for e in self.events[-lines:]]
        return "\n".join(last + self.other_lines[-60:])

    # -- its sockets --

    def addresses(self):
        """Of all listeners, in the order of the configuration: (host, port) or a path."""
        out = []
        for event in self.find_events("listening"):
            text = event["address"]
            if text.startswith("unix:"):
                out.append(text[5:])
            else:
                host, port = text.rsplit(":", 1)
                out.append((host.strip("[]"), int(port)))
        return out

    @property
    def address(self):
        return self.addresses()[0]

    @property
    def port(self):
        return self.address[1]

    @property
    def ops(self):
        host, port = self.event("ops")["address"].rsplit(":", 1)
        return host.strip("[]"), int(port)

    def connect(self, **options):
        return Conn(self, **options)

    def request(self, method="GET", target="/", headers=(), body=None, **more):
        """One request on a connection of its own."""
        with Conn(self) as conn:
            return conn.request(method, target, headers, body, **more)

    def get(self, target):
        return self.request("GET", target)

    def post(self, target, body):
        return self.request("POST", target, body=body)

    def ops_get(self, target):
        with Conn(self.ops) as conn:
            return conn.get(target)

    def metrics(self):
        """{'name{labels}': number}"""
        out = {}
        for line in self.ops_get("/metrics").text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name] = float(value)
        return out

    def api(self, method, target, timeout=60):
        """The control socket: the answer's JSON, with the HTTP status as "_status"."""
        with Conn(self.control, timeout=timeout) as conn:
            answer = conn.request(method, target, host="graft")
        return {**answer.json(), "_status": answer.status}

    def status(self):
        return self.api("GET", "/v1/status")

    def ps(self, plugin=None, state=None):
        """The versions, all or of one plugin, or in one state."""
        return [v for v in self.api("GET", "/v1/versions")["versions"]
                if plugin in (None, v["plugin"]) and state in (None, v["state"])]

    def active(self, plugin):
        """The one active version of a plugin."""
        found = self.ps(plugin, "active")
        if len(found) != 1:
            raise Failed(f"{plugin}: expected one active version, found {found}")
        return found[0]

    def routes(self):
        return self.api("GET", "/v1/routes")["routes"]

    def reload(self, retry=False, allow_empty=False, config=False):
        """POST /v1/reload. config=True writes self.config first."""
        if config:
            self.write_config()
        query = "&".join(k + "=1" for k, v in (("retry", retry), ("allow_empty", allow_empty), ("config", config)) if v)
        return self.api("POST", "/v1/reload" + ("?" + query if query else ""))

    def reload_signal(self, signo=signal.SIGUSR2, timeout=20, **match):
        """SIGUSR2 (or HUP, after writing self.config): the `swap` event that follows."""
        if signo == signal.SIGHUP:
            self.write_config()
        mark = self.mark()
        self.send_signal(signo)
        return self.wait_event("swap", timeout, since=mark, **match)

    def ctl(self, *args, timeout=60):
        """graftctl: CompletedProcess with text."""
        return subprocess.run([GRAFTCTL, "--control", self.control, *args], capture_output=True, text=True,
                              timeout=secs(timeout), env=server_env())

    # -- its plugins --

    def install(self, what, name=None):
        """Puts a plugin into the folder as NAME.so in one step; returns the SHA-256 of the file."""
        source = plugin_path(what)
        name = name or os.path.basename(source).removesuffix(".so")
        temporary = os.path.join(self.plugin_dir, f".{name}.new")
        shutil.copyfile(source, temporary)
        os.chmod(temporary, 0o644)
        os.rename(temporary, os.path.join(self.plugin_dir, name + ".so"))
        with open(source, "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()

    def uninstall(self, name):
        os.unlink(os.path.join(self.plugin_dir, name + ".so"))

    # -- what it takes from the machine --

    def proc_status(self, key):
        with open(f"/proc/{self.pid}/status") as f:
            for line in f:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
        return 0

    def rss_kb(self):
        return self.proc_status("VmRSS")

    def anon_kb(self):
        """Private memory, without file mappings."""
        return self.proc_status("RssAnon")

    def threads(self):
        return self.proc_status("Threads")

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def fds_at_rest(self):
        """How many there are when what went before has been closed, and the store has been written."""
        def same():
            count = self.fds()
            time.sleep(0.3)
            return count if self.fds() == count else None
        return wait_for(same, 20, "a number of descriptors that stays")

    def maps(self, pattern=None):
        """Lines of /proc/PID/maps, all or those with this text."""
        with open(f"/proc/{self.pid}/maps") as f:
            return [line for line in f if pattern is None or pattern in line]

    def staged(self):
        """Paths of the staged copies."""
        return sorted(os.path.join(folder, f) for folder, _, files in os.walk(self.stage_dir) for f in files
                      if f.endswith(".so"))


# ---- Load in the background ----

class Prober:
    """Requests all the time, in threads. `failures` holds sentences, `seen` what value() made of each good
    answer (default: its body), in order; `count` the answers.

        with Prober(s, "/version") as p:
            ...
        is_(p.failures, [], "no request failed")"""

    def __init__(self, to, target="/hello", every=0.005, clients=1, keep_alive=True, status=200, value=None,
                 request=None, check=None):
        self.address = to.address if isinstance(to, Server) else to
        self.wanted, self.every, self.keep_alive = status, every, keep_alive
        self.bytes = request or request_bytes("GET", target, () if keep_alive else {"Connection": "close"})
        self.value = value or (lambda response: response.body)
        self.check = check
        self.failures, self.seen, self.count, self.closed = [], [], 0, 0
        self.slowest = 0.0
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._live, daemon=True) for _ in range(clients)]

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        for thread in self.threads:
            thread.start()
        wait_for(lambda: self.count or self.failures, 10, "the first probe")
        return self

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(secs(20))
        return self

    def wait_count(self, more, seconds=20):
        """Until this many answers more have come."""
        until = self.count + more
        wait_for(lambda: self.count >= until or self.failures, seconds, f"{more} more probes")

    def versions(self):
        """The values in order, repetitions left out (useful with one client)."""
        out = []
        for value in self.seen:
            if not out or out[-1] != value:
                out.append(value)
        return out

    def _live(self):
        conn = None
        while not self.over.is_set():
            began = time.monotonic()
            try:
                if conn is None:
                    conn = Conn(self.address)
                if not conn.send(self.bytes):
                    raise HttpError("closed before the request was written")
                answer = conn.response()
                self._take(answer, time.monotonic() - began)
                if not self.keep_alive or (answer.header("Connection") or "").lower() == "close":
                    self.closed += self.keep_alive
                    conn.close()
                    conn = None
            except (HttpError, OSError) as error:
                with self.lock:
                    self.failures.append(f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}")
                if conn is not None:
                    conn.close()
                conn = None
                time.sleep(0.05)
            self.over.wait(self.every)
        if conn is not None:
            conn.close()

    def _take(self, answer, seconds):
        with self.lock:
            self.count += 1
            self.slowest = max(self.slowest, seconds)
            why = self.check(answer) if self.check else None
            if answer.status != self.wanted:
                self.failures.append(f"{answer.status} {answer.body[:200]!r}")
            elif why:
                self.failures.append(str(why))
            else:
                self.seen.append(self.value(answer))
