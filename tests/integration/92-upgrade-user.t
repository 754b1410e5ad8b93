#!/usr/bin/env python3
# graftctl upgrade to another user, and with ports below 1024: what a supervisor that was started as root does with root's rights
import ctypes
import json
import os
import pwd
import signal
import socket
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from upgradetest import *  # noqa: E402,F403

ROOT = os.geteuid() == 0


def user(name):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


USERS = [u for u in map(user, ("www-data", "daemon", "nobody")) if u]
A, B = (USERS + [None, None])[:2]
TWO = OTHERS and B is not None
WHY = NO_OTHERS if not OTHERS else "needs two users"
LOW = low_port()


def ids(pid):
    """(real, effective, saved) user, group, and all groups of a process."""
    found = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
    return ([int(n) for n in found["Uid"].split()[:3]], [int(n) for n in found["Gid"].split()[:3]],
            sorted(int(n) for n in found["Groups"].split()))


def groups(who):
    return sorted(os.getgrouplist(who.pw_name, who.pw_gid))


def of(who, saved=None):
    saved = who.pw_uid if saved is None else saved
    return [who.pw_uid, who.pw_uid, saved], [who.pw_gid] * 3, groups(who)


def served_by(s, who, pid=None):
    is_(ids(pid or s.pid), of(who), f"the server process is {who.pw_name}, with its groups, for good")
    is_(ids(s.proc.pid), of(who, 0), f"the supervisor works as {who.pw_name}, and keeps root's rights")
    is_(ids(s.proc.pid)[0][1], who.pw_uid, "effective: that user")
    caps = [line.split()[1] for line in open(f"/proc/{s.proc.pid}/status") if line.startswith("CapEff")]
    is_(caps, ["0" * 16], "no capability is in effect")


def owner(path):
    return os.lstat(path).st_uid


def started(who=A, plugins=("hello", "slow"), config=None, path=None, source=GRAFTD, **more):
    """As root, to become `who`, from a program and a configuration that are root's."""
    folder = tempdir(0o755)
    path = path or program(source=source, mode=0o755)
    s = server(plugins, {"user": who.pw_name if who else "", **(config or {})}, path=path, dir=folder, start=False, **more)
    os.chmod(folder, 0o755)
    os.chown(folder, who.pw_uid if who else 0, -1)  # for the socket
    s.program = path
    set_user(s, who)
    return start(s)


def start(s):
    import grafttest
    before, grafttest.GRAFTD = grafttest.GRAFTD, s.program
    try:
        return s.start()
    finally:
        grafttest.GRAFTD = before


def set_user(s, who, **more):
    """The configuration lies in a folder of root's."""
    if "etc" not in s.config_path:
        s.config_path = os.path.join(tempdir(0o755), "etc.json")
    s.config["user"] = who if isinstance(who, str) else who.pw_name if who else ""
    s.config.update(more)
    s.write_config()
    os.chmod(s.config_path, 0o644)


def kept(s):
    state = os.path.join(s.dir, "state")
    wait_for(lambda: os.path.exists(os.path.join(state, "index.json")) and len(os.listdir(os.path.join(state, "files"))) >= 2, 10,
             "the store is written")
    return s


def owners(s):
    """Of all that the server has made."""
    found = {}
    for top in (os.path.join(s.dir, "state"), s.stage_dir):
        for folder, folders, files in os.walk(top):
            found[os.path.relpath(folder, s.dir)] = owner(folder)
            for name in files:
                found[os.path.relpath(os.path.join(folder, name), s.dir)] = owner(os.path.join(folder, name))
    return found


