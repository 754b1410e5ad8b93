/*
 * Copying one plugin file into the stage folder, and hashing one where it lies.
 *
 * Everything is judged on the descriptor that is read: between a look at a path and its opening
 * the file may have become another. The copy is written under a name of its own beside the BASE
 * folders and moved to its place when it is whole, so that whatever fails leaves nothing there.
 */
#include "plugin/stage.h"

#include "base/fd.h"
#include "plugin/elf_image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sha2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RETRIES  5
#define RETRY_MS 100

#define COPY_MODE 0500 /* nobody writes to it again; gdb and perf of ours read it */

/* ---- The source ------------------------------------------------------------------------------ */

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static int judge_kind(const struct stat *st, struct err *err)
{
    mode_t m = st->st_mode;
    if (S_ISREG(m))
        return 0;
    return err_set(err, "is %s, expected a regular file: give the path of a plugin's .so",
                   S_ISDIR(m)    ? "a folder"
                   : S_ISFIFO(m) ? "a FIFO"
                   : S_ISSOCK(m) ? "a socket"
                                 : "a device");
}

/* Who else could have written it runs code in this server. */
static int judge_owner(const struct stat *st, const char *name, struct err *err)
{
    bool writable = (st->st_mode & (S_IWGRP | S_IWOTH)) != 0;
    if (st->st_uid != 0 && st->st_uid != geteuid())
        return err_set(err,
                       "owned by uid %ju, expected root or uid %ju (graftd's): chown root %s%s%s",
                       (uintmax_t)st->st_uid, (uintmax_t)geteuid(), name,
                       writable ? "; and writable by more than its owner: chmod go-w " : "",
                       writable ? name : "");
    if (writable)
        return err_set(err,
                       "writable by %s (mode %04o), expected by its owner alone: chmod go-w %s",
                       (st->st_mode & S_IWOTH) != 0 ? "others" : "its group",
                       (unsigned)(st->st_mode & 07777), name);
    return 0;
}

static int cannot_open(struct err *err)
{
    if (errno != EACCES && errno != EPERM)
        return err_set(err, "cannot open it: %s: %s", strerror(errno),
                       errno == ENOENT ? "is its path right?" : "mend that and try again");
    return err_set(err,
                   "cannot open it: %s: make it, and the folders above it, readable for uid %ju",
                   strerror(errno), (uintmax_t)geteuid());
}

/* The descriptor, or -1. Looked at before it is opened too: a device may act on that. What
   judge_owner finds is told in `owner` when that is not NULL, and refuses the file otherwise. */
static int open_source(int dirfd, const char *path, struct stat *st, struct err *owner,
                       struct err *err)
{
    if (fstatat(dirfd, path, st, 0) != 0)
        return cannot_open(err);
    if (judge_kind(st, err) != 0)
        return -1;
    int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return cannot_open(err);
    int rc = fstat(fd, st);
    if (rc != 0)
        err_set(err, "cannot look at it: %s", strerror(errno));
    else if (judge_kind(st, err) != 0 ||
             (judge_owner(st, last_part(path), owner != NULL ? owner : err) != 0 && owner == NULL))
        rc = -1;
    else if ((uint64_t)st->st_size > STAGE_MAX_BYTES)
        rc = err_set(err, "has %jd bytes, at most %u are allowed: strip it", (intmax_t)st->st_size,
                     STAGE_MAX_BYTES);
    if (rc == 0)
        return fd;
    close(fd);
    return -1;
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

/* Reads `from` to its end: hashes it and, unless `to` is -1, writes it. 0 or -1. */
static int copy_bytes(int from, int to, char hash[65], uint64_t *total, struct err *err)
{
    char data[65536];
    SHA2_CTX sha;
    *total = 0;
    SHA256Init(&sha);
    for (;;) {
        ssize_t n = read(from, data, sizeof(data));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, "cannot read it: %s", strerror(errno));
        if (n == 0)
            break;
        SHA256Update(&sha, (const uint8_t *)data, (size_t)n);
        *total += (uint64_t)n;
        if (*total > STAGE_MAX_BYTES)
            return err_set(err, "grew past %u bytes, the most that is allowed", STAGE_MAX_BYTES);
        if (to >= 0 && fd_write_all(to, data, (size_t)n) != 0)
            return err_set(err, "cannot write its copy: %s: make room there or set stage_dir",
                           strerror(errno));
    }
    SHA256End(&sha, hash);
    return 0;
}

static void describe_source(const struct stat *st, struct stage_source *out)
{
    *out = (struct stage_source){
        .dev = st->st_dev, .ino = st->st_ino, .size = (uint64_t)st->st_size, .mtime = st->st_mtim
    };
}

