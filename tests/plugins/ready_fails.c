/* ready, the gate, says no: fini follows, and nothing else. */
#define SIN "ready_fails"
#include <graft/graft.h>

static int ready(graft_self *self, void *state)
{
    (void)state;
    return graft_fail(self, "the cache holds %d of %d entries: not fit to serve", 3, 1000);
}

#define READY ready
#include "sin.h"
