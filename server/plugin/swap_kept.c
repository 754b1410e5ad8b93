/*
 * Swaps and the store: rollbacks, what a quarantined file means for a round, and what becomes good
 * when a round is over. A rollback is a round of its own that looks at the store instead of the
 * plugin folder; everything else about it is a swap.
 */
#include "plugin/swap_private.h"

#include "base/log.h"
#include "plugin/retire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- A rollback begins ----------------------------------------------------------------------- */

static void identity_of(const struct version *v, struct identity *out)
{
    identity_set(out, v->plugin, v->sha256, v->config_sha256);
}

struct listing {
    const char *plugin;
    struct buf text;
};

static void list_quarantined(const struct quarantined *q, void *arg)
{
    struct listing *l = arg;
    if (strcmp(q->identity.plugin, l->plugin) == 0)
        buf_printf(&l->text, "%s%.12s (%s)",
                   l->text.len > 0 ? ", " : "; quarantined: ", q->identity.sha256, q->reason);
}

static int refuse_no_good(struct swap *s, const struct version *v, struct err *err)
{
    struct listing l = { .plugin = v->plugin };
    keep_each_quarantined(s->deps.keep, list_quarantined, &l);
    err_set(err, "no good version of plugin \"%s\" but the one that serves (%s) is kept%s",
            v->plugin, v->id, l.text.data != NULL ? l.text.data : "");
    buf_fini(&l.text);
    return -1;
}

static int refuse_not_served(struct swap *s, const char *plugin, const char **word, struct err *err)
{
    struct kept kept;
    if (!keep_find(s->deps.keep, plugin, NULL, &kept)) {
        *word = "not_found";
        return err_set(err, "no plugin \"%.64s\": graftctl ps lists them", plugin);
    }
    kept_fini(&kept);
    return err_set(err,
                   "plugin \"%.64s\" is not served: put its file into the plugin folder and reload "
                   "(its last good version is kept)",
                   plugin);
}

static int refuse_missing(const struct version *v, struct err *err)
{
    return err_set(err,
                   "%s: put another file into the plugin folder, or try it again: graftctl reload "
                   "--retry",
                   v->store_why);
}

int rollback_begin(struct swap *s, const struct swap_ask *ask, const char **word, struct err *err)
{
    struct round *r = &s->round;
    struct version *v = generation_version(s->current, ask->plugin);
    *word = "refused";
    if (v == NULL)
        return refuse_not_served(s, ask->plugin, word, err);
    if (v->stand_in)
        return refuse_missing(v, err);
    identity_of(v, &r->from);
    if (!keep_find(s->deps.keep, v->plugin, &r->from, &s->scan.revert))
        return refuse_no_good(s, v, err);
    s->scan.revert_path = strdup(v->source);
    if (s->scan.revert_path == NULL) {
        kept_fini(&s->scan.revert);
        return err_set(err, "out of memory");
    }
    r->wish = SWAP_ROLLBACK;
    r->without_state = ask->without_state;
    r->by = ask->by != NULL ? ask->by : "graftd";
    memcpy(r->from_id, v->id, sizeof r->from_id);
    snprintf(r->why, sizeof r->why, "%s", ask->why != NULL ? ask->why : "a rollback was asked for");
    return 0;
}

/* ---- A scan has found a quarantined file ----------------------------------------------------- */

static void set_error(struct found *f, const char *serves, const char *how)
{
    char *text;
    const char *at = serves != NULL ? "@" : "";
    if (asprintf(&text,
                 "%s: %.12s is quarantined (%s): %s%s%s%s: put another file there, change "
                 "plugins.%s.config, or: graftctl reload --retry",
                 f->file, f->sha256, f->quarantined != NULL ? f->quarantined : "?",
                 serves != NULL ? f->plugin : "", at, serves != NULL ? serves : "", how,
                 f->plugin) < 0)
        return;
    free(f->error);
    f->error = text;
    f->stage = "quarantine";
}

void take_quarantined(struct swap *s, struct found *f)
{
    const struct version *v = swap_serving(s, f->plugin);
    if (f->kept)
        set_error(f, f->staged->id, " from the store serves");
    else if (v != NULL)
        set_error(f, v->id, " serves on");
    else if (s->deps.after_crash)
        set_error(f, NULL, "no good version is kept, its routes answer 503");
    else
        set_error(f, NULL, "no good version is kept, it is not served");
    bool refused = s->round.first && !f->kept;
    report_file_failed(s, f, !refused);
    if (refused && !s->deps.after_crash && !round_forgives(s, f->plugin))
        s->round.broken = true;
    else if (s->round.first && f->error != NULL)
        log_msg(LOG_WARN, "plugin_warning", "%s", f->error);
}

void take_salvaged(struct swap *s, const struct found *f)
{
    report_file_failed(s, f, true);
    log_msg(LOG_WARN, "plugin_warning", "%s: %s from the store serves", f->error, f->staged->id);
}

void version_from_store(struct swap *s, struct version *v, const struct found *f)
{
    const struct round *r = &s->round;
    v->from_store = true;
    int n =
        r->wish == SWAP_ROLLBACK
            ? asprintf(&v->store_why, "from the store: rolled back from %s: %s", r->from_id, r->why)
        : f->waits
            ? asprintf(&v->store_why, "from the store: %s (%.12s) is not judged yet: a canary",
                       f->file, f->sha256)
        : f->quarantined == NULL
            ? asprintf(&v->store_why, "from the store: %s",
                       f->error != NULL ? f->error : "the file was refused")
            : asprintf(&v->store_why, "from the store: %s (%.12s) is quarantined: %s", f->file,
                       f->sha256, f->quarantined != NULL ? f->quarantined : "?");
    if (n < 0)
        v->store_why = NULL;
}