@case("A, then B, then A, under load: no failed request; swaps, the store and the control socket go on", TWO, WHY)
def _():
    s = started()
    served_by(s, A)
    s.install(make_unique("hello"), "hello")
    is_(s.reload()["ok"], True, "a second version")
    first = s.active("hello")["sha256"]
    is_(s.api("POST", "/v1/plugins/hello/rollback")["ok"], True, "rolled back")
    serves = s.active("hello")["sha256"]
    isnt(serves, first, "to the first one")
    kept(s)
    with Prober(s, "/hello", clients=2) as lasting, Prober(s, "/hello", clients=2, keep_alive=False) as new:
        for who in (B, A):
            fresh = program(mode=0o755)
            os.rename(fresh, s.program + ".new")
            os.rename(s.program + ".new", s.program)
            set_user(s, who)
            status, answer = upgrade(s)
            is_((status, answer.get("ok"), answer.get("note")), (0, True, None), f"upgraded {answer}")
            wait_for(lambda: len(children(s.proc.pid)) == 1, 30, "the old one has ended")
            served_by(s, who)
            is_(os.stat(f"/proc/{s.proc.pid}/exe").st_ino, os.stat(s.program).st_ino, "the supervisor is the new program")
            is_(s.active("hello")["sha256"], serves, "the good version serves, not the quarantined one")
            is_(set(owners(s).values()), {who.pw_uid}, f"store and stage are {who.pw_name}'s {owners(s)}")
            is_((owner(s.control), as_user(who.pw_uid, who.pw_gid, groups(who), lambda: os.access(s.control, os.W_OK))), (who.pw_uid, True), "so is the control socket")
            is_(as_user(who.pw_uid, who.pw_gid, groups(who), lambda: s.status()["pid"]), s.pid, "which answers")
            s.install(make_unique("hello"), "hello")
            is_(s.reload()["ok"], True, "it swaps")
            is_(s.api("POST", "/v1/plugins/hello/rollback")["ok"], True, "and goes back")
            is_(s.active("hello")["sha256"], serves, "to what the store has kept")
            lasting.wait_count(20), new.wait_count(20)
    is_((lasting.failures, new.failures), ([], []), "no request failed")
    os.kill(s.pid, signal.SIGKILL)
    wait_for(lambda: children(s.proc.pid) and s.get("/hello").status == 200, 20, "a crash: another one serves")
    served_by(s, A)
    is_(s.stop(), 0, "exit 0")
    is_(os.listdir(s.stage_dir), [], "nothing stays in the stage folder")


@case("started as root without `user`: an upgrade to one; never back to root", TWO, WHY)
def _():
    s = started(None)
    is_(ids(s.proc.pid)[0], [0, 0, 0], "root")
    set_user(s, B)
    with Prober(s, "/hello", clients=2, keep_alive=False) as p:
        good(s)
        p.wait_count(20)
    is_(p.failures, [], "no request failed")
    served_by(s, B)
    for name in ("", "root", "0"):
        set_user(s, name)
        bad(s, "makes no server root again: restart")
    served_by(s, B)
    set_user(s, B)
    good(s)
    served_by(s, B)
    is_(s.stop(), 0, "exit 0")


@case("neither server process gets root's rights back, nor looks into its supervisor", TWO and SANITIZER == "none", WHY)
def _():
    so = compile_plugin(PRIVILEGES)
    s = started(plugins={"privileges": so, "hello": "hello"})
    for who in (A, B):
        answer = s.get("/privileges").text
        is_(answer, "none", f"as {who.pw_name}")
        set_user(s, B)
        if who is A:
            good(s)
    is_(s.stop(), 0, "exit 0")


PRIVILEGES = r"""
#include <errno.h>
#include <fcntl.h>
#include <graft/graft.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int opens(const char *what, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)getppid(), what);
    int fd = open(path, flags);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Raw calls: they are this thread's alone, so that nothing but the kernel can refuse them. */
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    char text[256] = "", byte;
    const gid_t none = 0;
    struct iovec to = { &byte, 1 }, from = { (void *)handler, 1 };
    struct rlimit limit;
    int pidfd = (int)syscall(SYS_pidfd_open, getppid(), 0);
    const struct { const char *name; int got; } tries[] = {
        { "setuid ", syscall(SYS_setuid, 0) == 0 },
        { "setreuid ", syscall(SYS_setreuid, -1, 0) == 0 },
        { "setresuid ", syscall(SYS_setresuid, 0, 0, 0) == 0 },
        { "setresgid ", syscall(SYS_setresgid, 0, 0, 0) == 0 },
        { "setgroups ", syscall(SYS_setgroups, 1, &none) == 0 },
        { "seize ", ptrace(PTRACE_SEIZE, getppid(), 0, 0) == 0 },
        { "readv ", process_vm_readv(getppid(), &to, 1, &from, 1, 0) >= 0 || errno != EPERM },
        { "getfd ", pidfd < 0 || syscall(SYS_pidfd_getfd, pidfd, 0, 0) >= 0 || errno != EPERM },
        { "prlimit ", prlimit(getppid(), RLIMIT_CORE, NULL, &limit) == 0 },
        { "mem ", opens("mem", O_RDWR) },
        { "environ ", opens("environ", O_RDONLY) },
        { "fd ", opens("fd", O_RDONLY) },
        { "maps ", opens("maps", O_RDONLY) && 0 },
    };
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++)
        if (tries[i].got)
            strcat(text, tries[i].name);
    if (pidfd >= 0)
        close(pidfd);
    graft_printf(req, "%s", text[0] != '\0' ? text : "none");
    return GRAFT_DONE;
}

GRAFT_PLUGIN(.name = "privileges", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/privileges", handler, 0 }, { 0 } });
"""


