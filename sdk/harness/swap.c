/*
 * Which versions serve: a plugin is started, replaced (with hand-over), taken out. The order of the
 * steps and the undoing are those of server/plugin/swap*.c; each step is done when it returns.
 */
#include "plugins.h"

#include "plugin/adopt.h"
#include "plugin/doing.h"
#include "plugin/every.h"
#include "plugin/exchange.h"
#include "plugin/handle.h"
#include "plugin/handover.h"
#include "plugin/metric.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLUGINS_MAX      64
#define HANDOVER_STEP_MS 10
#define END_MS           600000u /* timeouts_ms.retire is 0: no limit, and a test has to end */

static struct generation *current;
static struct version *serving[PLUGINS_MAX];
static unsigned nserving, generations;
static struct err why;

const char *graft_test_why(void)
{
    return why.text;
}

static struct version *plugin_of(const char *name)
{
    for (unsigned i = 0; i < nserving; i++)
        if (strcmp(serving[i]->plugin, name) == 0)
            return serving[i];
    return NULL;
}

/* ---- The configuration of a generation
 * ----------------------------------------------------------- */

static bool among(struct version *const *all, unsigned n, const char *name)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(all[i]->plugin, name) == 0)
            return true;
    return false;
}

/* Those that have not been started yet are left out. */
static void drop_absent(char **names, size_t *count, struct version *const *all, unsigned n)
{
    size_t kept = 0;
    for (size_t i = 0; i < *count; i++) {
        if (among(all, n, names[i]))
            names[kept++] = names[i];
        else
            free(names[i]);
    }
    *count = kept;
}

static struct config *configuration(struct version *const *all, unsigned n, struct err *err)
{
    const char *text = bottle.settings ? bottle.settings : "{}";
    struct config *cfg = config_from_text("settings", text, strlen(text), err);
    if (cfg == NULL)
        return NULL;
    bool said = cfg->middleware_count > 0;
    for (size_t i = 0; i < cfg->route_count; i++) {
        said = said || cfg->routes[i].middleware_count > 0;
        drop_absent(cfg->routes[i].middleware, &cfg->routes[i].middleware_count, all, n);
    }
    drop_absent(cfg->middleware, &cfg->middleware_count, all, n);
    if (said)
        return cfg;
    free(cfg->middleware);
    cfg->middleware = xcalloc(n + 1, sizeof *cfg->middleware);
    for (unsigned i = 0; i < n; i++)
        if (all[i]->desc.callbacks & DESCRIPTOR_MIDDLEWARE)
            cfg->middleware[cfg->middleware_count++] = xstrdup(all[i]->plugin);
    return cfg;
}

/* ---- A new generation
 * ---------------------------------------------------------------------------- */

static void on_done(struct adoption *a, void *arg)
{
    (void)a;
    *(bool *)arg = true;
}

static struct generation *build(struct version *const *all, unsigned n)
{
    struct generation_fault fault = { 0 };
    struct config *cfg = configuration(all, n, &why);
    if (cfg == NULL)
        return NULL;
    struct generation *g = generation_new(++generations, all, n, NULL, 0, cfg, &fault);
    if (g == NULL) {
        why = fault.err;
        config_free(cfg);
    }
    return g;
}

/* worker_init on each worker. NULL: one failed, `why` says it; the generation is gone. */
static struct adoption *prepare(struct generation *g, struct version *fresh)
{
    static bool done;
    struct config *cfg = g->config;
    struct played was = play(ON_CONTROL_THREAD, 0);
    struct adoption *a = adoption_new(g, &fresh, fresh ? 1 : 0, on_done, &done);
    if (a == NULL)
        give_up("no memory for a generation");
    if (fresh != NULL)
        fresh->met = true;
    adoption_prepare(a);
    play_again(was);
    settle();
    if (adoption_failed(a, &why) == NULL)
        return a;
    was = play(ON_CONTROL_THREAD, 0);
    adoption_cancel(a);
    play_again(was);
    config_free(cfg);
    return NULL;
}

static void adopt(struct adoption *a)
{
    struct generation *old = current;
    struct played was = play(ON_CONTROL_THREAD, 0);
    adoption_publish(a);
    play_again(was);
    settle();
    current = adoption_free(a);
    if (old != NULL) {
        struct config *cfg = old->config;
        generation_free(old);
        config_free(cfg);
    }
}

