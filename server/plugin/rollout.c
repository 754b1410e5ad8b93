/* See rollout.h. */
#include "plugin/rollout.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define LOOK_MS  200      /* worse -> back within a second: four looks of grace */
#define PAUSE_US 1000000u /* after the first refusal */
#define PAUSES   8u       /* so many times that at most */

static const struct config_rollout unnamed = {
    .min_requests = 200, .max_error_rate = 0.01, .max_error_ratio = 2.0, .max_p99_ratio = 1.5
};

static const struct config_rollout *settings(const struct rollouts *rs, const struct rollout *r)
{
    const struct config_rollout *how = config_plugin(swap_config(rs->swap), r->plugin)->rollout;
    return how != NULL ? how : &unnamed;
}

const struct rollout *rollout_of(const struct rollouts *rs, const struct version *v)
{
    for (size_t i = 0; i < ARRAY_LEN(rs->all); i++)
        if (rs->all[i].on && strcmp(rs->all[i].plugin, v->plugin) == 0 &&
            strcmp(rs->all[i].id, v->id) == 0)
            return &rs->all[i];
    return NULL;
}

/* ---- What is told ---------------------------------------------------------------------------- */

static void log_judgement(const struct rollout *r, enum log_level level, const char *event,
                          const char *text)
{
    const struct judgement *j = &r->judgement;
    char number[32];
    struct log_line line;
    log_begin(&line, level, event, "%s %s: %s", r->plugin, r->id, text);
    log_z(&line, "plugin", r->plugin);
    log_z(&line, "id", r->id);
    log_z(&line, "stable", r->stable);
    if (strcmp(event, "rollback") == 0) { /* as that of graftctl rollback */
        log_z(&line, "from", r->id);
        log_z(&line, "to", r->stable);
        log_z(&line, "by", "rollout");
    }
    log_u64(&line, "weight", r->weight);
    log_z(&line, "reason", j->why);
    log_u64(&line, "requests", r->sample.requests);
    log_u64(&line, "stable_requests", r->stable_sample.requests);
    snprintf(number, sizeof number, "%.6g", j->error_rate);
    log_raw(&line, "error_rate", str_of(number));
    snprintf(number, sizeof number, "%.6g", j->stable_error_rate);
    log_raw(&line, "stable_error_rate", str_of(number));
    log_u64(&line, "p99_us", j->p99_us);
    log_u64(&line, "stable_p99_us", j->stable_p99_us);
    snprintf(number, sizeof number, "%.3g", j->error_chance);
    log_raw(&line, "error_chance", str_of(number));
    snprintf(number, sizeof number, "%.3g", j->latency_chance);
    log_raw(&line, "latency_chance", str_of(number));
    log_end(&line);
}

/* Once for each step. */
static void tell(struct rollout *r, const char *text)
{
    if (!r->told)
        log_judgement(r, LOG_INFO, "canary", text);
    r->told = true;
}

#define SHADOW_TELL_US 60000000u

/* The first difference at once, then at most one line a minute. */
static void tell_shadows(struct rollout *r, const struct canary *c)
{
    struct shadow_sums s;
    struct log_line line;
    version_sum_shadows(c->version, &s);
    uint64_t n = shadow_differences(&s), now = clock_us();
    if (n <= r->shadow_told || (r->shadow_told > 0 && now - r->shadow_told_us < SHADOW_TELL_US))
        return;
    r->shadow_told = n;
    r->shadow_told_us = now;
    log_begin(&line, LOG_WARN, "shadow", "%s %s: %llu of %llu shadow answers differ", r->plugin,
              r->id, (unsigned long long)n, (unsigned long long)s.requests);
    log_z(&line, "plugin", r->plugin);
    log_z(&line, "id", r->id);
    log_z(&line, "stable", r->stable);
    log_u64(&line, "percent", c->shadow);
    log_u64(&line, "requests", s.requests);
    for (unsigned o = 0; o < SHADOW_OUTCOMES; o++)
        log_u64(&line, shadow_outcome_name((enum shadow_outcome)o), s.outcomes[o]);
    if (s.nexamples > 0) {
        log_z(&line, "path", s.examples[0].path);
        log_u64(&line, "status_given", s.examples[0].status);
        log_u64(&line, "status_shadow", s.examples[0].shadow_status);
    }
    log_end(&line);
}

/* ---- What is done ---------------------------------------------------------------------------- */

static void hurry(struct rollout *r)
{
    r->pause_us = r->next_us = 0;
    r->refused[0] = '\0';
}

/* What holds it back (a hand-over, a worker, a drain) is not gone in the next moment, and trying
   may hold back requests. */
