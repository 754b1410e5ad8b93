/*
 * The guard's state machine: one state for each place of the grammar, one function for each state.
 * A function looks at data[at] onwards, never past `end`, and either goes on into the function of
 * the next state, or refuses, or, at the end of what is there, leaves in struct guard where the
 * next scan resumes. The long runs (target, field values) go 16 bytes at a time where the machine
 * has SSE2; everything else is one look into field_class a byte.
 */
#include "http/guard.h"

#include "http/field.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
    AT_START, /* empty lines, then the first byte of the method */
    AT_METHOD,
    AT_TARGET,
    AT_VERSION, /* through its CRLF */
    AT_LINE,    /* first byte of a line: a field name, or the CR of the empty line */
    AT_NAME,
    AT_VALUE,
    AT_VALUE_LF,
    AT_LAST_LF
};

enum step {
    STEP_LINE, /* a line has ended, the next begins */
    STEP_MORE, /* wait_at says where */
    STEP_BAD,
    STEP_HEAD /* it is whole */
};

struct scan {
    struct guard *g;
    const struct guard_limits *lim;
    struct guard_verdict *v;
    const char *data;
    size_t len;
    size_t end; /* of what may be looked at: what is there, within limits.head_bytes */
};

static COLD enum step bad(struct scan *s, unsigned status, const char *why)
{
    s->v->status = status;
    s->v->why = why;
    return STEP_BAD;
}

/* All that is there was looked at: where and as what to go on when more has come. */
static COLD enum step wait_at(struct scan *s, size_t at, unsigned state)
{
    s->g->scanned = at;
    s->g->state = state;
    return STEP_MORE;
}

/* These: the first byte of [at,end) that is not of the class, or end. */
static NOINLINE size_t rest_end(const char *data, size_t at, size_t end, unsigned class)
{
    while (at < end && field_is(data[at], class))
        at++;
    return at;
}

static size_t target_end(const char *data, size_t at, size_t end)
{
#ifdef __SSE2__
    const __m128i space = _mm_set1_epi8(0x20), del = _mm_set1_epi8(0x7f);
    for (; at + 16 <= end; at += 16) {
        __m128i x = _mm_loadu_si128((const void *)(data + at));
        /* signed: bytes from 0x80 are below zero, hence not above the space */
        __m128i good = _mm_and_si128(_mm_cmpgt_epi8(x, space), _mm_cmplt_epi8(x, del));
        unsigned wrong = (unsigned)_mm_movemask_epi8(good) ^ 0xffffu;
        if (wrong)
            return at + (unsigned)__builtin_ctz(wrong);
    }
#endif
    return rest_end(data, at, end, FIELD_TARGET);
}

static size_t value_end(const char *data, size_t at, size_t end)
{
#ifdef __SSE2__
    const __m128i last = _mm_set1_epi8(0x1f), del = _mm_set1_epi8(0x7f), tab = _mm_set1_epi8('\t');
    for (; at + 16 <= end; at += 16) {
        __m128i x = _mm_loadu_si128((const void *)(data + at));
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(x, last), x);
        __m128i wrong =
            _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(x, tab), control), _mm_cmpeq_epi8(x, del));
        unsigned mask = (unsigned)_mm_movemask_epi8(wrong);
        if (mask)
            return at + (unsigned)__builtin_ctz(mask);
    }
#endif
    return rest_end(data, at, end, FIELD_VALUE);
}

static size_t token_end(const char *data, size_t at, size_t end)
{
    while (at < end && field_is(data[at], FIELD_TOKEN))
        at++;
    return at;
}

/* Where a part that began at g->part may reach at most, its delimiter included. */
static size_t bound(const struct scan *s, size_t max)
{
    size_t last = s->g->part + max + 1;
    return last < s->end ? last : s->end;
}

/* An empty line that was skipped does not count, and is known only once it has been passed. */
static void set_end(struct scan *s)
{
    size_t max = s->g->skip + s->lim->head_bytes;
    s->end = s->len < max ? s->len : max;
}

