/*
 * Text in memory that has a descriptor, to be handed to another process: written once, then sealed,
 * so that its reader can trust its length. No state; any thread.
 */
#ifndef GRAFT_BASE_MEMFD_H
#define GRAFT_BASE_MEMFD_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"

/* A sealed descriptor, close-on-exec; -1 with the reason. `len` may be 0. */
int memfd_of_text(const char *name, const char *text, size_t len, struct err *err);

/* Appends what is in it. -1: it is longer than max, or can still change under its reader. */
int memfd_read(int fd, size_t max, struct buf *out, struct err *err);

/* `size` bytes of zeros that processes share; the size is sealed. -1 with the reason. */
int memfd_shared(const char *name, size_t size, struct err *err);

#endif
