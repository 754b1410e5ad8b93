/*
 * What is known of good versions and the quarantine, and when it is written. One lock guards the
 * model; it is never held while a file is touched. One job at a time copies and one writes: what
 * changes meanwhile is left to the next one.
 */
#include "plugin/keep_private.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KEEP_MAGIC 0x6b656570u

struct keep {
    unsigned magic;
    pthread_mutex_t lock;
    struct keep_model model;   /* protected by lock */
    uint64_t changes, written; /* too: of the model; those that the index holds */
    struct keep_folder folder;
    pthread_mutex_t
        files; /* what comes into the folder of files and leaves it; never synced with it */
    bool usable, lasting;
    bool behind; /* another process of ours writes */

    /* Control's, but for what the jobs do. */
    struct loader *loader, *writer;
    struct event *later, *copy_later;
    void (*idle)(void *arg);
    void *arg;
    struct job copy, save; /* new files; all the rest */
    bool copying, copy_again, copy_failed;
    bool saving, save_again, save_behind; /* behind: as soon as files are copied */
    bool told;                            /* that it cannot be written, and it has not been since */
};

#define COPY_MS   20 /* the versions left behind go first */
#define LATER_MS  100
#define WRITER_MS 30000 /* has no meaning: no step of its jobs has a deadline */

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- A kept version -------------------------------------------------------------------------- */

void kept_fini(struct kept *kept)
{
    free(kept->version);
    free(kept->config);
    free(kept->file);
    free(kept->from);
    memset(kept, 0, sizeof *kept);
}

static bool copy(char **to, const char *from)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL;
}

bool kept_copy(struct kept *to, const struct kept *from)
{
    *to = (struct kept){ .identity = from->identity,
                         .since_ms = from->since_ms,
                         .stored = from->stored,
                         .synced = from->synced };
    memcpy(to->signer, from->signer, sizeof to->signer);
    bool all = copy(&to->version, from->version);
    all = copy(&to->config, from->config) && all;
    all = copy(&to->file, from->file) && all;
    all = copy(&to->from, from->from) && all;
    if (!all)
        kept_fini(to);
    return all;
}

/* ---- The model ------------------------------------------------------------------------------- */

void keep_model_init(struct keep_model *m)
{
    list_init(&m->plugins);
    m->nplugins = 0;
    quarantine_init(&m->quarantine);
}

static void plugin_free(struct keep_model *m, struct keep_plugin *p)
{
    list_del(&p->node);
    m->nplugins--;
    for (size_t i = 0; i < p->ngood; i++)
        kept_fini(&p->good[i]);
    free(p);
}

void keep_model_fini(struct keep_model *m)
{
    list_each_safe (it, &m->plugins)
        plugin_free(m, list_entry(it, struct keep_plugin, node));
    quarantine_fini(&m->quarantine);
}

static struct keep_plugin *find_plugin(const struct keep_model *m, const char *plugin)
{
    list_each (it, &m->plugins) {
        struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        if (strcmp(p->good[0].identity.plugin, plugin) == 0)
            return p;
    }
    return NULL;
}

static void drop(struct keep_plugin *p, size_t at)
{
    kept_fini(&p->good[at]);
    p->ngood--;
    memmove(&p->good[at], &p->good[at + 1], (p->ngood - at) * sizeof p->good[0]);
}

static struct keep_plugin *add_plugin(struct keep_model *m)
{
    struct keep_plugin *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    list_init(&p->node);
    if (m->nplugins >= KEEP_PLUGINS)
        plugin_free(m, list_entry(m->plugins.prev, struct keep_plugin, node));
    m->nplugins++;
    return p;
}

