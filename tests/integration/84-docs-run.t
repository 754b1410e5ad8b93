#!/usr/bin/env python3
# What the README and the guides show to be typed, printed and configured: it is run, or a mark beside it says why not
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from docblocks import ALL, marks
from grafttest import *
from grafttest import server_env

if SANITIZER != "none":
    skip_all("it is about the docs: as good without a sanitizer")

BLOCKS = [block for block in ALL if block.language not in ("c", "cpp", "json")]
NOT_RUN, RUN_BY = re.compile(r"not run: (\S.{7,})"), re.compile(r"run by (tests/\S+)")
PLUGINS = "/usr/local/lib/graft/plugins"
HELLO = """#include <graft/graft.h>
static int init(graft_self *self, void **state) { (void)state; (void)self; %s }
static graft_next hello(graft_req *req, void *state) { (void)state; return graft_text(req, 200, "%s\\n"); }
GRAFT_PLUGIN(.name = "%s", .version = "1.0.0", .init = init,
             .routes = (const graft_route[]){ { "GET", "/%s", hello, 0 }, { 0 } }, )
"""
RUNNERS = {}


def shows(first):
    """What runs the block that begins so."""
    def add(fn):
        RUNNERS[first] = fn
        return fn
    return add


def made(name="hello", text="hello", init="return 0;"):
    return compile_plugin(HELLO % (init, text, name, name))


class Place:
    """A folder to type in: graftd and graftctl are found, graftctl reaches the server, which has what is said to be at
    /usr/local/lib/graft/plugins and 127.0.0.1:8080."""
    def __init__(self, server=None, **files):
        self.server, self.dir, programs = server, tempdir(0o755), tempdir(0o755)
        for name, path in (("graftd", GRAFTD), ("graftctl", GRAFTCTL)):
            os.symlink(path, os.path.join(programs, name))
        self.env = {**server_env(), "PATH": programs + ":" + ENV["PATH"]}
        if server:
            self.env["GRAFT_CONTROL"] = server.control
        for name, path in files.items():
            shutil.copyfile(path, os.path.join(self.dir, name.replace("__", ".")))

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w", encoding="utf-8") as file:
            file.write(text)

    def here(self, text):
        if self.server:
            text = text.replace(PLUGINS, self.server.plugin_dir).replace("127.0.0.1:8080", f"127.0.0.1:{self.server.port}")
            text = text.replace('"$(pkg-config --variable=plugindir graft)"', self.server.plugin_dir)
        return text

    def sh(self, text, folder=None):
        """(exit status, all that was printed)."""
        run = subprocess.run(["sh", "-uc", self.here(text)], cwd=folder or self.dir, env=self.env, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, timeout=secs(120), check=False)
        return run.returncode, run.stdout

    def runs(self, block, text=None):
        status, said = self.sh("set -e\n" + (text or block.text))
        is_(status, 0, f"{block.where}: each command succeeds")
        diag(said) if status else None
        return said


def pattern(sample):
    """Numbers, ids and times are others; '...' is anything; lines may be folded, columns wider."""
    words = []
    for word in sample.split():
        if word.rstrip(",;.") in ("us", "ms", "s"):  # a slow machine's times have other units
            words.append("(?:us|ms|s)" + re.escape(word[len(word.rstrip(",;.")):]))
            continue
        word = re.escape(word.replace("...", "\0"))
        word = re.sub(r"\b[0-9a-f]{12}\b", "[0-9a-f]{12,64}", word)
        word = re.sub(r"(?<![\[\{,\w-])\d+(?:\\\.\d+)?(?![\}\]\w])", r"\\d+(?:\\.\\d+)?", word)
        words.append(re.sub(r"(?<=@\[0-9a-f\]\{12,64\}\\\.)\d+", r"\\d+", word).replace("\0", ".*"))
    return r"\s+".join(words)


def transcript(place, block, commands=()):
    """Lines that begin with '$ ' are typed, and what follows each is what it prints. commands: (shown, typed)."""
    folder = place.dir
    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        command = command.split("     #")[0].strip()
        for shown, typed in commands:
            command = command.replace(shown, typed)
        if command.startswith("cd "):
            folder = place.here(command[3:])
            continue
        status, said = place.sh(command, folder)
        if expected.strip():
            like(said, pattern(expected), f"{block.where}: {command}")
        else:
            is_(status, 0, f"{block.where}: {command}")


# ---- A first plugin ----

def first_plugin(block):
    """Its source is the page's first block of C; typed twice, with another text."""
    page = block.where.split(":")[0] + ":"
    source = next(each.text for each in ALL if each.where.startswith(page) and each.language == "c")
    s = Server({})
    place = Place(s)
    for answer in ("hello, world", "hello again"):
        place.write("hello.c", source.replace("hello, world", answer))
        is_(place.runs(block).splitlines()[-1:], [answer], f"{block.where}: {answer}")
    s.finish()


