/* root_owns of root.h: who could have put there what a path leads to. */
#include "base/root.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINKS_MAX 40

static int refuse(struct err *err, const char *path, const char *why)
{
    return err_set(err, "%s %s", path, why);
}

/* What is in the folder is of whoever may write to it; in a sticky one (/tmp) each entry is its
   owner's. */
static int judge_folder(const char *path, const struct stat *folder, const struct stat *entry,
                        struct err *err)
{
    if (folder->st_uid != 0)
        return refuse(err, path, "is in a folder that is not root's");
    if ((folder->st_mode & 022) == 0)
        return 0;
    if ((folder->st_mode & S_ISVTX) == 0)
        return refuse(err, path, "is in a folder that others than root may write to");
    return entry->st_uid == 0 ? 0 : refuse(err, path, "is not root's");
}

static int judge_file(const char *path, const struct stat *st, struct err *err)
{
    if (!S_ISREG(st->st_mode))
        return refuse(err, path, "is no regular file");
    if (st->st_uid != 0)
        return refuse(err, path, "is not root's");
    if ((st->st_mode & 022) != 0)
        return refuse(err, path, "may be written by others than root");
    return 0;
}

/* `path` up to `at` is a link, the name of which begins at `name`: puts there what it says. */
static int follow(char path[PATH_MAX], const char *name, const char *at, struct err *err)
{
    char to[PATH_MAX], next[PATH_MAX], link[PATH_MAX];
    snprintf(link, sizeof link, "%.*s", (int)(at - path), path);
    ssize_t n = readlink(link, to, sizeof to - 1);
    if (n <= 0)
        return err_set(err, "%s: %s", link, strerror(errno));
    to[n] = '\0';
    int len = snprintf(next, sizeof next, "%.*s%s%s", to[0] == '/' ? 0 : (int)(name - path), path,
                       to, at);
    if (len < 0 || len >= PATH_MAX)
        return err_set(err, "%s: %s", link, strerror(ENAMETOOLONG));
    memcpy(path, next, (size_t)len + 1);
    return 0;
}

/* From / on, up to the first link. 0: the end, 1: a link was followed, -1: err. */
static int walk(char path[PATH_MAX], struct err *err)
{
    struct stat folder, entry;
    char upto[PATH_MAX];
    if (lstat("/", &entry) != 0)
        return err_set(err, "/: %s", strerror(errno));
    for (const char *name = path + 1, *at; *name != '\0'; name = at) {
        at = name + strcspn(name, "/");
        if (at == name) {
            at++;
            continue;
        }
        folder = entry;
        snprintf(upto, sizeof upto, "%.*s", (int)(at - path), path);
        if (lstat(upto, &entry) != 0)
            return err_set(err, "%s: %s", upto, strerror(errno));
        if (judge_folder(upto, &folder, &entry, err) != 0)
            return -1;
        if (S_ISLNK(entry.st_mode))
            return follow(path, name, at, err) == 0 ? 1 : -1;
    }
    return judge_file(path, &entry, err);
}

int root_owns(const char *path, struct err *err)
{
    char whole[PATH_MAX], folder[PATH_MAX] = "";
    int rc = 1;
    if (path[0] != '/' && getcwd(folder, sizeof folder) == NULL)
        return err_set(err, "%s: %s", path, strerror(errno));
    if (snprintf(whole, sizeof whole, "%s%s%s", folder, path[0] != '/' ? "/" : "", path) >=
        PATH_MAX)
        return err_set(err, "%s: %s", path, strerror(ENAMETOOLONG));
    for (int links = 0; rc == 1; links++) {
        if (links > LINKS_MAX)
            return err_set(err, "%s: %s", path, strerror(ELOOP));
        rc = walk(whole, err);
    }
    return rc;
}
