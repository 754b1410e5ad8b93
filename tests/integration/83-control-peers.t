#!/usr/bin/env python3
# Who may do what at the control socket: SO_PEERCRED and groups, the socket's mode, graftctl's words and exit status
import grp
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

if os.geteuid() != 0 or not shutil.which("setpriv"):
    skip_all("needs root and setpriv (util-linux), to be other users")

OPS, AUDIT, STRANGER = 61001, 61002, 61003  # groups are given by number: /etc/group stays as it is
USER = 61111
GETS = ("status", "ready", "ps", "routes")
POSTS = (["reload"], ["reload", "--config"], ["reopen"], ["retire", "hello@0.1"], ["drain"], ["rollback", "hello"],
         ["canary", "hello", "--weight", "1"], ["promote", "hello"], ["abort", "hello"], ["upgrade"])
PATHS = ("/v1/status", "/v1/ready", "/v1/versions", "/v1/routes")


def server(groups=None, **more):
    config = {"control_groups": [str(g) for g in groups]} if groups is not None else {}
    dir = tempdir(0o755)
    return Server(["hello"], {**config, **more.pop("config", {})}, dir=dir, **more)


# Built programs may lie where other users cannot go: copies, and all that they are linked to is the system's.
BIN = tempdir(0o755)
shutil.copy(GRAFTCTL, os.path.join(BIN, "graftctl"))


def ctl(s, uid, gid, groups, *args, control=None, env=None):
    """graftctl as another user."""
    ids = [f"--reuid={uid}", f"--regid={gid}"]
    ids += [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
    where = ["--control", control or s.control] if control != "" else []
    return subprocess.run(["setpriv", *ids, os.path.join(BIN, "graftctl"), *where, *args], capture_output=True, text=True,
                          env={**os.environ, "GRAFT_CONTROL": "", **(env or {})}, timeout=secs(60))


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def acl_of(path):
    """The groups of the access control list, {gid: permissions}."""
    try:
        data = os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return {}
    entries = [struct.unpack_from("<HHI", data, at) for at in range(4, len(data), 8)]
    return {gid: perm for tag, perm, gid in entries if tag == 8}


def can_acl():
    path = os.path.join(tempdir(), "x")
    open(path, "w").close()
    entries = ((1, 6, -1), (4, 0, -1), (8, 6, OPS), (16, 6, -1), (32, 0, -1))
    try:
        os.setxattr(path, "system.posix_acl_access",
                    struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *e) for e in entries))
        return True
    except OSError:
        return False


ACL = can_acl()
NO_ACL = "the file system has no access control lists"


@case("without control_groups: mode 0600, root and nobody else")
def _():
    s = server()
    is_(mode_of(s.control), 0o600, "the socket's mode")
    is_(s.ctl("status").returncode, 0, "root")
    run = ctl(s, USER, OPS, [AUDIT], "status")
    is_(run.returncode, 1, "another user: exit 1")
    like(run.stderr, r"^graftctl: \S+control\.sock: Permission denied \(root, the server's user and members of "
                     r"control_groups may connect\)\n$", "and why")
    os.chmod(s.control, 0o666)
    for args in ([g] for g in GETS):
        run = ctl(s, USER, OPS, [AUDIT], *args)
        is_(run.returncode, 1, f"{args[0]}: exit 1, also when somebody has opened the socket's mode")
        like(run.stderr, rf"^graftctl: {args[0]}: forbidden: user {USER} is neither root nor the server's user 0, nor in one "
                         "of control_groups: ask one of these, or be made a member and log in again\n$", "and why")
        is_(run.stdout, "", "and nothing else")
    is_(ctl(s, USER, 0, [0], "status").returncode, 1, "root's group is not root")