shows("cc $(pkg-config --cflags --libs graft) -o hello.so.new hello.c")(first_plugin)
shows("cc $(pkg-config --cflags --libs graft) -o hello.so hello.c")(first_plugin)


@shows("cc      $(pkg-config --cflags --libs graft) -o hello.so hello.c")
def _(block):
    place = Place()
    text = HELLO % ("return 0;", "hello", "hello", "hello")
    place.write("hello.c", text)
    place.write("hello.cc", text)
    for command in block.text.replace("\\\n", "").splitlines():
        if not shutil.which(command.split()[0]):
            skip(f"wants {command.split()[0]}", f"{block.where}: {command.split()[0]}")
            continue
        place.runs(block, command)
        is_(subprocess.run([GRAFTCTL, "check", os.path.join(place.dir, "hello.so")], capture_output=True, check=False).returncode, 0,
            f"{block.where}: {command.split()[0]}: it would be loaded")


@shows("cc $(pkg-config --cflags graft-harness) -o hello-test hello-test.c hello.c \\")
def _(block):
    at = next(i for i, each in enumerate(ALL) if each.where == block.where)
    test = next(each.text for each in ALL[at:] if "graft_test" in each.text and each.language == "c")
    place = Place()
    place.write("hello-test.c", test)
    place.write("hello.c", next(each.text for each in ALL if each.where.startswith("PLUGIN-GUIDE.md") and each.language == "c"))
    like(place.runs(block), r"(?m)^ok 1 ", f"{block.where}: it speaks TAP")


# ---- What an operator types ----

@shows("$ graftd -t -c graft.json")
def _(block):
    plugins = tempdir()
    shutil.copyfile(plugin_path("hello"), os.path.join(plugins, "hello.so"))
    open(os.path.join(plugins, "x.so"), "wb").close()
    place = Place()
    place.write("graft.json", '{ "plugin_dir": "%s" }' % plugins)
    transcript(place, block)


@shows('graftd: bad.json:3:15: unknown key "body_byte": did you mean "body_bytes"?')
def _(block):
    place = Place()
    place.write("bad.json", '{\n  "workers": 1,\n  "limits": { "body_byte": 1048576 }\n}\n')
    is_(place.sh("graftd -c bad.json")[1], block.text, f"{block.where}: the words, the line and the column")


@shows("$ cp hello.so /usr/local/lib/graft/plugins/.hello.so.new")
def _(block):
    s = Server({"hello": made(), "echo": "echo"})
    transcript(Place(s, hello__so=made(text="again")), block)
    is_(s.get("/hello").body, b"again\n", f"{block.where}: the new code answers")
    s.finish()


@shows("cp hello.so /usr/local/lib/graft/plugins/.hello.new")
def _(block):
    s = Server({"hello": made()})
    Place(s, hello__so=made(text="again")).runs(block)
    is_(s.get("/hello").body, b"again\n", f"{block.where}: promoted")
    s.finish()


@shows("graftctl canary hello --weight 0 --shadow 10")
def _(block):
    s = Server({"hello": made()})
    s.install(made(text="again"), "hello")
    Place(s).runs(block)
    is_(sorted(row["weight"] for row in s.ps("hello")), [5, 95], f"{block.where}: what was set at last")
    s.finish()


@shows("$ minisign -G -p release.pub -s release.key     # once; the key stays where you build")
def _(block):
    if not shutil.which("minisign"):
        return skip("wants minisign", block.where)
    transcript(Place(hello__so=plugin_path("hello")), block, [("minisign -G", "minisign -G -W")])  # no word is asked for


@shows("$ cp hello.so.minisig /usr/local/lib/graft/plugins/.hello.so.minisig.new")
def _(block):
    if not shutil.which("minisign"):
        return skip("wants minisign", block.where)
    place = Place(hello__so=made())
    place.sh("minisign -G -W -p k.pub -s k.key && minisign -Sm hello.so -s k.key && chmod 644 k.pub")
    place.server = s = Server({}, {"signatures": {"required": True, "keys": [os.path.join(place.dir, "k.pub")]}})
    place.env["GRAFT_CONTROL"] = s.control
    transcript(place, block)
    is_(s.get("/hello").body, b"hello\n", f"{block.where}: it serves")
    s.finish()


@shows("$ graftctl reload")
def _(block):
    """Two show what a reload says that is not taken: a plugin that does not start, and one that is quarantined."""
    s = Server({"hello": made()})
    place = Place(s)
    if "quarantined" in block.text:
        s.install(made(text="again"), "hello")
        place.sh("graftctl reload && graftctl rollback hello")
    else:
        why = 'return graft_fail(self, "no database at 192.0.2.1:5432: start it, or change config.db");'
        s.install(made("sin", init=why), "p")
    transcript(place, block)
    s.finish()


