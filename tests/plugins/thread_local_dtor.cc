/*
 * A thread_local with a destructor, touched on the loader and on workers: threads that never end,
 * so that glibc never unmaps it. It serves, and ends as stuck.
 */
#define SIN "thread_local_dtor"
#include <graft/graft.h>

namespace
{
struct scarred {
    int visits = 0;
    scarred() = default;
    scarred(const scarred &) = delete;
    scarred &operator=(const scarred &) = delete;
    ~scarred()
    {
        visits = -1;
    }
};
thread_local scarred scar;
} // namespace

static int init(graft_self *, void **state)
{
    scar.visits++;
    *state = nullptr;
    return 0;
}

static graft_next handler(graft_req *req, void *)
{
    graft_printf(req, "thread_local_dtor %d\n", ++scar.visits);
    return GRAFT_DONE;
}

#define INIT    init
#define HANDLER handler
#include "sin.h"