@case("members of one group: mode 0660 and that group; they may ask, and change nothing")
def _():
    s = server([OPS])
    is_((mode_of(s.control), os.stat(s.control).st_gid, acl_of(s.control)), (0o660, OPS, {}), "mode and group")
    for gid, groups, how in ((OPS, [], "as the primary group"), (STRANGER, [AUDIT, OPS], "as a supplementary group"),
                             (STRANGER, [*range(62000, 62300), OPS], "as the last of 301 groups")):
        for verb in GETS:
            is_(ctl(s, USER, gid, groups, verb).returncode, 0, f"{verb}: {how}")
        run = ctl(s, USER, gid, groups, "reload")
        is_((run.returncode, run.stdout), (1, ""), f"reload: {how}: exit 1")
    for args in POSTS:
        run = ctl(s, USER, OPS, [], *args)
        is_(run.returncode, 1, f"{' '.join(args)}: exit 1")
        like(run.stderr, rf"^graftctl: {args[0]}: forbidden: user {USER} may only ask \(status, ready, ps, routes\), as a member of "
                         r"control_groups: root and the server's user 0 may do this\n$", "and why")
    run = ctl(s, USER, OPS, [], "--json", "reload")
    answer = json.loads(run.stdout)
    is_((run.returncode, answer["ok"], answer["error"]), (1, False, "forbidden"), "for programs")
    is_(ctl(s, USER, STRANGER, [], "status").returncode, 1, "a stranger cannot connect")
    os.chmod(s.control, 0o666)
    like(ctl(s, USER, STRANGER, [AUDIT], "status").stderr, "forbidden", "nor may he ask when he can")
    is_((s.status()["draining"], s.get("/hello").status), (False, 200), "nothing has happened")
    for how in ("crash", "upgrade"):
        old = s.pid
        os.kill(old, signal.SIGKILL) if how == "crash" else s.ctl("upgrade")
        wait_for(lambda: another(s, old), 20, "another process")
        is_((ctl(s, USER, OPS, [], "status").returncode, ctl(s, USER, OPS, [], "reload").returncode,
             ctl(s, USER, STRANGER, [], "status").returncode), (0, 1, 1), f"behind the {how} the same")
    is_((s.ctl("reload").returncode, s.ctl("reopen").returncode), (0, 0), "root may do everything")


def another(s, old):
    try:
        return s.pid != old and s.status()["generation"] > 0
    except (OSError, HttpError):
        return False


def ask(path, data):
    """Status and body of one request by this process."""
    with socket.socket(socket.AF_UNIX) as c:
        c.settimeout(secs(10))
        c.connect(path)
        c.sendall(data)
        answer = b""
        while part := c.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@case("over the wire: 403 before anything else is looked at")
