/*
 * [loader] Where a scan meets the store: a file that is quarantined is left alone, and when nothing
 * of its plugin serves, the last good version takes its place, as it does at the start for a file
 * that was a canary or is to have a rollout; a known good file need not be probed; and a rollback
 * is a scan that looks at nothing but the store.
 */
#include "plugin/scan.h"

#include "base/log.h"
#include "plugin/preflight.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A canary of it was asked for after it had been quarantined: it was one when the process before
   ended, and is again, as long as something good serves beside it (hold_back). */
static bool is_tried(struct scan *s, const struct identity *identity)
{
    struct trial trial;
    return s->first && keep_is_on_trial(s->keep, identity, &trial);
}

bool scan_is_quarantined(struct scan *s, struct found *f, const struct config_plugin *cfg)
{
    struct identity identity;
    char reason[QUARANTINE_REASON_MAX];
    identity_set(&identity, f->plugin, f->sha256, cfg->config_sha256);
    bool meant = s->retry_only == NULL || strcmp(s->retry_only, f->plugin) == 0;
    if ((s->retry && meant) || is_tried(s, &identity) ||
        !keep_is_quarantined(s->keep, &identity, reason))
        return false;
    f->kind = FOUND_QUARANTINED;
    free(f->quarantined);
    f->quarantined = strdup(reason);
    return true;
}

/* What the probe would say, as far as anybody asks before it is loaded. */
static int describe(const struct kept *kept, struct descriptor *out)
{
    *out = (struct descriptor){ .name = strdup(kept->identity.plugin),
                                .version = strdup(kept->version),
                                .summary = strdup("") };
    if (out->name != NULL && out->version != NULL && out->summary != NULL)
        return 0;
    descriptor_fini(out);
    return -1;
}

bool scan_describe_good(struct scan *s, struct found *f)
{
    struct kept kept;
    const char *name = known_name(s->known, f->sha256);
    if (name == NULL ||
        !keep_find_file(s->keep, f->sha256, config_plugin(s->config, name)->config_sha256, &kept))
        return false;
    bool good = strcmp(kept.identity.plugin, name) == 0 && describe(&kept, &f->desc) == 0;
    kept_fini(&kept);
    return good;
}

static void unstage(struct scan *s, struct found *f)
{
    if (f->staged != NULL)
        stage_remove(s->stage, f->staged);
    free(f->staged);
    f->staged = NULL;
}

/* Makes `f` the kept version: staged, its hash proved, preflighted. 0; -1: it cannot be; 1: its
   file in the store is gone or is not what it was. */
static int take(struct scan *s, struct found *f, const struct kept *kept, struct err *err)
{
    struct preflight_report report;
    if (signature_wanted(&s->config->signatures) &&
        signature_of_signer(&s->config->signatures, kept->signer, err) != 0)
        return -1;
    memcpy(f->signer, kept->signer, sizeof f->signer);
    f->staged = calloc(1, sizeof *f->staged);
    if (f->staged == NULL)
        return err_set(err, "out of memory");
    int rc = keep_stage(s->keep, kept, s->stage, f->file, f->staged, err);
    if (rc != 0) {
        free(f->staged);
        f->staged = NULL;
        return rc;
    }
    rc = preflight(f->staged->path, &report, err);
    preflight_report_fini(&report);
    free(f->config_text);
    f->config_text = strdup(kept->config);
    descriptor_fini(&f->desc); /* of the file, when it had to be probed for its name */
    if (rc == 0 && (f->config_text == NULL || describe(kept, &f->desc) != 0))
        rc = err_set(err, "out of memory");
    if (rc != 0) {
        unstage(s, f);
        return -1;
    }
    memcpy(f->config_sha256, kept->identity.config_sha256, sizeof f->config_sha256);
    f->kind = FOUND_NEW;
    f->kept = true;
    return 0;
}

