/*
 * Unit tests that speak TAP, in one header: include it once, write cases, link; main() is here.
 *
 *     TEST(empty_list_has_no_head) { ok(list_empty(&l)); is(list_len(&l), 0); }
 *
 * Each case is one TAP line and runs in a fork of its own, under an alarm. It fails when a check
 * in it failed, when it crashed, exited or hung, and when it left a descriptor open that it did not
 * find open. "foo_test NAME..." runs only these cases; TAP_NOFORK=1 runs them in this process, for
 * gdb.
 */
#pragma once

#include <dirent.h>
#include <stdbool.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TAP_FDS     1024
#define TAP_SECONDS 60 /* generous: sanitizers on a busy machine; a hang is for ever anyway */
#define TAP_GOOD                                                                                   \
    100 /* exit status of a case that came to its end: exit(0) in one proves nothing               \
         */

struct tap_case {
    const char *name;
    void (*run)(void);
    unsigned seconds;
    struct tap_case *next;
};

static struct tap_case *tap_cases, **tap_tail = &tap_cases;
static void (*tap_sweep)(void); /* what the runner does after each case; NULL: nothing */
static unsigned tap_bad;        /* failed checks of the case that runs; any thread may add */

#define TEST(id) TEST_WITHIN(id, TAP_SECONDS)
#define TEST_WITHIN(id, secs)                                                                      \
    static void test_##id(void);                                                                   \
    __attribute__((constructor)) static void tap_add_##id(void)                                    \
    {                                                                                              \
        static struct tap_case c = { #id, test_##id, secs, NULL };                                 \
        *tap_tail = &c;                                                                            \
        tap_tail = &c.next;                                                                        \
    }                                                                                              \
    static void test_##id(void)

/* Checks: each evaluates to whether it held and goes on; must() ends the case when it did not. */
#define ok(cond)          tap_check((cond) ? true : false, __FILE__, __LINE__, #cond)
#define is(got, want)     tap_is((long)(got), (long)(want), __FILE__, __LINE__, #got)
#define is_str(got, want) tap_is_str((got), (want), __FILE__, __LINE__, #got)
#define fail(text)        tap_check(false, __FILE__, __LINE__, (text))
#define must(cond)        ((void)(ok(cond) || (exit(1), 0)))

static inline bool tap_check(bool held, const char *file, int line, const char *what)
{
    if (!held) {
        fprintf(stderr, "# %s:%d: does not hold: %s\n", file, line, what);
        __atomic_add_fetch(&tap_bad, 1, __ATOMIC_RELAXED);
    }
    return held;
}

static inline bool tap_is(long got, long want, const char *file, int line, const char *what)
{
    char text[512];
    snprintf(text, sizeof text, "%s: got %ld, expected %ld", what, got, want);
    return tap_check(got == want, file, line, text);
}

static inline bool tap_is_str(const char *got, const char *want, const char *file, int line,
                              const char *what)
{
    char text[2048];
    bool same = got == want || (got != NULL && want != NULL && strcmp(got, want) == 0);
    snprintf(text, sizeof text, "%.200s:\n#      got: %.900s\n# expected: %.900s", what,
             got != NULL ? got : "(null)", want != NULL ? want : "(null)");
    return tap_check(same, file, line, text);
}

/* Marks the open descriptors in `open`; with `before`, complains of those that were not open then.
 */
static void tap_fds(bool open[TAP_FDS], const bool *before)
{
    DIR *dir = opendir("/proc/self/fd");
    must(dir != NULL);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        long fd = strtol(e->d_name, NULL, 10);
        if (e->d_name[0] == '.' || fd == dirfd(dir) || fd >= TAP_FDS)
            continue;
        open[fd] = true;
        if (before != NULL && !before[fd]) {
            char link[64], to[PATH_MAX] = "", text[PATH_MAX + 64];
            snprintf(link, sizeof link, "/proc/self/fd/%ld", fd);
            must(readlink(link, to, sizeof to - 1) > 0);
            snprintf(text, sizeof text, "descriptor %ld left open: %s", fd, to);
            fail(text);
        }
    }
    closedir(dir);
}

static bool tap_run(const struct tap_case *c)
{
    bool before[TAP_FDS] = { false }, after[TAP_FDS] = { false };
    tap_bad = 0;
    tap_fds(before, NULL);
    c->run();
    tap_fds(after, before);
    return tap_bad == 0;
}

static bool tap_fork(const struct tap_case *c)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        alarm(c->seconds);
        exit(tap_run(c) ? TAP_GOOD
                        : 1); /* exit, not _exit: the leak check and coverage hang on it */
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return false;
    kill(-pid, SIGKILL); /* what the case left running would hold our output open */
    if (WIFSIGNALED(status))
        fprintf(stderr, "# %s: ended by signal %d (%s)\n", c->name, WTERMSIG(status),
                WTERMSIG(status) == SIGALRM ? "took too long" : strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && WEXITSTATUS(status) == TAP_GOOD;
}

int main(int argc, char **argv)
{
    unsigned n = 0, failed = 0;
    for (const struct tap_case *c = tap_cases; c != NULL; c = c->next) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc && !wanted; i++)
            wanted = strcmp(argv[i], c->name) == 0;
        if (!wanted)
            continue;
        bool good = getenv("TAP_NOFORK") != NULL ? tap_run(c) : tap_fork(c);
        failed += !good;
        if (tap_sweep != NULL)
            tap_sweep();
        printf("%s %u - %s\n", good ? "ok" : "not ok", ++n, c->name);
    }
    printf("1..%u\n", n);
    return failed > 0 || n == 0;
}