def _():
    s = server([OPS])
    os.chmod(s.control, 0o666)

    def statuses():
        found = {}
        for method in ("GET", "HEAD", "POST"):
            for path in (*PATHS, "/v1/reload", "/v1/reload?retri=1", "/v1/drain", "/v1/nope", "/v1/versions/hello@0.1/retire",
                         "/v1/plugins/hello/canary?weight=1", "/v1/plugins/hello/promote", "/v1/plugins/hello/abort",
                         "/v1/plugins/hello/rollback", "/v1/upgrade"):
                found[f"{method} {path}"] = ask(s.control, f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())[0]
        return found

    stranger = as_user(USER, STRANGER, [AUDIT], statuses)
    is_(set(stranger.values()), {403}, "a stranger: 403 for everything, also for what there is not")
    member = as_user(USER, STRANGER, [OPS], statuses)
    for path in PATHS:
        is_((member[f"GET {path}"], member[f"HEAD {path}"]), (200, 200), f"a member: GET and HEAD {path}")
    for path in ("/v1/reload", "/v1/drain", "/v1/versions/hello@0.1/retire", "/v1/plugins/hello/canary?weight=1",
                 "/v1/plugins/hello/promote", "/v1/plugins/hello/abort", "/v1/plugins/hello/rollback", "/v1/upgrade"):
        is_(member[f"POST {path}"], 403, f"a member: POST {path}")
    is_((member["GET /v1/nope"], member["POST /v1/status"]), (404, 405), "a member: the rest as for all")
    status, body = as_user(USER, STRANGER, [], lambda: (lambda a: (a[0], a[1].decode()))(
        ask(s.control, b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")))
    answer = json.loads(body)
    is_((status, answer["ok"], answer["error"], sorted(answer)), (403, False, "forbidden", ["error", "ok", "reason"]),
        "the answer")
    event = s.wait_event("refused", status=403)
    is_((event["level"], event["why"]), ("warn", "forbidden"), "the log tells it")
    like(event["msg"], rf"^control socket: user {USER} \(pid \d+\) may not: GET /v1/status", "who and what")
    ok(len(s.find_events("refused")) <= 11 + 30, "at most 10 a second", len(s.find_events("refused")))


@case("several groups", ACL, NO_ACL)
def _():
    s = server([OPS, AUDIT])
    is_((mode_of(s.control), acl_of(s.control)), (0o660, {OPS: 6, AUDIT: 6}), "mode and access control list")
    for gid in (OPS, AUDIT):
        is_(ctl(s, USER, gid, [], "status").returncode, 0, f"group {gid} may ask")
        is_(ctl(s, USER, gid, [], "drain").returncode, 1, f"group {gid} may not drain")
    run = ctl(s, USER, STRANGER, [], "status")
    is_(run.returncode, 1, "a stranger cannot connect")
    like(run.stderr, "Permission denied", "says why")


@case("the server's own user may do everything, and gives the socket to a group that it is no member of", ACL, NO_ACL)
def _():
    dir = tempdir(0o755)
    for folder in ("plugins", "stage", "state"):
        os.mkdir(os.path.join(dir, folder))
    os.chown(dir, USER, USER)
    os.chown(os.path.join(dir, "stage"), USER, USER)
    os.chmod(os.path.join(dir, "stage"), 0o700)
    s = Server(["hello"], {"control_groups": [str(OPS)], "user": str(USER)}, dir=dir, start=False)
    os.chmod(s.config_path, 0o644)
    try:
        import pwd
        pwd.getpwuid(USER)
    except KeyError:
        s.config["user"] = ""
        s.write_config()
        os.chmod(s.config_path, 0o644)
        s.popen = {"user": USER, "group": USER, "extra_groups": []}
        shutil.copy(GRAFTD, os.path.join(BIN, "graftd"))
    open(s.log_path, "w").close()
    if not os.access(GRAFTD, os.X_OK) or as_user(USER, USER, [], lambda: os.access(GRAFTD, os.X_OK)) is not True:
        skip("another user cannot run the programs where they were built", "the server's own user")
        return
    s.start()
    is_(os.stat(s.control).st_uid, USER, "the socket is his")
    is_((mode_of(s.control), acl_of(s.control)), (0o660, {OPS: 6}), "open to the group")
    is_(ctl(s, USER, STRANGER, [], "reload").returncode, 0, "he may reload")
    is_(ctl(s, USER + 1, OPS, [], "status").returncode, 0, "a member may ask")
    run = ctl(s, USER + 1, OPS, [], "reload")
    is_(run.returncode, 1, "a member may not reload")
    like(run.stderr, rf"root and the server's user {USER} may do this", "says who may")
    is_(s.ctl("reload").returncode, 0, "root may")


@case("started as root, running as another user: the group stays", OTHERS, NO_OTHERS)
def _():
    s = server([OPS], config={"user": "nobody", "stage_dir": "", "ops": ""}, env={"CACHE_DIRECTORY": ""}, wait=False)
    s.wait_event("control")
    nobody = int(subprocess.run(["id", "-u", "nobody"], capture_output=True, text=True).stdout)
    found = os.stat(s.control)
    is_((found.st_uid, found.st_gid, mode_of(s.control)), (nobody, OPS, 0o660), "owner, group, mode")
    is_(ctl(s, nobody, STRANGER, [], "reload").returncode, 0, "that user may reload")
    is_(ctl(s, USER, OPS, [], "status").returncode, 0, "a member may ask")
    is_(ctl(s, USER, OPS, [], "reload").returncode, 1, "and not reload")
    is_(s.ctl("reload").returncode, 0, "root may")


@case("in a folder that graftd makes: 0710 for the group, 0700 again without it")
def _():
    runtime = tempdir(0o755)
    env = {"XDG_RUNTIME_DIR": runtime, "RUNTIME_DIRECTORY": ""}
    folder = os.path.join(runtime, "graft")
    if os.path.exists("/run/graft"):
        env = {"RUNTIME_DIRECTORY": folder}
        os.mkdir(folder, 0o700)
    else:
        os.mkdir("/run/graft", 0o755)  # not 0700: passed over
        os.chmod("/run/graft", 0o755)
    try:
        for groups in ([OPS], [OPS, AUDIT] if ACL else [AUDIT]):
            s = server(groups, config={"control": ""}, env=env, wait=False)
            s.control = s.wait_event("control")["address"]
            is_(os.path.dirname(s.control), folder, "the socket is there")
            is_((mode_of(folder), mode_of(s.control)), (0o710, 0o660), "the modes of folder and socket")
            for gid in groups:
                run = ctl(s, USER, gid, [], "status", control="", env=env)
                is_(run.returncode, 0, f"graftctl finds it, as group {gid}")
            is_(ctl(s, USER, STRANGER, [], "status", control="", env=env).returncode, 1, "a stranger cannot pass")
            s.stop()
        if "RUNTIME_DIRECTORY" in env and env["RUNTIME_DIRECTORY"]:
            return
        s = server(None, config={"control": ""}, env=env, wait=False)
        s.control = s.wait_event("control")["address"]
        is_((os.path.dirname(s.control), mode_of(folder), acl_of(folder), mode_of(s.control)),
            (folder, 0o700, {}, 0o600), "without groups all is private again")
    finally:
        if "XDG_RUNTIME_DIR" in env and os.path.isdir("/run/graft"):
            os.rmdir("/run/graft")


@case("the configuration: what is wrong has its place; a change needs a restart and is named")
def _():
    s = server([OPS])
    for value, why in (("ops", "expected an array of groups"), ([OPS], "expected the name of a group, found a number"),
                       (["no-such-group-here"], "expected a group of this machine, found \"no-such-group-here\""),
                       ([str(OPS), str(OPS)], "named twice")):
        s.config["control_groups"] = value
        s.write_config()
        run = subprocess.run([GRAFTD, "-t", "-c", s.config_path], capture_output=True, text=True)
        is_(run.returncode, 1, f"-t refuses {value}")
        like(run.stderr, rf"graft\.json:\d+:\d+: control_groups: .*{why}", "says where and why")
    s.config["control_groups"] = [str(AUDIT), grp.getgrgid(1).gr_name]
    s.write_config()
    is_(s.ctl("reload", "--config").returncode, 0, "others, by number and by name")
    like(s.wait_event("config", level="warn")["msg"], "only at a restart: control_groups", "need a restart")
    is_(ctl(s, USER, OPS, [], "status").returncode, 0, "until then the old ones hold")


@case("many at once, of all kinds")
def _():
    s = server([OPS])
    os.chmod(s.control, 0o666)
    results = []

    def some(gid, groups, args, expected):
        for _ in range(5):
            results.append((ctl(s, USER, gid, groups, *args).returncode, expected))

    threads = [threading.Thread(target=some, args=a) for a in
               ((OPS, [], ["status"], 0), (STRANGER, [OPS], ["ps"], 0), (OPS, [], ["reload"], 1),
                (STRANGER, [], ["status"], 1))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    ok(all(got == expected for got, expected in results) and len(results) == 20, "each gets his own answer", results)
    is_(s.ctl("reload").returncode, 0, "root may reload")


main()
