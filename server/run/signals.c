/*
 * One signalfd for all signals. A stop signal that comes twice within SIGNALS_SAME_MS is one: both
 * a supervisor and a process group's owner send it. Control thread, but for signals_block.
 */
#include "run/signals.h"

#include "base/thread.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct {
    int signo;
    const char *name;
} handled[] = {
    { SIGUSR2, "SIGUSR2" }, { SIGHUP, "SIGHUP" },   { SIGTERM, "SIGTERM" }, { SIGINT, "SIGINT" },
    { SIGQUIT, "SIGQUIT" }, { SIGUSR1, "SIGUSR1" }, { SIGCHLD, "SIGCHLD" },
};

void signals_block(void)
{
    sigset_t set;
    thread_signals(&set);
    pthread_sigmask(SIG_SETMASK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* an inherited "ignore" would take the probe's status away */
}

int signals_open(struct err *err)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(handled); i++)
        sigaddset(&set, handled[i].signo);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return err_set(err, "cannot make a descriptor for signals: %s", strerror(errno));
    return fd;
}

int signals_next(int fd)
{
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof info) != (ssize_t)sizeof info)
        return 0;
    return (int)info.ssi_signo;
}

const char *signals_name(int signo)
{
    for (size_t i = 0; i < ARRAY_LEN(handled); i++)
        if (handled[i].signo == signo)
            return handled[i].name;
    return "a signal";
}

enum signals_verdict signals_stop(struct signals_stop *s, uint64_t now_ms)
{
    if (s->first_ms == 0) {
        s->first_ms = now_ms > 0 ? now_ms : 1;
        return SIGNALS_DRAIN;
    }
    return now_ms - s->first_ms < SIGNALS_SAME_MS ? SIGNALS_SAME : SIGNALS_EXIT;
}

#define DEAD_MAX 64 /* looked after at a time; the next ones follow when these are gone */

struct dead {
    pid_t pid;
    uint64_t seen_ms;
};

static struct dead dead[DEAD_MAX];
static size_t ndead;

/* Is `pid` a dead child of this process? From /proc/PID/stat: "PID (any name) S PPID ...". */
static bool is_dead_child(const char *pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = '\0';
    const char *end = strrchr(text, ')');
    char state;
    int parent;
    return end != NULL && sscanf(end + 1, " %c %d", &state, &parent) == 2 && state == 'Z' &&
           parent == (int)getpid();
}

static uint64_t first_seen(const struct dead *old, size_t n, pid_t pid, uint64_t now_ms)
{
    for (size_t i = 0; i < n; i++)
        if (old[i].pid == pid)
            return old[i].seen_ms;
    return now_ms;
}

/* Fills dead[] with the dead children that exist now, keeping when each was first seen. */
static void look(uint64_t now_ms)
{
    struct dead old[DEAD_MAX];
    size_t nold = ndead;
    memcpy(old, dead, sizeof old);
    ndead = 0;
    DIR *dir = opendir("/proc");
    if (dir == NULL)
        return;
    for (struct dirent *e; ndead < DEAD_MAX && (e = readdir(dir)) != NULL;) {
        if (!isdigit((unsigned char)e->d_name[0]) || !is_dead_child(e->d_name))
            continue;
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        dead[ndead++] = (struct dead){ pid, first_seen(old, nold, pid, now_ms) };
    }
    closedir(dir);
}

bool signals_reap(uint64_t now_ms)
{
    siginfo_t info = { 0 };
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
        ndead = 0;
        return false;
    }
    look(now_ms);
    if (ndead == 0) { /* /proc is not ours, or not there */
        static struct dead one;
        if (one.pid != info.si_pid)
            one = (struct dead){ info.si_pid, now_ms };
        dead[ndead++] = one;
    }
    for (size_t i = 0; i < ndead; i++)
        if (now_ms - dead[i].seen_ms >= SIGNALS_REAP_MS)
            waitid(P_PID, (id_t)dead[i].pid, &info, WEXITED | WNOHANG);
    return true;
}
