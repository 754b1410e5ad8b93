/*
 * Signals: blocked for every thread from main's first lines, remembered by the kernel, and read
 * by the control thread from one descriptor, so that an early or late one kills nobody.
 */
#ifndef GRAFT_RUN_SIGNALS_H
#define GRAFT_RUN_SIGNALS_H

#include "base/base.h"
#include "base/err.h"

/* main's first line: blocks all signals but the faults, ignores SIGPIPE. */
void signals_block(void);

/* A non-blocking signalfd for what graftd acts on. -1 with the reason. Control. */
int signals_open(struct err *err);

/* The next signal, or 0 when there is none. Control. */
int signals_next(int fd);

const char *signals_name(int signo); /* "SIGTERM"; a literal */

/* What a TERM or INT asks for, after those that came before. */
enum signals_verdict {
    SIGNALS_DRAIN, /* the first */
    SIGNALS_SAME,  /* the first once more: sent to several of us, or by two hands at once */
    SIGNALS_EXIT   /* meant: exit at once */
};

#define SIGNALS_SAME_MS 200

struct signals_stop {
    uint64_t first_ms; /* 0: none yet */
};
enum signals_verdict signals_stop(struct signals_stop *s, uint64_t now_ms);

/* Takes away the children that nobody waits for: as PID 1, other people's orphans become ours. A
   dead child of any kind is left alone until it was seen by two calls at least SIGNALS_REAP_MS
   apart, because the loader (the probe) and plugins wait for theirs themselves. Returns whether a
   dead child is still there, so: whether to call again. Control. */
#define SIGNALS_REAP_MS 2000
bool signals_reap(uint64_t now_ms);

#endif
