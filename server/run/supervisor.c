/* See supervisor.h. One poll loop; nothing in it waits but poll, and the handing over (bounded). */
#include "run/supervisor_private.h"

#include "base/clock.h"
#include "base/memfd.h"
#include "plugin/proven.h"
#include "run/control.h"
#include "run/notify.h"
#include "run/boss.h"
#include "run/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_WAIT_MS 100
#define LAST_WAIT_MS  5000
#define FORCE_MS      3000 /* from "exit at once" to SIGKILL */
#define FLUSH_MS      1000
#define NOTIFY_MS     100 /* until systemd is asked again for room */
#define DYING_COPIES  16  /* that one may still make which has crashed and is not dead */
#define SEQ_MAX       1000000000u
#define BURST         64   /* messages that are read before anything else is looked after */
#define LAST_WORDS    4096 /* and of one that is dead: more than the kernel has room for */

static struct supervisor the_supervisor = {
    .held = { .magic = SERVER_MAGIC,
              .control = { .fd = -1 },
              .ops_listener = { .fd = -1 },
              .state_lock = -1 },
    .child = { .wire = -1, .area_fd = -1 },
    .up = { .next = { .wire = -1, .area_fd = -1 },
            .err_fd = -1,
            .exe = -1,
            .config_fd = -1,
            .state_lock = -1 },
    .config_fd = -1,
    .ended = -1,
    .exit_status = -1,
};

/* ---- Starting again -------------------------------------------------------------------------- */

static void restart_in(struct supervisor *sv, unsigned ms)
{
    sv->restart_at_ms = clock_ms() + ms;
}

/* Before the n-th try in a row; the first of them is 1. */
static unsigned wait_of(unsigned n)
{
    return n > 6 ? LAST_WAIT_MS : (unsigned)FIRST_WAIT_MS << (n - 1);
}

/* At once, then later and later, as long as they do not live crash_window_ms. */
static unsigned back_off(struct supervisor *sv, const struct child *c)
{
    if (c->ready && clock_ms() - c->started_ms >= sv->held.config->crash_window_ms)
        sv->in_row = 0;
    unsigned n = sv->in_row++;
    return n == 0 ? 0 : wait_of(n);
}

/* By the wire; by a plain signal when that is full, because the server does not read. False: there
   is nobody, or it is dead. */
static bool pass_to(const struct child *c, int signo)
{
    struct wire_message m = { .type = WIRE_SIGNAL, .body.signal.signo = signo };
    if (c->pid == 0)
        return false;
    if (c->wire >= 0 && wire_send(c->wire, &m, 0) == 0)
        return true;
    bool dead = c->wire >= 0 && errno == EPIPE;
    root_kill(c->pid, signo);
    return !dead;
}

static void spawn(struct supervisor *sv)
{
    struct err err;
    sv->restart_at_ms = 0;
    const struct launch how = { .exe = sv->exe,
                                .state_lock = sv->held.state_lock,
                                .config_fd = sv->config_fd,
                                .workers = sv->held.nworkers,
                                .listeners = sv->held.listeners,
                                .blocks = &sv->blocks,
                                .stderr_fd = -1,
                                .seq = sv->seq };
    if (supervisor_spawn(sv, &sv->child, &how, &err) == 0) {
        sv->unspawned = 0;
        if (sv->hup) /* it begins with the configuration in force, and reads the file behind that */
            pass_to(&sv->child, SIGHUP);
        return;
    }
    if (sv->starts == 0) {
        log_flush(FLUSH_MS);
        fprintf(stderr, "graftd: %s\n", err.text);
        sv->exit_status = 1;
        return;
    }
    unsigned wait = wait_of(++sv->unspawned);
    log_msg(LOG_ERROR, "exit", "%s: another try in %u ms", err.text, wait);
    restart_in(sv, wait);
}

/* The last number of a copy that it may have made. No process makes a billion: what a crash wrote
   there is not to use up all numbers. */
