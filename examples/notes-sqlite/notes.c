/*
 * notes: a plugin that keeps what it is told in SQLite, and whose table changes while it serves.
 *
 *     POST /notes?author=Ada%20King     the body is the text; 201, the answer is the note's path
 *     GET  /notes/:id                   the author, a line end, the text
 *
 * SQLite waits for disks and locks, so requests meet it on the pool only (graft_offload). A job
 * takes a connection that no other job has, or opens one: there are never more than the pool has
 * threads. Versions share nothing but the file. Config: "db", its path; "drop", see v4.c.
 */
#include "notes.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

enum { BUSY_MS = 5000, BACKFILL_MS = 50 };

struct conn {
    sqlite3 *db;
    sqlite3_stmt *insert, *select;
    struct conn *next;
};

struct notes {
    graft_self *self;
    const char *path;
    bool filled;          /* pool: nothing is left for the backfill */
    pthread_mutex_t lock; /* protects idle; held for a few instructions */
    struct conn *idle;    /* connections that no job has */
};

/* ---- Connections ---- */

static void conn_close(struct conn *c)
{
    sqlite3_finalize(c->insert);
    sqlite3_finalize(c->select);
    sqlite3_close(c->db);
    free(c);
}

/* Without statements: the table may have to be made first. NULL: no memory, or *why says it. */
static struct conn *conn_open(const char *path, char **why)
{
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    const char *pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL";
    if (sqlite3_open(path, &c->db) == SQLITE_OK &&
        sqlite3_busy_timeout(c->db, BUSY_MS) == SQLITE_OK &&
        sqlite3_exec(c->db, pragmas, NULL, NULL, NULL) == SQLITE_OK)
        return c;
    *why = sqlite3_mprintf("%s: %s", path, sqlite3_errmsg(c->db));
    conn_close(c);
    return NULL;
}

static int conn_prepare(struct conn *c)
{
    const struct notes_schema *s = &notes_schema;
    return sqlite3_prepare_v2(c->db, s->insert, -1, &c->insert, NULL) == SQLITE_OK &&
                   sqlite3_prepare_v2(c->db, s->select, -1, &c->select, NULL) == SQLITE_OK
               ? 0
               : -1;
}

static struct conn *conn_take(struct notes *n)
{
    pthread_mutex_lock(&n->lock);
    struct conn *c = n->idle;
    if (c)
        n->idle = c->next;
    pthread_mutex_unlock(&n->lock);
    if (c)
        return c;

    char *why = NULL;
    c = conn_open(n->path, &why);
    if (c && conn_prepare(c) != 0) {
        why = sqlite3_mprintf("%s", sqlite3_errmsg(c->db));
        conn_close(c);
        c = NULL;
    }
    if (!c)
        graft_log(n->self, GRAFT_ERR, "no connection: %s", why ? why : "no memory");
    sqlite3_free(why);
    return c;
}

static void conn_give(struct notes *n, struct conn *c)
{
    pthread_mutex_lock(&n->lock);
    c->next = n->idle;
    n->idle = c;
    pthread_mutex_unlock(&n->lock);
}

/* ---- Requests ---- */

struct job {
    struct notes *notes;
    graft_str author, text;
    sqlite3_int64 id;
    int status;
    char *answer; /* sqlite3_malloc */
};

/* A timeout waiting for another writer is worth another try; anything else is for the log. */
static void job_failed(struct job *j, struct conn *c)
{
    j->status = sqlite3_errcode(c->db) == SQLITE_BUSY ? 503 : 500;
    graft_log(j->notes->self, GRAFT_ERR, "%s", sqlite3_errmsg(c->db));
}

static void bind_text(sqlite3_stmt *stmt, int at, graft_str text)
{
    sqlite3_bind_text64(stmt, at, text.ptr ? text.ptr : "", text.len, SQLITE_STATIC, SQLITE_UTF8);
}

static void insert_work(void *arg)
{
    struct job *j = arg;
    struct conn *c = conn_take(j->notes);
    if (!c)
        return;
    bind_text(c->insert, 1, j->author);
    bind_text(c->insert, 2, j->text);
    if (sqlite3_step(c->insert) == SQLITE_DONE) {
        j->status = 201;
        j->answer = sqlite3_mprintf("/notes/%lld\n", sqlite3_last_insert_rowid(c->db));
    } else {
        job_failed(j, c);
    }
    sqlite3_reset(c->insert);
    sqlite3_clear_bindings(c->insert); /* they point into the request */
    conn_give(j->notes, c);
}

