/* See shadow.h. */
#include "plugin/shadow.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIECE 16384u

_Static_assert(sizeof(struct shadow_example) % sizeof(uint64_t) == 0, "it is copied in words");

const char *shadow_outcome_name(enum shadow_outcome o)
{
    static const char *const names[] = { "same", "status", "body", "failed", "dropped" };
    return (unsigned)o < ARRAY_LEN(names) ? names[o] : "unknown";
}

/* ---- An answer ------------------------------------------------------------------------------- */

void shadow_digest_init(struct shadow_digest *d)
{
    d->len = 0;
    d->unreadable = false;
    SHA512Init(&d->hash);
}

/* Bytes of the next `len` that count. */
static size_t counted(const struct shadow_digest *d, uint64_t len)
{
    uint64_t left = d->len < SHADOW_BYTES ? SHADOW_BYTES - d->len : 0;
    return (size_t)(len < left ? len : left);
}

void shadow_digest_bytes(struct shadow_digest *d, const void *data, size_t len)
{
    size_t n = counted(d, len);
    if (n > 0)
        SHA512Update(&d->hash, data, n);
    d->len += len;
}

/* Never waits for a disk, where the file system can tell; what is asked for once is there the next
   time. */
static ssize_t read_now(int fd, void *to, size_t len, int64_t offset)
{
    struct iovec iov = { to, len };
    ssize_t n = preadv2(fd, &iov, 1, offset, RWF_NOWAIT);
    if (n >= 0 || errno != EOPNOTSUPP)
        return n;
    return pread(fd, to, len, offset);
}

static void digest_file(struct shadow_digest *d, const struct seg *s)
{
    unsigned char piece[PIECE];
    size_t left = counted(d, s->len);
    int64_t offset = s->offset;
    while (left > 0) {
        ssize_t n = read_now(s->fd, piece, left < PIECE ? left : PIECE, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n < 0 && errno == EAGAIN)
                readahead(s->fd, offset, left);
            d->unreadable = true;
            break;
        }
        SHA512Update(&d->hash, piece, (size_t)n);
        offset += n;
        left -= (size_t)n;
    }
    d->len += s->len;
}

void shadow_digest_queue(struct shadow_digest *d, const struct outq *q)
{
    for (const struct seg *s = q->first; s; s = s->next) {
        if (s->kind == SEG_FILE)
            digest_file(d, s);
        else if (s->len > 0)
            shadow_digest_bytes(d, s->ptr, (size_t)s->len);
    }
}

void shadow_digest_end(struct shadow_digest *d, unsigned status, struct shadow_answer *out)
{
    out->status = status;
    out->len = d->len;
    SHA512Final(out->hash, &d->hash);
}

enum shadow_outcome shadow_compare(const struct shadow_answer *given,
                                   const struct shadow_answer *shadow)
{
    if (given->status != shadow->status)
        return SHADOW_STATUS;
    bool same =
        given->len == shadow->len && memcmp(given->hash, shadow->hash, sizeof given->hash) == 0;
    return same ? SHADOW_SAME : SHADOW_BODY;
}

/* ---- The figures ----------------------------------------------------------------------------- */

/* A query may hold what is nobody's business. */
void shadow_path(char to[SHADOW_PATH], struct str target)
{
    size_t n = 0;
    while (n < target.len && target.ptr[n] != '?' && n < SHADOW_PATH - 1) {
        char c = target.ptr[n];
        to[n++] = c > ' ' && c < 0x7f && c != '"' && c != '\\' ? c : '?';
    }
    if (n < target.len && target.ptr[n] != '?') {
        memcpy(to + SHADOW_PATH - 4, "...", 4);
        return;
    }
    to[n] = '\0';
}

/* As suspended.c: each store of the data is a release, so that none is seen before the odd number.
 */
void shadow_put(struct shadow_cell *cell, const struct shadow_example *e)
{
    struct shadow_slot *slot = &cell->slots[cell->next++ % SHADOW_EXAMPLES];
    uint64_t words[SHADOW_WORDS];
    memcpy(words, e, sizeof words);
    uint32_t seq = __atomic_load_n(&slot->seq, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->seq, seq + 1, __ATOMIC_RELAXED);
    for (size_t i = 0; i < SHADOW_WORDS; i++)
        __atomic_store_n(&slot->words[i], words[i], __ATOMIC_RELEASE);
    __atomic_store_n(&slot->seq, seq + 2, __ATOMIC_RELEASE);
}

/* False: there is none, or it is being written, and the next look will do. */
static bool get(const struct shadow_slot *slot, struct shadow_example *e)
{
    uint64_t words[SHADOW_WORDS];
    for (int tries = 0; tries < 100; tries++) {
        uint32_t before = __atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE);
        for (size_t i = 0; i < SHADOW_WORDS; i++)
            words[i] = __atomic_load_n(&slot->words[i], __ATOMIC_ACQUIRE);
        uint32_t after = __atomic_load_n(&slot->seq, __ATOMIC_RELAXED);
        if (before == 0)
            return false;
        if (before == after && (before & 1u) == 0) {
            memcpy(e, words, sizeof words);
            return true;
        }
    }
    return false;
}

/* Among the newest; the oldest makes room. */
static void keep(struct shadow_sums *sums, const struct shadow_example *e)
{
    unsigned at = sums->nexamples;
    while (at > 0 && sums->examples[at - 1].when_us < e->when_us)
        at--;
    if (at == SHADOW_EXAMPLES)
        return;
    if (sums->nexamples < SHADOW_EXAMPLES)
        sums->nexamples++;
    for (unsigned i = sums->nexamples - 1; i > at; i--)
        sums->examples[i] = sums->examples[i - 1];
    sums->examples[at] = *e;
}

void shadow_sum(const struct shadow_cell *cell, struct shadow_sums *sums)
{
    struct shadow_example e;
    sums->live += COUNTER_READ(cell->live);
    for (unsigned o = 0; o < SHADOW_OUTCOMES; o++) {
        uint64_t n = COUNTER_READ(cell->outcomes[o]);
        sums->outcomes[o] += n;
        sums->requests += n;
    }
    for (unsigned i = 0; i < SHADOW_EXAMPLES; i++)
        if (get(&cell->slots[i], &e))
            keep(sums, &e);
}
