/*
 * Which requests meet a canary: a version that has a share of the requests of its plugin while the
 * stable version serves the others. A generation names at most CANARIES_MAX of them, each of
 * another plugin, and has a route tree for every subset; a request is given its subset before its
 * route is chosen, so that it runs on one version of each plugin throughout.
 *
 * The share is counted in requests. A sticky client is told by its cookie, a header or its address;
 * its place between 0 and 1 is a hash of that and the plugin's name, and it meets the canary while
 * its place is below the share. So whoever has met the canary does so at each higher share, and
 * whoever met the stable version goes on to, as long as that share allows it.
 */
#ifndef GRAFT_PLUGIN_CANARY_H
#define GRAFT_PLUGIN_CANARY_H

#include "base/config.h"
#include "base/str.h"

#define CANARIES_MAX   3 /* at once: route trees double with each */
#define CANARY_COOKIE  "graft-canary"
#define CANARY_TOKEN   16 /* hex digits of that cookie's value */
#define CANARY_BY_NAME "X-Graft-Version"

struct generation;
struct request;
struct version;

struct canary {
    struct version *version, *stable; /* of one plugin */
    unsigned weight;                  /* percent of the requests: 0 to 99 */
    bool held;                        /* set by hand: its rollout takes no step by itself */
    unsigned shadow;   /* percent of the stable version's that are tried on it too: 0 to 100 */
    bool shadow_asked; /* by hand, rather than by the configuration */
    enum config_sticky sticky;
    const char *header; /* CONFIG_STICKY_HEADER: its name, which lives as long as the generation */
};

/*
 * A worker's own dice. Requests of nobody in particular are placed by a sequence that fills [0, 1)
 * evenly (Kronecker's, with the powers of 1/1.2207 as steps, one for each canary), not by chance:
 * so a share is met within a few requests of a thousand, and two canaries' shares stay independent.
 */
struct canary_dice {
    uint32_t place[CANARIES_MAX], shadow_place[CANARIES_MAX];
    uint64_t state; /* xorshift64*, for cookies; never 0 */
};
void canary_dice_init(struct canary_dice *d, unsigned worker);

/* What it gets now: nothing from the moment that it was found worse. Any thread. */
unsigned canary_share(const struct canary *c);

/* Which canaries this request meets: bit i for g->canaries[i]. `by_name`: its client may choose by
   X-Graft-Version: NAME=ID[, NAME=ID]. *stray is set when that names a version that does not serve:
   no other may answer for it. Sets the cookie of a client that needs one and has none. Worker. */
unsigned canary_pick(const struct generation *g, struct request *r, bool by_name,
                     struct canary_dice *dice, bool *stray);

/* Is the next request, one that the stable version of canary `i` has served, to be tried on it? */
bool canary_shadows(struct canary_dice *dice, unsigned i, unsigned percent);

/* A place in [0, 2^32) for the pair; the same everywhere and for ever. */
uint32_t canary_place(struct str client, const char *plugin);
static inline bool canary_meets(uint32_t place, unsigned weight)
{
    return (uint64_t)place * 100u < (uint64_t)weight << 32;
}

#endif
