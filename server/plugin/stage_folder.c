/*
 * The folders of the stage, by descriptors, no symbolic link followed: the root and what makes one
 * fit, our own folder in it, and what others left behind.
 *
 * Whether a folder is in use is told by a lock on the file in it, never by a process number. There
 * is no lock around the root: who makes a folder proves, once it holds the lock, that the folder
 * and the lock are still the ones in the root; who removes one removes the lock last.
 */
#include "plugin/stage_private.h"

#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TREE_DEPTH 4

/* ---- Folders --------------------------------------------------------------------------------- */

/* PID-STARTTIME, or PID-STARTTIME.N */
bool stage_folder_is_one(const char *name)
{
    size_t pid = strspn(name, "0123456789");
    if (pid == 0 || name[pid] != '-')
        return false;
    name += pid + 1;
    size_t start = strspn(name, "0123456789");
    if (start == 0)
        return false;
    name += start;
    return *name == '\0' ||
           (*name == '.' && name[1] != '\0' && strspn(name + 1, "0123456789") == strlen(name + 1));
}

bool stage_folder_is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

bool stage_folder_is_entry(int parent, const char *name, int fd)
{
    struct stat there, open_one;
    return fstatat(parent, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &open_one) == 0 &&
           there.st_dev == open_one.st_dev && there.st_ino == open_one.st_ino;
}

/* Removes what is in the folder, but not `keep`. What resists stays for the next start. */
static void empty_folder(int fd, const char *keep, int depth)
{
    DIR *dir = depth > 0 ? fd_list(fd) : NULL;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (stage_folder_is_dots(e->d_name) || (keep != NULL && strcmp(e->d_name, keep) == 0))
            continue;
        if (unlinkat(fd, e->d_name, 0) == 0)
            continue;
        int below = openat(fd, e->d_name, STAGE_FOLDER);
        if (below < 0)
            continue;
        empty_folder(below, NULL, depth - 1);
        close(below);
        unlinkat(fd, e->d_name, AT_REMOVEDIR);
    }
    if (dir != NULL)
        closedir(dir);
}

/* With its lock held. */
static void remove_own(int root_fd, const char *name, int dir_fd)
{
    empty_folder(dir_fd, STAGE_LOCK, TREE_DEPTH);
    unlinkat(dir_fd, STAGE_LOCK, 0);
    unlinkat(root_fd, name, AT_REMOVEDIR);
}

int stage_folder_lock(int dir_fd)
{
    int fd = openat(dir_fd, STAGE_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

void stage_folder_sweep(int root_fd, const char *own)
{
    DIR *dir = fd_list(root_fd);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        struct stat st;
        if (!stage_folder_is_one(e->d_name) || strcmp(e->d_name, own) == 0)
            continue;
        int fd = openat(root_fd, e->d_name, STAGE_FOLDER);
        if (fd < 0)
            continue;
        int lock = fstat(fd, &st) == 0 && st.st_uid == geteuid() ? stage_folder_lock(fd) : -1;
        if (lock >= 0) {
            remove_own(root_fd, e->d_name, fd);
            close(lock);
        }
        close(fd);
    }
    if (dir != NULL)
        closedir(dir);
}

/* ---- Our own --------------------------------------------------------------------------------- */

int stage_folder_claim(struct stage *s, const char *name)
{
    if (mkdirat(s->root_fd, name, 0700) != 0 && errno != EEXIST)
        return -1;
    s->dir_fd = openat(s->root_fd, name, STAGE_FOLDER);
    if (s->dir_fd < 0) {
        errno = errno == ENOENT ? EAGAIN : errno;
        return -1;
    }
    s->lock_fd = stage_folder_lock(s->dir_fd);
    int saved = errno == ENOENT ? EAGAIN : errno;
    if (s->lock_fd >= 0) {
        if (stage_folder_is_entry(s->root_fd, name, s->dir_fd) &&
            stage_folder_is_entry(s->dir_fd, STAGE_LOCK, s->lock_fd)) {
            empty_folder(s->dir_fd, STAGE_LOCK,
                         TREE_DEPTH);            /* of an earlier process of that name */
            flock(s->dir_fd, LOCK_SH | LOCK_NB); /* systemd-tmpfiles passes by, then */
            return 0;
        }
        close(s->lock_fd);
        saved = EAGAIN;
    }
    close(s->dir_fd);
    s->dir_fd = s->lock_fd = -1;
    errno = saved;
    return -1;
}

void stage_folder_remove(struct stage *s)
{
    if (s->dir_fd >= 0) {
        remove_own(s->root_fd, s->name, s->dir_fd);
        close(s->dir_fd);
        close(s->lock_fd);
    }
    s->dir_fd = s->lock_fd = -1;
}

char *stage_folder_path(int fd)
{
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n <= 0)
        return NULL;
    path[n] = '\0';
    return strdup(path);
}

/* ---- The root -------------------------------------------------------------------------------- */

int stage_root_make(const char *path, mode_t parents)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return -1;
    int rc = 0;
    for (char *slash = strchr(copy + 1, '/'); rc == 0 && slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, parents) != 0 && errno != EEXIST && access(copy, F_OK) != 0)
            rc = -1;
        *slash = '/';
    }
    free(copy);
    return rc == 0 ? mkdir(path, 0700) : -1;
}

/* A folder such as / or /tmp, named by mistake, must not lose its mode. */
bool stage_root_is_ours(int fd)
{
    DIR *dir = fd_list(fd);
    bool only = dir != NULL;
    for (struct dirent *e; only && (e = readdir(dir)) != NULL;)
        only = stage_folder_is_dots(e->d_name) || stage_folder_is_one(e->d_name);
    if (dir != NULL)
        closedir(dir);
    return only;
}

static int judge_root(int fd, char why[256])
{
    struct stat st;
    struct statvfs vfs;
    if (fstat(fd, &st) != 0 || fstatvfs(fd, &vfs) != 0) {
        snprintf(why, 256, "%s", strerror(errno));
        return -1;
    }
    if (st.st_uid != geteuid()) {
        snprintf(why, 256, "owned by uid %ju, not by %ju", (uintmax_t)st.st_uid,
                 (uintmax_t)geteuid());
        return -1;
    }
    if ((st.st_mode & 07777) != 0700 && (!stage_root_is_ours(fd) || fchmod(fd, 0700) != 0)) {
        snprintf(why, 256, "mode is %04o, must be 0700", (unsigned)(st.st_mode & 07777));
        return -1;
    }
    if ((vfs.f_flag & ST_NOEXEC) != 0) {
        snprintf(why, 256, "on a mount with noexec");
        return -1;
    }
    return 0;
}

int stage_root_open(const char *path, char why[256])
{
    struct stat st;
    if (lstat(path, &st) != 0 && errno == ENOENT && stage_root_make(path, 0700) != 0 &&
        errno != EEXIST) {
        snprintf(why, 256, "cannot make it: %s", strerror(errno));
        return -1;
    }
    int fd = open(path, STAGE_FOLDER);
    if (fd >= 0 && judge_root(fd, why) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    else if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        snprintf(why, 256, "a symbolic link");
    else
        snprintf(why, 256, "%s", strerror(errno));
    return -1;
}