/* A line has ended: the next begins there. */
static enum step line_at(struct scan *s, size_t at)
{
    s->g->scanned = at;
    s->g->state = AT_LINE;
    return STEP_LINE;
}

/* ---- the states, from the end of the grammar to its beginning ---- */

static inline enum step scan_last_lf(struct scan *s, size_t at)
{
    if (at == s->end)
        return wait_at(s, at, AT_LAST_LF);
    if (s->data[at] != '\n')
        return bad(s, 400, "a CR without LF");
    s->g->scanned = at + 1;
    return STEP_HEAD;
}

static inline enum step scan_value_lf(struct scan *s, size_t at)
{
    if (at == s->end)
        return wait_at(s, at, AT_VALUE_LF);
    if (s->data[at] != '\n')
        return bad(s, 400, "a CR without LF");
    return line_at(s, at + 1);
}

static inline enum step scan_value(struct scan *s, size_t at)
{
    size_t end = bound(s, s->lim->field_bytes);
    at = value_end(s->data, at, end);
    if (at - s->g->part > s->lim->field_bytes)
        return bad(s, 431, "a field is longer than limits.field_bytes");
    if (at == end)
        return wait_at(s, at, AT_VALUE);
    if (s->data[at] != '\r')
        return bad(s, 400, "a bare LF or a control byte in a field value");
    return scan_value_lf(s, at + 1);
}

static inline enum step scan_name(struct scan *s, size_t at)
{
    size_t end = bound(s, s->lim->field_bytes);
    at = token_end(s->data, at, end);
    if (at - s->g->part > s->lim->field_bytes)
        return bad(s, 431, "a field is longer than limits.field_bytes");
    if (at == end)
        return wait_at(s, at, AT_NAME);
    if (s->data[at] != ':')
        return bad(s, 400, "a field name that is not a token followed by a colon");
    return scan_value(s, at + 1);
}

