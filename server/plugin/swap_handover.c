/*
 * Hand-over in a round: when all new versions are loaded, those whose predecessor exports and which
 * import get its state, before anything is built:
 *
 *   hold and graft_every stand still -> quiet -> (export -> import, ready) of each -> build ...
 *
 * Invariant: from the hold until adopt is sent or the hand-over is given up, the timer runs; giving
 * up lets held requests go on at once, and the round fails when the job that runs has returned.
 */
#include "plugin/swap_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/every.h"
#include "plugin/handover.h"
#include "plugin/load.h"
#include "plugin/retire.h"

#include <stdlib.h>
#include <string.h>

struct pair {
    struct version *old, *fresh;
};

struct handing {
    struct swap *swap;
    struct handover *hold;
    struct event *timer;
    unsigned timeout_ms;
    unsigned stopping; /* old versions whose graft_every have not come back */
    bool quiet;        /* the workers have said so */
    bool job;          /* a callback of a plugin runs on the loader: */
    bool exporting;    /* export_state */
    bool over;         /* given up, or adopt was sent */
    size_t n, at;
    struct pair pairs[];
};

static struct swap *the_swap; /* there is one; jobs know only their version */

/* A canary gets the state when it is promoted. */
bool round_hands_over(const struct swap *s, const struct version *v)
{
    const struct version *old = generation_version(s->current, v->plugin);
    return old != NULL && !s->round.first && !s->round.without_state &&
           (!v->canary || s->round.wish == SWAP_PROMOTE) &&
           (old->desc.callbacks & DESCRIPTOR_EXPORT_STATE) != 0;
}

/* ---- The ends -------------------------------------------------------------------------------- */

void round_handover_cancel(struct swap *s)
{
    struct handing *h = s->round.handing;
    if (h == NULL || h->over)
        return;
    h->over = true;
    event_del(h->timer);
    if (h->hold != NULL)
        handover_cancel(h->hold);
    h->hold = NULL;
    for (size_t i = 0; i < h->n; i++)
        every_go_on(h->pairs[i].old);
    every_update(s);
}

bool round_handover_waits(const struct swap *s)
{
    const struct handing *h = s->round.handing;
    return s->phase == PHASE_HANDOVER && h != NULL && !h->job;
}

void round_handover_sent(struct swap *s)
{
    struct handing *h = s->round.handing;
    if (h == NULL)
        return;
    h->over = true;
    event_del(h->timer);
}

void round_handover_free(struct swap *s)
{
    struct handing *h = s->round.handing;
    if (h == NULL)
        return;
    round_handover_cancel(s);
    handover_free(h->hold);
    event_free(h->timer);
    for (size_t i = 0; i < h->n; i++)
        h->pairs[i].old->handing = false;
    s->round.handing = NULL;
    free(h);
}

/* Whoever asks for a rollback wants the good version: what is wrong with the other one, or an older
   schema, is no reason to keep it. It is loaded once more, without the state (round_fail). */
static void tell_of_rollback(const struct version *v, const char *why)
{
    log_msg(
        LOG_WARN, "plugin_warning",
        "plugin \"%s\": the rollback goes on without the state of the version that it replaces: %s",
        v->plugin, why);
}

/* Why the hand-over is not to be: told of each new version that takes part. Held requests go on. */
static void give_up(struct swap *s, const char *stage, const struct err *why)
{
    struct handing *h = s->round.handing;
    s->round.not_handed = true;
    round_reason(s, "hand-over: %s", why->text);
    for (size_t i = 0; i < h->n; i++)
        if (s->round.wish == SWAP_ROLLBACK)
            tell_of_rollback(h->pairs[i].fresh, why->text);
        else
            report_version_failed(s, h->pairs[i].fresh, stage, why->text);
    round_handover_cancel(s);
    s->round.broken = true;
}

static void fail(struct swap *s, const char *stage, const struct err *why)
{
    give_up(s, stage, why);
    round_fail(s, "failed");
}

