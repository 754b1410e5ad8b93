/*
 * Canaries in a round. After a scan: which of the new versions are to be canaries, which that serve
 * go on, which leave. And rounds without a scan, that change no file: another weight, promotion,
 * the end of a canary. All of them end in round_build, as every swap does: what is published is
 * built, prepared and adopted the same way.
 *
 * A scan never touches the stable version of a plugin that has a canary: a newer file takes the
 * canary's place, the stable version's own file, put back, ends it.
 */
#include "plugin/swap_private.h"

#include "base/log.h"
#include "plugin/retire.h"
#include "plugin/rollout.h"

#include <stdlib.h>
#include <string.h>

const struct canary *canary_of(const struct generation *g, const char *plugin)
{
    for (unsigned i = 0; g != NULL && i < g->ncanaries; i++)
        if (strcmp(g->canaries[i].version->plugin, plugin) == 0)
            return &g->canaries[i];
    return NULL;
}

bool canary_is_other(struct swap *s, const char *plugin)
{
    return s->round.wish == SWAP_CANARY && strcmp(s->round.plugin, plugin) != 0;
}

bool canary_is_wanted(struct swap *s, const char *plugin)
{
    if (s->round.wish == SWAP_ROLLBACK)
        return false;
    if (swap_serving(s, plugin) == NULL)
        return false; /* there is nothing beside which it could serve */
    return s->round.wish == SWAP_CANARY || canary_of(s->current, plugin) != NULL ||
           config_plugin(s->round.config, plugin)->rollout != NULL;
}

/* ---- The next generation's ------------------------------------------------------------------- */

static void refuse(struct swap *s, const char *id, const char *stage, const struct err *err)
{
    struct round *r = &s->round;
    round_reason(s, "%s", err->text);
    entries_add(&r->failed, r->plugin, id, err->text, NULL, stage);
    r->broken = true;
}

static struct canary *add(struct swap *s, struct version *v, struct version *stable,
                          unsigned weight, bool held)
{
    struct round *r = &s->round;
    const struct config_rollout *how = config_plugin(r->config, v->plugin)->rollout;
    if (r->ncanaries == CANARIES_MAX) {
        struct err err;
        err_set(&err, "%d canaries serve already, as many as can: promote or abort one first",
                CANARIES_MAX);
        round_reason(s, "%s", err.text);
        entries_add(&r->failed, v->plugin, v->id, err.text, v->source, "canary");
        r->broken = true;
        return NULL;
    }
    struct canary *c = &r->canaries[r->ncanaries++];
    *c = (struct canary){ .version = v, .stable = stable, .weight = weight, .held = held };
    if (how != NULL) {
        c->sticky = how->sticky;
        c->header = how->header;
        c->shadow = how->shadow;
    }
    return c;
}

static unsigned first_weight(struct swap *s, const char *plugin)
{
    const struct config_rollout *how = config_plugin(s->round.config, plugin)->rollout;
    const struct canary *old = canary_of(s->current, plugin);
    if (s->round.wish == SWAP_CANARY)
        return s->round.weight;
    return how != NULL ? how->steps[0] : old != NULL ? old->weight : 0;
}

/* By hand now, or before, perhaps in a process that has ended; else as add() took it from the
   configuration. */
static void give_shadow(struct swap *s, struct canary *c, const struct canary *old)
{
    const struct round *r = &s->round;
    bool now =
        r->wish == SWAP_CANARY && r->shadow_asked && strcmp(c->version->plugin, r->plugin) == 0;
    c->shadow_asked = now || (old != NULL && old->shadow_asked);
    if (c->shadow_asked)
        c->shadow = now ? r->shadow : old->shadow;
    else if (old == NULL)
        trial_gives_shadow(s, c);
}

static struct version *in(struct version *const *list, size_t n, const char *plugin)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i]->plugin, plugin) == 0)
            return list[i];
    return NULL;
}

static void leave(struct swap *s, struct version *v, const char *word)
{
    struct round *r = &s->round;
    r->leaving[r->nleaving++] = v;
    if (word != NULL && entries_add(&r->changed, v->plugin, v->id, word, v->source, NULL) != 0) {
        round_reason(s, "out of memory");
        r->broken = true;
    }
}

/* What the folder has under that name now, or NULL. */
static const struct found *found_of(const struct swap *s, const char *plugin)
{
    for (size_t i = 0; i < s->scan.nfound; i++)
        if (s->scan.found[i].plugin != NULL && strcmp(s->scan.found[i].plugin, plugin) == 0)
            return &s->scan.found[i];
    return NULL;
}

