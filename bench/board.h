/* The board: a small file that graftload and the script that deploys both map, so that each knows
 * what the other does without asking. Native byte order, 8 bytes each; every word has one writer.
 * The script makes the file (BOARD_BYTES long); bench/common.py has the same table. */
#ifndef BENCH_BOARD_H
#define BENCH_BOARD_H

#include <stdint.h>

#define BOARD_MAGIC 0x3130445242544647u /* "GFTBRD01" */
#define BOARD_BYTES 4096u

/* A phase is its number * 4 + its class; latencies are kept apart by class. */
enum phase_class {
    PHASE_OTHER, /* warming up or settling: measured, but in neither column */
    PHASE_QUIET, /* no swap was in progress from the phase's beginning to its end */
    PHASE_SWAPS,
    PHASE_CLASSES
};

struct board {
    uint64_t magic;
    /* written by the script */
    uint64_t completed; /* the last version whose swap is complete: an older answer is stale */
    uint64_t newest;    /* the last version put into the plugin folder */
    uint64_t phase;
    uint64_t stop;  /* not 0: send no more, wait for the answers, end */
    uint64_t pause; /* not 0: send no more until it is 0 again; connections stay open */
    /* written by graftload */
    uint64_t sent;
    uint64_t answered;
    uint64_t failed;
    uint64_t opened;
    uint64_t stale;
    uint64_t waiting; /* requests that have no answer yet */
};

#endif
