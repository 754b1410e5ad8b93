/*
 * Rollouts: a look five times a second at each canary that serves, beside its stable version. A
 * worse one is taken back, a good one gets the next step's share and at last everything, one with
 * too little traffic waits. What is done is asked of the swap like anyone's wish; who watches
 * without being allowed to act ("auto": false, or no "rollout" at all) only says what it sees. A
 * share that was set by hand is held: no step follows by itself, but a worse one is taken back.
 *
 * A swap may have to wait, for another plugin's load or a worker that stands still. So a worse one
 * is withdrawn first: from then on no worker sends it a request, whatever becomes of the swap.
 * Control thread.
 */
#ifndef GRAFT_PLUGIN_ROLLOUT_H
#define GRAFT_PLUGIN_ROLLOUT_H

#include "base/config.h"
#include "plugin/generation.h"
#include "plugin/judge.h"
#include "plugin/swap.h"

struct rollouts;
struct rollout {
    struct rollouts *all;
    bool on;
    char plugin[CONFIG_NAME_MAX + 1], id[40], stable[40];
    unsigned weight;
    bool held;
    uint64_t step_us; /* when this share began; both samples begin there */
    struct version_sums before, stable_before;
    struct judge_sample sample, stable_sample;
    struct judgement judgement;
    bool told;                            /* of this step: that it waits, or what it would do */
    bool asked;                           /* `ask` is on its way */
    uint64_t pause_us, next_us;           /* after a refusal: not before; twice as long each time */
    char refused[256];                    /* the last one's reason; "": it was not refused */
    uint64_t shadow_told, shadow_told_us; /* differences that were told of, and when */
    struct swap_ask ask;
    char why[256], evidence[512]; /* of a worse one, for the quarantine */
};

struct rollouts {
    struct swap *swap;
    struct event *timer;
    bool stopped;
    uint64_t promoted, taken_back; /* by themselves, since the start */
    /* More than canaries: one that has left may still wait for its answer. */
    struct rollout all[2 * CANARIES_MAX];
};

int rollouts_open(struct rollouts *rs, struct swap *s, struct event_base *base);
void rollouts_close(struct rollouts *rs);
/* A drain: nothing is judged any more. Versions end while the last generation still names them. */
void rollouts_stop(struct rollouts *rs);

/* A generation serves: rollouts begin, change their step, or end. `wish`: what a rollout had asked
   for to get there; SWAP_SCAN: nothing. */
void rollouts_follow(struct rollouts *rs, const struct generation *g, enum swap_wish wish);

/* The one of that version, or NULL. */
const struct rollout *rollout_of(const struct rollouts *rs, const struct version *v);

#endif