uint64_t supervisor_last_seq(const struct child *c)
{
    uint64_t seq = c->area != NULL ? atomic_load(&c->area->seq) : 0;
    return seq < c->first_seq + SEQ_MAX ? seq : c->first_seq + SEQ_MAX;
}

/* The child crashed, and may still be dying (`status` -1): plans the next one, at once where it
   may, and only then looks at what happened. What is left of the old one is in `old`. */
static void replace(struct supervisor *sv, struct child *old, int status)
{
    struct child *c = &sv->child;
    unsigned wait = back_off(sv, c);
    supervisor_upgrade_fail(sv, "the server process crashed meanwhile");
    bool refused = status >= 0 && WIFEXITED(status) && !c->ready; /* and has said why */
    if (!refused)
        supervisor_identify(sv, c, status);
    if (supervisor_last_seq(c) > sv->seq)
        sv->seq = supervisor_last_seq(c);
    if (status < 0)
        sv->seq += DYING_COPIES;
    notify_restarting(refused ? "the server process could not start again"
                              : "the server process crashed: another one is started");
    *old = *c; /* its wire stays open until it is dead: else it would drain our sockets */
    *c = (struct child){ .wire = -1, .area_fd = -1 };
    if (wait == 0)
        spawn(sv);
    else
        restart_in(sv, wait);
    if (refused)
        log_msg(LOG_ERROR, "exit", "the server process could not start again: another try in %u ms",
                wait);
    else
        supervisor_crash(sv, old, status);
}

/* It wrote down why and dies: its core may take long. */
static void child_crashed(struct supervisor *sv)
{
    struct child *c = &sv->child;
    if (c->leaving || !sv->served || atomic_load(&c->area->state) != CRASH_WHOLE)
        return; /* its end will tell */
    for (size_t i = 0; i < DYING_MAX; i++) {
        if (sv->dying[i].pid != 0)
            continue;
        replace(sv, &sv->dying[i], -1);
        return;
    }
}

/* ---- What the server says -------------------------------------------------------------------- */

static void take_config(struct supervisor *sv, struct wire_message *m)
{
    struct buf text = { 0 };
    struct err err;
    const struct options *opt = sv->held.options;
    if (memfd_read(m->fds[0], CONFIG_FILE_MAX, &text, &err) == 0) {
        struct config *c =
            config_load_text(opt, environ, text.len > 0 ? text.data : NULL, text.len, false, &err);
        if (c != NULL) {
            config_free(sv->held.config);
            sv->held.config = c;
            close(sv->config_fd);
            sv->config_fd = m->fds[0];
            m->nfds = 0;
            if (log_configure(&c->log, &err) != 0)
                log_msg(LOG_ERROR, "config", "%s", err.text);
        }
    }
    if (m->nfds > 0)
        log_msg(LOG_WARN, "config", "the server's new configuration is not taken: %s", err.text);
    wire_close_fds(m);
    buf_fini(&text);
}

void supervisor_closes(struct listeners *ls, const struct wire_close *which)
{
    for (unsigned i = which->first; i < ls->n && i - which->first < which->count; i++) {
        if (ls->all[i].fd >= 0)
            close(ls->all[i].fd);
        ls->all[i].fd = -1;
    }
}

static void reopen_log(void)
{
    struct err err;
    if (log_reopen(&err) != 0)
        log_msg(LOG_ERROR, "config", "reopening the log: %s", err.text);
}

/* "Leaving" is said by WIRE_LEAVING only: a process that fails may say what it likes. */
static void take_vitals(const struct supervisor *sv, struct vitals *v)
{
    if (v->state == VITALS_LEAVING && !sv->child.leaving)
        v->state = VITALS_STARTING;
    notify_vitals(v);
}

