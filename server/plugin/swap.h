/*
 * Swaps: from "look at the plugin folder" to "every worker runs the new generation", and what
 * becomes of the versions that are left behind. One swap at a time; nothing here blocks.
 * Everything is the control thread's, but for what says otherwise.
 *
 *   idle -> scanning -> loading -> preparing -> starting -> adopting -> idle
 *              \___________\___________\___________\-> undone, the old generation serves on
 */
#ifndef GRAFT_PLUGIN_SWAP_H
#define GRAFT_PLUGIN_SWAP_H

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"
#include "base/list.h"
#include "net/loop.h"
#include "plugin/generation.h"
#include "plugin/probe.h"
#include "plugin/stage.h"
#include "plugin/version.h"

struct pool; /* base/pool.h */
struct swap;

/* What a swap needs of the world. Copied by swap_open; what the pointers name outlives the swap,
   but for `config`: it is the swap's from then on (swap_config). */
struct swap_deps {
    struct loop **loops; /* the workers; their threads run before swap_first */
    unsigned nloops;
    struct event_base *base; /* the control thread's */
    struct inbox *inbox;     /* the control thread's: loaders, pool and workers answer there */
    struct stage *stage;
    struct probe *probe;
    struct pool *pool;
    struct keep *keep; /* plugin/keep.h; may be NULL */
    struct config *config;
    bool after_crash; /* loads go without what is quarantined and has no good version: stand_in.h */

    /* Fills version->host (and serial); once for each version, before its first callback.
       [loader] */
    void (*host_init)(struct version *v);
    /* Aborts what the version still serves on this worker; more than once is harmless. [worker] */
    void (*cut)(struct version *v, struct loop *l);
    /* Opens requests that were held while versions handed over (plugin/handover.h). [worker] */
    void (*resume)(struct loop *l);
    /* A new configuration is in force (HUP whose swap succeeded); the old one lives until every
       worker has adopted the new one. May be NULL. */
    void (*configured)(void *arg, struct config *config);
    void *arg;
};

/* Takes over the thread that calls it as the control thread's. 0, or -1. */
int swap_open(struct swap **out, const struct swap_deps *deps, struct err *err);

/* One plugin in a swap's result. */
struct swap_entry {
    char *plugin; /* its name; for a file whose name is not known, the file's */
    char *id;     /* SHA12.SEQ; NULL when it never got one. A plugin that is gone: the id it had */
    char *error;  /* failed: why. Else NULL, or "removed", "added" in `changed` */
    char *file;   /* the path that it came from, or NULL */
    char *stage;  /* failed: "scan", "preflight", "probe", "dlopen", "init", ... else NULL */
};

/* Valid during `done` only. */
struct swap_result {
    bool ok;
    const char *word;    /* "ok", "failed", "pending", "busy", "draining"; a rollback also:
                            "refused" (there is nothing to go back to), "not_found" */
    const char *reason;  /* not ok: a sentence */
    unsigned generation; /* that serves now */
    const struct swap_entry *changed, *unchanged, *failed;
    size_t nchanged, nunchanged, nfailed;
    uint64_t duration_us; /* from the trigger to the last adopt */
    uint64_t publish_us;  /* from the first prepare to the last adopt */
};

/* What is wished for. All but a scan name a plugin and stand alone: they share no round. */
enum swap_wish {
    SWAP_SCAN,    /* the plugin folder, and what it means */
    SWAP_CANARY,  /* this plugin's file there gets `weight` percent; other files are not looked at.
                     A canary that is that very file gets the weight */
    SWAP_WEIGHT,  /* of the canary that is there; no scan from here on */
    SWAP_PROMOTE, /* the canary serves all */
    SWAP_ABORT,   /* the canary leaves */
    SWAP_ROLLBACK /* instead of a scan, the last good version but the one that serves comes back,
                     and that one is quarantined */
};

/* A wish. The caller owns it; `done` is called exactly once, never from inside swap_ask,
   and may free it. `pending` is an answer too: nothing follows it. */