static void select_work(void *arg)
{
    struct job *j = arg;
    struct conn *c = conn_take(j->notes);
    if (!c)
        return;
    sqlite3_bind_int64(c->select, 1, j->id);
    int rc = sqlite3_step(c->select);
    if (rc == SQLITE_ROW) {
        j->status = 200;
        j->answer = sqlite3_mprintf("%s\n%s", sqlite3_column_text(c->select, 0),
                                    sqlite3_column_text(c->select, 1));
    } else if (rc == SQLITE_DONE) {
        j->status = 404;
    } else {
        job_failed(j, c);
    }
    sqlite3_reset(c->select);
    conn_give(j->notes, c);
}

static void answer(graft_req *req, void *arg)
{
    struct job *j = arg;
    if (j->answer)
        graft_text(req, j->status, j->answer);
    else
        graft_error(req, j->status >= 400 ? j->status : 500, NULL);
    sqlite3_free(j->answer);
    graft_done(req);
}

static graft_next offload(graft_req *req, void (*work)(void *), struct job job)
{
    struct job *j = graft_alloc(req, sizeof *j);
    if (!j)
        return graft_fail_req(req, "no memory for a job");
    *j = job;
    if (graft_offload(req, work, answer, j) != 0)
        return graft_error(req, 503, "The pool's queue is full; try again.");
    return GRAFT_LATER;
}

static graft_next note_post(graft_req *req, void *state)
{
    struct job job = {
        .notes = state,
        .author = graft_query(req, "author"),
        .text = graft_body(req),
    };
    if (job.author.len == 0)
        return graft_error(req, 400, "Who is the author? /notes?author=NAME");
    if (memchr(job.author.ptr, '\0', job.author.len) ||
        (job.text.len > 0 && memchr(job.text.ptr, '\0', job.text.len)))
        return graft_error(req, 400, "A note is text, without a NUL.");
    return offload(req, insert_work, job);
}

static graft_next note_get(graft_req *req, void *state)
{
    graft_str id = graft_param(req, "id");
    struct job job = { .notes = state };
    for (size_t i = 0; i < id.len; i++) {
        if (id.ptr[i] < '0' || id.ptr[i] > '9' || i >= 18)
            return graft_error(req, 404, "A note has a number.");
        job.id = job.id * 10 + (id.ptr[i] - '0');
    }
    return offload(req, select_work, job);
}

const graft_route notes_routes[] = {
    { "POST", "/notes", note_post, 0 },
    { "GET", "/notes/:id", note_get, 0 },
    { 0 },
};

/* ---- The table ---- */

/* The first column of the first row: -1 when it cannot be asked for. */
static sqlite3_int64 ask(sqlite3 *db, const char *sql, const char *arg)
{
    sqlite3_stmt *stmt = NULL;
    sqlite3_int64 answer = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK &&
        (!arg || sqlite3_bind_text(stmt, 1, arg, -1, SQLITE_STATIC) == SQLITE_OK) &&
        sqlite3_step(stmt) == SQLITE_ROW)
        answer = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return answer;
}

static bool has_column(sqlite3 *db, const char *name)
{
    return ask(db, "SELECT count(*) FROM pragma_table_info('note') WHERE name = ?1", name) > 0;
}

