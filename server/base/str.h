/* Borrowed bytes with their length; not NUL-terminated. {NULL, 0} = absent. */
#ifndef GRAFT_BASE_STR_H
#define GRAFT_BASE_STR_H

#include "base/base.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

struct str {
    const char *ptr;
    size_t len;
};

#define STR(lit)   ((struct str){ "" lit, sizeof(lit) - 1 })
#define STR_FMT    "%.*s"
#define STR_ARG(s) (int)(s).len, (s).ptr ? (s).ptr : ""

static inline struct str str_of(const char *z)
{
    return (struct str){ z, z ? strlen(z) : 0 };
}

/* memcmp() == 0 without a call: for tokens, which are short. */
static inline bool bytes_eq(const char *a, const char *b, size_t len)
{
    uint64_t x, y;
    uint32_t u, v;
    if (len >= sizeof x) {
        size_t last = len - sizeof x; /* the last eight may overlap those before */
        for (size_t i = 0; i < last; i += sizeof x) {
            memcpy(&x, a + i, sizeof x);
            memcpy(&y, b + i, sizeof y);
            if (x != y)
                return false;
        }
        memcpy(&x, a + last, sizeof x);
        memcpy(&y, b + last, sizeof y);
        return x == y;
    }
    if (len >= sizeof u) {
        memcpy(&u, a, sizeof u);
        memcpy(&v, b, sizeof v);
        if (u != v)
            return false;
        memcpy(&u, a + len - sizeof u, sizeof u);
        memcpy(&v, b + len - sizeof v, sizeof v);
        return u == v;
    }
    for (size_t i = 0; i < len; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

/* memcpy() that answers the end of the copy, for the short pieces that heads are made of: libc's
   has its way of copying to choose first, and is far from here. */
char *bytes_copy(char *to, const char *from, size_t len);

/* memchr() without a call, for what is not far. */
static inline const char *bytes_find(const char *at, const char *end, char c)
{
#ifdef __SSE2__
    const __m128i want = _mm_set1_epi8(c);
    for (; end - at >= 16; at += 16) {
        unsigned found =
            (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const void *)at), want));
        if (found)
            return at + __builtin_ctz(found);
    }
#endif
    while (at < end && *at != c)
        at++;
    return at < end ? at : NULL;
}

static inline bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && bytes_eq(a.ptr, b.ptr, a.len);
}

/* ASCII only, as HTTP field names and methods are compared. */
bool str_case_eq_slow(struct str a, struct str b); /* of one length */
static inline bool str_case_eq(struct str a, struct str b)
{
    return a.len == b.len && (bytes_eq(a.ptr, b.ptr, a.len) || str_case_eq_slow(a, b));
}

/* Digits only, no sign, no blank; -1 on anything else or overflow of uint64. */
int str_to_u64(struct str s, uint64_t *out);

#endif
