/*
 * How many processor cores this process may use: what `workers: 0` means. A container with a quota
 * sees all cores of its machine, so the affinity mask alone would start too many workers.
 */
#ifndef GRAFT_RUN_CORES_H
#define GRAFT_RUN_CORES_H

/* Affinity mask and cgroup quota (v2, then v1; a part of a core counts as one), read now; at least
   1. Any thread. */
unsigned cores_usable(void);

#endif
