/*
 * The files of the store. Every file appears by rename, whole and synced, and the folder is synced
 * behind it: whatever stops us, the index that is found names files that are there. Nothing here
 * follows a symbolic link.
 *
 * keep_place.c's .lock keeps other graftds out. Of this one's server processes two can live for a
 * moment, the one that crashed and its successor: .owner names the one whose store it is. Names
 * appear, move and vanish only while .owner is locked and names us; what another one wrote
 * meanwhile is never undone.
 */
#include "plugin/keep_names.h"
#include "plugin/keep_private.h"

#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_NEW  ".new"
#define INSIDE    ".keep" /* in the stage folder; no BASE begins with a dot */
#define FILE_MODE 0400
#define OWNER_MS  200 /* it is held for microseconds; a process that dies with it moves no more */

void (*keep_folder_step)(const char *step);

static void step(const char *name)
{
    if (keep_folder_step != NULL)
        keep_folder_step(name);
}

/* ---- Whose it is ----------------------------------------------------------------------------- */

static int lock_owner(const struct keep_folder *f, short type)
{
    struct flock all = { .l_type = type, .l_whence = SEEK_SET };
    return fcntl(f->owner_fd, F_OFD_SETLK, &all);
}

static void wait_for_owner(const struct keep_folder *f)
{
    struct timespec turn = { .tv_nsec = 1000000 };
    for (int ms = 0; ms < OWNER_MS && lock_owner(f, F_WRLCK) != 0; ms++)
        nanosleep(&turn, NULL);
}

/* What follows is ours to do, until let_go. False: a newer process has taken the store over. */
static bool hold(const struct keep_folder *f)
{
    char now[KEEP_TOKEN];
    wait_for_owner(f);
    if (pread(f->owner_fd, now, sizeof now, 0) == f->token_len &&
        memcmp(now, f->token, (size_t)f->token_len) == 0)
        return true;
    lock_owner(f, F_UNLCK);
    return false;
}

static void let_go(const struct keep_folder *f)
{
    int why = errno;
    lock_owner(f, F_UNLCK);
    errno = why;
}

static bool is_ours_yet(const struct keep_folder *f)
{
    bool ours = hold(f);
    if (ours)
        let_go(f);
    return ours;
}

/* From now on nobody else's. On a disk that is full it is shared with a process that had it: to
   read it is more than that. */
