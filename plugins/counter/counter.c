/*
 * counter: middleware that counts requests per path, and loses none in a swap. It shows both ways
 * of handing state on:
 *
 *   a shared block (graft_shared): a fixed table of paths and counts, counted with C11 atomics; the
 *     next version, or the process after a crash, finds it as it is
 *   exported state (export_state, import_state): a map of what has no fixed layout: the last answer
 *     to each path, in a list that grows
 *
 * GET /counter answers with both as JSON, GET /counter?format=text as lines. Configuration: none.
 * To count, it must be named in "middleware"; alone it only answers.
 */
#include <graft/graft.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLACES   8   /* slots that a path may have */
#define SLOTS    256 /* paths that are told apart; all others are counted together */
#define PATH_MAX_ 56
#define SCHEMA   1
#define LAST_MAX 256

/* slot.taken */
#define FREE  0u
#define NAMED 2u
#define BY(pid) ((uint32_t)(pid) << 2 | 1u) /* being named by that process */

/* A slot is claimed by its `taken`, then named. Who claims it leaves its process there, because a
   process may crash in between: then nothing has been counted in the slot, and the next process
   frees it. */
struct slot {
    _Atomic uint32_t taken; /* FREE, BY a process, NAMED */
    char path[PATH_MAX_ + 4];
    _Atomic uint64_t count;
};

/* No pointers, no locks: it outlives this version, and perhaps this process. */
struct block {
    _Atomic uint64_t total, other;
    struct slot slots[SLOTS];
};

struct last {
    struct last *next;
    int status;
    char path[PATH_MAX_ + 4];
};

struct counter {
    struct block *block;
    pthread_mutex_t lock;
    struct last *last; /* protected by lock, as `nlast` */
    unsigned nlast;
};

/* ---- The shared block ------------------------------------------------------------------------ */

static uint32_t hash(const char *text)
{
    uint32_t h = 2166136261u;
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 16777619u;
    return h;
}

/* Longer paths are counted by how they begin; what is not printable is '?'. */
static void copy_path(char to[PATH_MAX_ + 4], graft_str path)
{
    size_t len = path.len < PATH_MAX_ ? path.len : PATH_MAX_;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)path.ptr[i];
        to[i] = c < 0x21 || c > 0x7e || c == '"' || c == '\\' ? '?' : (char)c;
    }
    memcpy(to + len, path.len > PATH_MAX_ ? "..." : "", path.len > PATH_MAX_ ? 4 : 1);
}

static bool is_named(const struct slot *s)
{
    return atomic_load_explicit(&s->taken, memory_order_acquire) == NAMED;
}

/* True: it was free, and is this path's slot from now on. */
static bool claim(struct slot *s, const char *path)
{
    uint32_t free_slot = FREE;
    if (!atomic_compare_exchange_strong(&s->taken, &free_slot, BY(getpid())))
        return false;
    memcpy(s->path, path, strlen(path) + 1);
    atomic_store_explicit(&s->taken, NAMED, memory_order_release);
    return true;
}

/* Another worker may be naming a slot right now, perhaps with the same path: then there are two
   slots of that name, and both are told. Nothing is lost. NULL: all are taken. */
static struct slot *slot_of(struct block *b, const char *path)
{
    uint32_t at = hash(path);
    for (unsigned i = 0; i < PLACES; i++) {
        struct slot *s = &b->slots[(at + i) % SLOTS];
        if (is_named(s) && strcmp(s->path, path) == 0)
            return s;
    }
    for (unsigned i = 0; i < PLACES; i++)
        if (claim(&b->slots[(at + i) % SLOTS], path))
            return &b->slots[(at + i) % SLOTS];
    return NULL;
}

static void count(struct block *b, const char *path)
{
    struct slot *s = slot_of(b, path);
    atomic_fetch_add_explicit(&b->total, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(s ? &s->count : &b->other, 1, memory_order_relaxed);
}

/* Slots whose process is gone. One whose number another process has by now stays taken: that loses
   a place, never a count. Other versions of this plugin may count meanwhile; they are alive. */
static void free_dead(struct block *b)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        uint32_t who = atomic_load_explicit(&b->slots[i].taken, memory_order_relaxed);
        if ((who & 3) == 1 && who != BY(0) && kill((pid_t)(who >> 2), 0) != 0 && errno == ESRCH)
            atomic_compare_exchange_strong(&b->slots[i].taken, &who, FREE);
    }
}

/* ---- The map --------------------------------------------------------------------------------- */

/* With the lock. NULL: no memory, or there are too many. */
static struct last *last_of(struct counter *c, const char *path)
{
    struct last *l = c->last;
    while (l && strcmp(l->path, path) != 0)
        l = l->next;
    if (l || c->nlast == LAST_MAX || !(l = calloc(1, sizeof *l)))
        return l;
    memcpy(l->path, path, strlen(path) + 1);
    l->next = c->last;
    c->last = l;
    c->nlast++;
    return l;
}

