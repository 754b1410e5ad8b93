/*
 * Asks become rounds, one at a time. An ask waits until the round that runs is over; then all that
 * wait share the next one. What follows from an ask runs from the loop, never from inside swap_ask.
 */
#include "plugin/swap_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/every.h"
#include "plugin/handover.h"
#include "plugin/health.h"
#include "plugin/load.h"
#include "plugin/retire.h"
#include "plugin/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void swap_kick(struct swap *s)
{
    event_active(s->kick, 0, 0);
}

void timer_set_ms(struct event *timer, unsigned ms)
{
    struct timeval tv = { .tv_sec = ms / 1000u, .tv_usec = (suseconds_t)(ms % 1000u) * 1000 };
    if (event_add(timer, &tv) != 0)
        log_msg(LOG_ERROR, "memory", "out of memory: a timer of the swap is not set");
}

/* ---- Wishes ---------------------------------------------------------------------------------- */

void want_clear(struct want *w)
{
    config_free(w->config);
    *w = (struct want){ 0 };
}

/* Takes over the configuration: the newest one counts. */
static void want_merge(struct want *to, struct want *from)
{
    if (!from->any)
        return;
    if (from->config != NULL) {
        config_free(to->config);
        to->config = from->config;
    }
    if (!to->any || from->asked_us < to->asked_us)
        to->asked_us = from->asked_us;
    to->any = true;
    to->retry = to->retry || from->retry;
    to->allow_empty = to->allow_empty || from->allow_empty;
    to->not_watch = to->not_watch || from->not_watch;
    *from = (struct want){ 0 };
}

static void want_ask(struct want *to, struct swap_ask *ask)
{
    struct want w = { .any = true,
                      .retry = ask->retry,
                      .allow_empty = ask->allow_empty,
                      .not_watch = !ask->from_watch,
                      .config = ask->config,
                      .asked_us = ask->asked_us };
    ask->config = NULL;
    want_merge(to, &w);
}

/* ---- Rounds ---------------------------------------------------------------------------------- */

void round_free(struct swap *s)
{
    struct round *r = &s->round;
    REQUIRE(list_empty(&r->asks) && r->adoption == NULL);
    entries_clear(&r->changed);
    entries_clear(&r->unchanged);
    entries_clear(&r->failed);
    free(r->fresh);
    free(r->next);
    free(r->leaving);
    free(r->reason);
    want_clear(&r->want);
    scan_fini(&s->scan);
    memset(r, 0, sizeof *r);
    list_init(&r->asks);
    s->phase = PHASE_IDLE;
    swap_kick(s);
}

static void scanned(struct job *job)
{
    ON_CONTROL();
    struct swap *s = container_of(job, struct swap, scan.job);
    CHECK(s, SWAP_MAGIC);
    round_scanned(s);
}

static void add_active(struct swap *s, const struct version *v)
{
    s->scan.active[s->scan.nactive++] =
        (struct scan_active){ v->plugin, v->sha256, v->config_sha256, v->staged.path };
}

static int scan_prepare(struct swap *s)
{
    unsigned n = s->current != NULL ? s->current->nversions : 0;
    unsigned ncanaries = s->current != NULL ? s->current->ncanaries : 0;
    s->scan.stage = s->deps.stage;
    s->scan.probe = s->deps.probe;
    s->scan.known = &s->known;
    s->scan.keep = s->deps.keep;
    s->scan.config = s->round.config;
    s->scan.retry = s->round.want.retry || s->round.wish == SWAP_CANARY;
    s->scan.retry_only = s->round.wish == SWAP_CANARY ? s->round.plugin : NULL;
    s->scan.stand_ins = s->deps.after_crash;
    s->scan.first = s->round.first;
    s->scan.salvage = s->salvage;
    s->scan.new_config = s->round.want.config != NULL;
    s->scan.active = calloc(n + ncanaries + 1u, sizeof *s->scan.active);
    if (s->scan.active == NULL)
        return -1;
    s->scan.nactive = 0;
    for (unsigned i = 0; i < n; i++)
        if (!s->current->versions[i]->stand_in)
            add_active(s, s->current->versions[i]);
    for (unsigned i = 0; i < ncanaries; i++)
        add_active(s, s->current->canaries[i].version);
    s->scan.job.work = s->round.wish == SWAP_ROLLBACK ? scan_revert_work : scan_work;
    s->scan.job.done = scanned;
    s->scan.job.hung = NULL; /* no plugin's code runs in it; the probe has its own deadline */
    s->scan.job.loads = false;
    return 0;
}

