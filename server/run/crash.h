/*
 * When the server process gets a fatal signal: what the thread was doing is written into the memory
 * that is shared with the supervisor, the supervisor is woken, and then happens what would have
 * happened anyway, the core dump included. The handler calls nothing but system calls. The same
 * when something calls exit, but that destructors are not called.
 */
#ifndef GRAFT_RUN_CRASH_H
#define GRAFT_RUN_CRASH_H

#include "run/crash_area.h"

/* From now on; `wire` is the server's end. Before other threads. */
void crash_install(struct crash_area *area, int wire);
/* Nobody is to be woken any more: before the wire is closed, whose number may become a client's. */
void crash_forget_wire(void);

/* The parts of it that a signal's handler may use, for other uses of the same record (the
   watchdog): where the interrupted thread was, with a copy of its stack; the copy alone, from
   frame.sp. */
void crash_read_thread(struct crash_area *area, const void *context);
void crash_read_stack(struct crash_area *area);

#endif
