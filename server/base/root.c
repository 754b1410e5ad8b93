/* See root.h. */
#include "base/root.h"

#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROUPS_FIRST 64
#define GROUPS_MAX   65536 /* the kernel's NGROUPS_MAX */
#define DEPTH        4
#define GIVEN_MAX    200000
#define SAME         ((uid_t)-1)

static struct {
    bool kept, ports;
    uid_t uid; /* as whom we work, when root is kept */
} root;

/* ---- Who ------------------------------------------------------------------------------------- */

struct root_ids *root_ids_find(const char *name, uid_t uid, gid_t gid, struct err *err)
{
    for (int room = GROUPS_FIRST; room <= GROUPS_MAX; room *= 4) {
        struct root_ids *ids = malloc(sizeof *ids + (size_t)room * sizeof ids->groups[0]);
        if (ids == NULL)
            break;
        *ids = (struct root_ids){ .uid = uid, .gid = gid, .ngroups = room };
        if (getgrouplist(name, gid, ids->groups, &ids->ngroups) >= 0)
            return ids;
        free(ids);
    }
    err_set(err, "the groups of user %s cannot be found: there are too many, or no memory", name);
    return NULL;
}

/* ---- In effect, for a moment ----------------------------------------------------------------- */

/* The saved id may always become the effective one, and back: neither can fail. */
static void begin(void)
{
    if (root.kept)
        REQUIRE(setresuid(SAME, 0, SAME) == 0);
}

static void end(void)
{
    int saved = errno;
    if (root.kept)
        REQUIRE(setresuid(SAME, root.uid, SAME) == 0 && geteuid() == root.uid);
    errno = saved;
}

bool root_is_kept(void)
{
    return root.kept;
}

bool root_can_be_kept(void)
{
    return prctl(PR_GET_SECUREBITS) == 0;
}

int root_keep(const struct root_ids *ids, struct err *err)
{
    uid_t real, effective, saved;
    REQUIRE(ids->uid != 0);
    begin();
    if (setgroups((size_t)ids->ngroups, ids->groups) != 0 ||
        setresgid(ids->gid, ids->gid, ids->gid) != 0 || setresuid(ids->uid, ids->uid, 0) != 0) {
        err_set(err, "cannot become user %u: %s", (unsigned)ids->uid, strerror(errno));
        end();
        return -1;
    }
    root.kept = true;
    root.uid = ids->uid;
    REQUIRE(getresuid(&real, &effective, &saved) == 0 && real == ids->uid &&
            effective == ids->uid && saved == 0);
    return 0;
}

int root_keep_again(uid_t uid, struct err *err)
{
    if (geteuid() != 0 || uid == 0 || setresuid(uid, uid, 0) != 0)
        return err_set(err, "cannot become user %u again", (unsigned)uid);
    root.kept = true;
    root.uid = uid;
    return 0;
}

int root_give_up(const struct root_ids *ids, struct err *err)
{
    uid_t uid = ids != NULL ? ids->uid : root.uid;
    if (!root.kept && ids == NULL)
        return 0;
    begin();
    root.kept = false;
    if ((ids != NULL && (setgroups((size_t)ids->ngroups, ids->groups) != 0 ||
                         setresgid(ids->gid, ids->gid, ids->gid) != 0)) ||
        setresuid(uid, uid, uid) != 0)
        return err_set(err, "cannot become user %u: %s", (unsigned)uid, strerror(errno));
    if (uid != 0 && (setresuid(SAME, 0, SAME) == 0 || setresuid(0, 0, 0) == 0 || setuid(0) == 0))
        return err_set(err, "became user %u, but could become root again", (unsigned)uid);
    return 0;
}

/* The real one too: a program whose ids differ is run in another way by its dynamic loader. */
void root_before_exec(void)
{
    if (!root.kept)
        return;
    begin();
    REQUIRE(setresuid(0, 0, 0) == 0);
}

void root_after_exec(void)
{
    int saved = errno;
    if (root.kept)
        REQUIRE(setresuid(root.uid, root.uid, 0) == 0 && geteuid() == root.uid);
    errno = saved;
}

/* ---- Ports, processes ------------------------------------------------------------------------ */

void root_lends_ports(bool on)
{
    root.ports = on;
}

int root_bind(int fd, const struct sockaddr *sa, socklen_t len)
{
    int rc = bind(fd, sa, len);
    if (rc == 0 || errno != EACCES || !root.kept || !root.ports ||
        (sa->sa_family != AF_INET && sa->sa_family != AF_INET6))
        return rc;
    begin();
    rc = bind(fd, sa, len);
    end();
    return rc;
}

int root_kill(pid_t pid, int signo)
{
    int rc = kill(pid, signo);
    if (rc == 0 || errno != EPERM || !root.kept || pid <= 0)
        return rc;
    begin();
    rc = kill(pid, signo);
    end();
    return rc;
}

/* ---- Giving ---------------------------------------------------------------------------------- */

/* A file with a second name may be one that its owner put there under a name of ours. */
static bool may_give(const struct stat *st, uid_t from)
{
    return st->st_uid == from &&
           (S_ISDIR(st->st_mode) ||
            ((S_ISREG(st->st_mode) || S_ISSOCK(st->st_mode)) && st->st_nlink == 1));
}

static int own(int fd, uid_t uid, gid_t gid)
{
    begin();
    int rc = fchownat(fd, "", uid, gid, AT_EMPTY_PATH);
    end();
    return rc;
}

int root_give(int fd, uid_t from, uid_t uid, gid_t gid)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -1;
    return may_give(&st, from) ? own(fd, uid, gid) : 1;
}

