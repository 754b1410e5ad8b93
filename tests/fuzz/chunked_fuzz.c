/*
 * The chunked decoder against a slow one written another way, fed whole, byte by byte and in random
 * pieces; and, with the input as a body, encoder against decoder.
 */
#include "fuzz.h"

#include "http/chunked.h"
#include "http/field.h"

#define TRAILER_BYTES 64

struct outcome {
    enum chunked_result result;
    size_t used, len;
    char *body;
};

static void feed(struct chunked *c, const char *data, size_t len, struct outcome *o)
{
    char *copy = fuzz_copy(data, len);
    size_t at = 0, used;
    struct str piece;
    do {
        o->result = chunked_next(c, copy + at, len - at, &used, &piece);
        HOLDS(used <= len - at);
        at += used;
        if (o->result == CHUNKED_DATA) {
            HOLDS(piece.len > 0 && piece.ptr + piece.len == copy + at && piece.len <= used);
            memcpy(o->body + o->len, piece.ptr, piece.len);
            o->len += piece.len;
        }
        HOLDS(o->result != CHUNKED_MORE || at == len);
    } while (o->result == CHUNKED_DATA);
    HOLDS(o->result != CHUNKED_BAD || (c->why && (c->status == 400 || c->status == 431)));
    HOLDS(c->total == o->len);
    o->used += at;
    free(copy);
}

/* `step`: bytes at a time, 0 = random. */
static struct outcome decode(const char *data, size_t len, size_t step, struct fuzz_random *r)
{
    struct outcome o = { CHUNKED_MORE, 0, 0, fuzz_copy(data, len) };
    struct chunked c;
    chunked_init(&c, TRAILER_BYTES);
    while (o.result == CHUNKED_MORE && o.used < len) {
        size_t n = step ? step : 1 + fuzz_below(r, 40);
        feed(&c, data + o.used, n < len - o.used ? n : len - o.used, &o);
    }
    return o;
}

static const char *line_end(const char *at, const char *end)
{
    for (; end - at >= 2; at++)
        if (at[0] == '\r' && at[1] == '\n')
            return at;
    return NULL;
}

/* The size of a whole size line without its CRLF, or -1: not one. */
static int64_t size_of(const char *at, const char *end)
{
    char digits[32] = "";
    const char *semicolon = memchr(at, ';', (size_t)(end - at)),
               *stop = semicolon ? semicolon : end;
    while (semicolon && stop > at && (stop[-1] == ' ' || stop[-1] == '\t'))
        stop--;
    size_t n = (size_t)(stop - at);
    if (n == 0 || n > 16 || strspn(memcpy(digits, at, n), "0123456789abcdefABCDEF") != n)
        return -1;
    if (!field_value_ok(stop, (size_t)(end - stop)))
        return -1;
    unsigned long long size = strtoull(digits, NULL, 16);
    return size > INT64_MAX ? -1 : (int64_t)size;
}

/* Of bodies that are complete and right, the length of the coding; else 0. Knows nothing of the
   limits on extensions and trailers. */
static size_t reference(const char *data, size_t len, char *body, size_t *body_len)
{
    const char *at = data, *end = data + len, *crlf;
    int64_t size;
    *body_len = 0;
    do {
        crlf = line_end(at, end);
        size = crlf ? size_of(at, crlf) : -1;
        if (size < 0)
            return 0;
        at = crlf + 2;
        if (size == 0)
            break;
        if (size > end - at - 2 || memcmp(at + size, "\r\n", 2) != 0)
            return 0;
        memcpy(body + *body_len, at, (size_t)size);
        *body_len += (size_t)size;
        at += size + 2;
    } while (size > 0);
    for (; (crlf = line_end(at, end)) != NULL && crlf > at; at = crlf + 2) {
        const char *colon = memchr(at, ':', (size_t)(crlf - at));
        if (!colon || !field_name_ok(at, (size_t)(colon - at)) ||
            !field_value_ok(colon + 1, (size_t)(crlf - colon - 1)))
            return 0;
    }
    return crlf ? (size_t)(crlf + 2 - data) : 0;
}

static void against_reference(const char *data, size_t len, const struct outcome *o,
                              unsigned status)
{
    char *body = fuzz_copy(data, len);
    size_t body_len, used = reference(data, len, body, &body_len);
    if (o->result == CHUNKED_END)
        HOLDS(used == o->used && body_len == o->len && memcmp(body, o->body, body_len) == 0);
    else if (used > 0) /* right, so only a limit can have stopped us */
        HOLDS(o->result == CHUNKED_BAD && (status == 431 || len > CHUNKED_EXT_MAX));
    free(body);
}

static void round_trip(const char *data, size_t len, struct fuzz_random *r)
{
    char *coded = malloc(len * (CHUNKED_HEAD_MAX + 3) + 16);
    size_t n = 0;
    HOLDS(coded != NULL);
    for (size_t at = 0, size; at < len; at += size) {
        size = 1 + fuzz_below(r, len - at);
        n += chunked_head(coded + n, size);
        memcpy(coded + n, data + at, size);
        memcpy(coded + n + size, CHUNKED_CRLF, 2);
        n += size + 2;
    }
    memcpy(coded + n, CHUNKED_LAST, 5);
    n += 5;
    struct outcome o = decode(coded, n, 0, r);
    HOLDS(o.result == CHUNKED_END && o.used == n && o.len == len);
    HOLDS(len == 0 || memcmp(o.body, data, len) == 0);
    free(o.body);
    free(coded);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    const char *data = (const char *)bytes;
    struct fuzz_random r = fuzz_random_of(bytes, len);
    struct outcome whole = decode(data, len, len, &r), slow = decode(data, len, 1, &r),
                   pieces = decode(data, len, 0, &r);
    struct chunked c;
    size_t used;
    struct str piece;
    HOLDS(whole.result == slow.result && whole.result == pieces.result);
    HOLDS(whole.used == slow.used && whole.used == pieces.used);
    HOLDS(whole.len == slow.len && whole.len == pieces.len);
    HOLDS(memcmp(whole.body, slow.body, whole.len) == 0);
    HOLDS(memcmp(whole.body, pieces.body, whole.len) == 0);
    chunked_init(&c, TRAILER_BYTES);
    for (size_t at = 0; at < len; at += used)
        if (chunked_next(&c, data + at, len - at, &used, &piece) != CHUNKED_DATA)
            break;
    against_reference(data, len, &whole, c.status);
    round_trip(data, len, &r);
    free(whole.body);
    free(slow.body);
    free(pieces.body);
    return 0;
}
