/* Starting threads of our own: named, detached, all signals blocked but the faults. */
#ifndef GRAFT_BASE_THREAD_H
#define GRAFT_BASE_THREAD_H

#include "base/base.h"
#include "base/err.h"

#include <signal.h>

#define THREAD_NAME_SIZE 16 /* with the NUL: what the kernel keeps */

/* Every signal but those that a fault of the thread itself raises: blocking these would only hide
   where it happened. */
void thread_signals(sigset_t *set);

/* Runs main(arg) on a new detached thread. 0, or -1 with the reason. Any thread. */
int thread_start(const char *name, void *(*main)(void *arg), void *arg, struct err *err);

#endif
