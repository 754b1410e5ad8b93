/*
 * The end of everything: a drain abandons the round that has not been adopted, cools what serves,
 * lets it go and tells when nothing is left that can end. graftctl retire is here too: the same,
 * for one version, by force.
 */
#include "plugin/swap_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/retire.h"

#include <string.h>

int swap_retire(struct swap *s, const char *plugin, const char *id, struct err *err)
{
    ON_CONTROL();
    CHECK(s, SWAP_MAGIC);
    list_each (it, &s->versions) {
        struct version *v = list_entry(it, struct version, node);
        if (strcmp(v->plugin, plugin) != 0 || strcmp(v->id, id) != 0)
            continue;
        if (v->cooling_us == 0 || v->retire_step > RETIRE_RELEASE)
            return err_set(err,
                           "%s@%s is %s, not cooling: only what a cooling version still "
                           "serves can be cut",
                           plugin, id, version_state_name(v->state));
        retire_cut(v, "retire was asked for");
        return 0;
    }
    return err_set(err, "no version %s@%s is loaded: graftctl ps lists them", plugin, id);
}

void swap_drain_begin(struct swap *s)
{
    ON_CONTROL();
    CHECK(s, SWAP_MAGIC);
    if (s->draining)
        return;
    s->draining = true;
    keep_stop(s->deps.keep);
    swap_watch_stop(s);
    rollouts_stop(&s->rollouts);
    event_del(s->absence);
    round_handover_cancel(s);
    if (s->phase == PHASE_PREPARE || round_handover_waits(s))
        round_fail(s, "draining"); /* otherwise a job runs: its answer finds that we drain */
    else if (s->phase != PHASE_ADOPT && s->phase != PHASE_IDLE)
        round_answer(s, &s->round.asks, false, "draining");
    swap_kick(s);
}

void swap_drain_cooling(struct swap *s)
{
    ON_CONTROL();
    list_each (it, &s->versions)
        __atomic_store_n(&list_entry(it, struct version, node)->cooling, 1, __ATOMIC_RELAXED);
}

static bool cools(const struct version *v)
{
    return retire_can_end(v) && v->retire_step < RETIRE_COOLED;
}

/* What became stuck before the drain is not waited for. What the drain itself called may still
 * return until the deadline. */
static bool owed(const struct version *v)
{
    return retire_can_end(v) || (v->drained && v->hung && v->retire_step < RETIRE_UNLOAD);
}

static bool any(struct swap *s, bool (*is)(const struct version *))
{
    list_each (it, &s->versions)
        if (is(list_entry(it, struct version, node)))
            return true;
    return false;
}

static void tell(void (**fn)(void *), void *arg)
{
    void (*done)(void *) = *fn;
    *fn = NULL;
    if (done != NULL)
        done(arg);
}

/* Begins with what it finds at each look: a swap that was being adopted leaves versions behind. */
void drain_look(struct swap *s)
{
    if (s->cool_done != NULL && !any(s, cools))
        tell(&s->cool_done, s->cool_arg);
    if (s->drain_fini && s->phase == PHASE_IDLE) {
        list_each_safe (it, &s->versions) {
            struct version *v = list_entry(it, struct version, node);
            if (!retire_can_end(v))
                continue;
            v->drained = true;
            retire_begin(v);
        }
        if (s->fini_done != NULL && !any(s, owed) && !keep_writes(s->deps.keep))
            tell(&s->fini_done, s->fini_arg);
    }
}

void swap_drain_cool(struct swap *s, void (*done)(void *arg), void *arg)
{
    ON_CONTROL();
    CHECK(s, SWAP_MAGIC);
    swap_drain_begin(s);
    s->cool_done = done;
    s->cool_arg = arg;
    list_each_safe (it, &s->versions) {
        struct version *v = list_entry(it, struct version, node);
        if (v->state != VERSION_ACTIVE || v->retire_step != RETIRE_NOT)
            continue;
        v->drained = true;
        retire_cool(v);
    }
    swap_kick(s);
}

void swap_drain_fini(struct swap *s, void (*done)(void *arg), void *arg)
{
    ON_CONTROL();
    CHECK(s, SWAP_MAGIC);
    swap_drain_begin(s);
    s->drain_fini = true;
    s->fini_done = done;
    s->fini_arg = arg;
    swap_kick(s);
}

/* A request that waits for nothing: its callback has not returned to the worker. */
static void find_doing(const struct swap *s, const struct version *v, struct version_sums *sums)
{
    uint64_t now = clock_us();
    for (unsigned i = 0; i < s->deps.nloops; i++) {
        const struct loop_doing *doing = &s->deps.loops[i]->doing;
        uint64_t since = __atomic_load_n(&doing->since_us, __ATOMIC_RELAXED);
        uint64_t age = now > since ? now - since : 0;
        if (__atomic_load_n(&doing->version, __ATOMIC_ACQUIRE) != v || age <= sums->oldest_age_us)
            continue;
        sums->oldest_age_us = age;
        sums->oldest_route = __atomic_load_n(&doing->route, __ATOMIC_RELAXED);
        sums->oldest_waits_for = __atomic_load_n(&doing->callback, __ATOMIC_RELAXED);
    }
}

static void log_unfinished(const struct swap *s, const struct version *v)
{
    struct log_line line;
    struct version_sums sums;
    const char *waits_for = retire_waits_for(v);
    version_sum(v, &sums);
    find_doing(s, v, &sums);
    if (sums.oldest_waits_for != NULL)
        waits_for = sums.oldest_waits_for;
    log_begin(&line, LOG_WARN, "cooling", "%s %s is cut at the drain's deadline: %llu requests, %s",
              v->plugin, v->id, (unsigned long long)sums.pins,
              waits_for != NULL ? waits_for : version_state_name(v->state));
    retire_log_identity(&line, v);
    log_u64(&line, "in_flight", sums.pins);
    log_z(&line, "waits_for", waits_for);
    log_z(&line, "route", sums.oldest_route);
    log_u64(&line, "age_ms", sums.oldest_age_us / 1000u);
    log_end(&line);
}

unsigned swap_drain_cut(struct swap *s)
{
    unsigned n = 0;
    ON_CONTROL();
    CHECK(s, SWAP_MAGIC);
    list_each (it, &s->versions) {
        struct version *v = list_entry(it, struct version, node);
        if (!owed(v))
            continue;
        n++;
        log_unfinished(s, v);
        if (v->met && v->retire_step <= RETIRE_RELEASE)
            retire_abort(v);
    }
    return n;
}
