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

#define FORCE_MS  3000 /* from "exit at once" to SIGKILL */
#define FLUSH_MS  1000
#define NOTIFY_MS 100 /* until systemd is asked again for room */
#define BURST     64  /* messages that are read before anything else is looked after */

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
        supervisor_child_crashed(sv);
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

void supervisor_listen(struct supervisor *sv, int most)
{
    listen_to(sv, &sv->child, most, act_on_message);
    listen_to(sv, &sv->up.next, most, act_on_next);
    for (size_t i = 0; i < OLD_MAX; i++)
        listen_to(sv, &sv->old[i].child, most, act_on_old);
}

/* ---- Signals --------------------------------------------------------------------------------- */

/* By the wire; by a plain signal when that is full, because the server does not read. False: there
   is nobody, or it is dead. */
bool supervisor_pass_to(const struct child *c, int signo)
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

static void stop(struct supervisor *sv, int signo)
{
    notify_leaving();
    bool at_once = signo == SIGQUIT || signals_stop(&sv->stop, clock_ms()) == SIGNALS_EXIT;
    supervisor_upgrade_fail(sv, "the server is told to end");
    for (size_t i = 0; i < OLD_MAX; i++)
        supervisor_pass_to(&sv->old[i].child, signo);
    if (sv->child.pid == 0) { /* nothing runs: what crashed is not started again */
        if (sv->ended < 0)
            sv->ended = sv->crashed.signo > 0 ? 128 + sv->crashed.signo : 128 + signo;
        sv->restart_at_ms = 0;
        if (at_once && sv->kill_at_ms == 0)
            sv->kill_at_ms = clock_ms() + FORCE_MS;
        return;
    }
    sv->child.leaving = true;
    supervisor_pass_to(&sv->child, signo);
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
        supervisor_pass_to(&sv->child, signo);
        break;
    case SIGHUP:
        sv->hup = !supervisor_pass_to(&sv->child, signo) || !sv->child.ready;
        break;
    case SIGUSR2: /* each process looks at the folder when it starts */
        supervisor_pass_to(&sv->child, signo);
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
    at = sooner(at, sv->sweep_at_ms);
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
        supervisor_start(sv);
    if (sv->sweep_at_ms != 0 && now >= sv->sweep_at_ms)
        supervisor_sweep(sv, 0, 0);
    if (sv->kill_at_ms != 0 && now >= sv->kill_at_ms &&
        (sv->child.pid != 0 || supervisor_old_ones(sv))) {
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
    supervisor_listen(sv, BURST);
    supervisor_upgrade_read(sv);
    supervisor_reap(sv);
    if (sv->exit_status < 0)
        look_at_clock(sv);
    if (sv->up.phase == UP_OVER)
        upgrade_over(sv);
    if (sv->ended >= 0 && sv->exit_status < 0 && !supervisor_old_ones(sv))
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
        supervisor_start(sv);
    return run(sv);
}

/* The same process a moment ago was another program. */
static int go_on(struct supervisor *sv)
{
    supervisor_upgrade_answer(sv);
    supervisor_reap(sv); /* a signal of that kind may have been lost on the way */
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
