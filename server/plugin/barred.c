/* See barred.h. `added` moves when an entry is whole, so that a crash leaves no half of one. */
#include "plugin/barred.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static struct barred_area *area;
static uint64_t first; /* that waits; what the process that dies writes from now on may be lost */

void barred_open(struct barred_area *at)
{
    area = at;
    first = at != NULL ? atomic_load(&at->written) : 0;
}

void barred_add(const struct identity *identity, const char *reason, int64_t when_ms)
{
    if (area == NULL)
        return;
    uint64_t n = atomic_load(&area->added);
    struct barred *b = &area->all[n % BARRED_MAX];
    memset(b, 0, sizeof *b);
    b->identity = *identity;
    b->when_ms = when_ms;
    snprintf(b->reason, sizeof b->reason, "%s", reason);
    atomic_store(&area->added, n + 1);
}

uint64_t barred_added(void)
{
    return area != NULL ? atomic_load(&area->added) : 0;
}

void barred_written(uint64_t added)
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

static bool is_hash(const char *s)
{
    return strnlen(s, 65) == 64 && strspn(s, "0123456789abcdef") == 64;
}

/* What was removed is zeros, and none. */
static bool is_one(const struct barred *b)
{
    return is_text(b->identity.plugin, sizeof b->identity.plugin) && is_hash(b->identity.sha256) &&
           is_hash(b->identity.config_sha256) && is_text(b->reason, sizeof b->reason);
}

void barred_remove(const struct identity *identity)
{
    for (size_t i = 0; area != NULL && i < BARRED_MAX; i++)
        if (is_one(&area->all[i]) && identity_same(&area->all[i].identity, identity))
            memset(&area->all[i], 0, sizeof area->all[i]);
}

void barred_each(void (*fn)(const struct barred *b, void *arg), void *arg)
{
    if (area == NULL)
        return;
    uint64_t added = atomic_load(&area->added), n = first;
    if (n > added || added - n > BARRED_MAX)
        n = added > BARRED_MAX ? added - BARRED_MAX : 0;
    for (; n < added; n++) {
        struct barred b = area->all[n % BARRED_MAX];
        if (is_one(&b))
            fn(&b, arg);
    }
}
