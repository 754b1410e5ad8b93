/*
 * The handler of fatal signals. It runs on the thread that crashed, on that thread's alternate
 * stack, whatever locks are held: it takes none, allocates nothing, and follows only pointers that
 * this thread itself published (loop->doing, doing_now). One thread records; others that crash
 * meanwhile wait for the end that it brings.
 */
#include "run/crash.h"

#include "net/loop.h"
#include "plugin/doing.h"
#include "plugin/version.h"
#include "run/supervisor_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static const int fatal[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS };

#define PAGE       4096u /* the smallest there is: steps over a guard */
#define GUARD_MAX  16    /* pages */
#define WAIT_TURNS 500   /* of 10 ms: a second one that crashes waits so long for the first */

static struct crash_area *the_area;
static _Atomic(int) the_wire; /* -1: nobody is to be woken */
static pid_t the_pid;         /* a child that a plugin forks has the handler, too, and is not us */

/* ---- What the handler may call ----------------------------------------------------------------
 */

static void put(char *to, size_t size, const char *from)
{
    size_t i = 0;
    for (; from != NULL && i + 1 < size && from[i] != '\0'; i++)
        to[i] = from[i];
    to[i] = '\0';
}

#define PUT(to, from) put(to, sizeof(to), from)

static void read_registers(struct crash_frame *f, const ucontext_t *at)
{
#if defined(__x86_64__)
    f->pc = (uint64_t)at->uc_mcontext.gregs[REG_RIP];
    f->sp = (uint64_t)at->uc_mcontext.gregs[REG_RSP];
    f->fp = (uint64_t)at->uc_mcontext.gregs[REG_RBP];
#elif defined(__aarch64__)
    f->pc = at->uc_mcontext.pc;
    f->sp = at->uc_mcontext.sp;
    f->fp = at->uc_mcontext.regs[29];
#else
    (void)f;
    (void)at;
#endif
}

/* By the kernel, which tells what cannot be read instead of crashing again. A stack that is full
   ends at its guard: what is above it is taken. */
void crash_read_stack(struct crash_area *area)
{
    struct crash_frame *f = &area->frame;
    int fd = f->sp != 0 ? open("/proc/self/mem", O_RDONLY | O_CLOEXEC) : -1;
    uint64_t at = f->sp;
    for (int i = 0; fd >= 0 && i < GUARD_MAX; i++) {
        ssize_t n = pread(fd, area->stack, sizeof area->stack, (off_t)at);
        if (n > 0) {
            f->stack_at = at;
            f->stack_len = (uint32_t)n;
            break;
        }
        at = (at & ~(uint64_t)(PAGE - 1)) + PAGE;
    }
    if (fd >= 0)
        close(fd);
}

void crash_read_thread(struct crash_area *area, const void *context)
{
    read_registers(&area->frame, context);
    crash_read_stack(area);
}

static void read_maps(struct crash_area *area)
{
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    while (fd >= 0 && len < sizeof area->maps) {
        ssize_t n = read(fd, area->maps + len, sizeof area->maps - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    if (fd >= 0)
        close(fd);
    area->frame.maps_len = (uint32_t)len;
}

static void name_version(struct crash_frame *f)
{
    const struct loop *l = loop_current;
    const struct version *v = l != NULL ? l->doing.version : doing_now.version;
    if (v == NULL)
        return;
    PUT(f->plugin, v->plugin);
    PUT(f->version, v->desc.version);
    PUT(f->id, v->id);
    PUT(f->sha256, v->sha256);
    PUT(f->config_sha256, v->config_sha256);
    PUT(f->route, l != NULL ? l->doing.route : doing_now.route);
    PUT(f->callback, l != NULL ? l->doing.callback : doing_now.callback);
}

static void record(struct crash_area *area, int signo, int code, const ucontext_t *at)
{
    struct crash_frame *f = &area->frame;
    f->signo = signo;
    f->code = code;
    f->pid = (int32_t)the_pid;
    f->tid = (int32_t)syscall(SYS_gettid);
    prctl(PR_GET_NAME, f->thread, 0, 0, 0);
    name_version(f);
    crash_read_thread(area, at);
    read_maps(area);
    atomic_store(&area->state, CRASH_WHOLE);
}

/* ---- The handler ------------------------------------------------------------------------------
 */

/* Returning makes a faulting instruction fault again, with the default action: the core shows it
   as it was. What was sent is sent once more. */
static void let_it_happen(int signo, const siginfo_t *info)
{
    struct sigaction usual = { .sa_handler = SIG_DFL };
    sigaction(signo, &usual, NULL);
    bool faults_again = info->si_code > 0 &&
                        (signo == SIGSEGV || signo == SIGBUS || signo == SIGFPE || signo == SIGILL);
    if (!faults_again)
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signo);
}

/* The first to crash; another thread of this process may. */
static bool is_first(void)
{
    uint32_t none = CRASH_NONE;
    return getpid() == the_pid &&
           atomic_compare_exchange_strong(&the_area->state, &none, CRASH_WRITING);
}

static void wait_for_the_end(void)
{
    struct timespec turn = { .tv_nsec = 10000000 };
    for (int i = 0; i < WAIT_TURNS && getpid() == the_pid; i++)
        nanosleep(&turn, NULL);
}

static void on_fatal(int signo, siginfo_t *info, void *context)
{
    int saved = errno;
    if (is_first()) {
        if (info->si_code > 0 && signo != SIGABRT)
            the_area->frame.address = (uint64_t)(uintptr_t)info->si_addr;
        record(the_area, signo, info->si_code, context);
        wire_crash(the_wire);
    } else {
        wait_for_the_end();
    }
    let_it_happen(signo, info);
    errno = saved;
}

/* We leave by _exit: whoever calls exit is a plugin. It ends here: what exit would still call are
   destructors of every plugin, while workers serve and another process has the sockets already. One
   that hung there would keep this one alive for ever. */
static void on_exit_called(int status, void *arg)
{
    ucontext_t here;
    (void)arg;
    if (getcontext(&here) != 0 || !is_first())
        return;
    record(the_area, 0, status & 0xff, &here);
    wire_crash(the_wire);
    _exit(status);
}

void crash_forget_wire(void)
{
    the_wire = -1;
}

void crash_install(struct crash_area *area, int wire)
{
    struct sigaction act = { .sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    the_area = area;
    the_wire = wire;
    the_pid = getpid();
    sigfillset(&act.sa_mask); /* a fault in the handler ends the process at once */
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++)
        sigaction(fatal[i], &act, NULL);
    on_exit(on_exit_called, NULL); /* without memory for it: the exit is told without a name */
}
