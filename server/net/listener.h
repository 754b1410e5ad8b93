/*
 * The listening sockets, in a shape that a parent process can own: opened once, before threads
 * start, described by one flat array. TCP addresses have one SO_REUSEPORT socket for each worker;
 * unix sockets and those that were handed over (fd:N, LISTEN_FDS) are polled by every worker.
 * Opened, closed and read by the control thread; workers only accept on the descriptors.
 */
#ifndef GRAFT_NET_LISTENER_H
#define GRAFT_NET_LISTENER_H

#include "base/config.h"
#include "base/err.h"

#include <sys/types.h>

enum listener_kind { LISTENER_TCP, LISTENER_UNIX };

struct listener {
    int fd;
    enum listener_kind kind;
    int worker;       /* the one that accepts; -1 = every worker, one accept a turn */
    bool handed_over; /* somebody else may hold it: never filtered, only our copy is closed */
    char *path;       /* unix sockets of ours: to be unlinked; else NULL */
    dev_t dev;        /* of that file: a successor may have taken its place */
    ino_t ino;
    bool goes_on;     /* the set that comes next has it, too */
    char asked[272];  /* the entry of `listen` that it came from; "": LISTEN_FDS */
    char name[128]; /* as told to people: "127.0.0.1:8080", "unix:/run/x.sock" */
};

struct listeners {
    struct listener *all;
    unsigned n;
    bool passed; /* LISTEN_FDS, instead of `listen` */
};

/* Binds and listens on everything (or takes LISTEN_FDS instead); "in use" is an error, never a
   silent share. On -1 nothing stays open and err names the address and the cause. */
int listeners_open(struct listeners **out, const struct config *cfg, unsigned nworkers,
                   struct err *err);
/*
 * The set for another configuration or number of workers, beside one that is in use: what both have
 * is the same socket (a descriptor of its own here, marked goes_on there), what is new is bound. TCP
 * sockets among that do not listen yet, so that no client comes to a socket that nobody accepts
 * from: listeners_listen, as soon as somebody does. On -1 nothing has changed.
 */
int listeners_follow(struct listeners **out, struct listeners *old, const struct config *cfg,
                     unsigned nworkers, struct err *err);
int listeners_listen(const struct listeners *ls, struct err *err);
/* The next set serves: what goes on is no longer this one's, the rest is to be drained. */
void listeners_part(struct listeners *old);
/* Takes that back, and frees the next set: it never served. */
void listeners_drop(struct listeners *next, struct listeners *old);
/* Before a process with root's rights becomes another user, who is to bind more of them. */
void listeners_give(const struct listeners *ls, uid_t uid, gid_t gid);

/* Logs one `listening` event for each distinct address. */
void listeners_log(const struct listeners *ls);
/* So that no socket file of ours stays behind when the process ends at once. Accepts NULL. */
void listeners_unlink(struct listeners *ls);
/* The drain has emptied them: closes the descriptors and unlinks unix paths of ours. */
void listeners_close(struct listeners *ls);
/* Nobody waits any more: closes descriptors, unlinks unix paths of ours. Accepts NULL. */
void listeners_free(struct listeners *ls);

/* One unix socket at the path of `a`, or one that was handed over and must listen already; `key`
   and `what` name it in errors. 0 or -1; nothing stays open then. */
int listener_open_unix(struct listener *out, const struct addr *a, const char *key,
                       struct err *err);
int listener_take(struct listener *out, int fd, const char *key, const char *what, struct err *err);
/* Removes the socket's file if it is still ours. */
void listener_unlink(struct listener *l);

/* Drops SYNs that arrive from now on, and nothing else, so that the queue can be emptied and the
   socket closed without a reset. TCP sockets that only we hold. 0 or -1 (errno). Connections that
   are accepted from then on must be given to listener_admit. */
int listener_refuse_new(const struct listener *l);
void listener_admit(int fd);
/* Takes that back, if it was done: for a process that begins. */
void listener_welcome(const struct listener *l);

#endif