static int own(struct keep_folder *f, struct err *err)
{
    if (f->owner_fd < 0) /* else of a try before */
        f->owner_fd = openat(f->dir_fd, OWNER, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (f->owner_fd < 0)
        return err_set(err, "%s/" OWNER ": %s", f->path, strerror(errno));
    if (getrandom(f->token, sizeof f->token, 0) != (ssize_t)sizeof f->token)
        return err_set(err, "no random numbers: %s", strerror(errno));
    wait_for_owner(f);
    f->token_len = pwrite(f->owner_fd, f->token, sizeof f->token, 0);
    if (f->token_len != (ssize_t)sizeof f->token)
        f->token_len = pread(f->owner_fd, f->token, sizeof f->token, 0);
    let_go(f);
    return f->token_len >= 0 ? 0 : err_set(err, "%s/" OWNER ": %s", f->path, strerror(errno));
}

static int open_files(struct keep_folder *f, struct err *err)
{
    struct stat st;
    if (mkdirat(f->dir_fd, FILES, 0700) != 0 && errno != EEXIST)
        return err_set(err, "%s/" FILES ": %s", f->path, strerror(errno));
    f->files_fd = openat(f->dir_fd, FILES, FOLDER);
    if (f->files_fd < 0 || fstat(f->files_fd, &st) != 0)
        return err_set(err, "%s/" FILES ": %s: expected a folder of ours: move it away", f->path,
                       strerror(errno));
    if (st.st_uid != geteuid() || (st.st_mode & 077) != 0)
        return err_set(err, "%s/" FILES ": expected a folder of mode 0700, owned by uid %ju",
                       f->path, (uintmax_t)geteuid());
    return f->behind ? 0 : keep_folder_take(f, err);
}

int keep_folder_take(struct keep_folder *f, struct err *err)
{
    if (own(f, err) != 0)
        return -1;
    f->behind = false;
    unlinkat(f->files_fd, FILE_NEW, 0); /* what a process that ended was copying */
    return 0;
}

void keep_folder_close(struct keep_folder *f)
{
    if (f->files_fd >= 0)
        close(f->files_fd);
    if (f->dir_fd >= 0)
        close(f->dir_fd);
    if (f->lock_fd >= 0)
        close(f->lock_fd);
    if (f->owner_fd >= 0)
        close(f->owner_fd);
    free(f->path);
    *f = (struct keep_folder)KEEP_FOLDER_NONE;
}

int keep_folder_open(struct keep_folder *f, const char *configured, int lock, bool behind,
                     struct err *err)
{
    int rc = keep_place_open(f, configured, lock, err);
    f->behind = behind;
    if (rc == 0 && open_files(f, err) == 0)
        return 0;
    int why = errno;
    keep_folder_close(f);
    errno = why;
    return rc > 0 ? 1 : -1;
}

int keep_folder_inside(struct keep_folder *f, const struct stage *stage, bool behind,
                       struct err *err)
{
    *f = (struct keep_folder)KEEP_FOLDER_NONE;
    f->behind = behind;
    if (asprintf(&f->path, "%s/" INSIDE, stage_path(stage)) < 0) {
        f->path = NULL;
        return err_set(err, "out of memory");
    }
    if (mkdir(f->path, 0700) == 0 || errno == EEXIST)
        f->dir_fd = open(f->path, FOLDER);
    if (f->dir_fd < 0)
        err_set(err, "%s: %s", f->path, strerror(errno));
    else if (open_files(f, err) == 0)
        return 0;
    int why = errno;
    keep_folder_close(f);
    errno = why;
    return -1;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static int read_all(int fd, struct buf *out, const char *path, struct err *err)
{
    while (out->len <= KEEP_INDEX) {
        if (buf_reserve(out, 65536) != 0)
            return err_set(err, "out of memory");
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, "%s/" INDEX ": %s", path, strerror(errno));
        if (n == 0)
            return 0;
        out->len += (size_t)n;
    }
    return err_set(err, "%s/" INDEX ": expected at most %u bytes, found more", path, KEEP_INDEX);
}

int keep_folder_read(const struct keep_folder *f, struct buf *out, struct err *err)
{
    struct stat st;
    int fd = openat(f->dir_fd, INDEX, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 1;
    if (fd < 0)
        return err_set(err, "%s/" INDEX ": %s", f->path, strerror(errno));
    int rc = -1;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        err_set(err, "%s/" INDEX ": expected a regular file", f->path);
    else if (st.st_uid != geteuid() || (st.st_mode & 022) != 0)
        err_set(err, "%s/" INDEX ": expected a file of ours that nobody else may write", f->path);
    else
        rc = read_all(fd, out, f->path, err);
    close(fd);
    return rc;
}

int keep_folder_set_aside(const struct keep_folder *f, struct err *err)
{
    if (renameat(f->dir_fd, INDEX, f->dir_fd, INDEX_BAD) == 0 || errno == ENOENT)
        return 0;
    return err_set(err, "%s/" INDEX ": cannot be moved away: %s", f->path, strerror(errno));
}

bool keep_folder_has(const struct keep_folder *f, const char *sha256)
{
    struct stat st;
    return fstatat(f->files_fd, sha256, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
           st.st_uid == geteuid();
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* What ends with the process need not survive the machine. */
static int sync_fd(const struct keep_folder *f, int fd)
{
    return f->lock_fd >= 0 ? fsync(fd) : 0;
}

/* A new file beside those that are there; what an earlier attempt left is in nobody's way. -1 with
   errno; ESTALE: the store is another process's now. */
static int create(const struct keep_folder *f, int dir, const char *name, mode_t mode)
{
    if (!hold(f)) {
        errno = ESTALE;
        return -1;
    }
    unlinkat(dir, name, 0);
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    let_go(f);
    return fd;
}

/* To its name. 0, or -1 with errno, as create. */
static int move(const struct keep_folder *f, int dir, const char *from, const char *to)
{
    if (!hold(f)) {
        errno = ESTALE;
        return -1;
    }
    int rc = renameat(dir, from, dir, to);
    let_go(f);
    return rc;
}

static void throw_away(const struct keep_folder *f, int dir, const char *name)
{
    if (!hold(f))
        return;
    unlinkat(dir, name, 0);
    let_go(f);
}

/* `fd` is whole: synced and moved to its name. Closes it. 0, or -1 with errno. */
static int finish(const struct keep_folder *f, int dir, int fd, const char *from, const char *to)
{
    step("sync");
    int rc = sync_fd(f, fd);
    int why = errno;
    if (close(fd) != 0 && rc == 0) {
        rc = -1;
        why = errno;
    }
    step("rename");
    if (rc == 0 && move(f, dir, from, to) != 0) {
        rc = -1;
        why = errno;
    }
    step("sync folder");
    if (rc == 0 && sync_fd(f, dir) != 0) {
        rc = -1;
        why = errno;
    }
    errno = why;
    return rc;
}

int keep_folder_write(const struct keep_folder *f, const struct buf *text, struct err *err)
{
    if (text->len > KEEP_INDEX)
        return err_set(err, "%s/" INDEX ": it would have %zu bytes, at most %u are read again",
                       f->path, text->len, KEEP_INDEX);
    step("index");
    int fd = create(f, f->dir_fd, INDEX_NEW, 0600), rc = fd >= 0 ? 0 : -1;
    if (fd >= 0) {
        rc = fd_write_all(fd, text->data, text->len);
        int why = errno;
        if (rc != 0) {
            close(fd);
            errno = why;
        } else {
            rc = finish(f, f->dir_fd, fd, INDEX_NEW, INDEX);
        }
    }
    if (rc == 0 || errno == ESTALE)
        return rc == 0 ? 0 : 1;
    err_set(err, "%s/" INDEX ": %s", f->path, strerror(errno));
    throw_away(f, f->dir_fd, INDEX_NEW);
    return -1;
}

/* 0; -1 with errno; 1: it has another hash. */
static int copy_hashed(int from, int to, const char *sha256)
{
    char data[65536], hash[65];
    SHA2_CTX sha;
    SHA256Init(&sha);
    for (;;) {
        ssize_t n = read(from, data, sizeof data);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        SHA256Update(&sha, (const uint8_t *)data, (size_t)n);
        if (fd_write_all(to, data, (size_t)n) != 0)
            return -1;
    }
    SHA256End(&sha, hash);
    return strcmp(hash, sha256) == 0 ? 0 : 1;
}

static int add_from(const struct keep_folder *f, const char *sha256, int from)
{
    step("file");
    int to = create(f, f->files_fd, FILE_NEW, FILE_MODE);
    if (to < 0)
        return -1;
    int rc = copy_hashed(from, to, sha256), why = errno;
    if (close(to) != 0 && rc == 0) {
        rc = -1;
        why = errno;
    }
    step("rename file");
    if (rc == 0 && move(f, f->files_fd, FILE_NEW, sha256) != 0) {
        rc = -1;
        why = errno;
    }
    errno = why;
    return rc;
}

int keep_folder_sync(const struct keep_folder *f, const char *sha256, struct err *err)
{
    step("sync file");
    int fd = openat(f->files_fd, sha256, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int rc = fd >= 0 ? sync_fd(f, fd) : -1, why = errno;
    if (fd >= 0)
        close(fd);
    if (rc == 0 && sync_fd(f, f->files_fd) == 0)
        return 0;
    if (!is_ours_yet(f))
        return 0; /* its successor has swept it */
    return err_set(err, "%s/" FILES "/%.12s: %s", f->path, sha256, strerror(rc != 0 ? why : errno));
}

int keep_folder_add(const struct keep_folder *f, const char *sha256, const char *path,
                    struct err *err)
{
    int from = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (from < 0 && errno == ENOENT)
        return 1;
    if (from < 0)
        return err_set(err, "%s: %s", path, strerror(errno));
    int rc = add_from(f, sha256, from), why = errno;
    close(from);
    if (rc == 0)
        return 0;
    if (rc < 0 && why == ESTALE)
        return 1;
    throw_away(f, f->files_fd, FILE_NEW);
    return rc > 0 ? err_set(err, "%s: it is not what was staged any more", path)
                  : err_set(err, "%s/" FILES ": %s", f->path, strerror(why));
}

void keep_folder_sweep(const struct keep_folder *f, bool (*wanted)(const char *name, void *arg),
                       void *arg)
{
    DIR *dir = hold(f) ? fd_list(f->files_fd) : NULL;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            strcmp(e->d_name, FILE_NEW) != 0 && !wanted(e->d_name, arg))
            unlinkat(f->files_fd, e->d_name, 0);
    if (dir != NULL)
        closedir(dir);
    let_go(f);
}
