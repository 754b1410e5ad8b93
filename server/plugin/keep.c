/*
 * The store opened and closed, what is told to it and what it is asked. One lock guards the model;
 * it is never held while a file is touched.
 */
#include "plugin/keep_private.h"
#include "plugin/verdict.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t keep_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void close_folder(struct keep *k)
{
    keep_folder_close(&k->folder);
    k->usable = k->lasting = false;
}

/* With more descriptors or memory it would have been read. */
static void note_lack(struct keep *k, const struct err *why)
{
    k->lacking = true;
    k->lacks = *why;
}

int keep_set_aside(struct keep *k, struct err *err)
{
    struct err why;
    if (!k->unread)
        return 0;
    if (keep_folder_set_aside(&k->folder, &why) != 0)
        return err_set(err, "%s", why.text);
    log_msg(LOG_WARN, "state",
            "what was kept and quarantined is lost: %s; it is moved to index.json.bad and kept "
            "anew from here on",
            k->why_unread.text);
    k->unread = false;
    return 0;
}

/* 0: what it says is in the model, or it said nothing; -1: the folder is not for us. */
static int read_index(struct keep *k, struct err *err)
{
    struct buf text = { 0 };
    bool newer = false;
    char name[PATH_MAX + 16];
    snprintf(name, sizeof name, "%s/index.json", k->folder.path);
    errno = 0;
    int rc = keep_folder_read(&k->folder, &text, err);
    if (rc == 0)
        rc = keep_index_read(name, buf_str(&text).ptr, text.len, &k->model, &newer, err);
    int why = errno;
    buf_fini(&text);
    if (rc >= 0)
        return 0;
    if (err_is_lack(why)) {
        note_lack(k, err);
        return -1;
    }
    if (newer)
        return -1;
    k->unread = true;
    k->why_unread = *err;
    return k->behind ? 0 : keep_set_aside(k, err);
}

/* A file that somebody took away is no version to go back to. */
static void forget_missing(struct keep *k)
{
    list_each_safe (it, &k->model.plugins) {
        struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        size_t n = p->ngood;
        for (size_t i = n; i-- > 0;) {
            struct identity identity = p->good[i].identity;
            if (keep_folder_has(&k->folder, identity.sha256))
                continue;
            log_msg(LOG_WARN, "state",
                    "%s/files/%s is gone: this version of plugin \"%s\" is not kept any more",
                    k->folder.path, identity.sha256, identity.plugin);
            keep_model_forget(&k->model, &identity);
            if (--n == 0)
                break; /* p is freed */
        }
    }
}

static void open_lasting(struct keep *k, const char *configured, int lock)
{
    struct err err;
    errno = 0;
    int rc = keep_folder_open(&k->folder, configured, lock, k->behind, &err);
    if (rc < 0 && err_is_lack(errno) && errno != ENOSPC && errno != EDQUOT)
        note_lack(k, &err);
    if (rc == 0) {
        k->usable = k->lasting = true;
        rc = read_index(k, &err);
        if (rc == 0) {
            forget_missing(k);
            if (!k->behind)
                keep_folder_sweep(&k->folder, keep_is_wanted, k);
            return;
        }
        close_folder(k);
    }
    if (k->lacking)
        return;
    if (rc > 0)
        log_msg(LOG_INFO, "state",
                "no state folder: good versions and the quarantine are kept "
                "until the restart: set state_dir");
    else
        log_msg(LOG_WARN, "state",
                "good versions and the quarantine are kept until the restart only: %s", err.text);
}