bool keep_model_good(struct keep_model *m, const struct kept *kept)
{
    struct kept mine;
    if (!kept_copy(&mine, kept))
        return false;
    struct keep_plugin *p = find_plugin(m, kept->identity.plugin);
    if (p == NULL && (p = add_plugin(m)) == NULL) {
        kept_fini(&mine);
        return false;
    }
    for (size_t i = 0; i < p->ngood; i++)
        if (identity_same(&p->good[i].identity, &kept->identity)) {
            mine.stored = mine.stored || p->good[i].stored;
            mine.synced = mine.synced || p->good[i].synced;
            drop(p, i);
            break;
        }
    if (p->ngood == KEEP_GOOD)
        drop(p, KEEP_GOOD - 1);
    memmove(&p->good[1], &p->good[0], p->ngood * sizeof p->good[0]);
    p->good[0] = mine;
    p->ngood++;
    list_del(&p->node);
    list_add_head(&m->plugins, &p->node);
    quarantine_remove(&m->quarantine, &kept->identity);
    return true;
}

bool keep_model_forget(struct keep_model *m, const struct identity *identity)
{
    struct keep_plugin *p = find_plugin(m, identity->plugin);
    for (size_t i = 0; p != NULL && i < p->ngood; i++) {
        if (!identity_same(&p->good[i].identity, identity))
            continue;
        if (p->ngood == 1)
            plugin_free(m, p);
        else
            drop(p, i);
        return true;
    }
    return false;
}

