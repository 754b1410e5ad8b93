/* See health.h. What the pool writes (said, rc) is read after its message has come back. */
#include "plugin/health.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/doing.h"
#include "plugin/retire.h"

#include <string.h>

#define ASK_US 1000000u

static struct inbox *control;
static struct pool *pool;
static struct list running; /* control's */

void health_init(struct inbox *c, struct pool *p)
{
    control = c;
    pool = p;
    list_init(&running);
}

static struct version *version_of_health(struct version_health *h)
{
    struct version *v = container_of(h, struct version, health);
    CHECK(v, VERSION_MAGIC);
    return v;
}

/* ---- Pool ------------------------------------------------------------------------------------ */

static void run(struct pool_job *job)
{
    struct version_health *h = container_of(job, struct version_health, job);
    struct version *v = version_of_health(h);
    version_fail_clear();
    __atomic_store_n(&h->began_us, clock_us(), __ATOMIC_RELAXED);
    doing_begin(v, NULL, "health");
    h->rc = v->desc.health(&v->self, v->state_ptr);
    doing_end();
    if (h->rc != 0) {
        size_t len = strnlen(version_fail_text(), sizeof h->said - 1);
        memcpy(h->said, version_fail_text(), len);
        h->said[len] = '\0';
    }
    inbox_send(control, &h->back);
}

/* ---- Control --------------------------------------------------------------------------------- */

static void log_change(const struct version *v, bool well)
{
    struct log_line l;
    log_begin(&l, well ? LOG_INFO : LOG_WARN, "health", "%s %s %s%s", v->plugin, v->id,
              well ? "is well again" : "is not well: ", well ? "" : v->health.why);
    retire_log_identity(&l, v);
    log_bool(&l, "well", well);
    log_z(&l, "reason", well ? NULL : v->health.why);
    log_end(&l);
}

static void returned(struct msg *m)
{
    ON_CONTROL();
    struct version_health *h = container_of(m, struct version_health, back);
    struct version *v = version_of_health(h);
    bool well = h->rc == 0, changed = well == h->unwell || strcmp(h->why, h->said) != 0;
    h->running = false;
    list_del(&h->node);
    h->unwell = !well;
    memcpy(h->why, well ? "" : h->said, well ? 1 : sizeof h->why);
    if (well ? changed && h->told : changed)
        log_change(v, well);
    h->told = !well;
    if (h->stopped != NULL)
        h->stopped(v);
}

static bool serves(const struct version *v)
{
    return v->state == VERSION_ACTIVE && v->retire_step == RETIRE_NOT && v->desc.health != NULL;
}

/* The version of that plugin whose callback holds a thread, or is to; NULL: none. */
static struct version *holder(const char *plugin)
{
    list_each (it, &running) {
        struct version *v = version_of_health(list_entry(it, struct version_health, node));
        if (strcmp(v->plugin, plugin) == 0)
            return v;
    }
    return NULL;
}

void health_ask(struct version *const *versions, unsigned n)
{
    ON_CONTROL();
    uint64_t now = clock_us();
    for (unsigned i = 0; i < n; i++) {
        struct version *v = versions[i];
        struct version_health *h = &v->health;
        if (!serves(v) || holder(v->plugin) != NULL ||
            (h->asked_us != 0 && now - h->asked_us < ASK_US))
            continue;
        h->running = true;
        list_add_tail(&running, &h->node);
        h->asked_us = now;
        __atomic_store_n(&h->began_us, 0, __ATOMIC_RELAXED);
        h->job.run = run;
        h->back.fn = returned;
        pool_submit_always(pool, &h->job);
    }
}

/* Of `v` itself, or of the version before, which must return first. */
static bool is_overdue(const struct version *v, const struct version *by, unsigned limit_ms,
                       struct buf *why)
{
    const struct version_health *h = &by->health;
    uint64_t began = __atomic_load_n(&h->began_us, __ATOMIC_RELAXED), now = clock_us();
    uint64_t since = began != 0 ? began : h->asked_us;
    if (now <= since || now - since <= (uint64_t)limit_ms * 1000u)
        return false;
    unsigned long long ms = (now - since) / 1000u;
    if (began == 0)
        buf_printf(why, "plugin %s (%s): health has waited for a thread of the pool for %llu ms\n",
                   v->plugin, v->id, ms);
    else if (v == by)
        buf_printf(why, "plugin %s (%s): health has not returned for %llu ms\n", v->plugin, v->id,
                   ms);
    else
        buf_printf(why,
                   "plugin %s (%s): cannot be asked: health of the version before, %s, has not "
                   "returned for %llu ms; restart graftd if it does not\n",
                   v->plugin, v->id, by->id, ms);
    return true;
}

static bool is_well(struct version *v, unsigned limit_ms, struct buf *why)
{
    struct version_health *h = &v->health;
    const struct version *by = holder(v->plugin);
    if (by != NULL && is_overdue(v, by, limit_ms, why))
        return false;
    if (h->unwell)
        buf_printf(why, "plugin %s (%s): %s\n", v->plugin, v->id, h->why);
    else
        return true;
    return false;
}

bool health_is_well(struct version *const *versions, unsigned n, unsigned limit_ms, struct buf *why)
{
    ON_CONTROL();
    bool well = true;
    for (unsigned i = 0; i < n; i++)
        if (serves(versions[i]) && !is_well(versions[i], limit_ms, why))
            well = false;
    return well;
}

bool health_is_known(struct version *const *versions, unsigned n)
{
    ON_CONTROL();
    for (unsigned i = 0; i < n; i++)
        if (serves(versions[i]) &&
            (versions[i]->health.running || versions[i]->health.asked_us == 0))
            return false;
    return true;
}

bool health_is_asking(struct version *const *versions, unsigned n)
{
    ON_CONTROL();
    for (unsigned i = 0; i < n; i++)
        if (serves(versions[i]) && versions[i]->health.running)
            return true;
    return false;
}

void health_stop(struct version *v, void (*done)(struct version *v))
{
    ON_CONTROL();
    if (v->health.running)
        v->health.stopped = done;
    else
        done(v);
}
