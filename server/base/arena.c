/*
 * The slow half of the arena: heap blocks for what the first block cannot hold. A block that is
 * made for one large piece does not become the newest one, so that the room left in the current
 * block is not given away. One thread.
 */
#include "base/arena.h"

#include <stdlib.h>

#define BLOCK_SIZE 4080u             /* with the block's head and malloc's: one page */
#define LARGE      (BLOCK_SIZE / 4u) /* gets a block of its own */

static _Alignas(16) char nothing[16]; /* where an arena without room points: never NULL */

void arena_init(struct arena *a, void *first, size_t first_size)
{
    *a = (struct arena){ .first = nothing, .first_end = nothing };
    size_t skip = first ? -(uintptr_t)first & 15u : 0;
    if (first != NULL && first_size > skip) {
        a->first = (char *)first + skip;
        a->first_end = a->first + ((first_size - skip) & ~(size_t)15u);
    }
    arena_reset(a);
}

void arena_free_blocks(struct arena *a)
{
    while (a->blocks != NULL) {
        struct arena_block *b = a->blocks;
        a->blocks = b->next;
        free(b);
    }
    a->heap_bytes = 0;
}

static struct arena_block *add_block(struct arena *a, size_t size)
{
    if (size > SIZE_MAX - sizeof(struct arena_block))
        return NULL;
    struct arena_block *b = malloc(sizeof(*b) + size);
    if (b == NULL)
        return NULL;
    b->size = size;
    b->next = a->blocks;
    a->blocks = b;
    a->heap_bytes += sizeof(*b) + size;
    return b;
}

void *arena_alloc_slow(struct arena *a, size_t size)
{
    if (size > SIZE_MAX - 15u)
        return NULL;
    size_t rounded = (size + 15u) & ~(size_t)15u;
    if (rounded > LARGE) {
        struct arena_block *own = add_block(a, rounded);
        return own ? own->data : NULL;
    }
    struct arena_block *b = add_block(a, BLOCK_SIZE - sizeof(*b));
    if (b == NULL)
        return NULL;
    a->at = b->data + rounded;
    a->end = b->data + b->size;
    return b->data;
}

struct str arena_copy(struct arena *a, struct str s)
{
    char *p = s.len < SIZE_MAX ? arena_alloc(a, s.len + 1) : NULL;
    if (p == NULL)
        return (struct str){ NULL, 0 };
    if (s.len > 0)
        memcpy(p, s.ptr, s.len);
    p[s.len] = '\0';
    return (struct str){ p, s.len };
}
