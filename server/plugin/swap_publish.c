/*
 * From "these are to be loaded" to "every worker runs the new generation", or back. Every step
 * ends by calling the next one, at once or when its answer comes:
 *
 *   round_load -> (load each) -> build -> prepare -> (start each) -> publish -> adopted
 *
 * Up to publish anything may fail, and round_fail undoes it; from publish on nothing can.
 */
#include "plugin/swap_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/every.h"
#include "plugin/load.h"
#include "plugin/retire.h"
#include "plugin/watch.h"

#include <stdlib.h>
#include <string.h>

static struct swap *the_swap; /* there is one; jobs know only their version */

static struct version *version_of_job(struct job *job)
{
    struct version *v = container_of(job, struct version, job);
    CHECK(v, VERSION_MAGIC);
    return v;
}

/* ---- A version that fails -------------------------------------------------------------------- */

static void undo(struct version *v, const char *why)
{
    if (v->reason == NULL)
        version_reason_set(v, why);
    shared_abandon(&v->shared); /* also when its undo must wait */
    if (v->hung)
        return; /* stuck; its undo waits until the callback returns */
    v->state = VERSION_FAILED;
    retire_begin(v);
}

/* Out of the round; the round fails with it, unless it is the first and does without. */
static void drop(struct swap *s, struct version *v)
{
    struct round *r = &s->round;
    size_t kept = 0;
    for (size_t i = 0; i < r->nfresh; i++)
        if (r->fresh[i] != v)
            r->fresh[kept++] = r->fresh[i];
    r->nfresh = kept;
    if (!v->stand_in && !round_forgives(s, v->plugin))
        r->broken = true;
    undo(v, "the swap failed");
}

static void remember(struct swap *s, const struct version *v, const char *stage, const char *text,
                     const struct version *other, bool config_bound)
{
    char key[KNOWN_KEY];
    if (v->stand_in)
        return;
    known_key_identity(key, v->sha256, v->config_sha256);
    known_failure_add(&s->known,
                      &(struct known_failure){
                          .key = key,
                          .stage = (char *)(uintptr_t)stage,
                          .error = (char *)(uintptr_t)text,
                          .plugin = v->plugin,
                          .other_sha256 = other != NULL ? (char *)(uintptr_t)other->sha256 : NULL,
                          .config_bound = config_bound });
}

static const char *file_of(const struct version *v)
{
    const char *slash = strrchr(v->source, '/');
    return slash != NULL ? slash + 1 : v->source;
}

static void version_failed(struct swap *s, struct version *v, const char *stage, struct err *err)
{
    err_prefix(err, "%s", file_of(v));
    remember(s, v, stage, err->text, NULL, false);
    report_version_failed(s, v, stage, err->text);
    drop(s, v);
}

/* ---- Load ------------------------------------------------------------------------------------ */

static void load_next(struct swap *s);
static void try_without(struct swap *s, struct version *v, const char *stage, struct err *err);

/* A callback that hung has returned after all: what is owed follows. */
bool round_came_late(struct version *v)
{
    if (!v->job.late)
        return false;
    v->hung = false;
    v->state = VERSION_FAILED;
    retire_begin(v);
    return true;
}

static void load_done(struct job *job)
{
    ON_CONTROL();
    struct swap *s = the_swap;
    struct version *v = version_of_job(job);
    if (round_came_late(v))
        return;
    if (job->rc == 0) {
        v->state = VERSION_WARM;
        v->loaded_us = clock_us();
        s->round.at++;
    } else {
        version_failed(s, v, job->stage, &job->err);
    }
    load_next(s);
}

/* The round waits for this very job: hung comes before any late done. */
static void step_hung(struct job *job, const char *step, uint64_t elapsed_us)
{
    ON_CONTROL();
    struct swap *s = the_swap;
    struct version *v = version_of_job(job);
    struct err err;
    retire_hung(v, step, elapsed_us);
    err_set(&err, "%s", v->reason != NULL ? v->reason : step);
    if (s->phase == PHASE_START) {
        try_without(s, v, step, &err);
        return;
    }
    version_failed(s, v, step, &err);
    load_next(s);
}

