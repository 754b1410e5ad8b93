/* cool does not return: for config.ms milliseconds, for ever without it. */
#define SIN "cool_hangs"
#include "hang.h"

static void cool(graft_self *self, void *state)
{
    (void)state;
    hang(self, "cool");
}

#define COOL cool
#include "sin.h"
