/*
 * graftctl dev FILE.so: waits for saves (inotify) in the folder and those below it, runs
 * `make FILE.so`, and, when that has made another file, puts it into the plugin folder and swaps.
 * What is built may lie in the same folders: make decides whether there was anything to do.
 */
#include "ctl/dev.h"

#include "base/clock.h"
#include "ctl/dev_server.h"
#include "ctl/show.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define QUIET_MS   30  /* an editor writes several files */
#define SETTLE_MS  300 /* but not for longer than this */
#define PATIENT_MS 2000
#define FOLDERS    512
#define DEPTH      8
#define WATCH_MASK (IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR)

struct dev {
    const struct dev_options *options;
    struct dev_server server;
    int inotify, signals;
    unsigned folders;
    struct stat built; /* the file as the server has seen it last */
    bool configured;   /* graft.json was saved */
    bool over;         /* a signal came, or graftd has ended: leave with rc */
    int rc;
};

PRINTF_LIKE(1, 2) static void say(const char *fmt, ...)
{
    char now[16];
    time_t t = time(NULL);
    struct tm tm;
    localtime_r(&t, &tm);
    strftime(now, sizeof now, "%H:%M:%S", &tm);
    printf("%s  ", now);
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

/* ---- Saves ----------------------------------------------------------------------------------- */

static void watch_folder(struct dev *d, const char *path, unsigned depth)
{
    DIR *dir = opendir(path);
    if (dir == NULL || d->folders >= FOLDERS ||
        inotify_add_watch(d->inotify, path, WATCH_MASK) < 0) {
        if (dir != NULL)
            closedir(dir);
        return;
    }
    d->folders++;
    for (struct dirent *e; depth < DEPTH && (e = readdir(dir)) != NULL;) {
        char below[4096];
        if (e->d_type != DT_DIR || e->d_name[0] == '.' || strcmp(e->d_name, "target") == 0 ||
            strcmp(e->d_name, "debian") == 0)
            continue;
        if (snprintf(below, sizeof below, "%s/%s", path, e->d_name) < (int)sizeof below)
            watch_folder(d, below, depth + 1);
    }
    closedir(dir);
}

/* Not what editors and compilers leave behind. */
static bool is_source(const char *name)
{
    static const char *const others[] = { ".so", ".o",   ".d",    ".a",     ".new",
                                          "~",   ".swp", ".rlib", ".rmeta", ".log" };
    size_t len = strlen(name);
    if (name[0] == '.' || strspn(name, "0123456789") == len)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        size_t n = strlen(others[i]);
        if (len >= n && strcmp(name + len - n, others[i]) == 0)
            return false;
    }
    return true;
}

/* Whether there was a save among what inotify has to tell. */
static bool take_events(struct dev *d)
{
    char data[16384] __attribute__((aligned(8)));
    bool saved = false, folders = false;
    ssize_t n;
    while ((n = read(d->inotify, data, sizeof data)) > 0)
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *e = (const struct inotify_event *)(const void *)(data + at);
            at += (ssize_t)(sizeof *e + e->len);
            if ((e->mask & IN_Q_OVERFLOW) != 0)
                saved = folders = true;
            if (e->len == 0 || !is_source(e->name))
                continue;
            folders |= (e->mask & IN_ISDIR) != 0;
            saved |= (e->mask & (IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE)) != 0 &&
                     (e->mask & IN_ISDIR) == 0;
            d->configured |= strcmp(e->name, "graft.json") == 0;
        }
    if (folders) {
        d->folders = 0;
        watch_folder(d, ".", 0);
        saved = true; /* what came with them */
    }
    return saved;
}

static bool settle(struct dev *d)
{
    bool saved = take_events(d);
    struct pollfd p = { .fd = d->inotify, .events = POLLIN };
    for (uint64_t until = clock_ms() + SETTLE_MS; clock_ms() < until && poll(&p, 1, QUIET_MS) > 0;)
        saved |= take_events(d);
    return saved;
}

/* ---- A turn: build, swap, tell --------------------------------------------------------------- */

static int run_make(const struct dev *d)
{
    const char *make = getenv("MAKE");
    if (make == NULL || make[0] == '\0')
        make = "make";
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        unsetenv("MAKEFLAGS"); /* of the make that started us */
        unsetenv("MFLAGS");
        unsetenv("MAKELEVEL");
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execlp(make, make, "-s", "--no-print-directory", d->options->so, (char *)NULL);
        fprintf(stderr, "graftctl: dev: cannot run %s: %s\n", make, strerror(errno));
        _exit(127);
    }
    int status = -1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid < 0 ? -1 : status;
}

static bool is_new(struct dev *d, struct stat *st)
{
    return st->st_ino != d->built.st_ino || st->st_size != d->built.st_size ||
           st->st_mtim.tv_sec != d->built.st_mtim.tv_sec ||
           st->st_mtim.tv_nsec != d->built.st_mtim.tv_nsec;
}

/* ---- Signals --------------------------------------------------------------------------------- */

