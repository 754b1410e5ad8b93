/*
 * What has been quarantined and is not in the index yet, in memory that outlives this process: an
 * answer that says so is kept although the process dies before its disk has it. The bytes are
 * checked when they are read: a crash may have written anything there. keep.c has the lock.
 */
#ifndef GRAFT_PLUGIN_BARRED_H
#define GRAFT_PLUGIN_BARRED_H

#include "plugin/quarantine.h"

#include <stdint.h>

#define BARRED_MAX 32

struct barred {
    struct identity identity;
    int64_t when_ms;
    char reason[QUARANTINE_REASON_MAX];
};

/* Numbers count all that were ever added; those from `written` on wait, the last BARRED_MAX. */
struct barred_area {
    _Atomic(uint64_t) added, written;
    struct barred all[BARRED_MAX];
};

/* From now on; NULL: nothing outlives the process. */
void barred_open(struct barred_area *area);

void barred_add(const struct identity *identity, const char *reason, int64_t when_ms);
void barred_remove(const struct identity *identity); /* it is good again */

/* How many were added so far; and that so many of them are on the disk. */
uint64_t barred_added(void);
void barred_written(uint64_t added);

/* Those that wait, oldest first. */
void barred_each(void (*fn)(const struct barred *b, void *arg), void *arg);

#endif
