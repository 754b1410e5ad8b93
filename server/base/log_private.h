/* Between log.c (makes lines), log_ring.c (carries them) and log_out.c (writes them) only. */
#ifndef GRAFT_BASE_LOG_PRIVATE_H
#define GRAFT_BASE_LOG_PRIVATE_H

#include "base/log.h"

/* log.c: set by log_out.c; -1 = not yet known: text on a terminal, else JSON. */
extern _Atomic(int) log_json_now;

/* log_out.c: takes one finished line from any thread. */
void log_out_line(const char *text, size_t len, uint64_t order_ns);

/* log_ring.c */
struct log_ring;

/* Any thread, into its own ring. False: no room or no memory; it is counted. */
bool log_ring_push(const char *text, size_t len, uint64_t order_ns);
uint64_t log_ring_dropped(void); /* any thread */

/* Control thread. What was pushed before the mark is merged in order of time: the oldest line's
   length, or 0 when there is none; then log_ring_take copies it to `out`. */
void log_ring_mark(void);
size_t log_ring_oldest(struct log_ring **ring);
void log_ring_take(struct log_ring *ring, char *out);

#endif
