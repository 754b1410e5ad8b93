/* start does not return: for config.ms milliseconds, for ever without it. */
#define SIN "start_hangs"
#include "hang.h"

static int start(graft_self *self, void *state)
{
    (void)state;
    hang(self, "start");
    return 0;
}

#define START start
#include "sin.h"