enum stage_result stage_hash(int dirfd, const char *path, char sha256[65],
                             struct stage_source *source, struct err *err)
{
    struct stat st;
    uint64_t total;
    int fd = open_source(dirfd, path, &st, NULL, err);
    if (fd < 0)
        return STAGE_FAILED;
    int rc = copy_bytes(fd, -1, sha256, &total, err);
    close(fd);
    if (source != NULL)
        describe_source(&st, source);
    return rc == 0 ? STAGE_OK : STAGE_FAILED;
}

/* ---- Is it whole? ---------------------------------------------------------------------------- */

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static enum stage_result incomplete(struct err *err)
{
    err_prefix(err, "incomplete");
    return STAGE_INCOMPLETE;
}

/* Did the source stand still while its `total` bytes were read? */
static enum stage_result check_still(int from, const struct stat *before, uint64_t total,
                                     struct err *err)
{
    struct stat now;
    if (fstat(from, &now) != 0) {
        err_set(err, "cannot look at it: %s", strerror(errno));
        return STAGE_FAILED;
    }
    if (now.st_size == before->st_size && (uint64_t)now.st_size == total &&
        same_time(now.st_mtim, before->st_mtim) && same_time(now.st_ctim, before->st_ctim))
        return STAGE_OK;
    err_set(err,
            "it is still being written (%ju bytes, then %ju): write it beside the folder and "
            "move it in (mv)",
            (uintmax_t)before->st_size, (uintmax_t)now.st_size);
    return incomplete(err);
}

/* Does our copy, `size` bytes, hold all that its ELF headers announce? */
static enum stage_result check_whole(int copy, uint64_t size, struct err *err)
{
    uint64_t end = 0;
    const char *what = "";
    if (size == 0) {
        err_set(err, "empty file: write it beside the folder and move it in (mv)");
        return incomplete(err);
    }
    void *map = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, copy, 0);
    if (map == MAP_FAILED) {
        err_set(err, "cannot map its copy: %s", strerror(errno));
        return STAGE_FAILED;
    }
    enum elf_reach reach = elf_measure(map, (size_t)size, &end, &what);
    munmap(map, (size_t)size);
    if (reach != ELF_SHORT)
        return STAGE_OK;
    if (end <= size)
        err_set(err,
                "it begins with zero bytes, so its %s is not written yet: write it beside the "
                "folder and move it in (mv)",
                what);
    else
        err_set(err,
                "its %s would reach byte %" PRIu64 ", the file has %" PRIu64
                ": write it beside the folder "
                "and move it in (mv)",
                what, end, size);
    return incomplete(err);
}

/* ---- One attempt ----------------------------------------------------------------------------- */

static void name_staged(struct staged *out)
{
    memcpy(out->sha12, out->sha256, 12);
    out->sha12[12] = '\0';
    snprintf(out->id, sizeof(out->id), "%s.%" PRIu64, out->sha12, out->seq);
}

/* Moves the finished copy to BASE/ID.so. */
static int move_to_place(struct stage *stage, const char *temp, const char *base,
                         struct staged *out, struct err *err)
{
    char name[NAME_MAX + 64];
    int dir = stage_dir_fd(stage);
    snprintf(name, sizeof(name), "%s/%s.so", base, out->id);
    int n = snprintf(out->path, sizeof(out->path), "%s/%s", stage_path(stage), name);
    if (n < 0 || (size_t)n >= sizeof(out->path))
        return err_set(err, "the path of its copy is too long: set stage_dir to a shorter one");
    for (int attempt = 0; attempt < 3; attempt++) {
        if (mkdirat(dir, base, 0700) != 0 && errno != EEXIST)
            break;
        if (renameat(dir, temp, dir, name) == 0)
            return 0;
        if (errno != ENOENT) /* else a stage_remove took the empty folder away */
            break;
    }
    err_set(err, "cannot place its copy at %.300s: %s", out->path, strerror(errno));
    unlinkat(dir, base, AT_REMOVEDIR);
    out->path[0] = '\0';
    return -1;
}

/* From an open source into an open file. */
static enum stage_result fill_copy(int from, const struct stat *before, int to, struct staged *out,
                                   struct err *err)
{
    if (copy_bytes(from, to, out->sha256, &out->size, err) != 0)
        return STAGE_FAILED;
    enum stage_result r = check_still(from, before, out->size, err);
    if (r == STAGE_OK)
        r = check_whole(to, out->size, err);
    if (r == STAGE_OK && fchmod(to, COPY_MODE) != 0) {
        err_set(err, "cannot set the mode of its copy: %s", strerror(errno));
        r = STAGE_FAILED;
    }
    describe_source(before, &out->source);
    return r;
}