static void take_signals(struct dev *d)
{
    struct signalfd_siginfo info;
    int status = 0;
    while (read(d->signals, &info, sizeof info) == (ssize_t)sizeof info)
        d->over = d->over || info.ssi_signo != SIGCHLD;
    if (!d->over && dev_server_ended(&d->server, &status)) {
        fprintf(stderr, "graftctl: dev: graftd has ended (%s %d)\n",
                WIFEXITED(status) ? "exit" : "signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        d->over = true;
        d->rc = 1;
    }
}

/* ---- Swaps ----------------------------------------------------------------------------------- */

/* A call of the server's that may last as long as a plugin's init does, on a thread of its own:
 * Ctrl-C must end it. */
struct call {
    struct dev_server server;
    struct buf said;
    bool good;
    int done; /* an eventfd */
};

static void *call_thread(void *arg)
{
    struct call *c = arg;
    c->good = dev_server_reload(&c->server, &c->said);
    eventfd_write(c->done, 1);
    return NULL;
}

/* True: it has answered. False: d->over; a call that still waits is left alone, the program ends.
 */
static bool wait_for_call(struct dev *d, const struct call *c)
{
    int patience = PATIENT_MS;
    while (!d->over) {
        struct pollfd p[] = { { .fd = c->done, .events = POLLIN },
                              { .fd = d->signals, .events = POLLIN } };
        int n = poll(p, ARRAY_LEN(p), patience);
        if (n == 0) {
            say("the server still loads %s: does init, ready or start wait for something? Ctrl-C "
                "ends",
                d->options->so);
            patience = -1;
        }
        if (n > 0 && p[0].revents != 0)
            return true;
        if (n > 0)
            take_signals(d);
    }
    return false;
}

/* False: d->over. */
static bool reload(struct dev *d, bool *good, struct buf *said)
{
    pthread_t thread;
    struct call *c = calloc(1, sizeof *c);
    if (c != NULL)
        *c = (struct call){ .server = d->server, .done = eventfd(0, EFD_CLOEXEC) };
    if (c == NULL || c->done < 0 || pthread_create(&thread, NULL, call_thread, c) != 0) {
        if (c != NULL && c->done >= 0)
            close(c->done);
        free(c);
        *good = dev_server_reload(&d->server, said);
        return true;
    }
    if (!wait_for_call(d, c)) {
        pthread_detach(thread);
        return false;
    }
    pthread_join(thread, NULL);
    *good = c->good;
    *said = c->said;
    close(c->done);
    free(c);
    return true;
}

/* False: it did not come so far that the server could say anything. */
static bool swap(struct dev *d, uint64_t began)
{
    struct buf said = { 0 };
    struct err err;
    char built[32], swapped[32];
    uint64_t from = clock_us();
    bool starts = d->server.own && d->server.pid == 0;
    if (dev_server_install(&d->server, d->options->so, &err) != 0 ||
        (starts && dev_server_start(&d->server, &err) != 0)) {
        say("failed: %s", err.text);
        return false;
    }
    bool good;
    if (!reload(d, &good, &said))
        return false;
    show_duration(built, from - began);
    show_duration(swapped, clock_us() - from);
    buf_puts(&said, "");
    if (good && starts)
        say("%s: built in %s, graftd started in %s", d->options->so, built, swapped);
    else if (good)
        say("%s: built in %s, swapped in %s", said.data, built, swapped);
    else
        say("refused, what served before serves: %s", said.data);
    buf_fini(&said);
    return true;
}

static void turn(struct dev *d)
{
    uint64_t began = clock_us();
    struct stat st;
    bool configured = d->configured && d->server.own;
    d->configured = false;
    int status = run_make(d);
    if (status != 0) {
        say("not built, what served before serves (make: %s %d)",
            WIFEXITED(status) ? "exit" : "signal",
            WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        return;
    }
    if (stat(d->options->so, &st) != 0) {
        say("make has not made %s", d->options->so);
        return;
    }
    if (!is_new(d, &st) && !configured)
        return;
    if (swap(d, began))
        d->built = st;
}

/* ---- The loop -------------------------------------------------------------------------------- */

static int loop(struct dev *d)
{
    while (!d->over) {
        struct pollfd p[] = { { .fd = d->inotify, .events = POLLIN },
                              { .fd = d->signals, .events = POLLIN } };
        if (poll(p, ARRAY_LEN(p), -1) < 0 && errno != EINTR) {
            perror("graftctl: dev: poll");
            return 1;
        }
        if (p[1].revents != 0)
            take_signals(d);
        if (!d->over && p[0].revents != 0 && settle(d))
            turn(d);
    }
    return d->rc;
}

static int open_all(struct dev *d, struct err *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    d->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    d->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (d->signals < 0 || d->inotify < 0)
        return err_set(err, "cannot watch this folder: %s", strerror(errno));
    watch_folder(d, ".", 0);
    if (d->folders == 0)
        return err_set(err, "cannot watch this folder: %s", strerror(errno));
    return dev_server_init(&d->server, d->options->control,
                           d->options->plugins != NULL ? d->options->plugins : "",
                           d->options->listen, err);
}

int dev_run(const struct dev_options *options)
{
    struct dev d = { .options = options, .inotify = -1, .signals = -1 };
    struct err err;
    size_t len = strlen(options->so);
    if (len < 4 || strcmp(options->so + len - 3, ".so") != 0) {
        fprintf(stderr, "graftctl: dev: '%s' is no NAME.so\n", options->so);
        return 2;
    }
    if (options->control[0] != '\0' && options->plugins == NULL) {
        fprintf(stderr,
                "graftctl: dev: --control needs --plugins DIR, that server's plugin folder\n");
        return 2;
    }
    int rc = open_all(&d, &err);
    if (rc != 0) {
        fprintf(stderr, "graftctl: dev: %s\n", err.text);
        rc = 1;
    } else {
        say("watching; Ctrl-C ends%s%s", options->listen != NULL ? "; serves on " : "",
            options->listen != NULL ? options->listen : "");
        turn(&d);
        rc = loop(&d);
    }
    dev_server_stop(&d.server);
    if (d.inotify >= 0)
        close(d.inotify);
    if (d.signals >= 0)
        close(d.signals);
    return rc;
}
