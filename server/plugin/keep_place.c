/*
 * Where the store is: which folder is meant, whether it can be used, and its .lock, which keeps
 * other graftds out. Nothing here follows a symbolic link; a folder that somebody else could write
 * to is not used. The supervisor's part is here, too: the lock that it hands on, and the folder
 * made for, or given to, the user that graftd becomes.
 */
#include "plugin/keep_names.h"
#include "plugin/keep_private.h"

#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_PATH "/var/lib/graft"

/* ---- Choosing -------------------------------------------------------------------------------- */

/* What could be meant, and whether it may be made. 0 bytes: nothing. */
static int candidate(const char *configured, const char **path, bool *make)
{
    *make = true;
    *path = configured;
    if (configured != NULL && *configured != '\0')
        return (int)strlen(configured);
    *path = getenv("STATE_DIRECTORY");
    if (*path != NULL && **path == '/')
        return (int)strcspn(*path, ":");
    *path = DEFAULT_PATH;
    *make = false;
    return (int)strlen(DEFAULT_PATH);
}

static bool is_ours(const char *name)
{
    static const char *const names[] = {
        ".", "..", LOCK, OWNER, INDEX, INDEX_NEW, INDEX_BAD, FILES
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Nothing in it but the store: then it is ours to make private. A folder such as / or /var, named
   by mistake, must not lose its mode. */
static bool holds_only_ours(int fd)
{
    DIR *dir = fd_list(fd);
    bool only = dir != NULL;
    for (struct dirent *e; only && (e = readdir(dir)) != NULL;)
        only = is_ours(e->d_name);
    if (dir != NULL)
        closedir(dir);
    return only;
}

static int judge(int fd, const char *path, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_set(err, "%s: %s", path, strerror(errno));
    if (st.st_uid != geteuid())
        return err_set(err,
                       "%s: owned by uid %ju, expected %ju (graftd's): chown it, or set "
                       "state_dir to a folder of its own",
                       path, (uintmax_t)st.st_uid, (uintmax_t)geteuid());
    if ((st.st_mode & 07777) != 0700 && (!holds_only_ours(fd) || fchmod(fd, 0700) != 0))
        return err_set(err,
                       "%s: mode is %04o, expected 0700: chmod it, or set state_dir to a "
                       "folder of its own",
                       path, (unsigned)(st.st_mode & 07777));
    return 0;
}

/* Makes what is missing of the path, the last part 0700. */
static void make_folders(const char *path, mode_t parents)
{
    char *copy = strdup(path);
    for (char *slash = copy != NULL ? strchr(copy + 1, '/') : NULL; slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(copy, parents);
        *slash = '/';
    }
    mkdir(path, 0700); /* why it is not there, opening it says */
    free(copy);
}

static int open_root(const char *path, struct err *err)
{
    struct stat st;
    int fd = open(path, FOLDER);
    if (fd >= 0 && judge(fd, path, err) == 0)
        return fd;
    int why = errno;
    if (fd >= 0)
        close(fd);
    else if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        err_set(err, "%s: a symbolic link: set state_dir to the folder itself", path);
    else
        err_set(err, "%s: %s: set state_dir to a folder that can be made or is ours", path,
                strerror(why));
    errno = why;
    return -1;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static int open_lock(int dir, const char *path, struct err *err)
{
    int fd = openat(dir, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, "%s/" LOCK ": %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    err_set(err, "%s: %s", path,
            errno == EWOULDBLOCK ? "another graftd uses it: give each a state_dir of its own"
                                 : strerror(errno));
    close(fd);
    return -1;
}

static bool is_lock_of(int dir, int fd)
{
    struct stat a, b;
    return fd >= 0 && fstat(fd, &a) == 0 && fstatat(dir, LOCK, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* The one that was handed to us, unless the folder is another by now. */
static int take_lock(struct keep_folder *f, int handed, struct err *err)
{
    f->lock_fd = is_lock_of(f->dir_fd, handed) ? fcntl(handed, F_DUPFD_CLOEXEC, 3)
                                               : open_lock(f->dir_fd, f->path, err);
    if (f->lock_fd >= 0)
        return 0;
    return is_lock_of(f->dir_fd, handed) ? err_set(err, "%s: %s", f->path, strerror(errno)) : -1;
}

int keep_place_open(struct keep_folder *f, const char *configured, int handed, struct err *err)
{
    const char *path;
    bool make;
    struct stat st;
    int len = candidate(configured, &path, &make);
    *f = (struct keep_folder)KEEP_FOLDER_NONE;
    if (asprintf(&f->path, "%.*s", len, path) < 0) {
        f->path = NULL;
        return err_set(err, "out of memory");
    }
    if (make)
        make_folders(f->path, 0700);
    if (!make && (lstat(f->path, &st) != 0 || st.st_uid != geteuid()))
        return 1;
    f->dir_fd = open_root(f->path, err);
    return f->dir_fd >= 0 && take_lock(f, handed, err) == 0 ? 0 : -1;
}

/* As keep_folder_open looks at it. */
int keep_lock(const char *configured)
{
    struct err err;
    struct keep_folder f;
    int rc = keep_place_open(&f, configured, -1, &err);
    int fd = rc == 0 ? fcntl(f.lock_fd, F_DUPFD_CLOEXEC, 3) : -1;
    keep_folder_close(&f);
    return fd;
}

/* ---- Giving it away -------------------------------------------------------------------------- */

/* The folder is new, or ours and empty: nobody else's file changes hands. */
int keep_prepare(const char *configured, uid_t uid, gid_t gid, struct err *err)
{
    const char *path;
    char *copy;
    bool make;
    struct stat st;
    int len = candidate(configured, &path, &make), rc = 0;
    if (asprintf(&copy, "%.*s", len, path) < 0)
        return err_set(err, "out of memory");
    if (make)
        make_folders(copy, 0755);
    int fd = open(copy, FOLDER);
    DIR *dir = fd >= 0 ? fd_list(fd) : NULL;
    bool empty = dir != NULL && fstat(fd, &st) == 0 && st.st_uid == geteuid() && st.st_uid != uid;
    for (struct dirent *e; empty && (e = readdir(dir)) != NULL;)
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    if (empty && (fchmod(fd, 0700) != 0 || fchown(fd, uid, gid) != 0))
        rc = err_set(err, "cannot give %s to uid %ju: %s", copy, (uintmax_t)uid, strerror(errno));
    if (dir != NULL)
        closedir(dir);
    if (fd >= 0)
        close(fd);
    free(copy);
    return rc;
}

int keep_give(const char *configured, int lock, struct root_gift *gift, const struct root_ids *to,
              struct err *err)
{
    char path[PATH_MAX];
    const char *at;
    bool make;
    int len = candidate(configured, &at, &make);
    snprintf(path, sizeof path, "%.*s", len, at);
    int fd = open(path, FOLDER);
    if (fd < 0)
        return 0; /* keep_open will say what is wrong with it */
    int rc = 0;
    if (is_lock_of(fd, lock)) /* else it is no store of ours */
        rc = holds_only_ours(fd)
                 ? root_give_folder(gift, fd, ROOT_ALL, to, err)
                 : err_set(err, "it cannot become another user's: it holds something else: "
                                "restart with a state_dir of its own");
    close(fd);
    return rc == 0 ? 0 : err_prefix(err, "%s", path);
}
