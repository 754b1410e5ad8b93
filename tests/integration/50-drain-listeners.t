#!/usr/bin/env python3
# Closing the listeners loses nobody: clients that connect all the time, queues, unix sockets, handed-over ones
import ctypes
import fcntl
import os
import pwd
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403

HELLO = request_bytes("GET", "/hello")


def ms(n):
    return int(n * SCALE)


def drain(delay=0, idle=500, timeout=30000, **more):
    return {"drain": {"delay_ms": ms(delay), "idle_ms": ms(idle), "timeout_ms": ms(timeout)}, **more}


class Storm:
    """Clients that connect again and again, one request each. Whoever was connected must be answered;
    not to be let in is no failure."""

    def __init__(self, address, clients=12, pause=0.0):
        self.address, self.pause = address, pause
        self.failures, self.answered, self.turned_away = [], 0, 0
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._live, daemon=True) for _ in range(clients)]
        for thread in self.threads:
            thread.start()
        wait_for(lambda: self.answered > 20 or self.failures, 10, "the first answers")

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(secs(20))

    def _live(self):
        while not self.over.is_set():
            try:
                c = Conn(self.address, timeout=3)
            except (ConnectionRefusedError, FileNotFoundError, socket.timeout, BlockingIOError):
                with self.lock:
                    self.turned_away += 1
                time.sleep(0.01)
                continue
            except ConnectionResetError as error:
                with self.lock:
                    self.failures.append(f"connect: {error}")
                continue
            try:
                if self.pause:
                    time.sleep(self.pause)
                c.send(HELLO)
                answer = c.response()
                why = None if answer.status == 200 else f"status {answer.status}"
            except (HttpError, OSError) as error:
                why = f"{type(error).__name__}: {error}"
            c.close()
            with self.lock:
                self.answered += why is None
                if why:
                    self.failures.append(why)


def storm_survives(s, address, what, pause=0.0):
    storm = Storm(address, pause=pause)
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, f"{what}: exit 0")
    storm.stop()
    is_(storm.failures[:5], [], f"{what}: everyone who was connected was answered ({storm.answered} clients)")
    ok(storm.turned_away > 0, f"{what}: later ones were turned away")


@case("TCP: clients connect all the time while the listeners close")
def _():
    for n in range(3):
        s = Server(["hello"], drain(idle=100 if n else 500), workers=n + 1)
        storm_survives(s, s.address, f"{n + 1} workers")
    s = Server(["hello"], drain(delay=300))
    storm_survives(s, s.address, "with drain.delay_ms")
    s = Server(["hello"], drain(idle=1500), listen=("127.0.0.1:0",))
    storm_survives(s, s.address, "clients that connect and wait before they ask", pause=0.3)


@case("a unix socket: the same, and its file is gone at the end")
def _():
    path = os.path.join(tempdir(), "s.sock")
    for n in range(2):
        s = Server(["hello"], drain(idle=100), listen=(f"unix:{path}",))
        storm_survives(s, path, "unix")
        is_(os.path.exists(path), False, "the file is gone")


def of_nobody(config, **more):
    """A server that root starts and that becomes another user: such a one may not filter everywhere."""
    folder = tempdir(0o755)
    s = Server(["hello"], {"user": "nobody", **config}, dir=os.path.join(folder, "s"), start=False, **more)
    for path in (s.dir, s.plugin_dir):
        os.chmod(path, 0o755)
    os.chown(s.dir, pwd.getpwnam("nobody").pw_uid, -1)
    return s.start()


@case("as another user than root: the same over IPv4, IPv6 and both", OTHERS, NO_OTHERS)
def _():
    for listen in ("127.0.0.1:0", "[::1]:0", ":0") if HAS_V6 else ("127.0.0.1:0",):
        for n in range(2):
            s = of_nobody(drain(idle=100), listen=(listen,), workers=n + 1)
            storm_survives(s, ("127.0.0.1", s.port) if listen == ":0" else s.address, f"{listen}, {n + 1} workers")
    s = of_nobody(drain(idle=1500))
    storm_survives(s, s.address, "clients that connect and wait before they ask", pause=0.3)


