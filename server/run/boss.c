/* See boss.h. */
#include "run/boss.h"

#include "base/altstack.h"
#include "base/memfd.h"
#include "plugin/proven.h"
#include "run/crash.h"
#include "run/supervisor_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOSS_MAGIC 0x626f7373u
#define TAKE_MS    10000 /* for each message of the start */
#define SAY_MS     1000  /* for room for one of ours */

struct boss {
    unsigned magic;
    int fd; /* -1: the supervisor is gone */
    struct wire_crashed crashed;
    bool after_crash;
    bool stuck; /* it had no room for our last message, for long */
    struct crash_area *area;
    bool standby;
    boss_fn *on_message;
    void *arg;
    unsigned vitals_ms;
};

int boss_from_environment(void)
{
    const char *text = getenv(WIRE_VARIABLE);
    if (text == NULL)
        return -1;
    int fd = wire_inherited(text);
    unsetenv(WIRE_VARIABLE);
    return fd;
}

/* ---- The start ------------------------------------------------------------------------------- */

/* The descriptor that was sent for `which`, the caller's now; -1: none was. */
static int take_fd(struct wire_message *m, enum wire_fd which)
{
    unsigned at = 0;
    for (unsigned i = 0; i < (unsigned)which; i++)
        at += m->body.hello.has >> i & 1u;
    if ((m->body.hello.has >> which & 1u) == 0)
        return -1;
    int fd = m->fds[at];
    m->fds[at] = -1;
    return fd;
}

static void *map_shared(int fd, size_t size, struct err *err)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int saved = errno;
    close(fd);
    if (at != MAP_FAILED)
        return at;
    err_set(err, "cannot map what is shared with the supervisor: %s", strerror(saved));
    return NULL;
}

static int map_area(struct boss *l, int fd, uint64_t seq, struct err *err)
{
    l->area = map_shared(fd, sizeof *l->area, err);
    if (l->area == NULL)
        return -1;
    l->area->magic = CRASH_AREA_MAGIC;
    atomic_store(&l->area->seq, seq);
    stage_count_in(&l->area->seq);
    roster_open(&l->area->roster);
    if (altstack_use(altstack_new()) != 0)
        return err_set(err, "no memory for a stack for signals: %s", strerror(errno));
    crash_install(l->area, l->fd);
    return 0;
}

static int map_proven(int fd, struct err *err)
{
    struct proven_area *at = map_shared(fd, sizeof *at, err);
    proven_open(at);
    verdicts_open(at != NULL ? &at->verdicts : NULL);
    return at != NULL ? 0 : -1;
}

static int take_stage(struct server *s, struct wire_message *m, struct err *err)
{
    int root = take_fd(m, WIRE_FD_STAGE_ROOT), dir = take_fd(m, WIRE_FD_STAGE),
        lock = take_fd(m, WIRE_FD_STAGE_LOCK);
    s->stage = stage_adopt(root, dir, lock, m->body.hello.stage_name, m->body.hello.stage_path);
    return s->stage != NULL ? 0 : err_set(err, "out of memory");
}

static void take_control(struct server *s, struct wire_message *m)
{
    const struct wire_hello *h = &m->body.hello;
    s->control.fd = take_fd(m, WIRE_FD_CONTROL);
    snprintf(s->control.path, sizeof s->control.path, "%s", h->control_path);
    s->control.dev = (dev_t)h->control_dev;
    s->control.ino = (ino_t)h->control_ino;
}

static int take_hello(struct server *s, struct wire_message *m, struct buf *text, bool *has_text,
                      struct err *err)
{
    int config = take_fd(m, WIRE_FD_CONFIG);
    s->nworkers = m->body.hello.workers;
    s->boss->vitals_ms = m->body.hello.vitals_ms;
    int rc = memfd_read(config, CONFIG_FILE_MAX, text, err);
    close(config);
    *has_text = text->len > 0;
    take_control(s, m);
    s->state_lock = take_fd(m, WIRE_FD_STATE_LOCK);
    log_adopt(take_fd(m, WIRE_FD_LOG));
    if (rc == 0)
        rc = map_area(s->boss, take_fd(m, WIRE_FD_AREA), m->body.hello.seq, err);
    if (rc == 0)
        rc = map_proven(take_fd(m, WIRE_FD_PROVEN), err);
    return rc == 0 ? take_stage(s, m, err) : -1;
}

static void to_listener(const struct wire_message *m, struct listener *out)
{
    const struct wire_listener *w = &m->body.listener;
    *out = (struct listener){ .fd = m->fds[0],
                              .kind = w->kind == LISTENER_UNIX ? LISTENER_UNIX : LISTENER_TCP,
                              .worker = w->worker,
                              .handed_over = w->handed_over != 0,
                              .path = w->path[0] != '\0' ? xstrdup(w->path) : NULL,
                              .dev = (dev_t)w->dev,
                              .ino = (ino_t)w->ino };
    snprintf(out->name, sizeof out->name, "%s", w->name);
}

