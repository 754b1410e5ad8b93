/*
 * The supervisor becomes the new program in place: the same process, for whoever watches it (as
 * PID 1, systemd). What it holds goes through sealed memory: its descriptors by their numbers,
 * which stay open across exec, and plain values; nothing in it is a pointer. The program that takes
 * it has said before, by the process that serves already, that it knows this form (STATE_VERSION).
 */
#include "run/notify.h"
#include "run/supervisor_private.h"

#include "base/clock.h"
#include "base/memfd.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define STATE_MAGIC 0x67727375u
#define STATE_MAX   (64u << 20)

/* Each part is a struct of these, written as it is: the shape is STATE_VERSION's. */
struct saved_child {
    int32_t pid, wire, area_fd;
    uint32_t ready, leaving, told;
    uint64_t started_ms, first_seq;
    char version[64];
};

struct saved_old {
    struct saved_child child;
    uint64_t until_ms, last_seq;
};

struct saved_listener {
    int32_t fd, kind, worker;
    uint32_t handed_over;
    uint64_t dev, ino;
    char path[WIRE_SOCKET_PATH], name[128], asked[272];
};

struct saved_listeners {
    uint32_t n, passed; /* n saved_listener follow */
};

struct saved_block {
    struct shared_key key;
    int32_t fd;
};

struct saved {
    uint32_t magic, version;
    uint64_t size;
    int32_t pid;
    uint32_t workers;
    int32_t exe, config_fd, proven_fd, log_fd, control_fd;
    char control_path[WIRE_SOCKET_PATH];
    uint64_t control_dev, control_ino;
    uint32_t control_made, control_shared;
    int32_t stage_root, stage_dir, stage_lock, state_lock;
    char stage_name[64], stage_path[PATH_MAX];
    uint32_t starts, in_row, after_crash, blocks;
    uint64_t seq;
    uint64_t stop_first_ms;
    struct wire_crashed crashed;
    struct saved_child child, dying[DYING_MAX];
    struct saved_old old[OLD_MAX]; /* the listeners of each follow those that serve */
    struct saved_listener ops;
    char path[PATH_MAX], program[PATH_MAX];
    struct user user;
    uint32_t root; /* its rights are kept */
    /* The upgrade that this is the end of. */
    int32_t up_old_pid, up_new_pid, err_fd;
    uint64_t up_began_ms;
    char up_old_version[64], up_new_version[64], up_note[256];
};

/* ---- Saving ---------------------------------------------------------------------------------- */

struct writer {
    struct buf text;
    int *fds; /* all that must stay open */
    size_t nfds, room;
    bool failed;
};

static int32_t keep(struct writer *w, int fd)
{
    if (fd < 0 || w->failed)
        return -1;
    if (w->nfds == w->room) {
        size_t room = w->room > 0 ? w->room * 2 : 64;
        int *more = realloc(w->fds, room * sizeof *more);
        if (more == NULL) {
            w->failed = true;
            return -1;
        }
        w->fds = more;
        w->room = room;
    }
    w->fds[w->nfds++] = fd;
    return fd;
}

static void put(struct writer *w, const void *what, size_t size)
{
    if (buf_add(&w->text, what, size) != 0)
        w->failed = true;
}

static struct saved_child save_child(struct writer *w, const struct child *c)
{
    struct saved_child s = { .pid = c->pid, .wire = -1, .area_fd = -1 };
    if (c->pid == 0)
        return s;
    s = (struct saved_child){ .pid = c->pid,
                              .wire = keep(w, c->wire),
                              .area_fd = keep(w, c->area_fd),
                              .ready = c->ready,
                              .leaving = c->leaving,
                              .told = c->told,
                              .started_ms = c->started_ms,
                              .first_seq = c->first_seq };
    memcpy(s.version, c->version, sizeof s.version);
    return s;
}

static struct saved_listener save_listener(struct writer *w, const struct listener *l)
{
    struct saved_listener s = { .fd = keep(w, l->fd),
                                .kind = (int32_t)l->kind,
                                .worker = l->worker,
                                .handed_over = l->handed_over,
                                .dev = l->dev,
                                .ino = l->ino };
    snprintf(s.path, sizeof s.path, "%s", l->path != NULL ? l->path : "");
    snprintf(s.name, sizeof s.name, "%s", l->name);
    snprintf(s.asked, sizeof s.asked, "%s", l->asked);
    return s;
}

static void put_listeners(struct writer *w, const struct listeners *ls)
{
    struct saved_listeners head = { ls->n, ls->passed };
    put(w, &head, sizeof head);
    for (unsigned i = 0; i < ls->n; i++) {
        struct saved_listener s = save_listener(w, &ls->all[i]);
        put(w, &s, sizeof s);
    }
}

