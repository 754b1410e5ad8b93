/*
 * The stage folder: choosing its root, our own folder in it, and what others left behind.
 *
 * Whether a folder is in use is told by a lock on the file in it, never by a process number. There
 * is no lock around the root: who makes a folder proves, once it holds the lock, that the folder
 * and the lock are still the ones in the root; who removes one removes the lock last. All steps go
 * by descriptors and follow no symbolic link.
 */
#include "plugin/stage.h"

#include "base/fd.h"
#include "base/log.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define STAGE_MAGIC 0x73746167u

#define FOLDER (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define LOCK   ".lock" /* no BASE begins with a dot */

#define CANDIDATES_MAX 5
#define NAME_SIZE      64
#define TREE_DEPTH     4

struct stage {
    unsigned magic;
    int root_fd, dir_fd, lock_fd;
    char name[NAME_SIZE]; /* in the root: PID-STARTTIME */
    char *path;
};

const char *stage_path(const struct stage *stage)
{
    CHECK(stage, STAGE_MAGIC);
    return stage->path;
}

int stage_lock_fd(const struct stage *stage)
{
    CHECK(stage, STAGE_MAGIC);
    return stage->lock_fd;
}

const char *stage_name(const struct stage *stage)
{
    CHECK(stage, STAGE_MAGIC);
    return stage->name;
}

int stage_root_fd(const struct stage *stage)
{
    CHECK(stage, STAGE_MAGIC);
    return stage->root_fd;
}

int stage_dir_fd(const struct stage *stage)
{
    CHECK(stage, STAGE_MAGIC);
    return stage->dir_fd;
}

/* ---- Folders --------------------------------------------------------------------------------- */

/* PID-STARTTIME, or PID-STARTTIME.N */
static bool is_stage_name(const char *name)
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

static bool is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Whether `name` in `parent` is what `fd` has open. */
static bool is_entry(int parent, const char *name, int fd)
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
        if (is_dots(e->d_name) || (keep != NULL && strcmp(e->d_name, keep) == 0))
            continue;
        if (unlinkat(fd, e->d_name, 0) == 0)
            continue;
        int below = openat(fd, e->d_name, FOLDER);
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
    empty_folder(dir_fd, LOCK, TREE_DEPTH);
    unlinkat(dir_fd, LOCK, 0);
    unlinkat(root_fd, name, AT_REMOVEDIR);
}