static bool serves(const struct scan *s, const char *plugin)
{
    for (size_t i = 0; i < s->nactive; i++)
        if (strcmp(s->active[i].plugin, plugin) == 0)
            return true;
    return false;
}

enum { TAKEN = 0, NOT_NOW = -1, NOT_USED = 1, FORGOTTEN = 2 };

/* For want of descriptors, memory or room it cannot be used now: then the scan fails, and the next
   one may have them. It is forgotten only when its file is not what was kept: what a key, a library
   or an older graftd keeps from it may come back. */
static int take_kept(struct scan *s, struct found *f, const struct kept *kept, struct err *out)
{
    struct err err;
    errno = 0;
    int rc = take(s, f, kept, &err), why = errno;
    if (rc == 0)
        return TAKEN;
    if (err_is_lack(why))
        return err_set(out, "plugin \"%s\": the kept version %.12s cannot be used now: %s",
                       kept->identity.plugin, kept->identity.sha256, err.text);
    log_msg(LOG_WARN, "plugin_warning", "plugin \"%s\": the kept version %.12s cannot be used: %s",
            kept->identity.plugin, kept->identity.sha256, err.text);
    if (rc < 0)
        return NOT_USED;
    keep_forget(s->keep, &kept->identity);
    return FORGOTTEN;
}

/* It could not be loaded by this process. */
static bool has_failed(struct scan *s, const struct identity *identity)
{
    char key[KNOWN_KEY];
    bool meant = s->retry_only == NULL || strcmp(s->retry_only, identity->plugin) == 0;
    known_key_identity(key, identity->sha256, identity->config_sha256);
    return !(s->retry && meant) && known_failure(s->known, key) != NULL;
}

static bool is_other(struct scan *s, const struct identity *identity, const void *but)
{
    (void)s;
    return !identity_same(identity, but);
}

static bool is_well(struct scan *s, const struct identity *identity, const void *arg)
{
    (void)arg;
    return !has_failed(s, identity);
}

/* The first that can be used and is `wanted` (NULL: any), from the newest on. */
static int take_good(struct scan *s, struct found *f,
                     bool (*wanted)(struct scan *s, const struct identity *identity,
                                    const void *arg),
                     const void *arg, struct err *err)
{
    struct kept kept;
    int rc = NOT_USED;
    for (size_t n = 0; rc > 0 && keep_find_nth(s->keep, f->plugin, n, &kept);) {
        bool is = wanted == NULL || wanted(s, &kept.identity, arg);
        rc = is ? take_kept(s, f, &kept, err) : NOT_USED;
        n += rc == NOT_USED;
        kept_fini(&kept);
    }
    return rc;
}

/* What failed is left alone as any file that did: its plugin is missing then. */
static int serve_kept(struct scan *s, struct found *f, struct err *err)
{
    return take_good(s, f, is_well, NULL, err) < 0 ? -1 : 0;
}

/* Not good yet: it was a canary when the process before ended, or has changed meanwhile and a
   rollout is wanted. */
static bool is_unjudged(struct scan *s, struct found *f, const struct identity *identity)
{
    struct kept good;
    const struct config_plugin *cfg = config_plugin(s->config, f->plugin);
    bool was_canary = keep_is_on_trial(s->keep, identity, &f->trial);
    if ((!was_canary && cfg->rollout == NULL) || keep_is_judged(s->keep, identity) ||
        !keep_find(s->keep, f->plugin, NULL, &good))
        return false;
    if (cfg->rollout != NULL && !f->trial.held)
        f->trial.identity.plugin[0] = '\0';
    bool unjudged = !identity_same(&good.identity, identity);
    kept_fini(&good);
    return unjudged;
}

