/*
 * The threads of this process as the kernel lists them: to find those that a plugin started and
 * left behind. Loader thread.
 */
#ifndef GRAFT_PLUGIN_TASKS_H
#define GRAFT_PLUGIN_TASKS_H

#include "base/base.h"

#include <sys/types.h>

struct task {
    pid_t tid;
    uint64_t started; /* clock ticks since boot: a thread number may be used again */
};

/* Zero-initialised = none. */
struct tasks {
    struct task *list;
    size_t n;
};

/* All that live now, but for the caller's loader threads (tasks_ours). 0, or -1 with errno. */
int tasks_list(struct tasks *out);
void tasks_fini(struct tasks *t);

/* Keeps in `after` those that are not in `before`. */
void tasks_subtract(struct tasks *after, const struct tasks *before);

/* Keeps those that still live, waiting up to `ms` for them to go: a joined thread may be listed
   for a moment. */
void tasks_keep_living(struct tasks *t, unsigned ms);

/* While one load hangs others are done, and what threads appear may be theirs. Those that a load in
   time has left are its own (claim); who came late asks afterwards which are nobody's. */
void tasks_claim(const struct tasks *t);
void tasks_drop_claimed(struct tasks *t);

/* The thread's name, "?" when it has gone. */
void tasks_name(const struct task *t, char out[16]);

/* The calling thread is the server's own, whenever it appeared. Any thread. */
void tasks_ours(void);

#endif