static int take_listener(struct server *s, const struct wire_message *m, unsigned listeners)
{
    struct listeners *ls = s->listeners;
    if (m->type == WIRE_OPS && s->ops_listener.fd < 0)
        to_listener(m, &s->ops_listener);
    else if (m->type == WIRE_LISTENER && ls->n < listeners &&
             m->body.listener.worker < (int)s->nworkers)
        to_listener(m, &ls->all[ls->n++]);
    else
        return -1;
    return 0;
}

static int receive(struct boss *l, struct wire_message *m, struct err *err)
{
    switch (wire_receive(l->fd, m, TAKE_MS)) {
    case WIRE_GOT:
        return 0;
    case WIRE_NOTHING:
        return err_set(err, "the supervisor says nothing");
    case WIRE_END:
        return err_set(err, "the supervisor is gone");
    case WIRE_LOST:
        return err_set(err, "no room for the supervisor's descriptors: too many open files");
    case WIRE_NONSENSE:
        break;
    case WIRE_OTHER:
        return err_set(
            err,
            "this graftd speaks version %u of the protocol between supervisor and server "
            "process, the supervisor that started it speaks version %u: restart the "
            "service instead of upgrading it",
            wire_version, wire_peer_version);
    }
    return err_set(err, "the supervisor talks nonsense: was graftd exchanged by another version?");
}

static int take_rest(struct server *s, unsigned listeners, struct err *err)
{
    struct wire_message m;
    s->listeners = xcalloc(1, sizeof *s->listeners);
    s->listeners->all = xcalloc(listeners > 0 ? listeners : 1, sizeof *s->listeners->all);
    for (;;) {
        if (receive(s->boss, &m, err) != 0)
            return -1;
        if (m.type == WIRE_BEGIN && s->listeners->n == listeners)
            return 0;
        if (m.type == WIRE_CRASHED && !s->boss->after_crash) {
            s->boss->crashed = m.body.crashed;
            s->boss->after_crash = true;
            proven_forget(m.body.crashed.sha256); /* it may have been its constructor */
        } else if (m.type == WIRE_SHARED && m.nfds == 1) {
            struct err why;
            if (shared_adopt(&m.body.shared, m.fds[0], &why) != 0)
                log_msg(LOG_WARN, "state", "a shared block is lost: %s", why.text);
        } else if (take_listener(s, &m, listeners) != 0) {
            wire_close_fds(&m);
            return err_set(err, "the supervisor sends what was not announced");
        }
    }
}

int boss_take(struct server *s, int fd, struct buf *text, struct err *err)
{
    struct wire_message m;
    bool has_text = false;
    s->boss = xcalloc(1, sizeof *s->boss);
    s->boss->magic = BOSS_MAGIC;
    s->boss->fd = fd;
    if (receive(s->boss, &m, err) != 0)
        return -1;
    if (m.type != WIRE_HELLO || m.body.hello.listeners > WIRE_WORKERS_MAX * 64u) {
        wire_close_fds(&m);
        return err_set(err, "the supervisor does not begin with what belongs there");
    }
    unsigned listeners = m.body.hello.listeners;
    s->boss->standby = m.body.hello.standby != 0;
    if (take_hello(s, &m, text, &has_text, err) != 0 || take_rest(s, listeners, err) != 0)
        return -1;
    if (!has_text)
        buf_fini(text);
    return 0;
}

/* ---- What comes ------------------------------------------------------------------------------ */

int boss_fd(const struct boss *boss)
{
    return boss != NULL ? boss->fd : -1;
}

bool boss_is_up(const struct boss *boss)
{
    return boss != NULL && boss->fd >= 0;
}

int boss_next(struct boss *boss)
{
    struct wire_message m;
    CHECK(boss, BOSS_MAGIC);
    if (boss->fd < 0)
        return 0;
    for (;;) {
        enum wire_result result = wire_receive(boss->fd, &m, 0);
        if (result == WIRE_NOTHING)
            return 0;
        if (result == WIRE_LOST)
            continue;
        if (result == WIRE_GOT && m.type == WIRE_SIGNAL)
            return m.body.signal.signo;
        if (result != WIRE_GOT)
            break;
        bool known = boss->on_message != NULL && boss->on_message(boss->arg, &m);
        wire_close_fds(&m);
        if (!known)
            break;
    }
    crash_forget_wire();
    close(boss->fd);
    boss->fd = -1;
    return -1;
}

void boss_listen(struct boss *boss, boss_fn *fn, void *arg)
{
    if (boss == NULL)
        return;
    boss->on_message = fn;
    boss->arg = arg;
}

bool boss_is_standby(const struct boss *boss)
{
    return boss != NULL && boss->standby;
}

bool boss_after_crash(const struct boss *boss)
{
    return boss != NULL && boss->after_crash;
}

