/* A log-linear histogram of microseconds, in the manner of HdrHistogram: 64 steps to each power of
 * two, so that a percentile is off by at most 1.6 %; the greatest value is kept exactly. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS  64u
#define HISTOGRAM_OCTAVE 27u /* up to 2^32 us: more than an hour */

struct histogram {
    uint64_t count;
    uint64_t sum;
    uint64_t max;
    uint64_t slots[HISTOGRAM_OCTAVE * HISTOGRAM_STEPS];
};

void histogram_add(struct histogram *h, uint64_t us);

/* Adds all that `from` counted to `to`. */
void histogram_merge(struct histogram *to, const struct histogram *from);

/* The value that `share` (0..1) of what was added do not exceed; 0 when nothing was added. */
uint64_t histogram_at(const struct histogram *h, double share);

#endif
