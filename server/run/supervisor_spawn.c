/* Starting a server process: memory to share, exec of the program that we are, the handing over. */
#include "run/supervisor_private.h"

#include "base/clock.h"
#include "base/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define HAND_OVER_MS                                                                               \
    5000 /* for all messages: the server reads them first, and nobody else is heard */

/* The environment holds the number of the descriptor; the arguments are ours. Whoever the server
   is, it is that for good. */
_Noreturn static void become_server(const struct supervisor *sv, const struct launch *how, int wire)
{
    struct err err;
    setpgid(0, 0);
    if (how->stderr_fd >= 0)
        dup2(how->stderr_fd, STDERR_FILENO);
    if (root_give_up(how->user, &err) != 0) {
        fprintf(stderr, "graftd: cannot start the server process: %s\n", err.text);
        _exit(1);
    }
    if (fcntl(wire, F_SETFD, 0) == 0)
        fexecve(how->exe, sv->argv, environ);
    fprintf(stderr, "graftd: cannot start the server process: %s\n", strerror(errno));
    _exit(1);
}

static int share_area(struct child *c, struct err *err)
{
    int fd = memfd_shared("graft-crash", sizeof *c->area, err);
    if (fd < 0)
        return -1;
    void *at = mmap(NULL, sizeof *c->area, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        close(fd);
        return err_set(err, "cannot map memory to share: %s", strerror(errno));
    }
    c->area = at;
    c->area_fd = fd;
    return 0;
}

/* ---- Handing over ---------------------------------------------------------------------------- */

static void add_fd(struct wire_message *m, enum wire_fd which, int fd)
{
    if (fd < 0)
        return;
    m->body.hello.has |= 1u << which;
    m->fds[m->nfds++] = fd;
}

static int hello(const struct supervisor *sv, const struct child *c, const struct launch *how,
                 uint64_t until_ms)
{
    const struct server *held = &sv->held;
    struct wire_message m = { .type = WIRE_HELLO };
    struct wire_hello *h = &m.body.hello;
    h->workers = how->workers;
    h->listeners = how->listeners->n;
    h->restarts = sv->starts;
    h->standby = how->standby;
    h->vitals_ms = notify_every_ms();
    h->seq = how->seq;
    snprintf(h->stage_name, sizeof h->stage_name, "%s", stage_name(held->stage));
    snprintf(h->stage_path, sizeof h->stage_path, "%s", stage_path(held->stage));
    snprintf(h->control_path, sizeof h->control_path, "%s", held->control.path);
    h->control_dev = held->control.dev;
    h->control_ino = held->control.ino;
    add_fd(&m, WIRE_FD_AREA, c->area_fd);
    add_fd(&m, WIRE_FD_CONFIG, how->config_fd);
    add_fd(&m, WIRE_FD_STAGE_LOCK, stage_lock_fd(held->stage));
    add_fd(&m, WIRE_FD_STAGE, stage_dir_fd(held->stage));
    add_fd(&m, WIRE_FD_STAGE_ROOT, stage_root_fd(held->stage));
    add_fd(&m, WIRE_FD_PROVEN, sv->proven_fd);
    add_fd(&m, WIRE_FD_CONTROL, held->control.fd);
    int log = log_descriptor(); /* its stderr may not be ours yet */
    add_fd(&m, WIRE_FD_LOG, log < 0 && how->stderr_fd >= 0 ? STDERR_FILENO : log);
    add_fd(&m, WIRE_FD_STATE_LOCK, how->state_lock);
    return wire_send_until(c->wire, &m, until_ms);
}

static int hand_listener(const struct listener *l, enum wire_type type, int wire, uint64_t until_ms)
{
    struct wire_message m = { .type = type, .fds = { l->fd }, .nfds = 1 };
    struct wire_listener *w = &m.body.listener;
    w->kind = (int32_t)l->kind;
    w->worker = l->worker;
    w->handed_over = l->handed_over;
    w->dev = l->dev;
    w->ino = l->ino;
    snprintf(w->path, sizeof w->path, "%s", l->path != NULL ? l->path : "");
    snprintf(w->name, sizeof w->name, "%s", l->name);
    return wire_send_until(wire, &m, until_ms);
}

static int hand_over(const struct supervisor *sv, const struct child *c, const struct launch *how)
{
    const struct listeners *ls = how->listeners;
    const struct listener *ops = &sv->held.ops_listener;
    struct wire_message crashed = { .type = WIRE_CRASHED, .body.crashed = sv->crashed };
    struct wire_message begin = { .type = WIRE_BEGIN };
    uint64_t until_ms = clock_ms() + HAND_OVER_MS;
    int wire = c->wire;
    if (hello(sv, c, how, until_ms) != 0)
        return -1;
    if (sv->after_crash && !how->standby && wire_send_until(wire, &crashed, until_ms) != 0)
        return -1;
    if (supervisor_hand_blocks(how->blocks, wire, until_ms) != 0)
        return -1;
    if (ops->fd >= 0 && hand_listener(ops, WIRE_OPS, wire, until_ms) != 0)
        return -1;
    for (unsigned i = 0; i < ls->n; i++) {
        listener_welcome(&ls->all[i]);
        if (hand_listener(&ls->all[i], WIRE_LISTENER, wire, until_ms) != 0)
            return -1;
    }
    return wire_send_until(wire, &begin, until_ms);
}

/* ---- Starting -------------------------------------------------------------------------------- */

static pid_t fork_server(const struct supervisor *sv, const struct launch *how, const int wire[2])
{
    char number[16];
    snprintf(number, sizeof number, "%d", wire[1]);
    if (setenv(WIRE_VARIABLE, number, 1) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        become_server(sv, how, wire[1]);
    int saved = errno;
    unsetenv(WIRE_VARIABLE);
    errno = saved;
    return pid;
}

static int start(struct supervisor *sv, struct child *c, const struct launch *how, int wire[2],
                 struct err *err)
{
    c->pid = fork_server(sv, how, wire);
    close(wire[1]);
    if (c->pid < 0) {
        c->pid = 0;
        close(wire[0]);
        return err_set(err, "cannot start the server process: %s", strerror(errno));
    }
    setpgid(c->pid, c->pid); /* whoever of us is first: no signal to our group may reach it */
    c->wire = wire[0];
    c->started_ms = clock_ms();
    c->first_seq = how->seq;
    /* Should it fail, then because the process has ended: that we learn in any case. Else it does
       not read, and must end. */
    if (hand_over(sv, c, how) != 0 && errno != EPIPE)
        root_kill(c->pid, SIGKILL);
    sv->starts++;
    return 0;
}

int supervisor_spawn(struct supervisor *sv, struct child *c, const struct launch *how,
                     struct err *err)
{
    struct err
        ignored; /* of a folder that cannot be made again, the server's next copy will tell */
    int wire[2];
    *c = (struct child){ .wire = -1, .area_fd = -1 };
    if (how->user == NULL || how->user->uid == geteuid()) /* else it is that user's already */
        stage_renew(sv->held.stage, &ignored);
    int rc = share_area(c, err);
    if (rc == 0)
        rc = wire_open(wire, err);
    if (rc == 0)
        rc = start(sv, c, how, wire, err);
    if (rc != 0)
        supervisor_forget(c);
    return rc;
}

void supervisor_forget(struct child *c)
{
    if (c->wire >= 0)
        close(c->wire);
    if (c->area != NULL)
        munmap(c->area, sizeof *c->area);
    if (c->area_fd >= 0)
        close(c->area_fd);
    *c = (struct child){ .wire = -1, .area_fd = -1 };
}
