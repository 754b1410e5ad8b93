/* See host.h. Here: the plugin itself. */
#include "plugin/host.h"

#include "base/log.h"
#include "plugin/every.h"
#include "plugin/handover.h"
#include "plugin/metric.h"

#include <limits.h>
#include <stdio.h>

#define REFUSALS_TOLD 8u /* of graft_shared, of one version: what asks for thousands is told of */

static int cooling_all; /* atomic: the drain has closed the listeners */

void chain_set_cooling(void)
{
    __atomic_store_n(&cooling_all, 1, __ATOMIC_RELAXED);
}

static struct version *version_of(graft_self *self)
{
    struct version *v = version_of_self(self);
    HOT_CHECK(v, VERSION_MAGIC);
    return v;
}

static void misuse(struct version *v, const char *what)
{
    struct log_line l;
    log_begin(&l, LOG_ERROR, "misuse", "plugin %s broke the contract: %s", v->plugin, what);
    log_z(&l, "plugin", v->plugin);
    log_z(&l, "version", v->desc.version);
    log_z(&l, "id", v->id);
    log_z(&l, "route", NULL);
    log_z(&l, "what", what);
    log_end(&l);
}

static graft_str host_config(graft_self *self)
{
    return to_graft(str_of(version_of(self)->config_text));
}

static bool config_value(graft_self *self, const char *key, struct json_value *out)
{
    struct version *v = version_of(self);
    if (!v->config || !key)
        return false;
    *out = json_get(json_root(v->config), key);
    return json_present(*out);
}

static const char *host_config_str(graft_self *self, const char *key, const char *fallback)
{
    struct json_value value;
    struct str s;
    return config_value(self, key, &value) && json_string(value, &s) == 0 ? s.ptr : fallback;
}

static int64_t host_config_int(graft_self *self, const char *key, int64_t fallback)
{
    struct json_value value;
    int64_t n;
    return config_value(self, key, &value) && json_int(value, &n) == 0 ? n : fallback;
}

static bool host_config_bool(graft_self *self, const char *key, bool fallback)
{
    struct json_value value;
    bool b;
    return config_value(self, key, &value) && json_bool(value, &b) == 0 ? b : fallback;
}

static int host_vfail(graft_self *self, const char *fmt, va_list args)
{
    char text[800];
    struct version *v = version_of(self);
#ifdef GRAFT_CHECKS
    if (thread_kind == THREAD_OTHER)
        misuse(v, "graft_fail was called off the loader, the workers and the pool");
#else
    (void)v;
#endif
    vsnprintf(text, sizeof text, fmt ? fmt : "", args);
    version_fail_set(text);
    return -1;
}

static graft_next host_vfail_req(graft_req *req, const char *fmt, va_list args)
{
    char text[500];
    struct exchange *x = host_exchange(req, "graft_fail_req");
    if (!x)
        return GRAFT_ERROR;
    vsnprintf(text, sizeof text, fmt ? fmt : "", args);
    x->fail_text = arena_copy(&x->request.arena, str_of(text)).ptr;
    return GRAFT_ERROR;
}

static void host_vlog(graft_self *self, int level, const char *fmt, va_list args)
{
    struct version *v = version_of(self);
    enum log_level at = level <= GRAFT_DEBUG ? LOG_DEBUG
                        : level >= GRAFT_ERR ? LOG_ERROR
                                             : (enum log_level)level;
    if (!log_on(at))
        return;
    char text[2048];
    vsnprintf(text, sizeof text, fmt ? fmt : "", args);
    struct log_line l;
    log_begin(&l, at, "plugin", "%s", text);
    log_z(&l, "plugin", v->plugin);
    log_z(&l, "version", v->desc.version);
    log_z(&l, "id", v->id);
    log_end(&l);
}

static graft_self *host_self_of(graft_req *req)
{
    return &container_of(req->host, struct version, host)->self;
}

static unsigned host_worker(graft_self *self)
{
    if (loop_current)
        return loop_current->number;
    misuse(version_of(self), "graft_worker was called off the workers");
    return UINT_MAX;
}