static void what_is_late(struct swap *s, struct err *err)
{
    const struct handing *h = s->round.handing;
    struct err in;
    if (s->phase == PHASE_PREPARE)
        err_set(err, "not all workers have prepared the new version");
    else if (s->phase == PHASE_START)
        err_set(err, "start has not returned");
    else if (h->job)
        err_set(err, "export_state, import_state or ready of %s has not returned",
                h->pairs[h->at].fresh->plugin);
    else if (handover_blame(h->hold, &in))
        err_set(err, "%s", in.text);
    else
        err_set(err, "%s",
                h->stopping > 0 ? "a graft_every has not returned"
                                : "not all workers have answered");
}

/* The callback that runs: the old version's export_state, or the new one's import_state and ready.
 */
static struct job *job_of(const struct handing *h)
{
    return h->exporting ? &h->pairs[h->at].old->export_job : &h->pairs[h->at].fresh->job;
}

static void past_time(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct handing *h = arg;
    struct swap *s = h->swap;
    struct err why, late;
    CHECK(s, SWAP_MAGIC);
    if (h->over)
        return;
    what_is_late(s, &late);
    err_set(&why, "not done within %u ms (timeouts_ms.handover): %s%s", h->timeout_ms, late.text,
            s->round.wish != SWAP_ROLLBACK ? "; the old version serves on" : "");
    bool waits = s->phase == PHASE_PREPARE || round_handover_waits(s);
    give_up(s, "handover", &why);
    if (waits)
        round_fail(s, "failed"); /* else when the job has returned, */
    else if (s->round.wish == SWAP_ROLLBACK && h->job)
        loader_leave(s->loader, job_of(h)); /* which a rollback does not wait for */
}

/* ---- Export and import ------------------------------------------------------------------------
 */

static void next(struct swap *s);

static struct version *version_of_job(struct job *job)
{
    struct version *v = container_of(job, struct version, job);
    CHECK(v, VERSION_MAGIC);
    return v;
}

static void imported(struct job *job)
{
    ON_CONTROL();
    struct swap *s = the_swap;
    struct version *v = version_of_job(job);
    buf_fini(&v->handed.data);
    if (round_came_late(v))
        return;
    struct handing *h = s->round.handing;
    h->job = false;
    if (h->over) {
        round_fail(s, s->draining ? "draining" : "failed");
    } else if (job->rc != 0) {
        fail(s, job->stage, &job->err);
    } else {
        h->at++;
        next(s);
    }
}

static void import_hung(struct job *job, const char *step, uint64_t elapsed_us)
{
    ON_CONTROL();
    struct swap *s = the_swap;
    struct version *v = version_of_job(job);
    struct err err;
    retire_hung(v, step, elapsed_us);
    err_set(&err, "%s", v->reason != NULL ? v->reason : step);
    if (s->round.handing->over)
        round_fail(s, s->draining ? "draining" : "failed");
    else
        fail(s, step, &err);
}

static void exported(struct job *job)
{
    ON_CONTROL();
    struct swap *s = the_swap;
    struct version *old = container_of(job, struct version, export_job);
    struct buf data = old->handed.data;
    CHECK(old, VERSION_MAGIC);
    old->handed.data = (struct buf){ 0 };
    every_returned(old);
    if (job->late) {
        buf_fini(&data);
        return;
    }
    struct handing *h = s->round.handing;
    struct version *fresh = h->pairs[h->at].fresh;
    fresh->handed.data = data;
    fresh->handed_schema = old->desc.state_schema;
    h->job = false;
    if (h->over || s->draining) {
        round_fail(s, s->draining ? "draining" : "failed");
    } else if (job->rc != 0) {
        fail(s, "export_state", &job->err);
    } else {
        h->job = true;
        h->exporting = false;
        load_import_job(fresh, imported, import_hung);
        loader_submit(s->loader, &fresh->job);
    }
}

/* The old version serves on; it cannot be unloaded before its callback returns (every_returned). */
static void export_hung(struct job *job, const char *step, uint64_t elapsed_us)
{
    ON_CONTROL();
    struct swap *s = the_swap;
    struct version *old = container_of(job, struct version, export_job);
    struct err err;
    err_set(&err, "%s of %s has not returned within %llu ms (timeouts_ms.load)", step, old->id,
            (unsigned long long)(elapsed_us / 1000u));
    s->round.handing->job = false;
    if (s->round.handing->over)
        round_fail(s, s->draining ? "draining" : "failed");
    else
        fail(s, step, &err);
}

