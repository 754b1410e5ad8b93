/* Comparing and reading borrowed bytes. ASCII only: no locale has a say in HTTP. Any thread. */
#include "base/str.h"

static unsigned char lower(char c)
{
    unsigned char u = (unsigned char)c;
    return u >= 'A' && u <= 'Z' ? (unsigned char)(u + ('a' - 'A')) : u;
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
