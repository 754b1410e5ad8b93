/*
 * What shadows have shown of a version: answers of a canary that nobody gets, compared with those
 * that clients got (chain_shadow.c makes them). Pure: the digest of an answer, the comparison, and
 * the figures, which a worker writes into its own cell and any thread reads.
 *
 * Of a body the first SHADOW_BYTES and its length are compared; of what a handler sends from a file
 * too, as far as the kernel has these bytes in memory.
 */
#ifndef GRAFT_PLUGIN_SHADOW_H
#define GRAFT_PLUGIN_SHADOW_H

#include "base/base.h"
#include "base/str.h"
#include "net/out.h"

#include <sha2.h>

#define SHADOW_BYTES (256u * 1024u)

/* Each request that was chosen for a shadow, and whose canary still serves, ends in one of these.
 */
enum shadow_outcome {
    SHADOW_SAME,
    SHADOW_STATUS,  /* another status, whatever the bodies */
    SHADOW_BODY,    /* another body */
    SHADOW_FAILED,  /* the canary gave no answer: it aborted, broke a promise, took too long */
    SHADOW_DROPPED, /* never made or not finished, or not comparable, and that was not its fault */
    SHADOW_OUTCOMES
};
const char *shadow_outcome_name(enum shadow_outcome o);

/* ---- An answer ------------------------------------------------------------------------------- */

struct shadow_answer {
    unsigned status;
    uint64_t len; /* of the body as the handler gave it, also for HEAD */
    unsigned char hash[SHA512_DIGEST_LENGTH];
};

struct shadow_digest {
    SHA2_CTX hash;
    uint64_t len;
    bool unreadable; /* bytes of a file were not to be had without waiting */
};

void shadow_digest_init(struct shadow_digest *d);
void shadow_digest_bytes(struct shadow_digest *d, const void *data, size_t len);
/* What is on the queue, which stays as it is. */
void shadow_digest_queue(struct shadow_digest *d, const struct outq *q);
void shadow_digest_end(struct shadow_digest *d, unsigned status, struct shadow_answer *out);

/* SHADOW_SAME, _STATUS or _BODY. */
enum shadow_outcome shadow_compare(const struct shadow_answer *given,
                                   const struct shadow_answer *shadow);

/* ---- The figures ----------------------------------------------------------------------------- */

#define SHADOW_EXAMPLES 4
#define SHADOW_PATH     88

/* A pair of answers that differ. Printable ASCII in both texts, whatever the client sent. */
struct shadow_example {
    uint64_t when_us; /* clock_us() */
    uint64_t len, shadow_len;
    uint32_t status, shadow_status; /* shadow_status 0: it gave no answer */
    uint32_t outcome, unused;
    char method[8];
    char path[SHADOW_PATH]; /* without the query; "..." at its end: cut there */
};
#define SHADOW_WORDS (sizeof(struct shadow_example) / sizeof(uint64_t))

/* A seqlock: `seq` is odd while the worker writes, 0 before the first. */
struct shadow_slot {
    uint32_t seq;
    uint64_t words[SHADOW_WORDS];
};

/* One worker's share of a version. */
struct shadow_cell {
    uint64_t outcomes[SHADOW_OUTCOMES];
    uint64_t live; /* that wait or run, or whose handler still owes something */
    unsigned next;
    struct shadow_slot slots[SHADOW_EXAMPLES]; /* the last ones */
};

void shadow_path(char to[SHADOW_PATH], struct str target);
void shadow_put(struct shadow_cell *cell, const struct shadow_example *e);

struct shadow_sums {
    uint64_t requests; /* all outcomes */
    uint64_t outcomes[SHADOW_OUTCOMES], live;
    unsigned nexamples;
    struct shadow_example examples[SHADOW_EXAMPLES]; /* the newest first */
};
void shadow_sum(const struct shadow_cell *cell, struct shadow_sums *sums); /* adds one cell's */
static inline uint64_t shadow_differences(const struct shadow_sums *s)
{
    return s->outcomes[SHADOW_STATUS] + s->outcomes[SHADOW_BODY] + s->outcomes[SHADOW_FAILED];
}

#endif