static void save_held(struct writer *w, const struct supervisor *sv, struct saved *s)
{
    const struct server *held = &sv->held;
    s->workers = held->nworkers;
    s->exe = keep(w, sv->exe);
    s->config_fd = keep(w, sv->config_fd);
    s->proven_fd = keep(w, sv->proven_fd);
    s->log_fd = keep(w, log_descriptor());
    s->control_fd = keep(w, held->control.fd);
    snprintf(s->control_path, sizeof s->control_path, "%s", held->control.path);
    s->control_dev = held->control.dev;
    s->control_ino = held->control.ino;
    s->control_made = held->control.made_folder;
    s->control_shared = held->control.shared;
    s->stage_root = keep(w, stage_root_fd(held->stage));
    s->stage_dir = keep(w, stage_dir_fd(held->stage));
    s->state_lock = keep(w, held->state_lock);
    s->stage_lock = keep(w, stage_lock_fd(held->stage));
    snprintf(s->stage_name, sizeof s->stage_name, "%s", stage_name(held->stage));
    snprintf(s->stage_path, sizeof s->stage_path, "%s", stage_path(held->stage));
    s->ops = save_listener(w, &held->ops_listener);
}

static void save_upgrade(struct writer *w, const struct supervisor_upgrade *up, struct saved *s)
{
    s->up_old_pid = up->old_pid;
    s->up_new_pid = up->new_pid;
    s->err_fd = keep(w, up->err_fd);
    s->up_began_ms = up->began_ms;
    memcpy(s->up_old_version, up->old_version, sizeof s->up_old_version);
    memcpy(s->up_new_version, up->new_version, sizeof s->up_new_version);
    memcpy(s->up_note, up->note, sizeof s->up_note);
}

static void save(struct writer *w, const struct supervisor *sv)
{
    struct saved *s = calloc(1, sizeof *s);
    if (s == NULL) {
        w->failed = true;
        return;
    }
    *s = (struct saved){ .magic = STATE_MAGIC,
                         .version = STATE_VERSION,
                         .size = sizeof *s,
                         .pid = getpid(),
                         .starts = sv->starts,
                         .in_row = sv->in_row,
                         .after_crash = sv->after_crash,
                         .blocks = (uint32_t)sv->blocks.n,
                         .seq = sv->seq,
                         .stop_first_ms = sv->stop.first_ms,
                         .crashed = sv->crashed };
    memcpy(s->path, sv->path, sizeof s->path);
    memcpy(s->program, sv->program, sizeof s->program);
    s->user = sv->held.user;
    s->root = root_is_kept();
    save_held(w, sv, s);
    save_upgrade(w, &sv->up, s);
    s->child = save_child(w, &sv->child);
    for (size_t i = 0; i < DYING_MAX; i++)
        s->dying[i] = save_child(w, &sv->dying[i]);
    for (size_t i = 0; i < OLD_MAX; i++)
        s->old[i] = (struct saved_old){ save_child(w, &sv->old[i].child), sv->old[i].until_ms,
                                        sv->old[i].last_seq };
    put(w, s, sizeof *s);
    free(s);
    put_listeners(w, sv->held.listeners);
    for (size_t i = 0; i < OLD_MAX; i++)
        if (sv->old[i].child.pid != 0)
            put_listeners(w, sv->old[i].listeners);
    for (size_t i = 0; i < sv->blocks.n; i++) {
        struct saved_block b = { sv->blocks.all[i].key, keep(w, sv->blocks.all[i].fd) };
        put(w, &b, sizeof b);
    }
}

static void set_inherited(const struct writer *w, bool on)
{
    for (size_t i = 0; i < w->nfds; i++)
        fcntl(w->fds[i], F_SETFD, on ? 0 : FD_CLOEXEC);
}

static void become(struct supervisor *sv, struct writer *w, int state)
{
    char number[16];
    snprintf(number, sizeof number, "%d", state);
    if (setenv(STATE_VARIABLE, number, 1) != 0)
        return;
    keep(w, state);
    set_inherited(w, true);
    log_flush(100);
    notify_hand_on(true);
    root_before_exec();
    fexecve(sv->exe, sv->argv, environ);
    root_after_exec();
    int saved = errno;
    notify_hand_on(false);
    set_inherited(w, false);
    unsetenv(STATE_VARIABLE);
    errno = saved;
}

/* The server process has asked for that program, and may be anybody's by now. */
static int judge_program(const struct supervisor *sv, struct err *err)
{
    if (!root_is_kept())
        return 0;
    if (strcmp(sv->path, sv->program) != 0)
        return err_set(err, "with root's rights it becomes nothing but %s", sv->program);
    if (sv->up.foreign.text[0] != '\0')
        return err_set(err, "it has root's rights, and %s", sv->up.foreign.text);
    return 0;
}

