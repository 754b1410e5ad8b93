/*
 * The registry: counters on an append-only list, handles on another, both behind one lock that
 * only loaders and the control thread take. Adding takes none: each worker and pool thread has a
 * cell of its own on its own cache line. Invariant: a counter that is on the list is whole and
 * stays where it is for ever.
 */
#include "plugin/metric.h"

#include "base/list.h"

#include <ctype.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define COUNTER_NAME_MAX 128

struct cell {
    _Alignas(CACHE_LINE) uint64_t value;
};

struct counter {
    struct counter *next;
    char *plugin;       /* whose it is */
    char *name;         /* in full: graft_plugin_<plugin>_<name> */
    char *help;         /* escaped; that of the version that registered last */
    struct cell *cells; /* [slots] and one more, shared by threads without a slot */
};

#define METRIC_MAGIC 0x6d657472u

struct handle {
    graft_metric pub; /* first: plugins hold its address */
    unsigned magic;
    struct counter *counter;
    struct list node;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct counter *counters, **counters_tail = &counters; /* protected by lock */
static struct list handles = { &handles, &handles };          /* protected by lock */
static unsigned slots;                                        /* set before the threads start */

void metric_init(unsigned n)
{
    slots = n;
}

/* [a-zA-Z_][a-zA-Z0-9_-]*: a Prometheus name once '-' is '_'. */
static bool name_is_valid(const char *name)
{
    if (name == NULL || name[0] == '\0' || isdigit((unsigned char)name[0]) || name[0] == '-')
        return false;
    size_t len = strnlen(name, COUNTER_NAME_MAX + 1);
    if (len > COUNTER_NAME_MAX)
        return false;
    for (const char *p = name; *p != '\0'; p++)
        if (!(*p >= 'a' && *p <= 'z') && !(*p >= 'A' && *p <= 'Z') && !(*p >= '0' && *p <= '9') &&
            *p != '_' && *p != '-')
            return false;
    return true;
}

/* graft_plugin_<plugin>_<name> with '-' as '_'; NULL: no memory. */
static char *full_name(const char *plugin, const char *name)
{
    struct buf b = { 0 };
    if (buf_printf(&b, "graft_plugin_%s_%s", plugin, name) != 0) {
        buf_fini(&b);
        return NULL;
    }
    for (size_t i = 0; i < b.len; i++)
        if (b.data[i] == '-')
            b.data[i] = '_';
    return b.data;
}

/* The text format's HELP: '\' and line feeds escaped, other control characters blanks. */
static char *escaped_help(const char *help)
{
    struct buf b = { 0 };
    int rc = buf_puts(&b, "");
    for (const char *p = help != NULL ? help : ""; *p != '\0'; p++) {
        if (*p == '\\')
            rc |= buf_puts(&b, "\\\\");
        else if (*p == '\n')
            rc |= buf_puts(&b, "\\n");
        else
            rc |= buf_add(&b, (unsigned char)*p < ' ' || *p == 0x7f ? " " : p, 1);
    }
    if (rc != 0)
        buf_fini(&b);
    return b.data;
}

static struct counter *find(const char *name)
{
    for (struct counter *c = counters; c != NULL; c = c->next)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static void counter_free(struct counter *c)
{
    if (c == NULL)
        return;
    free(c->plugin);
    free(c->name);
    free(c->help);
    free(c->cells);
    free(c);
}

/* Takes `name` and `help` over, also when it fails. */
static struct counter *counter_new(const char *plugin, char *name, char *help)
{
    struct counter *c = calloc(1, sizeof *c);
    if (c == NULL) {
        free(name);
        free(help);
        return NULL;
    }
    size_t size = ((size_t)slots + 1) * sizeof *c->cells;
    c->name = name;
    c->help = help;
    c->plugin = strdup(plugin);
    c->cells = aligned_alloc(CACHE_LINE, size);
    if (c->plugin == NULL || c->cells == NULL) {
        counter_free(c);
        return NULL;
    }
    memset(c->cells, 0, size);
    return c;
}

/* The counter of that name, made if need be. With the lock. Takes `name` and `help` over. */
static struct counter *counter_get(const char *plugin, char *name, char *help, struct err *err)
{
    struct counter *c = find(name);
    if (c == NULL) {
        c = counter_new(plugin, name, help);
        if (c == NULL) {
            err_set(err, "out of memory for a counter");
            return NULL;
        }
        *counters_tail = c;
        counters_tail = &c->next;
        return c;
    }
    if (strcmp(c->plugin, plugin) != 0) {
        err_set(err, "%s is a counter of the plugin %s already: give the one of %s another name",
                c->name, c->plugin, plugin);
        free(help);
        free(name);
        return NULL;
    }
    free(name);
    free(c->help);
    c->help = help;
    return c;
}

/* With the lock. */
static graft_metric *handle_get(const graft_host *host, struct counter *c, struct err *err)
{
    list_each (it, &handles) {
        struct handle *h = list_entry(it, struct handle, node);
        if (h->pub.host == host && h->counter == c)
            return &h->pub;
    }
    struct handle *h = calloc(1, sizeof *h);
    if (h == NULL) {
        err_set(err, "out of memory for a counter");
        return NULL;
    }
    h->pub.host = host;
    h->magic = METRIC_MAGIC;
    h->counter = c;
    list_add_tail(&handles, &h->node);
    return &h->pub;
}

graft_metric *metric_counter(const graft_host *host, const char *plugin, const char *name,
                             const char *help, struct err *err)
{
    if (!name_is_valid(name)) {
        err_set(err,
                "bad name of a counter: expected a letter or '_', then letters, digits, '_' and "
                "'-', at most %d in all",
                COUNTER_NAME_MAX);
        return NULL;
    }
    char *full = full_name(plugin, name), *text = escaped_help(help);
    if (full == NULL || text == NULL) {
        free(full);
        free(text);
        err_set(err, "out of memory for a counter");
        return NULL;
    }
    pthread_mutex_lock(&lock);
    struct counter *c = counter_get(plugin, full, text, err);
    graft_metric *metric = c != NULL ? handle_get(host, c, err) : NULL;
    pthread_mutex_unlock(&lock);
    return metric;
}

void metric_add(graft_metric *metric, uint64_t n)
{
    if (metric == NULL)
        return;
    struct handle *h = container_of(metric, struct handle, pub);
    HOT_CHECK(h, METRIC_MAGIC);
    if (__builtin_expect(thread_slot < slots, 1))
        COUNTER_ADD(h->counter->cells[thread_slot].value, n);
    else
        __atomic_fetch_add(&h->counter->cells[slots].value, n, __ATOMIC_RELAXED);
}

void metric_release(const graft_host *host)
{
    pthread_mutex_lock(&lock);
    list_each_safe (it, &handles) {
        struct handle *h = list_entry(it, struct handle, node);
        if (h->pub.host == host) {
            list_del(&h->node);
            free(h);
        }
    }
    pthread_mutex_unlock(&lock);
}

static uint64_t sum(const struct counter *c)
{
    uint64_t total = 0;
    for (unsigned i = 0; i <= slots; i++)
        total += COUNTER_READ(c->cells[i].value);
    return total;
}

int metric_write(struct buf *out)
{
    int rc = 0;
    pthread_mutex_lock(&lock);
    for (const struct counter *c = counters; c != NULL && rc == 0; c = c->next)
        rc = buf_printf(out, "# HELP %s %s\n# TYPE %s counter\n%s %llu\n", c->name,
                        c->help[0] != '\0' ? c->help : "A counter of this plugin.", c->name,
                        c->name, (unsigned long long)sum(c));
    pthread_mutex_unlock(&lock);
    return rc;
}

uint64_t metric_value(const char *name)
{
    pthread_mutex_lock(&lock);
    const struct counter *c = find(name);
    uint64_t value = c != NULL ? sum(c) : 0;
    pthread_mutex_unlock(&lock);
    return value;
}