@shows("$ graftctl rollback hello")
def _(block):
    s = Server({"hello": made()})
    s.install(made(text="again"), "hello")
    place = Place(s)
    place.sh("graftctl reload")
    transcript(place, block)
    is_(s.get("/hello").body, b"hello\n", f"{block.where}: what served before")
    s.finish()


def like_it(line):
    """A line of ps without what differs each time."""
    line = re.sub(r"\d+(?:\.\d+)?", "N", re.sub(r"[0-9a-f]{12}\.\d+", "ID", line))
    return " ".join(re.sub(r"\bN (?:us|ms|s)\b", "TIME", line).split())


@shows("PLUGIN  VERSION  ID              STATE    WEIGHT  IN FLIGHT  SERVED  ERRORS    P50    P99  OLDEST REQUEST")
def _(block):
    s = Server({"hello": made(), "slow": "slow", "echo": "echo"})
    with s.connect() as conn:
        conn.send(request_bytes("GET", "/slow/stream"))
        conn.head()
        s.install(make_unique("slow"), "slow")
        s.reload()
        s.get("/hello")
        said = s.ctl("ps").stdout.splitlines()
    is_(said[0].split(), block.text.splitlines()[0].split(), f"{block.where}: the heading")
    kinds = {like_it(line) for line in said}
    for line in block.text.splitlines()[1:]:
        ok(like_it(line.replace("2.0.0", "1.0.0")) in kinds, f"{block.where}: {line}", "\n".join(said))
    s.finish()


@shows("$ graftctl upgrade")
def _(block):
    s = Server({"hello": made()})
    before = s.pid
    transcript(Place(s), block)
    isnt(s.pid, before, f"{block.where}: another process serves")
    s.finish()


# ---- Configuration of others ----

def tool(name, block):
    found = shutil.which(name, path=ENV["PATH"] + ":/usr/sbin:/sbin")
    if not found:
        skip(f"wants {name}", f"{block.where}: {name} takes it")
    return found


def takes(block, *command):
    run = subprocess.run(command, capture_output=True, text=True, timeout=secs(60), check=False)
    is_(run.returncode, 0, f"{block.where}: {os.path.basename(command[0])} takes it")
    diag(run.stdout + run.stderr) if run.returncode else None


@shows("upstream graft {")
def _(block):
    nginx = tool("nginx", block)
    if nginx:
        place = Place()
        text = block.text.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")
        folders = "".join(f"{name}_temp_path {place.dir}/{name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        place.write("nginx.conf", f"pid {place.dir}/pid; error_log {place.dir}/log; events {{ }}\n"
                    f"http {{ access_log off; {folders}{text} }}\n")
        takes(block, nginx, "-t", "-p", place.dir, "-c", os.path.join(place.dir, "nginx.conf"))


@shows("backend graft")
def _(block):
    haproxy = tool("haproxy", block)
    if haproxy:
        place = Place()
        place.write("haproxy.cfg", "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n"
                    f"frontend f\n    bind 127.0.0.1:{free_port()}\n    default_backend graft\n" + block.text)
        takes(block, haproxy, "-c", "-q", "-f", os.path.join(place.dir, "haproxy.cfg"))


@shows("/var/log/graft/graft.log {")
def _(block):
    like(block.text, r"graftctl reopen\n", f"{block.where}: says what reopens the log")
    logrotate = tool("logrotate", block)
    if logrotate:
        place = Place()
        place.write("graft.log", "x\n")
        place.write("rotate", block.text.replace("/var/log/graft", place.dir))
        os.chmod(os.path.join(place.dir, "rotate"), 0o644)
        takes(block, logrotate, "--debug", "--state", os.path.join(place.dir, "state"), os.path.join(place.dir, "rotate"))


@shows("[Service]")
def _(block):
    variables = dict(each.split("=") for each in re.findall(r"^Environment=(.*)$", block.text, re.M))
    ok(variables, f"{block.where}: sets something")
    is_(graftd("-t", "--plugins", tempdir(), env=variables).returncode, 0, f"{block.where}: graftd takes {variables}")


@shows("spec:")
def _(block):
    """A part of a pod: the settings are graftd's, the probes are answered at the ops address."""
    variables = dict(re.findall(r'name: (GRAFT_\w+), value: "([^"]*)"', block.text))
    is_(len(variables), 3, f"{block.where}: settings")
    run = graftd("-t", "--plugins", tempdir(), env=variables)
    is_(run.returncode, 0, f"{block.where}: graftd takes them")
    s = Server({"hello": made()})
    is_([s.ops_get(path).status for path in re.findall(r"path: (\S+?),", block.text)], [200] * 3, f"{block.where}: probes")
    s.finish()