static unsigned host_workers(graft_self *self)
{
    return version_of(self)->ncells;
}

static struct event_base *host_loop(graft_self *self)
{
    if (loop_current)
        return loop_current->base;
    misuse(version_of(self), "graft_loop was called off the workers");
    return NULL;
}

static bool host_cooling(graft_self *self)
{
    return __atomic_load_n(&version_of(self)->cooling, __ATOMIC_RELAXED) ||
           __atomic_load_n(&cooling_all, __ATOMIC_RELAXED);
}

static int host_every(graft_self *self, unsigned ms, void (*fn)(void *), void *state)
{
    struct version *v = version_of(self);
    if (thread_kind == THREAD_LOADER && fn && ms > 0)
        return every_add(v, ms, fn, state);
    misuse(v, !fn ? "graft_every without a function"
              : thread_kind != THREAD_LOADER
                  ? "graft_every was called off the loader (init, ready, "
                    "start)"
                  : "graft_every needs at least 1 ms");
    return -1;
}

static graft_metric *host_counter(graft_self *self, const char *name, const char *help)
{
    struct version *v = version_of(self);
    struct err err = { "" };
#ifdef GRAFT_CHECKS
    if (thread_kind != THREAD_LOADER) {
        misuse(v, "graft_counter was called off the loader");
        return NULL;
    }
#endif
    graft_metric *m = metric_counter(&v->host, v->plugin, name, help, &err);
    if (!m)
        misuse(v, err.text);
    return m;
}

static void host_add(graft_metric *metric, uint64_t n)
{
#ifdef GRAFT_CHECKS
    if (metric && thread_kind != THREAD_WORKER && thread_kind != THREAD_POOL)
        misuse(container_of(metric->host, struct version, host),
               "graft_add was called off the workers and the pool");
#endif
    metric_add(metric, n);
}

static void *host_shared(graft_self *self, const char *name, size_t size, uint32_t schema,
                         bool *fresh)
{
    struct version *v = version_of(self);
    struct err err;
    if (fresh)
        *fresh = false;
    if (thread_kind != THREAD_LOADER || !v->in_init) {
        misuse(v, "graft_shared was called outside of init");
        return NULL;
    }
    void *mem = shared_get(&v->shared, v->plugin, name, size, schema, fresh, &err);
    if (!mem && v->shared.refused++ < REFUSALS_TOLD)
        misuse(v, err.text);
    return mem;
}

static const void *host_shared_old(graft_self *self, const char *name, size_t *size,
                                   uint32_t *schema)
{
    struct version *v = version_of(self);
    if (thread_kind == THREAD_LOADER)
        return shared_previous(&v->shared, v->plugin, name, size, schema);
    misuse(v, "graft_shared_old was called off the loader");
    return NULL;
}

static int host_buf_add(graft_buf *out, const void *data, size_t len)
{
    struct handover_buf *b = container_of(out, struct handover_buf, pub);
    if (thread_kind != THREAD_LOADER || len > HANDOVER_BYTES_MAX - b->data.len) {
        b->failed = true;
        return -1;
    }
    if (len == 0)
        return 0;
    if (!data || buf_add(&b->data, data, len) != 0) {
        b->failed = true;
        return -1;
    }
    return 0;
}

void host_fill_self(graft_host *host)
{
    host->config = host_config;
    host->config_str = host_config_str;
    host->config_int = host_config_int;
    host->config_bool = host_config_bool;
    host->vfail = host_vfail;
    host->vfail_req = host_vfail_req;
    host->vlog = host_vlog;
    host->self_of = host_self_of;
    host->worker = host_worker;
    host->workers = host_workers;
    host->loop = host_loop;
    host->cooling = host_cooling;
    host->every = host_every;
    host->counter = host_counter;
    host->add = host_add;
    host->shared = host_shared;
    host->shared_old = host_shared_old;
    host->buf_add = host_buf_add;
}
