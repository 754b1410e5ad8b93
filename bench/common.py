"""What the benchmarks and the soak test share: starting servers in folders of their own, the board
(board.h), the plugin whose version is patched into its bytes, and the figures of a process in /proc.

Everything listens on 127.0.0.1 or in the work folder, and ends with the script."""

import datetime
import hashlib
import http.client
import json
import mmap
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)

# ---- The board: the same table as in board.h ----

BOARD_MAGIC = 0x3130445242544647
BOARD_BYTES = 4096
BOARD_WORDS = ("magic", "completed", "newest", "phase", "stop", "pause",
               "sent", "answered", "failed", "opened", "stale", "waiting")
OTHER, QUIET, SWAPS = 0, 1, 2


class Board:
    """Words of 8 bytes that graftload and the script read and write, each word with one writer."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as file:
            file.write(bytes(BOARD_BYTES))
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), BOARD_BYTES)
        self.words = memoryview(self.map).cast("Q")  # one aligned store a word
        self.phases = 0
        self["magic"] = BOARD_MAGIC

    def __setitem__(self, word, value):
        self.words[BOARD_WORDS.index(word)] = value

    def __getitem__(self, word):
        return self.words[BOARD_WORDS.index(word)]

    def begin(self, phase_class):
        """Begins a phase: latencies are kept apart by its class."""
        self.phases += 1
        self["phase"] = self.phases * 4 + phase_class

    def close(self):
        self.words.release()
        self.map.close()


# ---- Finding and building ----

SANITIZED = os.environ.get("TEST_SANITIZER", "none") != "none"


def find(name):
    """A program of the build tree: tests/env says where that is, else it is looked for."""
    places = [os.environ.get("TEST_BUILDDIR"), os.getcwd(), TOP, os.path.join(TOP, "build")]
    for place in filter(None, places):
        path = os.path.join(place, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise SystemExit(f"{name} not found: build it (make bench, make test-programs), or run inside tests/env")


def find_graftd():
    return os.environ.get("GRAFTD") or find("tests/graftd")


def find_graftload():
    return os.environ.get("GRAFTLOAD") or find("bench/graftload")


def find_bare():
    return os.environ.get("BARE_EPOLL") or find("bench/bare_epoll")


def compile_plugin(source, target, *flags):
    """Builds a plugin with the flags of graft.pc, this tree's header and this build's sanitizers."""
    cc = os.environ.get("TEST_CC", "cc").split() + os.environ.get("TEST_CFLAGS", "").split()
    subprocess.run(cc + ["-std=gnu11", "-O2", "-I", os.path.join(TOP, "sdk/include"), "-fPIC",
                         "-fvisibility=hidden", "-shared", "-Wl,-Bsymbolic", "-Wl,--exclude-libs,ALL",
                         *flags, "-o", target, source], check=True)
    os.chmod(target, 0o644)


class Template:
    """A compiled plugin with its mark VERSION-0000000001 in exactly one place."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
        self.at = self.data.find(b"VERSION-")
        if self.at < 0 or self.data.count(b"VERSION-") != 1:
            raise SystemExit(f"{path}: expected the mark VERSION- exactly once")

    def put(self, number, target):
        """Puts version `number` at `target` by rename; answers the file's SHA-256."""
        self.data[self.at:self.at + 18] = b"VERSION-%010d" % number
        part = os.path.join(os.path.dirname(target), "." + os.path.basename(target))
        with open(part, "wb") as file:
            file.write(self.data)
        os.chmod(part, 0o644)
        os.rename(part, target)
        return hashlib.sha256(self.data).hexdigest()


# ---- A process seen from outside ----

def pids_of(pid):
    """A process and all that descend from it."""
    found = [pid]
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            for child in file.read().split():
                found += pids_of(int(child))
    except OSError:
        pass
    return found