def of_metrics(block, rules):
    """promtool takes the rules, and every metric that is named is one that graftd has."""
    s = Server({"hello": made()})
    s.get("/hello")
    known = set(re.findall(r"^# TYPE (\w+) ", s.ops_get("/metrics").body.decode(), re.M))
    s.finish()
    named = set(re.findall(r"\bgraft_\w+", block.text))
    ok(named, f"{block.where}: metrics", block.text)
    is_([name for name in sorted(named) if re.sub("_bucket$", "", name) not in known], [], f"{block.where}: metrics that there are")
    promtool = tool("promtool", block)
    if promtool:
        place = Place()
        place.write("rules.yml", rules)
        takes(block, promtool, "check", "rules", os.path.join(place.dir, "rules.yml"))


@shows("# errors of each version of shop: is the new one worse?")
def _(block):
    queries = [line for line in block.text.splitlines() if not line.startswith("#")]
    of_metrics(block, "groups:\n- name: shown\n  rules:\n" + "".join(f"  - {{ record: 'a:{i}', expr: '{query}' }}\n".replace("'a:", "'a:q")
                                                                      for i, query in enumerate(queries)))


@shows("groups:")
def _(block):
    of_metrics(block, block.text)


@shows("GRAFT_SUPERVISE=false valgrind --keep-debuginfo=yes --leak-check=full --errors-for-leak-kinds=definite \\")
def _(block):
    if not tool("valgrind", block):
        return
    place = Place(hello__so=made())
    place.write("graft.json", "{}")
    port = free_port()
    text = block.text.replace("/usr/sbin/graftd", GRAFTD).replace(":8081", f"127.0.0.1:{port}")
    proc = subprocess.Popen(["sh", "-c", "exec env " + text], cwd=place.dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**place.env, "GRAFT_STAGE_DIR": place.dir + "/stage", "GRAFT_DRAIN_DELAY_MS": "0"})

    def answered():
        try:
            with Conn(("127.0.0.1", port)) as conn:
                return conn.get("/hello").status == 200
        except OSError:
            time.sleep(0.2)
            return False
    try:
        wait_for(answered, secs(60), "an answer")
    finally:
        proc.terminate()
        said = proc.communicate(timeout=secs(60))[0]
    is_(proc.returncode, 0, f"{block.where}: it serves and ends")
    like(said, "ERROR SUMMARY: 0 errors", f"{block.where}: and finds nothing")


# ---- All of them ----

def first(block):
    return block.text.splitlines()[0]


@case("each block is run here, or says what runs it, or why nothing does")
def _():
    unmarked = [block for block in BLOCKS if not block.mark and first(block) not in RUNNERS]
    is_([block.where for block in unmarked], [], "blocks without a mark that nothing runs")
    marked = [block for block in ALL if block.mark]
    is_(len(marked), marks(), "comments that stand before a block")
    is_([block.where for block in marked if block.language in ("c", "cpp", "json") or first(block) in RUNNERS], [],
        "marks of what is run")
    is_([block.where for block in marked if not NOT_RUN.fullmatch(block.mark) and not RUN_BY.fullmatch(block.mark)], [],
        "marks that say neither why not nor by what")
    named = [(block.where, RUN_BY.fullmatch(block.mark)[1]) for block in marked if RUN_BY.fullmatch(block.mark)]
    is_([each for each in named if not os.path.exists(os.path.join(SRCDIR, each[1]))], [], "tests that are named and are not there")
    is_([key for key in RUNNERS if key not in map(first, BLOCKS)], [], "runners of blocks that are not there any more")
    diag(f"{len(BLOCKS) - len(marked)} are run here, {len(named)} by other tests, {len(marked) - len(named)} are not run")


@case("what is shown works")
def _():
    for block in BLOCKS:
        if not block.mark and first(block) in RUNNERS:
            diag(f"{block.where}: {first(block)}")
            RUNNERS[first(block)](block)


@case("a sample that is not what is printed would be found")
def _():
    said = "changed    hello@b741b163b836.5\ngeneration 7, after 1.7 ms\n"
    for sample, fits in ((said, True), (said.replace("b741b163b836.5", "0123456789ab.12").replace("1.7 ms", "1.2 s"), True),
                         (said.replace("changed", "unchanged "), False), (said.replace("generation", "round"), False),
                         ("changed  hello@...\ngeneration 2,\n  after 3 ms", True)):
        is_(bool(re.search(r"(?<!\w)" + pattern(sample), said)), fits, repr(sample))


main()
