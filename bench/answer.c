/* The strict reader of answers: see answer.h. The head and each line of the chunked coding are
 * taken only when they are complete; body bytes are taken as they come. */
#include "answer.h"

#include <string.h>
#include <strings.h>

#define MARK        "VERSION-"
#define MARK_LEN    8u
#define MARK_DIGITS 10u

static enum answer_result bad(struct answer *a, const char *why)
{
    a->why = why;
    return ANSWER_BAD;
}

void answer_init(struct answer *a, bool head_request)
{
    memset(a, 0, offsetof(struct answer, tail));
    a->no_body = head_request;
    a->why = NULL;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void mark_take(struct answer *a)
{
    if (a->version == 0)
        a->version = a->mark_number;
    else if (a->version != a->mark_number)
        a->mixed = true;
    a->mark_at = 0;
}

/* A state machine, since a mark may lie across two reads or two chunks. */
static void marks_scan(struct answer *a, const char *p, const char *end)
{
    while (p < end) {
        if (a->mark_at == 0) {
            p = memchr(p, MARK[0], (size_t)(end - p));
            if (p == NULL)
                return;
            a->mark_at = 1;
            a->mark_number = 0;
            p++;
        } else if (a->mark_at < MARK_LEN) {
            if (*p != MARK[a->mark_at])
                a->mark_at = 0; /* look at this byte again: it may begin a mark */
            else
                a->mark_at++, p++;
        } else if (!is_digit(*p)) {
            a->mark_at = 0;
        } else {
            a->mark_number = a->mark_number * 10u + (uint64_t)(*p++ - '0');
            if (++a->mark_at == MARK_LEN + MARK_DIGITS)
                mark_take(a);
        }
    }
}

static void tail_keep(struct answer *a, const char *p, size_t len)
{
    if (len >= ANSWER_TAIL) {
        memcpy(a->tail, p + len - ANSWER_TAIL, ANSWER_TAIL);
        a->tail_len = ANSWER_TAIL;
        return;
    }
    if (a->tail_len + len > ANSWER_TAIL) {
        size_t drop = a->tail_len + len - ANSWER_TAIL;
        memmove(a->tail, a->tail + drop, a->tail_len - drop);
        a->tail_len -= drop;
    }
    memcpy(a->tail + a->tail_len, p, len);
    a->tail_len += len;
}

static size_t body_take(struct answer *a, const char *p, size_t len)
{
    size_t n = a->left < len ? (size_t)a->left : len;

    marks_scan(a, p, p + n);
    tail_keep(a, p, n);
    a->left -= n;
    a->body_len += n;
    return n;
}

static bool name_is(const char *line, size_t name_len, const char *name)
{
    return strlen(name) == name_len && strncasecmp(line, name, name_len) == 0;
}

static bool length_parse(struct answer *a, const char *p, const char *end)
{
    if (p == end || end - p > 18 || a->has_length)
        return false;
    a->left = 0;
    for (; p < end; p++) {
        if (!is_digit(*p))
            return false;
        a->left = a->left * 10u + (uint64_t)(*p - '0');
    }
    return a->has_length = true;
}

static enum answer_result field_parse(struct answer *a, const char *line, const char *end)
{
    const char *colon = memchr(line, ':', (size_t)(end - line));
    const char *value;
    size_t name_len;

    if (colon == NULL || colon == line || colon[-1] == ' ' || *line == ' ' || *line == '\t')
        return bad(a, "malformed field line");
    name_len = (size_t)(colon - line);
    for (value = colon + 1; value < end && (*value == ' ' || *value == '\t'); value++)
        ;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (name_is(line, name_len, "Content-Length") && !length_parse(a, value, end))
        return bad(a, "bad or second Content-Length");
    if (name_is(line, name_len, "Transfer-Encoding")) {
        if (a->chunked || !name_is(value, (size_t)(end - value), "chunked"))
            return bad(a, "bad or second Transfer-Encoding");
        a->chunked = true;
    }
    if (name_is(line, name_len, "Connection") && name_is(value, (size_t)(end - value), "close"))
        a->close = true;
    return ANSWER_MORE;
}

static enum answer_result status_parse(struct answer *a, const char *p, size_t len)
{
    if (len < 13 || memcmp(p, "HTTP/1.1 ", 9) != 0 || !is_digit(p[9]) || !is_digit(p[10]) ||
        !is_digit(p[11]) || p[12] != ' ')
        return bad(a, "malformed status line");
    a->status = (p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0');
    return ANSWER_MORE;
}

/* RFC 9112 section 6.3. A body that only the end of the connection delimits is refused: no server
 * under test has a reason to send one to HTTP/1.1. */
static enum answer_result framing_choose(struct answer *a)
{
    bool empty = a->no_body || a->status == 204 || a->status == 304;

    if (a->chunked && a->has_length)
        return bad(a, "Content-Length and Transfer-Encoding");
    if (!a->chunked && !a->has_length && !empty)
        return bad(a, "answer without a length");
    if (a->status == 204 && a->has_length)
        return bad(a, "204 with a Content-Length");
    if (empty || (a->has_length && a->left == 0))
        a->state = ANSWER_OVER;
    else
        a->state = a->chunked ? ANSWER_CHUNK_SIZE : ANSWER_FIXED;
    return ANSWER_MORE;
}

static enum answer_result head_parse(struct answer *a, const char *data, size_t len, size_t *used)
{
    const char *stop = memmem(data, len, "\r\n\r\n", 4), *line, *end;

    if (stop == NULL)
        return ANSWER_MORE;
    *used = (size_t)(stop - data) + 4;
    stop += 2;
    end = memmem(data, (size_t)(stop - data), "\r\n", 2);
    if (status_parse(a, data, (size_t)(end - data)) == ANSWER_BAD)
        return ANSWER_BAD;
    for (line = end + 2; line < stop; line = end + 2) {
        end = memmem(line, (size_t)(stop - line), "\r\n", 2);
        if (field_parse(a, line, end) == ANSWER_BAD)
            return ANSWER_BAD;
    }
    if (a->status == 100) { /* an interim answer: the real one follows */
        uint64_t bytes = a->bytes;
        answer_init(a, a->no_body);
        a->bytes = bytes;
        return ANSWER_MORE;
    }
    return framing_choose(a);
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum answer_result size_parse(struct answer *a, const char *data, size_t len, size_t *used)
{
    const char *end = memmem(data, len, "\r\n", 2);
    const char *p = data;

    if (end == NULL)
        return len > 32 ? bad(a, "chunk size line too long") : ANSWER_MORE;
    a->left = 0;
    for (; p < end && hex_value(*p) >= 0; p++) {
        if (a->left >> 56)
            return bad(a, "chunk size too large");
        a->left = a->left * 16u + (uint64_t)hex_value(*p);
    }
    if (p == data || p != end)
        return bad(a, "malformed chunk size");
    *used = (size_t)(end - data) + 2;
    a->state = a->left > 0 ? ANSWER_CHUNK_DATA : ANSWER_TRAILER;
    return ANSWER_MORE;
}

static enum answer_result chunk_end(struct answer *a, const char *data, size_t len, size_t *used)
{
    if (len < 2)
        return ANSWER_MORE;
    if (memcmp(data, "\r\n", 2) != 0)
        return bad(a, "no CRLF behind a chunk");
    *used = 2;
    a->state = ANSWER_CHUNK_SIZE;
    return ANSWER_MORE;
}

static enum answer_result trailer_end(struct answer *a, const char *data, size_t len, size_t *used)
{
    if (len < 2)
        return ANSWER_MORE;
    if (memcmp(data, "\r\n", 2) != 0)
        return bad(a, "no empty line behind the last chunk");
    *used = 2;
    a->state = ANSWER_OVER;
    return ANSWER_MORE;
}

static enum answer_result step(struct answer *a, const char *data, size_t len, size_t *used)
{
    switch (a->state) {
    case ANSWER_HEAD:
        return head_parse(a, data, len, used);
    case ANSWER_FIXED:
        *used = body_take(a, data, len);
        if (a->left == 0)
            a->state = ANSWER_OVER;
        return ANSWER_MORE;
    case ANSWER_CHUNK_SIZE:
        return size_parse(a, data, len, used);
    case ANSWER_CHUNK_DATA:
        *used = body_take(a, data, len);
        if (a->left == 0)
            a->state = ANSWER_CHUNK_END;
        return ANSWER_MORE;
    case ANSWER_CHUNK_END:
        return chunk_end(a, data, len, used);
    case ANSWER_TRAILER:
        return trailer_end(a, data, len, used);
    default:
        return ANSWER_DONE;
    }
}

enum answer_result answer_feed(struct answer *a, const char *data, size_t len, size_t *used)
{
    *used = 0;
    while (a->state != ANSWER_OVER) {
        size_t n = 0;

        if (step(a, data + *used, len - *used, &n) == ANSWER_BAD)
            return ANSWER_BAD;
        if (n == 0 && a->state != ANSWER_OVER)
            return ANSWER_MORE;
        *used += n;
        a->bytes += n;
    }
    return ANSWER_DONE;
}

bool answer_ends_in(const struct answer *a, const char *text, size_t len)
{
    return len <= a->tail_len && memcmp(a->tail + a->tail_len - len, text, len) == 0;
}
