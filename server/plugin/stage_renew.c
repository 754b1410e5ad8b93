/*
 * Our stage folder or its lock made again, under the same path and the same descriptors, when
 * somebody has removed them: a cleaner of /tmp does.
 */
#include "plugin/stage_private.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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
    int lock = stage_folder_lock(s->dir_fd);
    snprintf(why, 256, "its lock: %s", strerror(lock < 0 ? errno : EAGAIN));
    if (lock < 0)
        return -1;
    if (stage_folder_is_entry(AT_FDCWD, s->path, s->dir_fd) &&
        stage_folder_is_entry(s->dir_fd, STAGE_LOCK, lock))
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
    made.root_fd = stage_root_open(root, why);
    if (made.root_fd < 0)
        return -1;
    int rc = stage_folder_claim(&made, s->name);
    if (rc == 0)
        made.path = stage_folder_path(made.dir_fd);
    if (rc == 0 && made.path != NULL && strcmp(made.path, s->path) == 0) {
        rc = move_fd(&made.root_fd, s->root_fd);
        rc = move_fd(&made.dir_fd, s->dir_fd) != 0 ? -1 : rc;
        rc = move_fd(&made.lock_fd, s->lock_fd) != 0 ? -1 : rc;
    } else {
        snprintf(why, 256, "%s", rc != 0 ? strerror(errno) : "its path leads elsewhere now");
        stage_folder_remove(&made);
        close(made.root_fd);
        rc = -1;
    }
    free(made.path);
    return rc;
}

static bool is_whole(const struct stage *s)
{
    return stage_folder_is_entry(AT_FDCWD, s->path, s->dir_fd) &&
           stage_folder_is_entry(s->dir_fd, STAGE_LOCK, s->lock_fd);
}

int stage_renew(struct stage *s, struct err *err)
{
    char why[256] = "";
    CHECK(s, STAGE_MAGIC);
    if (is_whole(s))
        return 0;
    for (int attempt = 0; attempt < 5; attempt++) {
        bool there = stage_folder_is_entry(AT_FDCWD, s->path, s->dir_fd);
        int rc = there ? renew_lock(s, why) : renew_folder(s, why);
        if (rc == 0 && is_whole(s)) {
            log_msg(LOG_WARN, "stage", "somebody had removed %s%s: made again", s->path,
                    there ? "/" STAGE_LOCK : "");
            return 0;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 4000000 }, NULL); /* a start may be removing it */
    }
    return err_set(err,
                   "the stage folder %s was removed and cannot be made again: %s: make it possible "
                   "for uid %ju, or restart graftd",
                   s->path, why, (uintmax_t)geteuid());
}
