/* Lists of at most some hundred entries, looked through from the newest: a scan asks once a file.
 */
#include "plugin/quarantine.h"

#include "plugin/descriptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void identity_set(struct identity *out, const char *plugin, const char *sha256,
                  const char *config_sha256)
{
    snprintf(out->plugin, sizeof out->plugin, "%s", plugin);
    snprintf(out->sha256, sizeof out->sha256, "%s", sha256);
    snprintf(out->config_sha256, sizeof out->config_sha256, "%s", config_sha256);
}

bool identity_same(const struct identity *a, const struct identity *b)
{
    return strcmp(a->plugin, b->plugin) == 0 && strcmp(a->sha256, b->sha256) == 0 &&
           strcmp(a->config_sha256, b->config_sha256) == 0;
}

static bool is_hash(const char *text)
{
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

bool identity_is_whole(const struct identity *identity)
{
    char name[sizeof identity->plugin], nothing[] = "";
    struct descriptor d = { .name = name, .version = nothing, .summary = nothing };
    struct err ignored;
    memcpy(name, identity->plugin, sizeof name);
    return is_hash(identity->sha256) && is_hash(identity->config_sha256) &&
           descriptor_check(&d, &ignored) == 0;
}

void quarantine_init(struct quarantine *q)
{
    list_init(&q->list);
    list_init(&q->crashes);
    q->count = q->ncrashes = 0;
}

static void entry_free(struct quarantine *q, struct quarantined *entry)
{
    list_del(&entry->node);
    q->count--;
    free(entry->evidence);
    free(entry);
}

static void crash_free(struct quarantine *q, struct crash *crash)
{
    list_del(&crash->node);
    q->ncrashes--;
    free(crash);
}

void quarantine_fini(struct quarantine *q)
{
    list_each_safe (it, &q->list)
        entry_free(q, list_entry(it, struct quarantined, node));
    list_each_safe (it, &q->crashes)
        crash_free(q, list_entry(it, struct crash, node));
}

static struct quarantined *find(const struct quarantine *q, const struct identity *identity)
{
    list_each (it, &q->list) {
        struct quarantined *entry = list_entry(it, struct quarantined, node);
        if (identity_same(&entry->identity, identity))
            return entry;
    }
    return NULL;
}

const struct quarantined *quarantine_find(const struct quarantine *q,
                                          const struct identity *identity)
{
    return find(q, identity);
}

bool quarantine_remove(struct quarantine *q, const struct identity *identity)
{
    struct quarantined *entry = find(q, identity);
    if (entry == NULL)
        return false;
    entry_free(q, entry);
    return true;
}

/* The oldest of a plugin that has too many, and the oldest of all. */
static void keep_bounds(struct quarantine *q, const char *plugin)
{
    size_t of_plugin = 0;
    list_each_safe (it, &q->list) {
        struct quarantined *entry = list_entry(it, struct quarantined, node);
        if (strcmp(entry->identity.plugin, plugin) == 0 && ++of_plugin > QUARANTINE_OF_PLUGIN)
            entry_free(q, entry);
    }
    while (q->count > QUARANTINE_MAX)
        entry_free(q, list_entry(q->list.prev, struct quarantined, node));
}

/* As it will be read again: no byte that JSON would have to replace. */
static void set_reason(char out[QUARANTINE_REASON_MAX], const char *text)
{
    size_t n = 0;
    for (; text[n] != '\0' && n + 1 < QUARANTINE_REASON_MAX; n++)
        out[n] = text[n] >= ' ' && text[n] < 0x7f ? text[n] : '?';
    out[n] = '\0';
}

bool quarantine_add(struct quarantine *q, const struct identity *identity, const char *reason,
                    const char *evidence, int64_t when_ms)
{
    struct quarantined *entry = calloc(1, sizeof *entry);
    char *copy = evidence != NULL ? strdup(evidence) : NULL;
    if (entry == NULL || (evidence != NULL && copy == NULL)) {
        free(entry);
        free(copy);
        return false;
    }
    quarantine_remove(q, identity);
    entry->identity = *identity;
    entry->when_ms = when_ms;
    entry->evidence = copy;
    set_reason(entry->reason, reason);
    list_init(&entry->node);
    list_add_head(&q->list, &entry->node);
    q->count++;
    keep_bounds(q, identity->plugin);
    return true;
}

/* ---- Crashes --------------------------------------------------------------------------------- */

static struct crash *crash_find(struct quarantine *q, const struct identity *identity)
{
    list_each (it, &q->crashes) {
        struct crash *crash = list_entry(it, struct crash, node);
        if (identity_same(&crash->identity, identity))
            return crash;
    }
    return NULL;
}

static bool lie_close(int64_t a, int64_t b, unsigned window_ms)
{
    uint64_t apart = a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
    return apart <= window_ms;
}

bool crash_note(struct quarantine *q, const struct identity *identity, int64_t when_ms,
                unsigned window_ms)
{
    struct crash *crash = crash_find(q, identity);
    if (crash != NULL && lie_close(crash->when_ms, when_ms, window_ms)) {
        crash_free(q, crash);
        return true;
    }
    if (crash == NULL) {
        crash = calloc(1, sizeof *crash);
        if (crash == NULL)
            return false; /* then it takes another crash */
        crash->identity = *identity;
        list_init(&crash->node);
        q->ncrashes++;
    } else {
        list_del(&crash->node);
    }
    crash->when_ms = when_ms;
    list_add_head(&q->crashes, &crash->node);
    if (q->ncrashes > QUARANTINE_CRASHES)
        crash_free(q, list_entry(q->crashes.prev, struct crash, node));
    return false;
}