/* ---- graft_every
 * ---------------------------------------------------------------------------------- */

static void stopped(struct version *v)
{
    (void)v;
}

static void every(struct version *v, bool on)
{
    struct played was = play(ON_CONTROL_THREAD, 0);
    if (on)
        every_start(v);
    else
        every_stop(v, stopped);
    play_again(was);
    if (!on)
        while (v->every_running > 0 && graft_test_run_pool(1) > 0)
            ;
}

/* ---- Hand-over
 * ------------------------------------------------------------------------------------ */

static void on_quiet(struct handover *h, void *arg)
{
    (void)h;
    *(bool *)arg = true;
}

/* Waits for the old version's requests, as the clock goes on, up to timeouts_ms.handover. */
static int quiesce(struct handover *h, const bool *quiet)
{
    unsigned limit = current->config->timeouts_ms.handover;
    struct err late;
    settle();
    for (unsigned waited = 0; !*quiet && waited < limit; waited += HANDOVER_STEP_MS)
        graft_test_advance(HANDOVER_STEP_MS);
    if (handover_refused(h) != NULL)
        return err_set(&why, "%s, which the old version must finish: try again when it has ended",
                       handover_refused(h));
    if (*quiet)
        return 0;
    if (!handover_blame(h, &late))
        err_set(&late, "not all workers have answered");
    return err_set(&why,
                   "not done within %u ms (timeouts_ms.handover): %s; the old version serves "
                   "on",
                   limit, late.text);
}

/* What the workers hold goes on when the new generation is adopted, or when this is undone. */
static struct handover *hand_over(struct version *v, struct version *old)
{
    static bool quiet;
    quiet = false;
    every(old, false);
    struct played was = play(ON_CONTROL_THREAD, 0);
    struct handover *h = handover_hold(&old, 1, on_quiet, &quiet);
    play_again(was);
    if (h == NULL)
        give_up("no memory for a hand-over");
    if (quiesce(h, &quiet) == 0 && version_export(old, &why) == 0 &&
        version_import(v, old, &why) == 0)
        return h;
    buf_fini(&old->handed.data);
    was = play(ON_CONTROL_THREAD, 0);
    handover_cancel(h);
    play_again(was);
    return NULL;
}

/* ---- Starting and replacing
 * ------------------------------------------------------------------------ */

static int undo(struct version *v, struct version *old, struct handover *h)
{
    struct played was = play(ON_CONTROL_THREAD, 0);
    if (h != NULL)
        handover_cancel(h);
    play_again(was);
    shared_abandon(&v->shared);
    version_cool(v);
    version_leave(v);
    if (old != NULL)
        every(old, true);
    settle();
    return -1;
}

static void retire(struct version *old)
{
    every(old, false);
    version_cool(old);
    version_leave(old);
}

/* `v` in the place of `old`, or behind the others. */
static unsigned with(struct version **all, struct version *v, const struct version *old)
{
    unsigned n = nserving, i = 0;
    memcpy(all, serving, sizeof serving);
    while (i < n && all[i] != old)
        i++;
    if (i == PLUGINS_MAX)
        give_up("more than %d plugins", PLUGINS_MAX);
    all[i] = v;
    return i < n ? n : n + 1;
}

static int serve(struct version *v)
{
    struct version *all[PLUGINS_MAX], *old = plugin_of(v->plugin);
    struct handover *h = NULL;
    unsigned n = with(all, v, old);
    bool hands = old != NULL && old->desc.export_state != NULL && v->desc.import_state != NULL;
    if (hands && (h = hand_over(v, old)) == NULL)
        return undo(v, old, NULL);
    struct generation *g;
    if (version_ready(v, &why) != 0 || (g = build(all, n)) == NULL)
        return undo(v, old, h);
    struct adoption *a = prepare(g, v);
    if (a == NULL)
        return undo(v, old, h);
    if (version_start(v, &why) != 0) {
        struct config *cfg = g->config;
        struct played was = play(ON_CONTROL_THREAD, 0);
        adoption_cancel(a);
        play_again(was);
        config_free(cfg);
        return undo(v, old, h);
    }
    shared_publish(&v->shared);
    adopt(a);
    handover_free(h);
    shared_promote(&v->shared);
    v->state = VERSION_ACTIVE;
    memcpy(serving, all, sizeof serving);
    nserving = n;
    if (old != NULL)
        retire(old);
    every(v, true);
    settle();
    return 0;
}

