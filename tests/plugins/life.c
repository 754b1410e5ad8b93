/*
 * Logs every callback of a version's life with the thread it runs on ("life CALLBACK thread=…"),
 * and does what its configuration asks for: {"fail": "init|ready|worker_init|start"}. GET /life.
 * Built as life_v1.so and life_v2.so.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "contract.h"

#include <sys/syscall.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "v1"
#endif

static int note(graft_self *self, const char *callback)
{
    graft_log(self, GRAFT_INFO, "life " VERSION " %s thread=%ld", callback, syscall(SYS_gettid));
    if (strcmp(graft_config_str(self, "fail", ""), callback) == 0)
        return graft_fail(self, "%s was asked to fail", callback);
    return 0;
}

static int init(graft_self *self, void **state)
{
    *state = (void *)self;
    return note(self, "init");
}

static int ready(graft_self *self, void *state)
{
    return state == self ? note(self, "ready") : graft_fail(self, "init's state did not come");
}

static int worker_init(graft_self *self, void *state)
{
    return state == self ? note(self, "worker_init")
                         : graft_fail(self, "init's state did not come");
}

static int start(graft_self *self, void *state)
{
    return state == self ? note(self, "start") : graft_fail(self, "init's state did not come");
}

static void cool(graft_self *self, void *state)
{
    note(self, state == self ? "cool" : "cool without init's state");
}

static void worker_fini(graft_self *self, void *state)
{
    note(self, state == self ? "worker_fini" : "worker_fini without init's state");
}

static void fini(graft_self *self, void *state)
{
    note(self, state == self ? "fini" : "fini without init's state");
}

static graft_next handler(graft_req *req, void *state)
{
    bool same = state == graft_self_of(req);
    graft_printf(req, "life " VERSION " cooling=%d state=%s\n", graft_cooling(graft_self_of(req)),
                 same ? "init's" : "another");
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name        = "life",
    .version     = VERSION,
    .init        = init,
    .ready       = ready,
    .worker_init = worker_init,
    .start       = start,
    .cool        = cool,
    .worker_fini = worker_fini,
    .fini        = fini,
    .routes      = (const graft_route[]){ { "GET", "/life", handler, 0 }, { 0 } },
)
