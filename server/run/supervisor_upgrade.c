/*
 * graftctl upgrade, the supervisor's part: a second server process beside the one that serves, on
 * the same sockets. Up to the moment in which it is told to serve everything can be taken back;
 * from then on it is the child, and the other one drains.
 *
 *   OFF -> STARTING -> YIELDING -> SERVING -> OVER -> OFF
 *            |  UPGRADE   | READY     | YIELDED  | SERVING, or it crashed
 *            '-> FAILED <-'           (the other one is `old` from here on)
 */
#include "run/supervisor_private.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define YIELD_MS     5000  /* then the other one stands still: it loses what it did not give up */
#define SERVE_MS     5000  /* and then it is the watchdog's */
#define OLD_EXTRA_MS 10000 /* from the end of a drain to SIGKILL */
#define RELAY_MAX    4096  /* PIPE_BUF: a pipe with room takes that much at once */

/* ---- Answers --------------------------------------------------------------------------------- */

static void answer(const struct supervisor *sv, pid_t pid, const struct wire_message *m)
{
    const struct child *c = &sv->child;
    for (size_t i = 0; c->pid != pid && i < OLD_MAX; i++)
        if (sv->old[i].child.pid == pid)
            c = &sv->old[i].child;
    if (c->pid == pid && c->wire >= 0 && wire_send(c->wire, m, 0) != 0)
        log_msg(LOG_WARN, "upgrade", "process %d does not take the answer: %s", (int)pid,
                strerror(errno));
}

