/*
 * Whose code this thread runs right now, off the workers (theirs is loop->doing): loader and pool.
 * Written by the thread itself; read by it alone too, in a signal's handler.
 */
#ifndef GRAFT_PLUGIN_DOING_H
#define GRAFT_PLUGIN_DOING_H

#include "base/base.h"

struct version;

struct doing {
    struct version *volatile version; /* NULL: nobody's */
    const char *volatile route, *volatile callback;
};

extern _Thread_local struct doing doing_now;

static inline void doing_begin(struct version *v, const char *route, const char *callback)
{
    doing_now.route = route;
    doing_now.callback = callback;
    doing_now.version = v;
}

static inline void doing_end(void)
{
    doing_now.version = NULL;
}

#endif
