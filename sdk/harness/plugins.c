/*
 * One version's life, step by step on this thread as the loader: what server/plugin/load.c and
 * retire.c do, without files that are staged and without deadlines.
 */
#include "plugins.h"

#include "plugin/adopt.h"
#include "plugin/doing.h"
#include "plugin/every.h"
#include "plugin/metric.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_LINGER_MS 1000

struct list leaving = { &leaving, &leaving };
static struct list ended = { &ended, &ended }; /* of them, those whose last request is over */

static struct played begin(struct version *v, const char *step)
{
    struct played was = play(ON_LOADER_THREAD, 0);
    version_fail_clear();
    doing_begin(v, NULL, step);
    return was;
}

static void end(struct played was)
{
    doing_end();
    play_again(was);
}

/* ---- Loading -----------------------------------------------------------------------------------
 */

/* Its "config" as the server would give it: checked, compact. */
static int configure(struct version *v, const char *given, struct err *err)
{
    struct buf text = { 0 };
    const char *settings = bottle.settings ? bottle.settings : "{}";
    struct config *cfg;
    if (given != NULL) {
        if (buf_printf(&text, "{\"plugins\":{\"%s\":{\"config\":%s}}}", v->plugin, given) != 0)
            give_up("no memory");
        cfg = config_from_text("config", text.data, text.len, err);
        buf_fini(&text);
    } else {
        cfg = config_from_text("settings", settings, strlen(settings), err);
    }
    if (cfg == NULL)
        return -1;
    v->config_text = xstrdup(config_plugin(cfg, v->plugin)->config);
    config_free(cfg);
    v->config = json_parse("config", v->config_text, strlen(v->config_text), err);
    return v->config != NULL ? 0 : -1;
}

static int map(struct version *v, const char *path, struct err *err)
{
    void *known = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (known != NULL) {
        dlclose(known);
        return err_set(err, "%s is loaded already: a second version is a second file", path);
    }
    struct played was = begin(v, "dlopen");
    v->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    end(was);
    v->source = xstrdup(path);
    return v->dl != NULL ? 0 : err_set(err, "dlopen: %s", dlerror());
}

static int describe(struct version *v, const graft_plugin *plugin, const char *path,
                    struct err *err)
{
    const void *exported = plugin;
    size_t size = plugin ? plugin->size : 0;
    if (path != NULL &&
        (map(v, path, err) != 0 || descriptor_find(v->dl, &exported, &size, err) != 0))
        return -1;
    if (descriptor_copy(exported, size, &v->desc, err) != 0)
        return -1;
    v->plugin = xstrdup(v->desc.name);
    return 0;
}

static int call_init(struct version *v, struct err *err)
{
    int rc = 0;
    struct tasks before = { 0 };
    if (v->desc.init != NULL) {
        tasks_list(&before);
        struct played was = begin(v, "init");
        v->in_init = true;
        rc = v->desc.init(&v->self, &v->state_ptr);
        v->in_init = false;
        end(was);
        if (before.n > 0 && tasks_list(&v->tasks) == 0)
            tasks_subtract(&v->tasks, &before);
        tasks_fini(&before);
    }
    v->init_done = rc == 0;
    return rc == 0 ? 0 : err_set(err, "init failed: %s", version_fail_text());
}

struct version *version_load(const graft_plugin *plugin, const char *path, const char *config,
                             struct err *err)
{
    static unsigned last;
    struct version *v = version_new(bottle.loops, bottle.nworkers);
    if (v == NULL)
        give_up("no memory for a version");
    snprintf(v->id, sizeof v->id, "harness.%u", ++last);
    v->state = VERSION_LOADED;
    if (describe(v, plugin, path, err) == 0 && configure(v, config, err) == 0) {
        chain_host_init(v);
        if (call_init(v, err) == 0)
            return v;
        err_prefix(err, "%s", v->plugin);
    }
    shared_abandon(&v->shared);
    version_leave(v);
    settle();
    return NULL;
}

/* ---- Callbacks ---------------------------------------------------------------------------------
 */

int version_ready(struct version *v, struct err *err)
{
    if (v->desc.ready == NULL)
        return 0;
    struct played was = begin(v, "ready");
    int rc = v->desc.ready(&v->self, v->state_ptr);
    end(was);
    return rc == 0 ? 0
                   : err_set(err, "%s: ready says that it is not fit to serve: %s", v->plugin,
                             version_fail_text());
}

