/*
 * The last words of a broken invariant, the standard descriptors, and allocation for code that
 * cannot go on without memory (start-up, small control-side objects). Any thread.
 */
#include "base/base.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Thread_local enum thread_kind thread_kind = THREAD_OTHER;
_Thread_local unsigned thread_slot = UINT_MAX;

/* write(2), not stdio: whatever is broken may hold stdio's locks. */
static void last_words(const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

void standard_fds_hold(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
        if (fd < 0) /* a root without devices: writing there fails, as it does now */
            fd = open("/", O_PATH | O_DIRECTORY);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

void check_failed(const char *file, int line, const char *what)
{
    static const char *const kinds[] = { "other", "control", "loader", "worker", "pool" };
    char text[512];
    int n = snprintf(text, sizeof(text),
                     "graftd: %s:%d: this must hold and does not: %s (%s thread): aborting\n", file,
                     line, what, kinds[thread_kind]);
    if (n > 0)
        last_words(text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
    abort();
}

_Noreturn static void out_of_memory(void)
{
    static const char text[] = "graftd: out of memory: give it more, or lower limits.connections\n";
    last_words(text, sizeof(text) - 1);
    _exit(1);
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (p == NULL)
        out_of_memory();
    return p;
}

char *xstrdup(const char *s)
{
    char *copy = strdup(s);
    if (copy == NULL)
        out_of_memory();
    return copy;
}