static void act_on_message(struct supervisor *sv, struct child *c, struct wire_message *m)
{
    switch (m->type) {
    case WIRE_READY:
        c->ready = sv->served = true;
        snprintf(c->version, sizeof c->version, "%s", m->body.ready.version);
        sv->hup = false;
        break;
    case WIRE_LEAVING:
        c->leaving = true;
        notify_leaving();
        break;
    case WIRE_CLOSE:
        supervisor_closes(sv->held.listeners, &m->body.close);
        break;
    case WIRE_CONFIG:
        take_config(sv, m);
        break;
    case WIRE_REOPEN:
        reopen_log();
        break;
    case WIRE_SHARED:
        supervisor_take_block(&sv->blocks, m);
        break;
    case WIRE_UPGRADE:
        supervisor_upgrade_begin(sv, m);
        break;
    case WIRE_YIELDED:
        supervisor_upgrade_yielded(sv);
        break;
    case WIRE_SERVING:
        supervisor_upgrade_serving(sv);
        break;
    case WIRE_CRASH:
        child_crashed(sv);
        break;
    case WIRE_VITALS:
        take_vitals(sv, &m->body.vitals);
        break;
    default:
        wire_close_fds(m);
    }
}

/* We have too many descriptors open: what serves is not touched by that. */
static void tell_lost(enum wire_type type)
{
    log_msg(LOG_WARN, "limits",
            "no descriptor is left in the supervisor: after a crash %s: raise the limit (ulimit "
            "-n, LimitNOFILE=)",
            type == WIRE_CONFIG ? "the configuration before this one would be in force"
                                : "a shared block would be lost");
}

/* A peer that is silent changes nothing, one that talks nonsense is out of its mind: its end is
   told by waitpid. */
static void listen_to(struct supervisor *sv, struct child *c, int most,
                      void (*act)(struct supervisor *, struct child *, struct wire_message *))
{
    struct wire_message m;
    for (int i = 0; i < most && c->wire >= 0; i++) {
        switch (wire_receive(c->wire, &m, 0)) {
        case WIRE_GOT:
            act(sv, c, &m);
            break;
        case WIRE_NOTHING:
            return;
        case WIRE_LOST:
            tell_lost(m.type);
            break;
        case WIRE_NONSENSE:
        case WIRE_OTHER:
            log_msg(LOG_ERROR, "crash",
                    "the server process talks nonsense to its supervisor: it is "
                    "killed");
            root_kill(c->pid, SIGKILL);
            return;
        case WIRE_END:
            close(c->wire);
            c->wire = -1;
        }
    }
}

static void act_on_next(struct supervisor *sv, struct child *c, struct wire_message *m)
{
    (void)c;
    supervisor_upgrade_next_said(sv, m);
}

/* It closes what nobody goes on with; all else is not its business any more. */
static void act_on_old(struct supervisor *sv, struct child *c, struct wire_message *m)
{
    struct old *old = container_of(c, struct old, child);
    (void)sv;
    if (m->type == WIRE_CLOSE) {
        supervisor_closes(old->listeners, &m->body.close);
        listeners_unlink(old->listeners);
    }
    wire_close_fds(m);
}

static void listen_to_child(struct supervisor *sv, int most)
{
    listen_to(sv, &sv->child, most, act_on_message);
    listen_to(sv, &sv->up.next, most, act_on_next);
    for (size_t i = 0; i < OLD_MAX; i++)
        listen_to(sv, &sv->old[i].child, most, act_on_old);
}

/* ---- The dead -------------------------------------------------------------------------------- */

