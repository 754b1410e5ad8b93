/*
 * Splitting and normalising a request target. One look at the path finds its end, counts its
 * segments and tells whether anything in it must be rewritten; nearly always nothing must, and then
 * path and segments point into the target as it was sent.
 */
#include "http/target.h"

#include <strings.h>

static COLD int refuse(struct head_verdict *v, unsigned status, const char *why)
{
    v->status = status;
    v->why = why;
    return -1;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* The byte that the three bytes at p spell, or -1: not an escape. */
static int escape(const char *p, const char *end)
{
    if (end - p < 3 || p[0] != '%' || hex(p[1]) < 0 || hex(p[2]) < 0)
        return -1;
    return hex(p[1]) << 4 | hex(p[2]);
}

bool target_split_absolute(struct str raw, struct str *authority, struct str *rest)
{
    size_t at, end;
    if (raw.len >= 7 && strncasecmp(raw.ptr, "http://", 7) == 0)
        at = 7;
    else if (raw.len >= 8 && strncasecmp(raw.ptr, "https://", 8) == 0)
        at = 8;
    else
        return false;
    for (end = at; end < raw.len; end++)
        if (raw.ptr[end] == '/' || raw.ptr[end] == '?' || raw.ptr[end] == '#')
            break;
    *authority = (struct str){ raw.ptr + at, end - at };
    *rest = (struct str){ raw.ptr + end, raw.len - end };
    return true;
}

/* What one look at a path tells. */
struct shape {
    size_t len; /* up to '?', '#' or the end */
    unsigned slashes;
    bool plain; /* no escape, no dot segment */
};

/* Is the dot at s[at] that of a dot segment? */
static NOINLINE bool leads_dots(struct str s, size_t at)
{
    if (at == 0 || s.ptr[at - 1] != '/')
        return false;
    at += at + 1 < s.len && s.ptr[at + 1] == '.' ? 2 : 1;
    return at == s.len || s.ptr[at] == '/' || s.ptr[at] == '?' || s.ptr[at] == '#';
}

static struct shape look(struct str s)
{
    struct shape shape = { 0, 0, true };
    size_t i = 0;
    for (; i < s.len; i++) {
        char c = s.ptr[i];
        if (c > '?') /* letters: all that means something stands before them */
            continue;
        if (c == '/')
            shape.slashes++;
        else if (UNLIKELY(c == '%' || c == '.') && (c == '%' || leads_dots(s, i)))
            shape.plain = false;
        else if (c == '?' || c == '#')
            break;
    }
    shape.len = i;
    return shape;
}

/* path begins with '/' and has `n` of them; each begins a segment. */
static void split(struct str path, struct segment *segments, unsigned n)
{
    const char *at = path.ptr + 1, *end = path.ptr + path.len;
    for (; n > 1; n--) {
        const char *slash = bytes_find(at, end, '/');
        struct str s = { at, (size_t)(slash - at) };
        *segments++ = (struct segment){ s, s };
        at = slash + 1;
    }
    struct str last = { at, (size_t)(end - at) };
    *segments = (struct segment){ last, last };
}

/* Decodes one segment to `to`, "%2F" becoming "%2F" in capitals; its length, or -1 and why. */
static int decode_segment(struct str raw, char *to, size_t *len, struct head_verdict *v)
{
    const char *p = raw.ptr, *end = raw.ptr + raw.len;
    char *at = to;
    while (p < end) {
        if (*p != '%') {
            *at++ = *p++;
            continue;
        }
        int byte = escape(p, end);
        if (byte < 0)
            return refuse(v, 400, "a broken percent escape in the path");
        if (byte == 0)
            return refuse(v, 400, "%00 in the path");
        if (byte == '/') {
            memcpy(at, "%2F", 3);
            at += 3;
        } else {
            *at++ = (char)byte;
        }
        p += 3;
    }
    *len = (size_t)(at - to);
    return 0;
}

/* The slow way: decodes into one block of path.len bytes, segment by segment, '/' before each; a
   dot segment takes itself (and its parent) out again. */
static COLD int normalise(struct arena *a, struct str path, struct target *out,
                          struct head_verdict *v)
{
    char *block = arena_alloc(a, path.len + 1), *at = block;
    if (!block)
        return refuse(v, 500, "no memory for the path");
    unsigned n = 0, all = out->nsegments;
    bool dots = false; /* the last one was a dot segment: the path ends in '/' */
    for (unsigned i = 0; i < all; i++) {
        struct segment s = out->segments[i];
        size_t len;
        if (decode_segment(s.raw, at + 1, &len, v))
            return -1;
        s.decoded = (struct str){ at + 1, len };
        dots = str_eq(s.decoded, STR(".")) || str_eq(s.decoded, STR(".."));
        if (dots && len == 1)
            continue;
        if (dots) {
            if (n == 0)
                return refuse(v, 400, "the path climbs above the root");
            at = block + (out->segments[--n].decoded.ptr - 1 - block);
            continue;
        }
        *at = '/';
        at += 1 + len;
        out->segments[n++] = s;
    }
    if (dots) {
        *at = '/';
        struct str empty = { ++at, 0 };
        out->segments[n++] = (struct segment){ empty, empty };
    }
    out->nsegments = n;
    out->path = (struct str){ block, (size_t)(at - block) };
    return 0;
}

/* What stands behind the path, at rest[at]. False: a fragment. */
static NOINLINE bool take_query(struct str rest, size_t at, struct target *out)
{
    if (rest.ptr[at] == '#')
        return false;
    out->query = (struct str){ rest.ptr + at + 1, rest.len - at - 1 };
    return !memchr(out->query.ptr, '#', out->query.len);
}

static int parse_path(struct arena *a, struct str rest, struct target *out, struct head_verdict *v)
{
    struct shape shape = look(rest);
    if (UNLIKELY(shape.len < rest.len) && !take_query(rest, shape.len, out))
        return refuse(v, 400, "a fragment in the target");
    /* http://host?query: the path is empty, which means "/" */
    out->path = shape.len > 0 ? (struct str){ rest.ptr, shape.len } : STR("/");
    if (out->path.ptr[0] != '/')
        return refuse(v, 400, "a target that is not a path");
    if (shape.slashes > TARGET_MAX_SEGMENTS)
        return refuse(v, 414, "more than 1024 segments in the path");
    out->nsegments = shape.slashes > 0 ? shape.slashes : 1;
    out->segments = arena_alloc(a, out->nsegments * sizeof *out->segments);
    if (!out->segments)
        return refuse(v, 500, "no memory for the path");
    split(out->path, out->segments, out->nsegments);
    return LIKELY(shape.plain) ? 0 : normalise(a, out->path, out, v);
}

HOT int target_parse(struct arena *a, struct str raw, struct target *out, struct head_verdict *v)
{
    struct str authority, rest = raw;
    *out = (struct target){ 0 };
    if (raw.len == 0)
        return refuse(v, 400, "an empty target");
    if (UNLIKELY(raw.len == 1 && raw.ptr[0] == '*')) {
        out->path = raw;
        out->asterisk = true;
        return 0;
    }
    if (UNLIKELY(raw.ptr[0] != '/') && !target_split_absolute(raw, &authority, &rest))
        return refuse(v, 400, "a target that is neither a path nor an http URI");
    return parse_path(a, rest, out, v);
}

/* Copies s decoded; `plus`: '+' is a space. What is no escape stays as it is. */
static struct str decode(struct arena *a, struct str s, bool plus)
{
    char *to = arena_alloc(a, s.len + 1);
    if (!to)
        return (struct str){ NULL, 0 };
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        int byte = escape(s.ptr + i, s.ptr + s.len);
        if (byte >= 0) {
            to[n++] = (char)byte;
            i += 2;
        } else {
            to[n++] = plus && s.ptr[i] == '+' ? ' ' : s.ptr[i];
        }
    }
    to[n] = '\0';
    return (struct str){ to, n };
}

