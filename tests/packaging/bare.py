"""A bare Debian 12 below a folder (debootstrap), with /proc and /dev: what a package meets on a new machine; a graftd
that serves in it, and the load on that. Root."""

import json
import os
import shutil
import subprocess
import threading
import time

from grafttest import Conn, HttpError, free_port, is_, isnt, ok, request_bytes, wait_for


class Failure(Exception):
    """What was run failed; its last lines."""


def run(*args, **more):
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True, errors="replace",
                          **more)
    if done.returncode != 0:
        raise Failure(f"{' '.join(args)[:300]}: exit status {done.returncode}\n" + "\n".join(done.stdout.splitlines()[-40:]))
    return done.stdout


class Bare:
    def __init__(self, folder, include=""):
        self.root = folder
        run("debootstrap", "--variant=minbase", *(["--include=" + include] if include else []), "bookworm", folder)
        shutil.copy("/etc/resolv.conf", os.path.join(folder, "etc/resolv.conf"))
        run("mount", "-t", "proc", "proc", self.path("proc"))
        run("mount", "--rbind", "--make-rslave", "/dev", self.path("dev"))

    def path(self, *more):
        return os.path.join(self.root, *more)

    def sh(self, command):
        return run("chroot", self.root, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "sh", "-ec", command)

    def popen(self, *args, **more):
        return subprocess.Popen(("chroot", self.root) + args, **more)

    def close(self):
        """Nothing below the mounts is touched: they go first, or the folder stays."""
        for mount in ("dev", "proc"):
            run("umount", "--recursive", "--lazy", self.path(mount))
        if not os.path.ismount(self.path("dev")) and not os.path.ismount(self.path("proc")):
            run("rm", "-rf", "--one-file-system", self.root)


class Graftd:
    """As the unit starts it, without systemd: a user's, with its folders."""

    def __init__(self, bare):
        self.bare, self.port = bare, free_port()
        bare.sh("install -d -o graft -g graft -m 700 /run/graft /var/lib/graft /var/cache/graft")
        self.proc = bare.popen(
            "setpriv", "--reuid", "graft", "--regid", "graft", "--init-groups", "env", "RUNTIME_DIRECTORY=/run/graft",
            "STATE_DIRECTORY=/var/lib/graft", "CACHE_DIRECTORY=/var/cache/graft", f"GRAFT_LISTEN=127.0.0.1:{self.port}",
            f"GRAFT_OPS=127.0.0.1:{free_port()}", "GRAFT_DRAIN_DELAY_MS=0", "graftd", "-c", "/etc/graft/graft.json")
        wait_for(lambda: self.get() is not None, 20, "an answer")

    def get(self):
        """(status, body) of /hello; None: nobody answers."""
        try:
            with Conn(("127.0.0.1", self.port)) as conn:
                conn.send(request_bytes("GET", "/hello"))
                answer = conn.response()
                return answer.status, answer.body
        except (OSError, HttpError):
            return None

    def pid(self):
        """Of the process that serves."""
        return json.loads(self.bare.sh("graftctl --json status"))["pid"]

    def stop(self):
        self.proc.terminate()
        return self.proc.wait(30)


class Load:
    """Requests one after the other on connections that stay; none may fail."""

    def __init__(self, port, clients=8):
        self.port, self.stopped, self.failed, self.count, self.bodies = port, False, [], 0, set()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self):
        conn = None
        while not self.stopped:
            try:
                conn = conn or Conn(("127.0.0.1", self.port))
                conn.send(request_bytes("GET", "/hello"))
                answer = conn.response()
                self.count += 1
                self.bodies.add(answer.body)
                if answer.status != 200:
                    self.failed.append(answer.status)
                if answer.header("Connection") == "close":
                    conn.close()
                    conn = None
            except (OSError, HttpError) as error:
                self.failed.append(repr(error))
                conn = None

    def stop(self):
        self.stopped = True
        for thread in self.threads:
            thread.join()


def lives(bare, install, remove):
    """What packages do to a graftd that serves: install("first" or "second", NAME) installs a release's package, or
    upgrades to it, and returns what was said; remove(NAME)."""
    server = Graftd(bare)
    try:
        is_(server.get()[0], 404, "without plugins nothing is served")
        install("first", "graft-plugins")
        is_(server.get(), (200, b"hello, world\n"), "a plugin package is swapped in by its trigger")
        load = Load(server.port)
        time.sleep(1)
        pid = server.pid()
        install("second", "graft-plugins")
        is_(server.get(), (200, b"hello again\n"), "its next version, under load")
        is_(server.pid(), pid, "in the same process")
        time.sleep(1)
        said = install("second", "graftd")
        ok("goes on" not in said, "graftd's next version: the package has exchanged it", said)
        isnt(server.pid(), pid, "another server process serves")
        is_(server.proc.poll(), None, "graftd has its PID still")
        time.sleep(1)
        load.stop()
        is_(load.failed[:5], [], f"none of {load.count} requests failed in both upgrades")
        is_(load.bodies, {b"hello, world\n", b"hello again\n"}, "both versions have answered")
        remove("graft-plugins")
        is_(server.get()[0], 404, "the package is removed: its plugins are swapped out")
    finally:
        is_(server.stop(), 0, "graftd drains and exits 0")
