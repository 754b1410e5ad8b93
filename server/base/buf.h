/* A growable byte buffer on the heap. Zero-initialised = empty. One owner, any thread. */
#ifndef GRAFT_BASE_BUF_H
#define GRAFT_BASE_BUF_H

#include "base/base.h"
#include "base/str.h"

#include <stdarg.h>

struct buf {
    char *data; /* NULL when cap is 0; kept NUL-terminated by buf_printf, buf_puts and buf_add */
    size_t len, cap;
};

/* All: 0, or -1 when memory is out (the buffer is then unchanged). */
int buf_reserve(struct buf *b, size_t extra); /* room for `extra` more bytes and a NUL */
int buf_add(struct buf *b, const void *data, size_t len);
int buf_puts(struct buf *b, const char *z);
int buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
int buf_vprintf(struct buf *b, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);
void buf_consume(struct buf *b, size_t len); /* drops bytes from the front */
void buf_fini(struct buf *b);                /* frees, empty again */

static inline struct str buf_str(const struct buf *b)
{
    return (struct str){ b->data ? b->data : "", b->len };
}

#endif