static void busy_clear(struct swap *s)
{
    for (size_t i = 0; i < s->nbusy; i++)
        free(s->busy[i]);
    free(s->busy);
    s->busy = NULL;
    s->nbusy = 0;
}

static struct swap_ask *first_waiting(struct swap *s)
{
    return list_empty(&s->waiting) ? NULL : list_entry(s->waiting.next, struct swap_ask, node);
}

static bool is_scan(const struct swap_ask *ask)
{
    return ask != NULL && ask->wish == SWAP_SCAN;
}

static void scan_begin(struct swap *s)
{
    if (scan_prepare(s) != 0) {
        round_reason(s, "out of memory");
        round_fail(s, "failed");
        return;
    }
    loader_submit(s->loader, &s->scan.job);
}

/* A rollback that has waited longest has a round to itself. */
static bool rollback_first(struct swap *s)
{
    struct round *r = &s->round;
    const char *word;
    struct err err;
    struct swap_ask *ask = first_waiting(s);
    if (ask == NULL || ask->wish != SWAP_ROLLBACK)
        return false;
    list_del(&ask->node);
    if (rollback_begin(s, ask, &word, &err) != 0) {
        s->counts.failed++;
        report_refused(s, ask, err.text);
        answer_without_round(s, ask, word, err.text);
        swap_kick(s);
        return true;
    }
    list_add_tail(&r->asks, &ask->node);
    r->want = (struct want){ .any = true, .asked_us = ask->asked_us };
    r->config = s->config;
    s->phase = PHASE_SCAN;
    scan_begin(s);
    return true;
}

/* The asks that are served by one round, oldest first: scans share it, all else stands alone. */
static void take_asks(struct swap *s)
{
    struct round *r = &s->round;
    struct swap_ask *ask = first_waiting(s);
    if (ask != NULL && ask->wish != SWAP_SCAN) {
        struct want alone = { .any = true, .not_watch = true, .asked_us = ask->asked_us };
        list_del(&ask->node);
        list_add_tail(&r->asks, &ask->node);
        r->wish = ask->wish;
        r->weight = ask->weight;
        r->shadow = ask->shadow;
        r->shadow_asked = ask->shadow_asked;
        r->by = ask->by;
        r->evidence = ask->evidence;
        r->by_itself = ask->by_itself;
        snprintf(r->why, sizeof r->why, "%s",
                 ask->why != NULL ? ask->why : "an abort was asked for");
        snprintf(r->plugin, sizeof r->plugin, "%s", ask->plugin);
        snprintf(r->id, sizeof r->id, "%s", ask->id != NULL ? ask->id : "");
        r->want = alone;
        return;
    }
    want_merge(&s->want, &s->busy_want);
    busy_clear(s);
    for (; is_scan(ask); ask = first_waiting(s)) {
        list_del(&ask->node);
        list_add_tail(&r->asks, &ask->node);
        want_ask(&s->want, ask);
    }
    r->want = s->want;
    s->want = (struct want){ 0 };
}

static void round_begin(struct swap *s)
{
    struct round *r = &s->round;
    if (rollback_first(s) || canary_gave_way(s))
        return;
    take_asks(s);
    r->config = r->want.config != NULL ? r->want.config : s->config;
    r->first = s->current == NULL;
    if (r->wish > SWAP_CANARY) {
        canary_change(s);
        return;
    }
    s->phase = PHASE_SCAN;
    if (r->want.config != NULL)
        known_forget_config_bound(&s->known);
    scan_begin(s);
}

static void answer_draining(struct swap *s)
{
    for (struct list *it; (it = list_pop(&s->waiting)) != NULL;) {
        struct swap_ask *ask = list_entry(it, struct swap_ask, node);
        s->counts.draining++;
        report_refused(s, ask, DRAINING_REASON);
        answer_without_round(s, ask, "draining", DRAINING_REASON);
    }
    want_clear(&s->want);
}

/* The watch's wishes wait: what they are about is looked at afterwards. */
static void answer_held(struct swap *s)
{
    list_each_safe (it, &s->waiting) {
        struct swap_ask *ask = list_entry(it, struct swap_ask, node);
        if (ask->from_watch)
            continue;
        list_del(&ask->node);
        s->counts.busy++;
        report_refused(s, ask, HELD_REASON);
        answer_without_round(s, ask, "busy", HELD_REASON);
    }
}

