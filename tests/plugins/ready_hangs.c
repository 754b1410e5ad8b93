/* ready does not return: for config.ms milliseconds, for ever without it. */
#define SIN "ready_hangs"
#include "hang.h"

static int ready(graft_self *self, void *state)
{
    (void)state;
    hang(self, "ready");
    return 0;
}

#define READY ready
#include "sin.h"
