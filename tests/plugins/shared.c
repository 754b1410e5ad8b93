/*
 * Counts in a shared block and tells what it got. -DVERSION, -DSIZE, -DSCHEMA, -DHOW (when it fails:
 * 'i' init, 'r' ready, 's' start, 'w' worker_init).
 *
 *     GET /shared        {"version": …, "fresh": …, "aligned": …, "zeroed": …, "old": …, "value": …}
 *     GET /shared/add    one more
 */
#include "contract.h"

#include <stdatomic.h>

#ifndef VERSION
#define VERSION "v1"
#endif
#ifndef SIZE
#define SIZE 4096
#endif
#ifndef SCHEMA
#define SCHEMA 1
#endif
#ifndef HOW
#define HOW 0
#endif

struct block {
    _Atomic uint64_t value;
    char rest[SIZE - 8];
};

static struct block *block;
static bool fresh, zeroed = true, bad_refused, late_refused;
static uint64_t old_value, old_size, old_schema;
static const char *old_after = "not asked";

static int init(graft_self *self, void **state)
{
    *state = self;
    block = graft_shared(self, "counts", sizeof *block, SCHEMA, &fresh);
    if (block == NULL)
        return graft_fail(self, "no block");
    for (size_t i = 0; i < sizeof block->rest; i++)
        zeroed = zeroed && block->rest[i] == 0;
    bad_refused = graft_shared(self, "no/name", 1, 0, NULL) == NULL &&
                  graft_shared(self, "", 1, 0, NULL) == NULL &&
                  graft_shared(self, "none", 0, 0, NULL) == NULL &&
                  graft_shared(self, "huge", (size_t)1 << 40, 0, NULL) == NULL;
    size_t size = 0;
    uint32_t schema = 0;
    const struct block *old = graft_shared_old(self, "counts", &size, &schema);
    if (old != NULL) {
        old_value = atomic_load(&old->value);
        old_size = size;
        old_schema = schema;
        if (fresh)
            atomic_store(&block->value, old_value);
    }
    if (HOW != 0)
        atomic_fetch_add(&block->value, 1000000); /* dirt, if anybody ever saw it */
    return HOW == 'i' ? graft_fail(self, "as it was built") : 0;
}

static int ready(graft_self *self, void *state)
{
    (void)state;
    late_refused = graft_shared(self, "late", 64, 0, NULL) == NULL;
    return HOW == 'r' ? graft_fail(self, "as it was built") : 0;
}

static int worker_init(graft_self *self, void *state)
{
    (void)state;
    return HOW == 'w' ? graft_fail(self, "as it was built") : 0;
}

static int start(graft_self *self, void *state)
{
    (void)state;
    return HOW == 's' ? graft_fail(self, "as it was built") : 0;
}

static void cool(graft_self *self, void *state)
{
    (void)state;
    old_after = graft_shared_old(self, "counts", NULL, NULL) == NULL ? "none" : "some";
    graft_log(self, GRAFT_INFO, "shared " VERSION " old after promotion: %s", old_after);
}

static graft_next add(graft_req *req, void *state)
{
    (void)state;
    graft_printf(req, "%llu\n", (unsigned long long)atomic_fetch_add(&block->value, 1) + 1);
    return GRAFT_DONE;
}

static graft_next tell(graft_req *req, void *state)
{
    (void)state;
    graft_printf(req,
                 "{\"version\": \"" VERSION "\", \"fresh\": %s, \"aligned\": %s, \"zeroed\": %s, "
                 "\"bad_refused\": %s, \"late_refused\": %s, \"old\": [%llu, %llu, %llu], "
                 "\"value\": %llu}\n",
                 fresh ? "true" : "false", (uintptr_t)block % 64 == 0 ? "true" : "false",
                 zeroed ? "true" : "false", bad_refused ? "true" : "false",
                 late_refused ? "true" : "false", (unsigned long long)old_value,
                 (unsigned long long)old_size, (unsigned long long)old_schema,
                 (unsigned long long)atomic_load(&block->value));
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name        = "shared",
    .version     = VERSION,
    .summary     = "Counts in a shared block.",
    .init        = init,
    .ready       = ready,
    .worker_init = worker_init,
    .start       = start,
    .cool        = cool,
    .routes      = (const graft_route[]){ { "GET", "/shared", tell, 0 },
                                          { "GET", "/shared/add", add, 0 },
                                          { 0 } },
)