static int status_of(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* The first one could not start, or it was told to end: that is the end. */
static bool is_over(const struct supervisor *sv)
{
    return sv->child.leaving || !sv->served;
}

/* Copies up to this number are of nobody who lives. */
static uint64_t dead_until(const struct supervisor *sv)
{
    uint64_t seq = sv->seq;
    const struct child *living[2 + DYING_MAX + OLD_MAX] = { &sv->child, &sv->up.next };
    for (size_t i = 0; i < DYING_MAX; i++)
        living[2 + i] = &sv->dying[i];
    for (size_t i = 0; i < OLD_MAX; i++)
        living[2 + DYING_MAX + i] = &sv->old[i].child;
    for (size_t i = 0; i < ARRAY_LEN(living); i++)
        if (living[i]->pid != 0 && living[i]->first_seq < seq)
            seq = living[i]->first_seq;
    return seq;
}

/* Those of the one that died, and what could not be removed earlier, for want of descriptors. */
static void remove_copies(const struct supervisor *sv, uint64_t first, uint64_t last)
{
    stage_remove_between(sv->held.stage, first, last);
    stage_remove_between(sv->held.stage, 0, dead_until(sv));
}

/* Told of and reaped: nothing of it stays. */
static void bury(struct supervisor *sv, struct child *c)
{
    uint64_t first = c->first_seq, last = supervisor_last_seq(c);
    supervisor_forget(c);
    remove_copies(sv, first, last);
}

static void child_ended(struct supervisor *sv, int status)
{
    struct child *c = &sv->child;
    bool forced = sv->kill_signo != 0 && WIFSIGNALED(status);
    struct child old;
    if (!is_over(sv)) {
        replace(sv, &old, status);
        bury(sv, &old);
        return;
    }
    if (WIFSIGNALED(status) && !forced)
        supervisor_crash(sv, c, status);
    sv->ended = forced ? 128 + sv->kill_signo : status_of(status);
    supervisor_upgrade_fail(sv, "the server is told to end");
    supervisor_forget(c);
}

static void old_ended(struct supervisor *sv, struct old *old, int status)
{
    struct child *c = &old->child;
    if (WIFSIGNALED(status) && (old->until_ms != 0 || WTERMSIG(status) != SIGKILL))
        supervisor_crash(sv, c, status);
    log_msg(LOG_INFO, "upgrade", "process %d, whose place was taken, has ended: %s %d", (int)c->pid,
            WIFSIGNALED(status) ? "signal" : "exit status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    listeners_free(old->listeners);
    uint64_t first = c->first_seq;
    supervisor_forget(c);
    stage_remove_between(sv->held.stage, first, old->last_seq);
    *old = (struct old){ .child = { .wire = -1, .area_fd = -1 } };
}

static bool old_ones(const struct supervisor *sv)
{
    for (size_t i = 0; i < OLD_MAX; i++)
        if (sv->old[i].child.pid != 0)
            return true;
    return sv->up.next.pid != 0;
}

static void dying_ended(struct supervisor *sv, struct child *c, int status)
{
    supervisor_crash(sv, c, status);
    bury(sv, c);
}

/* Everybody's dead: as PID 1 those of others are ours to take away, too. */
static void reap(struct supervisor *sv)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == sv->child.pid)
            listen_to_child(sv, LAST_WORDS); /* it may be among the dying then */
        if (pid == sv->child.pid) {
            child_ended(sv, status);
            continue;
        }
        if (supervisor_upgrade_ended(sv, pid, status))
            continue;
        for (size_t i = 0; i < OLD_MAX; i++)
            if (sv->old[i].child.pid == pid) {
                listen_to_child(sv, LAST_WORDS);
                old_ended(sv, &sv->old[i], status);
            }
        for (size_t i = 0; i < DYING_MAX; i++)
            if (sv->dying[i].pid == pid)
                dying_ended(sv, &sv->dying[i], status);
    }
}

/* ---- Signals --------------------------------------------------------------------------------- */

static void stop(struct supervisor *sv, int signo)
{
    notify_leaving();
    bool at_once = signo == SIGQUIT || signals_stop(&sv->stop, clock_ms()) == SIGNALS_EXIT;
    supervisor_upgrade_fail(sv, "the server is told to end");
    for (size_t i = 0; i < OLD_MAX; i++)
        pass_to(&sv->old[i].child, signo);
    if (sv->child.pid == 0) { /* nothing runs: what crashed is not started again */
        if (sv->ended < 0)
            sv->ended = sv->crashed.signo > 0 ? 128 + sv->crashed.signo : 128 + signo;
        sv->restart_at_ms = 0;
        if (at_once && sv->kill_at_ms == 0)
            sv->kill_at_ms = clock_ms() + FORCE_MS;
        return;
    }
    sv->child.leaving = true;
    pass_to(&sv->child, signo);
    if (at_once && sv->kill_at_ms == 0) {
        sv->kill_at_ms = clock_ms() + FORCE_MS;
        sv->kill_signo = signo;
    }
}

