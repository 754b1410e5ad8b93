/*
 * Where the control socket is: graftd makes it there, graftctl looks for it in the same places.
 * Main thread of either program; may block.
 */
#ifndef GRAFT_OPS_PLACE_H
#define GRAFT_OPS_PLACE_H

#include "base/base.h"
#include "base/err.h"

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>

#define PLACE_NAME "control.sock"
#define PLACE_MAX  4

struct place {
    char folder[sizeof(((struct sockaddr_un *)0)->sun_path)];
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* of the socket in it */
    bool shared_above; /* its parent is open to everybody (/tmp): trust it only if it is ours */
    bool given;        /* systemd made it: its mode is not ours to judge */
};

/* The folders in the order of looking: $RUNTIME_DIRECTORY alone when it is set; else /run/graft,
   $XDG_RUNTIME_DIR/graft, /tmp/graft-UID. How many. */
size_t place_list(struct place out[PLACE_MAX]);

/* A control socket of ours. */
struct place_socket {
    int fd; /* listening, non-blocking */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    dev_t dev; /* of the socket file: is it still ours? */
    ino_t ino;
    bool made_folder; /* its folder is one of the list's */
    bool shared;      /* place_share has set its group */
};

/* Binds the control socket, mode 0600: at `configured`, else in the first folder of the list that
   is or can be made a 0700 folder of ours. A socket that nobody listens on any more is replaced.
   0; -1 with the reason: `configured` does not work or a live server is there; 1: no folder of the
   list fits, err names each. */
int place_open(struct place_socket *out, const char *configured, struct err *err);

/* Lets the members of these groups connect: mode 0660, and 0710 for a folder of the list. What they
   may do there is not decided here (ops/peer.h). None: nothing changes. 0 or -1. */
int place_share(struct place_socket *socket, const gid_t *groups, size_t ngroups, struct err *err);
/* Takes back what an earlier run let them pass. */
void place_unshare_folder(const char *folder);

/* Gives socket and folder to another user, before a root process becomes it. */
int place_give(const struct place_socket *socket, uid_t uid, gid_t gid, struct err *err);

/* From that user, whom we worked as, to another one; by a process with root's rights kept. */
int place_pass(const struct place_socket *socket, uid_t from, uid_t uid, gid_t gid,
               struct err *err);

/* Unlinks the file if it is still the one that was bound, and closes. */
void place_close(struct place_socket *socket);

/* graftctl: a connected descriptor, to `configured` or to the first of the list that answers; -1
   and err names what was tried; PLACE_BUSY: somebody listens there, but takes no connection;
   PLACE_DENIED: one of these places is there for others than us. */
#define PLACE_BUSY   (-2)
#define PLACE_DENIED (-3)
int place_connect(const char *configured, struct err *err);

#endif
