/* See listener.h. */
#include "net/listener.h"

#include "base/root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_FDS_FIRST 3    /* SD_LISTEN_FDS_START */
#define BACKLOG          4096 /* the kernel cuts it at net.core.somaxconn */
#define MOST_HOPS        255

static struct listener *add(struct listeners *ls, int fd, enum listener_kind kind, int worker)
{
    struct listener *more = realloc(ls->all, (ls->n + 1) * sizeof *more);
    if (!more) {
        close(fd);
        return NULL;
    }
    ls->all = more;
    struct listener *l = &more[ls->n++];
    *l = (struct listener){ .fd = fd, .kind = kind, .worker = worker };
    return l;
}

static void name_it(struct listener *l, const struct sockaddr *sa, socklen_t len)
{
    if (sa->sa_family == AF_UNIX) {
        const struct sockaddr_un *un = (const void *)sa;
        snprintf(l->name, sizeof l->name, "unix:%.108s",
                 len > sizeof(sa_family_t) ? un->sun_path : "");
    } else {
        addr_format(sa, len, l->name);
    }
}

/* ---- TCP ------------------------------------------------------------------------------------- */

static int tcp_socket(const struct sockaddr *sa, bool dual, bool reuseport)
{
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (reuseport)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (sa->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, dual ? &off : &on, sizeof on);
    return fd;
}

static int tcp_bind(const struct sockaddr *sa, socklen_t len, bool dual, bool reuseport,
                    bool listening)
{
    int fd = tcp_socket(sa, dual, reuseport);
    if (fd < 0)
        return -1;
    if (root_bind(fd, sa, len) == 0 && (!listening || listen(fd, BACKLOG) == 0))
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* SO_REUSEPORT would let us share another server's port in silence: a bind without it says whether
   anyone listens there. It also picks the port when 0 was asked for. */
static int tcp_probe(struct sockaddr_storage *sa, socklen_t *len, bool dual)
{
    int fd = tcp_bind((struct sockaddr *)sa, *len, dual, false, true);
    if (fd < 0)
        return -1;
    getsockname(fd, (struct sockaddr *)sa, len);
    close(fd);
    return 0;
}

static int bind_failed(const struct addr *a, const char *key, struct err *err)
{
    return err_set(err, "%s %s: %s%s", key, a->text, strerror(errno),
                   errno == EADDRINUSE
                       ? ": another process listens there; stop it or choose another address"
                   : errno == EACCES        ? ": ports below 1024 need root or CAP_NET_BIND_SERVICE"
                   : errno == EADDRNOTAVAIL ? ": no interface of this machine has that address"
                                            : "");
}

static int open_tcp(struct listeners *ls, const struct addr *a, unsigned nworkers, bool listening,
                    struct err *err)
{
    struct sockaddr_storage sa = a->sa;
    socklen_t len = a->len;
    bool dual = a->dual;
    if (tcp_probe(&sa, &len, dual) != 0) {
        if (!dual || (errno != EAFNOSUPPORT && errno != EADDRNOTAVAIL))
            return bind_failed(a, "listen", err);
        sa = a->any4;
        len = sizeof(struct sockaddr_in);
        dual = false;
        if (tcp_probe(&sa, &len, dual) != 0)
            return bind_failed(a, "listen", err);
    }
    for (unsigned w = 0; w < nworkers; w++) {
        int fd = tcp_bind((struct sockaddr *)&sa, len, dual, true, listening);
        if (fd < 0)
            return bind_failed(a, "listen", err);
        struct listener *l = add(ls, fd, LISTENER_TCP, (int)w);
        if (!l)
            return err_set(err, "listen %s: no memory", a->text);
        name_it(l, (struct sockaddr *)&sa, len);
    }
    return 0;
}

/* ---- Unix ------------------------------------------------------------------------------------ */

/* A path that nobody answers on any more is taken over; anything else there is left alone. */
static int unix_clear(const struct addr *a, const char *key, const char *path, struct err *err)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? 0 : err_set(err, "%s %s: %s", key, a->text, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return err_set(err,
                       "%s %s: there is a file that is no socket: remove it or choose "
                       "another path",
                       key, a->text);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, "%s %s: %s", key, a->text, strerror(errno));
    int rc = connect(fd, (const struct sockaddr *)&a->sa, a->len);
    int why = errno;
    close(fd);
    if (rc == 0 || why != ECONNREFUSED)
        return err_set(err,
                       "%s %s: another process listens there; stop it or choose another "
                       "path",
                       key, a->text);
    return unlink(path) == 0 ? 0 : err_set(err, "%s %s: %s", key, a->text, strerror(errno));
}

