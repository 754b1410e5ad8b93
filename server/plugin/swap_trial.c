/*
 * Canaries across a start. A file that was one, or is to have a rollout, does not get all requests
 * because the process began anew: the first load takes the good version out of the store, and then,
 * by itself, what is here: a scan, which begins rollouts, or the weight that was set by hand. A
 * share of shadows that was is there again either way.
 */
#include "plugin/swap_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>

struct follower {
    struct list node;
    struct swap_ask ask;
    struct trial trial;
};

static void answered(struct swap_ask *ask, const struct swap_result *result)
{
    struct follower *f = container_of(ask, struct follower, ask);
    if (!result->ok)
        log_msg(LOG_WARN, "canary", "plugin \"%s\": what was its canary is none now: %s",
                f->trial.identity.plugin, result->reason);
    free(f);
}

void trial_waits(struct swap *s, const struct found *f)
{
    struct follower *follower;
    log_msg(LOG_INFO, "canary",
            "%s: %.12s is not judged yet: the last good version of plugin \"%s\" serves, and it "
            "follows as a canary",
            f->file, f->sha256, f->plugin);
    if (f->trial.identity.plugin[0] == '\0') {
        s->trial_scan = true;
        return;
    }
    follower = calloc(1, sizeof *follower);
    if (follower == NULL) {
        log_msg(LOG_WARN, "canary", "out of memory: plugin \"%s\" gets no canary", f->plugin);
        return;
    }
    follower->trial = f->trial;
    follower->ask = (struct swap_ask){ .wish = SWAP_CANARY,
                                       .plugin = follower->trial.identity.plugin,
                                       .weight = f->trial.weight,
                                       .done = answered };
    list_add_tail(&s->trials, &follower->node);
}

void trial_gives_shadow(struct swap *s, struct canary *c)
{
    struct identity identity;
    struct trial trial;
    const struct version *v = c->version;
    identity_set(&identity, v->plugin, v->sha256, v->config_sha256);
    if (!keep_is_on_trial(s->deps.keep, &identity, &trial) || !trial.shadow_asked)
        return;
    c->shadow_asked = true;
    c->shadow = trial.shadow;
}

void trials_drop(struct swap *s)
{
    for (struct list *it; (it = list_pop(&s->trials)) != NULL;)
        free(list_entry(it, struct follower, node));
    s->trial_scan = false;
}

void trials_follow(struct swap *s)
{
    for (struct list *it; (it = list_pop(&s->trials)) != NULL;)
        swap_ask(s, &list_entry(it, struct follower, node)->ask);
    if (!s->trial_scan)
        return;
    s->trial_scan = false;
    s->want.any = true;
    if (s->want.asked_us == 0)
        s->want.asked_us = clock_us();
    swap_kick(s);
}