/* As long as there is that stage folder, which may outlive a process that crashed. */
static void open_inside(struct keep *k, struct stage *stage)
{
    struct err err;
    errno = 0;
    if (keep_folder_inside(&k->folder, stage, k->behind, &err) != 0) {
        if (err_is_lack(errno) && errno != ENOSPC && errno != EDQUOT)
            note_lack(k, &err);
        else
            log_msg(LOG_WARN, "state", "good versions cannot be kept: %s", err.text);
        return;
    }
    if (read_index(k, &err) != 0) {
        if (!k->lacking)
            log_msg(LOG_WARN, "state", "good versions cannot be kept: %s", err.text);
        close_folder(k);
        return;
    }
    k->usable = true;
    forget_missing(k);
    if (!k->behind)
        keep_folder_sweep(&k->folder, keep_is_wanted, k);
}

/* Without a file that it could be served from again: that is the folder's. */
static void take_good(struct keep *k, const struct identity *identity)
{
    quarantine_remove(&k->model.quarantine, identity);
    trials_end(&k->model.trials, identity);
    memmove(&k->judged[1], &k->judged[0], sizeof k->judged - sizeof k->judged[0]);
    k->judged[0] = *identity;
}

static void take_trial(struct keep *k, const struct verdict *v)
{
    const struct trial trial = { .identity = v->identity,
                                 .weight = v->weight,
                                 .held = v->held != 0,
                                 .shadow_asked = v->shadow > 0,
                                 .shadow = v->shadow > 0 ? v->shadow - 1 : 0 };
    trials_set(&k->model.trials, &trial);
}

/* What the process before had answered and had not written. */
static void take_verdict(const struct verdict *v, void *arg)
{
    struct keep *k = arg;
    k->changes++;
    switch (v->kind) {
    case VERDICT_BAD:
        if (quarantine_find(&k->model.quarantine, &v->identity) == NULL)
            quarantine_add(&k->model.quarantine, &v->identity, v->reason, NULL, v->when_ms);
        keep_model_forget(&k->model, &v->identity);
        trials_end(&k->model.trials, &v->identity);
        break;
    case VERDICT_GOOD:
        take_good(k, &v->identity);
        break;
    case VERDICT_TRIAL:
        take_trial(k, v);
        break;
    default:
        trials_end(&k->model.trials, &v->identity);
    }
}

static struct keep *open_store(const char *configured, struct stage *stage, int lock, bool behind)
{
    struct keep *k = calloc(1, sizeof *k);
    if (k == NULL)
        return NULL;
    k->magic = KEEP_MAGIC;
    k->behind = behind;
    pthread_mutex_init(&k->lock, NULL);
    pthread_mutex_init(&k->files, NULL);
    keep_model_init(&k->model);
    open_lasting(k, configured, lock);
    if (k->lacking)
        return k;
    if (!k->lasting)
        open_inside(k, stage);
    verdicts_each(take_verdict, k);
    return k;
}

struct keep *keep_open(const char *configured, struct stage *stage, int lock)
{
    return open_store(configured, stage, lock, false);
}

struct keep *keep_open_behind(const char *configured, struct stage *stage, int lock)
{
    return open_store(configured, stage, lock, true);
}

bool keep_lacks(const struct keep *k, struct err *err)
{
    if (k->lacking)
        *err = k->lacks;
    return k->lacking;
}

void keep_close(struct keep *k)
{
    if (k == NULL)
        return;
    CHECK(k, KEEP_MAGIC);
    if (k->later != NULL)
        event_free(k->later);
    if (k->copy_later != NULL)
        event_free(k->copy_later);
    loader_close(&k->writer);
    keep_model_fini(&k->model);
    keep_folder_close(&k->folder);
    pthread_mutex_destroy(&k->lock);
    pthread_mutex_destroy(&k->files);
    k->magic = 0;
    free(k);
}

const char *keep_path(const struct keep *k)
{
    return k != NULL && k->lasting ? k->folder.path : NULL;
}

/* ---- Changes --------------------------------------------------------------------------------- */

static bool is_judged(const struct keep *k, const struct identity *identity)
{
    bool found = false;
    for (size_t i = 0; i < ARRAY_LEN(k->judged) && !found; i++)
        found = identity_same(&k->judged[i], identity);
    return found;
}

