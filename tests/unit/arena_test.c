/* base/arena.h: the caller's block first, heap blocks behind it, all gone at reset. */
#include "tap.h"

#include "base/arena.h"

static bool aligned(const void *p)
{
    return ((uintptr_t)p & 15u) == 0;
}

TEST(a_plain_request_needs_no_heap)
{
    _Alignas(16) char first[1024];
    struct arena a;
    arena_init(&a, first, sizeof(first));
    for (int i = 0; i < 64; i++) {
        char *p = arena_alloc(&a, 16);
        ok(p >= first && p + 16 <= first + sizeof(first));
    }
    is(a.heap_bytes, 0);
    ok(arena_alloc(&a, 1) != NULL);
    ok(a.heap_bytes > 0);
    arena_reset(&a);
    is(a.heap_bytes, 0);
    ok(arena_alloc(&a, 16) == first);
}

TEST(every_piece_is_aligned_and_its_own)
{
    char first[333]; /* neither aligned nor a multiple */
    struct arena a;
    unsigned char *pieces[500];
    arena_init(&a, first + 1, sizeof(first) - 1);
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        size_t size = i * 37 % 3000;
        pieces[i] = arena_alloc(&a, size);
        must(pieces[i] != NULL);
        ok(aligned(pieces[i]));
        memset(pieces[i], (int)(i & 0xff), size);
    }
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        for (size_t k = 0; k < i * 37 % 3000; k++) {
            if (pieces[i][k] != (i & 0xff)) {
                fail("a piece was written over by another");
                k = 3000;
            }
        }
    }
    arena_reset(&a);
}

TEST(a_large_piece_leaves_the_room_of_the_current_block)
{
    _Alignas(16) char first[256];
    struct arena a;
    arena_init(&a, first, sizeof(first));
    char *before = arena_alloc(&a, 32);
    ok(arena_alloc(&a, 100000) != NULL);
    char *after = arena_alloc(&a, 32);
    ok(after == before + 32);
    arena_reset(&a);
}

TEST(works_without_a_first_block)
{
    struct arena a;
    arena_init(&a, NULL, 0);
    ok(arena_alloc(&a, 0) != NULL);
    ok(arena_alloc(&a, 10) != NULL);
    arena_reset(&a);
    arena_reset(&a);
}

TEST(impossible_sizes_fail)
{
    _Alignas(16) char first[64];
    struct arena a;
    arena_init(&a, first, sizeof(first));
    size_t huge = SIZE_MAX;
    ok(arena_alloc(&a, huge) == NULL);
    ok(arena_alloc(&a, huge - 15) == NULL);
    ok(arena_alloc(&a, huge - 16) == NULL);
    ok(arena_copy(&a, (struct str){ "x", huge }).ptr == NULL);
    ok(arena_alloc(&a, 16) == first);
    arena_reset(&a);
}

TEST(copies_have_a_nul_behind)
{
    struct arena a;
    arena_init(&a, NULL, 0);
    struct str s = arena_copy(&a, (struct str){ "abcdef", 3 });
    is(s.len, 3);
    is_str(s.ptr, "abc");
    is_str(arena_copy(&a, (struct str){ NULL, 0 }).ptr, "");
    arena_reset(&a);
}
