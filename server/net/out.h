/*
 * Bytes on their way to a socket: a queue of segments (copies, borrowed bytes, files), and the
 * sending of it. Belongs to one worker's thread. Each segment frees what it owns when its last
 * byte is in the kernel or when the queue is dropped; borrowed bytes and arena memory must outlive
 * it, which the request that made it sees to.
 */
#ifndef GRAFT_NET_OUT_H
#define GRAFT_NET_OUT_H

#include "base/arena.h"
#include "base/base.h"
#include "base/str.h"

enum seg_kind {
    SEG_HEAP,   /* bytes behind the segment, one malloc */
    SEG_ARENA,  /* segment and bytes in a request's arena */
    SEG_BORROW, /* the bytes are somebody else's; the segment is malloc'ed */
    SEG_FILE    /* sendfile from fd, which the segment owns */
};

struct seg {
    struct seg *next;
    enum seg_kind kind;
    int fd;          /* SEG_FILE */
    const char *ptr; /* first unsent byte; NULL for files */
    uint64_t len;    /* unsent */
    size_t room;     /* free bytes behind ptr+len (SEG_HEAP, SEG_ARENA) */
    int64_t offset;  /* SEG_FILE: of the first unsent byte */
};

struct outq {
    struct seg *first, *last;
    uint64_t bytes; /* unsent in all */
};

/* Appends a copy. With an arena the first small bytes go there (`arena` NULL: the heap always).
   0, or -1: no memory, nothing changed. */
int out_copy(struct outq *q, struct arena *arena, const void *data, size_t len);
/* A segment with room for at least `len` more bytes at the end, for writing in place:
   out_room gives where, out_commit says how many were used. */
char *out_room(struct outq *q, struct arena *arena, size_t len);
void out_commit(struct outq *q, size_t len);
int out_borrow(struct outq *q, const void *data, size_t len);
/* Owns fd from the call on, also when it fails. */
int out_file(struct outq *q, int fd, int64_t offset, uint64_t len);
/* All of `from` behind what is in `to`. */
void out_append(struct outq *to, struct outq *from);
void out_prepend(struct outq *to, struct outq *from);
void out_drop_all(struct outq *q);
/* Frees all. */
static inline void out_drop(struct outq *q)
{
    if (q->first)
        out_drop_all(q);
}
bool out_has_file(const struct outq *q);
/* Copies the unsent bytes (no files among them) to `to`. */
void out_gather(const struct outq *q, char *to);
/* Counts `len` bytes at the front as sent. */
void out_advance(struct outq *q, uint64_t len);

enum out_result {
    OUT_EMPTY,   /* all is in the kernel */
    OUT_BLOCKED, /* the socket is full, or a fair share was sent: wait for writability */
    OUT_BROKEN,  /* the peer is gone (errno) */
    OUT_CUT      /* a file ended before its promised length, or could not be read */
};

/* Sends at most about `share` bytes; *sent is raised by what went. Never blocks. */
enum out_result out_send(struct outq *q, int fd, size_t share, uint64_t *sent);

#endif
