#!/usr/bin/env python3
# A plugin whose SQLite table changes under load: expand, migrate, contract, and one step back from each
import itertools
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from grafttest import *  # noqa: E402,F403
from swaptest import *  # noqa: E402,F403
from upgradetest import IDLE, good  # noqa: E402

BUILT = os.path.join(os.environ["TEST_BUILDDIR"], "examples", "notes-sqlite")
if not os.path.exists(f"{BUILT}/v4.so"):
    skip_all("examples/notes-sqlite is not built: libsqlite3-dev was missing at ./configure")

AUTHORS = ("Ada King", "Plato", "Ursula Kroeber Le Guin", "Čapek", "Karel Čapek", "O'Brien \"Flann\"")
OLD_NOTES = 3000


def author_of(n):
    return AUTHORS[n % len(AUTHORS)]


def build(n, more=b""):
    with open(f"{BUILT}/v{n}.so", "rb") as f:
        return f.read() + more


class Notes(Server):
    """A server of notes with a data base in its own folder, old notes in it."""

    def __init__(self, old=OLD_NOTES, config=None):
        super().__init__({"hello": "hello"}, config, start=False)
        self.db = os.path.join(self.dir, "notes.db")
        self.config["plugins"] = {"notes": {"config": {"db": self.db}}}
        self.write_config()
        put(self, build(1), "notes")
        self.start()
        with sqlite3.connect(self.db, timeout=30) as db:
            db.executemany("INSERT INTO note (author, text) VALUES (?, ?)", [(author_of(n), f"old {n}") for n in range(old)])
        db.close()

    def swap_to(self, n):
        put(self, build(n), "notes")
        answer = self.reload()
        ok(answer["ok"] and self.active("notes")["version"] == f"{n}.0.0", f"{n}.0.0 serves", answer)

    def ask(self, sql, *args):
        db = sqlite3.connect(self.db, timeout=30)
        try:
            return db.execute(sql, args).fetchall()
        finally:
            db.close()

    def columns(self):
        return {row[1] for row in self.ask("PRAGMA table_info(note)")}

    def filled(self, mark):
        self.wait_event("plugin", timeout=60, since=mark, msg=re.compile("backfill: no note is left"))
        is_(self.ask("SELECT count(*) FROM note WHERE family IS NULL"), [(0,)], "every note is in the new form")


class Client:
    """A connection that is opened anew when the server has said that it closes it."""

    def __init__(self, address):
        self.address, self.conn = address, None

    def request(self, method, target, body=None):
        self.conn = self.conn or Conn(self.address, timeout=secs(30))
        answer = self.conn.request(method, target, body=body)
        if (answer.header("Connection") or "").lower() == "close":
            self.close()
        return answer

    def close(self):
        if self.conn:
            self.conn.close()
        self.conn = None