@case("nor does any other process of that user; the supervisor's names for a crash are found all the same", TWO, WHY)
def _():
    s = started(plugins=["hello", "crashes"])
    libc = ctypes.CDLL(None, use_errno=True)

    def tries():
        found = []
        for name in ("mem", "environ", "fd/0", "maps"):
            try:
                os.close(os.open(f"/proc/{s.proc.pid}/{name}", os.O_RDONLY))
                found.append(name)
            except PermissionError:
                pass
        if libc.ptrace(16, s.proc.pid, 0, 0) == 0:  # PTRACE_ATTACH
            found.append("ptrace")
        return found
    is_(as_user(A.pw_uid, A.pw_gid, groups(A), tries), [], "another process of its user sees nothing of the supervisor")
    pid = s.pid
    with Conn(s) as c:
        c.send(request_bytes("GET", "/crashes/segv"))
        c.ends(20)
    event = s.wait_event("crash", 20, pid=pid)
    is_((event["plugin"], event["signal"]), ("crashes", "SIGSEGV"), "whose fault a crash was")
    like(event.get("function", ""), r"^[a-z_]+\+0x", "and the function")
    wait_for(lambda: s.pid != pid and s.get("/hello").status == 200, 20, "another one serves")
    served_by(s, A)
    is_(s.stop(), 0, "exit 0")


FORGES = r"""
#include "run/supervisor_wire.h"
#include <graft/graft.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <unistd.h>

static int find_wire(void)
{
    for (int fd = 3; fd < 1024; fd++) {
        int type = 0;
        socklen_t size = sizeof type, length = sizeof(struct ucred);
        struct ucred peer;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET &&
            getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid == getppid())
            return fd;
    }
    return -1;
}

static int seal(const char *text)
{
    int fd = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        return -1;
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    return fd;
}

static ssize_t forge(int wire, unsigned type, const void *body, size_t size, int fd)
{
    struct { uint32_t magic, type; } head = { 0x67726600u | WIRE_VERSION, type };
    struct iovec parts[2] = { { &head, sizeof head }, { (void *)body, size } };
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } control = { .bytes = { 0 } };
    struct msghdr msg = { .msg_iov = parts, .msg_iovlen = 2, .msg_control = control.bytes,
                          .msg_controllen = sizeof control.bytes };
    if (fd < 0)
        return send(wire, &head, sizeof head, MSG_NOSIGNAL);
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(wire, &msg, MSG_NOSIGNAL);
}

/* As the server process would, if it were the attacker's: another configuration, an upgrade, and yes to all. */
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    static struct wire_upgrade up;
    char config[8192], binary[1024];
    FILE *f = fopen("FOLDER/forged", "r");
    size_t n = f != NULL ? fread(config, 1, sizeof config - 1, f) : 0;
    config[n] = 0;
    if (f != NULL)
        fclose(f);
    f = fopen("FOLDER/binary", "r");
    n = f != NULL ? fread(binary, 1, sizeof binary - 1, f) : 0;
    binary[n] = 0;
    if (f != NULL)
        fclose(f);
    snprintf(up.binary, sizeof up.binary, "%s", binary);
    int fd = seal(config);
    int wire = dup(find_wire()); /* ours is closed when an answer comes that nobody waited for */
    int told = forge(wire, WIRE_CONFIG, NULL, 0, fd) > 0, asked = forge(wire, WIRE_UPGRADE, &up, sizeof up, fd) > 0;
    close(fd);
    for (int i = 0; i < 100 * SECONDS; i++) {
        forge(wire, WIRE_YIELDED, NULL, 0, -1);
        usleep(10000);
    }
    close(wire);
    graft_printf(req, "%d%d", told, asked);
    return GRAFT_DONE;
}

GRAFT_PLUGIN(.name = "forges", .version = "1",
             .routes = (const graft_route[]){ { "GET", "/forges", handler, 0 }, { 0 } });
"""