static void act_on_signal(struct supervisor *sv, int signo)
{
    switch (signo) {
    case SIGCHLD:
        break; /* looked after at every turn */
    case SIGUSR1:
        reopen_log();
        pass_to(&sv->child, signo);
        break;
    case SIGHUP:
        sv->hup = !pass_to(&sv->child, signo) || !sv->child.ready;
        break;
    case SIGUSR2: /* each process looks at the folder when it starts */
        pass_to(&sv->child, signo);
        break;
    default:
        stop(sv, signo);
    }
}

/* ---- The loop -------------------------------------------------------------------------------- */

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static int wait_ms(const struct supervisor *sv)
{
    uint64_t at = sooner(sv->restart_at_ms, sv->kill_at_ms), now = clock_ms();
    if (notify_flush())
        at = sooner(at, now + NOTIFY_MS);
    at = sooner(at, supervisor_upgrade_wakes(sv));
    if (sv->up.phase == UP_OVER)
        return 0;
    if (at == 0)
        return -1;
    return at <= now ? 0 : at - now < 60000 ? (int)(at - now) : 60000;
}

static void look_at_clock(struct supervisor *sv)
{
    uint64_t now = clock_ms();
    if (sv->restart_at_ms != 0 && now >= sv->restart_at_ms)
        spawn(sv);
    if (sv->kill_at_ms != 0 && now >= sv->kill_at_ms && (sv->child.pid != 0 || old_ones(sv))) {
        if (sv->child.pid != 0)
            root_kill(sv->child.pid, SIGKILL);
        for (size_t i = 0; i < OLD_MAX; i++)
            if (sv->old[i].child.pid != 0)
                root_kill(sv->old[i].child.pid, SIGKILL);
        sv->kill_at_ms = now + FORCE_MS;
    }
    supervisor_upgrade_clock(sv, now);
}

/* In place: whoever watches us sees the same process. What cannot be is told, and we go on. */
static void upgrade_over(struct supervisor *sv)
{
    struct err err;
    struct supervisor_upgrade *up = &sv->up;
    if (sv->exit_status >= 0 || sv->ended >= 0 || sv->child.leaving) {
        supervisor_upgrade_answer(sv);
        return;
    }
    if (up->can_follow)
        supervisor_exec(sv, &err);
    else
        err_set(&err, "the new program takes its state in another form");
    snprintf(up->note, sizeof up->note, "the supervisor goes on as the program that it was: %.180s",
             err.text);
    log_msg(LOG_ERROR, "upgrade", "%s", up->note);
    supervisor_upgrade_answer(sv);
}

static void turn(struct supervisor *sv)
{
    int log_to = log_drain();
    struct pollfd fds[6 + OLD_MAX] = {
        { .fd = sv->signal_fd, .events = POLLIN },    { .fd = sv->child.wire, .events = POLLIN },
        { .fd = sv->log_fd, .events = POLLIN },       { .fd = log_to, .events = POLLOUT },
        { .fd = sv->up.next.wire, .events = POLLIN }, { .fd = sv->up.err_fd, .events = POLLIN },
    };
    for (size_t i = 0; i < OLD_MAX; i++)
        fds[6 + i] = (struct pollfd){ .fd = sv->old[i].child.wire, .events = POLLIN };
    poll(fds, ARRAY_LEN(fds), wait_ms(sv)); /* what is -1 is passed over */
    for (int signo; sv->exit_status < 0 && (signo = signals_next(sv->signal_fd)) != 0;)
        act_on_signal(sv, signo);
    listen_to_child(sv, BURST);
    supervisor_upgrade_read(sv);
    reap(sv);
    if (sv->exit_status < 0)
        look_at_clock(sv);
    if (sv->up.phase == UP_OVER)
        upgrade_over(sv);
    if (sv->ended >= 0 && sv->exit_status < 0 && !old_ones(sv))
        sv->exit_status = sv->ended;
}

