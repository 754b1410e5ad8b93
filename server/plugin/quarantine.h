/*
 * Identities that are not loaded by themselves, each with its reason; and crashes that were noted
 * against identities, of which two within a window make a quarantine. Lists in memory, bounded:
 * what is oldest goes first. No lock and no thread of its own: keep.c has both.
 */
#ifndef GRAFT_PLUGIN_QUARANTINE_H
#define GRAFT_PLUGIN_QUARANTINE_H

#include "base/base.h"
#include "base/list.h"

#define QUARANTINE_MAX        512 /* of all plugins */
#define QUARANTINE_OF_PLUGIN  16
#define QUARANTINE_CRASHES    64
#define QUARANTINE_REASON_MAX 512 /* bytes, with the NUL */

/* What is quarantined, kept and compared: a file with a configuration, under a plugin's name. */
struct identity {
    char plugin[65];
    char sha256[65], config_sha256[65]; /* lower-case hex */
};
void identity_set(struct identity *out, const char *plugin, const char *sha256,
                  const char *config_sha256);
bool identity_same(const struct identity *a, const struct identity *b);
/* A plugin's name and two hashes: what an index may hold. One that a crashing process wrote may be
   anything. */
bool identity_is_whole(const struct identity *identity);

struct quarantined {
    struct list node;
    struct identity identity;
    int64_t when_ms;                    /* since 1970 */
    char reason[QUARANTINE_REASON_MAX]; /* printable ASCII */
    char *evidence;                     /* JSON, or NULL */
};

struct crash {
    struct list node;
    struct identity identity;
    int64_t when_ms;
};

struct quarantine {
    struct list list, crashes; /* newest first */
    size_t count, ncrashes;
};

void quarantine_init(struct quarantine *q);
void quarantine_fini(struct quarantine *q);

/* `evidence`: a JSON value as text, or NULL. When it is there already, the newer reason counts.
   False: no memory, nothing is changed. */
bool quarantine_add(struct quarantine *q, const struct identity *identity, const char *reason,
                    const char *evidence, int64_t when_ms);
const struct quarantined *quarantine_find(const struct quarantine *q,
                                          const struct identity *identity);    /* or NULL */
bool quarantine_remove(struct quarantine *q, const struct identity *identity); /* it was there */

/* The identity has crashed. True: for the second time within the window, so that it is to be
   quarantined (the caller's); what was noted of it is then forgotten. The clock may have been set
   between the two: what counts is how far they lie apart. */
bool crash_note(struct quarantine *q, const struct identity *identity, int64_t when_ms,
                unsigned window_ms);

#endif
