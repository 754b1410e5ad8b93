/* start fails, after worker_init returned 0 everywhere: worker_fini on all workers, then fini; no
 * cool. */
#define SIN "start_fails"
#include <graft/graft.h>

static int start(graft_self *self, void *state)
{
    (void)state;
    return graft_fail(self, "the lease is held by another process");
}

#define START start
#include "sin.h"