def forged(binary=""):
    """A server of A's, whose process asks for an upgrade by itself, with a configuration that says root and a low port."""
    folder = tempdir(0o755)
    so = compile_plugin(FORGES.replace("FOLDER", folder), f"-I{SRCDIR}/server", f"-DSECONDS={int(2 * SCALE)}")
    s = started(plugins={"forges": so, "hello": "hello"})
    evil = dict(s.config, user="root", listen=["127.0.0.1:0"] + ([f"127.0.0.1:{LOW}"] if LOW else []),
                state_dir=os.path.join(tempdir(0o755), "state"))
    with open(os.path.join(folder, "forged"), "w") as f:
        json.dump(evil, f)
    with open(os.path.join(folder, "binary"), "w") as f:
        f.write(binary)
    first = s.pid
    is_(s.get("/forges").text, "11", "it has told the supervisor a configuration, and asked")
    s.wait_event("upgrade", 20, old_pid=first)
    gone(first)  # what else it does to its own service, which it can bring down at any time, is its user's affair
    wait_for(lambda: len(children(s.proc.pid)) == 1, 20, "another one serves")
    return s, children(s.proc.pid)[0]


@case("a server process that is an attacker's: what it says about user, ports and program is not believed",
      TWO and SANITIZER != "tsan", "needs root and two users; not TSan, which sees that its plugin meddles")
def _():
    s, pid = forged()
    served_by(s, A, pid)
    if LOW:
        with socket.socket() as c:
            is_(c.connect_ex(("127.0.0.1", LOW)) != 0, True, "nobody listens at the port of root's")
    is_(s.config["user"], A.pw_name, "as the file says")


@case("a program of the attacker's runs as the server's user, the supervisor does not become it",
      TWO and SANITIZER != "tsan", "needs root and two users; not TSan, which sees that its plugin meddles")
def _():
    own = program(mode=0o755)
    os.chown(own, A.pw_uid, -1)
    os.chown(os.path.dirname(own), A.pw_uid, -1)
    s, pid = forged(own)
    is_((exe(pid), exe(s.proc.pid)), (own, s.program), "it serves; the supervisor is what it was")
    served_by(s, A, pid)
    like(s.wait_event("upgrade", 20, level="error")["msg"], "the supervisor goes on as the program that it was: with root's rights",
         "and says so")


@case("a port below 1024 is added, and gets more workers; the configuration must be root's", TWO and LOW is not None,
      "needs root and a port below 1024")
def _():
    s = started(workers=1)
    set_user(s, A, listen=["127.0.0.1:0", f"127.0.0.1:{LOW}"])
    os.chmod(s.config_path, 0o666)
    bad(s, f"listen 127.0.0.1:{LOW}.*ports below 1024 need root.*may be written by others than root")
    os.chmod(s.config_path, 0o644)
    with Prober(s, "/hello", clients=2) as p:
        good(s)
        low = ("127.0.0.1", LOW)
        with Prober(low, "/hello", clients=2, keep_alive=False) as q:
            set_user(s, A, workers=3)
            good(s)
            set_user(s, B)
            good(s)
            set_user(s, B, workers=4)
            good(s)
            p.wait_count(20), q.wait_count(20)
        is_(q.failures, [], "no request to it failed, through more workers and another user")
    is_(p.failures, [], "nor any other")
    served_by(s, B)
    is_(s.stop(), 0, "exit 0")


@case("what is refused changes nothing: no such user, sources that are not root's, a new process that fails", TWO, WHY)
def _():
    s = kept(started())
    before = owners(s)
    is_(set(before.values()), {A.pw_uid}, "A's")

    def refused(pattern, *args):
        bad(s, pattern, *args)
        now = lambda: {k: v for k, v in owners(s).items() if not k.endswith("/other")}  # noqa: E731
        wait_for(lambda: now() == before, 20, "all is as it was")
        is_((now(), owner(s.control)), (before, A.pw_uid), "folders and socket are whose they were")
        served_by(s, A)
    set_user(s, "nosuchuser")
    refused("user nosuchuser: there is no such user")
    set_user(s, B)
    for folder in (s.stage_dir, os.path.join(s.dir, "state")):
        other = os.path.join(folder, "other")
        open(other, "w").close()
        refused("cannot become another user's: it holds something else")
        os.unlink(other)
    refused("is not what graftd was started from", "--binary", program(mode=0o755))
    os.chmod(s.config_path, 0o646)
    refused("etc.json may be written by others than root")
    os.chmod(s.config_path, 0o644)
    folder = os.path.dirname(s.config_path)
    os.chmod(folder, 0o777)
    refused("etc.json is in a folder that others than root may write")
    os.chmod(folder, 0o755)
    os.chown(folder, A.pw_uid, -1)
    refused(f"{folder} is not root's")
    os.chown(folder, 0, -1)
    os.chown(os.path.dirname(s.program), A.pw_uid, -1)
    refused(f"{os.path.dirname(s.program)} is not root's")
    os.chown(os.path.dirname(s.program), 0, -1)
    s.install("init_fails", "bad")
    refused("ended with exit status 1 .*bad")
    s.install(compile_plugin(SLOW), "bad")
    set_user(s, B, timeouts_ms={**s.config["timeouts_ms"], "upgrade": ms(1000)})
    refused(r"not ready within \d+ ms")
    s.uninstall("bad")
    s.install(make_unique("hello"), "hello")
    is_(s.reload()["ok"], True, "it swaps")
    is_(s.api("POST", "/v1/plugins/hello/rollback")["ok"], True, "and goes back")
    set_user(s, B)
    good(s)
    served_by(s, B)


