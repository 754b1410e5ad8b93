/*
 * Has a health callback that says what the configuration tells: "how": "well", "ill" or "hang"
 * (until the file named by "until" is gone). -DNAME.
 *
 *     GET /health/NAME    {"asked": how often, "late": calls after cool began, "twice": side by side}
 */
#include "contract.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#ifndef NAME
#define NAME "health"
#endif

static atomic_uint asked, late, twice, inside;
static atomic_bool cooled;

static int health(graft_self *self, void *state)
{
    (void)state;
    const char *how = graft_config_str(self, "how", "well"), *until;
    int rc = 0;
    atomic_fetch_add(&asked, 1);
    if (atomic_fetch_add(&inside, 1) != 0)
        atomic_fetch_add(&twice, 1);
    if (strcmp(how, "hang") == 0)
        while ((until = graft_config_str(self, "until", NULL)) != NULL && access(until, F_OK) == 0)
            usleep(10000);
    if (strcmp(how, "ill") == 0)
        rc = graft_fail(self, "the database is away");
    if (strcmp(how, "mute") == 0)
        rc = -1;
    if (atomic_load(&cooled))
        atomic_fetch_add(&late, 1);
    atomic_fetch_sub(&inside, 1);
    return rc;
}

static void cool(graft_self *self, void *state)
{
    (void)state;
    atomic_store(&cooled, true);
    graft_log(self, GRAFT_INFO, NAME " cool inside=%u", atomic_load(&inside));
}

static void fini(graft_self *self, void *state)
{
    (void)state;
    graft_log(self, GRAFT_INFO, NAME " fini late=%u twice=%u asked=%u", atomic_load(&late),
              atomic_load(&twice), atomic_load(&asked));
}

static graft_next tell(graft_req *req, void *state)
{
    (void)state;
    graft_printf(req, "{\"asked\": %u, \"late\": %u, \"twice\": %u}\n", atomic_load(&asked),
                 atomic_load(&late), atomic_load(&twice));
    return GRAFT_DONE;
}

GRAFT_PLUGIN(
    .name    = NAME,
    .version = "1",
    .summary = "Says how it is.",
    .cool    = cool,
    .fini    = fini,
    .routes  = (const graft_route[]){ { "GET", "/health/" NAME, tell, 0 }, { 0 } },
    .health  = health,
)