static void note(struct counter *c, const char *path, int status)
{
    pthread_mutex_lock(&c->lock);
    struct last *l = last_of(c, path);
    if (l)
        l->status = status;
    pthread_mutex_unlock(&c->lock);
}

/* A line for each: "STATUS PATH". None of our requests runs now, but a swap may still fail: the
   state stays as it is. */
static int export_state(graft_self *self, void *state, graft_buf *out)
{
    struct counter *c = state;
    char line[PATH_MAX_ + 32];
    for (const struct last *l = c->last; l; l = l->next) {
        int len = snprintf(line, sizeof line, "%d %s\n", l->status, l->path);
        if (graft_buf_add(out, line, (size_t)len) != 0)
            return graft_fail(self, "no memory for %u paths", c->nlast);
    }
    return 0;
}

static int import_state(graft_self *self, void *state, uint32_t schema, graft_str data)
{
    struct counter *c = state;
    if (schema != SCHEMA)
        return graft_fail(self, "the old version exports schema %u, expected %d", schema, SCHEMA);
    const char *at = data.ptr, *end = data.ptr + data.len;
    while (at < end) {
        char line[PATH_MAX_ + 32], path[PATH_MAX_ + 4];
        int status;
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = stop ? (size_t)(stop - at) : sizeof line;
        if (len >= sizeof line)
            return graft_fail(self, "a line of the old version's state has no end");
        memcpy(line, at, len);
        line[len] = '\0';
        if (sscanf(line, "%d %59s", &status, path) != 2)
            return graft_fail(self, "bad line in the old version's state: \"%s\"", line);
        note(c, path, status);
        at = stop + 1;
    }
    return 0;
}

/* ---- Life ------------------------------------------------------------------------------------- */

static int init(graft_self *self, void **state)
{
    struct counter *c = calloc(1, sizeof *c);
    if (!c)
        return graft_fail(self, "no memory");
    c->block = graft_shared(self, "paths", sizeof *c->block, SCHEMA, NULL);
    if (!c->block) {
        free(c);
        return graft_fail(self, "no memory for the shared block");
    }
    free_dead(c->block);
    pthread_mutex_init(&c->lock, NULL);
    *state = c;
    return 0;
}

static void fini(graft_self *self, void *state)
{
    (void)self;
    struct counter *c = state;
    while (c->last) {
        struct last *l = c->last;
        c->last = l->next;
        free(l);
    }
    pthread_mutex_destroy(&c->lock);
    free(c); /* the block is the server's */
}

/* ---- Requests ---------------------------------------------------------------------------------- */

/* Before the answer leaves, so that whoever has been answered has been counted. */
static graft_next on_response(graft_req *req, void *state)
{
    struct counter *c = state;
    char path[PATH_MAX_ + 4];
    copy_path(path, graft_path(req));
    count(c->block, path);
    note(c, path, graft_response_status(req));
    return GRAFT_NEXT;
}

static unsigned long long get(const _Atomic uint64_t *n)
{
    return (unsigned long long)atomic_load_explicit(n, memory_order_relaxed);
}

static void tell_text(graft_req *req, struct counter *c)
{
    graft_set_header(req, "Content-Type", "text/plain; charset=utf-8");
    graft_printf(req, "%llu total\n%llu other\n", get(&c->block->total), get(&c->block->other));
    for (unsigned i = 0; i < SLOTS; i++)
        if (is_named(&c->block->slots[i]))
            graft_printf(req, "%llu %s\n", get(&c->block->slots[i].count),
                         c->block->slots[i].path);
}

static void tell_json(graft_req *req, struct counter *c)
{
    const char *comma = "";
    graft_set_header(req, "Content-Type", "application/json");
    graft_printf(req, "{\"total\":%llu,\"other\":%llu,\"paths\":[", get(&c->block->total),
                 get(&c->block->other));
    for (unsigned i = 0; i < SLOTS; i++) {
        if (!is_named(&c->block->slots[i]))
            continue;
        graft_printf(req, "%s{\"path\":\"%s\",\"count\":%llu}", comma, c->block->slots[i].path,
                     get(&c->block->slots[i].count));
        comma = ",";
    }
    comma = "";
    graft_printf(req, "],\"last\":{");
    pthread_mutex_lock(&c->lock);
    for (const struct last *l = c->last; l; l = l->next, comma = ",")
        graft_printf(req, "%s\"%s\":%d", comma, l->path, l->status);
    pthread_mutex_unlock(&c->lock);
    graft_printf(req, "}}\n");
}

static graft_next tell(graft_req *req, void *state)
{
    graft_str format = graft_query(req, "format");
    if (format.len == 4 && memcmp(format.ptr, "text", 4) == 0)
        tell_text(req, state);
    else
        tell_json(req, state);
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name         = "counter",
    .version      = "1.0.0",
    .summary      = "Counts requests per path, and loses none in a swap.",
    .init         = init,
    .fini         = fini,
    .routes       = (const graft_route[]){ { "GET", "/counter", tell, 0 }, { 0 } },
    .on_response  = on_response,
    .state_schema = SCHEMA,
    .export_state = export_state,
    .import_state = import_state,
)
