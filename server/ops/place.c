/*
 * The search for the control socket's folder, and the socket itself. A stale socket file is
 * replaced under a lock on its folder, so that two servers that start at once do not take each
 * other's away.
 */
#include "ops/place.h"

#include "base/buf.h"
#include "base/root.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define BACKLOG   512
#define CONNECT_S 5 /* until a queue that is full has room */

static void add(struct place *out, size_t *n, struct place kind, const char *base, const char *rest)
{
    int len = snprintf(kind.path, sizeof kind.path, "%s%s/" PLACE_NAME, base, rest);
    if (len < 0 || (size_t)len >= sizeof kind.path)
        return;
    memcpy(kind.folder, kind.path, (size_t)len - strlen("/" PLACE_NAME)); /* zeroed before */
    out[(*n)++] = kind;
}

size_t place_list(struct place out[PLACE_MAX])
{
    size_t n = 0;
    const char *given = getenv("RUNTIME_DIRECTORY"), *xdg = getenv("XDG_RUNTIME_DIR");
    if (given != NULL && given[0] == '/') {
        char first[sizeof out->folder]; /* systemd gives several as a:b */
        snprintf(first, sizeof first, "%.*s", (int)strcspn(given, ":"), given);
        add(out, &n, (struct place){ .given = true }, first, "");
        if (n > 0)
            return n;
    }
    char uid[32];
    snprintf(uid, sizeof uid, "%u", (unsigned)geteuid());
    add(out, &n, (struct place){ 0 }, "/run/graft", "");
    if (xdg != NULL && xdg[0] == '/')
        add(out, &n, (struct place){ 0 }, xdg, "/graft");
    add(out, &n, (struct place){ .shared_above = true }, "/tmp/graft-", uid);
    return n;
}

/* Is it a 0700 folder of ours, once made if it was missing? */
static int check_folder(const struct place *p, struct err *err)
{
    struct stat st;
    if (mkdir(p->folder, 0700) != 0 && errno != EEXIST)
        return err_set(err, "%s: cannot be made: %s", p->folder, strerror(errno));
    if (lstat(p->folder, &st) != 0)
        return err_set(err, "%s: %s", p->folder, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return err_set(err, "%s: not a folder", p->folder);
    if (p->given)
        return 0;
    if (st.st_uid == geteuid() || geteuid() == 0) {
        place_unshare_folder(p->folder);
        if (lstat(p->folder, &st) != 0)
            return err_set(err, "%s: %s", p->folder, strerror(errno));
    }
    if (st.st_uid != geteuid() && geteuid() == 0 && !p->shared_above)
        return 0; /* given to the user of an earlier run */
    if (st.st_uid != geteuid())
        return err_set(err, "%s: belongs to user %u, not to %u", p->folder, (unsigned)st.st_uid,
                       (unsigned)geteuid());
    if ((st.st_mode & 0777) != 0700)
        return err_set(err, "%s: its mode is %04o, expected 0700: chmod 0700 it", p->folder,
                       (unsigned)(st.st_mode & 07777));
    return 0;
}

static int set_address(struct sockaddr_un *sa, const char *path, struct err *err)
{
    memset(sa, 0, sizeof *sa);
    sa->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof sa->sun_path)
        return err_set(err, "%s: longer than the %zu bytes that a socket's path may have", path,
                       sizeof sa->sun_path - 1);
    memcpy(sa->sun_path, path, strlen(path) + 1);
    return 0;
}

/* 0: somebody listens there. -1: errno. */
static int try_connect(const struct sockaddr_un *sa)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int rc = connect(fd, (const struct sockaddr *)sa, sizeof *sa), cause = errno;
    close(fd);
    errno = cause;
    return rc == 0 || cause == EAGAIN || cause == EINPROGRESS ? 0 : -1;
}

static int bind_private(int fd, const struct sockaddr_un *sa)
{
    mode_t before = umask(0177);
    int rc = bind(fd, (const struct sockaddr *)sa, sizeof *sa), cause = errno;
    umask(before);
    errno = cause;
    return rc;
}

