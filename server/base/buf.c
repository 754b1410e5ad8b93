/*
 * A growable byte buffer. Grows by doubling; a byte behind `len` is always kept for the NUL, so
 * that its content can be handed to code that wants a C string. One owner, any thread.
 */
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

#define BUF_MIN 256u

NOINLINE int buf_reserve(struct buf *b, size_t extra)
{
    if (extra >= SIZE_MAX - b->len)
        return -1;
    size_t need = b->len + extra + 1;
    if (need <= b->cap)
        return 0;
    size_t cap = b->cap < BUF_MIN ? BUF_MIN : b->cap;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    char *data = realloc(b->data, cap);
    if (data == NULL)
        return -1;
    b->data = data;
    b->cap = cap;
    b->data[b->len] = '\0';
    return 0;
}

NOINLINE int buf_add(struct buf *b, const void *data, size_t len)
{
    if (buf_reserve(b, len) != 0)
        return -1;
    if (len > 0)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
    return 0;
}

int buf_puts(struct buf *b, const char *z)
{
    return buf_add(b, z, strlen(z));
}

int buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    size_t room = b->cap - b->len;
    int n = vsnprintf(room > 0 ? b->data + b->len : NULL, room, fmt, ap);
    int rc = n < 0 ? -1 : 0;
    if (rc == 0 && (size_t)n >= room) {
        rc = buf_reserve(b, (size_t)n);
        if (rc == 0)
            vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    if (rc == 0)
        b->len += (size_t)n;
    else if (b->cap > 0)
        b->data[b->len] = '\0'; /* the first attempt has written behind the end */
    return rc;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = buf_vprintf(b, fmt, ap);
    va_end(ap);
    return rc;
}

void buf_consume(struct buf *b, size_t len)
{
    REQUIRE(len <= b->len);
    if (len == 0)
        return;
    b->len -= len;
    memmove(b->data, b->data + len, b->len);
    b->data[b->len] = '\0';
}

NOINLINE void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){ 0 };
}