@case("IPv6 and several listeners at once")
def _():
    path = os.path.join(tempdir(), "s.sock")
    s = Server(["hello"], drain(idle=200), listen=("127.0.0.1:0", "[::1]:0", f"unix:{path}"), workers=2)
    storms = [Storm(address, clients=5) for address in s.addresses()]
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "exit 0")
    for storm in storms:
        storm.stop()
        is_(storm.failures[:5], [], f"{storm.address}: everyone who was connected was answered ({storm.answered})")


@case("who waits in the accept queue behind a blocked worker is answered")
def _():
    for kind in ("TCP", "unix"):
        where = "127.0.0.1:0" if kind == "TCP" else "unix:" + os.path.join(tempdir(), "s.sock")
        s = Server(["hello", "blocking_handler"], drain(idle=100), workers=1, listen=(where,))
        address = s.address
        blocker = Conn(s)
        blocker.send(request_bytes("GET", f"/blocking?ms={ms(1500)}"))
        time.sleep(0.3)
        waiting = [Conn(address) for _ in range(60)]
        for c in waiting[:40]:
            c.send(HELLO)
        s.send_signal(signal.SIGTERM)
        s.wait_event("drain_start")
        is_(blocker.response().status, 200, f"{kind}: the blocking request ends")
        got = [c.response() for c in waiting[:40]]
        is_([a.status for a in got], [200] * 40, f"{kind}: 40 in the queue are answered")
        ok(all(a.header("Connection") == "close" for a in got), f"{kind}: with Connection: close")
        is_([c.ends() for c in waiting[40:]], ["eof"] * 20, f"{kind}: who has sent nothing gets a clean end")
        is_(s.wait_exit(), 0, f"{kind}: exit 0")


@case("who waits because limits.connections are open is answered, too")
def _():
    s = Server(["hello"], drain(idle=300, limits={"connections": 4}), workers=2)
    address = s.address
    idle = [Conn(s) for _ in range(4)]
    wait_for(lambda: s.status()["connections"]["now"] == 4, 5, "the places are taken")
    waiting = [Conn(address) for _ in range(6)]
    for c in waiting:
        c.send(HELLO)
    wait_for(lambda: s.event("accept_paused"), 5, "accepting pauses")
    s.send_signal(signal.SIGTERM)
    is_([c.response().status for c in waiting], [200] * 6, "six in the queue are answered")
    is_([c.ends() for c in idle], ["eof"] * 4, "the idle ones end cleanly")
    is_(s.wait_exit(), 0, "exit 0")


def listening(family, address):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(address)
    sock.listen(512)
    return sock


def other_holder_works(sock, address, what):
    """We hold the socket too: whom graftd did not take, we can; later clients as well."""
    sock.setblocking(True)
    sock.settimeout(secs(5))
    family = sock.family
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(secs(5))
        client.connect(address)
        mine = None
        for _ in range(600):  # first those who came before
            got, _ = sock.accept()
            if family == socket.AF_UNIX or got.getpeername() == client.getsockname():
                client.sendall(b"x")
                got.settimeout(secs(5))
                try:
                    if got.recv(1) == b"x":
                        mine = got
                        break
                except (socket.timeout, ConnectionError):
                    pass
            got.close()
        ok(mine is not None, f"{what}: a later client reaches the other holder")
        if mine:
            mine.sendall(b"hello")
            is_(client.recv(5), b"hello", f"{what}: and is served")
            mine.close()


def handed_over(s, sock, address, what):
    """A client that comes between the closing of our copy and the end waits for the other holder."""
    ok(all(e["handed_over"] for e in s.find_events("listening")), f"{what}: logged as handed over")
    with Conn(address) as old:
        is_(old.get("/hello").status, 200, f"{what}: served")
        s.send_signal(signal.SIGTERM)
        is_(s.wait_exit(), 0, f"{what}: exit 0")
        is_(old.ends(), "eof", f"{what}: the idle connection was closed cleanly")
    other_holder_works(sock, address, what)