void root_give_socket(int fd, uid_t uid, gid_t gid)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISSOCK(st.st_mode))
        return;
    begin();
    (void)!fchown(fd, uid, gid);
    end();
}

static bool note(struct root_gift *g, const struct stat *st)
{
    if (g->n == g->room) {
        size_t room = g->room > 0 ? g->room * 2 : 64;
        struct root_given *more = room <= GIVEN_MAX ? realloc(g->all, room * sizeof *more) : NULL;
        if (more == NULL)
            return false;
        g->all = more;
        g->room = room;
    }
    g->all[g->n++] = (struct root_given){ st->st_dev, st->st_ino };
    return true;
}

static bool is_noted(const struct root_gift *g, const struct stat *st)
{
    for (size_t i = 0; i < g->n; i++)
        if (g->all[i].dev == st->st_dev && g->all[i].ino == st->st_ino)
            return true;
    return false;
}

/* The entry `name` of `dir` (NULL: the folder that was begun with), which `fd` has open. */
struct visit {
    int (*fn)(struct root_gift *g, const struct visit *v, int dir, const char *name, int fd,
              const struct stat *st);
    gid_t gid;
    bool clear;
};

/* An access list may have let others in, its maker among them: the group's bits are its mask. */
static int close_folder(int fd, const struct stat *st)
{
    begin();
    int rc = fchmod(fd, st->st_mode & 0700);
    end();
    return rc;
}

static int give_one(struct root_gift *g, const struct visit *v, int dir, const char *name, int fd,
                    const struct stat *st)
{
    (void)dir;
    (void)name;
    if (!may_give(st, g->from))
        return 0;
    if (!note(g, st)) {
        errno = ENOMEM;
        return -1;
    }
    if (own(fd, g->to, v->gid) != 0)
        return -1;
    return S_ISDIR(st->st_mode) ? close_folder(fd, st) : 0;
}

/* What the first one could put in this folder it could remove, too. */
static void clear_one(int dir, const char *name, const struct stat *st)
{
    begin();
    unlinkat(dir, name, S_ISDIR(st->st_mode) ? AT_REMOVEDIR : 0);
    end();
}

static int take_one(struct root_gift *g, const struct visit *v, int dir, const char *name, int fd,
                    const struct stat *st)
{
    if (may_give(st, g->to) && is_noted(g, st))
        (void)!own(fd, g->from, v->gid);
    else if (v->clear && name != NULL && st->st_uid == g->to)
        clear_one(dir, name, st);
    return 0;
}

/* An entry that is no link, as root: on the way back folders are the other user's. What is no
   folder is not opened, only looked at. */
static int open_entry(int dir, const char *name, struct stat *st)
{
    begin();
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    end();
    if (fd >= 0 && fstat(fd, st) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static int each(struct root_gift *g, const struct visit *v, int dir, int depth);

/* Of folders that are too deep nothing is anybody's but who made them. */
static int each_entry(struct root_gift *g, const struct visit *v, int dir, const char *name,
                      int depth)
{
    struct stat st;
    int fd = open_entry(dir, name, &st), rc = 0;
    if (fd < 0)
        return 0;
    bool folder = S_ISDIR(st.st_mode), theirs = st.st_uid == g->from || st.st_uid == g->to;
    if (folder && depth > 0 && theirs)
        rc = each(g, v, fd, depth - 1);
    if (rc == 0 && (!folder || depth > 0))
        rc = v->fn(g, v, dir, name, fd, &st);
    int saved = errno;
    close(fd);
    errno = saved;
    return rc;
}

static int each(struct root_gift *g, const struct visit *v, int dir, int depth)
{
    int rc = 0;
    begin();
    DIR *list = fd_list(dir);
    end();
    if (list == NULL)
        return -1;
    for (struct dirent *e; rc == 0 && (e = readdir(list)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = each_entry(g, v, dir, e->d_name, depth);
    int saved = errno;
    closedir(list);
    errno = saved;
    return rc;
}

int root_give_folder(struct root_gift *g, int fd, enum root_depth depth, const struct root_ids *to,
                     struct err *err)
{
    const struct visit v = { .fn = give_one, .gid = to->gid };
    struct stat st;
    if (g->nfolders == ARRAY_LEN(g->folders) || fstat(fd, &st) != 0 || st.st_uid != g->from)
        return 0;
    int held = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (held < 0)
        return err_set(err, "%s", strerror(errno));
    g->folders[g->nfolders].fd = held;
    g->folders[g->nfolders++].depth = depth;
    g->to = to->uid;
    g->from_gid = st.st_gid;
    if ((depth == ROOT_ALONE || each(g, &v, held, DEPTH) == 0) &&
        give_one(g, &v, -1, NULL, held, &st) == 0)
        return 0;
    return err_set(err, "cannot be given to user %u: %s", (unsigned)to->uid, strerror(errno));
}

void root_take_back(struct root_gift *g)
{
    struct stat st;
    for (unsigned i = g->nfolders; i-- > 0;) {
        int fd = g->folders[i].fd;
        const struct visit v = { .fn = take_one,
                                 .gid = g->from_gid,
                                 .clear = g->folders[i].depth == ROOT_CLEARED };
        if (g->folders[i].depth != ROOT_ALONE)
            each(g, &v, fd, DEPTH);
        if (fstat(fd, &st) == 0)
            take_one(g, &v, -1, NULL, fd, &st);
    }
    root_forget_gift(g);
}

void root_forget_gift(struct root_gift *g)
{
    for (unsigned i = 0; i < g->nfolders; i++)
        close(g->folders[i].fd);
    free(g->all);
    *g = (struct root_gift){ .from = g->from };
}