/* ---- Begin and end --------------------------------------------------------------------------- */

static int open_all(struct supervisor *sv, struct err *err)
{
    supervisor_own_path(sv->path);
    memcpy(sv->program, sv->path, sizeof sv->program);
    const struct config *c = sv->held.config;
    sv->exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (sv->exe < 0)
        return err_set(err, "cannot open /proc/self/exe: %s: is /proc mounted?", strerror(errno));
    sv->signal_fd = signals_open(err);
    if (sv->signal_fd < 0 || log_start(&c->log, &sv->log_fd, err) != 0)
        return -1;
    sv->proven_fd = memfd_shared("graft-proven", sizeof(struct proven_area), err);
    if (sv->proven_fd < 0)
        return -1;
    sv->config_fd = memfd_of_text("graft-config", c->text, c->text_len, err);
    return sv->config_fd >= 0 ? server_open_held(&sv->held, err) : -1;
}

static void close_all(struct supervisor *sv)
{
    struct server *held = &sv->held;
    struct err ignored;
    listener_unlink(&held->ops_listener);
    if (held->ops_listener.fd >= 0)
        close(held->ops_listener.fd);
    place_close(&held->control);
    listeners_free(held->listeners);
    if (held->stage != NULL)
        stage_renew(held->stage, &ignored); /* what the server made anew is to go, too */
    stage_close(held->stage);
    config_free(held->config);
    held->config = NULL;
}

/* What is left to do is nobody's: checkers that look for leaks at the end look into this process as
   the user that it works as. */
static void forget_root(void)
{
    struct err ignored;
    if (root_is_kept() && root_give_up(NULL, &ignored) == 0)
        prctl(PR_SET_DUMPABLE, 1);
}

static int run(struct supervisor *sv)
{
    while (sv->exit_status < 0)
        turn(sv);
    close_all(sv);
    log_flush(FLUSH_MS);
    log_stop();
    forget_root();
    return sv->exit_status;
}

static int serve(struct supervisor *sv)
{
    struct err err;
    for (size_t i = 0; i < OLD_MAX; i++)
        sv->old[i].child = (struct child){ .wire = -1, .area_fd = -1 };
    if (open_all(sv, &err) != 0) {
        log_flush(FLUSH_MS);
        fprintf(stderr, "graftd: %s\n", err.text);
        sv->exit_status = 1;
    }
    if (sv->exit_status < 0)
        spawn(sv);
    return run(sv);
}

/* The same process a moment ago was another program. */
static int go_on(struct supervisor *sv)
{
    supervisor_upgrade_answer(sv);
    reap(sv); /* a signal of that kind may have been lost on the way */
    return run(sv);
}

int supervisor_run(const struct options *options, char **argv)
{
    struct supervisor *sv = &the_supervisor;
    struct err err;
    int wire = boss_from_environment();
    if (wire >= 0)
        return control_run_supervised(options, environ, wire);
    if (wire == -2) {
        fprintf(stderr,
                "graftd: " WIRE_VARIABLE " names a socket that our parent has not made: the "
                "supervisor that started us is gone, or the variable was set by somebody "
                "else: unset it\n");
        return 1;
    }
    thread_kind = THREAD_CONTROL;
    sv->argv = argv;
    sv->held.options = options;
    int resumed = supervisor_resume(sv, &err);
    if (resumed == 0)
        return go_on(sv);
    struct config *config = resumed > 0 ? config_load(options, environ, &err) : NULL;
    if (config == NULL) {
        fprintf(stderr, "graftd: %s\n", err.text);
        return 1;
    }
    notify_open();
    if (!config->supervise)
        return control_run(options, environ, config);
    sv->held.config = config;
    return serve(sv);
}