class Load:
    """Clients that write notes and read them back, one of their own and one that any has written."""

    def __init__(self, server, clients=4):
        self.server, self.failures, self.written, self.reads = server, [], {}, 0
        self.numbers, self.over = itertools.count(OLD_NOTES), threading.Event()
        self.threads = [threading.Thread(target=self._live, daemon=True) for _ in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(secs(20))

    def more(self, n=40):
        """Until so many more are written, so that each version meets some."""
        until = len(self.written) + n
        wait_for(lambda: len(self.written) >= until or self.failures, 60, f"{n} more notes")

    def _live(self):
        client = Client(self.server.address)
        try:
            while not self.over.is_set():
                path = self._write(client, next(self.numbers))
                self._read(client, path)
                self._read(client, next(reversed(list(self.written))))
                self._old(client, 1 + next(self.numbers) % OLD_NOTES)
                time.sleep(0.002)
        except Exception as error:  # whatever it is, the test fails
            self.failures.append(f"{type(error).__name__}: {error}")
        finally:
            client.close()

    def _write(self, client, n):
        author, text = author_of(n), f"note {n}"
        answer = client.request("POST", "/notes?author=" + urllib.parse.quote(author), text.encode())
        if answer.status != 201:
            raise HttpError(f"POST {n}: {answer.status} {answer.text!r}")
        path = answer.text.strip()
        if path in self.written:
            raise HttpError(f"{path} was given to two notes")
        self.written[path] = f"{author}\n{text}"
        return path

    def _read(self, client, path):
        answer = client.request("GET", path)
        self.reads += 1
        if (answer.status, answer.text) != (200, self.written[path]):
            raise HttpError(f"GET {path}: {answer.status} {answer.text!r}, not {self.written[path]!r}")

    def _old(self, client, number):
        answer = client.request("GET", f"/notes/{number}")
        self.reads += 1
        if (answer.status, answer.text) != (200, f"{author_of(number - 1)}\nold {number - 1}"):
            raise HttpError(f"GET of old note {number}: {answer.status} {answer.text!r}")


def is_whole(s, load, joined):
    """What clients were told is what is there, no note more or less."""
    diag(f"{len(load.written)} notes written, {load.reads} read, {len(s.find_events('swap'))} swaps")
    is_(load.failures, [], "no request failed, and each answer was right")
    got = {f"/notes/{row[0]}": f"{row[1]}\n{row[2]}" for row in s.ask(f"SELECT id, {joined}, text FROM note")}
    is_(len(got), OLD_NOTES + len(load.written), "as many notes as were written")
    is_({path: got.get(path) for path in load.written}, load.written, "each as it was written")
    is_(s.ask("PRAGMA integrity_check"), [("ok",)], "the file is sound")


JOINED = "CASE given WHEN '' THEN family ELSE given || ' ' || family END"


@case("expand, migrate, contract under load")
def _():
    s = Notes()
    with Load(s) as load:
        load.more()
        is_(s.columns(), {"id", "author", "text"}, "1.0.0: one column")
        s.swap_to(2)
        is_(s.columns(), {"id", "author", "text", "given", "family"}, "expanded")
        load.more()
        ok(s.ask("SELECT count(*) FROM note WHERE family IS NULL")[0][0] >= OLD_NOTES, "old notes are not filled yet")
        mark = s.mark()
        s.swap_to(3)
        load.more()
        s.filled(mark)
        is_(s.ask(f"SELECT count(*) FROM note WHERE author <> {JOINED}"), [(0,)], "both forms say the same")
        s.swap_to(4)
        load.more()
        s.config["plugins"]["notes"]["config"]["drop"] = True
        answer = s.reload(config=True)
        ok(answer["ok"], "\"drop\" is configured", answer)
        is_(s.columns(), {"id", "text", "given", "family"}, "contracted")
        load.more()
    is_whole(s, load, JOINED)
    is_settled(s, 2, "exactly what serves is loaded, mapped and staged")


@case("one step back from each version under load, and forward again")
def _():
    s = Notes()

    def back(to):
        run = s.ctl("rollback", "notes")
        ok(run.returncode == 0 and s.active("notes")["version"] == f"{to}.0.0", f"rolled back to {to}.0.0", run)
        load.more()

    def again(n):  # what was rolled back is quarantined: a new build of it
        put(s, build(n, os.urandom(8)), "notes")
        answer = s.reload()
        ok(answer["ok"] and s.active("notes")["version"] == f"{n}.0.0", f"{n}.0.0 again", answer)
        load.more()
    with Load(s) as load:
        for n in (2, 3, 4):
            mark = s.mark()
            s.swap_to(n)
            load.more()
            if n == 3:
                s.filled(mark)
            back(n - 1)
            if n == 2:
                ok(s.ask("SELECT count(*) FROM note WHERE family IS NULL AND id > ?", OLD_NOTES)[0][0] > 0,
                   "1.0.0 leaves the new columns empty")
            mark = s.mark()
            again(n)
            if n == 3:
                s.filled(mark)
    is_whole(s, load, JOINED)


@case("graftctl upgrade in the midst of the migration: two processes and one file")
def _():
    s = Notes(config=IDLE)
    with Load(s) as load:
        load.more()
        s.swap_to(2)
        mark = s.mark()
        s.swap_to(3)
        good(s)
        load.more()
        s.filled(mark)
        s.swap_to(4)
        good(s)
        load.more()
    is_whole(s, load, JOINED)


@case("a step that is left out is refused, and the version before it serves on")
def _():
    s = Notes()

    def refused(n, why, serves, config=False):
        if n:
            put(s, build(n, os.urandom(8)), "notes")
        answer = s.reload(config=config)
        ok(not answer["ok"] and re.search(why, reason_of(answer)), f"refused: {why}", answer)
        is_(s.active("notes")["version"], serves, f"{serves} serves on")
    with Load(s) as load:
        load.more()
        refused(4, r"has no column named given: deploy the version before 4\.0\.0 first", "1.0.0")
        s.swap_to(2)
        refused(4, r"ready says that it is not fit to serve: \d+ notes are not in the form that 4\.0\.0 reads: let the "
                r"version before it serve until it says that no note is left", "2.0.0")
        mark = s.mark()
        s.swap_to(3)
        s.filled(mark)
        s.config["plugins"]["notes"]["config"]["drop"] = True
        put(s, build(4), "notes")
        refused(0, r"another version than 4\.0\.0 serves, and may use the column author", "3.0.0", config=True)
        ok("author" in s.columns(), "the column is still there")
        load.more()
    is_whole(s, load, JOINED)


@case("4.0.0 begins with no data base at all")
def _():
    s = Notes(old=0)
    s.config["plugins"]["notes"]["config"]["db"] = s.db = os.path.join(s.dir, "new.db")
    put(s, build(4), "notes")
    answer = s.reload(config=True)
    ok(answer["ok"] and s.columns() == {"id", "text", "given", "family"}, "it makes its own form", answer)
    answer = s.request("POST", "/notes?author=Ada%20King", body=b"first")
    is_((answer.status, answer.text, s.get("/notes/1").text), (201, "/notes/1\n", "Ada King\nfirst"), "and keeps notes")
    is_([s.get(f"/notes/{n}").status for n in ("2", "x", "9" * 30)], [404, 404, 404], "404 for what is not there")
    is_(s.request("POST", "/notes", body=b"x").status, 400, "400 without an author")


@case("the guide's command builds it, without a finding", SANITIZER == "none", "the command knows of no sanitizer")
def _():
    with open(os.path.join(SRCDIR, "docs", "DEPLOYMENT.md"), encoding="utf-8") as f:
        command, = re.findall(r"^    (cc .*sqlite3\))$", f.read(), re.M)
    folder = os.path.join(tempdir(), "notes-sqlite")
    shutil.copytree(os.path.join(SRCDIR, "examples", "notes-sqlite"), folder)
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    is_((done.returncode, done.stderr), (0, ""), command)
    done = subprocess.run([GRAFTCTL, "check", f"{folder}/notes.so"], capture_output=True, text=True)
    ok(done.returncode == 0 and "notes 2.0.0" in done.stdout, "graftctl check", done)


main()
