/*
 * What a scan means: which versions are to be loaded, which go on, which leave, and whether that is
 * allowed. Nothing of the new plugins has run yet, so a round that is refused here only unstages.
 */
#include "plugin/swap_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/stand_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ABSENCE_MS 1000

struct version *swap_serving(const struct swap *s, const char *plugin)
{
    struct version *v = generation_version(s->current, plugin);
    return v != NULL && !v->stand_in ? v : NULL;
}

/* After a crash it served, and may again: with what is kept of it (swap_first_again). */
static bool may_come_back(struct swap *s, const char *plugin)
{
    struct kept kept;
    if (!s->deps.after_crash || s->salvage || !keep_find(s->deps.keep, plugin, NULL, &kept))
        return false;
    kept_fini(&kept);
    return true;
}

bool round_forgives(struct swap *s, const char *plugin)
{
    return s->round.first && !config_plugin(s->round.config, plugin)->required &&
           !may_come_back(s, plugin);
}

static void no_memory(struct swap *s)
{
    round_reason(s, "out of memory");
    s->round.broken = true;
}

/* ---- What was found -------------------------------------------------------------------------- */

static bool fill_version(struct version *v, struct found *f, const struct config *config)
{
    const struct config_plugin *cfg = config_plugin(config, f->plugin);
    v->plugin = strdup(f->plugin);
    v->source = strdup(f->path);
    v->config_text = strdup(f->kept ? f->config_text : cfg->config);
    memcpy(v->id, f->staged->id, sizeof v->id);
    memcpy(v->sha256, f->staged->sha256, sizeof v->sha256);
    memcpy(v->config_sha256, f->kept ? f->config_sha256 : cfg->config_sha256,
           sizeof v->config_sha256);
    v->staged = *f->staged;
    memcpy(v->signer, f->signer, sizeof v->signer);
    v->desc = f->desc;
    memset(&f->desc, 0, sizeof f->desc);
    return v->plugin != NULL && v->source != NULL && v->config_text != NULL;
}

/* From here on the version owns the staged file. */
static void take_new(struct swap *s, struct found *f)
{
    struct round *r = &s->round;
    struct version *v = version_new(s->deps.loops, s->deps.nloops);
    if (v == NULL || !fill_version(v, f, r->config)) {
        version_free(&v);
        stage_remove(s->deps.stage, f->staged);
        no_memory(s);
        return;
    }
    if (f->quarantined != NULL)
        take_quarantined(s, f);
    else if (f->kept && f->error != NULL)
        take_salvaged(s, f);
    if (f->kept)
        version_from_store(s, v, f);
    if (f->waits)
        trial_waits(s, f);
    free(f->staged);
    f->staged = NULL;
    v->state = VERSION_STAGED;
    v->canary = !f->kept && canary_is_wanted(s, v->plugin);
    list_add_tail(&s->versions, &v->node);
    r->fresh[r->nfresh++] = v;
}

/* The stable version or the canary, whichever the file is. */
static struct version *same_version(struct swap *s, const struct found *f)
{
    const struct canary *c = canary_of(s->current, f->plugin);
    if (c != NULL && strcmp(c->version->sha256, f->sha256) == 0 &&
        strcmp(c->version->config_sha256,
               config_plugin(s->round.config, f->plugin)->config_sha256) == 0)
        return c->version;
    return generation_version(s->current, f->plugin);
}

static void take_same(struct swap *s, const struct found *f)
{
    struct version *v = same_version(s, f);
    REQUIRE(v != NULL);
    v->from_store = false;
    if (strcmp(v->source, f->path) != 0) {
        char *source = strdup(f->path);
        if (source != NULL) {
            free(v->source);
            v->source = source;
        }
    }
    if (entries_add(&s->round.unchanged, v->plugin, v->id, NULL, f->path, NULL) != 0)
        no_memory(s);
}

static void take_failed(struct swap *s, const struct found *f)
{
    char name[256];
    report_file_failed(s, f, false);
    snprintf(name, sizeof name, "%.*s", (int)(strlen(f->file) - 3), f->file);
    if (f->error != NULL && f->key[0] != '\0')
        known_failure_add(&s->known, &(struct known_failure){ .key = (char *)(uintptr_t)f->key,
                                                              .stage = (char *)(uintptr_t)f->stage,
                                                              .error = f->error,
                                                              .plugin = f->plugin });
    if (!round_forgives(s, f->plugin != NULL ? f->plugin : name))
        s->round.broken = true;
}