void swap_hold(struct swap *s, bool held)
{
    ON_CONTROL();
    CHECK(s, SWAP_MAGIC);
    s->held = held;
    swap_kick(s);
}

static void kicked(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct swap *s = arg;
    CHECK(s, SWAP_MAGIC);
    if (s->draining)
        answer_draining(s);
    else if (s->held)
        answer_held(s);
    else if (s->phase == PHASE_IDLE && (!list_empty(&s->waiting) || s->want.any))
        round_begin(s);
    drain_look(s);
}

/* Asks behind a pending round are answered after the same time: scans `pending`, they follow; what
   else was wished for `busy`, nothing follows it. */
static void pending_look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct swap *s = arg;
    uint64_t limit_us = (uint64_t)s->config->timeouts_ms.adopt * 1000u, now = clock_us();
    if (s->phase != PHASE_ADOPT || !s->round.pending)
        return;
    list_each_safe (it, &s->waiting) {
        struct swap_ask *ask = list_entry(it, struct swap_ask, node);
        if (now - ask->asked_us < limit_us)
            continue;
        list_del(&ask->node);
        if (is_scan(ask))
            want_ask(&s->want, ask);
        answer_without_round(s, ask, is_scan(ask) ? "pending" : "busy", s->round.reason);
    }
    if (!list_empty(&s->waiting))
        timer_set_ms(s->pender, 20);
}

void swap_ask(struct swap *s, struct swap_ask *ask)
{
    ON_CONTROL();
    CHECK(s, SWAP_MAGIC);
    if (ask->asked_us == 0)
        ask->asked_us = clock_us();
    list_init(&ask->node);
    list_add_tail(&s->waiting, &ask->node);
    if (s->round.pending)
        timer_set_ms(s->pender, 20);
    swap_kick(s);
}

void swap_first(struct swap *s, struct swap_ask *ask)
{
    REQUIRE(s->current == NULL && s->phase == PHASE_IDLE);
    swap_ask(s, ask);
}

void swap_first_again(struct swap *s, struct swap_ask *ask)
{
    REQUIRE(s->current == NULL);
    s->salvage = true;
    trials_drop(s); /* they are found again */
    swap_ask(s, ask);
}

static void absence_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct swap *s = arg;
    struct want w = { .any = true, .asked_us = clock_us() };
    want_merge(&s->want, &w);
    swap_kick(s);
}

/* ---- Versions that leave --------------------------------------------------------------------- */

static void version_cooled(struct version *v, void *arg)
{
    (void)v;
    every_update(arg);
    swap_kick(arg); /* for drain_look */
}

static void version_stuck(struct version *v, void *arg)
{
    busy_look(arg, v);
    swap_kick(arg);
}

static void version_blocked(struct version *v, void *arg)
{
    (void)v;
    swap_kick(arg);
}

static void version_gone(struct version *v, void *arg)
{
    struct swap *s = arg;
    if (v->cooling_us != 0)
        s->counts.retired++;
    busy_look(s, v);
    swap_kick(s);
}

/* The plugin of a version that has counted was refused: its scan is made again. */
void busy_look(struct swap *s, const struct version *v)
{
    if (v->loaded_us == 0)
        return; /* perhaps the refused one itself */
    for (size_t i = 0; i < s->nbusy; i++) {
        if (strcmp(s->busy[i], v->plugin) != 0)
            continue;
        s->busy_want.asked_us = clock_us();
        want_merge(&s->want, &s->busy_want);
        busy_clear(s);
        return;
    }
}

/* ---- What is --------------------------------------------------------------------------------- */

bool swap_running(const struct swap *s)
{
    return s->phase != PHASE_IDLE || s->nbusy > 0;
}

unsigned swap_generation(const struct swap *s)
{
    return s->current != NULL ? s->current->number : 0;
}

struct generation *swap_current(struct swap *s)
{
    return s->current;
}

struct config *swap_config(struct swap *s)
{
    return s->config;
}

struct list *swap_versions(struct swap *s)
{
    return &s->versions;
}

uint64_t swap_stuck(const struct swap *s)
{
    uint64_t n = 0;
    list_each (it, &s->versions)
        n += list_entry(it, struct version, node)->state == VERSION_STUCK;
    return n;
}