static void load_next(struct swap *s)
{
    struct round *r = &s->round;
    if (s->draining) {
        round_fail(s, "draining");
    } else if (r->at < r->nfresh) {
        struct version *v = r->fresh[r->at];
        v->state = VERSION_LOADED;
        v->takes_over = round_hands_over(s, v);
        load_job(v, load_done, step_hung);
        loader_submit(s->loader, &v->job);
    } else if (r->broken) {
        round_fail(s, "failed");
    } else {
        if (!round_handover(s))
            round_build(s);
    }
}

void round_load(struct swap *s)
{
    the_swap = s;
    s->phase = PHASE_LOAD;
    s->round.at = 0;
    load_next(s);
}

/* ---- Build and prepare ----------------------------------------------------------------------- */

static bool is_fresh(const struct round *r, const struct version *v)
{
    for (size_t i = 0; i < r->nfresh; i++)
        if (r->fresh[i] == v)
            return true;
    return false;
}

static void build_failed(struct swap *s, struct generation_fault *fault)
{
    struct round *r = &s->round;
    struct version *v = NULL;
    for (size_t i = 0; i < r->nfresh; i++)
        if (r->fresh[i] == fault->blame)
            v = r->fresh[i];
    if (v == NULL) {
        round_reason(s, "%s", fault->err.text);
        if (fault->blame != NULL)
            entries_add(&r->failed, fault->blame->plugin, fault->blame->id, fault->err.text,
                        fault->blame->source, "routes");
        round_fail(s, "failed");
        return;
    }
    err_prefix(&fault->err, "%s", file_of(v));
    remember(s, v, "routes", fault->err.text, fault->other, true);
    report_version_failed(s, v, "routes", fault->err.text);
    drop(s, v);
    if (r->broken)
        round_fail(s, "failed");
    else
        round_build(s);
}

static void prepared(struct swap *s);
static void adopted(struct swap *s);

static void adoption_done(struct adoption *a, void *arg)
{
    struct swap *s = arg;
    CHECK(s, SWAP_MAGIC);
    REQUIRE(a == s->round.adoption);
    event_del(s->timer);
    if (s->phase == PHASE_PREPARE)
        prepared(s);
    else
        adopted(s);
}

static void prepare(struct swap *s, struct generation *g)
{
    struct round *r = &s->round;
    r->adoption = adoption_new(g, r->fresh, r->nfresh, adoption_done, s);
    if (r->adoption == NULL) {
        generation_free(g);
        round_reason(s, "out of memory");
        round_fail(s, "failed");
        return;
    }
    s->phase = PHASE_PREPARE;
    if (r->prepare_us == 0)
        r->prepare_us = clock_us();
    for (size_t i = 0; i < r->nfresh; i++)
        r->fresh[i]->met = true;
    timer_set_ms(s->timer, r->config->timeouts_ms.adopt);
    adoption_prepare(r->adoption);
}

void round_build(struct swap *s)
{
    struct round *r = &s->round;
    struct generation_fault fault;
    size_t n = r->nnext;
    for (size_t i = 0; i < r->nfresh; i++)
        if (!r->fresh[i]->canary)
            r->next[n++] = r->fresh[i];
    struct generation *g = generation_new(swap_generation(s) + 1, r->next, (unsigned)n, r->canaries,
                                          r->ncanaries, r->config, &fault);
    if (g == NULL)
        build_failed(s, &fault);
    else
        prepare(s, g);
}

/* Not every worker could: the round goes on without that version, or fails. */
static void try_without(struct swap *s, struct version *v, const char *stage, struct err *err)
{
    struct round *r = &s->round;
    struct adoption *a = r->adoption;
    r->adoption = NULL;
    adoption_cancel(a);
    version_failed(s, v, stage, err);
    if (s->draining)
        round_fail(s, "draining");
    else if (r->broken)
        round_fail(s, "failed");
    else
        round_build(s);
}

static void start_next(struct swap *s);

