/* worker_fini does not return: for config.ms milliseconds, for ever without it. */
#define SIN "worker_fini_hangs"
#include "hang.h"

static void worker_fini(graft_self *self, void *state)
{
    (void)state;
    hang(self, "worker_fini");
}

#define WORKER_FINI worker_fini
#include "sin.h"
