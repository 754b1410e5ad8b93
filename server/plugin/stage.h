/*
 * The stage folder: where plugin files are copied to, under a name never used before, ahead of
 * being loaded. The file that the user owns is never mapped: it may be overwritten at any time.
 *
 *   ROOT/PID-STARTTIME/.lock                held as long as the process lives
 *   ROOT/PID-STARTTIME/BASE/SHA12.SEQ.so    BASE: the plugin file's name without .so
 *
 * A copy stays until its version is unmapped: gdb and perf read it. Should somebody remove the
 * folder (a cleaner of /tmp does), the next copy makes it again. Loader thread (or any other, one
 * at a time), except where a function says otherwise. Everything here may block.
 */
#ifndef GRAFT_PLUGIN_STAGE_H
#define GRAFT_PLUGIN_STAGE_H

#include "base/base.h"
#include "base/err.h"
#include "base/root.h"

#include <limits.h>
#include <sys/types.h>
#include <time.h>

struct stage;

/*
 * Chooses the root and makes our folder in it. The root is `configured`, or, when that is NULL or
 * "", the first of $CACHE_DIRECTORY, /var/cache/graft, $XDG_CACHE_HOME/graft (else
 * ~/.cache/graft), $TMPDIR/graft-UID, /tmp/graft-UID that is, or can be made, a 0700 folder of ours
 * (no symbolic link) on a mount that allows execution. Removes what processes that have ended left
 * in it. 0, or -1: err names each candidate and what is wrong with it.
 */
int stage_open(struct stage **out, const char *configured, struct err *err);

/*
 * The folder of the supervisor that started us, by descriptors that become the stage's: it opened
 * the stage, holds the lock too, and removes the folder in the end. `name`: of the folder in its
 * root, `path`: as stage_path told it. NULL: out of memory; the descriptors are closed.
 */
struct stage *stage_adopt(int root_fd, int dir_fd, int lock_fd, const char *name, const char *path);

/* From now on the numbers of copies are counted there, up from what it says: several processes, one
   after the other, share a folder, and no name may come again. Before the first copy. */
void stage_count_in(_Atomic(uint64_t) *last);

/* Removes the copies whose numbers are above `first`, up to `last`: their process has ended. False:
   for want of descriptors or memory some may be left. */
bool stage_remove_between(struct stage *stage, uint64_t first, uint64_t last);

/* Removes our folder with all that is in it. Accepts NULL. */
void stage_close(struct stage *stage);

const char *stage_path(const struct stage *stage); /* ROOT/PID-STARTTIME, absolute; any thread */

/* The descriptor that holds the lock (flock, so a child that inherits it holds it too). It is
   close-on-exec and stays the stage's. Any thread. */
int stage_lock_fd(const struct stage *stage);

/* The folder's name in its root, and that root. Stays the stage's. */
const char *stage_name(const struct stage *stage);
int stage_root_fd(const struct stage *stage);

/* Our folder itself, for those who work in it by openat. Stays the stage's. */
int stage_dir_fd(const struct stage *stage);

/*
 * Makes our folder and its lock again, under the same path and the same descriptors, when somebody
 * has removed them; costs a few stat() when all is well. 0 or -1. stage_copy does it.
 */
int stage_renew(struct stage *stage, struct err *err);

/*
 * Before a root process becomes `uid`: makes the root that stage_open will look at first
 * (`configured`, else $CACHE_DIRECTORY, else /var/cache/graft) and gives it to that user, when it
 * is missing or empty. 0 also when there was nothing to do; whether it fits, stage_open says.
 */
int stage_prepare(const char *configured, uid_t uid, gid_t gid, struct err *err);

/* Gives our folder and the root that it lies in to another user, by whom the next process works.
   Refused when there is anything else in that root. */
int stage_give(struct stage *stage, struct root_gift *gift, const struct root_ids *to,
               struct err *err);

enum stage_result {
    STAGE_OK = 0,
    STAGE_FAILED = -1,    /* err says why; the same file will fail again */
    STAGE_INCOMPLETE = -2 /* err begins with "incomplete": it was still being written */
};

struct stage_source {
    dev_t dev;
    ino_t ino;
    uint64_t size;
    struct timespec mtime;
};

struct staged {
    char path[PATH_MAX]; /* absolute */
    char sha256[65];     /* hex, lower case */
    char sha12[13];
    uint64_t seq; /* counts in this process, from 1; never used twice */
    char id[40];  /* SHA12.SEQ */
    uint64_t size;
    struct stage_source source; /* the file as it was when it was copied */
};

/* As long as a plugin file may be. */
#define STAGE_MAX_BYTES (1024u * 1024 * 1024)

/*
 * Copies `path` (relative to dirfd, which may be AT_FDCWD; links are followed) while hashing it.
 * Owner (root or us) and mode (not writable by group or others) are judged on the descriptor that
 * is copied. A file that changes meanwhile, is empty or ends before what its ELF headers announce
 * is tried again 5 times, 100 ms apart; then STAGE_INCOMPLETE, and out->sha256 tells what was read
 * last ("" if nothing was). On failure nothing is left behind. The messages do not name the file.
 */
enum stage_result stage_copy(struct stage *stage, int dirfd, const char *path, struct staged *out,
                             struct err *err);

/* As stage_copy, for those who only look: whose file it is and who may write to it is not judged
   but told in `owner` ("" when all is well), so that all else can be found out too. */
enum stage_result stage_copy_any(struct stage *stage, int dirfd, const char *path,
                                 struct staged *out, struct err *owner, struct err *err);
/* As stage_copy, staged as the file `as` would be. */
enum stage_result stage_copy_as(struct stage *stage, int dirfd, const char *path, const char *as,
                                struct staged *out, struct err *err);

/* Opens, judges and hashes the file without copying it: to compare known files. STAGE_OK or
   STAGE_FAILED. `source` may be NULL. Any thread that may block. */
enum stage_result stage_hash(int dirfd, const char *path, char sha256[65],
                             struct stage_source *source, struct err *err);

/* Unlinks the copy, and its BASE folder when that is empty. Harmless when it is gone already. */
void stage_remove(struct stage *stage, const struct staged *staged);

#endif
