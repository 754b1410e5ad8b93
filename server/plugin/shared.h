/*
 * graft_shared: memory that outlives the versions that use it, and, kept by a supervisor, the
 * process. Each block is a memfd, sealed against shrinking and growing and mapped MAP_SHARED; one
 * registry holds all, by plugin name.
 *
 * A block that a version asks for is `pending` until that version has been promoted; then it is the
 * current one of its name, and whatever else had that name can no longer be found. A pending block
 * whose versions have all been abandoned can no longer be found either: failed swaps leave no
 * trace. Memory that cannot be found any more is unmapped when no version that asked for it is left.
 *
 * Any thread; one lock, which only loaders and the control thread take.
 */
#ifndef GRAFT_PLUGIN_SHARED_H
#define GRAFT_PLUGIN_SHARED_H

#include "base/base.h"
#include "base/err.h"
#include "base/list.h"

#define SHARED_NAME_MAX   64
#define SHARED_BLOCKS_MAX 64           /* blocks of one plugin, old ones that are still read too */
#define SHARED_BYTES_MAX  (1ull << 30) /* of one plugin, in all */

/* What a block is known by. */
struct shared_key {
    char plugin[SHARED_NAME_MAX + 1];
    char name[SHARED_NAME_MAX + 1];
    uint64_t size;
    uint32_t schema;
};

/* ---- For versions ---------------------------------------------------------------------------- */

/* A version's share in the registry; zeroed is empty. */
struct shared_user {
    struct shared_use *uses; /* protected by the registry's lock */
    bool promoted, abandoned;
    unsigned refused; /* calls of shared_get; the caller's, who tells of some [loader] */
};

/* The block, made if there is none; *fresh (may be NULL): it was. NULL: why. [loader] */
void *shared_get(struct shared_user *u, const char *plugin, const char *name, uint64_t size,
                 uint32_t schema, bool *fresh, struct err *err);
/* What this version's block of that name takes the place of; NULL: nothing, or not any more. It
   stays mapped until shared_release. `size` and `schema` may be NULL. [loader] */
const void *shared_previous(struct shared_user *u, const char *plugin, const char *name,
                            size_t *size, uint32_t *schema);

/* The version is about to be published: what crashes from now on must not lose its blocks. They
   are handed to the keeper. [control] */
void shared_publish(struct shared_user *u);
/* The version is fully active: its blocks are the current ones. [control] */
void shared_promote(struct shared_user *u);
/* It will never be, or is no longer: nobody new finds what it alone has asked for and what was not
   promoted. Harmless again, and on one that was promoted. [control] */
void shared_abandon(struct shared_user *u);
/* It is unloaded. [control] */
void shared_release(struct shared_user *u);

/* ---- For a supervisor ------------------------------------------------------------------------ */

/*
 * Keeping blocks beyond a crash of this process: `fn` is called with each block's key and memfd
 * (borrowed: send it over a socket or dup it) before a version that uses it is published, and with
 * fd -1 when it is not needed any more. At the next start give them back with shared_adopt, in the
 * order in which they came, before the first load. A key may be kept, dropped and kept again; the
 * newest counts. Under the registry's lock: must not call back in here. [control]
 */
typedef void shared_keep_fn(void *arg, const struct shared_key *key, int fd);
void shared_keep(shared_keep_fn *fn, void *arg);

/* Takes the memfd over, also when it fails. It must be whole and sealed as those that were kept.
   0, or -1 with the reason. [control] */
int shared_adopt(const struct shared_key *key, int fd, struct err *err);

/* ---- For people and tests -------------------------------------------------------------------- */

/* Unmaps what no version uses: at the end, for leak checks. */
void shared_close(void);
/* Blocks and bytes that are mapped, of all plugins. */
void shared_figures(uint64_t *blocks, uint64_t *bytes);

#endif