static void refuse(struct supervisor *sv, const char *error, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
static void refuse(struct supervisor *sv, const char *error, const char *fmt, ...)
{
    struct wire_message m = { .type = WIRE_UPGRADED };
    struct wire_upgraded *u = &m.body.upgraded;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(u->reason, sizeof u->reason, fmt, ap);
    va_end(ap);
    snprintf(u->error, sizeof u->error, "%s", error);
    answer(sv, sv->up.phase == UP_OFF ? sv->child.pid : sv->up.old_pid, &m);
}

void supervisor_upgrade_answer(struct supervisor *sv)
{
    struct supervisor_upgrade *up = &sv->up;
    struct wire_message m = { .type = WIRE_UPGRADED };
    struct wire_upgraded *u = &m.body.upgraded;
    u->over = 1;
    u->old_pid = up->old_pid;
    u->new_pid = up->new_pid;
    u->ms = clock_ms() - up->began_ms;
    memcpy(u->old_version, up->old_version, sizeof u->old_version);
    memcpy(u->new_version, up->new_version, sizeof u->new_version);
    memcpy(u->note, up->note, sizeof u->note);
    struct log_line line;
    log_begin(&line, LOG_INFO, "upgrade", "process %d (graftd %s) serves instead of %d (graftd %s)",
              (int)up->new_pid, up->new_version, (int)up->old_pid, up->old_version);
    log_bool(&line, "ok", true);
    log_int(&line, "old_pid", up->old_pid);
    log_int(&line, "new_pid", up->new_pid);
    log_z(&line, "old_version", up->old_version);
    log_z(&line, "new_version", up->new_version);
    log_u64(&line, "duration_us", u->ms * 1000);
    log_end(&line);
    answer(sv, up->old_pid, &m);
    up->phase = UP_OFF;
}

/* ---- What it says to stderr ------------------------------------------------------------------ */

static void keep_said(struct supervisor_upgrade *up, const char *text, size_t n)
{
    size_t room = sizeof up->said - 1;
    if (n > room) {
        text += n - room;
        n = room;
    }
    if (up->nsaid + n > room) {
        size_t drop = up->nsaid + n - room;
        memmove(up->said, up->said + drop, up->nsaid - drop);
        up->nsaid -= drop;
    }
    memcpy(up->said + up->nsaid, text, n);
    up->nsaid += n;
    up->said[up->nsaid] = '\0';
}

static void relay(const char *text, size_t n)
{
    struct pollfd room = { .fd = STDERR_FILENO, .events = POLLOUT };
    if (poll(&room, 1, 0) == 1 && (room.revents & POLLOUT) != 0)
        (void)!write(STDERR_FILENO, text, n);
}

void supervisor_upgrade_read(struct supervisor *sv)
{
    struct supervisor_upgrade *up = &sv->up;
    char text[RELAY_MAX];
    for (int i = 0; i < 16 && up->err_fd >= 0; i++) {
        ssize_t n = read(up->err_fd, text, sizeof text);
        if (n < 0)
            return;
        if (n == 0) {
            close(up->err_fd);
            up->err_fd = -1;
            return;
        }
        keep_said(up, text, (size_t)n);
        relay(text, (size_t)n);
    }
}

/* The last lines, as one sentence: control characters become blanks. */
static const char *last_words(struct supervisor_upgrade *up)
{
    size_t at = 0;
    for (unsigned lines = 0, i = (unsigned)up->nsaid; i > 0 && lines < 5; i--)
        if (up->said[i - 1] == '\n' && i < up->nsaid && ++lines == 5)
            at = i;
    for (size_t i = at; i < up->nsaid; i++)
        if ((unsigned char)up->said[i] < ' ')
            up->said[i] = ' ';
    while (up->nsaid > at && up->said[up->nsaid - 1] == ' ')
        up->said[--up->nsaid] = '\0';
    return up->said + at;
}

/* ---- Giving up ------------------------------------------------------------------------------- */

void supervisor_upgrade_fail(struct supervisor *sv, const char *why)
{
    struct supervisor_upgrade *up = &sv->up;
    if (up->phase == UP_SERVING) /* the new one is what crashed or is to end: it did take over */
        up->phase = UP_OVER;
    if (up->phase != UP_STARTING && up->phase != UP_YIELDING)
        return;
    supervisor_upgrade_read(sv);
    const char *said = last_words(up);
    log_msg(LOG_ERROR, "upgrade", "not upgraded, nothing was changed: %s%s%s", why,
            said[0] != '\0' ? ": " : "", said);
    refuse(sv, "failed", "%s%s%s", why, said[0] != '\0' ? ": " : "", said);
    supervisor_unprepare(sv);
    up->phase = up->next.pid != 0 ? UP_FAILED : UP_OFF;
    if (up->next.pid != 0)
        root_kill(up->next.pid, SIGKILL);
}

static void describe_end(struct supervisor *sv, int status, char out[512])
{
    const struct child *c = &sv->up.next;
    const struct crash_frame *f = &c->area->frame;
    bool recorded = atomic_load(&c->area->state) == CRASH_WHOLE;
    if (WIFSIGNALED(status))
        snprintf(out, 512, "the new process crashed (signal %d)%s%.64s%s%.32s before it was ready",
                 WTERMSIG(status), recorded && f->plugin[0] != '\0' ? " in plugin " : "",
                 recorded ? f->plugin : "", recorded && f->callback[0] != '\0' ? ", " : "",
                 recorded ? f->callback : "");
    else
        snprintf(out, 512, "the new process ended with exit status %d before it was ready",
                 WEXITSTATUS(status));
}

bool supervisor_upgrade_ended(struct supervisor *sv, pid_t pid, int status)
{
    struct supervisor_upgrade *up = &sv->up;
    struct child *c = &up->next;
    char why[512];
    if (c->pid == 0 || c->pid != pid)
        return false;
    bool told = up->phase == UP_FAILED;
    if (!told) {
        describe_end(sv, status, why);
        if (WIFSIGNALED(status))
            supervisor_crash(sv, c, status);
    }
    uint64_t first = c->first_seq, last = supervisor_last_seq(c);
    c->pid = 0;
    if (!told)
        supervisor_upgrade_fail(sv, why);
    supervisor_forget(c);
    supervisor_sweep(sv, first, last);
    if (last > sv->seq)
        sv->seq = last;
    supervisor_upgrade_read(sv);
    if (up->err_fd >= 0)
        close(up->err_fd);
    up->err_fd = -1;
    up->phase = UP_OFF;
    return true;
}

/* ---- Beginning ------------------------------------------------------------------------------- */

static int start(struct supervisor *sv, struct err *err)
{
    struct supervisor_upgrade *up = &sv->up;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_set(err, "cannot make a pipe: %s", strerror(errno));
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    uint64_t seq = supervisor_last_seq(&sv->child);
    const struct launch how = { .exe = up->exe,
                                .config_fd = up->config_fd,
                                .state_lock =
                                    up->state_lock >= 0 ? up->state_lock : sv->held.state_lock,
                                .workers = up->workers,
                                .listeners = up->listeners,
                                .blocks = &up->blocks,
                                .stderr_fd = ends[1],
                                .standby = true,
                                .user = up->ids,
                                .seq = seq > sv->seq ? seq : sv->seq };
    int rc = supervisor_spawn(sv, &up->next, &how, err);
    close(ends[1]);
    up->err_fd = ends[0];
    if (rc == 0)
        return 0;
    close(ends[0]);
    up->err_fd = -1;
    return -1;
}

static bool old_has_room(const struct supervisor *sv)
{
    for (size_t i = 0; i < OLD_MAX; i++)
        if (sv->old[i].child.pid == 0)
            return true;
    return false;
}

void supervisor_upgrade_begin(struct supervisor *sv, struct wire_message *m)
{
    struct supervisor_upgrade *up = &sv->up;
    struct err err;
    if (up->phase != UP_OFF || !old_has_room(sv) || sv->child.leaving) {
        struct wire_message no = { .type = WIRE_UPGRADED };
        snprintf(no.body.upgraded.error, sizeof no.body.upgraded.error, "busy");
        snprintf(no.body.upgraded.reason, sizeof no.body.upgraded.reason, "%s",
                 sv->child.leaving ? "the server is told to end"
                 : up->phase != UP_OFF
                     ? "what an upgrade before has started is still ending: ask again"
                     : "processes of upgrades before are still draining: ask again when they have "
                       "ended");
        answer(sv, sv->child.pid, &no);
        wire_close_fds(m);
        return;
    }
    *up = (struct supervisor_upgrade){ .next = { .wire = -1, .area_fd = -1 },
                                       .err_fd = -1,
                                       .exe = -1,
                                       .config_fd = -1,
                                       .state_lock = -1,
                                       .phase = UP_STARTING,
                                       .began_ms = clock_ms(),
                                       .old_pid = sv->child.pid };
    memcpy(up->old_version, sv->child.version, sizeof up->old_version);
    int rc = supervisor_prepare(sv, m, &err);
    wire_close_fds(m);
    if (rc != 0 || start(sv, &err) != 0) {
        supervisor_upgrade_fail(sv, err.text);
        return;
    }
    up->new_pid = up->next.pid;
    up->until_ms = clock_ms() + up->config->timeouts_ms.upgrade;
    log_msg(LOG_INFO, "upgrade", "%s gets ready as process %d", up->path, (int)up->new_pid);
}

/* ---- Taking over ----------------------------------------------------------------------------- */

/* Whatever the two have in common is told in runs. */
static void tell_what_goes_on(struct supervisor *sv)
{
    const struct listeners *ls = sv->held.listeners;
    for (unsigned i = 0; i < ls->n; i++) {
        struct wire_message m = { .type = WIRE_GOES_ON, .body.close = { i, 0 } };
        while (i < ls->n && ls->all[i].goes_on) {
            m.body.close.count++;
            i++;
        }
        if (m.body.close.count > 0 && wire_send(sv->child.wire, &m, YIELD_MS) != 0)
            log_msg(LOG_WARN, "upgrade", "process %d does not read: %s", (int)sv->child.pid,
                    strerror(errno));
    }
}

static void yield(struct supervisor *sv)
{
    struct supervisor_upgrade *up = &sv->up;
    tell_what_goes_on(sv);
    if (wire_send_type(sv->child.wire, WIRE_YIELD) != 0) {
        supervisor_upgrade_fail(sv, "the process that serves does not listen to its supervisor");
        return;
    }
    up->phase = UP_YIELDING;
    up->until_ms = clock_ms() + YIELD_MS;
}

static struct old *make_old(struct supervisor *sv)
{
    struct old *old = sv->old;
    const struct config *c = sv->held.config;
    while (old->child.pid != 0)
        old++; /* supervisor_upgrade_begin saw a free one; only this takes them */
    *old = (struct old){ .child = sv->child, .listeners = sv->held.listeners };
    old->until_ms = clock_ms() + c->drain.timeout_ms + OLD_EXTRA_MS;
    old->last_seq = sv->up.next.first_seq;
    listeners_part(old->listeners);
    return old;
}

/* From here on there is no way back. */
static void take_over(struct supervisor *sv)
{
    struct supervisor_upgrade *up = &sv->up;
    struct wire_message m = { .type = WIRE_SERVE, .fds = { STDERR_FILENO }, .nfds = 1 };
    struct err err;
    supervisor_change_user(sv);
    if (wire_send(up->next.wire, &m, SERVE_MS) != 0) {
        log_msg(LOG_ERROR, "upgrade", "the new process does not listen: %s", strerror(errno));
        root_kill(up->next.pid, SIGKILL); /* as a crash: another one follows it */
    }
    make_old(sv);
    sv->child = up->next;
    up->next = (struct child){ .wire = -1, .area_fd = -1 };
    sv->held.listeners = up->listeners;
    sv->held.nworkers = up->workers;
    config_free(sv->held.config);
    sv->held.config = up->config;
    close(sv->config_fd);
    sv->config_fd = up->config_fd;
    close(sv->exe);
    sv->exe = up->exe;
    supervisor_free_blocks(&sv->blocks);
    sv->blocks = up->blocks;
    memcpy(sv->path, up->path, sizeof sv->path);
    up->listeners = NULL;
    up->config = NULL;
    if (up->state_lock >= 0) {
        if (sv->held.state_lock >= 0)
            close(sv->held.state_lock);
        sv->held.state_lock = up->state_lock;
    }
    up->config_fd = up->exe = up->state_lock = -1;
    up->blocks = (struct supervisor_blocks){ 0 };
    sv->after_crash = false;
    sv->in_row = 0;
    if (sv->seq < sv->child.first_seq)
        sv->seq = sv->child.first_seq;
    if (log_configure(&sv->held.config->log, &err) != 0)
        log_msg(LOG_ERROR, "config", "%s", err.text);
    up->phase = UP_SERVING;
    up->until_ms = clock_ms() + SERVE_MS;
}

void supervisor_upgrade_yielded(struct supervisor *sv)
{
    if (sv->up.phase == UP_YIELDING)
        take_over(sv);
}

void supervisor_upgrade_serving(struct supervisor *sv)
{
    if (sv->up.phase == UP_SERVING)
        sv->up.phase = UP_OVER;
}

void supervisor_upgrade_next_said(struct supervisor *sv, struct wire_message *m)
{
    struct supervisor_upgrade *up = &sv->up;
    if (m->type == WIRE_SHARED) {
        supervisor_take_block(&up->blocks, m);
    } else if (m->type == WIRE_READY && up->phase == UP_STARTING) {
        const struct wire_ready *r = &m->body.ready;
        up->next.ready = true;
        up->can_follow = r->state == STATE_VERSION;
        memcpy(up->new_version, r->version, sizeof up->new_version);
        memcpy(up->next.version, r->version, sizeof up->next.version);
        yield(sv);
    }
    wire_close_fds(m);
}

/* ---- The clock ------------------------------------------------------------------------------- */

uint64_t supervisor_upgrade_wakes(const struct supervisor *sv)
{
    const struct supervisor_upgrade *up = &sv->up;
    uint64_t at = up->phase >= UP_STARTING && up->phase <= UP_SERVING ? up->until_ms : 0;
    for (size_t i = 0; i < OLD_MAX; i++) {
        uint64_t end = sv->old[i].child.pid != 0 ? sv->old[i].until_ms : 0;
        if (end != 0 && (at == 0 || end < at))
            at = end;
    }
    return at;
}

void supervisor_upgrade_clock(struct supervisor *sv, uint64_t now)
{
    struct supervisor_upgrade *up = &sv->up;
    char why[128];
    if (up->phase == UP_STARTING && now >= up->until_ms) {
        snprintf(why, sizeof why,
                 "the new process was not ready within %u ms (timeouts_ms.upgrade)",
                 up->config->timeouts_ms.upgrade);
        supervisor_upgrade_fail(sv, why);
    } else if (up->phase == UP_YIELDING && now >= up->until_ms) {
        log_msg(LOG_WARN, "upgrade", "process %d gives nothing up: the new one serves without it",
                (int)sv->child.pid);
        take_over(sv);
    } else if (up->phase == UP_SERVING && now >= up->until_ms) {
        up->phase = UP_OVER;
    }
    for (size_t i = 0; i < OLD_MAX; i++) {
        struct old *old = &sv->old[i];
        if (old->child.pid == 0 || old->until_ms == 0 || now < old->until_ms)
            continue;
        log_msg(LOG_ERROR, "upgrade", "process %d has not ended after its drain: it is killed",
                (int)old->child.pid);
        old->until_ms = 0;
        root_kill(old->child.pid, SIGKILL);
    }
}
