/*
 * [loader] Three passes over the folder: read and hash every file; decide what each is, staging
 * and probing what is new; find names that two files declare. Hashes decide, never times and
 * inodes: orchestrators swap symbolic links.
 */
#include "plugin/scan.h"

#include "base/log.h"
#include "plugin/preflight.h"
#include "plugin/proven.h"
#include "plugin/signature.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int no_memory(struct scan *s)
{
    return err_set(&s->job.err, "out of memory while scanning %s", s->config->plugin_dir);
}

/* ---- Reading the folder ---------------------------------------------------------------------- */

bool scan_takes(const char *name)
{
    size_t len = strlen(name);
    return name[0] != '.' && len > 3 && strcmp(name + len - 3, ".so") == 0;
}

static struct found *found_add(struct scan *s, const char *file)
{
    if (s->nfound == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        struct found *more = realloc(s->found, cap * sizeof *more);
        if (more == NULL)
            return NULL;
        s->found = more;
        s->cap = cap;
    }
    struct found *f = &s->found[s->nfound];
    memset(f, 0, sizeof *f);
    f->file = strdup(file);
    if (f->file == NULL || asprintf(&f->path, "%s/%s", s->config->plugin_dir, file) < 0) {
        free(f->file);
        return NULL;
    }
    s->nfound++;
    return f;
}

static int by_file(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return strcmp(x->file, y->file);
}

static int list_folder(struct scan *s, int *dirfd_out, DIR **dir_out)
{
    const char *path = s->config->plugin_dir;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        return err_set(&s->job.err,
                       "cannot read the plugin folder %s: %s: nothing is changed: make it, or name "
                       "another one (plugin_dir, --plugins)",
                       path, strerror(why));
    }
    *dir_out = dir;
    *dirfd_out = fd;
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (e == NULL && errno != 0)
            return err_set(&s->job.err, "cannot read the plugin folder %s: %s: nothing is changed",
                           path, strerror(errno));
        if (e == NULL)
            break;
        if (scan_takes(e->d_name) && found_add(s, e->d_name) == NULL)
            return no_memory(s);
    }
    if (s->nfound > 1)
        qsort(s->found, s->nfound, sizeof *s->found, by_file);
    return 0;
}

/* ---- Judging a file -------------------------------------------------------------------------- */

static void set_failed(struct found *f, const char *stage, const char *text)
{
    f->kind = FOUND_FAILED;
    f->stage = stage;
    free(f->error);
    f->error = NULL;
    if (asprintf(&f->error, "%s: %s", f->file, text) < 0)
        f->error = NULL;
}

/* A file whose name nobody has read is meant by that of the file. */
static bool is_meant(const struct scan *s, const struct found *f, const char *plugin)
{
    size_t len = strlen(f->file) - 3;
    if (s->retry_only == NULL)
        return true;
    if (plugin != NULL)
        return strcmp(plugin, s->retry_only) == 0;
    return strlen(s->retry_only) == len && strncmp(f->file, s->retry_only, len) == 0;
}

/* When that failed before, it fails again, in the words of then. */
static bool failed_again(struct scan *s, struct found *f, const char *key)
{
    struct known_failure *old = known_failure(s->known, key);
    if (old == NULL)
        return false;
    bool moot = false;
    if (old->other_sha256 != NULL) {
        moot = true;
        for (size_t i = 0; i < s->nfound && moot; i++)
            moot = strcmp(s->found[i].sha256, old->other_sha256) != 0;
    }
    if ((s->retry && is_meant(s, f, old->plugin)) || moot) {
        known_failure_forget(s->known, key);
        return false;
    }
    f->kind = FOUND_FAILED_AGAIN;
    free(f->stage_copy);
    free(f->error);
    f->stage_copy = strdup(old->stage);
    f->stage = f->stage_copy;
    f->error = strdup(old->error);
    if (f->plugin == NULL && old->plugin != NULL)
        f->plugin = strdup(old->plugin);
    return true;
}