struct str target_decode_all(struct arena *a, struct str raw_segment)
{
    if (raw_segment.len == 0 || !memchr(raw_segment.ptr, '%', raw_segment.len))
        return raw_segment.ptr ? raw_segment : STR("");
    return decode(a, raw_segment, false);
}

/* Does s, decoded, spell name? Without memory: a query may have thousands of fields. */
static bool spells(struct str s, const char *name)
{
    size_t i = 0;
    for (; i < s.len && *name; i++, name++) {
        int byte = escape(s.ptr + i, s.ptr + s.len);
        char c = byte >= 0 ? (char)byte : s.ptr[i] == '+' ? ' ' : s.ptr[i];
        if (c != *name)
            return false;
        if (byte >= 0)
            i += 2;
    }
    return i == s.len && *name == '\0';
}

struct str target_query_get(struct arena *a, struct str query, const char *name)
{
    while (query.len > 0) {
        const char *amp = memchr(query.ptr, '&', query.len);
        struct str field = { query.ptr, amp ? (size_t)(amp - query.ptr) : query.len };
        const char *eq = memchr(field.ptr, '=', field.len);
        struct str key = { field.ptr, eq ? (size_t)(eq - field.ptr) : field.len };
        if (field.len > 0 && spells(key, name)) {
            if (!eq)
                return STR("");
            return decode(a, (struct str){ eq + 1, field.len - key.len - 1 }, true);
        }
        size_t past = field.len + (amp != NULL);
        query.ptr += past;
        query.len -= past;
    }
    return (struct str){ NULL, 0 };
}
