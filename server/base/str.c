/* Comparing and reading borrowed bytes. ASCII only: no locale has a say in HTTP. Any thread. */
#include "base/str.h"

static unsigned char lower(char c)
{
    unsigned char u = (unsigned char)c;
    return u >= 'A' && u <= 'Z' ? (unsigned char)(u + ('a' - 'A')) : u;
}

NOINLINE HOT char *bytes_copy(char *to, const char *from, size_t len)
{
    char *end = to + len;
    if (len >= 16) {
        if (UNLIKELY(len > 256))
            return (char *)memcpy(to, from, len) + len;
        for (; end - to > 16; to += 16, from += 16)
            memcpy(to, from, 16);
        memcpy(end - 16, from + (end - to) - 16, 16); /* may overlap what was copied */
    } else if (len >= 8) {
        uint64_t first, last;
        memcpy(&first, from, 8);
        memcpy(&last, from + len - 8, 8);
        memcpy(to, &first, 8);
        memcpy(end - 8, &last, 8);
    } else {
        while (to < end)
            *to++ = *from++;
    }
    return end;
}

bool str_case_eq_slow(struct str a, struct str b)
{
    for (size_t i = 0; i < a.len; i++) {
        if (lower(a.ptr[i]) != lower(b.ptr[i]))
            return false;
    }
    return true;
}

int str_to_u64(struct str s, uint64_t *out)
{
    uint64_t n = 0;
    if (s.len == 0)
        return -1;
    for (size_t i = 0; i < s.len; i++) {
        unsigned digit = (unsigned)s.ptr[i] - '0';
        if (digit > 9)
            return -1;
        if (i >= 19 && n > (UINT64_MAX - digit) / 10u) /* 19 digits always fit */
            return -1;
        n = n * 10u + digit;
    }
    *out = n;
    return 0;
}
