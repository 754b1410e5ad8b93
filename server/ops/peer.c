/* Whatever cannot be found out is taken as "no". */
#include "ops/peer.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

static bool is_one_of(gid_t gid, const gid_t *groups, size_t ngroups)
{
    for (size_t i = 0; i < ngroups; i++)
        if (groups[i] == gid)
            return true;
    return false;
}

/* Asked once for how many there are, then for them: what connected does not change any more. */
static bool supplementary(int fd, const gid_t *groups, size_t ngroups)
{
    gid_t few[64], *list = few;
    socklen_t len = sizeof few;
    int rc = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, list, &len);
    if (rc != 0 && errno == ERANGE) {
        list = malloc(len);
        rc = list != NULL ? getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, list, &len) : -1;
    }
    bool found = false;
    for (size_t i = 0; rc == 0 && i < len / sizeof *list && !found; i++)
        found = is_one_of(list[i], groups, ngroups);
    if (list != few)
        free(list);
    return found;
}

void peer_find(struct peer *out, int fd, const gid_t *groups, size_t ngroups)
{
    struct ucred cred;
    socklen_t len = sizeof cred;
    *out = (struct peer){ PEER_NOTHING, (uid_t)-1, 0 };
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0 || len != sizeof cred ||
        cred.uid == (uid_t)-1)
        return;
    out->uid = cred.uid;
    out->pid = cred.pid;
    if (cred.uid == 0 || cred.uid == geteuid())
        out->right = PEER_ALL;
    else if (ngroups > 0 &&
             (is_one_of(cred.gid, groups, ngroups) || supplementary(fd, groups, ngroups)))
        out->right = PEER_READ;
}
