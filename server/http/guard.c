/*
 * The guard's state machine: one state for each place of the grammar, one function for each state.
 * A function looks at g->scanned onwards, never past `end`, and either moves on to the next state,
 * or asks for more, or refuses. The long runs (target, field values) go 16 bytes at a time where
 * the machine has SSE2; everything else is one look into field_class a byte.
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
    AT_LAST_LF,
    AT_END
};

enum step { STEP_ON, STEP_MORE, STEP_BAD };

struct scan {
    struct guard *g;
    const struct guard_limits *lim;
    struct guard_verdict *v;
    const char *data;
    size_t end; /* of what may be looked at: what is there, within limits.head_bytes */
};

static enum step bad(struct scan *s, unsigned status, const char *why)
{
    s->v->status = status;
    s->v->why = why;
    return STEP_BAD;
}

static enum step on(struct scan *s, size_t at, unsigned state)
{
    s->g->scanned = at;
    s->g->state = state;
    return STEP_ON;
}

/* Both: the first byte of [at,end) that is not of the class, or end. */
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
    while (at < end && field_is(data[at], FIELD_TARGET))
        at++;
    return at;
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
    while (at < end && field_is(data[at], FIELD_VALUE))
        at++;
    return at;
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
    size_t room = s->end - s->g->part;
    return room > max ? s->g->part + max + 1 : s->end;
}

static enum step scan_start(struct scan *s)
{
    struct guard *g = s->g;
    while (g->scanned < s->end && s->data[g->scanned] == '\r') {
        if (s->end - g->scanned < 2)
            return STEP_MORE;
        if (s->data[g->scanned + 1] != '\n')
            return bad(s, 400, "a CR without LF before the request line");
        if (g->scanned == (size_t)2 * GUARD_EMPTY_LINES)
            return bad(s, 400, "too many empty lines before the request line");
        g->scanned += 2;
        g->skip = g->scanned;
    }
    if (g->scanned == s->end)
        return STEP_MORE;
    unsigned char first = (unsigned char)s->data[g->scanned];
    if (first == 0x16)
        return bad(s, 400, "a TLS handshake on a port that speaks plain HTTP");
    if (!field_is((char)first, FIELD_TOKEN))
        return bad(s, 400, "the request line does not begin with a method");
    g->part = g->scanned;
    return on(s, g->scanned, AT_METHOD);
}

static enum step scan_method(struct scan *s)
{
    struct guard *g = s->g;
    size_t end = bound(s, GUARD_METHOD_MAX);
    size_t at = token_end(s->data, g->scanned, end);
    if (at - g->part > GUARD_METHOD_MAX)
        return bad(s, 501, "a method of more than 32 characters");
    g->scanned = at;
    if (at == end)
        return STEP_MORE;
    if (s->data[at] != ' ')
        return bad(s, 400, "the method is not followed by one space");
    g->part = at + 1;
    return on(s, at + 1, AT_TARGET);
}

