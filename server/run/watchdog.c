/*
 * See watchdog.h. Where a worker is: a thread that waits in the kernel is read from
 * /proc/self/task/TID/syscall, without its noticing. One that computes gets a signal, whose
 * handler copies registers and stack; a system call of its is not interrupted, since it is in none.
 */
#include "run/watchdog.h"

#include "base/clock.h"
#include "base/thread.h"
#include "plugin/version.h"
#include "run/crash.h"
#include "run/symbolize.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WATCHDOG_MAGIC 0x77646f67u
#define LOOK_MS        250  /* how often loops are looked at */
#define ANSWER_MS      1000 /* that a worker has to say where it is */
#define DIE_MS         3000 /* from SIGABRT to SIGKILL */
#define LOOK_SIGNAL    (SIGRTMAX - 3)

struct seen {             /* by worker */
    uint64_t reported_us; /* the turn after which it stood still, when that was reported */
};

struct watchdog {
    unsigned magic;
    struct watchdog_deps deps;
    unsigned limit_ms;
    bool kill;
    struct event event;
    struct seen *seen;
    /* The one report that is being made; the thread's until `msg` comes back. */
    bool busy;
    unsigned worker;
    int tid;
    uint64_t turned_us;
    struct symbolized where;
    struct msg msg;
};

/* What the handler fills: one at a time. */
static struct crash_area *look;

/* ---- On the worker --------------------------------------------------------------------------- */

static void on_look(int signo, siginfo_t *info, void *context)
{
    int saved = errno;
    uint32_t asked = CRASH_WRITING;
    (void)signo;
    if (info->si_code == SI_TKILL && info->si_pid == getpid() &&
        atomic_load(&look->state) == asked && look->frame.tid == (int32_t)syscall(SYS_gettid)) {
        crash_read_thread(look, context);
        atomic_store(&look->state, CRASH_WHOLE);
    }
    errno = saved;
}