static void prepared(struct swap *s)
{
    struct err err;
    struct version *v = adoption_failed(s->round.adoption, &err);
    if (v != NULL) {
        try_without(s, v, "worker_init", &err);
        return;
    }
    s->phase = PHASE_START;
    s->round.at = 0;
    start_next(s);
}

static void prepare_late(struct swap *s)
{
    struct round *r = &s->round;
    struct err err;
    adoption_blame(r->adoption, r->config->timeouts_ms.adopt, &err);
    round_reason(s, "%s", err.text);
    for (size_t i = 0; i < r->nfresh; i++)
        report_version_failed(s, r->fresh[i], "prepare", err.text);
    round_fail(s, "failed");
}

/* ---- Start ----------------------------------------------------------------------------------- */

static void publish(struct swap *s);

static void start_done(struct job *job)
{
    ON_CONTROL();
    struct swap *s = the_swap;
    struct version *v = version_of_job(job);
    if (round_came_late(v))
        return;
    if (job->rc != 0 && !s->round.broken) {
        try_without(s, v, "start", &job->err);
        return;
    }
    s->round.at++;
    start_next(s);
}

static void start_next(struct swap *s)
{
    struct round *r = &s->round;
    while (r->at < r->nfresh && (r->fresh[r->at]->desc.start == NULL || r->fresh[r->at]->started))
        r->at++;
    if (s->draining) {
        round_fail(s, "draining");
    } else if (r->broken) {
        round_fail(s, "failed");
    } else if (r->at < r->nfresh) {
        load_start_job(r->fresh[r->at], start_done, step_hung);
        loader_submit(s->loader, &r->fresh[r->at]->job);
    } else {
        publish(s);
    }
}

/* ---- Adopt ----------------------------------------------------------------------------------- */

static void warn(const char *text, void *arg)
{
    (void)arg;
    log_msg(LOG_WARN, "plugin_warning", "%s", text);
}

static void install_config(struct swap *s, const struct generation *g)
{
    struct round *r = &s->round;
    if (r->want.config != NULL) {
        r->old_config = s->config;
        s->config = r->want.config;
        r->want.config = NULL;
        loader_timeout(s->loader, s->config->timeouts_ms.load);
        retire_timeouts(s->config->timeouts_ms.retire, s->config->timeouts_ms.load);
        if (s->deps.configured != NULL)
            s->deps.configured(s->deps.arg, s->config);
        watch_refresh(s->watch);
    } else if (!r->first) {
        return;
    }
    generation_warnings(g, warn, NULL);
    if (g->nversions == 0)
        log_msg(LOG_WARN, "plugin_warning", "no plugin in %s: every request is answered 404",
                s->config->plugin_dir);
}

/* Before anything is published: what serves must be told whole. */
static int note_changed(struct swap *s)
{
    struct round *r = &s->round;
    for (size_t i = 0; i < r->nfresh; i++)
        if (!r->fresh[i]->stand_in && entries_add(&r->changed, r->fresh[i]->plugin, r->fresh[i]->id,
                                                  NULL, r->fresh[i]->source, NULL) != 0)
            return -1;
    return 0;
}

static void publish(struct swap *s)
{
    struct round *r = &s->round;
    if (note_changed(s) != 0) {
        round_reason(s, "out of memory");
        round_fail(s, "failed");
        return;
    }
    s->phase = PHASE_ADOPT;
    for (size_t i = 0; i < r->nfresh; i++) {
        r->fresh[i]->started = true;
        shared_publish(&r->fresh[i]->shared);
        r->fresh[i]->state = VERSION_ACTIVE;
    }
    install_config(s, adoption_generation(r->adoption));
    timer_set_ms(s->timer, s->config->timeouts_ms.adopt);
    round_handover_sent(s);
    adoption_publish(r->adoption);
}

static void adopt_late(struct swap *s)
{
    struct round *r = &s->round;
    struct err err;
    adoption_blame(r->adoption, s->config->timeouts_ms.adopt, &err);
    round_reason(s, "%s", err.text);
    r->pending = true;
    round_answer(s, &r->asks, false, "pending");
    if (!list_empty(&s->waiting))
        timer_set_ms(s->pender, 20);
}

