/* worker_init does not return: for config.ms milliseconds, for ever without it. */
#define SIN "worker_init_hangs"
#include "hang.h"

static int worker_init(graft_self *self, void *state)
{
    (void)state;
    hang(self, "worker_init");
    return 0;
}

#define WORKER_INIT worker_init
#include "sin.h"