const struct wire_crashed *boss_crashed(const struct boss *boss)
{
    return boss_after_crash(boss) && boss->crashed.plugin[0] != '\0' ? &boss->crashed : NULL;
}

void boss_log_crashed(const struct boss *boss)
{
    const struct wire_crashed *c = boss != NULL ? &boss->crashed : NULL;
    struct log_line line;
    if (c == NULL || !boss->after_crash)
        return;
    bool known = c->plugin[0] != '\0';
    log_begin(&line, LOG_WARN, "restarted", "started again after a crash%s%s%s%s",
              known ? " in " : "", known ? c->plugin : "", known ? " " : "", known ? c->id : "");
    if (known) {
        log_z(&line, "plugin", c->plugin);
        log_z(&line, "version", c->version);
        log_z(&line, "id", c->id);
        log_z(&line, "sha256", c->sha256);
        log_z(&line, "config_sha256", c->config_sha256);
    }
    log_int(&line, "signal", c->signo);
    log_u64(&line, "in_row", c->in_row);
    log_end(&line);
}

/* ---- What is told ---------------------------------------------------------------------------- */

/* The supervisor may be behind: it reads while it has time. One that does not read at all is not
   waited for at each message. */
static int say(struct boss *l, const struct wire_message *m)
{
    int rc = wire_send(l->fd, m, l->stuck ? 0 : SAY_MS);
    l->stuck = rc != 0 && errno == EAGAIN;
    return rc;
}

static void tell(struct boss *l, const struct wire_message *m)
{
    if (boss_is_up(l) && say(l, m) != 0 && errno != EPIPE)
        log_msg(LOG_WARN, "config", "the supervisor does not take messages: %s", strerror(errno));
}

static void tell_type(struct boss *l, enum wire_type type)
{
    struct wire_message m = { .type = type };
    tell(l, &m);
}

void boss_ready(struct boss *boss)
{
    struct wire_message m = { .type = WIRE_READY, .body.ready.state = STATE_VERSION };
    snprintf(m.body.ready.version, sizeof m.body.ready.version, "%s", GRAFT_VERSION);
    tell(boss, &m);
}

void boss_tell(struct boss *boss, enum wire_type type)
{
    tell_type(boss, type);
}

int boss_ask_upgrade(struct boss *boss, const char *binary, const struct config *c, struct err *err)
{
    struct wire_message m = { .type = WIRE_UPGRADE };
    snprintf(m.body.upgrade.binary, sizeof m.body.upgrade.binary, "%s", binary);
    if (c->text != NULL) {
        m.fds[0] = memfd_of_text("graft-config", c->text, c->text_len, err);
        if (m.fds[0] < 0)
            return -1;
        m.nfds = 1;
    }
    int rc = wire_send(boss->fd, &m, 0);
    if (rc != 0)
        err_set(err, "the supervisor does not take messages: %s", strerror(errno));
    wire_close_fds(&m);
    return rc;
}

void boss_leaving(struct boss *boss)
{
    tell_type(boss, WIRE_LEAVING);
}

unsigned boss_vitals_ms(const struct boss *boss)
{
    return boss->vitals_ms;
}

/* One that has no room is followed by the next. */
void boss_vitals(struct boss *boss, const struct vitals *v)
{
    struct wire_message m = { .type = WIRE_VITALS, .body.vitals = *v };
    if (boss_is_up(boss))
        wire_send(boss->fd, &m, 0);
}

void boss_closing(struct boss *boss, unsigned count)
{
    struct wire_message m = { .type = WIRE_CLOSE, .body.close = { 0, count } };
    tell(boss, &m);
}

/* Under the registry's lock, which only loaders want: a short wait is better than a lost block. */
static void keep_block(void *arg, const struct shared_key *key, int fd)
{
    struct boss *boss = arg;
    struct wire_message m = { .type = WIRE_SHARED, .body.shared = *key, .nfds = fd >= 0 };
    m.fds[0] = fd;
    if (boss_is_up(boss) && say(boss, &m) != 0 && errno != EPIPE)
        log_msg(LOG_WARN, "state", "the shared block %s of %s will not survive a crash: %s",
                key->name, key->plugin, strerror(errno));
}

void boss_keep_blocks(struct boss *boss)
{
    if (boss != NULL)
        shared_keep(keep_block, boss);
}

void boss_reopen(struct boss *boss)
{
    tell_type(boss, WIRE_REOPEN);
}

void boss_config(struct boss *boss, const struct config *c)
{
    struct err err;
    if (!boss_is_up(boss))
        return;
    int fd = memfd_of_text("graft-config", c->text, c->text_len, &err);
    if (fd < 0) {
        log_msg(LOG_WARN, "config",
                "after a crash the configuration before this one would be in "
                "force: %s",
                err.text);
        return;
    }
    struct wire_message m = { .type = WIRE_CONFIG, .fds = { fd }, .nfds = 1 };
    tell(boss, &m);
    close(fd);
}