/* Not about the content: who owns it, what it is. Mended by chmod, so that is in the key. */
static void fail_by_stat(struct scan *s, struct found *f, const struct stat *st, const char *text)
{
    char key[KNOWN_KEY];
    snprintf(key, sizeof key, "stat %.255s %llu %o %u %u %lld.%ld", f->file,
             (unsigned long long)st->st_ino, st->st_mode, st->st_uid, st->st_gid,
             (long long)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
    if (failed_again(s, f, key))
        return;
    set_failed(f, "scan", text);
    memcpy(f->key, key, sizeof f->key);
}

static void found_fini(struct found *f)
{
    free(f->path);
    free(f->file);
    free(f->plugin);
    free(f->staged);
    free(f->stage_copy);
    free(f->error);
    free(f->quarantined);
    free(f->config_text);
    descriptor_fini(&f->desc);
}

/* False: it is not there any more. */
static bool read_file(struct scan *s, struct found *f, int dirfd)
{
    struct stat st, link;
    struct err err;
    f->kind = FOUND_NEW;
    if (fstatat(dirfd, f->file, &st, 0) != 0) {
        int why = errno;
        char text[128];
        if (fstatat(dirfd, f->file, &link, AT_SYMLINK_NOFOLLOW) != 0)
            return errno != ENOENT;
        snprintf(text, sizeof text,
                 why == ENOENT ? "a link to a file that is not there" : "cannot be looked at: %s",
                 strerror(why));
        fail_by_stat(s, f, &link, text);
        return true;
    }
    if (stage_hash(dirfd, f->file, f->sha256, NULL, &err) != STAGE_OK) {
        f->sha256[0] = '\0';
        fail_by_stat(s, f, &st, err.text);
    }
    return true;
}

static void read_files(struct scan *s, int dirfd)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->nfound; i++) {
        if (!read_file(s, &s->found[i], dirfd))
            found_fini(&s->found[i]);
        else
            s->found[kept++] = s->found[i];
    }
    s->nfound = kept;
}

/* ---- Deciding -------------------------------------------------------------------------------- */

/* As the stable version or as a canary. */
static bool serves(const struct scan *s, const char *plugin, const char *sha256,
                   const char *config_sha256)
{
    for (size_t i = 0; i < s->nactive; i++)
        if (strcmp(s->active[i].plugin, plugin) == 0 && strcmp(s->active[i].sha256, sha256) == 0 &&
            strcmp(s->active[i].config_sha256, config_sha256) == 0)
            return true;
    return false;
}

/* What can be said from hash and name alone. True: that was enough. */
static bool decide_known(struct scan *s, struct found *f)
{
    char key[KNOWN_KEY];
    const char *name = known_name(s->known, f->sha256);
    known_key_file(key, f->sha256);
    if (failed_again(s, f, key))
        return true;
    if (name == NULL)
        return false;
    free(f->plugin);
    f->plugin = strdup(name);
    if (f->plugin == NULL) {
        set_failed(f, "scan", "out of memory");
        return true;
    }
    const struct config_plugin *cfg = config_plugin(s->config, name);
    if (!cfg->enabled) {
        f->kind = FOUND_DISABLED;
        return true;
    }
    if (serves(s, name, f->sha256, cfg->config_sha256)) {
        f->kind = FOUND_SAME;
        return true;
    }
    if (scan_is_quarantined(s, f, cfg))
        return true;
    known_key_identity(key, f->sha256, cfg->config_sha256);
    return failed_again(s, f, key);
}

static int fail_file(struct found *f, const char *stage, const struct err *err)
{
    set_failed(f, stage, err->text);
    known_key_file(f->key, f->sha256);
    return -1;
}

static int copy_file(struct scan *s, struct found *f, int dirfd)
{
    struct err err;
    f->staged = calloc(1, sizeof *f->staged);
    if (f->staged == NULL) {
        set_failed(f, "stage", "out of memory");
        return -1;
    }
    enum stage_result rc = stage_copy(s->stage, dirfd, f->file, f->staged, &err);
    if (rc == STAGE_OK) {
        memcpy(f->sha256, f->staged->sha256, sizeof f->sha256);
        return 0;
    }
    set_failed(f, "stage", err.text);
    /* What is incomplete for good has a hash that stays; what failed for another reason (a full
       disk) is tried again. */
    if (rc == STAGE_INCOMPLETE && strcmp(f->staged->sha256, f->sha256) == 0)
        known_key_file(f->key, f->sha256);
    free(f->staged);
    f->staged = NULL;
    return -1;
}