static void answered(struct swap_ask *ask, const struct swap_result *result)
{
    struct rollout *r = ask->arg;
    r->asked = false;
    if (result->ok) {
        hurry(r);
        return;
    }
    r->pause_us = r->pause_us == 0 ? PAUSE_US : r->pause_us * 2;
    r->pause_us = r->pause_us < PAUSES * PAUSE_US ? r->pause_us : PAUSES * PAUSE_US;
    r->next_us = clock_us() + r->pause_us;
    snprintf(r->refused, sizeof r->refused, "%s", result->reason);
}

/* As it has asked: also when that was answered `pending` long ago. */
static void ended(struct rollout *r, enum swap_wish wish)
{
    r->all->taken_back += wish == SWAP_ABORT;
    r->all->promoted += wish == SWAP_PROMOTE;
    if (wish == SWAP_ABORT)
        log_judgement(r, LOG_WARN, "rollback", "taken back: it is worse than the stable version");
    else if (wish == SWAP_PROMOTE)
        log_judgement(r, LOG_INFO, "promoted", "serves all requests: no worse than the last one");
}

static bool is_withdrawn(const struct canary *c)
{
    return atomic_load_explicit(&c->version->withdrawn, memory_order_relaxed);
}

/* No worker and no swap is waited for. */
static void withdraw(struct rollout *r, const struct canary *c)
{
    hurry(r);
    atomic_store_explicit(&c->version->withdrawn, true, memory_order_relaxed);
    c->version->weight = 0;
    c->stable->weight = 100;
    log_judgement(r, LOG_WARN, "canary", "gets no more requests: it is worse");
}

/* For the quarantine, if that is what follows. */
static void explain(struct rollout *r)
{
    const struct judgement *j = &r->judgement;
    const struct judge_sample *one = &r->sample, *other = &r->stable_sample;
    snprintf(r->why, sizeof r->why,
             "its rollout found it worse (%s): %.3g %% of %llu requests failed, p99 %llu us; the "
             "stable version meanwhile: %.3g %% of %llu, %llu us",
             j->why, 100 * j->error_rate, (unsigned long long)one->requests,
             (unsigned long long)j->p99_us, 100 * j->stable_error_rate,
             (unsigned long long)other->requests, (unsigned long long)j->stable_p99_us);
    snprintf(r->evidence, sizeof r->evidence,
             "{\"reason\":\"%s\",\"requests\":%llu,\"errors\":%llu,\"p99_us\":%llu,"
             "\"stable\":\"%s\",\"stable_requests\":%llu,\"stable_errors\":%llu,"
             "\"stable_p99_us\":%llu}",
             j->why, (unsigned long long)one->requests, (unsigned long long)one->errors,
             (unsigned long long)j->p99_us, r->stable, (unsigned long long)other->requests,
             (unsigned long long)other->errors, (unsigned long long)j->stable_p99_us);
}

/* A refusal (a swap is pending, a drain) leaves it for the next look. */
static void ask(struct rollouts *rs, struct rollout *r, enum swap_wish wish, unsigned weight)
{
    explain(r);
    r->asked = true;
    r->ask = (struct swap_ask){ .wish = wish,
                                .plugin = r->plugin,
                                .id = r->id,
                                .weight = weight,
                                .why = r->why,
                                .by = "rollout",
                                .by_itself = true,
                                .evidence = r->evidence,
                                .done = answered,
                                .arg = r };
    swap_ask(rs->swap, &r->ask);
}

static void advance(struct rollouts *rs, struct rollout *r, const struct config_rollout *how)
{
    for (unsigned i = 0; i < how->nsteps; i++)
        if (how->steps[i] > r->weight) {
            ask(rs, r, SWAP_WEIGHT, how->steps[i]);
            return;
        }
    ask(rs, r, SWAP_PROMOTE, 0);
}

static void decide(struct rollouts *rs, struct rollout *r, const struct canary *c)
{
    const struct config_rollout *how = settings(rs, r);
    bool over = clock_us() - r->step_us >= (uint64_t)how->step_ms * 1000u;
    if (!how->advance) {
        if (r->judgement.verdict == JUDGE_WORSE)
            tell(r, "it is worse than the stable version; to take it back is left to you");
        return;
    }
    if (r->judgement.verdict == JUDGE_WORSE && !is_withdrawn(c))
        withdraw(r, c);
    if (r->asked || clock_us() < r->next_us)
        return;
    if (is_withdrawn(c))
        ask(rs, r, SWAP_ABORT, 0);
    else if (r->held && over && r->judgement.verdict == JUDGE_GOOD)
        tell(r, "is no worse; its share is held by hand: promote it, or set another");
    else if (r->held)
        return;
    else if (over && (r->judgement.verdict == JUDGE_GOOD || r->weight == 0))
        advance(rs, r, how); /* at 0 % there is nothing to be judged */
    else if (over)
        tell(r, "waits: too little traffic to judge it");
}

