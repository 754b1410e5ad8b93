/*
 * The store of good versions: of each plugin the version that serves and the one before it, their
 * files, the configuration they ran with, and what is quarantined. Good is what has been fully
 * active and is not quarantined.
 *
 *   STATE/.lock          held as long as graftd lives: a folder serves one
 *   STATE/.owner         which of its server processes writes: the one that opened it last
 *   STATE/index.json     what is kept and quarantined; replaced as a whole
 *   STATE/files/SHA256   the files
 *
 * Without a fit state folder the same lies in the stage folder and ends with that. What is
 * known is in memory, behind a lock that is held for look-ups only; any thread may ask. The files
 * are touched by loader threads alone: new ones are copied and kept ones staged by the one that
 * loads plugins, all is written to the disk by one of the store's own (keep_save). What cannot be
 * written is told once and changes nothing that serves.
 */
#ifndef GRAFT_PLUGIN_KEEP_H
#define GRAFT_PLUGIN_KEEP_H

#include "base/err.h"
#include "plugin/loader.h"
#include "plugin/quarantine.h"
#include "plugin/signature.h"
#include "plugin/stage.h"
#include "plugin/trial.h"

struct keep;

/* A good version. */
struct kept {
    struct identity identity;
    char *version;            /* the plugin's own word */
    char *config;             /* compact JSON, whose SHA-256 is the identity's */
    char *file;               /* the name of the file that it came from */
    char signer[SIGNER_SIZE]; /* whose signature of it was verified; "" = nobody's */
    int64_t since_ms;
    bool stored; /* its file lies in the store, */
    bool synced; /* and on the disk: an index may name it */
    char *from;  /* not stored: where it can be copied from */
};
void kept_fini(struct kept *kept);
bool kept_copy(struct kept *to, const struct kept *from); /* false: no memory, nothing to free */

/* As stage_prepare: before a root process becomes `uid`. */
int keep_prepare(const char *configured, uid_t uid, gid_t gid, struct err *err);

/* The state folder becomes another user's, if `lock` (of keep_lock) is its lock: else it is not in
   use. Refused when it holds anything but the store. */
int keep_give(const char *configured, int lock, struct root_gift *gift, const struct root_ids *to,
              struct err *err);

/* The state folder's lock, for every server process that there will be; -1: it is not to be had,
   keep_open will say why. Any thread; may block. */
int keep_lock(const char *configured);

/*
 * Opens the state folder: `configured`, else $STATE_DIRECTORY, else /var/lib/graft where that is
 * ours; judged like the stage folder. `lock`: of keep_lock, stays the caller's. When there is none,
 * or it is unfit, in use or not ours to understand, says so and keeps things in `stage` (which
 * outlives it). NULL: no memory. Main thread, before the others; may block.
 */
struct keep *keep_open(const char *configured, struct stage *stage, int lock);
/* It could not be opened for want of descriptors or memory, and is not to be used: whoever went on
   without it would load again what was quarantined. */
bool keep_lacks(const struct keep *k, struct err *err);
/*
 * The same beside a process that uses the folder and is to be followed: reads what is kept and
 * quarantined, and writes nothing until keep_take. The other one stops writing (see keep_writes)
 * and says keep_yield.
 */
struct keep *keep_open_behind(const char *configured, struct stage *stage, int lock);
void keep_yield(struct keep *k);                /* [control] */
int keep_take(struct keep *k, struct err *err); /* -1: it cannot be had yet [control] */
void keep_close(struct keep *k);                /* threads that use it have ended; takes NULL */
const char *keep_path(const struct keep *k);    /* NULL: until the restart */

/* All below take NULL for a store that holds nothing. */

/* It has been fully active: it is good, newest, and no longer quarantined. `kept->stored` does not
   count; `from` is its staged file, which stays until the loader has done what keep_save gives it.
 */
void keep_good(struct keep *k, const struct kept *kept);
/* Not loaded by itself from now on, and not good any more. Logs the event `quarantine`. */
void keep_quarantine(struct keep *k, const struct identity *identity, const char *reason,
                     const char *evidence);
/* It crashed; the second time within the window it is quarantined (true) with `evidence`. An
   identity that is not whole is not noted: an index that named it could not be read again. Whoever
   knows at the start what the process before has crashed in says so between keep_open and the first
   load, and then calls keep_flush: what is noted must outlive the next crash, and the scan of the
   first load then takes the good version before. Any time later: with keep_save(k, true). */
bool keep_crash(struct keep *k, const struct identity *identity, int64_t when_ms,
                unsigned window_ms, const char *evidence);
/* Its kept file is not what it was: forgotten. */
void keep_forget(struct keep *k, const struct identity *identity);

/* Why it is quarantined, or false. */
bool keep_is_quarantined(struct keep *k, const struct identity *identity,
                         char reason[QUARANTINE_REASON_MAX]);
/* The n-th newest good version of the plugin. The caller's to fini. */
bool keep_find_nth(struct keep *k, const char *plugin, size_t n, struct kept *out);
/* The newest good version of the plugin that is not `but` (NULL: any). The caller's to fini. */
bool keep_find(struct keep *k, const char *plugin, const struct identity *but, struct kept *out);
/* The good version with that file and, unless NULL, that configuration. The caller's to fini. */
bool keep_find_file(struct keep *k, const char *sha256, const char *config_sha256,
                    struct kept *out);

/* The newest good version that came from a file of that name. The caller's to fini. */
bool keep_find_named(struct keep *k, const char *file, struct kept *out);

/* It serves as a canary (again, with another weight); true: that is news, to be saved. */
bool keep_trial(struct keep *k, const struct trial *trial);
/* It has become good just before the process before this one died, which could not write it. */
bool keep_is_judged(struct keep *k, const struct identity *identity);
/* It does no longer. One that becomes good or quarantined is not on trial either. */
bool keep_trial_end(struct keep *k, const struct identity *identity);
/* It was one when the store was last told. */
bool keep_is_on_trial(struct keep *k, const struct identity *identity, struct trial *out);

/* Calls for each, newest first, with the lock held: `fn` must not call back. */
void keep_each(struct keep *k, void (*fn)(const struct kept *kept, void *arg), void *arg);
void keep_each_quarantined(struct keep *k, void (*fn)(const struct quarantined *q, void *arg),
                           void *arg);
size_t keep_quarantined(struct keep *k); /* how many */

/* From now on `loader` copies new files, and a loader of the store's own, with nothing else to do,
   syncs them and writes the index: no swap waits for a slow disk. `idle`: all is written. -1: no
   memory, no thread. [control] */
int keep_start(struct keep *k, struct loader *loader, struct event_base *base,
               struct inbox *control, void (*idle)(void *arg), void *arg, struct err *err);
bool keep_writes(const struct keep *k); /* not idle [control] */
/* Something has changed: new files are copied when what they replaced is usually gone, or before
   the next version replaces them; the rest is written a moment later, so that a row of swaps is
   written once. With `now` all of it at once. [control] */
void keep_save(struct keep *k, bool now);
void keep_stop(struct keep *k); /* what waits is written at once; the drain begins [control] */
/* All of it by the caller, while there is no loader. */
int keep_flush(struct keep *k, struct err *err);

/* Stages the kept file as that of BASE.so, and proves its hash. 0; -1: it cannot be staged; 1: it is
   gone, or is not what was kept. [loader] */
int keep_stage(struct keep *k, const struct kept *kept, struct stage *stage, const char *base,
               struct staged *out, struct err *err);

#endif
