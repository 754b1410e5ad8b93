/* What the contract plugins share: reading the query, comparing strings, sleeping. */
#ifndef TESTS_CONTRACT_H
#define TESTS_CONTRACT_H

#include <graft/graft.h>

#include <string.h>
#include <time.h>

#define MAYBE_UNUSED __attribute__((unused))

MAYBE_UNUSED static bool str_is(graft_str s, const char *text)
{
    return s.len == strlen(text) && (s.len == 0 || memcmp(s.ptr, text, s.len) == 0);
}

MAYBE_UNUSED static bool str_begins(graft_str s, const char *text)
{
    return s.len >= strlen(text) && memcmp(s.ptr, text, strlen(text)) == 0;
}

/* A decimal query field; the fallback when it is absent or not a number. */
MAYBE_UNUSED static uint64_t query_u64(graft_req *req, const char *name, uint64_t fallback)
{
    graft_str text = graft_query(req, name);
    uint64_t value = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9' || i > 17)
            return fallback;
        value = value * 10 + (uint64_t)(text.ptr[i] - '0');
    }
    return text.len > 0 ? value : fallback;
}

MAYBE_UNUSED static unsigned query_number(graft_req *req, const char *name, unsigned fallback)
{
    uint64_t value = query_u64(req, name, fallback);
    return value <= UINT32_MAX ? (unsigned)value : fallback;
}

/* A NUL-terminated copy that lives with the request; "" without memory. */
MAYBE_UNUSED static const char *str_copy(graft_req *req, graft_str s)
{
    char *copy = graft_alloc(req, s.len + 1);
    if (!copy)
        return "";
    if (s.len > 0)
        memcpy(copy, s.ptr, s.len);
    copy[s.len] = '\0';
    return copy;
}

MAYBE_UNUSED static void sleep_ms(unsigned ms)
{
    struct timespec left = { ms / 1000, (long)(ms % 1000) * 1000000L };
    while (nanosleep(&left, &left) != 0)
        continue;
}

#endif
