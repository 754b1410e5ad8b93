/*
 * Structured log lines. Any thread formats its own line into a bounded ring of its own (made at
 * the thread's first line, reused when a thread has ended); the control thread writes the rings out
 * in order of time (but for a line that a thread has begun and not handed over when others are
 * written). No writer ever waits: when a ring is full or the reader of the log is slow, lines are
 * dropped and counted. Before log_start and after log_stop lines go straight to stderr. SIGPIPE
 * must be ignored (signals_block or signal): the reader of the log may go away.
 */
#ifndef GRAFT_BASE_LOG_H
#define GRAFT_BASE_LOG_H

#include "base/base.h"
#include "base/err.h"
#include "base/str.h"

#include <stdatomic.h>
#include <sys/types.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR }; /* = GRAFT_DEBUG..GRAFT_ERR */

const char *log_level_name(enum log_level level);          /* "debug", "info", "warn", "error" */
int log_level_parse(struct str name, enum log_level *out); /* 0, or -1: none of these */

struct log_settings {
    enum log_level level;
    bool json;        /* else text for people */
    const char *file; /* "" or NULL = stderr */
};

extern _Atomic(int) log_level_now; /* read by log_on() only */

static inline bool log_on(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&log_level_now, memory_order_relaxed);
}

/* One line being built, on the caller's stack. Fields appear in the order of the calls; "ts",
   "level", "event", "msg" come first. A line longer than LOG_LINE_MAX is cut at a field and marked
   "truncated":true: what is written is always one valid JSON object (or one text line: control
   characters escaped, so that no line can be forged). */
#define LOG_LINE_MAX 4096
struct log_line {
    enum log_level level;
    bool on, json;
    bool cut;  /* something is missing */
    bool full; /* no more fields */
    size_t len;
    uint64_t order_ns;
    char text[LOG_LINE_MAX];
};

/* log_begin(&l, LOG_INFO, "swap", "swapped %s", name); log_str(&l, "plugin", ...); log_end(&l); */
void log_begin(struct log_line *l, enum log_level level, const char *event, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
void log_str(struct log_line *l, const char *key, struct str value);
void log_z(struct log_line *l, const char *key, const char *value); /* NULL: null */
void log_u64(struct log_line *l, const char *key, uint64_t value);
void log_int(struct log_line *l, const char *key, int64_t value);
void log_bool(struct log_line *l, const char *key, bool value);
void log_raw(struct log_line *l, const char *key, struct str json); /* valid JSON */
void log_end(struct log_line *l);

/* A line with nothing but a message. */
void log_msg(enum log_level level, const char *event, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Any thread, for itself: its lines need no memory from here on. False: there was none for that. */
bool log_prepare(void);

/* What log_start has opened, for another process of ours to write to (which, being another user by
   then, might not be allowed to open it); -1: nothing but stderr. And there, before its log_start:
   writes to that descriptor, its own from now on, instead of opening anything. */
int log_descriptor(void);
void log_adopt(int fd);

/* Control thread. `wake_fd`: an eventfd that becomes readable when there is something to write. */
int log_start(const struct log_settings *settings, int *wake_fd, struct err *err);
int log_configure(const struct log_settings *settings, struct err *err); /* HUP */
/* Whether log_configure would get its file; changes nothing but that the file is there then. */
int log_try(const struct log_settings *settings, struct err *err);
int log_reopen(struct err *err); /* USR1 */
/* The log file, if it is a plain one, belongs to this user from now on, who will reopen it. A
   device or pipe stays whose it is. 0 or -1 (errno). */
int log_give(uid_t uid, gid_t gid);
/* The same with root's rights kept, if it is `from`'s; 1: it is not. */
int log_pass(uid_t from, uid_t uid, gid_t gid);
/* Writes what can be written without blocking. Returns the descriptor to wait for writability of
   (a pipe that is full), or -1 when all is out. Lost lines are told of by a `dropped` event, at
   most once a second: to be called once more a second later when log_dropped() grew. */
int log_drain(void);
/* At exit: tries for at most `ms` to get everything out. */
void log_flush(unsigned ms);
/* After log_flush: what is not out is lost, descriptors are closed. No other thread may log now. */
void log_stop(void);
uint64_t log_dropped(void); /* lines dropped since start; any thread */

#endif
