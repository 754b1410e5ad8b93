/*
 * What swap.c (asks and rounds), swap_plan.c (what a scan means), swap_publish.c (load to adopt),
 * swap_report.c (results and events) and swap_drain.c share. Control thread.
 *
 * A round is one scan and what follows from it. Its new versions are in `fresh` as long as the
 * round may still publish them; one that fails leaves it (round_drop) and goes its own way out.
 */
#ifndef GRAFT_PLUGIN_SWAP_PRIVATE_H
#define GRAFT_PLUGIN_SWAP_PRIVATE_H

#include "plugin/adopt.h"
#include "plugin/known.h"
#include "plugin/loader.h"
#include "plugin/scan.h"
#include "plugin/rollout.h"
#include "plugin/swap.h"

enum phase {
    PHASE_IDLE,
    PHASE_SCAN,
    PHASE_LOAD,
    PHASE_HANDOVER,
    PHASE_PREPARE,
    PHASE_START,
    PHASE_ADOPT
};

/* Wishes for the next scan, of asks and of the swap's own. */
struct want {
    bool any;
    bool retry, allow_empty;
    bool not_watch; /* someone but the watch wants it */
    struct config *config;
    uint64_t asked_us; /* the earliest */
};

struct entries {
    struct swap_entry *list;
    size_t n, cap;
};

struct round {
    struct list asks;
    struct want want;
    enum swap_wish wish;
    char plugin[CONFIG_NAME_MAX + 1], id[40]; /* of a wish that stands alone; id "" = any */
    unsigned weight, shadow;
    bool shadow_asked;
    struct config *config; /* want.config or what is in force */
    bool first;
    uint64_t prepare_us; /* 0: not yet */

    struct version **fresh; /* to be published */
    size_t nfresh, at;
    struct version **next; /* that serve and go on serving */
    size_t nnext;
    struct version **leaving; /* that serve and are not in the next generation */
    size_t nleaving;
    struct canary canaries[CANARIES_MAX]; /* of the next generation */
    unsigned ncanaries;
    struct version *promoted; /* SWAP_PROMOTE: who may get the state of the one before */
    bool reweighed;           /* they differ from those of the generation that serves */
    struct adoption *adoption;
    struct handing *handing;   /* swap_handover.c; NULL: nothing is handed over */
    bool not_handed;           /* it was given up */
    bool without_state;        /* SWAP_ROLLBACK, the second time: nothing is to be handed over */
    struct config *old_config; /* replaced by this round; freed with the old generation */

    struct entries changed, unchanged, failed;
    bool broken; /* it cannot be published */
    char *reason;
    bool pending, answered;

    struct identity from;                         /* SWAP_ROLLBACK: what is replaced */
    char from_id[40], why[QUARANTINE_REASON_MAX]; /* why: of a rollback or an abort */
    const char *by, *evidence;
    bool by_itself; /* as swap_ask's */
};

#define SWAP_MAGIC 0x73776170u

struct swap {
    unsigned magic;
    struct swap_deps deps;
    struct config *config; /* in force */
    struct loader *loader;
    struct known known;
    struct list versions;
    struct generation *current;
    struct swap_counts counts;

    enum phase phase;
    struct list waiting; /* asks for the next scan */
    struct want want;
    struct event *kick;    /* what follows from asks, never from inside a call */
    struct event *timer;   /* timeouts_ms.adopt of this round */
    struct event *pender;  /* answers asks that wait behind a pending round */
    struct event *absence; /* the watch's second look */
    struct scan scan;
    struct round round;

    struct list trials; /* swap_trial.c: canaries that follow the first load */
    bool trial_scan;    /* rollouts that do */
    bool salvage;       /* the first load is done again: swap_first_again */

    char **busy; /* plugins for which the last round was refused */
    size_t nbusy;
    struct want busy_want;

    bool draining, drain_fini;
    bool held; /* swap_hold */
    void (*cool_done)(void *arg);
    void *cool_arg;
    void (*fini_done)(void *arg);
    void *fini_arg;
    struct watch *watch;
    struct rollouts rollouts;
};

/* swap.c */
void swap_kick(struct swap *s);
void round_free(struct swap *s); /* back to idle */
void want_clear(struct want *w);
void timer_set_ms(struct event *timer, unsigned ms);

