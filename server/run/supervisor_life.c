/*
 * The life of server processes: one is started, crashes or ends, is buried, and another one follows
 * it, at once or after a pause that grows as long as none of them lives for crash_window_ms. One
 * that crashed may still be writing its core when the next one serves.
 */
#include "run/supervisor_private.h"

#include "base/clock.h"
#include "run/notify.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#define FIRST_WAIT_MS 100
#define LAST_WAIT_MS  5000
#define FLUSH_MS      1000
#define DYING_COPIES  16 /* that one may still make which has crashed and is not dead */
#define SEQ_MAX       1000000000u
#define SWEEP_MS      1000
#define LAST_WORDS    4096 /* of one that is dead: more than the kernel has room for */

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

void supervisor_start(struct supervisor *sv)
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
            supervisor_pass_to(&sv->child, SIGHUP);
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
        supervisor_start(sv);
    else
        restart_in(sv, wait);
    if (refused)
        log_msg(LOG_ERROR, "exit", "the server process could not start again: another try in %u ms",
                wait);
    else
        supervisor_crash(sv, old, status);
}

/* It wrote down why and dies: its core may take long. */
void supervisor_child_crashed(struct supervisor *sv)
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

void supervisor_sweep(struct supervisor *sv, uint64_t first, uint64_t last)
{
    bool whole = stage_remove_between(sv->held.stage, first, last);
    whole = stage_remove_between(sv->held.stage, 0, dead_until(sv)) && whole;
    sv->sweep_at_ms = whole ? 0 : clock_ms() + SWEEP_MS;
}

/* Told of and reaped: nothing of it stays. */
static void bury(struct supervisor *sv, struct child *c)
{
    uint64_t first = c->first_seq, last = supervisor_last_seq(c);
    supervisor_forget(c);
    supervisor_sweep(sv, first, last);
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
    supervisor_sweep(sv, first, old->last_seq);
    *old = (struct old){ .child = { .wire = -1, .area_fd = -1 } };
}

bool supervisor_old_ones(const struct supervisor *sv)
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
void supervisor_reap(struct supervisor *sv)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == sv->child.pid)
            supervisor_listen(sv, LAST_WORDS); /* it may be among the dying then */
        if (pid == sv->child.pid) {
            child_ended(sv, status);
            continue;
        }
        if (supervisor_upgrade_ended(sv, pid, status))
            continue;
        for (size_t i = 0; i < OLD_MAX; i++)
            if (sv->old[i].child.pid == pid) {
                supervisor_listen(sv, LAST_WORDS);
                old_ended(sv, &sv->old[i], status);
            }
        for (size_t i = 0; i < DYING_MAX; i++)
            if (sv->dying[i].pid == pid)
                dying_ended(sv, &sv->dying[i], status);
    }
}
