/*
 * The rest of a misbehaving plugin. It is included at the END of a file that defines SIN, its name,
 * and, as INIT, READY, WORKER_INIT, START, COOL, WORKER_FINI, FINI or HANDLER, what it does wrong.
 *
 * All of them are the plugin "sin" with the route GET /sin, as good.c is, so that any of them can
 * take good's place in a swap. What a sin does not define logs "life CALLBACK" and succeeds, so
 * that a test can read the order of undoing in the log.
 */
#include <graft/graft.h>

#ifndef INIT
#define INIT life_init
static int life_init(graft_self *self, void **state)
{
    *state = NULL;
    graft_log(self, GRAFT_INFO, "life init");
    return 0;
}
#endif

#ifndef READY
#define READY life_ready
static int life_ready(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, "life ready");
    return 0;
}
#endif

#ifndef WORKER_INIT
#define WORKER_INIT life_worker_init
static int life_worker_init(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, "life worker_init %u", graft_worker(self));
    return 0;
}
#endif

#ifndef START
#define START life_start
static int life_start(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, "life start");
    return 0;
}
#endif

#ifndef COOL
#define COOL life_cool
static void life_cool(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, "life cool");
}
#endif

#ifndef WORKER_FINI
#define WORKER_FINI life_worker_fini
static void life_worker_fini(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, "life worker_fini %u", graft_worker(self));
}
#endif

#ifndef FINI
#define FINI life_fini
static void life_fini(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, "life fini");
}
#endif

#ifndef HANDLER
#define HANDLER life_handler
static graft_next life_handler(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, SIN "\n");
}
#endif

static const graft_route sin_routes[] = { { "GET", "/sin", HANDLER, 0 }, { NULL, NULL, NULL, 0 } };

GRAFT_PLUGIN(
    .name        = "sin",
    .version     = SIN,
    .summary     = "A plugin that misbehaves.",
    .init        = INIT,
    .ready       = READY,
    .worker_init = WORKER_INIT,
    .start       = START,
    .cool        = COOL,
    .worker_fini = WORKER_FINI,
    .fini        = FINI,
    .routes      = sin_routes,
)