SLOW = """
#include <graft/graft.h>
#include <unistd.h>
static int init(const struct graft_self *s, void **state)
{ (void)s; (void)state; sleep(60); return 0; }
GRAFT_PLUGIN(.name = "bad", .version = "1", .init = init);
"""


@case("what another user's process has put into its folders is not given: links, and what has another name or owner", TWO, WHY)
def _():
    s = kept(started())
    files = os.path.join(s.dir, "state", "files")
    secret = os.path.join(tempdir(0o755), "secret")  # root's
    open(secret, "w").close()
    os.link(secret, os.path.join(files, "hard"))
    os.symlink(secret, os.path.join(files, "soft"))
    own = os.path.join(s.stage_dir, os.listdir(s.stage_dir)[0])
    os.symlink(os.path.dirname(secret), os.path.join(own, "folder"))
    twice = os.path.join(s.dir, "twice")
    open(twice, "w").close()
    os.chown(twice, A.pw_uid, -1)
    os.link(twice, os.path.join(files, "twice"))
    set_user(s, B)
    good(s)
    served_by(s, B)
    is_([owner(p) for p in (secret, os.path.dirname(secret), os.path.join(own, "folder"))], [0, 0, 0], "root's is root's")
    is_(owner(twice), A.pw_uid, "a file with two names is whose it was")
    is_(owner(files), B.pw_uid, "the folder is the new user's")


@case("a program of another path serves, and never gets root's rights", TWO, WHY)
def _():
    s = started()
    other = program(mode=0o755)
    old = s.pid
    status, answer = upgrade(s, "--binary", other)
    is_((status, answer.get("ok")), (0, True), f"upgraded {answer}")
    like(answer["note"] or "", "with root's rights it becomes nothing but", "with a note")
    gone(old)
    is_((exe(s.pid), exe(s.proc.pid)), (other, s.program), "it serves; the supervisor is what it was")
    served_by(s, A)
    set_user(s, B)
    bad(s, "is not what graftd was started from")
    good(s, "--binary", s.program)
    served_by(s, B)
    is_(exe(s.pid), s.program, "the one that graftd was started from")
    is_(s.stop(), 0, "exit 0")


@case("an old process that does not end is killed, although it is another user's", TWO, WHY)
def _():
    s = started(config={"drain": {"idle_ms": 100, "timeout_ms": 500}})
    with Conn(s) as slow:
        slow.send(request_bytes("GET", "/slow/timer?ms=60000"))
        wait_for(lambda: s.status()["in_flight"] >= 1, 5, "a request is in progress")
        old = s.pid
        set_user(s, B)
        is_(upgrade(s)[0], 0, "upgraded")
        os.kill(old, signal.SIGSTOP)
        wait_for(lambda: not alive(old), 60, "it is killed")
    s.wait_event("upgrade", 10, level="error")
    served_by(s, B)


@case("not started as root: another user is refused with the reason", TWO, WHY)
def _():
    folder = tempdir(0o755)
    path = program(mode=0o755)
    s = server(path=path, dir=folder, start=False)
    for name in ("", "plugins", "state"):
        os.chmod(os.path.join(folder, name), 0o755 if name != "state" else 0o700)
        os.chown(os.path.join(folder, name), A.pw_uid, A.pw_gid)
    os.chmod(s.config_path, 0o644)
    for name in os.listdir(s.plugin_dir):
        os.chown(os.path.join(s.plugin_dir, name), 0, 0)
    s.program = path
    s.popen = {"user": A.pw_uid, "group": A.pw_gid, "extra_groups": []}
    start(s)
    set_user(s, B)
    os.replace(s.config_path, os.path.join(folder, "graft.json"))
    bad(s, f"user {B.pw_name}: only root can become another user")
    set_user(s, A)
    os.replace(s.config_path, os.path.join(folder, "graft.json"))
    good(s)
    is_(s.stop(), 0, "exit 0")


@case("a server that is nobody in particular: another user is refused", not ROOT, "needs to be no root")
def _():
    s = server()
    s.config["user"] = "root"
    s.write_config()
    bad(s, "user root: only root can become another user")


main()