void watchdog_prepare(void)
{
    struct sigaction act = { .sa_sigaction = on_look,
                             .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
    look = xcalloc(1, sizeof *look);
    sigfillset(&act.sa_mask);
    sigaction(LOOK_SIGNAL, &act, NULL);
}

void watchdog_worker(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, LOOK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- Looking: on a thread of its own --------------------------------------------------------- */

static ssize_t read_file(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    ssize_t n = 0;
    while (fd >= 0 && len < size && (n = read(fd, out + len, size - len)) > 0)
        len += (size_t)n;
    if (fd >= 0)
        close(fd);
    return fd >= 0 && n >= 0 ? (ssize_t)len : -1;
}

/* "NUMBER ARGUMENTS SP PC" while it waits in the kernel, else "running". */
static bool read_waiting(int tid)
{
    char path[64], text[256];
    unsigned long long sp, pc;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
    ssize_t n = read_file(path, text, sizeof text - 1);
    if (n <= 0)
        return false;
    text[n] = '\0';
    if (sscanf(text, "%*d %*s %*s %*s %*s %*s %*s %llx %llx", &sp, &pc) != 2 &&
        sscanf(text, "-1 %llx %llx", &sp, &pc) != 2)
        return false;
    look->frame.sp = sp;
    look->frame.pc = pc;
    crash_read_stack(look);
    return true;
}

static void nap(unsigned ms)
{
    struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };
    nanosleep(&ts, NULL);
}

static bool ask(int tid)
{
    atomic_store(&look->state, CRASH_WRITING);
    if (syscall(SYS_tgkill, getpid(), tid, LOOK_SIGNAL) != 0)
        return false;
    for (unsigned ms = 0; ms < ANSWER_MS && atomic_load(&look->state) != CRASH_WHOLE; ms += 5)
        nap(5);
    uint32_t asked = CRASH_WRITING; /* too late now: the handler must not write any more */
    return !atomic_compare_exchange_strong(&look->state, &asked, CRASH_NONE);
}

static void *look_into(void *arg)
{
    struct watchdog *dog = arg;
    CHECK(dog, WATCHDOG_MAGIC);
    memset(&dog->where, 0, sizeof dog->where);
    memset(&look->frame, 0, sizeof look->frame);
    look->frame.tid = dog->tid;
    if (read_waiting(dog->tid) || ask(dog->tid)) {
        ssize_t n = read_file("/proc/self/maps", look->maps, sizeof look->maps);
        look->frame.maps_len = n > 0 ? (uint32_t)n : 0;
        symbolize(&look->frame, look->stack, look->maps, dog->deps.stage, &dog->where);
    }
    inbox_send(dog->deps.inbox, &dog->msg);
    return NULL;
}

/* ---- Killing: on a thread of its own ----------------------------------------------------------
 */

/* On the worker itself, so that the crash is told as its own. */
static void *end_process(void *arg)
{
    const struct watchdog *dog = arg;
    syscall(SYS_tgkill, getpid(), dog->tid, SIGABRT);
    nap(DIE_MS);
    kill(getpid(), SIGKILL);
    return NULL;
}

/* ---- Control --------------------------------------------------------------------------------- */

static void log_doing(struct log_line *line, const struct loop *l)
{
    const struct version *v = __atomic_load_n(&l->doing.version, __ATOMIC_ACQUIRE);
    if (v == NULL)
        return;
    log_z(line, "plugin", v->plugin);
    log_z(line, "version", v->desc.version);
    log_z(line, "id", v->id);
    log_z(line, "route", __atomic_load_n(&l->doing.route, __ATOMIC_RELAXED));
    log_z(line, "callback", __atomic_load_n(&l->doing.callback, __ATOMIC_RELAXED));
}

static void report(const struct watchdog *dog, const struct loop *l, bool kills)
{
    static struct log_line line; /* 4 KB; the control thread's alone */
    struct buf stack = { 0 };
    uint64_t age_ms = (clock_us() - dog->turned_us) / 1000u;
    log_begin(&line, LOG_WARN, "worker_stuck",
              "worker %u has not turned its loop for %llu ms%s%s%s", dog->worker,
              (unsigned long long)age_ms, dog->where.function[0] != '\0' ? ": in " : "",
              dog->where.function, kills ? ": the process is ended" : "");
    log_u64(&line, "worker", dog->worker);
    log_u64(&line, "age_ms", age_ms);
    log_doing(&line, l);
    if (dog->where.function[0] != '\0')
        log_z(&line, "function", dog->where.function);
    for (unsigned i = 0; i < dog->where.n; i++)
        buf_printf(&stack, "%s%s", i > 0 ? ", " : "", dog->where.frames[i]);
    if (stack.len > 0)
        log_z(&line, "stack", stack.data);
    log_end(&line);
    buf_fini(&stack);
}

static uint64_t turned_us(const struct loop *l)
{
    return COUNTER_READ(l->stats.turned_us);
}

static void on_looked(struct msg *m)
{
    struct watchdog *dog = container_of(m, struct watchdog, msg);
    struct err err;
    ON_CONTROL();
    CHECK(dog, WATCHDOG_MAGIC);
    const struct loop *l = dog->deps.loops[dog->worker];
    if (turned_us(l) != dog->turned_us) {
        dog->busy = false; /* it turned meanwhile */
        return;
    }
    bool kills = dog->kill && !dog->deps.spared(dog->deps.arg);
    report(dog, l, kills);
    dog->seen[dog->worker].reported_us = dog->turned_us;
    if (!kills)
        dog->busy = false;
    else if (thread_start("watchdog", end_process, dog, &err) != 0)
        kill(getpid(), SIGKILL);
}

static void look_at(struct watchdog *dog, unsigned worker, uint64_t turned)
{
    struct err err;
    dog->busy = true;
    dog->worker = worker;
    dog->tid = __atomic_load_n(&dog->deps.loops[worker]->tid, __ATOMIC_RELAXED);
    dog->turned_us = turned;
    dog->msg.fn = on_looked;
    if (thread_start("watchdog", look_into, dog, &err) == 0)
        return;
    memset(&dog->where, 0, sizeof dog->where);
    on_looked(&dog->msg);
}

static void on_time(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct watchdog *dog = arg;
    uint64_t now = clock_us();
    CHECK(dog, WATCHDOG_MAGIC);
    for (unsigned i = 0; i < dog->deps.nloops && !dog->busy; i++) {
        uint64_t turned = turned_us(dog->deps.loops[i]);
        if (now > turned && now - turned >= (uint64_t)dog->limit_ms * 1000u &&
            dog->seen[i].reported_us != turned)
            look_at(dog, i, turned);
    }
}

void watchdog_configure(struct watchdog *dog, const struct config *cfg)
{
    CHECK(dog, WATCHDOG_MAGIC);
    dog->limit_ms = cfg->watchdog_ms;
    dog->kill = cfg->watchdog_kill;
}

int watchdog_open(struct watchdog **out, const struct watchdog_deps *deps, struct err *err)
{
    static const struct timeval often = { .tv_usec = LOOK_MS * 1000 };
    struct watchdog *dog = xcalloc(1, sizeof *dog);
    dog->magic = WATCHDOG_MAGIC;
    dog->deps = *deps;
    dog->seen = xcalloc(deps->nloops, sizeof *dog->seen);
    event_assign(&dog->event, deps->base, -1, EV_PERSIST, on_time, dog);
    if (event_add(&dog->event, &often) != 0)
        return err_set(err, "cannot set the watchdog's timer");
    *out = dog;
    return 0;
}
