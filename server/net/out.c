/* See out.h. */
#include "net/out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAP_SEG_MIN   (16u * 1024u)
#define ARENA_SEG_ROOM 512u  /* spare room for the writes that follow a small first one */
#define ARENA_SHARE    4096u /* what a response keeps in its arena; more goes to the heap */
#define IOV_SHARE      16

static void push(struct outq *q, struct seg *s)
{
    s->next = NULL;
    if (q->last)
        q->last->next = s;
    else
        q->first = s;
    q->last = s;
    q->bytes += s->len;
}

static void seg_free(struct seg *s)
{
    if (s->kind == SEG_FILE)
        close(s->fd);
    if (s->kind != SEG_ARENA)
        free(s);
}

static void pop(struct outq *q)
{
    struct seg *s = q->first;
    q->first = s->next;
    if (!q->first)
        q->last = NULL;
    seg_free(s);
}

static struct seg *seg_new(struct outq *q, struct arena *arena, size_t len)
{
    bool in_arena = arena && len <= ARENA_SHARE && q->bytes + len <= ARENA_SHARE;
    size_t cap = in_arena ? len + ARENA_SEG_ROOM : len > HEAP_SEG_MIN ? len : HEAP_SEG_MIN;
    if (cap < len || cap > SIZE_MAX - sizeof(struct seg))
        return NULL;
    struct seg *s = in_arena ? arena_alloc(arena, sizeof *s + cap) : malloc(sizeof *s + cap);
    if (!s)
        return NULL;
    *s = (struct seg){
        .kind = in_arena ? SEG_ARENA : SEG_HEAP, .fd = -1, .ptr = (const char *)(s + 1), .room = cap
    };
    push(q, s);
    return s;
}

HOT char *out_room(struct outq *q, struct arena *arena, size_t len)
{
    struct seg *s = q->last;
    if (!s || s->room < len)
        s = seg_new(q, arena, len);
    return s ? (char *)(uintptr_t)(s->ptr + s->len) : NULL;
}

HOT void out_commit(struct outq *q, size_t len)
{
    struct seg *s = q->last;
    HOT_REQUIRE(s && s->room >= len);
    s->len += len;
    s->room -= len;
    q->bytes += len;
}

HOT int out_copy(struct outq *q, struct arena *arena, const void *data, size_t len)
{
    if (len == 0)
        return 0;
    char *to = out_room(q, arena, len);
    if (!to)
        return -1;
    bytes_copy(to, data, len);
    out_commit(q, len);
    return 0;
}

int out_borrow(struct outq *q, const void *data, size_t len)
{
    if (len == 0)
        return 0;
    struct seg *s = malloc(sizeof *s);
    if (!s)
        return -1;
    *s = (struct seg){ .kind = SEG_BORROW, .fd = -1, .ptr = data, .len = len };
    push(q, s);
    return 0;
}

int out_file(struct outq *q, int fd, int64_t offset, uint64_t len)
{
    struct seg *s = len > 0 ? malloc(sizeof *s) : NULL;
    if (!s) {
        close(fd);
        return len > 0 ? -1 : 0;
    }
    *s = (struct seg){ .kind = SEG_FILE, .fd = fd, .offset = offset, .len = len };
    push(q, s);
    return 0;
}

NOINLINE void out_append(struct outq *to, struct outq *from)
{
    if (!from->first)
        return;
    if (to->last)
        to->last->next = from->first;
    else
        to->first = from->first;
    to->last = from->last;
    to->bytes += from->bytes;
    *from = (struct outq){ 0 };
}

void out_prepend(struct outq *to, struct outq *from)
{
    out_append(from, to);
    *to = *from;
    *from = (struct outq){ 0 };
}

HOT void out_drop_all(struct outq *q)
{
    while (q->first)
        pop(q);
    q->bytes = 0;
}

HOT bool out_has_file(const struct outq *q)
{
    for (const struct seg *s = q->first; s; s = s->next)
        if (s->kind == SEG_FILE)
            return true;
    return false;
}

HOT void out_gather(const struct outq *q, char *to)
{
    for (const struct seg *s = q->first; s; s = s->next) {
        if (s->len)
            to = bytes_copy(to, s->ptr, (size_t)s->len);
    }
}

void out_advance(struct outq *q, uint64_t len)
{
    q->bytes -= len;
    for (;;) {
        struct seg *s = q->first;
        if (!s)
            return;
        if (len < s->len) {
            s->len -= len;
            if (s->kind == SEG_FILE)
                s->offset += (int64_t)len;
            else
                s->ptr += len;
            return;
        }
        len -= s->len;
        pop(q);
    }
}

static ssize_t send_memory(struct outq *q, int fd)
{
    struct iovec iov[IOV_SHARE];
    size_t n = 0;
    struct seg *s = q->first;
    for (; s && s->kind != SEG_FILE && n < IOV_SHARE; s = s->next)
        if (s->len > 0)
            iov[n++] = (struct iovec){ (void *)(uintptr_t)s->ptr, (size_t)s->len };
    /* MSG_MORE: a file follows, its first bytes belong into the same packet. */
    struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };
    return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT | (s && n < IOV_SHARE ? MSG_MORE : 0));
}

static ssize_t send_file(const struct seg *s, int fd, size_t share)
{
    off_t offset = s->offset;
    return sendfile(fd, s->fd, &offset, s->len < share ? (size_t)s->len : share);
}

enum out_result out_send(struct outq *q, int fd, size_t share, uint64_t *sent)
{
    size_t left = share;
    while (q->first) {
        struct seg *s = q->first;
        if (s->len == 0) { /* room that was asked for and not used */
            pop(q);
            continue;
        }
        if (left == 0)
            return OUT_BLOCKED;
        bool file = s->kind == SEG_FILE;
        ssize_t n = file ? send_file(s, fd, left) : send_memory(q, fd);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM)
                return OUT_BLOCKED;
            bool peer = errno == EPIPE || errno == ECONNRESET || errno == ETIMEDOUT;
            return file && !peer ? OUT_CUT : OUT_BROKEN;
        }
        if (n == 0 && file)
            return OUT_CUT;
        *sent += (uint64_t)n;
        out_advance(q, (uint64_t)n);
        left -= (size_t)n < left ? (size_t)n : left;
    }
    return OUT_EMPTY;
}