/* Takes away what is at the path, if it is a socket that nobody answers on. */
static int remove_stale(const struct sockaddr_un *sa, struct err *err)
{
    struct stat st;
    if (lstat(sa->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return err_set(err,
                       "%s: there is something that is not a socket: move it away, or give "
                       "another path",
                       sa->sun_path);
    if (try_connect(sa) == 0)
        return err_set(err,
                       "%s: another server is listening there: stop it, or give this one "
                       "another path (--control)",
                       sa->sun_path);
    if (errno != ECONNREFUSED && errno != ENOENT)
        return err_set(err, "%s: cannot tell whether a server is listening there: %s", sa->sun_path,
                       strerror(errno));
    if (unlink(sa->sun_path) != 0 && errno != ENOENT)
        return err_set(err, "%s: the old socket cannot be removed: %s", sa->sun_path,
                       strerror(errno));
    return 0;
}

static int bind_or_replace(int fd, const struct sockaddr_un *sa, struct err *err)
{
    if (bind_private(fd, sa) == 0)
        return 0;
    if (errno != EADDRINUSE)
        return err_set(err, "%s: cannot bind: %s", sa->sun_path, strerror(errno));
    if (remove_stale(sa, err) != 0)
        return -1;
    if (bind_private(fd, sa) != 0)
        return err_set(err, "%s: cannot bind: %s", sa->sun_path, strerror(errno));
    return 0;
}

/* Holds the folder's lock while it binds and listens. */
static int listen_at(int fd, const struct sockaddr_un *sa, struct err *err)
{
    char copy[sizeof sa->sun_path];
    memcpy(copy, sa->sun_path, sizeof copy);
    int folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return err_set(err, "%s: cannot open its folder: %s", sa->sun_path, strerror(errno));
    int rc = flock(folder, LOCK_EX);
    if (rc != 0)
        err_set(err, "%s: cannot lock its folder: %s", sa->sun_path, strerror(errno));
    if (rc == 0)
        rc = bind_or_replace(fd, sa, err);
    if (rc == 0 && listen(fd, BACKLOG) != 0)
        rc = err_set(err, "%s: cannot listen: %s", sa->sun_path, strerror(errno));
    close(folder); /* and the lock */
    return rc;
}

static int open_at(struct place_socket *out, const char *path, struct err *err)
{
    struct sockaddr_un sa;
    struct stat st;
    if (set_address(&sa, path, err) != 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, "%s: cannot make a socket: %s", path, strerror(errno));
    if (listen_at(fd, &sa, err) != 0) {
        close(fd);
        return -1;
    }
    memcpy(out->path, sa.sun_path, sizeof out->path);
    out->fd = fd;
    if (lstat(path, &st) == 0) {
        out->dev = st.st_dev;
        out->ino = st.st_ino;
    }
    return 0;
}

int place_open(struct place_socket *out, const char *configured, struct err *err)
{
    memset(out, 0, sizeof *out);
    out->fd = -1;
    if (configured != NULL && configured[0] != '\0')
        return open_at(out, configured, err);
    struct place places[PLACE_MAX];
    size_t n = place_list(places);
    struct buf why = { 0 };
    for (size_t i = 0; i < n; i++) {
        struct err one;
        if (check_folder(&places[i], &one) != 0) {
            buf_printf(&why, "%s%s", why.len > 0 ? "; " : "", one.text);
            continue;
        }
        buf_fini(&why);
        out->made_folder = true;
        return open_at(out, places[i].path, err);
    }
    err_set(err, "no folder for the control socket: %s", why.data != NULL ? why.data : "none");
    buf_fini(&why);
    return 1;
}

int place_give(const struct place_socket *s, uid_t uid, gid_t gid, struct err *err)
{
    if (s->fd < 0)
        return 0;
    char copy[sizeof s->path];
    memcpy(copy, s->path, sizeof copy);
    if (s->shared)
        gid = (gid_t)-1; /* it is the group that may connect */
    if (lchown(s->path, uid, gid) != 0)
        return err_set(err, "%s: cannot be given to user %u: %s", s->path, (unsigned)uid,
                       strerror(errno));
    if (s->made_folder && lchown(dirname(copy), uid, gid) != 0)
        return err_set(err, "%s: cannot be given to user %u: %s", copy, (unsigned)uid,
                       strerror(errno));
    return 0;
}

/* By what is open, not by a path that may lead elsewhere by now. */
static int pass(const char *path, const struct place_socket *s, uid_t from, uid_t uid, gid_t gid,
                struct err *err)
{
    struct stat st;
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, "%s: %s", path, strerror(errno));
    bool same = fstat(fd, &st) == 0 &&
                (s == NULL ? S_ISDIR(st.st_mode) : st.st_dev == s->dev && st.st_ino == s->ino);
    int rc = same ? root_give(fd, from, uid, gid) : 1, why = errno;
    close(fd);
    return rc == 0 ? 0
                   : err_set(err, "%s: cannot be given to user %u: %s", path, (unsigned)uid,
                             rc < 0 ? strerror(why) : "it is not what was made there");
}

int place_pass(const struct place_socket *s, uid_t from, uid_t uid, gid_t gid, struct err *err)
{
    char copy[sizeof s->path];
    if (s->fd < 0)
        return 0;
    memcpy(copy, s->path, sizeof copy);
    if (s->shared)
        gid = (gid_t)-1; /* it is the group that may connect */
    if (pass(s->path, s, from, uid, gid, err) != 0)
        return -1;
    return s->made_folder ? pass(dirname(copy), NULL, from, uid, gid, err) : 0;
}

void place_close(struct place_socket *s)
{
    struct stat st;
    if (s->fd < 0)
        return;
    if (lstat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
        unlink(s->path);
    close(s->fd);
    s->fd = -1;
}

/* A folder in /tmp that somebody else made may hold somebody else's server. */
static int check_trust(const struct place *p, struct err *err)
{
    struct stat st;
    if (!p->shared_above)
        return 0;
    if (lstat(p->folder, &st) != 0)
        return err_set(err, "%s", strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return err_set(err, "its folder is not a folder of ours");
    return 0;
}

static int connect_at(const char *path, struct err *err)
{
    struct timeval wait = { .tv_sec = CONNECT_S };
    struct sockaddr_un sa;
    if (set_address(&sa, path, err) != 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, "cannot make a socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait); /* also connect's */
    if (connect(fd, (const struct sockaddr *)&sa, sizeof sa) != 0) {
        int cause = errno;
        close(fd);
        err_set(err, "%s%s",
                cause == EAGAIN ? "too many wait there already: is the server stopped?"
                                : strerror(cause),
                cause == EACCES ? " (root, the server's user and members of control_groups may "
                                  "connect)"
                                : "");
        return cause == EAGAIN ? PLACE_BUSY : cause == EACCES ? PLACE_DENIED : -1;
    }
    return fd;
}

int place_connect(const char *configured, struct err *err)
{
    struct err one;
    if (configured != NULL && configured[0] != '\0') {
        int fd = connect_at(configured, &one);
        if (fd < 0)
            err_set(err, "%s%s: %s",
                    fd == PLACE_DENIED ? ""
                    : fd == PLACE_BUSY ? "no answer at "
                                       : "no server at ",
                    configured, one.text);
        return fd;
    }
    struct place places[PLACE_MAX];
    size_t n = place_list(places);
    struct buf why = { 0 };
    bool denied = false;
    for (size_t i = 0; i < n; i++) {
        int fd = check_trust(&places[i], &one) == 0 ? connect_at(places[i].path, &one) : -1;
        if (fd >= 0 || fd == PLACE_BUSY) {
            if (fd < 0)
                err_set(err, "no answer at %s: %s", places[i].path, one.text);
            buf_fini(&why);
            return fd;
        }
        denied = denied || fd == PLACE_DENIED;
        buf_printf(&why, "%s%s: %s", i > 0 ? "; " : "", places[i].path, one.text);
    }
    err_set(err,
            "no server found (%s): start graftd, or say where its control socket is "
            "(--control PATH)",
            why.data != NULL ? why.data : "");
    buf_fini(&why);
    return denied ? PLACE_DENIED : -1;
}
