/*
 * Root's rights, kept by a process that works as another user: the supervisor, when it was started
 * as root. Its real and effective ids are that user's, so that whatever it opens is opened with
 * that user's rights; its saved user id is 0. Root's rights are in effect only inside the functions
 * below, each of which does one thing to something that it was handed, never to a path that the
 * other user could bend. Such a process is none that the user may trace or read: the kernel
 * compares the saved id too.
 *
 * One thread, and no other at the time.
 */
#ifndef GRAFT_BASE_ROOT_H
#define GRAFT_BASE_ROOT_H

#include "base/base.h"
#include "base/err.h"

#include <sys/socket.h>
#include <sys/types.h>

/* A user with all its groups, looked up beforehand: becoming it asks nobody. */
struct root_ids {
    uid_t uid;
    gid_t gid;
    int ngroups;
    gid_t groups[];
};
/* NULL: err. The caller's to free(). */
struct root_ids *root_ids_find(const char *name, uid_t uid, gid_t gid, struct err *err);

/* Works as `ids` from now on (never root itself) and keeps root's rights. Asks for an effective
   user 0, or for rights that are kept. -1: it works as who it was. */
int root_keep(const struct root_ids *ids, struct err *err);
bool root_is_kept(void);
/* The same in a program that was begun as root_before_exec leaves it: the groups are there. */
int root_keep_again(uid_t uid, struct err *err);
/* Whether this process could keep them: nobody has unlinked ids and capabilities (securebits). */
bool root_can_be_kept(void);

/* Becomes `ids` (NULL: who we work as) for good, and proves it. For a process of its own, and at
   the end. Where nothing is kept and `ids` is NULL there is nothing to do. */
int root_give_up(const struct root_ids *ids, struct err *err);

/* Root in every id, for an exec of a program that nobody but root could have written; and back,
   when that did not happen. */
void root_before_exec(void);
void root_after_exec(void);

/* bind(2) of an internet address; a port that only root may have when `root_lends_ports`. */
int root_bind(int fd, const struct sockaddr *sa, socklen_t len);
void root_lends_ports(bool on);

/* kill(2) of a child of ours, whoever it is now. */
int root_kill(pid_t pid, int signo);

/* Whether nobody but root could have put there what `path` leads to: the file and every folder and
   link on the way. -1: err says which could be somebody else's. A path without '/' at its begin is
   one in the working folder. */
int root_owns(const char *path, struct err *err);

/* ---- Giving what one user has to another ---- */

/* The file that `fd` has open (O_PATH will do), if it is `from`'s and a folder, a socket or a file
   that has no other name; `gid` -1: the group stays. 0, 1: it is not; -1: errno. */
int root_give(int fd, uid_t from, uid_t uid, gid_t gid);

/* A socket of the network, as its owner is told from others. */
void root_give_socket(int fd, uid_t uid, gid_t gid);

enum root_depth {
    ROOT_ALONE,  /* the folder alone */
    ROOT_ALL,    /* and what is in it */
    ROOT_CLEARED /* and what the other user has made in it meanwhile is removed on the way back */
};

/* Folders, given away by descriptors; nothing that was not `from`'s. They are closed to all but
   their owner. */
struct root_gift {
    struct {
        int fd;
        enum root_depth depth;
    } folders[4];
    unsigned nfolders;
    struct root_given {
        dev_t dev;
        ino_t ino;
    } * all;
    size_t n, room;
    uid_t from, to;
    gid_t from_gid;
};
/* The folder `fd`, which stays the caller's. -1: err, and what was given already is in the gift. */
int root_give_folder(struct root_gift *g, int fd, enum root_depth depth, const struct root_ids *to,
                     struct err *err);
/* To whom it was before: what is in the gift, no more. Forgets it. */
void root_take_back(struct root_gift *g);
void root_forget_gift(struct root_gift *g);

#endif