/* The lock of the folder `dir_fd`, taken. -1: errno, EWOULDBLOCK when somebody has it. */
static int take_lock(int dir_fd)
{
    int fd = openat(dir_fd, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* Removes the folders of processes that are no more. */
static void remove_stale(int root_fd, const char *own)
{
    DIR *dir = fd_list(root_fd);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        struct stat st;
        if (!is_stage_name(e->d_name) || strcmp(e->d_name, own) == 0)
            continue;
        int fd = openat(root_fd, e->d_name, FOLDER);
        if (fd < 0)
            continue;
        int lock = fstat(fd, &st) == 0 && st.st_uid == geteuid() ? take_lock(fd) : -1;
        if (lock >= 0) {
            remove_own(root_fd, e->d_name, fd);
            close(lock);
        }
        close(fd);
    }
    if (dir != NULL)
        closedir(dir);
}

/* ---- Our own folder -------------------------------------------------------------------------- */

/* Field 22 of /proc/self/stat: with the process number it names this process for all time. */
static int read_starttime(unsigned long long *out)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    for (int field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (at == NULL)
        return -1;
    *out = strtoull(at + 1, NULL, 10);
    return 0;
}

/* Makes or takes over the folder `name`. 0; or -1 with errno, EWOULDBLOCK when it is in use, EAGAIN
   when it vanished meanwhile. */
static int claim(struct stage *s, const char *name)
{
    if (mkdirat(s->root_fd, name, 0700) != 0 && errno != EEXIST)
        return -1;
    s->dir_fd = openat(s->root_fd, name, FOLDER);
    if (s->dir_fd < 0) {
        errno = errno == ENOENT ? EAGAIN : errno;
        return -1;
    }
    s->lock_fd = take_lock(s->dir_fd);
    int saved = errno == ENOENT ? EAGAIN : errno;
    if (s->lock_fd >= 0) {
        if (is_entry(s->root_fd, name, s->dir_fd) && is_entry(s->dir_fd, LOCK, s->lock_fd)) {
            empty_folder(s->dir_fd, LOCK, TREE_DEPTH); /* of an earlier process of that name */
            flock(s->dir_fd, LOCK_SH | LOCK_NB);       /* systemd-tmpfiles passes by, then */
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

/* PID-STARTTIME; with a suffix only where another machine or container that shares the root has
   the same numbers, or another stage of this process. */
static int make_own(struct stage *s, char why[256])
{
    unsigned long long start;
    if (read_starttime(&start) != 0) {
        snprintf(why, 256, "cannot read /proc/self/stat: is /proc mounted?");
        return -1;
    }
    for (int attempt = 0; attempt < 100; attempt++) {
        int n = snprintf(s->name, sizeof(s->name), "%ld-%llu", (long)getpid(), start);
        if (attempt >= 5) /* before that, whoever has the lock may be about to remove the folder */
            snprintf(s->name + n, sizeof(s->name) - (size_t)n, ".%d", attempt - 4);
        if (claim(s, s->name) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EAGAIN)
            break;
        nanosleep(&(struct timespec){ .tv_nsec = attempt < 5 ? 4000000 : 0 }, NULL);
    }
    snprintf(why, 256, "cannot make a folder in it: %s", strerror(errno));
    return -1;
}

/* What a mount option or a security module says about execution, only trying tells. */
static int try_execution(int dir_fd, char why[256])
{
    static const char name[] = ".exec-test";
    long page = sysconf(_SC_PAGESIZE);
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0700);
    int rc = fd >= 0 ? ftruncate(fd, page) : -1;
    if (rc != 0) {
        snprintf(why, 256, "cannot write to it: %s", strerror(errno));
    } else {
        void *map = mmap(NULL, (size_t)page, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
        rc = map == MAP_FAILED ? -1 : munmap(map, (size_t)page);
        if (rc != 0)
            snprintf(why, 256, "files in it cannot be mapped for execution: %s", strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
        unlinkat(dir_fd, name, 0);
    }
    return rc;
}

/* ---- The root -------------------------------------------------------------------------------- */

/* Makes the folders above `path` that are missing, then `path` itself, 0700. 0 or -1 with errno. */
static int make_folders(const char *path, mode_t parents)
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

/* Nothing in it but stage folders: then it is ours to make private. A folder such as / or /tmp,
   named by mistake, must not lose its mode. */
static bool holds_only_stages(int fd)
{
    DIR *dir = fd_list(fd);
    bool only = dir != NULL;
    for (struct dirent *e; only && (e = readdir(dir)) != NULL;)
        only = is_dots(e->d_name) || is_stage_name(e->d_name);
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
    if ((st.st_mode & 07777) != 0700 && (!holds_only_stages(fd) || fchmod(fd, 0700) != 0)) {
        snprintf(why, 256, "mode is %04o, must be 0700", (unsigned)(st.st_mode & 07777));
        return -1;
    }
    if ((vfs.f_flag & ST_NOEXEC) != 0) {
        snprintf(why, 256, "on a mount with noexec");
        return -1;
    }
    return 0;
}

static int open_root(const char *path, char why[256])
{
    struct stat st;
    if (lstat(path, &st) != 0 && errno == ENOENT && make_folders(path, 0700) != 0 &&
        errno != EEXIST) {
        snprintf(why, 256, "cannot make it: %s", strerror(errno));
        return -1;
    }
    int fd = open(path, FOLDER);
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

/* What the kernel calls our folder: absolute, links resolved. */
static char *path_of(int fd)
{
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n <= 0)
        return NULL;
    path[n] = '\0';
    return strdup(path);
}

static void close_own(struct stage *s)
{
    if (s->dir_fd >= 0) {
        remove_own(s->root_fd, s->name, s->dir_fd);
        close(s->dir_fd);
        close(s->lock_fd);
    }
    s->dir_fd = s->lock_fd = -1;
}

/* 0, or -1 with s as it was. */
static int try_root(struct stage *s, const char *path, char why[256])
{
    s->root_fd = open_root(path, why);
    if (s->root_fd < 0)
        return -1;
    if (make_own(s, why) == 0 && try_execution(s->dir_fd, why) == 0) {
        s->path = path_of(s->dir_fd);
        if (s->path != NULL && strlen(s->path) < PATH_MAX - NAME_MAX - 64)
            return 0;
        snprintf(why, 256, "its path cannot be used");
        free(s->path);
        s->path = NULL;
    }
    close_own(s);
    close(s->root_fd);
    s->root_fd = -1;
    return -1;
}

/* ---- When somebody has removed it ------------------------------------------------------------ */

/* Puts `*from` where `to` is, which keeps its number: others may be at work with that. */
static int move_fd(int *from, int to)
{
    int rc = dup3(*from, to, O_CLOEXEC) == to ? 0 : -1;
    close(*from);
    *from = -1;
    return rc;
}

/* Our folder is there, its lock is gone: a start would take us for dead. */
static int renew_lock(struct stage *s, char why[256])
{
    int lock = take_lock(s->dir_fd);
    snprintf(why, 256, "its lock: %s", strerror(lock < 0 ? errno : EAGAIN));
    if (lock < 0)
        return -1;
    if (is_entry(AT_FDCWD, s->path, s->dir_fd) && is_entry(s->dir_fd, LOCK, lock))
        return move_fd(&lock, s->lock_fd);
    close(lock);
    return -1;
}

/* The folder of the same name in the same root, also when that has to be made again. */
static int renew_folder(struct stage *s, char why[256])
{
    struct stage made = { .dir_fd = -1, .lock_fd = -1 };
    size_t root_len = strlen(s->path) - strlen(s->name) - 1;
    char root[PATH_MAX];
    snprintf(root, sizeof root, "%.*s", (int)root_len, s->path);
    made.root_fd = open_root(root, why);
    if (made.root_fd < 0)
        return -1;
    int rc = claim(&made, s->name);
    if (rc == 0)
        made.path = path_of(made.dir_fd);
    if (rc == 0 && made.path != NULL && strcmp(made.path, s->path) == 0) {
        rc = move_fd(&made.root_fd, s->root_fd);
        rc = move_fd(&made.dir_fd, s->dir_fd) != 0 ? -1 : rc;
        rc = move_fd(&made.lock_fd, s->lock_fd) != 0 ? -1 : rc;
    } else {
        snprintf(why, 256, "%s", rc != 0 ? strerror(errno) : "its path leads elsewhere now");
        close_own(&made);
        close(made.root_fd);
        rc = -1;
    }
    free(made.path);
    return rc;
}

static bool is_whole(const struct stage *s)
{
    return is_entry(AT_FDCWD, s->path, s->dir_fd) && is_entry(s->dir_fd, LOCK, s->lock_fd);
}

int stage_renew(struct stage *s, struct err *err)
{
    char why[256] = "";
    CHECK(s, STAGE_MAGIC);
    if (is_whole(s))
        return 0;
    for (int attempt = 0; attempt < 5; attempt++) {
        bool there = is_entry(AT_FDCWD, s->path, s->dir_fd);
        int rc = there ? renew_lock(s, why) : renew_folder(s, why);
        if (rc == 0 && is_whole(s)) {
            log_msg(LOG_WARN, "stage", "somebody had removed %s%s: made again", s->path,
                    there ? "/" LOCK : "");
            return 0;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 4000000 }, NULL); /* a start may be removing it */
    }
    return err_set(err,
                   "the stage folder %s was removed and cannot be made again: %s: make it possible "
                   "for uid %ju, or restart graftd",
                   s->path, why, (uintmax_t)geteuid());
}

/* ---- Choosing -------------------------------------------------------------------------------- */

struct candidates {
    char *paths[CANDIDATES_MAX];
    int count;
};

PRINTF_LIKE(2, 3) static void add_candidate(struct candidates *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&c->paths[c->count], fmt, ap) >= 0)
        c->count++;
    va_end(ap);
}

static bool is_absolute(const char *path)
{
    return path != NULL && path[0] == '/';
}

/* The first folder that systemd's CacheDirectory= has made, without its end; 0 bytes: none. */
static int cache_directory(const char **path)
{
    *path = getenv("CACHE_DIRECTORY");
    return is_absolute(*path) ? (int)strcspn(*path, ":") : 0;
}

static void list_candidates(struct candidates *c, const char *configured)
{
    uintmax_t uid = geteuid();
    const char *cache, *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"),
                       *tmp = getenv("TMPDIR");
    if (configured != NULL && *configured != '\0') {
        add_candidate(c, "%s", configured);
        return;
    }
    int len = cache_directory(&cache);
    if (len > 0)
        add_candidate(c, "%.*s", len, cache);
    add_candidate(c, "/var/cache/graft");
    if (is_absolute(xdg))
        add_candidate(c, "%s/graft", xdg);
    else if (is_absolute(home))
        add_candidate(c, "%s/.cache/graft", home);
    if (is_absolute(tmp) && strcmp(tmp, "/tmp") != 0)
        add_candidate(c, "%s/graft-%ju", tmp, uid);
    add_candidate(c, "/tmp/graft-%ju", uid);
}

static int choose(struct stage *s, const struct candidates *c, struct err *err)
{
    struct err tried = { "" };
    for (int i = 0; i < c->count; i++) {
        char why[256] = "";
        if (try_root(s, c->paths[i], why) == 0)
            return 0;
        err_set(&tried, "%s%s%s: %s", tried.text, i > 0 ? "; " : "", c->paths[i], why);
    }
    return err_set(err,
                   "no folder for staged copies of plugins: %s: set stage_dir to a folder of mode "
                   "0700, owned by uid %ju, on a mount with room and without noexec",
                   c->count > 0 ? tried.text : "out of memory", (uintmax_t)geteuid());
}

int stage_open(struct stage **out, const char *configured, struct err *err)
{
    struct candidates c = { .count = 0 };
    struct stage *s = calloc(1, sizeof(*s));
    *out = NULL;
    if (s == NULL)
        return err_set(err, "out of memory");
    s->magic = STAGE_MAGIC;
    s->root_fd = s->dir_fd = s->lock_fd = -1;
    list_candidates(&c, configured);
    int rc = choose(s, &c, err);
    for (int i = 0; i < c.count; i++)
        free(c.paths[i]);
    if (rc != 0) {
        free(s);
        return -1;
    }
    remove_stale(s->root_fd, s->name);
    *out = s;
    return 0;
}

struct stage *stage_adopt(int root_fd, int dir_fd, int lock_fd, const char *name, const char *path)
{
    struct stage *s = calloc(1, sizeof(*s));
    char *copy = strdup(path);
    if (s == NULL || copy == NULL) {
        free(s);
        free(copy);
        close(root_fd);
        close(dir_fd);
        close(lock_fd);
        return NULL;
    }
    *s = (struct stage){
        .magic = STAGE_MAGIC, .root_fd = root_fd, .dir_fd = dir_fd, .lock_fd = lock_fd, .path = copy
    };
    snprintf(s->name, sizeof(s->name), "%s", name);
    return s;
}

/* The number in "SHA12.SEQ.so" or ".copy.SEQ"; 0: it is no copy's name. */
static uint64_t seq_of(const char *name)
{
    const char *dot = strncmp(name, ".copy.", 6) == 0 ? name + 5 : strchr(name, '.');
    return dot != NULL ? strtoull(dot + 1, NULL, 10) : 0;
}

static void remove_copies(int dir_fd, uint64_t first, uint64_t last, int depth)
{
    DIR *dir = depth > 0 ? fd_list(dir_fd) : NULL;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (is_dots(e->d_name))
            continue;
        uint64_t n = seq_of(e->d_name);
        if (n > first && n <= last && unlinkat(dir_fd, e->d_name, 0) == 0)
            continue;
        int below = openat(dir_fd, e->d_name, FOLDER);
        if (below < 0)
            continue;
        remove_copies(below, first, last, depth - 1);
        close(below); /* and stays: who comes next may be about to move a copy into it */
    }
    if (dir != NULL)
        closedir(dir);
}

void stage_remove_between(struct stage *stage, uint64_t first, uint64_t last)
{
    CHECK(stage, STAGE_MAGIC);
    remove_copies(stage->dir_fd, first, last, 2);
}

void stage_close(struct stage *stage)
{
    if (stage == NULL)
        return;
    CHECK(stage, STAGE_MAGIC);
    close_own(stage);
    close(stage->root_fd);
    free(stage->path);
    free(stage);
}

/* The folder is new, or ours and empty: nobody else's file changes hands. */
static int give_away(const char *path, uid_t uid, gid_t gid, struct err *err)
{
    struct stat st;
    int fd = open(path, FOLDER), rc = 0;
    if (fd < 0)
        return 0; /* stage_open will say what is wrong with it */
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && st.st_uid != uid &&
        holds_only_stages(fd)) {
        remove_stale(fd, ""); /* those in use belong to another graftd: then it stays as it is */
        DIR *dir = fd_list(fd);
        bool empty = dir != NULL;
        for (struct dirent *e; empty && (e = readdir(dir)) != NULL;)
            empty = is_dots(e->d_name);
        if (dir != NULL)
            closedir(dir);
        if (empty && (fchmod(fd, 0700) != 0 || fchown(fd, uid, gid) != 0))
            rc = err_set(err, "cannot give %s to uid %ju: %s", path, (uintmax_t)uid,
                         strerror(errno));
    }
    close(fd);
    return rc;
}

int stage_prepare(const char *configured, uid_t uid, gid_t gid, struct err *err)
{
    const char *cache = "/var/cache/graft";
    int len = (int)strlen(cache);
    char *path = NULL;
    if (configured != NULL && *configured != '\0') {
        cache = configured;
        len = (int)strlen(configured);
    } else if (cache_directory(&cache) > 0) {
        len = cache_directory(&cache);
    } else {
        cache = "/var/cache/graft";
    }
    if (asprintf(&path, "%.*s", len, cache) < 0)
        return err_set(err, "out of memory");
    make_folders(path, 0755); /* a failure is for stage_open to report: there are others */
    int rc = give_away(path, uid, gid, err);
    free(path);
    return rc;
}