/* ---- A round is over ------------------------------------------------------------------------- */

/* As it will be read again: no byte that JSON would have to replace. */
static void file_name(const struct version *v, char out[256])
{
    const char *slash = strrchr(v->source, '/'), *name = slash != NULL ? slash + 1 : v->source;
    size_t n = 0;
    for (; name[n] != '\0' && n < 255; n++)
        out[n] = name[n] >= ' ' && name[n] < 0x7f ? name[n] : '?';
    out[n] = '\0';
}

static void note_good(struct swap *s, struct version *v)
{
    char file[256];
    struct kept kept = {
        .version = v->desc.version, .config = v->config_text, .file = file, .from = v->staged.path
    };
    file_name(v, file);
    memcpy(kept.signer, v->signer, sizeof kept.signer);
    identity_of(v, &kept.identity);
    keep_good(s->deps.keep, &kept);
}

static void log_rollback(const struct round *r, const struct version *to)
{
    struct log_line line;
    log_begin(&line, LOG_WARN, "rollback", "%s: %s serves again instead of %s: %s", to->plugin,
              to->id, r->from_id, r->why);
    log_z(&line, "plugin", to->plugin);
    log_z(&line, "from", r->from_id);
    log_z(&line, "to", to->id);
    log_z(&line, "from_sha256", r->from.sha256);
    log_z(&line, "from_config_sha256", r->from.config_sha256);
    log_z(&line, "to_sha256", to->sha256);
    log_z(&line, "to_config_sha256", to->config_sha256);
    log_z(&line, "reason", r->why);
    log_z(&line, "by", r->by);
    log_end(&line);
}

/* So that a start knows which files have only been canaries. */
static bool note_trials(struct swap *s)
{
    const struct round *r = &s->round;
    struct trial trial;
    bool changed = false;
    for (size_t i = 0; i < r->nleaving; i++)
        if (r->leaving[i]->canary) {
            identity_of(r->leaving[i], &trial.identity);
            changed = keep_trial_end(s->deps.keep, &trial.identity) || changed;
        }
    for (unsigned i = 0; i < s->current->ncanaries; i++) {
        const struct canary *c = &s->current->canaries[i];
        identity_of(c->version, &trial.identity);
        trial.weight = c->weight;
        trial.held = c->held;
        trial.shadow_asked = c->shadow_asked;
        trial.shadow = c->shadow_asked ? c->shadow : 0;
        changed = keep_trial(s->deps.keep, &trial) || changed;
    }
    return changed;
}

/* A canary is good when it has been promoted, and one that was taken back is quarantined. */
static bool canary_kept(struct swap *s)
{
    struct round *r = &s->round;
    struct identity identity;
    if (r->wish == SWAP_PROMOTE) {
        struct version *v = generation_version(s->current, r->plugin);
        if (v != NULL)
            note_good(s, v);
        return true;
    }
    if (r->wish != SWAP_ABORT || r->nleaving == 0)
        return false;
    identity_of(r->leaving[0], &identity);
    keep_quarantine(s->deps.keep, &identity, r->why, r->evidence);
    return true;
}

/* A canary that was to follow what is rolled back is less proved than that. Left in the folder it
   would get all requests from the next scan. */
static void quarantine_canary(struct swap *s, const struct version *v)
{
    struct round *r = &s->round;
    struct identity identity, back;
    char why[QUARANTINE_REASON_MAX];
    identity_of(v, &identity);
    identity_of(r->fresh[0], &back);
    if (identity_same(&identity, &back))
        return;
    snprintf(why, sizeof why, "it was a canary beside %s, which was rolled back: %.256s",
             r->from_id, r->why);
    keep_quarantine(s->deps.keep, &identity, why, NULL);
}

static void rolled_back(struct swap *s)
{
    struct round *r = &s->round;
    s->counts.rollbacks++;
    log_rollback(r, r->fresh[0]);
    keep_quarantine(s->deps.keep, &r->from, r->why, NULL);
    for (size_t i = 0; i < r->nleaving; i++)
        if (r->leaving[i]->canary)
            quarantine_canary(s, r->leaving[i]);
}

void kept_adopted(struct swap *s)
{
    struct round *r = &s->round;
    bool changed = canary_kept(s);
    for (size_t i = 0; i < r->nfresh; i++)
        if (!r->fresh[i]->canary && !r->fresh[i]->stand_in)
            note_good(s, r->fresh[i]);
    if (r->wish == SWAP_ROLLBACK && r->nfresh > 0)
        rolled_back(s);
    bool trials = note_trials(s);
    if (r->nfresh > 0 || r->nleaving > 0 || changed || trials)
        keep_save(s->deps.keep,
                  r->wish == SWAP_ROLLBACK || r->wish == SWAP_ABORT || trials || s->draining);
}

/* ---- Names that need no probe ---------------------------------------------------------------- */

static void know_good(const struct kept *kept, void *arg)
{
    known_name_add(arg, kept->identity.sha256, kept->identity.plugin);
}

static void know_quarantined(const struct quarantined *q, void *arg)
{
    known_name_add(arg, q->identity.sha256, q->identity.plugin);
}

void kept_names(struct swap *s)
{
    keep_each(s->deps.keep, know_good, &s->known);
    keep_each_quarantined(s->deps.keep, know_quarantined, &s->known);
}
