/* init returns -1 with a reason: nothing else of this version may be called. */
#define SIN "init_fails"
#include <graft/graft.h>

static int init(graft_self *self, void **state)
{
    (void)state;
    return graft_fail(self, "no database at %s:%d: start it, or change config.db", "192.0.2.1",
                      5432);
}

#define INIT init
#include "sin.h"
