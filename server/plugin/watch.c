/*
 * Orchestrators do not write files, they swap links and rename folders: so every part of the way,
 * of the folder itself and of each link in it, is watched where it lies, and links are followed.
 * The set is made anew before each scan; what is watched still is kept, so that nothing is missed
 * in between.
 */
#include "plugin/watch.h"

#include "base/clock.h"
#include "base/log.h"
#include "plugin/scan.h"
#include "plugin/signature.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEBOUNCE_MS     200
#define DEBOUNCE_MAX_MS 2000 /* under steady writing a scan is made all the same */
#define MAX_LINKS       40
#define MAX_WATCHES     1024

/* Of a folder on the way only what lies there, not what is written into it: it may be /tmp. */
#define COMES_AND_GOES                                                                             \
    (IN_CREATE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF)
#define EVERYTHING (COMES_AND_GOES | IN_CLOSE_WRITE | IN_ATTRIB)

/* What counts in a watched folder: every plugin file, or one name. */
struct interest {
    int wd;
    bool fresh; /* of the set that is being made */
    char *name; /* NULL: the plugin files, and the folder itself */
};

#define WATCH_MAGIC 0x77746368u

struct watch {
    unsigned magic;
    struct swap *swap;
    int fd;
    struct event *readable, *timer;
    uint64_t first_us; /* of the changes that wait; 0: none do */
    struct interest *interests;
    size_t n;
    bool full; /* said once */
    struct swap_ask ask;
    bool asking, again;
    bool closed; /* freed when the ask is answered */
};

/* ---- What to watch --------------------------------------------------------------------------- */

static void tell_full(struct watch *w, const char *folder, const char *why)
{
    if (!w->full)
        log_msg(LOG_WARN, "watch", "cannot watch %s: %s; changes there wait for graftctl reload",
                folder, why);
    w->full = true;
}

static bool interest_known(struct watch *w, int wd, const char *name)
{
    for (size_t i = 0; i < w->n; i++) {
        struct interest *in = &w->interests[i];
        if (in->wd == wd && (in->name == NULL) == (name == NULL) &&
            (name == NULL || strcmp(in->name, name) == 0)) {
            in->fresh = true;
            return true;
        }
    }
    return false;
}

static void interest_add(struct watch *w, const char *folder, const char *name, uint32_t mask)
{
    int wd = inotify_add_watch(w->fd, folder, mask | IN_ONLYDIR | IN_MASK_ADD);
    if (wd < 0 && (errno == ENOSPC || errno == ENOMEM))
        tell_full(w, folder, "inotify has no more watches: raise fs.inotify.max_user_watches");
    if (wd < 0 || interest_known(w, wd, name))
        return; /* not there: its parent is watched */
    char *copy = name != NULL ? strdup(name) : NULL;
    struct interest *more =
        w->n < MAX_WATCHES ? realloc(w->interests, (w->n + 1) * sizeof *more) : NULL;
    if (more != NULL)
        w->interests = more;
    if (more == NULL || (name != NULL && copy == NULL)) {
        free(copy);
        tell_full(w, folder,
                  w->n < MAX_WATCHES ? "out of memory" : "too many links in the plugin folder");
        return;
    }
    w->interests[w->n++] = (struct interest){ .wd = wd, .fresh = true, .name = copy };
}

/* Watches the folder in which `path` lies for its last name. */
static void watch_name(struct watch *w, const char *path, uint32_t mask)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash == NULL) {
        interest_add(w, ".", path, mask);
        return;
    }
    const char *name = path + (slash - folder) + 1;
    slash[slash == folder ? 1 : 0] = '\0';
    if (*name != '\0')
        interest_add(w, folder, name, mask);
}

/* The same for every part of the path but the last. From the left, so that a folder that is made
   meanwhile is seen by the watch on the one above it. */
static void watch_parents(struct watch *w, const char *path)
{
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        watch_name(w, part, COMES_AND_GOES);
        *slash = '/';
    }
}

