/* init does not return: for config.ms milliseconds, for ever without it. */
#define SIN "init_hangs"
#include "hang.h"

static int init(graft_self *self, void **state)
{
    *state = NULL;
    hang(self, "init");
    return 0;
}

#define INIT init
#include "sin.h"