void supervisor_exec(struct supervisor *sv, struct err *err)
{
    struct writer w = { .failed = false };
    if (judge_program(sv, err) != 0)
        return;
    save(&w, sv);
    int state = w.failed ? -1 : memfd_of_text("graft-state", w.text.data, w.text.len, err);
    if (state >= 0) {
        become(sv, &w, state);
        err_set(err, "%s: %s", sv->path, strerror(errno));
        close(state);
    } else if (w.failed) {
        err_set(err, "out of memory");
    }
    buf_fini(&w.text);
    free(w.fds);
}

/* ---- Taking it up ---------------------------------------------------------------------------- */

struct reader {
    const char *at;
    size_t left;
    bool failed;
};

static bool take(struct reader *r, void *out, size_t size)
{
    if (r->failed || r->left < size) {
        r->failed = true;
        return false;
    }
    memcpy(out, r->at, size);
    r->at += size;
    r->left -= size;
    return true;
}

/* Ours again: no program that we start inherits it. */
static int own(struct reader *r, int32_t fd)
{
    if (fd >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        r->failed = true;
    return fd;
}

static void load_child(struct reader *r, const struct saved_child *s, struct child *c)
{
    *c = (struct child){ .wire = -1, .area_fd = -1 };
    if (s->pid <= 0)
        return;
    *c = (struct child){ .pid = s->pid,
                         .wire = own(r, s->wire),
                         .area_fd = own(r, s->area_fd),
                         .ready = s->ready != 0,
                         .leaving = s->leaving != 0,
                         .told = s->told != 0,
                         .started_ms = s->started_ms,
                         .first_seq = s->first_seq };
    snprintf(c->version, sizeof c->version, "%.63s", s->version);
    void *at = mmap(NULL, sizeof *c->area, PROT_READ, MAP_SHARED, c->area_fd, 0);
    if (at == MAP_FAILED)
        r->failed = true;
    else
        c->area = at;
}

static void load_listener(struct reader *r, const struct saved_listener *s, struct listener *l)
{
    *l = (struct listener){ .fd = own(r, s->fd),
                            .kind = s->kind == LISTENER_UNIX ? LISTENER_UNIX : LISTENER_TCP,
                            .worker = s->worker,
                            .handed_over = s->handed_over != 0,
                            .dev = (dev_t)s->dev,
                            .ino = (ino_t)s->ino };
    snprintf(l->name, sizeof l->name, "%.127s", s->name);
    snprintf(l->asked, sizeof l->asked, "%.271s", s->asked);
    if (s->path[0] != '\0') {
        char path[WIRE_SOCKET_PATH];
        snprintf(path, sizeof path, "%.107s", s->path);
        l->path = xstrdup(path);
    }
}

static struct listeners *load_listeners(struct reader *r)
{
    struct saved_listeners head = { 0 };
    struct saved_listener s;
    struct listeners *ls = xcalloc(1, sizeof *ls);
    if (!take(r, &head, sizeof head) || head.n > r->left / sizeof s) {
        r->failed = true;
        return ls;
    }
    ls->passed = head.passed != 0;
    ls->all = xcalloc(head.n > 0 ? head.n : 1, sizeof *ls->all);
    while (ls->n < head.n && take(r, &s, sizeof s))
        load_listener(r, &s, &ls->all[ls->n++]);
    return ls;
}

static void load_held(struct reader *r, const struct saved *s, struct supervisor *sv)
{
    struct server *held = &sv->held;
    held->nworkers = s->workers;
    sv->exe = own(r, s->exe);
    sv->config_fd = own(r, s->config_fd);
    sv->proven_fd = own(r, s->proven_fd);
    held->control.fd = own(r, s->control_fd);
    snprintf(held->control.path, sizeof held->control.path, "%s", s->control_path);
    held->control.dev = (dev_t)s->control_dev;
    held->control.ino = (ino_t)s->control_ino;
    held->control.made_folder = s->control_made != 0;
    held->control.shared = s->control_shared != 0;
    held->state_lock = own(r, s->state_lock);
    load_listener(r, &s->ops, &held->ops_listener);
    held->stage = stage_adopt(own(r, s->stage_root), own(r, s->stage_dir), own(r, s->stage_lock),
                              s->stage_name, s->stage_path);
    r->failed = r->failed || held->stage == NULL;
}

static void load_upgrade(struct reader *r, const struct saved *s, struct supervisor_upgrade *up)
{
    *up = (struct supervisor_upgrade){ .next = { .wire = -1, .area_fd = -1 },
                                       .exe = -1,
                                       .config_fd = -1,
                                       .state_lock = -1,
                                       .err_fd = own(r, s->err_fd),
                                       .old_pid = s->up_old_pid,
                                       .new_pid = s->up_new_pid,
                                       .began_ms = s->up_began_ms };
    memcpy(up->old_version, s->up_old_version, sizeof up->old_version);
    memcpy(up->new_version, s->up_new_version, sizeof up->new_version);
    memcpy(up->note, s->up_note, sizeof up->note);
}

static void load_blocks(struct reader *r, uint32_t n, struct supervisor_blocks *bs)
{
    struct saved_block b;
    for (uint32_t i = 0; i < n && take(r, &b, sizeof b); i++)
        if (!supervisor_add_block(bs, &b.key, own(r, b.fd)))
            r->failed = true;
}

/* Root's rights are put aside before anything else. */
static void load(struct reader *r, struct supervisor *sv, struct saved *s)
{
    struct err ignored;
    if (!take(r, s, sizeof *s) || s->magic != STATE_MAGIC || s->version != STATE_VERSION ||
        s->size != sizeof *s || s->pid != getpid() ||
        (s->root != 0 && root_keep_again(s->user.uid, &ignored) != 0)) {
        r->failed = true;
        return;
    }
    sv->held.user = s->user;
    load_held(r, s, sv);
    load_upgrade(r, s, &sv->up);
    load_child(r, &s->child, &sv->child);
    for (size_t i = 0; i < DYING_MAX; i++)
        load_child(r, &s->dying[i], &sv->dying[i]);
    sv->held.listeners = load_listeners(r);
    for (size_t i = 0; i < OLD_MAX; i++) {
        struct old *old = &sv->old[i];
        load_child(r, &s->old[i].child, &old->child);
        old->until_ms = s->old[i].until_ms;
        old->last_seq = s->old[i].last_seq;
        if (old->child.pid != 0)
            old->listeners = load_listeners(r);
    }
    load_blocks(r, s->blocks, &sv->blocks);
    sv->starts = s->starts;
    sv->in_row = s->in_row;
    sv->after_crash = s->after_crash != 0;
    sv->seq = s->seq;
    sv->stop.first_ms = s->stop_first_ms;
    sv->crashed = s->crashed;
    sv->served = true;
    memcpy(sv->path, s->path, sizeof sv->path);
    memcpy(sv->program, s->program, sizeof sv->program);
}

static int load_config(struct supervisor *sv, int log_fd, struct err *err)
{
    struct buf text = { 0 };
    if (memfd_read(sv->config_fd, CONFIG_FILE_MAX, &text, err) != 0)
        return -1;
    struct config *c = config_load_text(sv->held.options, environ, text.len > 0 ? text.data : NULL,
                                        text.len, false, err);
    buf_fini(&text);
    sv->held.config = c;
    if (c == NULL)
        return -1;
    if (log_fd >= 0)
        log_adopt(log_fd);
    sv->signal_fd = signals_open(err);
    return sv->signal_fd >= 0 ? log_start(&c->log, &sv->log_fd, err) : -1;
}

int supervisor_resume(struct supervisor *sv, struct err *err)
{
    const char *number = getenv(STATE_VARIABLE);
    struct buf text = { 0 };
    struct saved *s;
    uint64_t fd;
    if (number == NULL || str_to_u64(str_of(number), &fd) != 0 || fd > INT_MAX ||
        memfd_read((int)fd, STATE_MAX, &text, err) != 0) {
        unsetenv(STATE_VARIABLE); /* got here by accident */
        return 1;
    }
    unsetenv(STATE_VARIABLE);
    prctl(PR_SET_NAME, "graftd");
    struct reader r = { text.data, text.len, false };
    s = xcalloc(1, sizeof *s);
    load(&r, sv, s);
    int log_fd = r.failed ? -1 : own(&r, s->log_fd);
    free(s);
    buf_fini(&text);
    close((int)fd);
    if (r.failed)
        return err_set(err, "what the supervisor before has handed over is not whole");
    return load_config(sv, log_fd, err);
}

/* As the shell or systemd wrote it: a link there leads to the next version in its time. */
void supervisor_own_path(char out[PATH_MAX])
{
    const char *name = (const char *)(uintptr_t)getauxval(AT_EXECFN);
    char folder[PATH_MAX];
    out[0] = '\0';
    if (name != NULL && name[0] == '/' && strncmp(name, "/dev/fd/", 8) != 0)
        snprintf(out, PATH_MAX, "%s", name);
    else if (name != NULL && strchr(name, '/') != NULL && name[0] != '/' &&
             getcwd(folder, sizeof folder) != NULL &&
             snprintf(out, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        out[0] = '\0';
    if (out[0] != '\0')
        return;
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = '\0';
}