/* The machine's fault, not the file's: not to be remembered against it. */
static bool probe_was_short(const struct err *err)
{
    static const char *const begins[] = { "cannot run graft-probe", "graft-probe did not start" };
    for (size_t i = 0; i < ARRAY_LEN(begins); i++)
        if (strncmp(err->text, begins[i], strlen(begins[i])) == 0)
            return true;
    return false;
}

static int take_name(struct found *f)
{
    f->plugin = strdup(f->desc.name);
    if (f->plugin == NULL) {
        set_failed(f, "probe", "out of memory");
        return -1;
    }
    return 0;
}

static int probe_file(struct scan *s, struct found *f, struct err *err)
{
    if (probe_run(s->probe, f->staged->path, s->config->timeouts_ms.load, &f->desc, err) != 0)
        return -1;
    proven_add(f->sha256, &f->desc);
    return 0;
}

static int describe(struct scan *s, struct found *f)
{
    struct preflight_report report;
    struct err err;
    int rc = preflight(f->staged->path, &report, &err);
    for (size_t i = 0; rc == 0 && i < report.count; i++)
        log_msg(LOG_WARN, "plugin_warning", "%s: %s", f->file, report.findings[i].text);
    preflight_report_fini(&report);
    if (rc != 0)
        return fail_file(f, "preflight", &err);
    if (scan_describe_good(s, f))
        return take_name(f);
    if (proven_find(f->sha256, &f->desc) != 0 && probe_file(s, f, &err) != 0) {
        if (strstr(err.text, "failed to map segment") != NULL)
            err_set(&err, "%s: has the mount of %s become noexec, or is memory short?", err.text,
                    stage_path(s->stage));
        fail_file(f, "probe", &err);
        if (probe_was_short(&err))
            f->key[0] = '\0';
        return -1;
    }
    known_name_add(s->known, f->sha256, f->desc.name);
    return take_name(f);
}

/* ---- Signatures ------------------------------------------------------------------------------ */

static void signature_key(struct scan *s, const struct found *f, const struct signature *sig,
                          char key[KNOWN_KEY])
{
    const char *name = known_name(s->known, f->sha256);
    known_key_signature(key, f->file, f->sha256,
                        name != NULL ? config_plugin(s->config, name)->config_sha256 : "-",
                        sig->state, s->config->signatures.sha256);
}

/* With this signature file and these keys it failed before: nothing is copied to see it again. */
static bool unsigned_again(struct scan *s, struct found *f, int dirfd)
{
    struct signature sig;
    char key[KNOWN_KEY];
    if (!signature_wanted(&s->config->signatures))
        return false;
    signature_read(&sig, dirfd, f->file);
    signature_key(s, f, &sig, key);
    signature_fini(&sig);
    return failed_again(s, f, key);
}

/* Before any of the copy's code runs. Read again, behind the copy: who puts the signature there
   first and then the plugin is never seen half way. */
static int check_signature(struct scan *s, struct found *f, int dirfd)
{
    const struct config_signatures *demands = &s->config->signatures;
    struct signature sig;
    struct err err;
    if (!signature_wanted(demands))
        return 0;
    signature_read(&sig, dirfd, f->file);
    int rc = signature_verify(&sig, demands, f->staged->path, &err);
    if (rc != 0) {
        set_failed(f, "signature", err.text);
        signature_key(s, f, &sig, f->key);
    } else {
        memcpy(f->signer, sig.signer, sizeof f->signer);
    }
    signature_fini(&sig);
    return rc;
}

/* What serves goes on serving under new demands; that it would not be loaded again is told. */
static void warn_unsigned(struct scan *s, const struct found *f, int dirfd)
{
    const struct config_signatures *demands = &s->config->signatures;
    struct signature sig;
    struct err err;
    if (f->kind != FOUND_SAME || !s->new_config || !signature_wanted(demands))
        return;
    for (size_t i = 0; i < s->nactive; i++) {
        if (strcmp(s->active[i].plugin, f->plugin) != 0 ||
            strcmp(s->active[i].sha256, f->sha256) != 0)
            continue;
        signature_read(&sig, dirfd, f->file);
        if (signature_verify(&sig, demands, s->active[i].copy, &err) != 0)
            log_msg(LOG_WARN, "plugin_warning",
                    "%s: goes on serving, but would not be loaded again: %s", f->file, err.text);
        signature_fini(&sig);
    }
}

/* ---- One file -------------------------------------------------------------------------------- */