def cpu_seconds(pid):
    """(user, system) of a process and its children, all threads."""
    user = system = 0
    for one in pids_of(pid):
        with open(f"/proc/{one}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        user += int(fields[11])
        system += int(fields[12])
    tick = os.sysconf("SC_CLK_TCK")
    return user / tick, system / tick


def memory_kb(pid):
    """(resident, private dirty) of a process and its children."""
    rss = dirty = 0
    for one in pids_of(pid):
        with open(f"/proc/{one}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Rss:"):
                    rss += int(line.split()[1])
                elif line.startswith("Private_Dirty:"):
                    dirty += int(line.split()[1])
    return rss, dirty


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def mappings(pid):
    """The number of mappings of files, and of all; the heap's own may split and join."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    return sum(1 for line in lines if "/" in line), len(lines)


def files_below(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


# ---- Servers ----

def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def pinned(core):
    """For Popen's preexec_fn: run on one core only, where there are several."""
    def pin():
        if core is not None and (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, {core})
    return pin


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Server:
    """A process that is stopped, by its pid, when the script ends."""

    name = "server"

    def __init__(self, work):
        self.work = work
        self.process = None
        self.port = None
        self.log_path = os.path.join(work, f"{self.name}-{id(self):x}.log")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def spawn(self, args, core=None, pass_fds=()):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            preexec_fn=pinned(core), pass_fds=pass_fds)
        return self

    def log_tail(self, lines=20):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])

    def wait_port(self, seconds=20):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"{self.name} does not serve:\n{self.log_tail()}")

    def stop(self, how=signal.SIGTERM, seconds=20):
        """The exit status; killed, and then None, when it does not end in time."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None


class Graftd(Server):
    """graftd with a plugin folder, a stage folder and a control socket of its own."""

    name = "graftd"
    count = 0

    def __init__(self, work, binary=None, plugins=None, **config):
        super().__init__(work)
        Graftd.count += 1
        self.binary = binary or find_graftd()
        self.plugins = plugins or os.path.join(work, "plugins")
        self.stage = os.path.join(work, f"stage-{Graftd.count}")
        state = os.path.join(work, f"state-{Graftd.count}")  # else good versions are kept in the stage folder
        self.control_path = os.path.join(work, f"control-{Graftd.count}.sock")
        self.config_path = os.path.join(work, f"graft-{Graftd.count}.json")
        os.makedirs(self.plugins, mode=0o755, exist_ok=True)
        os.makedirs(self.stage, mode=0o700, exist_ok=True)
        os.makedirs(state, mode=0o700, exist_ok=True)
        if "listen" not in config:
            self.port = free_port()
            config["listen"] = [self.address]
        self.config = {"plugin_dir": self.plugins, "stage_dir": self.stage, "state_dir": state, "ops": "",
                       "control": self.control_path, "workers": 1,
                       "log": {"level": "info", "format": "json"}, **config}
        self.link = None

    def start(self, core=None, pass_fds=(), wrapper=(), seconds=20):
        with open(self.config_path, "w", encoding="utf-8") as file:
            json.dump(self.config, file, indent=1)
        self.spawn([*wrapper, self.binary, "-c", self.config_path], core, pass_fds)
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if self.ask("GET", "/v1/status")["generation"] >= 1:
                    return self
            except (OSError, KeyError, http.client.HTTPException, ValueError):
                pass
            time.sleep(0.02)
        code = self.process.poll()
        self.stop(signal.SIGKILL)
        raise SystemExit(f"graftd does not serve (exit status {code}):\n{self.log_tail()}")

    def ask(self, method, target, timeout=60):
        """One question to the control socket; the JSON object of the answer, whatever the status."""
        for again in (True, False):
            if self.link is None:
                self.link = UnixConnection(self.control_path, timeout)
            try:
                self.link.request(method, target, headers={"Content-Length": "0"})
                answer = self.link.getresponse()
                body = answer.read()
                if answer.will_close:
                    self.unlink()
                return json.loads(body)
            except (OSError, http.client.HTTPException):
                self.unlink()  # the server may have closed the idle link: once more on a new one
                if not again:
                    raise
        return None

    def unlink(self):
        if self.link is not None:
            self.link.close()
            self.link = None

    @property
    def pid(self):
        """Of the process that serves, which a supervisor may have started."""
        return self.ask("GET", "/v1/status")["pid"]

    def versions(self):
        return self.ask("GET", "/v1/versions")["versions"]

    def events(self, name=None):
        found = []
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and name in (None, event.get("event")):
                    found.append(event)
        return found

    def stop(self, how=signal.SIGTERM, seconds=40):
        self.unlink()
        return super().stop(how, seconds)


class Nginx(Server):
    """nginx that answers 12 fixed bytes; `text` can be changed and taken over by HUP."""

    name = "nginx"

    def __init__(self, work, workers=1):
        super().__init__(work)
        self.port = free_port()
        self.workers = workers
        self.config_path = os.path.join(work, "nginx.conf")

    def configure(self, text="hello world\\n"):
        with open(self.config_path, "w", encoding="ascii") as file:
            file.write(f"""daemon off;
