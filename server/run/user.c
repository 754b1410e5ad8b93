/* Becoming another user for good, while there is only one thread. */
#include "run/server.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int user_find(struct user *out, const char *name, struct err *err)
{
    uint64_t number;
    memset(out, 0, sizeof *out);
    if (name == NULL || name[0] == '\0')
        return 0;
    errno = 0;
    struct passwd *pw = getpwnam(name);
    if (pw == NULL && str_to_u64(str_of(name), &number) == 0 && number < UINT32_MAX)
        pw = getpwuid((uid_t)number);
    if (pw == NULL)
        return err_set(err,
                       "user %s: there is no such user: make it (useradd --system %s) or name "
                       "another one",
                       name, name);
    snprintf(out->name, sizeof out->name, "%s", pw->pw_name);
    out->uid = pw->pw_uid;
    out->gid = pw->pw_gid;
    if (geteuid() != 0 && geteuid() != out->uid)
        return err_set(err,
                       "user %s: only root can become another user: start as root, or leave "
                       "`user` out",
                       name);
    return 0;
}

int user_become(const struct user *u, struct err *err)
{
    if (u->name[0] == '\0' || geteuid() != 0)
        return 0;
    if (initgroups(u->name, u->gid) != 0 || setgid(u->gid) != 0 || setuid(u->uid) != 0)
        return err_set(err, "cannot become user %s: %s", u->name, strerror(errno));
    if (u->uid != 0 && setuid(0) == 0)
        return err_set(err, "became user %s, but could become root again", u->name);
    /* Changing ids makes /proc/self root's: the open descriptors could not be counted any more. */
    prctl(PR_SET_DUMPABLE, 1);
    return 0;
}