/* After a crash the server runs without it, and tells who asks. */
static void take_missing(struct swap *s, struct found *f)
{
    const struct version *v = generation_version(s->current, f->plugin);
    take_quarantined(s, f);
    if (!s->deps.after_crash || swap_serving(s, f->plugin) != NULL)
        return;
    if (v != NULL && strcmp(v->sha256, f->sha256) == 0 &&
        strcmp(v->config_sha256, config_plugin(s->round.config, f->plugin)->config_sha256) == 0)
        return; /* somebody stands in already */
    struct version *made = stand_in_new(s->deps.loops, s->deps.nloops, f, s->round.config);
    if (made == NULL) {
        no_memory(s);
        return;
    }
    list_add_tail(&s->versions, &made->node);
    s->round.fresh[s->round.nfresh++] = made;
}

static void take_found(struct swap *s)
{
    for (size_t i = 0; i < s->scan.nfound; i++) {
        struct found *f = &s->scan.found[i];
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)(strlen(f->file) - 3), f->file);
        if (canary_is_other(s, f->plugin != NULL ? f->plugin : name)) {
            if (f->staged != NULL)
                stage_remove(s->deps.stage, f->staged);
            continue;
        }
        switch (f->kind) {
        case FOUND_SAME:
            take_same(s, f);
            break;
        case FOUND_NEW:
            take_new(s, f);
            break;
        case FOUND_FAILED:
            take_failed(s, f);
            break;
        case FOUND_FAILED_AGAIN:
            report_file_failed(s, f, true);
            break;
        case FOUND_QUARANTINED:
            take_missing(s, f);
            break;
        case FOUND_DISABLED:
            break;
        }
    }
}

/* ---- Who leaves ------------------------------------------------------------------------------ */

/* Does a new version take the place of the stable one? */
static bool is_fresh(const struct round *r, const char *plugin)
{
    for (size_t i = 0; i < r->nfresh; i++)
        if (!r->fresh[i]->canary && strcmp(r->fresh[i]->plugin, plugin) == 0)
            return true;
    return false;
}

static bool declared(const struct swap *s, const char *plugin)
{
    for (size_t i = 0; i < s->scan.nfound; i++)
        if (s->scan.found[i].plugin != NULL && strcmp(s->scan.found[i].plugin, plugin) == 0)
            return true;
    return false;
}

static bool path_there(const struct swap *s, const char *path)
{
    for (size_t i = 0; i < s->scan.nfound; i++)
        if (strcmp(s->scan.found[i].path, path) == 0)
            return true;
    return false;
}

/* The configuration's key that names the plugin, or NULL. */
static const char *named_by(const struct config *cfg, const char *plugin, char key[96])
{
    for (size_t i = 0; i < cfg->middleware_count; i++)
        if (strcmp(cfg->middleware[i], plugin) == 0) {
            snprintf(key, 96, "middleware[%zu]", i);
            return key;
        }
    for (size_t i = 0; i < cfg->route_count; i++) {
        const struct config_route *route = &cfg->routes[i];
        bool names = route->plugin != NULL && strcmp(route->plugin, plugin) == 0;
        for (size_t j = 0; j < route->middleware_count; j++)
            names = names || strcmp(route->middleware[j], plugin) == 0;
        if (names) {
            snprintf(key, 96, "routes[%zu]", i);
            return key;
        }
    }
    const struct config_plugin *p = config_plugin(cfg, plugin);
    if (p->required_written && p->required) {
        snprintf(key, 96, "plugins.%.64s.required", plugin);
        return key;
    }
    return NULL;
}

bool swap_misses(struct swap *s, struct buf *why)
{
    char key[96];
    bool needed = false;
    for (unsigned i = 0; s->current != NULL && i < s->current->nversions; i++) {
        const struct version *v = s->current->versions[i];
        if (!v->stand_in)
            continue;
        const char *by = named_by(s->config, v->plugin, key);
        buf_printf(why, "%s%s%s\n", v->store_why, by != NULL ? "; it is named by " : "",
                   by != NULL ? by : "");
        needed = needed || by != NULL;
    }
    return needed;
}

/* The watch looks twice, 1 s apart. True: the plugin stays for now. */
static bool absent_once(struct swap *s, struct version *v)
{
    uint64_t now = clock_us();
    if (s->round.want.not_watch)
        return false;
    if (v->absent && now - v->absent_us >= (uint64_t)ABSENCE_MS * 1000u)
        return false;
    if (!v->absent) {
        v->absent = true;
        v->absent_us = now;
    }
    timer_set_ms(s->absence, ABSENCE_MS + 10);
    return true;
}

