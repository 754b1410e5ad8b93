/*
 * What graft-probe said of files that it found good, kept in memory that outlives this process: the
 * process that follows a crash need not have them tried again. Bounded; when it is full it begins
 * anew. The bytes are believed no more than the probe's own: they are checked whenever they are
 * read. Loader thread, but for proven_open and proven_forget (before it starts).
 */
#ifndef GRAFT_PLUGIN_PROVEN_H
#define GRAFT_PLUGIN_PROVEN_H

#include "plugin/barred.h"
#include "plugin/descriptor.h"

#define PROVEN_SIZE (256u << 10)

struct proven_area {
    _Atomic(uint32_t) used; /* of bytes: whole entries */
    unsigned char bytes[PROVEN_SIZE];
    struct barred_area barred; /* not ours: see barred.h */
};

/* From now on; without it nothing is known. */
void proven_open(struct proven_area *area);

/* 0: `out` is as from probe_run. -1: not known. */
int proven_find(const char *sha256, struct descriptor *out);
void proven_add(const char *sha256, const struct descriptor *d);
void proven_forget(const char *sha256); /* it crashed: it is tried again */
/* As proven_find, also of one that has been forgotten: what it declared before it crashed. */
int proven_declared(const char *sha256, struct descriptor *out);

#endif