/* Is the file, with the configuration of this round, that version? */
static bool is_version(const struct swap *s, const struct found *f, const struct version *v)
{
    return f != NULL && f->kind == FOUND_SAME && strcmp(f->sha256, v->sha256) == 0 &&
           strcmp(config_plugin(s->round.config, v->plugin)->config_sha256, v->config_sha256) == 0;
}

/* One that serves now. */
static void go_on(struct swap *s, const struct canary *c)
{
    struct round *r = &s->round;
    const char *plugin = c->version->plugin;
    const struct found *f = found_of(s, plugin);
    struct version *stable = in(r->next, r->nnext, plugin);
    if (stable == NULL) {
        leave(s, c->version, "removed"); /* the plugin itself leaves, or is disabled */
        return;
    }
    if (in(r->fresh, r->nfresh, plugin) != NULL) {
        leave(s, c->version, NULL); /* a newer one takes its place */
        return;
    }
    if (is_version(s, f, c->stable) && !is_version(s, f, c->version) && r->wish == SWAP_SCAN) {
        leave(s, c->version, "removed");
        return;
    }
    struct canary *next = add(s, c->version, stable, c->weight, c->held);
    if (next != NULL)
        give_shadow(s, next, c);
    if (next != NULL && r->wish == SWAP_CANARY && strcmp(plugin, r->plugin) == 0 &&
        is_version(s, f, c->version)) {
        next->weight = r->weight;
        next->held = true;
        r->reweighed = next->weight != c->weight || next->shadow != c->shadow || !c->held;
    }
}

/* `canary NAME`: is there a file for it? */
static void check_wish(struct swap *s)
{
    struct round *r = &s->round;
    struct err err;
    const struct found *f = found_of(s, r->plugin);
    const struct version *stable = swap_serving(s, r->plugin);
    if (r->broken || (stable != NULL && in(r->fresh, r->nfresh, r->plugin) != NULL))
        return;
    if (stable == NULL)
        err_set(&err,
                "no plugin \"%s\" serves: a canary needs a stable version beside it; reload loads "
                "a new plugin",
                r->plugin);
    else if (f == NULL)
        err_set(&err, "no file in %s declares \"%s\": put the new version there first",
                r->config->plugin_dir, r->plugin);
    else if (f->kind == FOUND_DISABLED)
        err_set(&err, "plugins.%s.enabled is false", r->plugin);
    else if (is_version(s, f, stable))
        err_set(&err, "%s is the version that serves, %s: put the new version there first", f->path,
                stable->id);
    else if (f->kind == FOUND_FAILED || f->kind == FOUND_FAILED_AGAIN)
        err_set(&err, "%s", f->error != NULL ? f->error : "out of memory for the reason");
    else
        return;
    refuse(s, NULL, "canary", &err);
}

void canary_plan(struct swap *s)
{
    struct round *r = &s->round;
    for (unsigned i = 0; s->current != NULL && i < s->current->ncanaries; i++)
        go_on(s, &s->current->canaries[i]);
    for (size_t i = 0; i < r->nfresh && !r->broken; i++) {
        struct version *v = r->fresh[i];
        struct canary *c = NULL;
        if (v->canary)
            c = add(s, v, in(r->next, r->nnext, v->plugin), first_weight(s, v->plugin),
                    r->wish == SWAP_CANARY);
        if (c != NULL)
            give_shadow(s, c, canary_of(s->current, v->plugin));
    }
    if (r->wish == SWAP_CANARY)
        check_wish(s);
}

/* ---- Rounds without a scan ------------------------------------------------------------------- */

static int begin_change(struct swap *s)
{
    struct round *r = &s->round;
    const struct generation *g = s->current;
    size_t n = g != NULL ? g->nversions : 0;
    r->next = calloc(n + 1, sizeof(*r->next));
    r->leaving = calloc(n + CANARIES_MAX + 1, sizeof(*r->leaving));
    r->fresh = calloc(1, sizeof(*r->fresh));
    if (r->next == NULL || r->leaving == NULL || r->fresh == NULL)
        return -1;
    for (size_t i = 0; i < n; i++)
        r->next[r->nnext++] = g->versions[i];
    for (unsigned i = 0; g != NULL && i < g->ncanaries; i++)
        r->canaries[r->ncanaries++] = g->canaries[i];
    return 0;
}