static void next(struct swap *s)
{
    struct handing *h = s->round.handing;
    if (s->draining) {
        round_fail(s, "draining");
    } else if (h->at < h->n) {
        struct version *old = h->pairs[h->at].old;
        h->job = h->exporting = true;
        every_borrow(old);
        load_export_job(old, exported, export_hung);
        loader_submit(s->loader, &old->export_job);
    } else {
        round_build(s);
    }
}

/* ---- The beginning --------------------------------------------------------------------------- */

static void look(struct swap *s)
{
    const struct handing *h = s->round.handing;
    if (h->quiet && h->stopping == 0 && !h->over && !h->job && h->at == 0)
        next(s);
}

static void stopped(struct version *old)
{
    (void)old;
    struct handing *h = the_swap->round.handing;
    h->stopping--;
    look(the_swap);
}

static void quiet(struct handover *hold, void *arg)
{
    struct swap *s = arg;
    struct handing *h = s->round.handing;
    CHECK(s, SWAP_MAGIC);
    h->quiet = true;
    if (handover_refused(hold) == NULL) {
        look(s);
        return;
    }
    struct err why;
    err_set(&why, "%s%s", handover_refused(hold),
            s->round.wish != SWAP_ROLLBACK
                ? ", which the old version must finish: try again when it has ended"
                : "");
    fail(s, "handover", &why);
}

static struct handing *make(struct swap *s)
{
    struct round *r = &s->round;
    struct handing *h = calloc(1, sizeof *h + (r->nfresh + 1) * sizeof h->pairs[0]);
    if (h == NULL)
        return NULL;
    h->swap = s;
    h->timeout_ms = r->config->timeouts_ms.handover;
    for (size_t i = 0; i < r->nfresh; i++)
        if (r->fresh[i]->takes_over)
            h->pairs[h->n++] =
                (struct pair){ generation_version(s->current, r->fresh[i]->plugin), r->fresh[i] };
    if (r->promoted != NULL)
        h->pairs[h->n++] =
            (struct pair){ generation_version(s->current, r->promoted->plugin), r->promoted };
    if ((h->timer = evtimer_new(s->deps.base, past_time, h)) == NULL) {
        free(h);
        return NULL;
    }
    return h;
}

static bool hold(struct swap *s, struct handing *h)
{
    struct version **olds = calloc(h->n + 1, sizeof(*olds));
    size_t n = 0;
    for (size_t i = 0; olds != NULL && i < h->n; i++)
        olds[n++] = h->pairs[i].old;
    if (olds != NULL && s->round.promoted != NULL)
        olds[n++] = s->round.promoted; /* it serves, too: nothing runs in it while it imports */
    h->hold = olds != NULL ? handover_hold(olds, n, quiet, s) : NULL;
    free(olds);
    return h->hold != NULL;
}

bool round_handover(struct swap *s)
{
    struct round *r = &s->round;
    bool any = false;
    for (size_t i = 0; i < r->nfresh; i++)
        any = any || r->fresh[i]->takes_over;
    if (r->promoted != NULL && (!round_hands_over(s, r->promoted) ||
                                (r->promoted->desc.callbacks & DESCRIPTOR_IMPORT_STATE) == 0))
        r->promoted = NULL;
    if (!any && r->promoted == NULL)
        return false;
    the_swap = s;
    s->phase = PHASE_HANDOVER;
    struct handing *h = r->handing = make(s);
    if (h == NULL || !hold(s, h)) {
        round_reason(s, "out of memory");
        round_fail(s, "failed");
        return true;
    }
    timer_set_ms(h->timer, h->timeout_ms);
    h->stopping = (unsigned)h->n;
    for (size_t i = 0; i < h->n; i++)
        h->pairs[i].old->handing = true;
    for (size_t i = 0; i < h->n; i++)
        every_stop(h->pairs[i].old, stopped); /* workers answer by message: `quiet` comes later */
    return true;
}