/* Replaces the link at path[0..len) by what it holds; false when that does not fit. */
static bool follow_link(char path[PATH_MAX], size_t len)
{
    char target[PATH_MAX], rest[PATH_MAX], made[PATH_MAX];
    snprintf(rest, sizeof rest, "%s", path + len);
    path[len] = '\0';
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n <= 0)
        return false;
    target[n] = '\0';
    char *slash = strrchr(path, '/');
    size_t folder = target[0] == '/' || slash == NULL ? 0 : (size_t)(slash - path) + 1;
    int size = snprintf(made, sizeof made, "%.*s%s%s", (int)folder, path, target, rest);
    if (size < 0 || (size_t)size >= sizeof made)
        return false;
    memcpy(path, made, (size_t)size + 1);
    return true;
}

/* The length of the first part of the path that is a link; 0: there is none. */
static size_t first_link(const char *path)
{
    char part[PATH_MAX];
    struct stat st;
    for (size_t len = 1; len <= strlen(path); len++) {
        if (path[len] != '/' && path[len] != '\0')
            continue;
        memcpy(part, path, len);
        part[len] = '\0';
        if (lstat(part, &st) == 0 && S_ISLNK(st.st_mode))
            return len;
    }
    return 0;
}

/* Watches every link and every folder on the way; leaves the path without links. */
static void watch_path(struct watch *w, char path[PATH_MAX])
{
    for (int i = 0; i < MAX_LINKS; i++) {
        size_t len = first_link(path);
        if (len == 0)
            break;
        char link[PATH_MAX];
        memcpy(link, path, len);
        link[len] = '\0';
        watch_parents(w, link);
        watch_name(w, link, COMES_AND_GOES);
        if (!follow_link(path, len))
            return;
    }
    watch_parents(w, path);
    watch_name(w, path, EVERYTHING);
}

static void watch_files(struct watch *w, const char *folder)
{
    DIR *dir = opendir(folder);
    char path[PATH_MAX];
    struct stat st;
    if (dir == NULL)
        return;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        int len = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if ((!scan_takes(e->d_name) && !signature_takes(e->d_name)) ||
            (e->d_type != DT_LNK && e->d_type != DT_UNKNOWN) || len < 0 ||
            (size_t)len >= sizeof path)
            continue;
        if (lstat(path, &st) != 0 || !S_ISLNK(st.st_mode))
            continue;
        watch_path(w, path);
        if (scan_takes(e->d_name) && strlen(path) + sizeof ".minisig" <= sizeof path)
            watch_name(w, strcat(path, ".minisig"), EVERYTHING);
    }
    closedir(dir);
}

static void drop_old(struct watch *w)
{
    size_t kept = 0;
    for (size_t i = 0; i < w->n; i++) {
        struct interest in = w->interests[i];
        bool needed = in.fresh;
        for (size_t j = 0; j < w->n && !needed; j++)
            needed = w->interests[j].fresh && w->interests[j].wd == in.wd;
        if (!needed)
            inotify_rm_watch(w->fd, in.wd); /* EINVAL: the folder is gone, or done before */
        if (in.fresh)
            w->interests[kept++] = in;
        else
            free(in.name);
    }
    w->n = kept;
}

void watch_refresh(struct watch *w)
{
    char path[PATH_MAX];
    if (w == NULL)
        return;
    CHECK(w, WATCH_MAGIC);
    for (size_t i = 0; i < w->n; i++)
        w->interests[i].fresh = false;
    snprintf(path, sizeof path, "%s", swap_config(w->swap)->plugin_dir);
    for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
        path[len - 1] = '\0';
    interest_add(w, path, NULL, EVERYTHING); /* ahead of the others, should there be few watches */
    watch_path(w, path);
    interest_add(w, path, NULL, EVERYTHING);
    watch_files(w, path);
    drop_old(w);
}

/* ---- What happens ---------------------------------------------------------------------------- */

/* Editors' temporary files and logs beside the plugins are nobody's plugins. */
static bool is_of(const struct interest *in, const struct inotify_event *e)
{
    if (in->name == NULL)
        return e->len == 0 || scan_takes(e->name) || signature_takes(e->name);
    return e->len > 0 && strcmp(in->name, e->name) == 0;
}

