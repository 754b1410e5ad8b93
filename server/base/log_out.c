/*
 * The writer of the log: control thread only, but for log_out_line and log_dropped. It takes lines
 * from the rings into one buffer and writes what the destination takes without blocking. stderr is
 * shared with others, so it is never made non-blocking: a pipe or terminal is opened once more for
 * a file description of our own, a socket is sent to with MSG_DONTWAIT, and where neither works
 * poll() is asked before each write of at most PIPE_BUF bytes. Lines are never split over two
 * writes unless the destination takes a part of one.
 */
#include "base/log_private.h"

#include "base/clock.h"
#include "base/root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define DRAIN_MAX   ((size_t)1 << 20) /* bytes taken in one call: other events want their turn */
#define TELL_US     1000000u          /* between two `dropped` events */
#define FILE_MODE   0640
#define STDERR_PATH "/proc/self/fd/2"

enum target_kind {
    TARGET_FILE,   /* write() does not wait for a reader */
    TARGET_STREAM, /* pipe or terminal, our own description, O_NONBLOCK */
    TARGET_POLLED, /* pipe or terminal that is shared */
    TARGET_SOCKET
};

struct target {
    int fd;
    bool owned;
    enum target_kind kind;
};

static struct {
    int wake_fd;
    struct target to;
    char *file; /* "" = stderr */
    size_t at, len;
    bool torn; /* the last byte that was written is not the end of a line */
    uint64_t told, told_at_us;
    uint64_t told_surely; /* `told` before the event that is still in the buffer */
    char buf[(size_t)64 << 10];
} out;

static _Atomic(bool) started;
static _Atomic(bool) awake;    /* the control thread has been, or need not be, woken */
static _Atomic(uint64_t) lost; /* lines that the destination did not take */

uint64_t log_dropped(void)
{
    return log_ring_dropped() + atomic_load_explicit(&lost, memory_order_relaxed);
}