/* By the model, or, when that has changed, perhaps by the index: then the next sweep decides. */
static bool is_wanted(const char *name, void *arg)
{
    struct keep *k = arg;
    pthread_mutex_lock(&k->lock);
    bool wanted = k->changes != k->written;
    list_each (it, &k->model.plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        for (size_t i = 0; i < p->ngood; i++)
            wanted = wanted || strcmp(p->good[i].identity.sha256, name) == 0;
    }
    pthread_mutex_unlock(&k->lock);
    return wanted;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void close_folder(struct keep *k)
{
    keep_folder_close(&k->folder);
    k->usable = k->lasting = false;
}

/* 0: what it says is in the model, or it said nothing; -1: the folder is not for us. */
static int read_index(struct keep *k, struct err *err)
{
    struct buf text = { 0 };
    bool newer = false;
    char name[PATH_MAX + 16];
    snprintf(name, sizeof name, "%s/index.json", k->folder.path);
    int rc = keep_folder_read(&k->folder, &text, err);
    if (rc == 0)
        rc = keep_index_read(name, buf_str(&text).ptr, text.len, &k->model, &newer, err);
    buf_fini(&text);
    if (rc >= 0)
        return 0;
    if (newer)
        return -1;
    struct err why = *err;
    if (keep_folder_set_aside(&k->folder, err) != 0)
        return -1;
    log_msg(LOG_WARN, "state",
            "what was kept and quarantined is lost: %s; it is moved to index.json.bad and kept "
            "anew from here on",
            why.text);
    return 0;
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

static void open_lasting(struct keep *k, const char *configured)
{
    struct err err;
    int rc = keep_folder_open(&k->folder, configured, !k->behind, &err);
    if (rc == 0) {
        k->usable = k->lasting = true;
        rc = read_index(k, &err);
        if (rc == 0) {
            forget_missing(k);
            if (!k->behind)
                keep_folder_sweep(&k->folder, is_wanted, k);
            return;
        }
        close_folder(k);
    }
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
    if (keep_folder_inside(&k->folder, stage, &err) != 0 || read_index(k, &err) != 0) {
        log_msg(LOG_WARN, "state", "good versions cannot be kept: %s", err.text);
        close_folder(k);
        return;
    }
    k->usable = true;
    forget_missing(k);
    if (!k->behind)
        keep_folder_sweep(&k->folder, is_wanted, k);
}

static struct keep *open_store(const char *configured, struct stage *stage, bool behind)
{
    struct keep *k = calloc(1, sizeof *k);
    if (k == NULL)
        return NULL;
    k->magic = KEEP_MAGIC;
    k->behind = behind;
    pthread_mutex_init(&k->lock, NULL);
    pthread_mutex_init(&k->files, NULL);
    keep_model_init(&k->model);
    open_lasting(k, configured);
    if (k->lasting)
        return k;
    open_inside(k, stage);
    return k;
}

struct keep *keep_open(const char *configured, struct stage *stage)
{
    return open_store(configured, stage, false);
}

struct keep *keep_open_behind(const char *configured, struct stage *stage)
{
    return open_store(configured, stage, true);
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

void keep_good(struct keep *k, const struct kept *kept)
{
    if (k == NULL)
        return;
    CHECK(k, KEEP_MAGIC);
    struct kept mine = *kept;
    mine.stored = mine.synced = false;
    mine.since_ms = now_ms();
    pthread_mutex_lock(&k->lock);
    bool forgiven = quarantine_find(&k->model.quarantine, &kept->identity) != NULL;
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
    bool done = quarantine_add(&k->model.quarantine, identity, reason, evidence, now_ms());
    if (done)
        keep_model_forget(&k->model, identity);
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

bool keep_find(struct keep *k, const char *plugin, const struct identity *but, struct kept *out)
{
    bool found = false;
    if (k == NULL)
        return false;
    pthread_mutex_lock(&k->lock);
    const struct keep_plugin *p = find_plugin(&k->model, plugin);
    for (size_t i = 0; p != NULL && i < p->ngood && !found; i++)
        if (but == NULL || !identity_same(&p->good[i].identity, but))
            found = kept_copy(out, &p->good[i]);
    pthread_mutex_unlock(&k->lock);
    return found;
}

bool keep_find_file(struct keep *k, const char *sha256, const char *config_sha256, struct kept *out)
{
    bool found = false;
    if (k == NULL)
        return false;
    pthread_mutex_lock(&k->lock);
    list_each (it, &k->model.plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        for (size_t i = 0; i < p->ngood && !found; i++) {
            const struct identity *identity = &p->good[i].identity;
            if (strcmp(identity->sha256, sha256) == 0 &&
                (config_sha256 == NULL || strcmp(identity->config_sha256, config_sha256) == 0))
                found = kept_copy(out, &p->good[i]);
        }
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

/* ---- Writing: the loader --------------------------------------------------------------------- */

static bool not_stored(const struct kept *kept)
{
    return !kept->stored && kept->from != NULL;
}

static bool not_synced(const struct kept *kept)
{
    return kept->stored && !kept->synced;
}

/* One of those, the first `skip` left out. False: there is none. */
static bool next_that(struct keep *k, bool (*is)(const struct kept *), size_t skip,
                      struct kept *out)
{
    bool found = false;
    size_t n = 0;
    pthread_mutex_lock(&k->lock);
    list_each (it, &k->model.plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        for (size_t i = 0; i < p->ngood && !found; i++)
            if (is(&p->good[i]) && n++ == skip)
                found = kept_copy(out, &p->good[i]);
    }
    pthread_mutex_unlock(&k->lock);
    return found;
}

static void mark(struct keep *k, const char *sha256, bool synced)
{
    pthread_mutex_lock(&k->lock);
    list_each (it, &k->model.plugins) {
        struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        for (size_t i = 0; i < p->ngood; i++)
            if (strcmp(p->good[i].identity.sha256, sha256) == 0) {
                p->good[i].stored = true;
                p->good[i].synced = p->good[i].synced || synced;
            }
    }
    pthread_mutex_unlock(&k->lock);
}

/* Its version was unloaded before it could be copied, which was told when it was tried. */
static void give_up(struct keep *k, const struct identity *identity)
{
    pthread_mutex_lock(&k->lock);
    struct keep_plugin *p = find_plugin(&k->model, identity->plugin);
    for (size_t i = 0; p != NULL && i < p->ngood; i++)
        if (identity_same(&p->good[i].identity, identity)) {
            free(p->good[i].from);
            p->good[i].from = NULL;
        }
    pthread_mutex_unlock(&k->lock);
}

/* 0, -1, or 1: there is nothing to copy it from any more. */
static int copy_file(struct keep *k, const struct kept *kept, struct err *err)
{
    const char *sha256 = kept->identity.sha256;
    pthread_mutex_lock(&k->files);
    int rc = keep_folder_has(&k->folder, sha256)
                 ? 0
                 : keep_folder_add(&k->folder, sha256, kept->from, err);
    if (rc == 0)
        mark(k, sha256, false);
    pthread_mutex_unlock(&k->files);
    return rc;
}

/* A file that cannot be copied does not keep the others from it. */
static int copy_files(struct keep *k, struct err *err)
{
    struct kept kept;
    size_t skip = 0;
    while (next_that(k, not_stored, skip, &kept)) {
        struct err why;
        int rc = copy_file(k, &kept, &why);
        if (rc > 0)
            give_up(k, &kept.identity);
        if (rc < 0) {
            skip++;
            *err = why;
        }
        kept_fini(&kept);
    }
    return skip == 0 ? 0 : -1;
}

static int sync_files(struct keep *k, struct err *err)
{
    struct kept kept;
    while (next_that(k, not_synced, 0, &kept)) {
        int rc = keep_folder_sync(&k->folder, kept.identity.sha256, err);
        if (rc == 0)
            mark(k, kept.identity.sha256, true);
        kept_fini(&kept);
        if (rc != 0)
            return -1;
    }
    return 0;
}

static int write_index(struct keep *k, struct err *err)
{
    struct buf text = { 0 };
    pthread_mutex_lock(&k->lock);
    int rc = keep_index_write(&k->model, &text);
    uint64_t changes = k->changes;
    pthread_mutex_unlock(&k->lock);
    rc = rc != 0 ? err_set(err, "out of memory") : keep_folder_write(&k->folder, &text, err);
    buf_fini(&text);
    pthread_mutex_lock(&k->lock);
    if (rc == 0)
        k->written = changes;
    pthread_mutex_unlock(&k->lock);
    return rc;
}

/* Files first: an index never names one that is not there. What the old one names goes last. */
static int write_disk(struct keep *k, struct err *err)
{
    if (sync_files(k, err) != 0 || write_index(k, err) != 0)
        return -1;
    pthread_mutex_lock(&k->files);
    keep_folder_sweep(&k->folder, is_wanted, k);
    pthread_mutex_unlock(&k->files);
    return 0;
}

int keep_flush(struct keep *k, struct err *err)
{
    struct err why;
    if (k == NULL || !k->usable || k->behind)
        return 0;
    int copied = copy_files(k, err);
    if (write_disk(k, &why) == 0)
        return copied;
    *err = why;
    return -1;
}

static void copy_work(struct job *job)
{
    ON_LOADER();
    job->rc = copy_files(container_of(job, struct keep, copy), &job->err);
}

static void save_work(struct job *job)
{
    ON_LOADER();
    job->rc = write_disk(container_of(job, struct keep, save), &job->err);
}

int keep_stage(struct keep *k, const struct kept *kept, struct stage *stage, const char *base,
               struct staged *out, struct err *err)
{
    if (!k->usable || !keep_folder_has(&k->folder, kept->identity.sha256))
        return err_set(err, "its file is not in the store%s%s", k->usable ? " " : "",
                       k->usable ? k->folder.path : "");
    if (stage_copy_as(stage, k->folder.files_fd, kept->identity.sha256, base, out, err) != STAGE_OK)
        return -1;
    if (strcmp(out->sha256, kept->identity.sha256) == 0)
        return 0;
    stage_remove(stage, out);
    return err_set(err, "its file in the store has been changed: SHA-256 is %.12s, expected %.12s",
                   out->sha256, kept->identity.sha256);
}

/* ---- Writing: control ------------------------------------------------------------------------ */

static void submit(struct loader *loader, struct job *job, void (*work)(struct job *),
                   void (*done)(struct job *))
{
    job->work = work;
    job->done = done;
    job->hung = NULL; /* no plugin's code runs in it */
    job->loads = false;
    loader_submit(loader, job);
}

static void save_now(struct keep *k);

static void tell_failed(struct keep *k, const struct err *err)
{
    if (!k->told)
        log_msg(LOG_WARN, "state",
                "good versions and the quarantine cannot be written: %s: what serves is not "
                "touched; it is tried again with the next change",
                err->text);
    k->told = true;
}

static void end_job(struct keep *k)
{
    if (!keep_writes(k) && k->idle != NULL)
        k->idle(k->arg);
}

/* What it has copied is to be written, unless that waits anyway. */
static void copied(struct job *job)
{
    ON_CONTROL();
    struct keep *k = container_of(job, struct keep, copy);
    k->copying = false;
    k->copy_failed = job->rc != 0;
    if (k->copy_failed)
        tell_failed(k, &job->err);
    if (k->copy_again) {
        k->copy_again = false;
        k->copying = true;
        submit(k->loader, &k->copy, copy_work, copied);
    } else if (k->save_behind) {
        save_now(k);
    }
    end_job(k);
}

static void saved(struct job *job)
{
    ON_CONTROL();
    struct keep *k = container_of(job, struct keep, save);
    k->saving = false;
    if (job->rc != 0) {
        tell_failed(k, &job->err);
    } else if (k->told && !k->copy_failed) {
        log_msg(LOG_INFO, "state", "good versions and the quarantine are written again");
        k->told = false;
    }
    if (k->save_again)
        save_now(k);
    end_job(k);
}

static void save_now(struct keep *k)
{
    k->save_behind = k->copying;
    k->save_again = k->saving && !k->copying;
    if (k->saving || k->copying)
        return;
    k->saving = true;
    submit(k->writer, &k->save, save_work, saved);
}

static void copy_now(struct keep *k)
{
    struct kept kept;
    event_del(k->copy_later);
    if (!next_that(k, not_stored, 0, &kept))
        return;
    kept_fini(&kept);
    k->copy_again = k->copying;
    if (!k->copying)
        submit(k->loader, &k->copy, copy_work, copied);
    k->copying = true;
}

static void late(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    save_now(arg);
}

static void copy_late(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    copy_now(arg);
}

static int after(struct event *timer, unsigned ms)
{
    struct timeval delay = { .tv_usec = (suseconds_t)ms * 1000 };
    return event_add(timer, &delay);
}

int keep_start(struct keep *k, struct loader *loader, struct event_base *base,
               struct inbox *control, void (*idle)(void *arg), void *arg, struct err *err)
{
    ON_CONTROL();
    if (k == NULL || !k->usable)
        return 0;
    CHECK(k, KEEP_MAGIC);
    k->loader = loader;
    k->idle = idle;
    k->arg = arg;
    k->later = evtimer_new(base, late, k);
    k->copy_later = evtimer_new(base, copy_late, k);
    if (k->later == NULL || k->copy_later == NULL)
        return err_set(err, "out of memory");
    return loader_open(&k->writer, base, control, WRITER_MS, err);
}

bool keep_writes(const struct keep *k)
{
    return k != NULL && (k->copying || k->saving);
}

/* A file that waits to be copied is copied before its version is left behind by the next one. */
void keep_save(struct keep *k, bool now)
{
    ON_CONTROL();
    if (k == NULL || !k->usable || k->behind)
        return;
    CHECK(k, KEEP_MAGIC);
    if (now || evtimer_pending(k->copy_later, NULL) || after(k->copy_later, COPY_MS) != 0)
        copy_now(k);
    if (now || (!evtimer_pending(k->later, NULL) && after(k->later, LATER_MS) != 0))
        save_now(k);
}

void keep_stop(struct keep *k)
{
    ON_CONTROL();
    if (k == NULL || !k->usable || k->behind)
        return;
    copy_now(k);
    if (!evtimer_pending(k->later, NULL))
        return;
    event_del(k->later);
    save_now(k);
}

void keep_yield(struct keep *k)
{
    ON_CONTROL();
    if (k == NULL || !k->usable)
        return;
    REQUIRE(!keep_writes(k));
    event_del(k->later);
    event_del(k->copy_later);
    k->behind = true;
    if (k->folder.lock_fd >= 0)
        close(k->folder.lock_fd);
    k->folder.lock_fd = -1;
}

int keep_take(struct keep *k, struct err *err)
{
    ON_CONTROL();
    if (k == NULL || !k->usable || !k->behind)
        return 0;
    if (k->lasting && keep_folder_lock(&k->folder, err) != 0)
        return -1;
    k->behind = false;
    keep_save(k, true);
    return 0;
}