static bool counts(const struct watch *w, const struct inotify_event *e)
{
    if (e->mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF))
        return true;
    for (size_t i = 0; i < w->n; i++)
        if (w->interests[i].wd == e->wd && is_of(&w->interests[i], e))
            return true;
    return false;
}

static void changed(struct watch *w)
{
    uint64_t now = clock_us();
    unsigned wait_ms = DEBOUNCE_MS;
    if (w->first_us == 0)
        w->first_us = now;
    if (now - w->first_us + DEBOUNCE_MS * 1000u > DEBOUNCE_MAX_MS * 1000u)
        wait_ms = 1;
    struct timeval tv = { .tv_usec = (suseconds_t)wait_ms * 1000 };
    event_add(w->timer, &tv);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct watch *w = arg;
    _Alignas(struct inotify_event) char buf[8192];
    bool any = false;
    for (int i = 0; i < 16; i++) { /* then the loop has its turn */
        ssize_t n = read(fd, buf, sizeof buf);
        if (n <= 0)
            break;
        for (char *at = buf; at < buf + n;) {
            const struct inotify_event *e = (const void *)at;
            any = any || counts(w, e);
            at += sizeof *e + e->len;
        }
    }
    if (any)
        changed(w);
}

static void watch_free(struct watch *w)
{
    if (w->readable != NULL)
        event_free(w->readable);
    if (w->timer != NULL)
        event_free(w->timer);
    if (w->fd >= 0)
        close(w->fd);
    for (size_t i = 0; i < w->n; i++)
        free(w->interests[i].name);
    free(w->interests);
    w->magic = 0;
    free(w);
}

static void ask(struct watch *w);

static void answered(struct swap_ask *a, const struct swap_result *result)
{
    (void)result;
    struct watch *w = a->arg;
    w->asking = false;
    if (w->closed)
        watch_free(w);
    else if (w->again)
        ask(w);
}

static void ask(struct watch *w)
{
    w->again = w->asking;
    if (w->asking)
        return;
    w->asking = true;
    w->ask = (struct swap_ask){ .from_watch = true, .done = answered, .arg = w };
    swap_ask(w->swap, &w->ask);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct watch *w = arg;
    CHECK(w, WATCH_MAGIC);
    w->first_us = 0;
    watch_refresh(w);
    ask(w);
}

/* Whether the plugin folder itself is watched, not only what leads to it. */
static bool has_folder(const struct watch *w)
{
    bool has = false;
    for (size_t i = 0; i < w->n; i++)
        has = has || w->interests[i].name == NULL;
    return has;
}

int watch_open(struct watch **out, struct swap *s, struct event_base *base, struct err *err)
{
    struct watch *w = calloc(1, sizeof *w);
    if (w == NULL)
        return err_set(err, "out of memory for the folder watch");
    w->magic = WATCH_MAGIC;
    w->swap = s;
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->fd < 0) {
        err_set(err,
                "cannot watch the plugin folder: inotify: %s: raise "
                "fs.inotify.max_user_instances, or do without --watch",
                strerror(errno));
        watch_free(w);
        return -1;
    }
    w->readable = event_new(base, w->fd, EV_READ | EV_PERSIST, on_readable, w);
    w->timer = evtimer_new(base, on_timer, w);
    if (w->readable == NULL || w->timer == NULL || event_add(w->readable, NULL) != 0) {
        watch_free(w);
        return err_set(err, "out of memory for the folder watch");
    }
    watch_refresh(w);
    if (w->n == 0 || (w->full && !has_folder(w))) {
        watch_free(w);
        return err_set(err,
                       "cannot watch %s: inotify refuses it: is the folder there, and "
                       "fs.inotify.max_user_watches high enough?",
                       swap_config(s)->plugin_dir);
    }
    *out = w;
    return 0;
}

void watch_close(struct watch **wp)
{
    struct watch *w = *wp;
    *wp = NULL;
    if (w == NULL)
        return;
    CHECK(w, WATCH_MAGIC);
    w->closed = true;
    event_del(w->readable);
    event_del(w->timer);
    if (!w->asking)
        watch_free(w);
}