static void leave(struct swap *s, struct version *v)
{
    struct round *r = &s->round;
    r->leaving[r->nleaving++] = v;
    if (!is_fresh(r, v->plugin) &&
        entries_add(&r->changed, v->plugin, v->id, "removed", v->source, NULL) != 0)
        no_memory(s);
}

static void refuse_vanished(struct swap *s, struct version *v, const char *key)
{
    struct err err;
    err_set(&err,
            "plugin \"%s\" has vanished (%s is gone), but %s names it: put the file back, or "
            "take it out of the configuration",
            v->plugin, v->source, key);
    round_reason(s, "%s", err.text);
    if (entries_add(&s->round.failed, v->plugin, v->id, err.text, v->source, "scan") != 0)
        no_memory(s);
    s->round.broken = true;
}

/* True: it leaves. `vanished` counts those for which that is because their file is gone. */
static bool decide_leaving(struct swap *s, struct version *v, size_t *vanished)
{
    struct round *r = &s->round;
    char key[96];
    if (r->wish == SWAP_ROLLBACK)
        return is_fresh(r, v->plugin);
    if (r->wish == SWAP_CANARY)
        return false;
    if (!config_plugin(r->config, v->plugin)->enabled)
        return true;
    if (is_fresh(r, v->plugin))
        return true;
    if (declared(s, v->plugin) || path_there(s, v->source)) {
        v->absent = false;
        return false;
    }
    if (absent_once(s, v))
        return false;
    if (named_by(r->config, v->plugin, key) != NULL) {
        refuse_vanished(s, v, key);
        return false;
    }
    ++*vanished;
    return true;
}

static void take_current(struct swap *s)
{
    struct round *r = &s->round;
    size_t vanished = 0;
    for (unsigned i = 0; s->current != NULL && i < s->current->nversions; i++) {
        struct version *v = s->current->versions[i];
        if (decide_leaving(s, v, &vanished))
            leave(s, v);
        else
            r->next[r->nnext++] = v;
    }
    if (vanished == 0 || r->nnext > 0 || r->nfresh > 0 || r->want.allow_empty)
        return;
    round_reason(s,
                 "every plugin has vanished from %s: the last ones are kept; "
                 "reload --allow-empty removes them",
                 r->config->plugin_dir);
    r->broken = true;
}

/* ---- Whether it may be ----------------------------------------------------------------------- */

static void check_required(struct swap *s)
{
    const struct config *cfg = s->round.config;
    if (s->round.wish == SWAP_CANARY || s->round.wish == SWAP_ROLLBACK)
        return;
    for (size_t i = 0; i < cfg->plugin_count; i++) {
        const struct config_plugin *p = &cfg->plugins[i];
        if (!p->enabled || declared(s, p->name) || generation_version(s->current, p->name) != NULL)
            continue;
        if (p->required_written && p->required) {
            round_reason(s,
                         "plugins.%s is required, but no file in %s declares that name: put it "
                         "there, or set \"required\": false",
                         p->name, cfg->plugin_dir);
            s->round.broken = true;
        } else if (s->round.first || s->round.want.config != NULL) {
            log_msg(LOG_WARN, "plugin_warning", "plugins.%s: no file in %s declares that name",
                    p->name, cfg->plugin_dir);
        }
    }
}

static struct version *oldest_of(struct swap *s, const char *plugin, unsigned *count)
{
    struct version *oldest = NULL;
    *count = 0;
    list_each (it, &s->versions) {
        struct version *v = list_entry(it, struct version, node);
        if (strcmp(v->plugin, plugin) != 0 || v->stand_in || v->state == VERSION_STUCK ||
            v->state == VERSION_STAGED)
            continue;
        ++*count;
        if (oldest == NULL)
            oldest = v;
    }
    return oldest;
}

static void note_busy(struct swap *s, const char *plugin)
{
    char **more = realloc(s->busy, (s->nbusy + 1) * sizeof *more);
    if (more == NULL)
        return; /* then it is not repeated by itself */
    s->busy = more;
    if ((s->busy[s->nbusy] = strdup(plugin)) != NULL)
        s->nbusy++;
}