static void without(struct round *r, unsigned at)
{
    r->ncanaries--;
    for (unsigned i = at; i < r->ncanaries; i++)
        r->canaries[i] = r->canaries[i + 1];
}

static void promote(struct swap *s, unsigned at)
{
    struct round *r = &s->round;
    struct canary c = r->canaries[at];
    for (size_t i = 0; i < r->nnext; i++)
        if (r->next[i] == c.stable)
            r->next[i] = c.version;
    r->promoted = c.version;
    without(r, at);
    leave(s, c.stable, NULL);
    if (entries_add(&r->changed, c.version->plugin, c.version->id, NULL, c.version->source, NULL))
        r->broken = true;
}

static void change(struct swap *s, unsigned at)
{
    struct round *r = &s->round;
    struct version *v = r->canaries[at].version;
    if (r->wish == SWAP_PROMOTE) {
        promote(s, at);
    } else if (r->wish == SWAP_ABORT) {
        without(r, at);
        leave(s, v, "removed");
    } else {
        r->canaries[at].weight = r->weight;
    }
}

void canary_change(struct swap *s)
{
    struct round *r = &s->round;
    struct err err;
    unsigned at = 0;
    s->phase = PHASE_LOAD;
    if (begin_change(s) != 0) {
        round_reason(s, "out of memory");
        round_fail(s, "failed");
        return;
    }
    while (at < r->ncanaries && strcmp(r->canaries[at].version->plugin, r->plugin) != 0)
        at++;
    if (at == r->ncanaries) {
        err_set(&err, "plugin \"%s\" has no canary: graftctl canary %s --weight N begins one",
                r->plugin, r->plugin);
        refuse(s, NULL, "canary", &err);
    } else if (r->id[0] != '\0' && strcmp(r->id, r->canaries[at].version->id) != 0) {
        err_set(&err, "the canary of \"%s\" is %s, no longer %s", r->plugin,
                r->canaries[at].version->id, r->id);
        refuse(s, r->id, "canary", &err);
    } else {
        change(s, at);
    }
    if (r->broken)
        round_fail(s, "failed");
    else if (!round_handover(s))
        round_build(s);
}

/* Between a rollout's look and its turn, somebody may have set the share, or brought another file.
 */
bool canary_gave_way(struct swap *s)
{
    struct swap_ask *ask =
        list_empty(&s->waiting) ? NULL : list_entry(s->waiting.next, struct swap_ask, node);
    if (ask == NULL || !ask->by_itself)
        return false;
    const struct canary *c = canary_of(s->current, ask->plugin);
    bool there = c != NULL && strcmp(c->version->id, ask->id) == 0;
    if (there && (ask->wish == SWAP_ABORT || (!c->held && !c->version->withdrawn)))
        return false;
    list_del(&ask->node);
    answer_without_round(s, ask, "refused",
                         there ? "its share was set by hand, or it is worse"
                               : "it is no canary any more");
    swap_kick(s);
    return true;
}

/* ---- In force -------------------------------------------------------------------------------- */

static void log_canary(const struct canary *c)
{
    struct log_line line;
    log_begin(&line, LOG_INFO, "canary", "%s %s gets %u %% of the requests", c->version->plugin,
              c->version->id, c->weight);
    retire_log_identity(&line, c->version);
    log_z(&line, "stable", c->stable->id);
    log_u64(&line, "weight", c->weight);
    if (c->shadow > 0)
        log_u64(&line, "shadow", c->shadow);
    log_end(&line);
}

void canary_installed(struct swap *s)
{
    const struct generation *g = s->current;
    rollouts_follow(&s->rollouts, g, s->round.by_itself ? s->round.wish : SWAP_SCAN);
    for (unsigned i = 0; i < g->nversions; i++) {
        g->versions[i]->canary = false;
        g->versions[i]->weight = 100;
        g->versions[i]->shadow = 0;
    }
    for (unsigned i = 0; i < g->ncanaries; i++) {
        const struct canary *c = &g->canaries[i];
        unsigned share = canary_share(c);
        bool told = c->version->canary && c->version->weight == share &&
                    c->version->shadow == c->shadow && c->version->told;
        c->version->canary = c->version->told = true;
        c->version->weight = share;
        c->version->shadow = c->shadow;
        c->stable->weight = 100 - share;
        if (!told)
            log_canary(c);
    }
}
