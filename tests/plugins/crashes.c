/*
 * GET /crashes/HOW ends the server process: segv, abort, overflow (the stack), double-free, fpe,
 * ill, exit, offload (SIGSEGV on a pool thread), thread (on one of its own), loop (never returns).
 * fork-segv and fork-exit end a child process alone.
 * GET /crashes/pid says who serves. `when` in the configuration crashes by itself: "init", "every"
 * (100 ms after the start).
 */
#include "contract.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Functions of their own, whatever is optimized; what they do is not for a sanitizer to find. */
#if defined(__clang__)
#define APART __attribute__((noinline, no_sanitize("undefined", "address", "thread"))) static
#else
#define APART                                                                                      \
    __attribute__((noinline, noclone, no_sanitize("undefined", "address", "thread"))) static
#endif

static volatile int zero;
static int *volatile nowhere;

APART void sink_segv(void)
{
    *nowhere = 1;
}

APART void sink_abort(void)
{
    abort();
}

APART int sink_overflow(volatile char *above)
{
    volatile char block[4096];
    block[0] = above[0];
    return zero != 0 ? 0 : sink_overflow(block) + block[0];
}

APART void sink_double_free(void)
{
    char *volatile same = malloc(100);
    free(same);
    free(same);
}

APART int sink_fpe(void)
{
    return 77777 / zero;
}

APART void sink_ill(void)
{
    __builtin_trap();
}

APART void sink_loop(void)
{
    while (zero == 0)
        ;
}

static void in_pool(void *arg)
{
    (void)arg;
    sink_segv();
}

static void *in_thread(void *arg)
{
    (void)arg;
    sink_segv();
    return NULL;
}

/* What goes on in a child that was forked is not the server's. */
static void fork_and(void (*what)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        what();
        _exit(1);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static void call_exit(void)
{
    exit(7);
}

static void then(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "still here\n");
    graft_done(req);
}

static graft_next crash(graft_req *req, void *state)
{
    graft_str how = graft_param(req, "how");
    pthread_t thread;
    char text[32];
    (void)state;
    if (str_is(how, "segv"))
        sink_segv();
    else if (str_is(how, "abort"))
        sink_abort();
    else if (str_is(how, "overflow"))
        zero = sink_overflow((volatile char *)text);
    else if (str_is(how, "double-free"))
        sink_double_free();
    else if (str_is(how, "fpe"))
        zero = sink_fpe();
    else if (str_is(how, "ill"))
        sink_ill();
    else if (str_is(how, "exit"))
        call_exit();
    else if (str_is(how, "fork-segv"))
        fork_and(sink_segv);
    else if (str_is(how, "fork-exit"))
        fork_and(call_exit);
    else if (str_is(how, "loop"))
        sink_loop();
    else if (str_is(how, "offload"))
        return graft_offload(req, in_pool, then, NULL) == 0 ? GRAFT_LATER
                                                            : graft_text(req, 503, "busy\n");
    else if (str_is(how, "thread") && pthread_create(&thread, NULL, in_thread, NULL) == 0)
        pthread_join(thread, NULL);
    snprintf(text, sizeof text, "%ld\n", (long)getpid());
    return graft_text(req, 200, text);
}

static void every(void *state)
{
    (void)state;
    sink_segv();
}

static int init(graft_self *self, void **state)
{
    const char *when = graft_config_str(self, "when", "");
    *state = NULL;
    if (strcmp(when, "init") == 0)
        sink_segv();
    return strcmp(when, "every") == 0 ? graft_every(self, 100, every, NULL) : 0;
}

GRAFT_PLUGIN(
    .name    = "crashes",
    .version = "1.2.3",
    .init    = init,
    .routes  = (const graft_route[]){ { "GET", "/crashes/:how", crash, 0 }, { 0 } },
)
