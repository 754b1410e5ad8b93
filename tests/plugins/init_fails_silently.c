/* init returns -1 without graft_fail(): the server has to find the words. */
#define SIN "init_fails_silently"
#include <graft/graft.h>

static int init(graft_self *self, void **state)
{
    (void)self;
    (void)state;
    return -1;
}

#define INIT init
#include "sin.h"
