/*
 * What fuzz targets share: an assertion that is always live, and a cheap deterministic source of
 * numbers, so that an input decides by itself how it is cut into pieces.
 */
#ifndef GRAFT_TESTS_FUZZ_H
#define GRAFT_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define HOLDS(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct fuzz_random {
    uint64_t state;
};

static inline struct fuzz_random fuzz_random_of(const void *data, size_t len)
{
    struct fuzz_random r = { 0xcbf29ce484222325u };
    for (size_t i = 0; i < len; i++)
        r.state = (r.state ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return r;
}

/* 0..bound-1 */
static inline size_t fuzz_below(struct fuzz_random *r, size_t bound)
{
    r->state = r->state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(r->state >> 33) % bound;
}

/* A copy of its exact length, so that AddressSanitizer sees a read past it. Ends the run without
   memory. */
static inline char *fuzz_copy(const void *data, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    HOLDS(copy != NULL);
    if (len > 0)
        memcpy(copy, data, len);
    return copy;
}

#endif
