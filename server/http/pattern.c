/*
 * What can be said about patterns without a router: whether they are sound, what a match covers of
 * a path and of a route. Pure, any thread, no memory but the caller's.
 */
#include "http/pattern.h"

#include "http/router.h"

bool pattern_next(const char **at, struct pattern_segment *out)
{
    if (**at != '/')
        return false;
    const char *from = *at + 1;
    size_t len = strcspn(from, "/");
    *at = from + len;
    out->kind = *from == ':' ? PATTERN_PARAM : *from == '*' ? PATTERN_REST : PATTERN_LITERAL;
    bool named = out->kind != PATTERN_LITERAL;
    out->text = (struct str){ from + named, len - named };
    return true;
}

/* ---- soundness ---- */

static bool is_alpha(char c)
{
    return c == '_' || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool name_ok(struct str name)
{
    if (name.len == 0 || !is_alpha(name.ptr[0]))
        return false;
    for (size_t i = 1; i < name.len; i++)
        if (!is_alpha(name.ptr[i]) && !is_digit(name.ptr[i]) && name.ptr[i] != '-')
            return false;
    return true;
}

static bool is_escape(const char *p, size_t len)
{
    static const char hex[] = "0123456789abcdefABCDEF";
    return len >= 3 && p[0] == '%' && memchr(hex, p[1], 22) && memchr(hex, p[2], 22) &&
           memcmp(p, "%2F", 3) != 0;
}

static int check_literal(const char *pattern, struct str s, struct err *err)
{
    if (str_eq(s, STR(".")) || str_eq(s, STR("..")))
        return err_set(err,
                       "pattern \"%s\": no path contains the segment \"" STR_FMT
                       "\" (dot segments are resolved first): leave it out",
                       pattern, STR_ARG(s));
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c < 0x20 || c == 0x7f)
            return err_set(err, "pattern \"%s\": a control character at byte %zu: remove it",
                           pattern, (size_t)(s.ptr - pattern) + i);
        if (c == '?' || c == '#')
            return err_set(err,
                           "pattern \"%s\": '%c' ends a path: patterns match the path alone, "
                           "queries are read with graft_query()",
                           pattern, c);
        if (c == '*')
            return err_set(err,
                           "pattern \"%s\": \"*\" stands for whole segments, at the end only: "
                           "expected \"/*\" behind the prefix",
                           pattern);
        if (is_escape(s.ptr + i, s.len - i))
            return err_set(err,
                           "pattern \"%s\": \"%.3s\": patterns are compared with decoded "
                           "paths: write the character itself",
                           pattern, s.ptr + i);
    }
    return 0;
}

static int check_name(const char *pattern, const struct pattern_segment *s, bool match,
                      struct err *err)
{
    char sign = s->kind == PATTERN_PARAM ? ':' : '*';
    if (s->kind == PATTERN_REST && s->text.len == 0) {
        if (match)
            return 0;
        return err_set(err, "pattern \"%s\": \"*\" needs a name in a route: \"*rest\"", pattern);
    }
    if (!name_ok(s->text))
        return err_set(err,
                       "pattern \"%s\": \"%c" STR_FMT "\": expected a name of letters, "
                       "digits, '_' and '-' behind '%c', as a whole segment",
                       pattern, sign, STR_ARG(s->text), sign);
    return 0;
}

/* Is the name of segment `s` the name of an earlier one? */
static bool named_before(const char *pattern, const struct pattern_segment *s)
{
    struct pattern_segment other;
    while (pattern_next(&pattern, &other) && other.text.ptr != s->text.ptr)
        if (other.kind != PATTERN_LITERAL && str_eq(other.text, s->text))
            return true;
    return false;
}

static int check(const char *pattern, bool match, struct err *err)
{
    const char *at = pattern;
    struct pattern_segment s;
    unsigned segments = 0, params = 0;
    if (!pattern || *pattern != '/')
        return err_set(err, "pattern \"%s\": expected it to begin with '/'",
                       pattern ? pattern : "");
    while (pattern_next(&at, &s)) {
        if (++segments > ROUTER_MAX_SEGMENTS)
            return err_set(err, "pattern \"%s\": more than %d segments", pattern,
                           ROUTER_MAX_SEGMENTS);
        if (s.kind == PATTERN_LITERAL) {
            if (check_literal(pattern, s.text, err))
                return -1;
            continue;
        }
        if (check_name(pattern, &s, match, err))
            return -1;
        if (s.kind == PATTERN_REST && *at)
            return err_set(err, "pattern \"%s\": \"*" STR_FMT "\" must be the last segment",
                           pattern, STR_ARG(s.text));
        if (++params > ROUTER_MAX_PARAMS)
            return err_set(err, "pattern \"%s\": more than %d parameters", pattern,
                           ROUTER_MAX_PARAMS);
        if (named_before(pattern, &s))
            return err_set(err,
                           "pattern \"%s\": two parameters are named \"" STR_FMT "\": rename one",
                           pattern, STR_ARG(s.text));
    }
    return 0;
}