worker_processes {self.workers};
pid {self.work}/nginx.pid;
error_log {self.work}/nginx-error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {self.work}/body; proxy_temp_path {self.work}/proxy;
    fastcgi_temp_path {self.work}/fastcgi; uwsgi_temp_path {self.work}/uwsgi; scgi_temp_path {self.work}/scgi;
    server {{
        listen {self.address} backlog=1024;
        location / {{ default_type text/plain; return 200 "{text}"; }}
    }}
}}
""")

    def start(self, core=None):
        self.configure()
        self.spawn([shutil.which("nginx") or "/usr/sbin/nginx", "-c", self.config_path], core)
        return self.wait_port()

    def hup(self, text):
        self.configure(text)
        self.process.send_signal(signal.SIGHUP)


class Bare(Server):
    """bench/bare_epoll: the limit."""

    name = "bare_epoll"

    def start(self, core=None, binary=None):
        self.port = free_port()
        self.spawn([binary or find_bare(), str(self.port)], core)
        return self.wait_port()


# ---- Load ----

class Load:
    """A graftload on its own core when asked; finish() waits for it and answers its JSON."""

    def __init__(self, address, kinds, core=None, board=None, versioned=False, binary=None, **options):
        args = [binary or find_graftload(), "--json"]
        for key, value in options.items():
            args += ["--" + key, str(value)]
        for kind in kinds:
            args += ["--kind", kind]
        if board is not None:
            args += ["--board", board.path]
        if versioned:
            args += ["--versioned"]
        self.process = subprocess.Popen(args + [address], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, preexec_fn=pinned(core))
        self.complaints = ""

    def finish(self, timeout=None):
        out, self.complaints = self.process.communicate(timeout=timeout)
        if self.process.returncode == 2 or not out:
            raise SystemExit(f"graftload: {self.complaints}")
        return json.loads(out)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


# ---- Reports ----

class Checks:
    """What was wanted and what was found, as TAP or for people."""

    def __init__(self, tap=False):
        self.tap = tap
        self.rows = []

    def check(self, ok, text):
        self.rows.append((bool(ok), text))
        if self.tap:
            print(f"{'ok' if ok else 'not ok'} {len(self.rows)} - {text}", flush=True)
        else:
            print(f"  {'ok    ' if ok else 'FAILED'}  {text}", flush=True)
        return bool(ok)

    def note(self, text):
        for line in str(text).rstrip().splitlines():
            print(f"# {line}" if self.tap else line, flush=True)

    def finish(self):
        bad = sum(1 for ok, _ in self.rows if not ok)
        if self.tap:
            print(f"1..{len(self.rows)}", flush=True)
        else:
            print(f"{len(self.rows) - bad} of {len(self.rows)} as wanted", flush=True)
        return 1 if bad else 0


def machine():
    """One line that says where and when figures were taken, and how busy the machine was."""
    model = "unknown CPU"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (f"{now}; {os.cpu_count()} x {model}; Linux {platform.release()}; "
            f"{' '.join(platform.libc_ver())}; load average {os.getloadavg()[0]:.2f} at the start")


def fnv(data):
    """FNV-1a, 64 bits: what the tests' plugins answer of a body."""
    value = 0xcbf29ce484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001b3) & 0xffffffffffffffff
    return value


def median(values):
    values = sorted(values)
    if not values:
        return 0.0
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


class WorkFolder:
    """A private folder below $TMPDIR, removed at the end unless it is to be kept."""

    def __init__(self, prefix, keep=False):
        self.prefix, self.keep = prefix, keep

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix=f"graft-{self.prefix}-")
        return self.path

    def __exit__(self, *_):
        if self.keep:
            print(f"kept: {self.path}", file=sys.stderr)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def write_json(path, value):
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.write("\n")
