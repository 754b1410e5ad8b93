/* The log-linear histogram: see histogram.h. Slots 0..127 count single microseconds; from there on
 * each power of two is divided into 64 slots of equal width. */
#include "histogram.h"

#include <stddef.h>

static unsigned slot_of(uint64_t us)
{
    unsigned shift;

    if (us < 2 * HISTOGRAM_STEPS)
        return (unsigned)us;
    shift = 63u - (unsigned)__builtin_clzll(us) - 6u; /* 6: log2(HISTOGRAM_STEPS) */
    if (shift >= HISTOGRAM_OCTAVE - 1u)
        return HISTOGRAM_OCTAVE * HISTOGRAM_STEPS - 1u;
    return shift * HISTOGRAM_STEPS + (unsigned)(us >> shift);
}

/* The greatest value that falls into a slot: percentiles are never reported too low. */
static uint64_t slot_top(unsigned slot)
{
    unsigned shift;

    if (slot < 2 * HISTOGRAM_STEPS)
        return slot;
    shift = slot / HISTOGRAM_STEPS - 1u;
    return ((uint64_t)(slot - shift * HISTOGRAM_STEPS + 1u) << shift) - 1u;
}

void histogram_add(struct histogram *h, uint64_t us)
{
    h->slots[slot_of(us)]++;
    h->count++;
    h->sum += us;
    if (us > h->max)
        h->max = us;
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
    for (size_t i = 0; i < HISTOGRAM_OCTAVE * HISTOGRAM_STEPS; i++)
        to->slots[i] += from->slots[i];
    to->count += from->count;
    to->sum += from->sum;
    if (from->max > to->max)
        to->max = from->max;
}

uint64_t histogram_at(const struct histogram *h, double share)
{
    double wanted = share * (double)h->count;
    uint64_t seen = 0;

    if (h->count == 0)
        return 0;
    for (unsigned i = 0; i < HISTOGRAM_OCTAVE * HISTOGRAM_STEPS; i++) {
        seen += h->slots[i];
        if (seen > 0 && (double)seen >= wanted) {
            uint64_t top = slot_top(i);
            return top < h->max ? top : h->max;
        }
    }
    return h->max;
}
