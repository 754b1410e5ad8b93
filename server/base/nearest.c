/* Edit distance, by the three last rows of the usual table. Holds nothing. */
#include "base/nearest.h"

#define WORD_MAX 40

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static unsigned distance(struct str a, struct str b)
{
    unsigned rows[3][WORD_MAX + 1];
    for (unsigned j = 0; j <= b.len; j++)
        rows[0][j] = j;
    for (unsigned i = 1; i <= a.len; i++) {
        const unsigned *above = rows[(i - 1) % 3], *second = rows[(i + 1) % 3]; /* i - 2 */
        unsigned *row = rows[i % 3];
        row[0] = i;
        for (unsigned j = 1; j <= b.len; j++) {
            char ca = lower(a.ptr[i - 1]), cb = lower(b.ptr[j - 1]);
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (ca != cb));
            if (i > 1 && j > 1 && ca == lower(b.ptr[j - 2]) && lower(a.ptr[i - 2]) == cb)
                row[j] = least(row[j], second[j - 2] + 1);
        }
    }
    return rows[a.len % 3][b.len];
}

struct str nearest(struct str word, const struct str *names, size_t count)
{
    struct str best = { NULL, 0 };
    unsigned best_distance = (unsigned)(word.len + 2) / 3 + 1;
    if (word.len > WORD_MAX)
        return best;
    for (size_t i = 0; i < count; i++) {
        if (names[i].len > WORD_MAX)
            continue;
        unsigned d = distance(word, names[i]);
        if (d < best_distance) {
            best = names[i];
            best_distance = d;
        }
    }
    return best;
}
