/*
 * What has been said of identities and is not in the index yet, in memory that outlives this
 * process: an answer (to abort, rollback, canary, promote) is kept although the process dies before
 * its disk has it. The bytes are checked when they are read: a crash may have written anything
 * there. keep.c has the lock.
 */
#ifndef GRAFT_PLUGIN_VERDICT_H
#define GRAFT_PLUGIN_VERDICT_H

#include "plugin/trial.h"

#include <stdint.h>

#define VERDICTS_MAX 64

enum verdict_kind { VERDICT_NOTHING, VERDICT_BAD, VERDICT_GOOD, VERDICT_TRIAL, VERDICT_NO_TRIAL };

/* An upgrade hands the memory on to another graftd, so nothing in it may move: `shadow` lies where
   one that knows of none leaves an empty reason. */
struct verdict {
    struct identity identity;
    int64_t when_ms;
    uint32_t kind;         /* enum verdict_kind */
    uint32_t weight, held; /* of VERDICT_TRIAL: as struct trial */
    union {
        char reason[QUARANTINE_REASON_MAX]; /* of VERDICT_BAD */
        uint32_t shadow; /* of VERDICT_TRIAL: one more than was asked for; 0: nothing was */
    };
};

/* Numbers count all that were ever added; those from `written` on wait, the last VERDICTS_MAX. */
struct verdict_area {
    _Atomic(uint64_t) added, written;
    struct verdict all[VERDICTS_MAX];
};

/* From now on; NULL: nothing outlives the process. */
void verdicts_open(struct verdict_area *area);

void verdict_bad(const struct identity *identity, const char *reason, int64_t when_ms);
void verdict_good(const struct identity *identity, int64_t when_ms);
void verdict_trial(const struct trial *trial, int64_t when_ms);
void verdict_no_trial(const struct identity *identity, int64_t when_ms);

/* How many were added so far; and that so many of them are on the disk. */
uint64_t verdicts_added(void);
void verdicts_written(uint64_t added);

/* Those that wait, oldest first: a later one of an identity replaces an earlier. */
void verdicts_each(void (*fn)(const struct verdict *v, void *arg), void *arg);

#endif
