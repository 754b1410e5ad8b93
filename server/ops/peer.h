/*
 * Who is at the other end of the control socket, by what the kernel knows of the process that
 * connected, and what that one may do. Any thread.
 */
#ifndef GRAFT_OPS_PEER_H
#define GRAFT_OPS_PEER_H

#include "base/base.h"

#include <sys/types.h>

enum peer_right {
    PEER_NOTHING,
    PEER_READ, /* ask what is: the verbs that are a GET */
    PEER_ALL   /* root and the user that we are */
};

struct peer {
    enum peer_right right;
    uid_t uid; /* -1: the kernel does not say */
    pid_t pid;
};

/* Of a connected unix socket. Its primary and its supplementary groups count, as they were when it
   connected. */
void peer_find(struct peer *out, int fd, const gid_t *groups, size_t ngroups);

#endif
