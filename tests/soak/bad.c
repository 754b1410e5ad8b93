/* The bad plugins of the soak test, one source: -DSIN=1.. chooses what is wrong. The mark makes
 * each copy a file never seen before, since a server need not try the same bytes twice. */
#include <graft/graft.h>

#include <stdlib.h>
#include <unistd.h>

enum {
    INIT_FAILS = 1,
    READY_FAILS,
    WORKER_INIT_FAILS,
    START_FAILS,
    CONSTRUCTOR_ABORTS,
    CONSTRUCTOR_EXITS,
    ROUTE_CONFLICT,
    NO_DESCRIPTOR,
    HARMLESS
};

static const char mark[] = "VERSION-0000000001";

static graft_next answer(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, mark);
}

static int fails(graft_self *self)
{
    return graft_fail(self, "soak: this one fails on purpose, %s", mark);
}

static int init(graft_self *self, void **state)
{
    *state = NULL;
    return SIN == INIT_FAILS ? fails(self) : 0;
}

static int ready(graft_self *self, void *state)
{
    (void)state;
    return SIN == READY_FAILS ? fails(self) : 0;
}

static int worker_init(graft_self *self, void *state)
{
    (void)state;
    return SIN == WORKER_INIT_FAILS ? fails(self) : 0;
}

static int start(graft_self *self, void *state)
{
    (void)state;
    return SIN == START_FAILS ? fails(self) : 0;
}

__attribute__((constructor)) static void constructed(void)
{
    if (SIN == CONSTRUCTOR_ABORTS)
        abort();
    if (SIN == CONSTRUCTOR_EXITS)
        _exit(0);
}

#if SIN == 8 /* NO_DESCRIPTOR */
__attribute__((visibility("default")))
const void *const soak_unused[] = { mark,          (void *)answer,      (void *)init,
                                    (void *)ready, (void *)worker_init, (void *)start };
#else
/* clang-format off */
GRAFT_PLUGIN(
    .name    = "soak-bad",
    .version = mark,
    .summary = "Fails on purpose.",
    .init    = init,
    .ready   = ready,
    .worker_init = worker_init,
    .start   = start,
    .routes  = (const graft_route[]){
        { "GET", SIN == ROUTE_CONFLICT ? "/v" : "/soak-bad", answer, 0 },
        { 0 },
    },
)
#endif
