/*
 * Making one line: a JSON object, or text for people. The line lies on the caller's stack; room
 * for its end is kept back from the start, so that it can always be closed. Any thread; the only
 * things shared are the two settings, level and format.
 */
#include "base/log_private.h"

#include "base/clock.h"
#include "base/escape.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

_Atomic(int) log_level_now = LOG_INFO;
_Atomic(int) log_json_now = -1;

#define MESSAGE_MAX 2048 /* of the text that a format makes */
#define TAIL_JSON   ",\"truncated\":true}\n"
#define TAIL_TEXT   " truncated=true\n"
#define LIMIT       (LOG_LINE_MAX - sizeof(TAIL_JSON))
#define MSG_LIMIT   (LIMIT - 512) /* a long message leaves room for some fields */

static const char *const level_names[] = { "debug", "info", "warn", "error" };
static const char *const level_texts[] = { "DEBUG", "INFO ", "WARN ", "ERROR" };

const char *log_level_name(enum log_level level)
{
    return level_names[level];
}

int log_level_parse(struct str name, enum log_level *out)
{
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (str_eq(name, str_of(level_names[i]))) {
            *out = (enum log_level)i;
            return 0;
        }
    }
    return -1;
}

static bool json_wanted(void)
{
    int json = atomic_load_explicit(&log_json_now, memory_order_relaxed);
    return json < 0 ? isatty(STDERR_FILENO) == 0 : json != 0;
}

/* All of it or, past the limit, nothing. */
static bool put(struct log_line *l, size_t limit, const char *p, size_t len)
{
    if (len > limit - l->len)
        return false;
    memcpy(l->text + l->len, p, len);
    l->len += len;
    return true;
}

static bool put_z(struct log_line *l, const char *z)
{
    return put(l, LIMIT, z, strlen(z));
}

/* As much as fits; whether that was all. */
static bool put_escaped(struct log_line *l, size_t limit, struct str s, enum escape_mode mode)
{
    size_t used;
    l->len += escape(l->text + l->len, limit - l->len, s, mode, &used);
    return used == s.len;
}

static void put_head_json(struct log_line *l, const char *ts, const char *event, struct str msg)
{
    put_z(l, "{\"ts\":\"");
    put_z(l, ts);
    put_z(l, "\",\"level\":\"");
    put_z(l, level_names[l->level]);
    put_z(l, "\",\"event\":\"");
    put_escaped(l, MSG_LIMIT / 2, str_of(event), ESCAPE_STRING);
    put_z(l, "\",\"msg\":\"");
    l->cut |= !put_escaped(l, MSG_LIMIT, msg, ESCAPE_STRING);
    put_z(l, "\"");
}

static void put_head_text(struct log_line *l, const char *ts, const char *event, struct str msg)
{
    put_z(l, ts);
    put_z(l, " ");
    put_z(l, level_texts[l->level]);
    put_z(l, " ");
    put_escaped(l, MSG_LIMIT / 2, str_of(event), ESCAPE_STRING);
    put_z(l, ": ");
    l->cut |= !put_escaped(l, MSG_LIMIT, msg, ESCAPE_LINE);
}

PRINTF_LIKE(4, 0)
static void begin(struct log_line *l, enum log_level level, const char *event, const char *fmt,
                  va_list ap)
{
    char ts[CLOCK_RFC3339_SIZE], text[MESSAGE_MAX];
    struct timespec now;
    int saved = errno;
    clock_rfc3339(ts);
    clock_gettime(CLOCK_MONOTONIC, &now);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    size_t len = n < 0 ? 0 : (size_t)n;
    l->level = level;
    l->json = json_wanted();
    l->len = 0;
    l->order_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    l->full = false;
    l->cut = len >= sizeof(text);
    struct str msg = { text, l->cut ? sizeof(text) - 1 : len };
    if (l->json)
        put_head_json(l, ts, event, msg);
    else
        put_head_text(l, ts, event, msg);
    errno = saved;
}

void log_begin(struct log_line *l, enum log_level level, const char *event, const char *fmt, ...)
{
    l->on = log_on(level);
    if (!l->on)
        return;
    va_list ap;
    va_start(ap, fmt);
    begin(l, level, event, fmt, ap);
    va_end(ap);
}

static bool put_key(struct log_line *l, const char *key)
{
    return l->json ? put_z(l, ",\"") && put_z(l, key) && put_z(l, "\":")
                   : put_z(l, " ") && put_z(l, key) && put_z(l, "=");
}

/* A field is in the line whole or not at all; behind the first one that does not fit none is. */
static void put_field(struct log_line *l, const char *key, struct str value, bool quote,
                      enum escape_mode mode)
{
    if (!l->on || l->full)
        return;
    size_t before = l->len;
    bool fits = put_key(l, key) && (!quote || put_z(l, "\"")) &&
                put_escaped(l, LIMIT, value, mode) && (!quote || put_z(l, "\""));
    if (fits)
        return;
    l->len = before;
    l->cut = l->full = true;
}

/* In text: only what a reader could take for something else. */
static bool needs_quotes(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= 0x7f)
            return true;
    }
    return s.len == 0;
}

void log_str(struct log_line *l, const char *key, struct str value)
{
    if (value.ptr == NULL)
        put_field(l, key, STR("null"), false, ESCAPE_JSON);
    else if (l->on)
        put_field(l, key, value, l->json || needs_quotes(value), ESCAPE_STRING);
}

void log_z(struct log_line *l, const char *key, const char *value)
{
    log_str(l, key, str_of(value));
}

void log_u64(struct log_line *l, const char *key, uint64_t value)
{
    char text[24];
    if (!l->on)
        return;
    snprintf(text, sizeof(text), "%" PRIu64, value);
    put_field(l, key, str_of(text), false, ESCAPE_JSON);
}

void log_int(struct log_line *l, const char *key, int64_t value)
{
    char text[24];
    if (!l->on)
        return;
    snprintf(text, sizeof(text), "%" PRId64, value);
    put_field(l, key, str_of(text), false, ESCAPE_JSON);
}

void log_bool(struct log_line *l, const char *key, bool value)
{
    put_field(l, key, value ? STR("true") : STR("false"), false, ESCAPE_JSON);
}

void log_raw(struct log_line *l, const char *key, struct str json)
{
    put_field(l, key, json.len > 0 ? json : STR("null"), false, ESCAPE_JSON);
}

void log_end(struct log_line *l)
{
    if (!l->on)
        return;
    const char *tail = l->json ? (l->cut ? TAIL_JSON : "}\n") : (l->cut ? TAIL_TEXT : "\n");
    int saved = errno;
    put(l, LOG_LINE_MAX, tail, strlen(tail));
    log_out_line(l->text, l->len, l->order_ns);
    errno = saved;
}

void log_msg(enum log_level level, const char *event, const char *fmt, ...)
{
    if (!log_on(level))
        return;
    struct log_line l;
    va_list ap;
    va_start(ap, fmt);
    l.on = true;
    begin(&l, level, event, fmt, ap);
    va_end(ap);
    log_end(&l);
}