struct swap_ask {
    struct list node; /* swap.c's */
    enum swap_wish wish;
    const char *plugin;     /* lives until `done`; NULL for a scan */
    const char *id;         /* NULL, or the canary that is meant: another is refused */
    unsigned weight;        /* 0 to 99 */
    bool shadow_asked;      /* SWAP_CANARY: with `shadow`; else as it was or is configured */
    unsigned shadow;        /* 0 to 100 */
    bool retry;             /* try identities again that failed before or are quarantined */
    bool allow_empty;       /* the last plugin may vanish */
    bool from_watch;        /* plugins vanish only when missing in two scans */
    struct config *config;  /* NULL, or a newly loaded one: ownership passes, also on failure;
                               installed only if the swap succeeds */
    const char *why, *by;   /* rollback and abort: the reason, and who wants it (a literal); may be
                               NULL */
    bool by_itself;         /* a rollout's: it gives way to what was done by hand meanwhile */
    const char *evidence;   /* abort: NULL, or JSON that lives as long as the swap */
    bool without_state;     /* swap.c's: a rollback whose hand-over has failed is tried again */
    uint64_t asked_us;      /* clock_us() of the trigger; 0 = now */
    unsigned long sequence; /* swap.c's */
    void (*done)(struct swap_ask *ask, const struct swap_result *result); /* may be NULL: the ask
                               is then never touched after it was answered */
    void *arg;
};
void swap_ask(struct swap *s, struct swap_ask *ask);

/* The first load: as swap_ask, but a bad plugin fails it whatever its identity did before, unless
   plugins.NAME.required is false; `reason` lists all reasons. Once, before any swap_ask. */
void swap_first(struct swap *s, struct swap_ask *ask);

/* That has failed. What failed is left out now; where a good version of it is kept, that serves.
   For a process that follows one that served: once, from the loop. */
void swap_first_again(struct swap *s, struct swap_ask *ask);

/* What the rollouts have seen (plugin/rollout.h). */
struct rollouts;
const struct rollouts *swap_rollouts(const struct swap *s);

/* While another process gets ready to take this one's place: wishes are answered "busy", but for
   those of the folder watch, which wait. */
void swap_hold(struct swap *s, bool held);

/* What is. */
bool swap_running(const struct swap *s);        /* a swap is in progress, or waits to be repeated */
unsigned swap_generation(const struct swap *s); /* 0 before the first */
struct generation *swap_current(struct swap *s); /* NULL before the first */
struct config *swap_config(struct swap *s);      /* in force; for this turn of the loop only */
struct list *swap_versions(struct swap *s);      /* version.node: all that is loaded, also cooling,
                                                    stuck, failed and not yet undone */
uint64_t swap_stuck(const struct swap *s);       /* versions that are stuck now */

/* The plugins' own health (plugin/health.h): ask in the background; what was said last. */
void swap_ask_health(struct swap *s);
bool swap_is_well(struct swap *s, struct buf *why);
bool swap_health_asking(struct swap *s); /* somebody is being asked */
bool swap_health_known(struct swap *s);  /* nobody is being asked, and everybody was */
/* A line for each plugin that is missing (plugin/stand_in.h). True: the configuration cannot do
   without one of them. */
bool swap_misses(struct swap *s, struct buf *why);

/* Swaps since the start, by outcome. A busy or drained one is not `failed` too. */
struct swap_counts {
    uint64_t ok, failed, busy, draining;
    uint64_t unchanged;                       /* of ok: nothing was to be done */
    uint64_t retired;                         /* versions unmapped */
    uint64_t rollbacks;                       /* of ok */
    uint64_t duration_us_sum, publish_us_sum; /* of those that published */
};
const struct swap_counts *swap_counts(const struct swap *s);

/* graftctl retire NAME@ID: aborts what a cooling version still serves. -1: no such version, or it
   does not cool. */
int swap_retire(struct swap *s, const char *plugin, const char *id, struct err *err);

/* The drain, in this order. Each `done` is called once, from the loop, also when there was nothing
   to do. */
void swap_drain_begin(struct swap *s);   /* abandons what is before adopt; reloads: "draining" */
void swap_drain_cooling(struct swap *s); /* listeners closed: graft_cooling() is true from now */
void swap_drain_cool(struct swap *s, void (*done)(void *arg), void *arg); /* `cool` of all */
/* worker_fini, fini, dlclose of all as their last requests end; `done` when nothing is left that
   can end. Asks that are unanswered have been answered by then. */
void swap_drain_fini(struct swap *s, void (*done)(void *arg), void *arg);
/* The deadline: aborts what is still served, as retire does, and logs each version that is not
   finished with its oldest request or its callback. How many those are. */
unsigned swap_drain_cut(struct swap *s);

/* The folder watch: inotify, debounced; asks for swaps by itself. Starting twice is harmless. */
int swap_watch_start(struct swap *s, struct err *err);
void swap_watch_stop(struct swap *s);

/* Frees what the control thread owns, for leak checks at the end; threads may still exist. */
void swap_close(struct swap **sp);

#endif
