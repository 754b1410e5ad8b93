/*
 * The steps of retire.h as a chain of callbacks: each ends by calling the next, at once or when a
 * message comes. v->retire_step says where a version is. A hung callback makes it stuck and stops
 * the chain; when the callback returns, the chain goes on.
 */
#include "plugin/retire.h"

#include "base/clock.h"
#include "plugin/adopt.h"
#include "plugin/every.h"
#include "plugin/health.h"
#include "plugin/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct loader *loader;
static struct event_base *base;
static struct retire_hooks hooks;
static unsigned timeout_ms, callback_ms;

void retire_init(struct loader *l, struct event_base *b, const struct retire_hooks *h)
{
    loader = l;
    base = b;
    hooks = *h;
}

void retire_timeouts(unsigned retire_ms, unsigned load_ms)
{
    timeout_ms = retire_ms;
    callback_ms = load_ms;
}

bool retire_can_end(const struct version *v)
{
    if (v->hung || v->retire_step == RETIRE_OVER)
        return false;
    return v->retire_step != RETIRE_UNLOAD || loader_blocked(loader) == NULL;
}

const char *retire_waits_for(const struct version *v)
{
    static const char *const names[] = {
        NULL, "graft_every", "cool", NULL, "requests", "fini", NULL
    };
    if (v->retire_step == RETIRE_EVERY && v->every_running == 0)
        return "health";
    return names[v->retire_step];
}

void retire_log_identity(struct log_line *line, const struct version *v)
{
    log_z(line, "plugin", v->plugin);
    log_z(line, "version", v->desc.version);
    log_z(line, "id", v->id);
    log_z(line, "sha256", v->sha256);
    log_z(line, "config_sha256", v->config_sha256);
}

static uint64_t served(const struct version *v)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < v->ncells; i++)
        for (unsigned c = 0; c < STATUS_CLASSES; c++)
            n += COUNTER_READ(v->cells[i].by_class[c].count);
    return n;
}

/* ---- Stuck ----------------------------------------------------------------------------------- */

static void stuck(struct version *v)
{
    struct log_line line;
    v->state = VERSION_STUCK;
    log_begin(&line, LOG_WARN, "stuck", "%s %s is stuck: %s", v->plugin, v->id,
              v->reason != NULL ? v->reason : "out of memory for the reason");
    retire_log_identity(&line, v);
    log_z(&line, "reason", v->reason);
    log_u64(&line, "served", served(v));
    log_bool(&line, "unmapped", v->unmapped);
    log_end(&line);
    hooks.stuck(v, hooks.arg);
}

void retire_hung(struct version *v, const char *callback, uint64_t elapsed_us)
{
    char text[256];
    bool lock = strcmp(callback, "dlopen") == 0 || strcmp(callback, "dlclose") == 0;
    snprintf(text, sizeof text, "%s has not returned within %llu ms%s", callback,
             (unsigned long long)(elapsed_us / 1000u),
             lock ? ": a constructor or destructor hangs and holds the C library's loader lock; no "
                    "plugin can be loaded or unloaded until it returns"
                  : " (timeouts_ms.load): make it faster, or allow more; what it owes follows when "
                    "it returns");
    v->hung = true;
    version_reason_set(v, text);
    stuck(v);
}

static void hung(struct job *job, const char *step, uint64_t elapsed_us)
{
    retire_hung(container_of(job, struct version, job), step, elapsed_us);
}

/* ---- The end --------------------------------------------------------------------------------- */

static void log_retired(const struct version *v)
{
    struct log_line line;
    log_begin(&line, LOG_INFO, "retired", "%s %s is unloaded", v->plugin, v->id);
    retire_log_identity(&line, v);
    log_u64(&line, "served", served(v));
    log_bool(&line, "unmapped", v->unmapped);
    log_end(&line);
}

static void gone(struct version *v)
{
    if (v->cuts > 0)
        return; /* the last answer comes back here */
    if (v->deadline != NULL)
        event_free(v->deadline);
    v->deadline = NULL;
    if (v->cooling_us != 0)
        log_retired(v);
    v->state = VERSION_RETIRED;
    list_del(&v->node);
    every_free(v);
    hooks.gone(v, hooks.arg);
    version_free(&v);
}

static void came_back(struct version *v)
{
    if (!v->hung)
        return;
    v->hung = false;
    v->state = v->cooling_us != 0 ? VERSION_COOLING : VERSION_FAILED;
}

static void step_fini(struct version *v);

static void fini_done(struct job *job)
{
    ON_CONTROL();
    struct version *v = container_of(job, struct version, job);
    if (job->late) { /* the rest has not been done yet */
        came_back(v);
        step_fini(v);
    } else if (job->rc == 0 && v->dl != NULL) {
        v->retire_step = RETIRE_UNLOAD;
        load_unload_job(v, fini_done, hung); /* v->dl is NULL then */
        loader_submit(loader, &v->job);
        if (!retire_can_end(v))
            hooks.blocked(v, hooks.arg);
    } else {
        v->retire_step = RETIRE_OVER;
        if (v->unmapped) {
            gone(v);
            return;
        }
        version_reason_set(v, job->err.text);
        stuck(v);
    }
}

static void step_fini(struct version *v)
{
    v->retire_step = RETIRE_FINI;
    load_fini_job(v, fini_done, hung);
    loader_submit(loader, &v->job);
}

static void cut_done(struct version *v)
{
    if (v->retire_step == RETIRE_OVER && v->unmapped)
        gone(v);
}

