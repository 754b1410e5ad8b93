"""A bare Debian 12 below a folder (debootstrap), with /proc and /dev: what a package meets on a new machine. Root."""

import os
import shutil
import subprocess


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