int version_start(struct version *v, struct err *err)
{
    int rc = 0;
    if (v->desc.start != NULL) {
        struct played was = begin(v, "start");
        rc = v->desc.start(&v->self, v->state_ptr);
        end(was);
    }
    v->started = rc == 0;
    return rc == 0 ? 0 : err_set(err, "%s: start failed: %s", v->plugin, version_fail_text());
}

int version_export(struct version *old, struct err *err)
{
    old->handed = (struct handover_buf){ .pub = { &old->host } };
    struct played was = begin(old, "export_state");
    int rc = old->desc.export_state(&old->self, old->state_ptr, &old->handed.pub);
    end(was);
    if (rc != 0)
        return err_set(err, "export_state of %s failed: %s", old->plugin, version_fail_text());
    return old->handed.failed ? err_set(err, "no memory for what export_state writes") : 0;
}

int version_import(struct version *v, struct version *old, struct err *err)
{
    struct str data = buf_str(&old->handed.data);
    struct played was = begin(v, "import_state");
    int rc = v->desc.import_state(&v->self, v->state_ptr, old->desc.state_schema,
                                  (graft_str){ data.ptr, data.len });
    end(was);
    buf_fini(&old->handed.data);
    return rc == 0 ? 0
                   : err_set(err, "%s: import_state failed: %s", v->plugin, version_fail_text());
}

/* ---- The end -----------------------------------------------------------------------------------
 */

static void released(struct version *v)
{
    list_del(&v->node);
    list_add_tail(&ended, &v->node);
}

void version_cool(struct version *v)
{
    __atomic_store_n(&v->cooling, 1, __ATOMIC_RELAXED);
    v->state = VERSION_COOLING;
    if (v->desc.cool != NULL && v->started) {
        struct played was = begin(v, "cool");
        v->desc.cool(&v->self, v->state_ptr);
        end(was);
    }
    v->started = false;
}

static void past_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    adopt_cut(arg, NULL);
}

/* From now on it has timeouts_ms.retire, if that is set. */
static void set_deadline(struct version *v)
{
    unsigned ms = bottle.fallback->timeouts_ms.retire;
    struct timeval tv = { ms / 1000, (suseconds_t)(ms % 1000) * 1000 };
    if (ms == 0)
        return;
    v->deadline = evtimer_new(control_base(), past_deadline, v);
    if (v->deadline == NULL || event_add(v->deadline, &tv) != 0)
        give_up("no memory for a version's deadline");
}

void version_leave(struct version *v)
{
    list_del(&v->node);
    list_add_tail(&leaving, &v->node);
    if (!v->met) {
        released(v);
        return;
    }
    set_deadline(v);
    struct played was = play(ON_CONTROL_THREAD, 0);
    adopt_release(v, released);
    play_again(was);
}

static void threads_gone(struct version *v)
{
    char name[16];
    if (v->tasks.n > 0)
        tasks_keep_living(&v->tasks, THREADS_LINGER_MS);
    if (v->tasks.n == 0)
        return;
    tasks_name(&v->tasks.list[0], name);
    blame("plugin %s: %zu thread(s) that appeared during init still live after fini (the first is "
          "named \"%s\"): fini must stop and join every thread",
          v->plugin, v->tasks.n, name);
}

static void unmap(struct version *v)
{
    if (v->dl == NULL)
        return;
    struct played was = begin(v, "dlclose");
    dlclose(v->dl);
    end(was);
    v->dl = dlopen(v->source, RTLD_NOW | RTLD_NOLOAD);
    if (v->dl != NULL) {
        blame("plugin %s: still mapped after dlclose: a C++ thread_local with a destructor, a "
              "library that pins itself or another handle holds it",
              v->plugin);
        dlclose(v->dl);
    }
    v->dl = NULL;
}

/* Its last request is over, and every worker has let go of it. */
void plugins_turn(void)
{
    struct list *it;
    while ((it = list_pop(&ended)) != NULL) {
        struct version *v = list_entry(it, struct version, node);
        if (v->init_done && v->desc.fini != NULL) {
            struct played was = begin(v, "fini");
            v->desc.fini(&v->self, v->state_ptr);
            end(was);
        }
        if (v->plugin != NULL)
            threads_gone(v);
        unmap(v);
        if (v->deadline != NULL)
            event_free(v->deadline);
        every_free(v);
        version_free(&v);
    }
}
