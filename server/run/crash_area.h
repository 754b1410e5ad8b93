/*
 * The memory that a server process shares with its supervisor, one for each process. The server
 * writes, the supervisor reads, most of it when the server is dead: what it says is believed as
 * little as anything that a crashing process leaves behind. Only `seq` and `state` are read while
 * somebody may write.
 */
#ifndef GRAFT_RUN_CRASH_AREA_H
#define GRAFT_RUN_CRASH_AREA_H

#include "base/base.h"
#include "plugin/roster.h"

#include <stdatomic.h>

#define CRASH_AREA_MAGIC 0x63726173u
#define CRASH_STACK_MAX  (64u << 10)
#define CRASH_MAPS_MAX   (512u << 10)

enum crash_state { CRASH_NONE, CRASH_WRITING, CRASH_WHOLE };

/* Where a thread was, as raw as a signal's handler finds it. */
struct crash_frame {
    int32_t signo, code; /* of siginfo; 0 and the exit status when exit was called */
    int32_t pid, tid;
    uint64_t address;    /* of a fault */
    uint64_t pc, sp, fp; /* 0: this machine's registers are not known to us */
    uint64_t stack_at;   /* what `stack` is a copy of */
    uint32_t stack_len, maps_len;
    char thread[16];
    /* Whose callback ran; "" when none did. */
    char plugin[65], version[65], id[40], sha256[65], config_sha256[65];
    char route[256], callback[32];
};

struct crash_area {
    uint32_t magic;
    _Atomic(uint64_t) seq;   /* the last number of a staged copy (plugin/stage.h) */
    _Atomic(uint32_t) state; /* enum crash_state */
    struct roster roster;    /* the identities of its copies */
    struct crash_frame frame;
    unsigned char stack[CRASH_STACK_MAX];
    char maps[CRASH_MAPS_MAX]; /* /proc/self/maps, whole lines */
};

#endif
