/*
 * Names for a crash, found by a process of its own: the files that it reads, and the record that
 * names them, are what the server process has left, which may be anything, and libelf was not
 * written against that. Whatever it does there, it does as the server's user, in a process that has
 * no other rights, for a limited time; what comes back is text of fixed size, and is ended here.
 */
#include "run/supervisor_private.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMES_MS 10000

/* Not more than the pipe holds, so that it waits for nobody. */
_Static_assert(sizeof(struct symbolized) <= 65536, "a pipe takes it at once");

_Noreturn static void find_names(const struct crash_frame *f, const struct crash_area *area,
                                 const char *stage, bool all, int to)
{
    static struct symbolized sym;
    struct err err;
    if (root_give_up(NULL, &err) != 0)
        _exit(1);
    if (all)
        symbolize(f, area->stack, area->maps, stage, &sym);
    else
        symbolize_staged(f, area->stack, area->maps, stage, sym.staged);
    const char *at = (const char *)&sym;
    for (size_t left = sizeof sym; left > 0;) {
        ssize_t n = write(to, at, left);
        if (n <= 0)
            _exit(1);
        at += n;
        left -= (size_t)n;
    }
    _exit(0);
}

static bool read_whole(int fd, struct symbolized *out)
{
    uint64_t until = clock_ms() + NAMES_MS;
    for (size_t have = 0; have < sizeof *out;) {
        uint64_t now = clock_ms();
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (now >= until || (poll(&p, 1, (int)(until - now)) < 0 && errno != EINTR))
            return false;
        ssize_t n = read(fd, (char *)out + have, sizeof *out - have);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        have += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static void end_texts(struct symbolized *sym)
{
    sym->function[sizeof sym->function - 1] = '\0';
    sym->staged[sizeof sym->staged - 1] = '\0';
    if (sym->n > SYMBOLIZE_FRAMES)
        sym->n = SYMBOLIZE_FRAMES;
    for (unsigned i = 0; i < sym->n; i++)
        sym->frames[i][sizeof sym->frames[i] - 1] = '\0';
}

void supervisor_names(const struct crash_frame *f, const struct crash_area *area, const char *stage,
                      bool all, struct symbolized *out)
{
    int ends[2];
    memset(out, 0, sizeof *out);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return;
    pid_t pid = fork();
    if (pid == 0)
        find_names(f, area, stage, all, ends[1]);
    close(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    if (pid < 0 || !read_whole(ends[0], out))
        memset(out, 0, sizeof *out);
    close(ends[0]);
    if (pid > 0) {
        root_kill(pid, SIGKILL); /* it has said all, or will not */
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    end_texts(out);
}
