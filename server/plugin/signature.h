/*
 * A plugin file's detached signature, NAME.so.minisig: found, read, and held against the staged
 * copy, whose bytes nobody else can change any more. What is verified is what is loaded, whatever
 * happens to the files in the folder meanwhile. [loader], or the main thread of a program that only
 * checks; may block.
 */
#ifndef GRAFT_PLUGIN_SIGNATURE_H
#define GRAFT_PLUGIN_SIGNATURE_H

#include "base/config.h"

#include <limits.h>

/*
 * What was verified once and then kept in a folder that only we can write to (plugin/keep.h) is
 * known by the key that signed it: its id, as minisign shows it, and the key itself, in hexadecimal
 * (anybody can give a key of his own the id of another); "" for none.
 */
#define SIGNER_ID   16u
#define SIGNER_SIZE (SIGNER_ID + 64u + 1u)

enum signature_kind {
    SIGNATURE_READ,    /* `text` is what the file holds */
    SIGNATURE_MISSING, /* there is none */
    SIGNATURE_BAD      /* there is one that cannot be read: `why` */
};

struct signature {
    enum signature_kind kind;
    char path[PATH_MAX]; /* of the signature file; missing: where it was looked for last */
    char *text;
    size_t len;
    char state[80];           /* tells this state of the signature file from any other */
    char signer[SIGNER_SIZE]; /* once it is verified: whose it is; "" = nobody's */
    struct err why;
};

/* Is that the name of a plugin's signature: NAME.so.minisig? */
bool signature_takes(const char *name);

/* Do these demands ask for anything? Else no signature is looked for. */
static inline bool signature_wanted(const struct config_signatures *s)
{
    return s->required || s->key_count > 0;
}

/* Reads the signature of `file` (relative to dirfd, which may be AT_FDCWD): beside the file that it
   is once links are resolved, and, when none is there, beside the link. `out` is the caller's to
   fini. */
void signature_read(struct signature *out, int dirfd, const char *file);
void signature_fini(struct signature *s);

/* Is what was read a good signature of the file `copy`? 0, also for a missing one that is not
   required; -1: err says what, expected, found and what to do. */
int signature_verify(struct signature *s, const struct config_signatures *demands, const char *copy,
                     struct err *err);

/* May what that key has signed be loaded under these demands? 0; -1: err says why not. */
int signature_of_signer(const struct config_signatures *demands, const char *signer,
                        struct err *err);

#endif
