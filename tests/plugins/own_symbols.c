/*
 * Owns functions with names that the server or a library has too, and exports them. The server must
 * not call them, and this plugin must call its own: GET /own-symbols answers "own".
 */
#include "contract.h"

#define EXPORTED __attribute__((visibility("default"), noinline))

EXPORTED int version_retire(void);
EXPORTED int event_base_loop(void *base, int flags);
EXPORTED int log_write(int level, const char *text);

static volatile int calls;

EXPORTED int version_retire(void)
{
    return ++calls;
}

EXPORTED int event_base_loop(void *base, int flags)
{
    (void)base;
    return flags + ++calls;
}

EXPORTED int log_write(int level, const char *text)
{
    (void)text;
    return level + ++calls;
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    int before = calls;
    version_retire();
    event_base_loop(NULL, 0);
    log_write(0, "");
    return graft_text(req, 200, calls == before + 3 ? "own\n" : "captured\n");
}

GRAFT_PLUGIN(
    .name    = "own-symbols",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/own-symbols", handler, 0 }, { 0 } },
)