static void unstage(struct scan *s, struct found *f)
{
    if (f->staged == NULL)
        return;
    stage_remove(s->stage, f->staged);
    free(f->staged);
    f->staged = NULL;
}

static void decide(struct scan *s, struct found *f, int dirfd)
{
    char hashed[65];
    memcpy(hashed, f->sha256, sizeof hashed);
    if (decide_known(s, f) || unsigned_again(s, f, dirfd) || copy_file(s, f, dirfd) != 0)
        return;
    /* It changed between the two readings: the copy is what counts. */
    bool changed = strcmp(hashed, f->sha256) != 0;
    if (changed && decide_known(s, f)) {
        unstage(s, f);
        return;
    }
    free(f->plugin);
    f->plugin = NULL;
    if (check_signature(s, f, dirfd) != 0 || describe(s, f) != 0 || decide_known(s, f))
        unstage(s, f);
}

/* ---- Missing plugins ------------------------------------------------------------------------- */

/* What a quarantined file declared, of which nothing is served: from memory, else from a probe. */
static void describe_missing(struct scan *s, struct found *f, int dirfd)
{
    struct found look = { .path = f->path, .file = f->file };
    if (f->desc.name != NULL || proven_declared(f->sha256, &f->desc) == 0)
        return;
    memcpy(look.sha256, f->sha256, sizeof look.sha256);
    if (copy_file(s, &look, dirfd) == 0 && strcmp(look.sha256, f->sha256) == 0 &&
        check_signature(s, &look, dirfd) == 0 && describe(s, &look) == 0) {
        f->desc = look.desc;
        memset(&look.desc, 0, sizeof look.desc);
    }
    unstage(s, &look);
    look.path = look.file = NULL;
    found_fini(&look);
}

static void describe_all_missing(struct scan *s, int dirfd)
{
    for (size_t i = 0; s->stand_ins && i < s->nfound; i++)
        if (s->found[i].kind == FOUND_QUARANTINED)
            describe_missing(s, &s->found[i], dirfd);
}

/* ---- Duplicates ------------------------------------------------------------------------------ */

static void set_duplicate(struct scan *s, struct found *f, const struct found *other)
{
    char key[KNOWN_KEY], text[512];
    snprintf(key, sizeof key, "duplicate %.200s %s %.200s %s", f->file, f->sha256, other->file,
             other->sha256);
    unstage(s, f);
    if (failed_again(s, f, key))
        return;
    snprintf(text, sizeof text,
             "duplicate name \"%.64s\": %.128s and %.128s both declare it: remove one of them",
             f->plugin, f->file, other->file);
    set_failed(f, "scan", text);
    memcpy(f->key, key, sizeof f->key);
}

static void find_duplicates(struct scan *s)
{
    for (size_t i = 0; i < s->nfound; i++) {
        struct found *f = &s->found[i];
        bool told = false;
        if (f->plugin == NULL || f->kind == FOUND_DISABLED)
            continue;
        for (size_t j = 0; j < s->nfound && !told; j++) {
            const struct found *other = &s->found[j];
            if (i == j || other->plugin == NULL || strcmp(f->plugin, other->plugin) != 0)
                continue;
            set_duplicate(s, f, other);
            told = true;
        }
    }
}

/* ---- The whole ------------------------------------------------------------------------------- */

void scan_work(struct job *job)
{
    ON_LOADER();
    struct scan *s = container_of(job, struct scan, job);
    DIR *dir = NULL;
    int dirfd = -1;
    if (list_folder(s, &dirfd, &dir) == 0) {
        read_files(s, dirfd);
        for (size_t i = 0; i < s->nfound; i++)
            if (s->found[i].kind == FOUND_NEW) {
                decide(s, &s->found[i], dirfd);
                warn_unsigned(s, &s->found[i], dirfd);
            }
        find_duplicates(s);
        job->rc = scan_serve_kept(s, &job->err);
        describe_all_missing(s, dirfd);
    } else {
        job->rc = -1;
    }
    if (dir != NULL)
        closedir(dir);
}

void scan_fini(struct scan *s)
{
    for (size_t i = 0; i < s->nfound; i++)
        found_fini(&s->found[i]);
    free(s->found);
    free(s->active);
    kept_fini(&s->revert);
    free(s->revert_path);
    s->revert_path = NULL;
    s->found = NULL;
    s->active = NULL;
    s->nfound = s->nactive = s->cap = 0;
}
