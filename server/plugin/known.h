/*
 * What is remembered from scan to scan: the plugin name that a file declared, by its hash, so that
 * a known file is compared without loading; and what failed, so that it is reported again without
 * being tried again. Both bounded, the least recently seen go first.
 *
 * Belongs to the loader while a scan runs, to the control thread otherwise.
 */
#ifndef GRAFT_PLUGIN_KNOWN_H
#define GRAFT_PLUGIN_KNOWN_H

#include "base/base.h"
#include "base/list.h"

#define KNOWN_MAX 512 /* of each kind */
#define KNOWN_KEY 640 /* bytes of a failure's key, with the NUL */

struct known {
    struct list names, failures; /* most recently seen first */
    size_t nnames, nfailures;
};

struct known_failure {
    struct list node;
    char *key;
    char *stage, *error;
    char *plugin;       /* or NULL */
    char *other_sha256; /* it failed only because of this file; NULL: by itself */
    bool config_bound;  /* it failed only with that configuration */
    bool suspect;       /* it may have been the machine: only the next time it counts */
};

void known_init(struct known *k);
void known_fini(struct known *k);

const char *known_name(struct known *k, const char *sha256); /* or NULL */
void known_name_add(struct known *k, const char *sha256, const char *plugin);

/* Keys: what exactly failed. A file by itself; a file with a configuration; a file with
   its configuration, what was found as its signature, and what is demanded of one. */
void known_key_file(char out[KNOWN_KEY], const char *sha256);
void known_key_identity(char out[KNOWN_KEY], const char *sha256, const char *config_sha256);
void known_key_signature(char out[KNOWN_KEY], const char *file, const char *sha256,
                         const char *config_sha256, const char *signature, const char *demands);

struct known_failure *known_failure(struct known *k, const char *key); /* or NULL */
/* Replaces what was there. Without memory nothing is remembered, and nothing that failed because
   memory or descriptors were short: it will be tried again. So is, once, what dlopen refused after
   a good probe, unless its words are about the file. */
void known_failure_add(struct known *k, const struct known_failure *from);
void known_failure_forget(struct known *k, const char *key);
void known_forget_config_bound(struct known *k); /* a new configuration has come */

#endif
