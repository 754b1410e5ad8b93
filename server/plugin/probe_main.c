/*
 * graft-probe SO TIMEOUT_MS PARENT: dlopens a staged plugin and reports its descriptor to
 * descriptor 3, as plugin/probe_wire.h says. Not for people: graftd and graftctl run it.
 *
 * Whatever the plugin's constructors do happens here. It links libevent's core, because plugins may
 * count on the server having it, and nothing else: starting it is part of every swap.
 */
#include "base/base.h"
#include "plugin/probe_wire.h"

#include <dlfcn.h>
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* In builds with a sanitizer: its own handlers would turn a crash into an exit and hide its signal,
   and to leave from inside its dlopen (a constructor that exits) is an error to TSan. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(SANITIZED)
#define NO_HANDLERS                                                                                \
    "handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0:detect_leaks=0"
#define FOR_RUNTIME __attribute__((visibility("default")))
FOR_RUNTIME const char *__asan_default_options(void);
FOR_RUNTIME const char *__tsan_default_options(void);
const char *__asan_default_options(void)
{
    return NO_HANDLERS;
}
const char *__tsan_default_options(void)
{
    return NO_HANDLERS;
}

static void *open_plugin(const char *so_path)
{
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    union {
        void *symbol;
        void *(*call)(const char *, int);
    } own = { libc != NULL ? dlsym(libc, "dlopen") : NULL };
    return (own.symbol != NULL ? own.call : dlopen)(so_path, RTLD_NOW | RTLD_LOCAL);
}
#else
static void *open_plugin(const char *so_path)
{
    return dlopen(so_path, RTLD_NOW | RTLD_LOCAL);
}
#endif

/* Ends the process without running the plugin's destructors. */
static void send_frame(enum probe_frame_type type, const void *data, size_t len)
{
    struct probe_frame head = { (uint32_t)type, (uint32_t)len };
    const char *parts[2] = { (const char *)&head, data };
    size_t left[2] = { sizeof(head), len };
    for (int i = 0; i < 2; i++) {
        while (left[i] > 0) {
            ssize_t n = write(PROBE_FD, parts[i], left[i]);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                _exit(PROBE_EXIT_NO_READER);
            parts[i] += n;
            left[i] -= (size_t)n;
        }
    }
}

_Noreturn static void send_failed(const char *text)
{
    send_frame(PROBE_FAILED, text, strlen(text));
    _exit(0);
}

/* Lives no longer than its parent, holds nothing of it but the pipe, leaves no core file, burns no
   more CPU than the time it is given. */
static void confine(unsigned long timeout_ms, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(PROBE_EXIT_USAGE); /* it died before it could be watched */
    prctl(PR_SET_NAME, "graft-probe");
    struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    rlim_t seconds = (rlim_t)(timeout_ms / 1000 + 1);
    struct rlimit cpu = { seconds, seconds + 1 };
    if (timeout_ms > 0)
        setrlimit(RLIMIT_CPU, &cpu);
#ifdef SYS_close_range
    syscall(SYS_close_range, PROBE_FD + 1, ~0u, 0u);
#endif
}

static void report(const char *so_path)
{
    struct err err = { "" };
    struct descriptor d;
    struct buf out = { 0 };
    const void *exported = NULL;
    size_t size = 0;

    send_frame(PROBE_BEGUN, "", 0);
    void *dl = open_plugin(so_path);
    if (dl == NULL) {
        const char *why = dlerror();
        send_failed(why != NULL ? why : "dlopen failed without saying why");
    }
    send_frame(PROBE_LOADED, "", 0);
    if (descriptor_find(dl, &exported, &size, &err) != 0 ||
        descriptor_copy(exported, size, &d, &err) != 0)
        send_failed(err.text);
    if (descriptor_encode(&d, &out) != 0)
        send_failed("out of memory in graft-probe");
    send_frame(PROBE_DONE, out.data, out.len);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return PROBE_EXIT_USAGE;
    confine(strtoul(argv[2], NULL, 10), (pid_t)strtol(argv[3], NULL, 10));
    if (event_get_version_number() == 0) /* keeps libevent linked under --as-needed */
        return PROBE_EXIT_USAGE;
    report(argv[1]);
    _exit(0);
}