@case("fd:N that somebody else also holds: no filter, and later accepts there work")
def _():
    for what, family, address in (("fd:N TCP", socket.AF_INET, ("127.0.0.1", 0)),
                                  ("fd:N unix", socket.AF_UNIX, os.path.join(tempdir(), "s.sock"))):
        sock = listening(family, address)
        s = Server(["hello"], drain(idle=300), listen=(f"fd:{sock.fileno()}",), pass_fds=(sock.fileno(),))
        handed_over(s, sock, sock.getsockname(), what)
        if family == socket.AF_UNIX:
            ok(os.path.exists(address), f"{what}: the file is its owner's and stays")
        sock.close()


@case("a successor on the same fd:N: not one client is lost between the two")
def _():
    sock = listening(socket.AF_INET, ("127.0.0.1", 0))
    options = dict(listen=(f"fd:{sock.fileno()}",), pass_fds=(sock.fileno(),))
    old = Server(["hello"], drain(idle=300), **options)
    storm = Storm(sock.getsockname())
    new = Server(["hello"], drain(idle=300), **options)
    old.send_signal(signal.SIGTERM)
    is_(old.wait_exit(), 0, "the old one exits 0")
    count = storm.answered
    wait_for(lambda: storm.answered > count + 50 or storm.failures, 10, "the new one serves")
    storm.stop()
    is_(storm.failures[:5], [], f"nobody was lost ({storm.answered} clients)")
    is_(storm.turned_away, 0, "and nobody was turned away")
    is_(new.stop(), 0, "the new one exits 0")
    sock.close()


