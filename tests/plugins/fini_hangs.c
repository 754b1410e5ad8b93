/* fini does not return: for config.ms milliseconds, for ever without it. */
#define SIN "fini_hangs"
#include "hang.h"

static void fini(graft_self *self, void *state)
{
    (void)state;
    hang(self, "fini");
}

#define FINI fini
#include "sin.h"