static void wake(void)
{
    const uint64_t one = 1;
    while (write(out.wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void write_straight(const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
            return;
        }
        text += n;
        len -= (size_t)n;
    }
}

void log_out_line(const char *text, size_t len, uint64_t order_ns)
{
    if (!atomic_load_explicit(&started, memory_order_acquire)) {
        write_straight(text, len);
        return;
    }
    if (!log_ring_push(text, len, order_ns))
        return;
    if (!atomic_load(&awake) && !atomic_exchange(&awake, true))
        wake();
}

/* -- where it goes ------------------------------------------------------------------------- */

static enum target_kind shared_kind(mode_t mode)
{
    if (S_ISSOCK(mode))
        return TARGET_SOCKET;
    return S_ISFIFO(mode) || S_ISCHR(mode) ? TARGET_POLLED : TARGET_FILE;
}

static struct target open_stderr(void)
{
    struct target to = { .fd = STDERR_FILENO, .kind = TARGET_FILE };
    struct stat st;
    if (fstat(STDERR_FILENO, &st) == 0)
        to.kind = shared_kind(st.st_mode);
    if (to.kind != TARGET_POLLED)
        return to;
    int fd = open(STDERR_PATH, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0)
        to = (struct target){ .fd = fd, .owned = true, .kind = TARGET_STREAM };
    return to;
}

static int adopted = -1;

void log_adopt(int fd)
{
    adopted = fd;
}

int log_descriptor(void)
{
    return atomic_load(&started) && out.to.owned ? out.to.fd : -1;
}

static void take_adopted(struct target *to)
{
    struct stat st;
    *to = (struct target){ .fd = adopted, .owned = true, .kind = TARGET_STREAM };
    if (fstat(adopted, &st) == 0)
        to->kind = shared_kind(st.st_mode);
    if (to->kind == TARGET_POLLED && (fcntl(adopted, F_GETFL) & O_NONBLOCK) != 0)
        to->kind = TARGET_STREAM;
    adopted = -1;
}

static int open_file(struct target *to, const char *file, struct err *err)
{
    int fd =
        open(file, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, FILE_MODE);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        err_set(err,
                "cannot open the log file %s: %s: make its folder writable for this user, or "
                "change log.file",
                file, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *to = (struct target){ .fd = fd, .owned = true, .kind = TARGET_STREAM };
    if (shared_kind(st.st_mode) == TARGET_FILE)
        to->kind = TARGET_FILE;
    return 0;
}

static int open_target(struct target *to, const char *file, struct err *err)
{
    if (file[0] != '\0')
        return open_file(to, file, err);
    *to = open_stderr();
    return 0;
}

static void close_target(void)
{
    if (out.to.owned)
        close(out.to.fd);
    out.to = (struct target){ .fd = -1 };
}

/* -- writing ------------------------------------------------------------------------------- */

/* How much to write at once: for what others may read from or write to, only whole lines that
   together are at most PIPE_BUF, which a pipe takes whole or not at all. */
static size_t chunk(const char *p, size_t len)
{
    if (out.to.kind == TARGET_FILE || len <= PIPE_BUF)
        return len;
    for (size_t n = PIPE_BUF; n > 0; n--) {
        if (p[n - 1] == '\n')
            return n;
    }
    return PIPE_BUF;
}

/* Like write(), but never blocks: -1 with EAGAIN instead. */
static ssize_t write_some(const char *p, size_t len)
{
    struct pollfd poll_for = { .fd = out.to.fd, .events = POLLOUT };
    if (out.to.kind == TARGET_SOCKET)
        return send(out.to.fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (out.to.kind == TARGET_POLLED && poll(&poll_for, 1, 0) == 0) {
        errno = EAGAIN;
        return -1;
    }
    return write(out.to.fd, p, len);
}

static void count_lost(const char *p, size_t len)
{
    uint64_t lines = 0;
    size_t mended = out.at == 0 && p[0] == '\n' ? 1 : 0; /* see mend_torn: no line of its own */
    for (size_t i = mended; i < len; i++)
        lines += p[i] == '\n';
    atomic_fetch_add_explicit(&lost, lines, memory_order_relaxed);
}

static void empty_buffer(void)
{
    out.at = out.len = 0;
}

/* The buffer out: false when the destination would block. What it refuses is dropped. */
static bool write_buffer(void)
{
    while (out.at < out.len) {
        ssize_t n = write_some(out.buf + out.at, chunk(out.buf + out.at, out.len - out.at));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return false;
        if (n <= 0) {
            count_lost(out.buf + out.at, out.len - out.at);
            out.told = out.told_surely;
            break;
        }
        out.at += (size_t)n;
        out.torn = out.buf[out.at - 1] != '\n';
    }
    out.told_surely = out.told;
    empty_buffer();
    return true;
}

/* The rest of a line that was cut short must not be the beginning of the next one. */
static void mend_torn(void)
{
    if (out.len == 0 && out.torn)
        out.buf[out.len++] = '\n';
}

static void tell_dropped(bool now)
{
    uint64_t total = log_dropped(), at_us = clock_us();
    if (total == out.told || (!now && at_us - out.told_at_us < TELL_US) ||
        sizeof(out.buf) - out.len < LOG_LINE_MAX)
        return;
    struct log_line l;
    log_begin(&l, LOG_WARN, "dropped", "log lines were dropped: whoever reads the log is too slow");
    log_u64(&l, "count", total - out.told);
    out.told = total;
    out.told_at_us = at_us;
    if (!l.on)
        return;
    const char *tail = l.json ? "}\n" : "\n";
    memcpy(out.buf + out.len, l.text, l.len);
    memcpy(out.buf + out.len + l.len, tail, strlen(tail));
    out.len += l.len + strlen(tail);
}

static size_t fill_buffer(void)
{
    struct log_ring *ring;
    size_t before = out.len, len;
    while (sizeof(out.buf) - out.len >= LOG_LINE_MAX && (len = log_ring_oldest(&ring)) > 0) {
        log_ring_take(ring, out.buf + out.len);
        out.len += len;
    }
    return out.len - before;
}

static int drain(bool tell_now)
{
    if (!atomic_load(&started))
        return -1;
    uint64_t count;
    while (read(out.wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
    atomic_store(&awake, false);
    log_ring_mark();
    for (size_t taken = 0; taken < DRAIN_MAX;) {
        if (!write_buffer()) {
            atomic_store(&awake, true); /* writability will call us again */
            return out.to.fd;
        }
        mend_torn();
        size_t torn_only = out.len;
        tell_dropped(tell_now);
        tell_now = false; /* should that line be refused too, it waits its second */
        taken += fill_buffer();
        if (out.len == torn_only) {
            empty_buffer(); /* nothing but the mending, which can wait */
            return -1;
        }
    }
    if (!atomic_exchange(&awake, true))
        wake();
    return -1;
}

int log_drain(void)
{
    return drain(false);
}

void log_flush(unsigned ms)
{
    uint64_t until = clock_ms() + ms;
    for (;;) {
        int fd = drain(true);
        struct pollfd fds[2] = { { .fd = fd, .events = POLLOUT },
                                 { .fd = out.wake_fd, .events = POLLIN } };
        uint64_t now = clock_ms();
        if (!atomic_load(&started) || now >= until)
            return;
        if (poll(fds, 2, fd < 0 ? 0 : (int)(until - now)) == 0)
            return;
    }
}

/* -- settings ------------------------------------------------------------------------------ */

static void apply(const struct log_settings *settings)
{
    atomic_store(&log_level_now, (int)settings->level);
    atomic_store(&log_json_now, settings->json ? 1 : 0);
}

int log_start(const struct log_settings *settings, int *wake_fd, struct err *err)
{
    const char *file = settings->file ? settings->file : "";
    struct target to;
    REQUIRE(!atomic_load(&started));
    if (adopted >= 0)
        take_adopted(&to);
    else if (open_target(&to, file, err) != 0)
        return -1;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) {
        if (to.owned)
            close(to.fd);
        return err_set(err, "cannot make an eventfd for the log: %s", strerror(errno));
    }
    out.to = to;
    out.file = xstrdup(file);
    out.wake_fd = *wake_fd = fd;
    empty_buffer();
    out.torn = false;
    apply(settings);
    atomic_store(&awake, false);
    atomic_store_explicit(&started, true, memory_order_release);
    return 0;
}

/* A line of which a part is out already stays where it began. */
static void skip_torn_line(void)
{
    if (!out.torn || out.at == out.len)
        return;
    const char *end = memchr(out.buf + out.at, '\n', out.len - out.at);
    out.at = end ? (size_t)(end - out.buf) + 1 : out.len;
    atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
}

static int move_to(const char *file, struct err *err)
{
    struct target to;
    if (open_target(&to, file, err) != 0)
        return -1;
    drain(false);
    skip_torn_line();
    close_target();
    out.to = to;
    out.torn = false;
    out.told_at_us = 0; /* the new one is told at once what the old one lost */
    atomic_store(&awake, true);
    wake(); /* what waited for the old one to take more waits no longer */
    return 0;
}

int log_try(const struct log_settings *settings, struct err *err)
{
    struct target to;
    if (settings->file == NULL || settings->file[0] == '\0' ||
        strcmp(settings->file, out.file) == 0)
        return 0;
    if (open_file(&to, settings->file, err) != 0)
        return -1;
    close(to.fd);
    return 0;
}

int log_configure(const struct log_settings *settings, struct err *err)
{
    const char *file = settings->file ? settings->file : "";
    REQUIRE(atomic_load(&started));
    if (strcmp(file, out.file) != 0) {
        char *copy = strdup(file);
        if (copy == NULL || move_to(file, err) != 0) {
            free(copy);
            return copy == NULL ? err_set(err, "out of memory") : -1;
        }
        free(out.file);
        out.file = copy;
    }
    apply(settings);
    return 0;
}

int log_reopen(struct err *err)
{
    REQUIRE(atomic_load(&started));
    return out.file[0] != '\0' ? move_to(out.file, err) : 0;
}

int log_give(uid_t uid, gid_t gid)
{
    struct stat st;
    if (!atomic_load(&started) || out.file[0] == '\0')
        return 0;
    if (fstat(out.to.fd, &st) != 0)
        return -1;
    return S_ISREG(st.st_mode) ? fchown(out.to.fd, uid, gid) : 0;
}

int log_pass(uid_t from, uid_t uid, gid_t gid)
{
    if (!atomic_load(&started) || out.file[0] == '\0')
        return 0;
    return root_give(out.to.fd, from, uid, gid);
}

void log_stop(void)
{
    if (!atomic_load(&started))
        return;
    atomic_store(&started, false);
    close_target();
    close(out.wake_fd);
    free(out.file);
    out.file = NULL;
}