static void refuse_busy(struct swap *s, const struct version *v, const struct version *oldest,
                        unsigned count)
{
    struct version_sums sums;
    struct err err;
    version_sum(oldest, &sums);
    if (oldest->state == VERSION_ACTIVE)
        err_set(
            &err,
            "busy: plugin \"%s\" %s serves, and limits.versions %llu leaves no place for another "
            "version beside it: set it to 2 or more, then graftctl reload --config",
            v->plugin, oldest->id, (unsigned long long)s->round.config->limits.versions);
    else if (sums.oldest_age_us > 0)
        err_set(&err,
                "busy: %u versions of plugin \"%s\" are loaded (limits.versions): the oldest, %s, "
                "is held by %llu requests, the oldest of them on %s for %llu ms, waiting for %s; "
                "wait, or: graftctl retire %s@%s",
                count, v->plugin, oldest->id, (unsigned long long)sums.pins,
                sums.oldest_route != NULL ? sums.oldest_route : "no route",
                (unsigned long long)(sums.oldest_age_us / 1000u),
                sums.oldest_waits_for != NULL ? sums.oldest_waits_for : "its handler", v->plugin,
                oldest->id);
    else
        err_set(&err,
                "busy: %u versions of plugin \"%s\" are loaded (limits.versions): the oldest, %s, "
                "is %s, held by %llu requests; wait, or: graftctl retire %s@%s",
                count, v->plugin, oldest->id, version_state_name(oldest->state),
                (unsigned long long)sums.pins, v->plugin, oldest->id);
    round_reason(s, "%s", err.text);
    if (entries_add(&s->round.failed, v->plugin, v->id, err.text, v->source, "load") != 0)
        no_memory(s);
    if (s->round.wish != SWAP_ROLLBACK)
        note_busy(s, v->plugin);
}

static bool check_busy(struct swap *s)
{
    bool busy = false;
    for (size_t i = 0; i < s->round.nfresh; i++) {
        unsigned count;
        const struct version *v = s->round.fresh[i];
        const struct version *oldest = oldest_of(s, v->plugin, &count);
        if (v->stand_in || count < s->round.config->limits.versions || oldest == NULL)
            continue;
        refuse_busy(s, v, oldest, count);
        busy = true;
    }
    return busy;
}

static bool check_blocked(struct swap *s)
{
    const struct job *job = s->round.nfresh > 0 ? loader_blocked(s->loader) : NULL;
    if (job == NULL)
        return false;
    const struct version *v = container_of(job, struct version, job);
    round_reason(s, "plugin \"%s\" %s: %s; restart graftd if it does not", v->plugin, v->id,
                 v->reason != NULL ? v->reason : "it hangs in dlopen or dlclose");
    for (size_t i = 0; i < s->round.nfresh; i++) {
        const struct version *f = s->round.fresh[i];
        entries_add(&s->round.failed, f->plugin, f->id, s->round.reason, f->source, "load");
    }
    return true;
}

static int allocate(struct swap *s)
{
    struct round *r = &s->round;
    size_t active = s->current != NULL ? s->current->nversions : 0;
    r->fresh = calloc(s->scan.nfound + 1, sizeof(*r->fresh));
    r->next = calloc(active + s->scan.nfound + 1, sizeof(*r->next));
    r->leaving = calloc(active + CANARIES_MAX + 1, sizeof(*r->leaving));
    return r->fresh != NULL && r->next != NULL && r->leaving != NULL ? 0 : -1;
}

/* Staged files that no version has taken. */
static void unstage(struct swap *s)
{
    for (size_t i = 0; i < s->scan.nfound; i++)
        if (s->scan.found[i].staged != NULL)
            stage_remove(s->deps.stage, s->scan.found[i].staged);
}

void round_scanned(struct swap *s)
{
    struct round *r = &s->round;
    if (s->scan.job.rc != 0 || s->draining || allocate(s) != 0) {
        round_reason(s, "%s", s->scan.job.rc != 0 ? s->scan.job.err.text : "out of memory");
        unstage(s);
        round_fail(s, s->draining ? "draining" : "failed");
        return;
    }
    take_found(s);
    take_current(s);
    canary_plan(s);
    check_required(s);
    if (r->broken && !r->first)
        round_fail(s, "failed");
    else if (check_busy(s))
        round_fail(s, "busy");
    else if (check_blocked(s))
        round_fail(s, "failed");
    else if (r->nfresh == 0 && r->nleaving == 0 && r->want.config == NULL && !r->first &&
             !r->reweighed)
        round_succeed(s);
    else
        round_load(s);
}