void swap_ask_health(struct swap *s)
{
    ON_CONTROL();
    if (s->current != NULL)
        health_ask(s->current->versions, s->current->nversions);
}

bool swap_is_well(struct swap *s, struct buf *why)
{
    return s->current == NULL || health_is_well(s->current->versions, s->current->nversions,
                                                s->config->timeouts_ms.load, why);
}

bool swap_health_asking(struct swap *s)
{
    return s->current != NULL && health_is_asking(s->current->versions, s->current->nversions);
}

bool swap_health_known(struct swap *s)
{
    return s->current == NULL || health_is_known(s->current->versions, s->current->nversions);
}

const struct swap_counts *swap_counts(const struct swap *s)
{
    return &s->counts;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static int make_events(struct swap *s)
{
    struct event_base *base = s->deps.base;
    s->kick = event_new(base, -1, 0, kicked, s);
    s->timer = evtimer_new(base, round_adopt_timeout, s);
    s->pender = evtimer_new(base, pending_look, s);
    s->absence = evtimer_new(base, absence_over, s);
    if (rollouts_open(&s->rollouts, s, base) != 0)
        return -1;
    return s->kick != NULL && s->timer != NULL && s->pender != NULL && s->absence != NULL ? 0 : -1;
}

const struct rollouts *swap_rollouts(const struct swap *s)
{
    return &s->rollouts;
}

static void free_events(struct swap *s)
{
    struct event *events[] = { s->kick, s->timer, s->pender, s->absence };
    for (size_t i = 0; i < ARRAY_LEN(events); i++)
        if (events[i] != NULL)
            event_free(events[i]);
    rollouts_close(&s->rollouts);
}

static void written(void *arg)
{
    swap_kick(arg); /* for drain_look */
}

int swap_open(struct swap **out, const struct swap_deps *deps, struct err *err)
{
    thread_kind = THREAD_CONTROL;
    struct swap *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(err, "out of memory for the swap");
    s->magic = SWAP_MAGIC;
    s->deps = *deps;
    s->config = deps->config;
    list_init(&s->versions);
    list_init(&s->waiting);
    list_init(&s->round.asks);
    list_init(&s->trials);
    known_init(&s->known);
    if (make_events(s) != 0) {
        free_events(s);
        free(s);
        return err_set(err, "out of memory for the swap's events");
    }
    if (loader_open(&s->loader, deps->base, deps->inbox, s->config->timeouts_ms.load, err) != 0) {
        free_events(s);
        free(s);
        return -1;
    }
    load_init(deps->host_init, deps->stage);
    adopt_init(deps->loops, deps->nloops, deps->inbox, deps->cut);
    health_init(deps->inbox, deps->pool);
    handover_init(deps->loops, deps->nloops, deps->inbox, deps->resume);
    every_init(deps->base, deps->inbox, deps->pool);
    retire_init(
        s->loader, deps->base,
        &(struct retire_hooks){ version_cooled, version_stuck, version_blocked, version_gone, s });
    retire_timeouts(s->config->timeouts_ms.retire, s->config->timeouts_ms.load);
    if (keep_start(deps->keep, s->loader, deps->base, deps->inbox, written, s, err) != 0)
        return -1;
    kept_names(s);
    *out = s;
    return 0;
}

int swap_watch_start(struct swap *s, struct err *err)
{
    ON_CONTROL();
    CHECK(s, SWAP_MAGIC);
    return s->watch != NULL ? 0 : watch_open(&s->watch, s, s->deps.base, err);
}

void swap_watch_stop(struct swap *s)
{
    watch_close(&s->watch);
}

void swap_close(struct swap **sp)
{
    static struct swap *left; /* versions that are stuck stay reachable for the leak check */
    struct swap *s = *sp;
    *sp = NULL;
    if (s == NULL)
        return;
    CHECK(s, SWAP_MAGIC);
    watch_close(&s->watch);
    loader_close(&s->loader);
    trials_drop(s);
    if (s->phase != PHASE_IDLE || !list_empty(&s->versions)) {
        left = s;
        (void)left;
        return;
    }
    generation_free(s->current);
    config_free(s->config);
    want_clear(&s->want);
    want_clear(&s->busy_want);
    busy_clear(s);
    known_fini(&s->known);
    free_events(s);
    s->magic = 0;
    free(s);
}
