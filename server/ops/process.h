/* This process's figures, from /proc and getrusage. Any thread; reads, never waits. */
#ifndef GRAFT_OPS_PROCESS_H
#define GRAFT_OPS_PROCESS_H

#include "base/base.h"

struct process {
    uint64_t cpu_us, resident_bytes, virtual_bytes, open_fds, max_fds, threads;
};

void process_read(struct process *out); /* what cannot be read is 0 */

#endif