static void arm(struct event *timer, unsigned ms)
{
    struct timeval tv = { .tv_sec = ms / 1000u, .tv_usec = (suseconds_t)(ms % 1000u) * 1000 };
    if (timer == NULL || event_add(timer, &tv) != 0)
        log_msg(LOG_ERROR, "cooling", "out of memory: a version cools without a deadline");
}

/* A worker stands in its worker_init or worker_fini for too long. */
static bool overdue(const struct version *v, struct err *why)
{
    for (unsigned i = 0; i < v->ncells; i++) {
        struct loop *l = v->cells[i].loop;
        const struct version *in = __atomic_load_n(&l->doing.version, __ATOMIC_ACQUIRE);
        const char *callback = __atomic_load_n(&l->doing.callback, __ATOMIC_RELAXED);
        uint64_t since = __atomic_load_n(&l->doing.since_us, __ATOMIC_RELAXED), now = clock_us();
        if (in != v || callback == NULL || strncmp(callback, "worker_", 7) != 0 ||
            now < since + (uint64_t)callback_ms * 1000u)
            continue;
        err_set(why,
                "%s has not returned within %llu ms on worker %u, which serves nothing until "
                "it does",
                callback, (unsigned long long)((now - since) / 1000u), l->number);
        return true;
    }
    return false;
}

static void look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct version *v = arg;
    struct err why;
    CHECK(v, VERSION_MAGIC);
    if (!overdue(v, &why)) {
        arm(v->lookout, callback_ms / 4 + 1);
        return;
    }
    v->hung = true;
    version_reason_set(v, why.text);
    stuck(v);
}

static void released(struct version *v)
{
    if (v->lookout != NULL)
        event_free(v->lookout);
    v->lookout = NULL;
    came_back(v);
    step_fini(v);
}

static void step_release(struct version *v)
{
    v->retire_step = RETIRE_RELEASE;
    if (!v->met) {
        step_fini(v);
        return;
    }
    v->lookout = evtimer_new(base, look, v);
    arm(v->lookout, callback_ms / 4 + 1);
    adopt_release(v, released);
}

/* ---- Cool ------------------------------------------------------------------------------------ */

static void cooled(struct version *v)
{
    bool go_on = !v->cool_only;
    v->retire_step = RETIRE_COOLED;
    hooks.cooled(v, hooks.arg);
    if (go_on)
        step_release(v);
}

static void cool_done(struct job *job)
{
    ON_CONTROL();
    struct version *v = container_of(job, struct version, job);
    came_back(v);
    cooled(v);
}

static void step_cool(struct version *v)
{
    v->retire_step = RETIRE_COOL;
    if (!v->started || v->cooled || v->desc.cool == NULL) {
        cooled(v);
        return;
    }
    load_cool_job(v, cool_done, hung);
    loader_submit(loader, &v->job);
}

static void step_health(struct version *v)
{
    health_stop(v, step_cool);
}

static void past_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    retire_cut(arg, "timeouts_ms.retire is over");
}

static void set_deadline(struct version *v)
{
    if (timeout_ms == 0)
        return;
    v->deadline = evtimer_new(base, past_deadline, v);
    arm(v->deadline, timeout_ms);
}

static void log_cooling(const struct version *v)
{
    struct log_line line;
    struct version_sums sums;
    version_sum(v, &sums);
    log_begin(&line, LOG_INFO, "cooling", "%s %s gets no new requests; %llu still use it",
              v->plugin, v->id, (unsigned long long)sums.pins);
    retire_log_identity(&line, v);
    log_u64(&line, "in_flight", sums.pins);
    log_end(&line);
}

static void begin(struct version *v)
{
    __atomic_store_n(&v->cooling, 1, __ATOMIC_RELAXED);
    shared_abandon(&v->shared);
    if (v->state == VERSION_ACTIVE) {
        v->state = VERSION_COOLING;
        v->cooling_us = clock_us();
        log_cooling(v);
        set_deadline(v);
    }
    v->retire_step = RETIRE_EVERY;
    every_stop(v, step_health);
}

void retire_cool(struct version *v)
{
    ON_CONTROL();
    CHECK(v, VERSION_MAGIC);
    REQUIRE(v->retire_step == RETIRE_NOT && !v->hung);
    v->cool_only = true;
    begin(v);
}

void retire_begin(struct version *v)
{
    ON_CONTROL();
    CHECK(v, VERSION_MAGIC);
    REQUIRE(!v->hung || v->retire_step != RETIRE_NOT);
    bool held = v->cool_only;
    v->cool_only = false;
    if (v->retire_step == RETIRE_NOT)
        begin(v);
    else if (held && v->retire_step == RETIRE_COOLED)
        step_release(v);
}

void retire_abort(struct version *v)
{
    if (v->met)
        adopt_cut(v, cut_done);
}

void retire_cut(struct version *v, const char *why)
{
    ON_CONTROL();
    CHECK(v, VERSION_MAGIC);
    struct log_line line;
    struct version_sums sums;
    version_sum(v, &sums);
    log_begin(&line, LOG_WARN, "cooling", "%s %s: %s: its %llu requests are cut", v->plugin, v->id,
              why, (unsigned long long)sums.pins);
    retire_log_identity(&line, v);
    log_u64(&line, "in_flight", sums.pins);
    log_z(&line, "reason", why);
    log_z(&line, "route", sums.oldest_route);
    log_u64(&line, "age_ms", sums.oldest_age_us / 1000u);
    log_end(&line);
    retire_abort(v);
}