/* swap_plan.c */
/* What serves of the plugin; NULL: nothing, or somebody stands in for it. */
struct version *swap_serving(const struct swap *s, const char *plugin);
void round_scanned(struct swap *s);                      /* the scan has been made */
bool round_forgives(struct swap *s, const char *plugin); /* the first load, required: false */

/* swap_canary.c */
bool canary_is_wanted(struct swap *s, const char *plugin); /* its new file is to be a canary */
bool canary_is_other(struct swap *s, const char *plugin);  /* the wish is about another plugin */
void canary_plan(struct swap *s);      /* after the scan: which go on, which begin, which leave */
void canary_change(struct swap *s);    /* a round without a scan */
void canary_installed(struct swap *s); /* the generation serves: weights */
bool canary_gave_way(struct swap *s); /* what a rollout asked for has no place any more: answered */
const struct canary *canary_of(const struct generation *g, const char *plugin);

/* swap_publish.c */
void round_build(struct swap *s);
void round_adopt_timeout(evutil_socket_t fd, short what, void *arg); /* s->timer */
void round_load(struct swap *s);
void round_fail(struct swap *s, const char *word); /* undoes all; why: r->reason and r->failed */
void round_succeed(struct swap *s);                /* also when there was nothing to do */
void every_update(struct swap *s);

void round_build(struct swap *s);
bool round_came_late(struct version *v); /* a callback that hung has returned after all */

/* swap_handover.c */
/* Whether there is somebody to hand state over to v, should it import any. */
bool round_hands_over(const struct swap *s, const struct version *v);
bool round_handover(struct swap *s); /* begins what there is to hand over, and goes on to build */
void round_handover_sent(struct swap *s);        /* adopt is: nothing can be given up any more */
void round_handover_cancel(struct swap *s);      /* held requests go on at once */
bool round_handover_waits(const struct swap *s); /* and no job's answer will come */
void round_handover_free(struct swap *s);

/* swap_report.c */
int entries_add(struct entries *e, const char *plugin, const char *id, const char *error,
                const char *file, const char *stage);
void entries_clear(struct entries *e);
void round_reason(struct swap *s, const char *fmt, ...) PRINTF_LIKE(2, 3); /* the first counts */
/* A version of this round is at fault: entry, event, v->reason. */
void report_version_failed(struct swap *s, struct version *v, const char *stage, const char *text);
void report_file_failed(struct swap *s, const struct found *f, bool again);
void report_loaded(const struct version *v);
void report_swap(struct swap *s, bool ok, const char *word);
/* What was asked for and will not be scanned. */
#define HELD_REASON     "graftd is being upgraded: ask again when that has ended"
#define DRAINING_REASON "the server drains: it takes no new plugins"
void report_refused(struct swap *s, const struct swap_ask *ask, const char *reason);
void round_answer(struct swap *s, struct list *asks, bool ok, const char *word);
void answer_without_round(struct swap *s, struct swap_ask *ask, const char *word,
                          const char *reason);

/* swap_kept.c */
/* Decides what the asked rollback goes back to, for this round. -1: the answer's word and reason.
 */
int rollback_begin(struct swap *s, const struct swap_ask *ask, const char **word, struct err *err);
void take_quarantined(struct swap *s, struct found *f); /* a scan found it: says so */
void take_salvaged(struct swap *s, const struct found *f);
void version_from_store(struct swap *s, struct version *v, const struct found *f);
void kept_adopted(struct swap *s); /* what the round published is good */
void kept_names(struct swap *s);   /* names of known files, from the store */

/* swap_trial.c: what was a canary when the process before ended is one again */
void trial_waits(struct swap *s, const struct found *f); /* the good version serves first */
void trials_follow(struct swap *s);                      /* it does */
void trials_drop(struct swap *s);                        /* the end came first, or a second start */
/* The share of shadows that was set by hand while the version was a canary before. */
void trial_gives_shadow(struct swap *s, struct canary *c);

/* swap_drain.c */
void drain_look(struct swap *s);                         /* something ended: is the drain over? */
void busy_look(struct swap *s, const struct version *v); /* a version left */

#endif
