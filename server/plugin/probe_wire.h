/*
 * What graft-probe writes to its pipe: frames of { uint32 type, uint32 length } and `length` bytes,
 * in the machine's own byte order (both ends run on it). The code it probes runs in the same
 * process and may write anything, so the reader believes no byte of it.
 *
 *   BEGUN   empty                  the plugin is about to be dlopened
 *   LOADED  empty                  dlopen has returned: constructors are over
 *   FAILED  text                   why it was refused
 *   DONE    a descriptor           see descriptor_encode
 */
#ifndef GRAFT_PLUGIN_PROBE_WIRE_H
#define GRAFT_PLUGIN_PROBE_WIRE_H

#include "base/buf.h"
#include "base/err.h"
#include "plugin/descriptor.h"

enum probe_frame_type { PROBE_BEGUN = 1, PROBE_LOADED, PROBE_FAILED, PROBE_DONE };

struct probe_frame {
    uint32_t type, length;
};

/* The longest descriptor there can be stays below this. */
#define PROBE_FRAME_MAX (8u * 1024 * 1024)

/* The pipe's number in the probe, and what the probe exits with by itself (else 0). */
#define PROBE_FD 3
enum { PROBE_EXIT_USAGE = 64, PROBE_EXIT_NO_READER = 74 };

/* Appends d, without its functions. 0 or -1 (memory). */
int descriptor_encode(const struct descriptor *d, struct buf *out);

/* Reads back exactly `len` bytes and checks them as descriptor_check does. 0; or -1, nothing to
   free. */
int descriptor_decode(const void *data, size_t len, struct descriptor *out, struct err *err);

#endif