static inline enum step scan_line(struct scan *s, size_t at)
{
    struct guard *g = s->g;
    if (at == s->end)
        return wait_at(s, at, AT_LINE);
    char c = s->data[at];
    if (c == '\r')
        return scan_last_lf(s, at + 1);
    if (c == ' ' || c == '\t')
        return bad(s, 400, "a line that begins with white space (folded fields are obsolete)");
    if (!field_is(c, FIELD_TOKEN))
        return bad(s, 400, "a line that does not begin with a field name");
    if (g->fields == s->lim->headers)
        return bad(s, 431, "more fields than limits.headers");
    g->fields++;
    g->part = at;
    return scan_name(s, at);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The version is not (a beginning of) what we speak: is it a version at all? */
static COLD enum step bad_version(struct scan *s, const char *p, size_t len)
{
    if (len >= 6 && memcmp(p, "HTTP/", 5) == 0 && is_digit(p[5])) {
        if (p[5] != '1')
            return bad(s, 505, "not HTTP/1.0 or HTTP/1.1");
        if (len >= 8 && p[6] == '.' && p[7] != '0' && p[7] != '1' && is_digit(p[7]))
            return bad(s, 505, "not HTTP/1.0 or HTTP/1.1");
    }
    return bad(s, 400, "the target is not followed by one space, HTTP/1.x and CRLF");
}

/* `at` is where it begins, also when a part of it was there before. */
static inline enum step scan_version(struct scan *s, size_t at)
{
    static const char want[10] = "HTTP/1.1\r\n";
    const char *p = s->data + at;
    size_t len = s->end - at;
    if (len >= sizeof want) {
        if (memcmp(p, want, sizeof want) == 0)
            return line_at(s, at + sizeof want);
        len = sizeof want;
    }
    for (size_t i = 0; i < len; i++)
        if (p[i] != want[i] && !(i == 7 && p[i] == '0'))
            return bad_version(s, p, len);
    if (len < sizeof want)
        return wait_at(s, at, AT_VERSION);
    return line_at(s, at + sizeof want);
}

static inline enum step scan_target(struct scan *s, size_t at)
{
    struct guard *g = s->g;
    size_t end = bound(s, s->lim->target_bytes);
    at = target_end(s->data, at, end);
    if (at - g->part > s->lim->target_bytes)
        return bad(s, 414, "the target is longer than limits.target_bytes");
    if (at == end)
        return wait_at(s, at, AT_TARGET);
    if (s->data[at] != ' ')
        return bad(s, 400,
                   s->data[at] == '\r' || s->data[at] == '\n'
                       ? "no version after the target (HTTP/0.9 is not spoken)"
                       : "a byte in the target that is not visible ASCII");
    if (at == g->part)
        return bad(s, 400, "two spaces after the method");
    return scan_version(s, at + 1);
}

static HOT inline enum step scan_method(struct scan *s, size_t at)
{
    struct guard *g = s->g;
    size_t end = bound(s, GUARD_METHOD_MAX);
    at = token_end(s->data, at, end);
    if (at - g->part > GUARD_METHOD_MAX)
        return bad(s, 501, "a method of more than 32 characters");
    if (at == end)
        return wait_at(s, at, AT_METHOD);
    if (s->data[at] != ' ')
        return bad(s, 400, "the method is not followed by one space");
    g->part = at + 1;
    return scan_target(s, at + 1);
}

static inline enum step scan_start(struct scan *s, size_t at)
{
    struct guard *g = s->g;
    while (UNLIKELY(at < s->end && s->data[at] == '\r')) {
        if (s->end - at < 2)
            return wait_at(s, at, AT_START);
        if (s->data[at + 1] != '\n')
            return bad(s, 400, "a CR without LF before the request line");
        if (at == (size_t)2 * GUARD_EMPTY_LINES)
            return bad(s, 400, "too many empty lines before the request line");
        at += 2;
        g->skip = at;
        set_end(s);
    }
    if (at == s->end)
        return wait_at(s, at, AT_START);
    unsigned char first = (unsigned char)s->data[at];
    if (first == 0x16)
        return bad(s, 400, "a TLS handshake on a port that speaks plain HTTP");
    if (!field_is((char)first, FIELD_TOKEN))
        return bad(s, 400, "the request line does not begin with a method");
    g->part = at;
    return scan_method(s, at);
}

static COLD enum step resume(struct scan *s)
{
    size_t at = s->g->scanned;
    switch (s->g->state) {
    case AT_START:
        return scan_start(s, at);
    case AT_METHOD:
        return scan_method(s, at);
    case AT_TARGET:
        return scan_target(s, at);
    case AT_VERSION:
        return scan_version(s, at);
    case AT_NAME:
        return scan_name(s, at);
    case AT_VALUE:
        return scan_value(s, at);
    case AT_VALUE_LF:
        return scan_value_lf(s, at);
    case AT_LAST_LF:
        return scan_last_lf(s, at);
    default:
        return STEP_LINE;
    }
}

/* Sound, incomplete, and already as long as a head may be? */
static enum guard_result more(struct scan *s)
{
    if (s->end - s->g->skip < s->lim->head_bytes)
        return GUARD_MORE;
    if (s->g->state == AT_TARGET)
        bad(s, 414, "the target leaves no room within limits.head_bytes");
    else
        bad(s, 431, "the head is longer than limits.head_bytes");
    return GUARD_BAD;
}

HOT enum guard_result guard_scan(struct guard *g, const struct guard_limits *lim, const char *data,
                                 size_t len, struct guard_verdict *v)
{
    struct scan s = { .g = g, .lim = lim, .v = v, .data = data, .len = len };
    *v = (struct guard_verdict){ 0 };
    set_end(&s);
    enum step step = LIKELY(g->state == AT_START) ? scan_start(&s, g->scanned) : resume(&s);
    while (step == STEP_LINE)
        step = scan_line(&s, g->scanned);
    if (step == STEP_BAD)
        return GUARD_BAD;
    if (step == STEP_MORE)
        return more(&s);
    v->skip = g->skip;
    v->head_len = g->scanned - g->skip;
    return GUARD_HEAD;
}