int listener_open_unix(struct listener *out, const struct addr *a, const char *key, struct err *err)
{
    const struct sockaddr_un *un = (const void *)&a->sa;
    struct stat st;
    if (unix_clear(a, key, un->sun_path, err) != 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)un, a->len) != 0 || listen(fd, BACKLOG) != 0) {
        bind_failed(a, key, err);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *out = (struct listener){ .fd = fd, .kind = LISTENER_UNIX, .worker = -1 };
    name_it(out, (const struct sockaddr *)un, a->len);
    out->path = xstrdup(un->sun_path);
    if (lstat(un->sun_path, &st) == 0) {
        out->dev = st.st_dev;
        out->ino = st.st_ino;
    }
    return 0;
}

static int open_unix(struct listeners *ls, const struct addr *a, struct err *err)
{
    struct listener one;
    if (listener_open_unix(&one, a, "listen", err) != 0)
        return -1;
    struct listener *l = add(ls, one.fd, one.kind, one.worker);
    if (l != NULL) {
        *l = one;
        return 0;
    }
    listener_unlink(&one);
    return err_set(err, "listen %s: no memory", a->text);
}

/* ---- Handed over ----------------------------------------------------------------------------- */

int listener_take(struct listener *out, int fd, const char *key, const char *what, struct err *err)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    int type = 0, listening = 0;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM)
        return err_set(err,
                       "%s %s: descriptor %d is not a stream socket: expected one that "
                       "listens",
                       key, what, fd);
    size = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || !listening)
        return err_set(err, "%s %s: the socket does not listen: its owner must call listen()", key,
                       what);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) != 0)
        return err_set(err, "%s %s: %s", key, what, strerror(errno));
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return err_set(err, "%s %s: %s", key, what, strerror(errno));
    *out = (struct listener){ .fd = fd, .worker = -1, .handed_over = true };
    out->kind = sa.ss_family == AF_UNIX ? LISTENER_UNIX : LISTENER_TCP;
    name_it(out, (struct sockaddr *)&sa, len);
    return 0;
}

static int take_fd(struct listeners *ls, int fd, const char *what, struct err *err)
{
    struct listener one;
    if (listener_take(&one, fd, "listen", what, err) != 0)
        return -1;
    struct listener *l = add(ls, fd, one.kind, one.worker);
    if (l == NULL)
        return err_set(err, "listen %s: no memory", what);
    *l = one;
    return 0;
}

/* systemd's protocol: LISTEN_PID is ours, LISTEN_FDS says how many. 0: none were passed. */
static int systemd_count(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    if (!pid || !fds || strtol(pid, NULL, 10) != (long)getpid())
        return 0;
    long n = strtol(fds, NULL, 10);
    return n > 0 && n < 1024 ? (int)n : 0;
}

static int open_one(struct listeners *ls, const struct addr *a, unsigned nworkers, bool listening,
                    struct err *err)
{
    unsigned first = ls->n;
    int rc = a->kind == ADDR_TCP    ? open_tcp(ls, a, nworkers, listening, err)
             : a->kind == ADDR_UNIX ? open_unix(ls, a, err)
                                    : take_fd(ls, a->fd, a->text, err);
    for (unsigned i = first; i < ls->n; i++)
        snprintf(ls->all[i].asked, sizeof ls->all[i].asked, "%s", a->text);
    return rc;
}

static int open_all(struct listeners *ls, const struct config *cfg, unsigned nworkers,
                    struct err *err)
{
    int passed = systemd_count();
    for (int i = 0; i < passed; i++)
        if (take_fd(ls, LISTEN_FDS_FIRST + i, "LISTEN_FDS", err) != 0)
            return -1;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    ls->passed = passed > 0;
    if (passed)
        return 0;
    for (size_t i = 0; i < cfg->listen_count; i++)
        if (open_one(ls, &cfg->listen[i], nworkers, true, err) != 0)
            return -1;
    return 0;
}

int listeners_open(struct listeners **out, const struct config *cfg, unsigned nworkers,
                   struct err *err)
{
    struct listeners *ls = calloc(1, sizeof *ls);
    if (!ls)
        return err_set(err, "no memory for the listening sockets");
    if (open_all(ls, cfg, nworkers, err) != 0) {
        listeners_free(ls);
        return -1;
    }
    *out = ls;
    return 0;
}