void keep_good(struct keep *k, const struct kept *kept)
{
    if (k == NULL)
        return;
    CHECK(k, KEEP_MAGIC);
    struct kept mine = *kept;
    mine.stored = mine.synced = false;
    mine.since_ms = keep_now_ms();
    pthread_mutex_lock(&k->lock);
    bool forgiven = quarantine_find(&k->model.quarantine, &kept->identity) != NULL;
    if (forgiven || is_judged(k, &kept->identity) ||
        trials_find(&k->model.trials, &kept->identity) != NULL)
        verdict_good(&kept->identity, mine.since_ms);
    bool done = keep_model_good(&k->model, &mine);
    k->changes++;
    pthread_mutex_unlock(&k->lock);
    if (done && forgiven)
        log_msg(LOG_INFO, "state", "plugin \"%s\" %.12s serves and is not quarantined any more",
                kept->identity.plugin, kept->identity.sha256);
    if (!done)
        log_msg(LOG_WARN, "state", "out of memory: a version of plugin \"%s\" is not kept",
                kept->identity.plugin);
}

bool keep_is_judged(struct keep *k, const struct identity *identity)
{
    if (k == NULL)
        return false;
    pthread_mutex_lock(&k->lock);
    bool found = is_judged(k, identity);
    pthread_mutex_unlock(&k->lock);
    return found;
}

void keep_forget(struct keep *k, const struct identity *identity)
{
    if (k == NULL)
        return;
    pthread_mutex_lock(&k->lock);
    keep_model_forget(&k->model, identity);
    k->changes++;
    pthread_mutex_unlock(&k->lock);
}

static void log_quarantine(const struct identity *identity, const char *reason,
                           const char *evidence)
{
    struct log_line line;
    log_begin(&line, LOG_WARN, "quarantine", "%s %.12s is quarantined: %s", identity->plugin,
              identity->sha256, reason);
    log_z(&line, "plugin", identity->plugin);
    log_z(&line, "sha256", identity->sha256);
    log_z(&line, "config_sha256", identity->config_sha256);
    log_z(&line, "reason", reason);
    if (evidence != NULL)
        log_raw(&line, "evidence", str_of(evidence));
    log_end(&line);
}

void keep_quarantine(struct keep *k, const struct identity *identity, const char *reason,
                     const char *evidence)
{
    if (k == NULL)
        return;
    CHECK(k, KEEP_MAGIC);
    pthread_mutex_lock(&k->lock);
    bool done = quarantine_add(&k->model.quarantine, identity, reason, evidence, keep_now_ms());
    verdict_bad(identity, reason, keep_now_ms());
    if (done) {
        keep_model_forget(&k->model, identity);
        trials_end(&k->model.trials, identity);
    }
    k->changes++;
    pthread_mutex_unlock(&k->lock);
    if (done)
        log_quarantine(identity, reason, evidence);
    else
        log_msg(LOG_ERROR, "state", "out of memory: plugin \"%s\" %.12s is not quarantined",
                identity->plugin, identity->sha256);
}

bool keep_crash(struct keep *k, const struct identity *identity, int64_t when_ms,
                unsigned window_ms, const char *evidence)
{
    char reason[128];
    if (k == NULL)
        return false;
    CHECK(k, KEEP_MAGIC);
    if (!identity_is_whole(identity)) {
        log_msg(LOG_WARN, "state",
                "a crash of plugin \"%s\" is not noted: nobody knows of which file",
                identity->plugin);
        return false;
    }
    pthread_mutex_lock(&k->lock);
    bool again = crash_note(&k->model.quarantine, identity, when_ms, window_ms);
    pthread_mutex_unlock(&k->lock);
    if (!again)
        return false;
    snprintf(reason, sizeof reason, "it crashed the server twice within %u ms", window_ms);
    keep_quarantine(k, identity, reason, evidence);
    return true;
}

/* ---- Questions ------------------------------------------------------------------------------- */

