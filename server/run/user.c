/* Becoming another user, while there is only one thread: for good, or with root's rights kept. */
#include "run/server.h"

#include "base/root.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int user_find(struct user *out, const char *name, struct err *err)
{
    uint64_t number;
    *out = (struct user){ .uid = geteuid(), .gid = getegid() };
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
    if (geteuid() != 0 && geteuid() != out->uid && !root_is_kept())
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

int user_work_as(const struct user *u, struct err *err)
{
    if (u->name[0] == '\0' || geteuid() != 0)
        return 0;
    if (u->uid == 0 || !root_can_be_kept())
        return user_become(u, err);
    struct root_ids *ids = root_ids_find(u->name, u->uid, u->gid, err);
    int rc = ids != NULL ? root_keep(ids, err) : -1;
    free(ids);
    return rc;
}
