/* Borrowed bytes with their length; not NUL-terminated. {NULL, 0} = absent. */
#ifndef GRAFT_BASE_STR_H
#define GRAFT_BASE_STR_H

#include "base/base.h"

#include <string.h>

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

static inline bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* ASCII only, as HTTP field names and methods are compared. */
bool str_case_eq(struct str a, struct str b);

/* Digits only, no sign, no blank; -1 on anything else or overflow of uint64. */
int str_to_u64(struct str s, uint64_t *out);

#endif