ACTIVATE = """
import os, sys
fds = [int(n) for n in sys.argv[1].split(",")]
held = [os.dup(n) for n in fds]
for i, n in enumerate(held):
    os.dup2(n, 3 + i)
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), str(len(fds))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Activated(Server):
    """Started as systemd does it: descriptors from 3 on, LISTEN_FDS and LISTEN_PID."""

    def start(self, wait=True):
        fds = ",".join(str(s.fileno()) for s in self.sockets)
        with open(self.log_path, "ab") as log:
            self.proc = subprocess.Popen([sys.executable, "-c", ACTIVATE, fds, GRAFTD, "-c", self.config_path],
                                         stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=server_env_(),
                                         pass_fds=[s.fileno() for s in self.sockets])
        self.wait_live()
        return self


def server_env_():
    return {k: v for k, v in os.environ.items() if not k.startswith("GRAFT_")}


@case("LISTEN_FDS: used instead of `listen`, left to their owner at the end")
def _():
    path = os.path.join(tempdir(), "s.sock")
    sockets = [listening(socket.AF_INET, ("127.0.0.1", 0)), listening(socket.AF_UNIX, path)]
    s = Activated(["hello"], drain(idle=300), start=False)
    s.sockets = sockets
    s.start()
    is_(len(s.addresses()), 2, "two listeners, and none of `listen`")
    for sock, address in ((sockets[0], sockets[0].getsockname()), (sockets[1], path)):
        with Conn(address) as c:
            is_(c.get("/hello").status, 200, f"{address} is served")
    s.send_signal(signal.SIGTERM)
    is_(s.wait_exit(), 0, "exit 0")
    other_holder_works(sockets[0], sockets[0].getsockname(), "TCP")
    other_holder_works(sockets[1], path, "unix")
    for sock in sockets:
        sock.close()


@case("a successor that took over the path of a unix socket keeps its file")
def _():
    path = os.path.join(tempdir(), "s.sock")
    s = Server(["hello", "versioned_v1"], drain(idle=1500), listen=(f"unix:{path}",))
    with Conn(path) as c:
        c.send(request_bytes("GET", f"/version/timer?ms={ms(1500)}"))
        wait_for(lambda: s.status()["in_flight"] == 1, 5, "a request is in progress")
        s.send_signal(signal.SIGTERM)

        def closed():
            try:
                Conn(path, timeout=1).close()
            except (ConnectionRefusedError, FileNotFoundError):
                return True
        wait_for(closed, 5, "the listener closes", every=0.002)
        new = Server(["hello"], listen=(f"unix:{path}",))
        is_(c.response().status, 200, "the old one ends what it has")
    is_(s.wait_exit(), 0, "exit 0")
    with Conn(path) as c:
        is_(c.get("/hello").status, 200, "the new one is still reached by its path")
    is_(new.stop(), 0, "exit 0")


# ---- A network that is slow, made by hand: a TUN device whose other end is this test ----

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
US, SERVER = "10.99.0.2", "10.99.0.1"
FIN, SYN, RST, ACK = 1, 2, 4, 16


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff


class Peer:
    """One TCP client, segment by segment."""

    next_port = 40000

    def __init__(self, tun, port):
        Peer.next_port += 1
        self.tun, self.port, self.mine = tun, port, Peer.next_port
        self.seq, self.ack = 1000, 0

    def send(self, flags, data=b""):
        src, dst = socket.inet_aton(US), socket.inet_aton(SERVER)
        tcp = struct.pack("!HHIIBBHHH", self.mine, self.port, self.seq, self.ack, 5 << 4, flags, 65535, 0, 0)
        pseudo = src + dst + struct.pack("!BBH", 0, 6, len(tcp) + len(data))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp + data)) + tcp[18:] + data
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, src, dst)
        os.write(self.tun, ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp)
        self.seq += len(data) + (flags & SYN) // SYN + (flags & FIN)

    def receive(self, seconds):
        """(flags, data) of the next segment that is for us, or None."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.tun], [], [], left)[0]:
                return None
            packet = os.read(self.tun, 65536)
            if packet[0] >> 4 != 4 or packet[9] != 6:
                continue
            tcp = packet[(packet[0] & 15) * 4:]
            _, to, seq, _, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
            if to != self.mine:
                continue
            data = tcp[(offset >> 4) * 4:]
            self.ack = (seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & 0xffffffff
            return flags, data


def tun_works():
    return os.geteuid() == 0 and os.path.exists("/dev/net/tun") and shutil.which("ip") is not None


def open_tun():
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454ca, struct.pack("16sH", b"graft0", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
    for command in ("link set lo up", f"addr add {SERVER}/24 dev graft0", "link set graft0 up"):
        subprocess.run(["ip", *command.split()], check=True)
    return tun


def late_ack(tun, start):
    """The last ACK of a handshake reaches the server after its listener has closed for new clients.
    False when this machine was too slow for the question."""
    s = start(drain(idle=500), workers=1, listen=(f"{SERVER}:0",))
    late = Peer(tun, s.port)
    late.send(SYN)
    is_((late.receive(secs(5)) or (0,))[0], SYN | ACK, "SYN, SYN-ACK")
    s.send_signal(signal.SIGTERM)
    last = time.monotonic()
    while True:
        probe = Peer(tun, s.port)
        probe.send(SYN)
        got = probe.receive(0.03)
        if not got:
            break
        if got[0] != SYN | ACK:
            diag(f"a SYN was answered with flags {got[0]}")
            break
        last = time.monotonic()
    late.send(ACK)
    late.send(ACK, HELLO)
    took = time.monotonic() - last
    answer, flags = b"", 0
    while not flags & (FIN | RST):
        got = late.receive(secs(5) if answer else 0.3)
        if not got and not answer and time.monotonic() < last + secs(5):
            late.seq -= len(HELLO)  # as TCP does: what was not acknowledged is sent again
            late.send(ACK, HELLO)
            continue
        if not got:
            break
        flags, data = got
        answer += data
        if data or flags & FIN:
            late.send(ACK)
    if took > 0.2:
        late.send(RST)
        s.kill()
        return False
    like(answer, r"^HTTP/1\.1 200 .*Connection: close.*hello, world", "it is accepted and answered")
    ok(not flags & RST and flags & FIN, "and not reset", flags)
    late.send(FIN | ACK)
    is_(s.wait_exit(), 0, "exit 0")
    return True


@case("a client whose last ACK comes after the listener has closed for new ones",
      tun_works(), "needs root, /dev/net/tun and iproute2")
def _():
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        skip("no network namespaces here", "the last ACK")
        return
    try:
        tun = open_tun()
        for start in (lambda config, **more: Server(["hello"], config, **more)), of_nobody:
            if not any(late_ack(tun, start) for _ in range(4)):
                skip("this machine is too busy", "the last ACK")
        os.close(tun)
    finally:
        libc.setns(home, 0)


main()
