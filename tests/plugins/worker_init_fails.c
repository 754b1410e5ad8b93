/* worker_init fails on the last worker, or on worker config.worker: worker_fini follows on the
 * others, then fini. */
#define SIN "worker_init_fails"
#include <graft/graft.h>

static int worker_init(graft_self *self, void *state)
{
    (void)state;
    unsigned me = graft_worker(self), last = graft_workers(self) - 1;
    if (me == (unsigned)graft_config_int(self, "worker", last))
        return graft_fail(self, "worker %u cannot open its connection", me);
    graft_log(self, GRAFT_INFO, "life worker_init %u", me);
    return 0;
}

#define WORKER_INIT worker_init
#include "sin.h"
