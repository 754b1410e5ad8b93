/* Calls from a thread where they are misuse: graft_worker in init answers UINT_MAX. GET
 * /wrong-thread. */
#include "contract.h"

#include <limits.h>

static unsigned worker_in_init;

static int init(graft_self *self, void **state)
{
    *state = NULL;
    worker_in_init = graft_worker(self);
    return 0;
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, worker_in_init == UINT_MAX ? "UINT_MAX\n" : "a number\n");
}

GRAFT_PLUGIN(
    .name    = "wrong-thread",
    .version = "1.0.0",
    .init    = init,
    .routes  = (const graft_route[]){ { "GET", "/wrong-thread", handler, 0 }, { 0 } },
)