/* ---- Another set beside it ------------------------------------------------------------------- */

static int go_on(struct listeners *ls, struct listener *old, int worker, struct err *err)
{
    int fd = fcntl(old->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, "listen %s: %s", old->name, strerror(errno));
    struct listener *l = add(ls, fd, old->kind, worker);
    if (l == NULL)
        return err_set(err, "listen %s: no memory", old->name);
    *l = *old;
    l->fd = fd;
    l->worker = worker;
    l->path = old->path != NULL ? xstrdup(old->path) : NULL;
    old->goes_on = true;
    return 0;
}

/* The first socket of that entry that is still to be had; NULL: there is none. */
static struct listener *find_asked(struct listeners *old, const char *asked)
{
    for (unsigned i = 0; i < old->n; i++)
        if (old->all[i].fd >= 0 && !old->all[i].goes_on && strcmp(old->all[i].asked, asked) == 0)
            return &old->all[i];
    return NULL;
}

/* One more in the group of `like`. */
static int bind_beside(struct listeners *ls, const struct listener *like, int worker,
                       struct err *err)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa, size = sizeof(int);
    int only6 = 1;
    if (getsockname(like->fd, (struct sockaddr *)&sa, &len) != 0)
        return err_set(err, "listen %s: %s", like->name, strerror(errno));
    if (sa.ss_family == AF_INET6)
        getsockopt(like->fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, &size);
    int fd = tcp_bind((struct sockaddr *)&sa, len, only6 == 0, true, false);
    if (fd < 0)
        return err_set(err, "listen %s: a socket for worker %d: %s", like->name, worker,
                       strerror(errno));
    struct listener *l = add(ls, fd, LISTENER_TCP, worker);
    if (l == NULL)
        return err_set(err, "listen %s: no memory", like->name);
    memcpy(l->name, like->name, sizeof l->name);
    memcpy(l->asked, like->asked, sizeof l->asked);
    return 0;
}

/* A group has one name and one socket for each worker. Those that are left over are drained. */
static int follow_group(struct listeners *ls, struct listeners *old, const struct listener *first,
                        unsigned nworkers, struct err *err)
{
    const struct listener like = *first; /* its descriptor stays open */
    unsigned w = 0;
    for (unsigned i = 0; i < old->n && w < nworkers; i++) {
        struct listener *l = &old->all[i];
        if (l->fd >= 0 && !l->goes_on && l->worker >= 0 && strcmp(l->asked, like.asked) == 0 &&
            strcmp(l->name, like.name) == 0 && go_on(ls, l, (int)w++, err) != 0)
            return -1;
    }
    for (; w < nworkers; w++)
        if (bind_beside(ls, &like, (int)w, err) != 0)
            return -1;
    return 0;
}

static int follow_one(struct listeners *ls, struct listeners *old, const struct addr *a,
                      unsigned nworkers, struct err *err)
{
    struct listener *had = find_asked(old, a->text);
    if (had == NULL && a->kind == ADDR_FD)
        return err_set(err, "listen %s: a descriptor can only be handed over at a start: restart",
                       a->text);
    if (had == NULL)
        return open_one(ls, a, nworkers, false, err);
    return had->worker < 0 ? go_on(ls, had, -1, err) : follow_group(ls, old, had, nworkers, err);
}

static int follow_all(struct listeners *ls, struct listeners *old, const struct config *cfg,
                      unsigned nworkers, struct err *err)
{
    ls->passed = old->passed;
    for (unsigned i = 0; old->passed && i < old->n; i++)
        if (go_on(ls, &old->all[i], -1, err) != 0)
            return -1;
    for (size_t i = 0; !old->passed && i < cfg->listen_count; i++)
        if (follow_one(ls, old, &cfg->listen[i], nworkers, err) != 0)
            return -1;
    return 0;
}

int listeners_follow(struct listeners **out, struct listeners *old, const struct config *cfg,
                     unsigned nworkers, struct err *err)
{
    struct listeners *ls = calloc(1, sizeof *ls);
    if (!ls)
        return err_set(err, "no memory for the listening sockets");
    if (follow_all(ls, old, cfg, nworkers, err) != 0) {
        listeners_drop(ls, old);
        return -1;
    }
    *out = ls;
    return 0;
}

int listeners_listen(const struct listeners *ls, struct err *err)
{
    for (unsigned i = 0; i < ls->n; i++) {
        const struct listener *l = &ls->all[i];
        if (l->kind == LISTENER_TCP && !l->handed_over && listen(l->fd, BACKLOG) != 0)
            return err_set(err, "listen %s: %s", l->name, strerror(errno));
    }
    return 0;
}

