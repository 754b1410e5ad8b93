/*
 * What a version is made of: its memory, its names, its figures. How it is loaded and unloaded is
 * load.c's, when it is cooled and freed retire.c's.
 */
#include "plugin/version.h"

#include "plugin/doing.h"
#include "plugin/metric.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

_Thread_local struct doing doing_now;

const char *version_state_name(enum version_state s)
{
    static const char *const names[] = { "staged",  "loaded",  "warm",   "active",
                                         "cooling", "retired", "failed", "stuck" };
    return (unsigned)s < ARRAY_LEN(names) ? names[s] : "unknown";
}

static struct version_cell *cells_new(unsigned n)
{
    size_t size = n * sizeof(struct version_cell);
    struct version_cell *cells = aligned_alloc(CACHE_LINE, size);
    if (cells == NULL)
        return NULL;
    memset(cells, 0, size);
    for (unsigned i = 0; i < n; i++)
        list_init(&cells[i].suspended);
    return cells;
}

struct version *version_new(struct loop *const *loops, unsigned ncells)
{
    static _Atomic uint64_t last;
    struct version *v =
        aligned_alloc(CACHE_LINE, (sizeof *v + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (v == NULL)
        return NULL;
    memset(v, 0, sizeof *v);
    v->cells = cells_new(ncells);
    if (v->cells == NULL) {
        free(v);
        return NULL;
    }
    v->magic = VERSION_MAGIC;
    v->number = ++last;
    v->ncells = ncells;
    v->unmapped = true;
    for (unsigned i = 0; i < ncells; i++) {
        v->cells[i].version = v;
        v->cells[i].loop = loops[i];
    }
    list_init(&v->node);
    list_init(&v->every);
    v->self.host = &v->host;
    return v;
}

void version_free(struct version **vp)
{
    struct version *v = *vp;
    *vp = NULL;
    if (v == NULL)
        return;
    CHECK(v, VERSION_MAGIC);
    REQUIRE(v->dl == NULL && list_empty(&v->node) && list_empty(&v->every));
    metric_release(&v->host);
    buf_fini(&v->handed.data);
    shared_release(&v->shared);
    descriptor_fini(&v->desc);
    json_free(v->config);
    free(v->config_text);
    free(v->plugin);
    free(v->source);
    free(v->reason);
    free(v->store_why);
    tasks_fini(&v->tasks);
    free(v->cells);
    v->magic = 0;
    free(v);
}

void version_reason_set(struct version *v, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL && v->reason != NULL)
        return; /* the older reason is better than none */
    free(v->reason);
    v->reason = copy;
}

/* ---- graft_fail: per thread ------------------------------------------------------------------ */

static _Thread_local char fail_text[512];

void version_fail_set(const char *text)
{
    size_t len = strlen(text);
    if (len >= sizeof fail_text)
        len = sizeof fail_text - 1;
    memcpy(fail_text, text, len);
    fail_text[len] = '\0';
}

void version_fail_clear(void)
{
    fail_text[0] = '\0';
}

const char *version_fail_text(void)
{
    return fail_text[0] != '\0' ? fail_text
                                : "it gave no reason (call graft_fail() before returning -1)";
}

/* ---- Latency --------------------------------------------------------------------------------- */

/* Below 4 us a bucket for each; then bucket 4n+k holds [2^n + k 2^(n-2), 2^n + (k+1) 2^(n-2)),
   moved down by the four that 1, 2 and 3 us would have had. */
uint64_t latency_bound_us(unsigned bucket)
{
    if (bucket < 4)
        return bucket;
    if (bucket >= LATENCY_BUCKETS - 1)
        return UINT64_MAX;
    unsigned top = bucket / 4u + 1u;
    return (4ull + bucket % 4u + 1ull) * (1ull << (top - 2u)) - 1ull;
}

uint64_t latency_quantile_us(const uint64_t buckets[LATENCY_BUCKETS], double q)
{
    uint64_t count = 0, seen = 0;
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        count += buckets[i];
    if (count == 0)
        return 0;
    uint64_t rank = (uint64_t)(q * (double)count);
    for (unsigned i = 0; i < LATENCY_BUCKETS - 1; i++) {
        seen += buckets[i];
        if (seen > rank)
            return latency_bound_us(i);
    }
    return latency_bound_us(LATENCY_BUCKETS - 2) + 1;
}

/* ---- Sums ------------------------------------------------------------------------------------ */

/* False while the worker writes; then the next look will do. */
static bool oldest_read(const struct version_oldest *from, struct version_oldest *out)
{
    for (int tries = 0; tries < 100; tries++) {
        uint32_t before = __atomic_load_n(&from->seq, __ATOMIC_ACQUIRE);
        /* Acquire: the second look at seq may not come before any of these. */
        out->start_us = __atomic_load_n(&from->start_us, __ATOMIC_ACQUIRE);
        out->route = __atomic_load_n(&from->route, __ATOMIC_ACQUIRE);
        out->waits_for = __atomic_load_n(&from->waits_for, __ATOMIC_ACQUIRE);
        uint32_t after = __atomic_load_n(&from->seq, __ATOMIC_RELAXED);
        if (before == after && (before & 1u) == 0)
            return out->start_us != 0;
    }
    return false;
}

static void sum_class(const struct version_cell *cell, unsigned class, struct version_sums *out)
{
    const struct version_class *c = &cell->by_class[class];
    uint64_t count = COUNTER_READ(c->count);
    if (count == 0)
        return;
    out->by_class[class] += count;
    out->served += count;
    if (class == 0 || class == 5)
        out->errors += count;
    out->latency_sum_us[class] += COUNTER_READ(c->sum_us);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        uint64_t n = COUNTER_READ(c->latency[i]);
        out->latency[class][i] += n;
        out->latency_all[i] += n;
        out->latency_count += n;
    }
}