static void weigh(struct rollouts *rs, struct rollout *r, const struct canary *c)
{
    const struct config_rollout *how = settings(rs, r);
    struct judge_limits limits = { .min_requests = how->min_requests,
                                   .max_error_rate = how->max_error_rate,
                                   .max_error_ratio = how->max_error_ratio,
                                   .max_p99_ratio = how->max_p99_ratio };
    struct version_sums now, stable_now;
    version_sum(c->version, &now);
    version_sum(c->stable, &stable_now);
    judge_sample_between(&now, &r->before, &r->sample);
    judge_sample_between(&stable_now, &r->stable_before, &r->stable_sample);
    judge(&r->stable_sample, &r->sample, &limits, &r->judgement);
}

/* One that was withdrawn has had its verdict: nothing that comes later changes it. */
static void look(struct rollouts *rs, struct rollout *r, const struct canary *c)
{
    if (!is_withdrawn(c))
        weigh(rs, r, c);
    tell_shadows(r, c);
    decide(rs, r, c);
}

/* ---- Following the generations --------------------------------------------------------------- */

static struct rollout *slot_of(struct rollouts *rs, const struct canary *c)
{
    struct rollout *free_one = NULL;
    for (size_t i = 0; i < ARRAY_LEN(rs->all); i++) {
        struct rollout *r = &rs->all[i];
        if (r->on && strcmp(r->plugin, c->version->plugin) == 0 &&
            strcmp(r->id, c->version->id) == 0)
            return r;
        if (!r->on && !r->asked)
            free_one = r;
    }
    REQUIRE(free_one != NULL); /* each that has left waits for one answer at most, and rounds are
                                  one at a time */
    *free_one = (struct rollout){ .all = rs };
    return free_one;
}

static void step(struct rollout *r, const struct canary *c)
{
    r->weight = c->weight;
    r->step_us = clock_us();
    r->told = false;
    hurry(r);
    atomic_store_explicit(&c->version->withdrawn, false, memory_order_relaxed);
    version_sum(c->version, &r->before);
    version_sum(c->stable, &r->stable_before);
}

static bool among(const struct generation *g, const struct rollout *r)
{
    for (unsigned i = 0; i < g->ncanaries; i++)
        if (strcmp(g->canaries[i].version->plugin, r->plugin) == 0 &&
            strcmp(g->canaries[i].version->id, r->id) == 0)
            return true;
    return false;
}

static void look_again(struct rollouts *rs)
{
    static const struct timeval tv = { 0, LOOK_MS * 1000 };
    if (evtimer_pending(rs->timer, NULL))
        return; /* swaps that follow each other quickly put no look off */
    if (event_add(rs->timer, &tv) != 0)
        log_msg(LOG_ERROR, "memory", "out of memory: rollouts are not looked at");
}

void rollouts_stop(struct rollouts *rs)
{
    event_del(rs->timer);
    for (size_t i = 0; i < ARRAY_LEN(rs->all); i++)
        rs->all[i].on = false;
    rs->stopped = true;
}

void rollouts_follow(struct rollouts *rs, const struct generation *g, enum swap_wish wish)
{
    if (rs->stopped)
        return; /* the last adopt of a pending swap came in a drain */
    for (size_t i = 0; i < ARRAY_LEN(rs->all); i++) {
        struct rollout *r = &rs->all[i];
        if (!r->on || among(g, r))
            continue;
        r->on = false;
        ended(r, wish);
    }
    for (unsigned i = 0; i < g->ncanaries; i++) {
        const struct canary *c = &g->canaries[i];
        struct rollout *r = slot_of(rs, c);
        bool fresh = !r->on;
        r->on = true;
        snprintf(r->plugin, sizeof r->plugin, "%s", c->version->plugin);
        snprintf(r->id, sizeof r->id, "%s", c->version->id);
        snprintf(r->stable, sizeof r->stable, "%s", c->stable->id);
        if (fresh || r->weight != c->weight)
            step(r, c);
        r->held = c->held;
    }
    if (g->ncanaries > 0)
        look_again(rs);
    else
        event_del(rs->timer);
}

static void on_look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct rollouts *rs = arg;
    const struct generation *g = swap_current(rs->swap);
    for (unsigned i = 0; i < g->ncanaries; i++)
        for (size_t k = 0; k < ARRAY_LEN(rs->all); k++)
            if (rs->all[k].on && strcmp(rs->all[k].id, g->canaries[i].version->id) == 0 &&
                strcmp(rs->all[k].plugin, g->canaries[i].version->plugin) == 0)
                look(rs, &rs->all[k], &g->canaries[i]);
    look_again(rs);
}

int rollouts_open(struct rollouts *rs, struct swap *s, struct event_base *base)
{
    rs->swap = s;
    rs->timer = evtimer_new(base, on_look, rs);
    return rs->timer != NULL ? 0 : -1;
}

void rollouts_close(struct rollouts *rs)
{
    if (rs->timer != NULL)
        event_free(rs->timer);
    rs->timer = NULL;
}