static int start(const graft_plugin *plugin, const char *path, const char *config)
{
    why.text[0] = '\0';
    struct version *v = version_load(plugin, path, config, &why);
    return v != NULL ? serve(v) : -1;
}

/* Why it was refused: most tests only look at the number. */
static int told(int rc)
{
    if (rc != 0)
        tap_comment("refused:", why.text, strlen(why.text));
    return rc;
}

int graft_test_start(const graft_plugin *plugin, const char *config)
{
    bottle_enter("graft_test_start");
    return told(start(plugin, NULL, config));
}

int graft_test_load(const char *path, const char *config)
{
    bottle_enter("graft_test_load");
    return told(start(NULL, path, config));
}

/* ---- Taking out
 * ------------------------------------------------------------------------------------ */

int graft_test_stop(const char *name)
{
    struct version *all[PLUGINS_MAX], *v;
    unsigned n = 0;
    bottle_enter("graft_test_stop");
    v = plugin_of(name);
    why.text[0] = '\0';
    if (v == NULL)
        return err_set(&why, "no plugin \"%s\" serves", name);
    for (unsigned i = 0; i < nserving; i++)
        if (serving[i] != v)
            all[n++] = serving[i];
    struct generation *g = build(all, n);
    struct adoption *a = g ? prepare(g, NULL) : NULL;
    if (a == NULL)
        return -1;
    adopt(a);
    memcpy(serving, all, n * sizeof *all);
    nserving = n;
    retire(v);
    settle();
    return 0;
}

void graft_test_retire(void)
{
    bottle_enter("graft_test_retire");
    struct played was = play(ON_CONTROL_THREAD, 0);
    list_each (it, &leaving)
        adopt_cut(list_entry(it, struct version, node), NULL);
    play_again(was);
    settle();
}

/* A request that does not end, and who of its chain is to answer. */
static void blame_exchange(const struct exchange *x)
{
    for (unsigned i = 0; i < x->nhandles; i++) {
        const struct handle *h = x->handles[i];
        const char *what = handle_owed(h, AS_HANDLER) == OWED_OPEN      ? "graft_done"
                           : handle_owed(h, AS_MIDDLEWARE) == OWED_OPEN ? "graft_continue"
                                                                        : NULL;
        if (what != NULL)
            blame("plugin %s %s broke the contract: it answered %.*s %.*s (route %s) with "
                  "GRAFT_LATER and still owes %s at the end of the test",
                  h->version->plugin, h->version->desc.version, (int)x->request.head.method.len,
                  x->request.head.method.ptr, (int)x->request.head.target.len,
                  x->request.head.target.ptr, h->route ? h->route : "none", what);
    }
}

void plugins_end(void)
{
    unsigned limit = bottle.fallback->timeouts_ms.retire;
    limit = limit != 0 ? limit : END_MS;
    while (nserving > 0)
        if (graft_test_stop(serving[nserving - 1]->plugin) != 0)
            give_up("%s", why.text);
    for (unsigned waited = 0; !list_empty(&leaving) && waited < limit; waited += 50)
        graft_test_advance(50);
    if (!list_empty(&leaving))
        graft_test_retire();
    for (unsigned i = 0; i < bottle.nworkers; i++)
        list_each (it, &bottle.workers[i]->chain.live)
            blame_exchange(list_entry(it, struct exchange, node));
}

/* ---- Questions
 * -------------------------------------------------------------------------------------- */

int graft_test_health(const char *name)
{
    bottle_enter("graft_test_health");
    struct version *v = plugin_of(name);
    why.text[0] = '\0';
    if (v == NULL)
        return err_set(&why, "no plugin \"%s\" serves", name);
    if (v->desc.health == NULL)
        return 0;
    version_fail_clear();
    struct played was = play(ON_POOL_THREAD, 0);
    doing_begin(v, NULL, "health");
    int rc = v->desc.health(&v->self, v->state_ptr);
    doing_end();
    play_again(was);
    settle();
    return rc == 0 ? 0 : err_set(&why, "%s", version_fail_text());
}

uint64_t graft_test_counter(const char *full_name)
{
    return metric_value(full_name);
}