void round_adopt_timeout(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct swap *s = arg;
    CHECK(s, SWAP_MAGIC);
    if (s->phase == PHASE_PREPARE)
        prepare_late(s);
    else if (s->phase == PHASE_ADOPT)
        adopt_late(s);
}

static void adopted(struct swap *s)
{
    struct round *r = &s->round;
    struct generation *old = s->current;
    s->current = adoption_free(r->adoption);
    r->adoption = NULL;
    generation_free(old);
    config_free(r->old_config);
    canary_installed(s);
    for (size_t i = 0; i < r->nfresh; i++) {
        if (!r->fresh[i]->canary)
            shared_promote(&r->fresh[i]->shared);
        if (!r->fresh[i]->stand_in)
            report_loaded(r->fresh[i]);
    }
    if (r->wish == SWAP_PROMOTE)
        shared_promote(&generation_version(s->current, r->plugin)->shared);
    kept_adopted(s);
    round_handover_free(s);
    round_succeed(s);
}

/* ---- The ends of a round --------------------------------------------------------------------- */

static bool blocks_every(const struct version *other, const struct version *v)
{
    return other != v && other->started && other->retire_step < RETIRE_COOLED &&
           strcmp(other->plugin, v->plugin) == 0;
}

/* A version's graft_every begin when no other version of its plugin is between start and cool. */
void every_update(struct swap *s)
{
    list_each (it, &s->versions) {
        struct version *v = list_entry(it, struct version, node);
        bool blocked = s->draining || v->handing || v->state != VERSION_ACTIVE ||
                       list_empty(&v->every) || v->every_on ||
                       (s->phase == PHASE_ADOPT && is_fresh(&s->round, v));
        list_each (jt, &s->versions)
            blocked = blocked || blocks_every(list_entry(jt, struct version, node), v);
        if (!blocked)
            every_start(v);
    }
}

void round_succeed(struct swap *s)
{
    struct round *r = &s->round;
    struct version **leaving = r->leaving;
    size_t nleaving = r->nleaving;
    r->leaving = NULL;
    report_swap(s, true, "ok");
    round_answer(s, &r->asks, true, "ok");
    round_free(s);
    trials_follow(s);
    for (size_t i = 0; i < nleaving; i++)
        retire_begin(leaving[i]);
    free(leaving);
    every_update(s);
}

static void keep_wish(struct swap *s)
{
    want_clear(&s->busy_want);
    s->busy_want = s->round.want;
    s->round.want = (struct want){ 0 };
    s->busy_want.any = s->nbusy > 0;
    s->busy_want.asked_us = UINT64_MAX; /* until it is repeated: busy_look */
    if (!s->busy_want.any)
        want_clear(&s->busy_want);
}

/* A rollback whose hand-over has failed is undone, and tried again without it. */
static bool rollback_again(struct swap *s)
{
    struct round *r = &s->round;
    if (r->wish != SWAP_ROLLBACK || !r->not_handed)
        return false;
    for (struct list *it; (it = list_pop(&r->asks)) != NULL;) {
        list_entry(it, struct swap_ask, node)->without_state = true;
        list_add_head(&s->waiting, it);
    }
    return true;
}

void round_fail(struct swap *s, const char *word)
{
    struct round *r = &s->round;
    struct adoption *a = r->adoption;
    event_del(s->timer);
    round_handover_free(s);
    r->adoption = NULL;
    if (a != NULL)
        adoption_cancel(a);
    for (size_t i = 0; i < r->nfresh; i++)
        undo(r->fresh[i], "undone: the swap failed");
    r->nfresh = 0;
    if (rollback_again(s)) {
        round_free(s);
        return;
    }
    report_swap(s, false, word);
    round_answer(s, &r->asks, false, word);
    if (strcmp(word, "busy") == 0 && r->wish == SWAP_SCAN)
        keep_wish(s);
    round_free(s);
}
