/*
 * When and how the store is written. One job at a time copies and one writes: what changes
 * meanwhile is left to the next one.
 */
#include "plugin/keep_private.h"
#include "plugin/verdict.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define COPY_MS   20 /* the versions left behind go first */
#define LATER_MS  100
#define RETRY_MS  1000
#define WRITER_MS 30000 /* has no meaning: no step of its jobs has a deadline */

bool keep_is_wanted(const char *name, void *arg)
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

/* ---- Writing: the loader --------------------------------------------------------------------- */

static bool not_stored(const struct kept *kept, const void *arg)
{
    (void)arg;
    return !kept->stored && kept->from != NULL;
}

static bool not_synced(const struct kept *kept, const void *arg)
{
    (void)arg;
    return kept->stored && !kept->synced;
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
    struct keep_plugin *p = keep_model_plugin(&k->model, identity->plugin);
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
    while (keep_pick(k, not_stored, NULL, skip, &kept)) {
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
    while (keep_pick(k, not_synced, NULL, 0, &kept)) {
        int rc = keep_folder_sync(&k->folder, kept.identity.sha256, err);
        if (rc == 0)
            mark(k, kept.identity.sha256, true);
        kept_fini(&kept);
        if (rc != 0)
            return -1;
    }
    return 0;
}

/* Of the good versions, that is. Those that are still to be copied are not in what is written now:
   of a version that was promoted nothing but the verdict says so until then. */
static bool is_whole(struct keep *k)
{
    list_each (it, &k->model.plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        for (size_t i = 0; i < p->ngood; i++)
            if (!p->good[i].synced && (p->good[i].stored || p->good[i].from != NULL))
                return false;
    }
    return true;
}

/* What another process has taken over is its to write: here it is not, and is not called so. */
static int write_index(struct keep *k, struct err *err)
{
    struct buf text = { 0 };
    pthread_mutex_lock(&k->lock);
    int rc = keep_index_write(&k->model, &text);
    uint64_t changes = k->changes, told = verdicts_added();
    bool whole = is_whole(k);
    pthread_mutex_unlock(&k->lock);
    rc = rc != 0 ? err_set(err, "out of memory") : keep_folder_write(&k->folder, &text, err);
    buf_fini(&text);
    pthread_mutex_lock(&k->lock);
    if (rc == 0) {
        k->written = changes;
        if (whole)
            verdicts_written(told);
    }
    pthread_mutex_unlock(&k->lock);
    return rc < 0 ? -1 : 0;
}

/* Files first: an index never names one that is not there. What the old one names goes last. */
static int write_disk(struct keep *k, struct err *err)
{
    if (sync_files(k, err) != 0 || write_index(k, err) != 0)
        return -1;
    pthread_mutex_lock(&k->files);
    keep_folder_sweep(&k->folder, keep_is_wanted, k);
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
    if (!k->usable || !keep_folder_has(&k->folder, kept->identity.sha256)) {
        err_set(err, "its file is not in the store%s%s", k->usable ? " " : "",
                k->usable ? k->folder.path : "");
        return k->usable ? 1 : -1;
    }
    enum stage_result rc =
        stage_copy_as(stage, k->folder.files_fd, kept->identity.sha256, base, out, err);
    if (rc != STAGE_OK)
        return rc == STAGE_INCOMPLETE ? 1 : -1;
    if (strcmp(out->sha256, kept->identity.sha256) == 0)
        return 0;
    stage_remove(stage, out);
    err_set(err, "its file in the store has been changed: SHA-256 is %.12s, expected %.12s",
            out->sha256, kept->identity.sha256);
    return 1;
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

static int after(struct event *timer, unsigned ms)
{
    struct timeval delay = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };
    return event_add(timer, &delay);
}

/* What could not be written is, some time, without another change. Not in a drain, which waits for
   nothing that cannot be. */
static void retry(struct keep *k)
{
    if (k->stopped || k->behind || evtimer_pending(k->later, NULL))
        return;
    k->retrying = after(k->later, RETRY_MS) == 0;
}

static void tell_failed(struct keep *k, const struct err *err)
{
    if (!k->told)
        log_msg(LOG_WARN, "state",
                "good versions and the quarantine cannot be written: %s: what serves is not "
                "touched; it is tried again every second",
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
    if (k->copy_failed) {
        tell_failed(k, &job->err);
        retry(k);
    }
    if (k->copy_again) {
        k->copy_again = false;
        k->copying = true;
        submit(k->loader, &k->copy, copy_work, copied);
    } else if (k->save_behind || (!k->copy_failed && !evtimer_pending(k->later, NULL))) {
        save_now(k); /* not waiting: the index was written between the swap and the copy */
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
        retry(k);
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
    if (!keep_pick(k, not_stored, NULL, 0, &kept))
        return;
    kept_fini(&kept);
    k->copy_again = k->copying;
    if (!k->copying)
        submit(k->loader, &k->copy, copy_work, copied);
    k->copying = true;
}

static void late(evutil_socket_t fd, short what, void *arg)
{
    struct keep *k = arg;
    (void)fd;
    (void)what;
    if (k->retrying)
        copy_now(k);
    k->retrying = false;
    save_now(k);
}

static void copy_late(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    copy_now(arg);
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
    bool waits = evtimer_pending(k->later, NULL) && !k->retrying;
    k->retrying = false;
    if (now || (!waits && after(k->later, LATER_MS) != 0))
        save_now(k);
}

void keep_stop(struct keep *k)
{
    ON_CONTROL();
    if (k == NULL || !k->usable || k->behind)
        return;
    k->stopped = true;
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
    event_del(k->later);
    event_del(k->copy_later);
    k->behind = true;
}

int keep_take(struct keep *k, struct err *err)
{
    ON_CONTROL();
    if (k == NULL || !k->usable || !k->behind)
        return 0;
    if (keep_folder_take(&k->folder, err) != 0 || keep_set_aside(k, err) != 0)
        return -1;
    k->behind = false;
    keep_save(k, true);
    return 0;
}
