/*
 * The stage: which root, our own folder in it under a name that nobody else has, and that what lies
 * there can be executed. The folders themselves: stage_folder.c.
 */
#include "plugin/stage_private.h"

#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CANDIDATES_MAX 5

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
        if (stage_folder_claim(s, s->name) == 0)
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

/* 0, or -1 with s as it was. */
static int try_root(struct stage *s, const char *path, char why[256])
{
    s->root_fd = stage_root_open(path, why);
    if (s->root_fd < 0)
        return -1;
    if (make_own(s, why) == 0 && try_execution(s->dir_fd, why) == 0) {
        s->path = stage_folder_path(s->dir_fd);
        if (s->path != NULL && strlen(s->path) < PATH_MAX - NAME_MAX - 64)
            return 0;
        snprintf(why, 256, "its path cannot be used");
        free(s->path);
        s->path = NULL;
    }
    stage_folder_remove(s);
    close(s->root_fd);
    s->root_fd = -1;
    return -1;
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
    stage_folder_sweep(s->root_fd, s->name);
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

/* False: a folder could not be looked into, and could be another time. */
static bool remove_copies(int dir_fd, uint64_t first, uint64_t last, int depth)
{
    if (depth == 0)
        return true;
    DIR *dir = fd_list(dir_fd);
    bool whole = dir != NULL || !err_is_lack(errno);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (stage_folder_is_dots(e->d_name))
            continue;
        uint64_t n = seq_of(e->d_name);
        if (n > first && n <= last && unlinkat(dir_fd, e->d_name, 0) == 0)
            continue;
        int below = openat(dir_fd, e->d_name, STAGE_FOLDER);
        if (below < 0) {
            whole = whole && !err_is_lack(errno);
            continue;
        }
        whole = remove_copies(below, first, last, depth - 1) && whole;
        close(below); /* and stays: who comes next may be about to move a copy into it */
    }
    if (dir != NULL)
        closedir(dir);
    return whole;
}

bool stage_remove_between(struct stage *stage, uint64_t first, uint64_t last)
{
    CHECK(stage, STAGE_MAGIC);
    return remove_copies(stage->dir_fd, first, last, 2);
}

void stage_close(struct stage *stage)
{
    if (stage == NULL)
        return;
    CHECK(stage, STAGE_MAGIC);
    stage_folder_remove(stage);
    close(stage->root_fd);
    free(stage->path);
    free(stage);
}

/* The folder is new, or ours and empty: nobody else's file changes hands. */
static int give_away(const char *path, uid_t uid, gid_t gid, struct err *err)
{
    struct stat st;
    int fd = open(path, STAGE_FOLDER), rc = 0;
    if (fd < 0)
        return 0; /* stage_open will say what is wrong with it */
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && st.st_uid != uid &&
        stage_root_is_ours(fd)) {
        stage_folder_sweep(fd,
                           ""); /* those in use belong to another graftd: then it stays as it is */
        DIR *dir = fd_list(fd);
        bool empty = dir != NULL;
        for (struct dirent *e; empty && (e = readdir(dir)) != NULL;)
            empty = stage_folder_is_dots(e->d_name);
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
    stage_root_make(path, 0755); /* a failure is for stage_open to report: there are others */
    int rc = give_away(path, uid, gid, err);
    free(path);
    return rc;
}

int stage_give(struct stage *s, struct root_gift *gift, const struct root_ids *to, struct err *err)
{
    CHECK(s, STAGE_MAGIC);
    stage_folder_sweep(s->root_fd, s->name);
    DIR *dir = fd_list(s->root_fd);
    bool alone = dir != NULL;
    for (struct dirent *e; alone && (e = readdir(dir)) != NULL;)
        alone = stage_folder_is_dots(e->d_name) || strcmp(e->d_name, s->name) == 0;
    if (dir != NULL)
        closedir(dir);
    if (!alone)
        return err_set(err,
                       "%s: the folder above it cannot become another user's: it holds something "
                       "else, another graftd's perhaps: restart with a stage_dir of its own",
                       s->path);
    if (root_give_folder(gift, s->dir_fd, ROOT_CLEARED, to, err) != 0 ||
        root_give_folder(gift, s->root_fd, ROOT_ALONE, to, err) != 0)
        return err_prefix(err, "%s", s->path);
    return 0;
}