int router_pattern_check(const char *pattern, struct err *err)
{
    return check(pattern, false, err);
}

int router_match_check(const char *match, struct err *err)
{
    return check(match, true, err);
}

bool router_pattern_param(const char *pattern, const char *name, struct router_param_ref *ref)
{
    struct str want = str_of(name);
    struct pattern_segment s;
    for (unsigned i = 0; pattern_next(&pattern, &s); i++)
        if (s.kind != PATTERN_LITERAL && str_eq(s.text, want)) {
            *ref = (struct router_param_ref){ name, i, s.kind == PATTERN_REST };
            return true;
        }
    return false;
}

/* ---- matches ---- */

static bool matches_one(const struct pattern_segment *p, struct str decoded)
{
    return p->kind == PATTERN_PARAM ? decoded.len > 0 : str_eq(p->text, decoded);
}

/* `squeeze`: as if the path had no empty segments but the last. */
static bool matches(const char *match, const struct target *t, bool squeeze)
{
    struct pattern_segment p;
    unsigned i = 0;
    while (pattern_next(&match, &p)) {
        while (squeeze && i + 1 < t->nsegments && t->segments[i].decoded.len == 0)
            i++;
        if (p.kind == PATTERN_REST)
            return true; /* behind the prefix, or the prefix itself: both are covered */
        if (i == t->nsegments || !matches_one(&p, t->segments[i].decoded))
            return false;
        i++;
    }
    return i == t->nsegments;
}

bool router_pattern_matches(const char *match, const struct target *t)
{
    return !t->asterisk && (matches(match, t, false) || matches(match, t, true));
}

/* One segment of a match against one of a route. */
static enum router_cover cover_one(const struct pattern_segment *m, const struct pattern_segment *r)
{
    if (m->kind == PATTERN_PARAM)
        return r->kind == PATTERN_PARAM || r->text.len > 0 ? COVER_ALL : COVER_NONE;
    if (r->kind == PATTERN_PARAM)
        return m->text.len > 0 ? COVER_PART : COVER_NONE;
    return str_eq(m->text, r->text) ? COVER_ALL : COVER_NONE;
}

enum router_cover router_pattern_cover(const char *match, const char *route)
{
    enum router_cover so_far = COVER_ALL;
    struct pattern_segment m = { 0 }, r = { 0 };
    for (;;) {
        bool has_m = pattern_next(&match, &m), has_r = pattern_next(&route, &r);
        if (has_m && m.kind == PATTERN_REST)
            return so_far;
        if (!has_m || !has_r)
            return has_m == has_r ? so_far : COVER_NONE;
        if (r.kind == PATTERN_REST) /* all that follows, of which the match names some */
            return COVER_PART;
        enum router_cover one = cover_one(&m, &r);
        if (one == COVER_NONE)
            return COVER_NONE;
        if (one == COVER_PART)
            so_far = COVER_PART;
    }
}

/* Appends to out; false when it is full. */
static bool append(char *out, size_t size, size_t *len, const char *text, size_t n)
{
    if (n >= size - *len)
        return false;
    memcpy(out + *len, text, n);
    *len += n;
    out[*len] = '\0';
    return true;
}

bool router_pattern_intersect(const char *match, const char *route, char *out, size_t size)
{
    size_t len = 0;
    struct pattern_segment m, r;
    if (size == 0 || router_pattern_cover(match, route) == COVER_NONE)
        return false;
    *out = '\0';
    for (;;) {
        const char *m_from = match, *r_from = route;
        bool has_m = pattern_next(&match, &m), has_r = pattern_next(&route, &r);
        if (!has_m || !has_r || m.kind == PATTERN_REST)
            return append(out, size, &len, r_from, strlen(r_from));
        if (r.kind == PATTERN_REST)
            return append(out, size, &len, m_from, strlen(m_from));
        bool narrower = m.kind == PATTERN_LITERAL && r.kind == PATTERN_PARAM;
        const char *from = narrower ? m_from : r_from, *to = narrower ? match : route;
        if (!append(out, size, &len, from, (size_t)(to - from)))
            return false;
    }
}
