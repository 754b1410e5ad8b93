"""inject/inject.c in a test's hands: it is preloaded into graftd, and the n-th call of a kind fails while it is armed."""
import mmap
import os
import struct
import subprocess

from grafttest import ENV, Failed, tempdir

__all__ = ["KINDS", "FOR_EVER", "Injector"]

KINDS = {"allocation": 1, "open": 2, "mmap": 3, "dlopen": 4, "growth": 5}
FOR_EVER = 1 << 60


class Injector:
    """The control file, as inject.c maps it."""

    def __init__(self):
        folder = tempdir()
        self.library = os.path.join(folder, "inject.so")
        source = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "inject", "inject.c")
        run = subprocess.run([*ENV["TEST_CC"].split(), "-std=gnu11", "-O1", "-g", "-fPIC", "-shared", "-o", self.library,
                              source], capture_output=True, text=True)
        if run.returncode:
            raise Failed("inject.c does not compile:\n" + run.stderr)
        path = os.path.join(folder, "control")
        with open(path, "w+b") as f:
            f.truncate(4096)
            self.map = mmap.mmap(f.fileno(), 4096)
        self.env = {"LD_PRELOAD": self.library, "INJECT_CONTROL": path}

    def arm(self, kind, first, last):
        struct.pack_into("<qqq", self.map, 8, 0, first, last)
        struct.pack_into("<i", self.map, 0, KINDS[kind])

    def disarm(self):
        """How many calls of the kind were made."""
        struct.pack_into("<i", self.map, 0, 0)
        return struct.unpack_from("<q", self.map, 8)[0]