static int alter(sqlite3 *db, const char *how, const char *column)
{
    char *sql = sqlite3_mprintf("ALTER TABLE note %s \"%w\"", how, column);
    int rc = sql ? sqlite3_exec(db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    return rc;
}

/* Whatever a version before, or another process, has made of the table: what this one needs is
   there. All of it or nothing, in one transaction, and in an instant: a new column writes no row.
 */
static int shape(sqlite3 *db)
{
    const struct notes_schema *s = &notes_schema;
    int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, s->create, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db,
                          "CREATE TABLE IF NOT EXISTS serves"
                          " (one INTEGER PRIMARY KEY CHECK (one = 1), version TEXT NOT NULL)",
                          NULL, NULL, NULL);
    for (const char *const *column = s->add; rc == SQLITE_OK && *column; column++) {
        if (!has_column(db, *column))
            rc = alter(db, "ADD COLUMN", *column);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    return rc;
}

/* What still serves must not need the column, so only a version that has served itself drops it. */
static int drop_unused(graft_self *self, sqlite3 *db)
{
    const char *column = notes_schema.unused;
    if (!column || !has_column(db, column))
        return 0;
    if (ask(db, "SELECT count(*) FROM serves WHERE version = ?1", notes_schema.version) != 1)
        return graft_fail(self,
                          "another version than %s serves, and may use the column %s: take "
                          "\"drop\" out of the configuration, deploy, then drop",
                          notes_schema.version, column);
    if (alter(db, "DROP COLUMN", column) != SQLITE_OK)
        return graft_fail(self, "cannot drop the column %s: %s", column, sqlite3_errmsg(db));
    graft_log(self, GRAFT_INFO, "the column %s is dropped", column);
    return 0;
}

/* On the pool: filled is this function's alone. What serves meanwhile writes both forms, so that
   what is filled stays filled. */
static void backfill(void *state)
{
    struct notes *n = state;
    struct conn *c = n->filled ? NULL : conn_take(n);
    if (!c)
        return;
    if (sqlite3_exec(c->db, notes_schema.backfill, NULL, NULL, NULL) != SQLITE_OK) {
        graft_log(n->self, GRAFT_WARN, "backfill: %s", sqlite3_errmsg(c->db));
    } else if (sqlite3_changes(c->db) == 0) {
        n->filled = true;
        graft_log(n->self, GRAFT_INFO, "backfill: no note is left");
    }
    conn_give(n, c);
}

/* ---- Life ---- */

static int open_first(graft_self *self, struct notes *n)
{
    char *why = NULL;
    struct conn *c = conn_open(n->path, &why);
    if (!c) {
        graft_fail(self, "%s", why ? why : "no memory");
        sqlite3_free(why);
        return -1;
    }
    n->idle = c;
    if (shape(c->db) != SQLITE_OK)
        return graft_fail(self, "%s: %s", n->path, sqlite3_errmsg(c->db));
    if (conn_prepare(c) != 0)
        return graft_fail(self, "%s: %s: deploy the version before %s first", n->path,
                          sqlite3_errmsg(c->db), notes_schema.version);
    return graft_config_bool(self, "drop", false) ? drop_unused(self, c->db) : 0;
}

static void notes_free(struct notes *n)
{
    for (struct conn *c = n->idle, *next; c; c = next) {
        next = c->next;
        conn_close(c);
    }
    pthread_mutex_destroy(&n->lock);
    free(n);
}

int notes_init(graft_self *self, void **state)
{
    struct notes *n = calloc(1, sizeof *n);
    if (!n)
        return graft_fail(self, "no memory");
    n->self = self;
    n->path = graft_config_str(self, "db", "/var/lib/notes/notes.db");
    pthread_mutex_init(&n->lock, NULL);
    if (open_first(self, n) == 0 &&
        (!notes_schema.backfill || graft_every(self, BACKFILL_MS, backfill, n) == 0)) {
        *state = n;
        return 0;
    }
    notes_free(n);
    return -1;
}

/* The gate: a version that cannot read every note is not fit to serve. */
int notes_ready(graft_self *self, void *state)
{
    struct notes *n = state;
    sqlite3_int64 unfit = notes_schema.unfit ? ask(n->idle->db, notes_schema.unfit, NULL) : 0;
    if (unfit != 0)
        return graft_fail(self,
                          "%lld notes are not in the form that %s reads: let the version before it "
                          "serve until it says that no note is left",
                          (long long)unfit, notes_schema.version);
    return 0;
}

int notes_start(graft_self *self, void *state)
{
    struct notes *n = state;
    char *sql =
        sqlite3_mprintf("INSERT OR REPLACE INTO serves VALUES (1, %Q)", notes_schema.version);
    int rc = sql ? sqlite3_exec(n->idle->db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    return rc == SQLITE_OK ? 0 : graft_fail(self, "%s: %s", n->path, sqlite3_errmsg(n->idle->db));
}

/* Every job is over: each connection has come back. */
void notes_fini(graft_self *self, void *state)
{
    (void)self;
    notes_free(state);
}
