/*
 * Which identity each staged copy of this process has, in memory that outlives it: when a thread
 * that no callback of ours had called crashes (one of the plugin's own, an event of its own), the
 * file in whose code it was leads to its identity.
 *
 * Written on loader threads, two of them at most (one may hang in a callback); read by the
 * supervisor, which believes it no more than anything else that a crashed process left.
 */
#ifndef GRAFT_PLUGIN_ROSTER_H
#define GRAFT_PLUGIN_ROSTER_H

#include "base/base.h"

#include <stdatomic.h>

#define ROSTER_MAX 128 /* of more, the rest is not known */

struct version;

enum roster_state { ROSTER_FREE, ROSTER_WRITING, ROSTER_WHOLE };

struct roster_entry {
    _Atomic(uint32_t) state; /* enum roster_state */
    char plugin[65], version[65], id[40], sha256[65], config_sha256[65];
};

struct roster {
    struct roster_entry entries[ROSTER_MAX];
};

/* From now on; without it nothing is written. */
void roster_open(struct roster *at);

void roster_enter(const struct version *v); /* before code of it runs */
void roster_leave(const struct version *v); /* it is unmapped */

/* A copy of the entry of `id`, every text of it ended; false: there is none. */
bool roster_find(const struct roster *roster, const char *id, struct roster_entry *out);

#endif
