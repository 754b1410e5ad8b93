"""What the chaos driver does to the server: deaths of its process, and what it may lack: room in the
stage folder, descriptors, an open, mmap or dlopen that succeeds."""

import ctypes
import os
import resource
import select
import signal
import subprocess
import time

from grafttest import Conn, HttpError, SANITIZER, children, request_bytes, secs

# Of the others a sanitizer has a word of its own, or holds the watchdog's signal back.
CRASHES = {"none": ("segv", "abort", "overflow", "double-free", "loop", "fpe", "ill", "exit", "offload", "thread"),
           "asan": ("segv", "abort", "offload"), "tsan": ("segv", "abort", "offload")}.get(SANITIZER, ("segv", "abort"))
SIGNALS = {"segv": "SIGSEGV", "abort": "SIGABRT", "overflow": "SIGSEGV", "double-free": "SIGABRT", "loop": "SIGABRT",
           "fpe": "SIGFPE", "ill": "SIGILL", "offload": "SIGSEGV", "thread": "SIGSEGV", "kill -9": "SIGKILL",
           "kill -9 at its start": "SIGKILL"}


# ---- Deaths ----

class Death:
    """One process that ended: between `begun` and `dead`, seconds of the monotonic clock."""

    def __init__(self, kind, pid, alone):
        self.kind, self.pid, self.alone = kind, pid, alone  # alone: nothing was lacking, nothing was deployed
        self.begun = self.dead = self.moment = 0.0
        self.failed, self.closed = [], []
        self.active = self.busy = 0
        self.recovered = None

    def wait(self, fd, seconds):
        """Until the process is gone: whether it is."""
        gone = bool(select.select([fd], [], [], secs(seconds))[0])
        self.dead = time.monotonic()
        self.moment = self.dead if self.kind == "loop" else self.begun  # that of a loop is when the watchdog comes
        return gone

    def happen(self, server):
        """False: the process lives on."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if self.kind.startswith("kill"):
                self.begun = time.monotonic()
                os.kill(self.pid, signal.SIGKILL)
                return self.wait(fd, 20)
            with Conn(server, timeout=60) as conn:
                self.begun = time.monotonic()
                conn.send(request_bytes("GET", "/crashes/" + self.kind))
                return self.wait(fd, 60)
        except (OSError, HttpError):
            return self.wait(fd, 1)
        finally:
            os.close(fd)


def heir(server, pid, seconds=20):
    """The process that follows `pid`, as soon as there is one, ready or not."""
    until = time.monotonic() + secs(seconds)
    while time.monotonic() < until:
        for child in children(server.proc.pid):
            if child != pid:
                return child
        time.sleep(0.0005)
    return None


# ---- What it lacks ----

class FullDisk:
    """The stage folder is a small tmpfs of the test's own; room for so many bytes is left."""

    name = "full disk"

    def __init__(self, server, dice):
        self.path, self.left = os.path.join(server.stage_dir, ".filler"), dice.choice((0, 0, 4096, 20000))

    def begin(self):
        at = 0
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                at += os.write(fd, bytes(65536))
        except OSError:
            os.ftruncate(fd, max(0, at - self.left))
        os.close(fd)

    def end(self):
        os.unlink(self.path)

    def __str__(self):
        return f"{self.name}, {self.left} bytes left"


class Descriptors:
    """A process may open a few more, or none."""

    name = "no descriptors"

    def __init__(self, pid, whose, dice):
        self.pid, self.whose, self.more = pid, whose, dice.choice((0, 0, 1, 2, 5, 20))
        self.before = None

    def begin(self):
        try:
            self.before = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
            used = len(os.listdir(f"/proc/{self.pid}/fd"))
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (used + self.more, self.before[1]))
        except (ProcessLookupError, FileNotFoundError):
            self.before = None

    def end(self):
        if self.before is not None:
            try:
                resource.prlimit(self.pid, resource.RLIMIT_NOFILE, self.before)
            except ProcessLookupError:
                pass  # it died of something else

    def __str__(self):
        return f"{self.name} but {self.more}, {self.whose}"


class Injected:
    """The n-th open, mmap or dlopen fails, or all from it on: in whatever process makes it."""

    name = "injected"

    def __init__(self, injector, dice):
        self.injector, self.kind = injector, dice.choice(("open", "mmap", "dlopen"))
        self.n = dice.randrange({"open": 40, "mmap": 12, "dlopen": 4}[self.kind])
        self.many = dice.random() < 0.4
        self.calls = None

    def begin(self):
        self.injector.arm(self.kind, self.n, 1 << 60 if self.many else self.n + 1)

    def end(self):
        self.calls = self.injector.disarm()

    def __str__(self):
        return f"{'all from the' if self.many else 'the'} {self.n}th {self.kind} fails" + \
            (f" of {self.calls}" if self.calls is not None else "")


class Disk:
    """A small tmpfs; `why` says why there is none."""

    def __init__(self, path, megabytes=24):
        self.path, self.why = path, None
        os.makedirs(path, mode=0o700, exist_ok=True)
        if os.geteuid() != 0:
            self.why = "only root can mount a small file system"
            return
        run = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "graft-chaos", path],
                             capture_output=True, text=True)
        if run.returncode:
            self.why = "mount: " + run.stderr.strip()

    def close(self):
        if self.why is None:
            ctypes.CDLL(None, use_errno=True).umount2(self.path.encode(), 2)  # MNT_DETACH: also while it is in use
            self.why = "closed"