static enum step scan_target(struct scan *s)
{
    struct guard *g = s->g;
    size_t end = bound(s, s->lim->target_bytes);
    size_t at = target_end(s->data, g->scanned, end);
    if (at - g->part > s->lim->target_bytes)
        return bad(s, 414, "the target is longer than limits.target_bytes");
    g->scanned = at;
    if (at == end)
        return STEP_MORE;
    if (s->data[at] != ' ')
        return bad(s, 400,
                   s->data[at] == '\r' || s->data[at] == '\n'
                       ? "no version after the target (HTTP/0.9 is not spoken)"
                       : "a byte in the target that is not visible ASCII");
    if (at == g->part)
        return bad(s, 400, "two spaces after the method");
    g->part = at + 1;
    return on(s, at + 1, AT_VERSION);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The version is not (a beginning of) what we speak: is it a version at all? */
static enum step bad_version(struct scan *s, const char *p, size_t len)
{
    if (len >= 6 && memcmp(p, "HTTP/", 5) == 0 && is_digit(p[5])) {
        if (p[5] != '1')
            return bad(s, 505, "not HTTP/1.0 or HTTP/1.1");
        if (len >= 8 && p[6] == '.' && p[7] != '0' && p[7] != '1' && is_digit(p[7]))
            return bad(s, 505, "not HTTP/1.0 or HTTP/1.1");
    }
    return bad(s, 400, "the target is not followed by one space, HTTP/1.x and CRLF");
}

static enum step scan_version(struct scan *s)
{
    static const char want[10] = "HTTP/1.1\r\n";
    const char *p = s->data + s->g->part;
    size_t len = s->end - s->g->part;
    if (len >= sizeof want) {
        if (memcmp(p, want, sizeof want) == 0)
            return on(s, s->g->part + sizeof want, AT_LINE);
        len = sizeof want;
    }
    for (size_t i = 0; i < len; i++)
        if (p[i] != want[i] && !(i == 7 && p[i] == '0'))
            return bad_version(s, p, len);
    if (len < sizeof want)
        return STEP_MORE;
    return on(s, s->g->part + sizeof want, AT_LINE);
}

static enum step scan_line(struct scan *s)
{
    struct guard *g = s->g;
    size_t at = g->scanned;
    if (at == s->end)
        return STEP_MORE;
    char c = s->data[at];
    if (c == '\r')
        return on(s, at + 1, AT_LAST_LF);
    if (c == ' ' || c == '\t')
        return bad(s, 400, "a line that begins with white space (folded fields are obsolete)");
    if (!field_is(c, FIELD_TOKEN))
        return bad(s, 400, "a line that does not begin with a field name");
    if (g->fields == s->lim->headers)
        return bad(s, 431, "more fields than limits.headers");
    g->fields++;
    g->part = at;
    return on(s, at, AT_NAME);
}

static enum step scan_name(struct scan *s)
{
    struct guard *g = s->g;
    size_t end = bound(s, s->lim->field_bytes);
    size_t at = token_end(s->data, g->scanned, end);
    if (at - g->part > s->lim->field_bytes)
        return bad(s, 431, "a field is longer than limits.field_bytes");
    g->scanned = at;
    if (at == end)
        return STEP_MORE;
    if (s->data[at] != ':')
        return bad(s, 400, "a field name that is not a token followed by a colon");
    return on(s, at + 1, AT_VALUE);
}

static enum step scan_value(struct scan *s)
{
    struct guard *g = s->g;
    size_t end = bound(s, s->lim->field_bytes);
    size_t at = value_end(s->data, g->scanned, end);
    if (at - g->part > s->lim->field_bytes)
        return bad(s, 431, "a field is longer than limits.field_bytes");
    g->scanned = at;
    if (at == end)
        return STEP_MORE;
    if (s->data[at] != '\r')
        return bad(s, 400, "a bare LF or a control byte in a field value");
    return on(s, at + 1, AT_VALUE_LF);
}

static enum step scan_lf(struct scan *s, unsigned next)
{
    size_t at = s->g->scanned;
    if (at == s->end)
        return STEP_MORE;
    if (s->data[at] != '\n')
        return bad(s, 400, "a CR without LF");
    return on(s, at + 1, next);
}

static enum step scan_step(struct scan *s)
{
    switch (s->g->state) {
    case AT_START:
        return scan_start(s);
    case AT_METHOD:
        return scan_method(s);
    case AT_TARGET:
        return scan_target(s);
    case AT_VERSION:
        return scan_version(s);
    case AT_LINE:
        return scan_line(s);
    case AT_NAME:
        return scan_name(s);
    case AT_VALUE:
        return scan_value(s);
    case AT_VALUE_LF:
        return scan_lf(s, AT_LINE);
    default:
        return scan_lf(s, AT_END);
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

void guard_init(struct guard *g)
{
    *g = (struct guard){ 0 };
}

enum guard_result guard_scan(struct guard *g, const struct guard_limits *lim, const char *data,
                             size_t len, struct guard_verdict *v)
{
    struct scan s = { .g = g, .lim = lim, .v = v, .data = data, .end = len };
    *v = (struct guard_verdict){ 0 };
    while (g->state != AT_END) {
        /* the empty lines do not count, and are known only once they have been passed */
        s.end = len - g->skip > lim->head_bytes ? g->skip + lim->head_bytes : len;
        enum step step = scan_step(&s);
        if (step == STEP_BAD)
            return GUARD_BAD;
        if (step == STEP_MORE)
            return more(&s);
    }
    v->skip = g->skip;
    v->head_len = g->scanned - g->skip;
    return GUARD_HEAD;
}