static enum stage_result copy_source(struct stage *stage, int from, const struct stat *st,
                                     const char *base, struct staged *out, struct err *err)
{
    char temp[40];
    int dir = stage_dir_fd(stage);
    snprintf(temp, sizeof(temp), ".copy.%" PRIu64, out->seq);
    int to = openat(dir, temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0) {
        err_set(err, "cannot make its copy in %s: %s: make it writable for uid %ju, with room",
                stage_path(stage), strerror(errno), (uintmax_t)geteuid());
        return STAGE_FAILED;
    }
    enum stage_result r = fill_copy(from, st, to, out, err);
    if (close(to) != 0 && r == STAGE_OK) {
        err_set(err, "cannot write its copy: %s", strerror(errno));
        r = STAGE_FAILED;
    }
    if (r == STAGE_OK) {
        name_staged(out);
        r = move_to_place(stage, temp, base, out, err) == 0 ? STAGE_OK : STAGE_FAILED;
    }
    if (r != STAGE_OK)
        unlinkat(dir, temp, 0);
    return r;
}

static enum stage_result attempt(struct stage *stage, int dirfd, const char *path, const char *base,
                                 struct staged *out, struct err *owner, struct err *err)
{
    struct stat st;
    int from = open_source(dirfd, path, &st, owner, err);
    if (from < 0)
        return STAGE_FAILED;
    enum stage_result r = copy_source(stage, from, &st, base, out, err);
    close(from);
    return r;
}

/* BASE: what stands before .so; such that it can be the name of a folder of ours. */
static int base_of(const char *path, char base[NAME_MAX + 1], struct err *err)
{
    const char *name = last_part(path);
    size_t len = strlen(name);
    if (len > 3 && strcmp(name + len - 3, ".so") == 0)
        len -= 3;
    if (len == 0 || len > NAME_MAX || name[0] == '.')
        return err_set(err, "has no name that can be used: expected NAME.so: rename it");
    memcpy(base, name, len);
    base[len] = '\0';
    return 0;
}

static _Atomic(uint64_t) own_seq;
static _Atomic(uint64_t) *last_seq = &own_seq;

void stage_count_in(_Atomic(uint64_t) *last)
{
    last_seq = last;
}

static enum stage_result copy_file(struct stage *stage, int dirfd, const char *path, const char *as,
                                   struct staged *out, struct err *owner, struct err *err)
{
    char base[NAME_MAX + 1];
    memset(out, 0, sizeof(*out));
    if (base_of(as, base, err) != 0 || stage_renew(stage, err) != 0)
        return STAGE_FAILED;
    out->seq = atomic_fetch_add(last_seq, 1) + 1;
    enum stage_result r = attempt(stage, dirfd, path, base, out, owner, err);
    for (int i = 0; i < RETRIES && r == STAGE_INCOMPLETE; i++) {
        struct timespec wait = { .tv_nsec = RETRY_MS * 1000000L };
        while (nanosleep(&wait, &wait) != 0 && errno == EINTR)
            ;
        r = attempt(stage, dirfd, path, base, out, owner, err);
    }
    return r;
}

enum stage_result stage_copy(struct stage *stage, int dirfd, const char *path, struct staged *out,
                             struct err *err)
{
    return copy_file(stage, dirfd, path, path, out, NULL, err);
}

enum stage_result stage_copy_as(struct stage *stage, int dirfd, const char *path, const char *as,
                                struct staged *out, struct err *err)
{
    return copy_file(stage, dirfd, path, as, out, NULL, err);
}

enum stage_result stage_copy_any(struct stage *stage, int dirfd, const char *path,
                                 struct staged *out, struct err *owner, struct err *err)
{
    owner->text[0] = '\0';
    return copy_file(stage, dirfd, path, path, out, owner, err);
}

void stage_remove(struct stage *stage, const struct staged *staged)
{
    char name[NAME_MAX + 64];
    const char *root = stage_path(stage);
    size_t len = strlen(root);
    if (strncmp(staged->path, root, len) != 0 || staged->path[len] != '/' ||
        strlen(staged->path + len + 1) >= sizeof(name))
        return;
    snprintf(name, sizeof(name), "%s", staged->path + len + 1);
    unlinkat(stage_dir_fd(stage), name, 0);
    char *slash = strchr(name, '/');
    if (slash == NULL)
        return;
    *slash = '\0';
    unlinkat(stage_dir_fd(stage), name, AT_REMOVEDIR); /* fails while others lie in it */
}