/* The good version serves; the file, which is found again by the next scan, follows as a canary. */
static int serve_beside(struct scan *s, struct found *f, const struct identity *identity,
                        struct err *err)
{
    struct found instead = { .path = f->path, .file = f->file, .plugin = f->plugin };
    int rc = take_good(s, &instead, is_other, identity, err);
    if (rc != TAKEN) {
        descriptor_fini(&instead.desc);
        free(instead.config_text);
        return rc;
    }
    unstage(s, f);
    descriptor_fini(&f->desc);
    free(f->config_text);
    f->staged = instead.staged;
    f->desc = instead.desc;
    f->config_text = instead.config_text;
    memcpy(f->config_sha256, instead.config_sha256, sizeof f->config_sha256);
    memcpy(f->signer, instead.signer, sizeof f->signer);
    f->kept = f->waits = true;
    return TAKEN;
}

static int hold_back(struct scan *s, struct found *f, struct err *err)
{
    struct identity identity;
    char reason[QUARANTINE_REASON_MAX];
    int rc = NOT_USED;
    identity_set(&identity, f->plugin, f->sha256,
                 config_plugin(s->config, f->plugin)->config_sha256);
    if (is_unjudged(s, f, &identity))
        rc = serve_beside(s, f, &identity, err);
    if (rc > 0 && keep_is_quarantined(s->keep, &identity, reason)) {
        unstage(s, f);
        f->kind = FOUND_QUARANTINED;
        f->quarantined = strdup(reason);
    }
    return rc < 0 ? -1 : 0;
}

/* The good version serves, until there is another file. Its plugin may not be known: what it would
   have said is not. Where nothing else is good, what failed is tried again: so is the start. */
static int salvage(struct scan *s, struct found *f, struct err *err)
{
    struct kept good;
    if (f->plugin == NULL && keep_find_named(s->keep, f->file, &good)) {
        f->plugin = strdup(good.identity.plugin);
        kept_fini(&good);
        if (f->plugin == NULL)
            return err_set(err, "out of memory");
    }
    if (f->plugin == NULL)
        return 0;
    int rc = take_good(s, f, is_well, NULL, err);
    if (rc > 0)
        rc = take_good(s, f, NULL, NULL, err);
    return rc < 0 ? -1 : 0;
}

static bool is_refused(const struct found *f)
{
    return f->kind == FOUND_FAILED || f->kind == FOUND_FAILED_AGAIN;
}

int scan_serve_kept(struct scan *s, struct err *err)
{
    int rc = 0;
    for (size_t i = 0; i < s->nfound && rc == 0; i++) {
        struct found *f = &s->found[i];
        if (f->kind == FOUND_QUARANTINED && !serves(s, f->plugin))
            rc = serve_kept(s, f, err);
        else if (f->kind == FOUND_NEW && s->first)
            rc = hold_back(s, f, err);
        else if (is_refused(f) && s->first && s->salvage)
            rc = salvage(s, f, err);
    }
    return rc;
}

/* ---- Rollback -------------------------------------------------------------------------------- */

static int add_one(struct scan *s)
{
    const struct kept *kept = &s->revert;
    const char *slash = strrchr(s->revert_path, '/');
    struct found *f = calloc(1, sizeof *f);
    if (f == NULL)
        return -1;
    f->path = strdup(s->revert_path);
    f->file = strdup(slash != NULL ? slash + 1 : s->revert_path);
    f->plugin = strdup(kept->identity.plugin);
    f->kind = FOUND_DISABLED; /* until it is staged */
    memcpy(f->sha256, kept->identity.sha256, sizeof f->sha256);
    s->found = f;
    s->nfound = s->cap = 1;
    return f->path != NULL && f->file != NULL && f->plugin != NULL ? 0 : -1;
}

void scan_revert_work(struct job *job)
{
    ON_LOADER();
    struct scan *s = container_of(job, struct scan, job);
    struct err err;
    if (add_one(s) != 0) {
        job->rc = err_set(&job->err, "out of memory");
        return;
    }
    if (take(s, &s->found[0], &s->revert, &err) == 0)
        return;
    job->rc = err_set(&job->err, "plugin \"%s\": the kept version %.12s cannot be used: %s",
                      s->revert.identity.plugin, s->revert.identity.sha256, err.text);
}
