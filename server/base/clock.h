/* Monotonic time for intervals and deadlines, wall time for log lines. Any thread. */
#ifndef GRAFT_BASE_CLOCK_H
#define GRAFT_BASE_CLOCK_H

#include "base/base.h"

#include <time.h>

static inline uint64_t clock_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static inline uint64_t clock_ms(void)
{
    return clock_us() / 1000u;
}

/* RFC 3339 UTC with microseconds, "2026-11-22T18:00:00.000000Z": 28 bytes with the NUL. */
#define CLOCK_RFC3339_SIZE 28
void clock_rfc3339(char out[CLOCK_RFC3339_SIZE]);

#endif