void listeners_part(struct listeners *old)
{
    for (unsigned i = 0; i < old->n; i++) {
        struct listener *l = &old->all[i];
        if (!l->goes_on)
            continue;
        close(l->fd);
        l->fd = -1;
        free(l->path);
        l->path = NULL;
    }
}

/* Files of sockets that both sets have are the old one's. */
void listeners_drop(struct listeners *ls, struct listeners *old)
{
    for (unsigned i = 0; i < ls->n; i++)
        for (unsigned k = 0; k < old->n && ls->all[i].path != NULL; k++)
            if (old->all[k].goes_on && old->all[k].dev == ls->all[i].dev &&
                old->all[k].ino == ls->all[i].ino) {
                free(ls->all[i].path);
                ls->all[i].path = NULL;
            }
    for (unsigned k = 0; k < old->n; k++)
        old->all[k].goes_on = false;
    listeners_free(ls);
}

void listeners_give(const struct listeners *ls, uid_t uid, gid_t gid)
{
    for (unsigned i = 0; i < ls->n; i++)
        if (ls->all[i].fd >= 0 && ls->all[i].kind == LISTENER_TCP && !ls->all[i].handed_over)
            root_give_socket(ls->all[i].fd, uid, gid); /* a group admits sockets of one user only */
}

void listeners_log(const struct listeners *ls)
{
    for (unsigned i = 0; i < ls->n; i++) {
        const struct listener *l = &ls->all[i];
        if (l->worker > 0)
            continue;
        struct log_line line;
        log_begin(&line, LOG_INFO, "listening", "listening on %s", l->name);
        log_z(&line, "address", l->name);
        log_bool(&line, "handed_over", l->handed_over);
        log_end(&line);
    }
}

void listener_unlink(struct listener *l)
{
    struct stat st;
    if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
        unlink(l->path);
    free(l->path);
    l->path = NULL;
}

void listeners_unlink(struct listeners *ls)
{
    for (unsigned i = 0; ls && i < ls->n; i++)
        listener_unlink(&ls->all[i]);
}

void listeners_close(struct listeners *ls)
{
    for (unsigned i = 0; i < ls->n; i++) {
        if (ls->all[i].fd >= 0)
            close(ls->all[i].fd);
        ls->all[i].fd = -1;
    }
    listeners_unlink(ls);
}

void listeners_free(struct listeners *ls)
{
    if (!ls)
        return;
    listeners_close(ls);
    free(ls->all);
    free(ls);
}

/*
 * Byte 13 of the TCP header holds the flags; a segment with SYN and without ACK is a new
 * connection. Everything else passes: the last ACK of handshakes under way, and what established
 * connections send (the filter is on the listener, but connections inherit it when accepted: a SYN
 * never belongs to one).
 */
static int filter_syns(const struct listener *l)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),          BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
    };
    struct sock_fprog prog = { sizeof code / sizeof code[0], code };
    return setsockopt(l->fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog);
}

/* Asks that segments come with at least `ttl` hops to go; 0: any may. On an IPv6 socket both count,
   as IPv4 clients may reach it. */
static int ask_hops(int fd, int ttl)
{
    int v4 = setsockopt(fd, IPPROTO_IP, IP_MINTTL, &ttl, sizeof ttl);
    int family = 0;
    socklen_t len = sizeof family;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len) != 0)
        return -1;
    return family == AF_INET6 ? setsockopt(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &ttl, sizeof ttl)
                              : v4;
}

/*
 * Some kernels and policies let only root attach a filter. Hosts send with 64 or 128 hops to go; a
 * listener that asks for 255 hears no SYN any more. The last ACK of a handshake under way is
 * matched to that handshake before the listener is asked. Its connection inherits the demand, so
 * listener_admit takes it off; what the client sent before that, it sends again.
 */
int listener_refuse_new(const struct listener *l)
{
    if (filter_syns(l) == 0)
        return 0;
    int cause = errno, rc = ask_hops(l->fd, MOST_HOPS);
    errno = cause;
    return rc;
}

void listener_admit(int fd)
{
    ask_hops(fd, 0);
}

void listener_welcome(const struct listener *l)
{
    int none = 0;
    if (l->kind != LISTENER_TCP || l->handed_over)
        return;
    setsockopt(l->fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none);
    ask_hops(l->fd, 0);
}
