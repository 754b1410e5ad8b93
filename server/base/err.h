/*
 * Why something failed, in words for the person who must mend it: what, expected, found, next
 * step. Owned by the caller, filled by the callee, which then returns -1.
 */
#ifndef GRAFT_BASE_ERR_H
#define GRAFT_BASE_ERR_H

#include "base/base.h"

#include <stdarg.h>

struct err {
    char text[1024]; /* NUL-terminated; cut with "..." when too long */
};

/* Both always return -1 (so: `return err_set(err, ...)`); err may be NULL. */
COLD int err_set(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);
COLD int err_vset(struct err *err, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);

/* Puts "<prefix>: " before what is there; returns -1. */
COLD int err_prefix(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* An errno of want, not of fault: descriptors, memory or room may be there the next time, so
   nothing is given up for it. */
COLD bool err_is_lack(int error);

#endif
