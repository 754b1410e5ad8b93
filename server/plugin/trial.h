/*
 * Versions on trial: canaries that serve, or did when the process ended. None of them is good yet,
 * so a start does not give one all requests: the good version serves, and the canary follows. One
 * of each plugin; bounded: what is oldest goes first. No lock of its own: keep.c has it.
 */
#ifndef GRAFT_PLUGIN_TRIAL_H
#define GRAFT_PLUGIN_TRIAL_H

#include "plugin/quarantine.h"

#define TRIALS_MAX 16

struct trial {
    struct identity identity;
    unsigned weight;   /* percent: 0 to 99 */
    bool held;         /* set by hand: it comes back with that weight */
    bool shadow_asked; /* by hand: it comes back with `shadow`, else with what is configured */
    unsigned shadow;   /* percent: 0 to 100; 0 when it was not asked for */
};

struct trials {
    struct trial list[TRIALS_MAX]; /* newest last */
    size_t n;
};

/* In the place of the plugin's other one. False: it was there like that. */
bool trials_set(struct trials *t, const struct trial *trial);
/* The identity is judged: good or quarantined. False: it was not there. */
bool trials_end(struct trials *t, const struct identity *identity);
const struct trial *trials_find(const struct trials *t, const struct identity *identity);

#endif
