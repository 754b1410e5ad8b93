/*
 * Memory that lives as long as one request: bump allocation from blocks. The first block is the
 * caller's (inside a pooled request), so a plain request allocates nothing from the heap. One
 * thread.
 */
#ifndef GRAFT_BASE_ARENA_H
#define GRAFT_BASE_ARENA_H

#include "base/base.h"
#include "base/str.h"

struct arena_block {
    struct arena_block *next;
    size_t size; /* of data */
    _Alignas(16) char data[];
};

struct arena {
    char *at, *end;             /* free room in the newest block */
    struct arena_block *blocks; /* heap blocks, newest first */
    char *first, *first_end;    /* of the caller's block, what is aligned */
    size_t heap_bytes;          /* held in heap blocks now */
};

void arena_init(struct arena *a, void *first, size_t first_size);
void arena_free_blocks(struct arena *a);
void *arena_alloc_slow(struct arena *a, size_t size);

/* Frees the heap blocks, starts again in the first. */
static inline void arena_reset(struct arena *a)
{
    if (a->blocks != NULL)
        arena_free_blocks(a);
    a->at = a->first;
    a->end = a->first_end;
}

/* 16-byte aligned; NULL when memory is out. */
static inline void *arena_alloc(struct arena *a, size_t size)
{
    size_t rounded = (size + 15u) & ~(size_t)15u;
    if (__builtin_expect(rounded < size || rounded > (size_t)(a->end - a->at), 0))
        return arena_alloc_slow(a, size);
    char *p = a->at;
    a->at += rounded;
    return p;
}

/* A copy with a NUL behind it (not counted in len); {NULL,0} when memory is out. */
struct str arena_copy(struct arena *a, struct str s);

#endif
