/* See verdict.h. `added` moves when an entry is whole, so that a crash leaves no half of one. */
#include "plugin/verdict.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static struct verdict_area *area;
static uint64_t first; /* that waits; what the process that dies writes from now on may be lost */

void verdicts_open(struct verdict_area *at)
{
    area = at;
    first = at != NULL ? atomic_load(&at->written) : 0;
}

static void add(const struct verdict *v)
{
    if (area == NULL)
        return;
    uint64_t n = atomic_load(&area->added);
    area->all[n % VERDICTS_MAX] = *v;
    atomic_store(&area->added, n + 1);
}

void verdict_bad(const struct identity *identity, const char *reason, int64_t when_ms)
{
    struct verdict v = { .identity = *identity, .when_ms = when_ms, .kind = VERDICT_BAD };
    snprintf(v.reason, sizeof v.reason, "%s", reason);
    add(&v);
}

void verdict_good(const struct identity *identity, int64_t when_ms)
{
    struct verdict v = { .identity = *identity, .when_ms = when_ms, .kind = VERDICT_GOOD };
    add(&v);
}

void verdict_trial(const struct trial *trial, int64_t when_ms)
{
    struct verdict v = { .identity = trial->identity,
                         .when_ms = when_ms,
                         .kind = VERDICT_TRIAL,
                         .weight = trial->weight,
                         .held = trial->held,
                         .shadow = trial->shadow_asked ? trial->shadow + 1 : 0 };
    add(&v);
}

void verdict_no_trial(const struct identity *identity, int64_t when_ms)
{
    struct verdict v = { .identity = *identity, .when_ms = when_ms, .kind = VERDICT_NO_TRIAL };
    add(&v);
}

uint64_t verdicts_added(void)
{
    return area != NULL ? atomic_load(&area->added) : 0;
}

void verdicts_written(uint64_t added)
{
    if (area != NULL)
        atomic_store(&area->written, added);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static bool is_text(const char *s, size_t size)
{
    size_t len = strnlen(s, size);
    for (size_t i = 0; i < len; i++)
        if (s[i] < ' ' || s[i] > '~')
            return false;
    return len > 0 && len < size;
}

/* Each of its texts ends. */
static bool is_ended(const struct identity *identity)
{
    return memchr(identity->plugin, '\0', sizeof identity->plugin) != NULL &&
           memchr(identity->sha256, '\0', sizeof identity->sha256) != NULL &&
           memchr(identity->config_sha256, '\0', sizeof identity->config_sha256) != NULL;
}

static bool is_one(const struct verdict *v)
{
    return v->kind >= VERDICT_BAD && v->kind <= VERDICT_NO_TRIAL && v->weight <= 99 &&
           v->held <= 1 && is_ended(&v->identity) && identity_is_whole(&v->identity) &&
           (v->kind != VERDICT_BAD || is_text(v->reason, sizeof v->reason)) &&
           (v->kind != VERDICT_TRIAL || v->shadow <= 101);
}

void verdicts_each(void (*fn)(const struct verdict *v, void *arg), void *arg)
{
    if (area == NULL)
        return;
    uint64_t added = atomic_load(&area->added), n = first;
    if (n > added || added - n > VERDICTS_MAX)
        n = added > VERDICTS_MAX ? added - VERDICTS_MAX : 0;
    for (; n < added; n++) {
        struct verdict v = area->all[n % VERDICTS_MAX];
        if (is_one(&v))
            fn(&v, arg);
    }
}
