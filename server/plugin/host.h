/*
 * The table through which plugins call the server (graft_host), one copy in each version. The
 * functions are in host.c (the request, and work that takes time), host_response.c and host_self.c.
 */
#ifndef GRAFT_PLUGIN_HOST_H
#define GRAFT_PLUGIN_HOST_H

#include "plugin/exchange.h"
#include "plugin/handle.h"

static inline struct handle *handle_of(const graft_req *req)
{
    /* The server made it and it is not const there. */
    struct handle *h = container_of((graft_req *)(uintptr_t)req, struct handle, pub);
    HOT_CHECK(h, HANDLE_MAGIC);
    return h;
}

/* The exchange of a call that belongs to the worker; NULL: the request is over, or (in the checks
   build) this is another thread. Logged as misuse. */
struct exchange *host_exchange(const graft_req *req, const char *function);

void host_fill_request(graft_host *host);
void host_fill_response(graft_host *host);
void host_fill_self(graft_host *host);

static inline graft_str to_graft(struct str s)
{
    return (graft_str){ s.ptr, s.len };
}

#endif