bool keep_is_quarantined(struct keep *k, const struct identity *identity,
                         char reason[QUARANTINE_REASON_MAX])
{
    if (k == NULL)
        return false;
    pthread_mutex_lock(&k->lock);
    const struct quarantined *q = quarantine_find(&k->model.quarantine, identity);
    if (q != NULL)
        memcpy(reason, q->reason, sizeof q->reason);
    pthread_mutex_unlock(&k->lock);
    return q != NULL;
}

bool keep_pick(struct keep *k, bool (*is)(const struct kept *kept, const void *arg),
               const void *arg, size_t skip, struct kept *out)
{
    bool found = false;
    size_t n = 0;
    if (k == NULL)
        return false;
    pthread_mutex_lock(&k->lock);
    list_each (it, &k->model.plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        for (size_t i = 0; i < p->ngood && !found; i++)
            if (is(&p->good[i], arg) && n++ == skip)
                found = kept_copy(out, &p->good[i]);
    }
    pthread_mutex_unlock(&k->lock);
    return found;
}

static bool is_of(const struct kept *kept, const void *plugin)
{
    return strcmp(kept->identity.plugin, plugin) == 0;
}

bool keep_find_nth(struct keep *k, const char *plugin, size_t n, struct kept *out)
{
    return keep_pick(k, is_of, plugin, n, out);
}

struct wanted {
    const char *plugin;
    const struct identity *but;
};

static bool is_but(const struct kept *kept, const void *arg)
{
    const struct wanted *w = arg;
    return strcmp(kept->identity.plugin, w->plugin) == 0 &&
           (w->but == NULL || !identity_same(&kept->identity, w->but));
}

bool keep_find(struct keep *k, const char *plugin, const struct identity *but, struct kept *out)
{
    return keep_pick(k, is_but, &(struct wanted){ plugin, but }, 0, out);
}

struct wanted_file {
    const char *sha256, *config_sha256;
};

static bool is_file(const struct kept *kept, const void *arg)
{
    const struct wanted_file *w = arg;
    return strcmp(kept->identity.sha256, w->sha256) == 0 &&
           (w->config_sha256 == NULL ||
            strcmp(kept->identity.config_sha256, w->config_sha256) == 0);
}

bool keep_find_file(struct keep *k, const char *sha256, const char *config_sha256, struct kept *out)
{
    return keep_pick(k, is_file, &(struct wanted_file){ sha256, config_sha256 }, 0, out);
}

bool keep_find_named(struct keep *k, const char *file, struct kept *out)
{
    bool found = false;
    if (k == NULL)
        return false;
    pthread_mutex_lock(&k->lock);
    list_each (it, &k->model.plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        if (!found && p->good[0].file != NULL && strcmp(p->good[0].file, file) == 0)
            found = kept_copy(out, &p->good[0]);
    }
    pthread_mutex_unlock(&k->lock);
    return found;
}

void keep_each(struct keep *k, void (*fn)(const struct kept *kept, void *arg), void *arg)
{
    if (k == NULL)
        return;
    pthread_mutex_lock(&k->lock);
    list_each (it, &k->model.plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        for (size_t i = 0; i < p->ngood; i++)
            fn(&p->good[i], arg);
    }
    pthread_mutex_unlock(&k->lock);
}

void keep_each_quarantined(struct keep *k, void (*fn)(const struct quarantined *q, void *arg),
                           void *arg)
{
    if (k == NULL)
        return;
    pthread_mutex_lock(&k->lock);
    list_each (it, &k->model.quarantine.list)
        fn(list_entry(it, struct quarantined, node), arg);
    pthread_mutex_unlock(&k->lock);
}

size_t keep_quarantined(struct keep *k)
{
    if (k == NULL)
        return 0;
    pthread_mutex_lock(&k->lock);
    size_t n = k->model.quarantine.count;
    pthread_mutex_unlock(&k->lock);
    return n;
}