static void sum_cell(const struct version_cell *cell, uint64_t now, struct version_sums *out)
{
    out->pins += COUNTER_READ(cell->pins);
    out->bytes_out += COUNTER_READ(cell->bytes_out);
    for (unsigned c = 0; c < STATUS_CLASSES; c++)
        sum_class(cell, c, out);
    struct version_oldest oldest;
    if (!oldest_read(&cell->oldest, &oldest))
        return;
    uint64_t age = now > oldest.start_us ? now - oldest.start_us : 1;
    if (age > out->oldest_age_us) {
        out->oldest_age_us = age;
        out->oldest_route = oldest.route;
        out->oldest_waits_for = oldest.waits_for;
    }
}

void version_sum(const struct version *v, struct version_sums *out)
{
    CHECK(v, VERSION_MAGIC);
    memset(out, 0, sizeof *out);
    uint64_t now = clock_us();
    for (unsigned i = 0; i < v->ncells; i++)
        sum_cell(&v->cells[i], now, out);
}

void version_sum_shadows(const struct version *v, struct shadow_sums *out)
{
    CHECK(v, VERSION_MAGIC);
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < v->ncells; i++)
        shadow_sum(&v->cells[i].shadow, out);
}

/* ---- Interned strings ------------------------------------------------------------------------ */

struct interned {
    struct interned *next;
    char text[];
};

static pthread_mutex_t intern_lock = PTHREAD_MUTEX_INITIALIZER;
static struct interned *intern_table[256]; /* protected by intern_lock */

static unsigned hash(const char *text)
{
    uint32_t h = 2166136261u;
    for (; *text != '\0'; text++)
        h = (h ^ (unsigned char)*text) * 16777619u;
    return h & (ARRAY_LEN(intern_table) - 1);
}

static const char *intern_locked(const char *text)
{
    struct interned **slot = &intern_table[hash(text)];
    for (const struct interned *i = *slot; i != NULL; i = i->next)
        if (strcmp(i->text, text) == 0)
            return i->text;
    size_t size = strlen(text) + 1;
    struct interned *made = malloc(sizeof *made + size);
    if (made == NULL)
        return NULL;
    memcpy(made->text, text, size);
    made->next = *slot;
    *slot = made;
    return made->text;
}

const char *intern(const char *text)
{
    pthread_mutex_lock(&intern_lock);
    const char *found = intern_locked(text);
    pthread_mutex_unlock(&intern_lock);
    return found;
}
