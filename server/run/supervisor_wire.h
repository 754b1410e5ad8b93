/*
 * What supervisor and server process say to each other, over one SOCK_SEQPACKET socketpair: small
 * messages of fixed shape, with descriptors where the message is about some. Nothing in them is a
 * pointer, and what is received is checked whole before anybody sees it: a peer that is out of its
 * mind can be silent or talk nonsense, but neither hang the other side nor make it read astray.
 *
 *   supervisor -> server   HELLO, CRASHED (after a crash), SHARED..., OPS, LISTENER..., BEGIN; then
 *                          SIGNAL; GOES_ON..., YIELD, UPGRADED; SERVE (to one in waiting)
 *   server -> supervisor   READY, LEAVING, CLOSE, CONFIG, REOPEN, SHARED, CRASH, VITALS;
 *                          UPGRADE, YIELDED; SERVING (one that was in waiting)
 *
 * Two processes may be of different versions of graftd (graftctl upgrade): each message begins with
 * WIRE_VERSION, which changes with any of the shapes below.
 *
 * The end of file says that the other one is gone. No state; any thread, one at a time (wire_crash:
 * also from a signal's handler).
 */
#ifndef GRAFT_RUN_SUPERVISOR_WIRE_H
#define GRAFT_RUN_SUPERVISOR_WIRE_H

#include "base/base.h"
#include "base/err.h"
#include "plugin/shared.h"
#include "run/notify.h"

#include <limits.h>
#include <sys/types.h>

#define WIRE_VARIABLE "GRAFTD_SUPERVISOR" /* holds the number of the server's descriptor */
#define WIRE_FDS_MAX  9
#ifndef WIRE_VERSION
#define WIRE_VERSION 2 /* 1 to 255 */
#endif
#define WIRE_SOCKET_PATH 108
#define WIRE_WORKERS_MAX 1024

enum wire_type {
    WIRE_HELLO = 1,
    WIRE_CRASHED,
    WIRE_OPS,
    WIRE_LISTENER,
    WIRE_BEGIN,
    WIRE_SIGNAL,
    WIRE_READY,
    WIRE_LEAVING,
    WIRE_CLOSE,
    WIRE_CONFIG,
    WIRE_REOPEN,
    WIRE_SHARED,  /* a block of graft_shared with its descriptor; without: it is not needed any more
                   */
    WIRE_UPGRADE, /* may another server process take our place? With the new configuration's text */
    WIRE_GOES_ON, /* these listeners are the next process's, too */
    WIRE_YIELD,   /* the next one is ready: the store, ops and control are no longer yours */
    WIRE_YIELDED,
    WIRE_SERVE, /* you serve now; with the place for stderr */
    WIRE_SERVING,
    WIRE_UPGRADED, /* the answer to UPGRADE */
    WIRE_CRASH,
    WIRE_VITALS,
    WIRE_LAST = WIRE_VITALS
};

/* What a server process begins with. Descriptors, in this order; those that `has` does not name
   are left out: crash area, configuration's text, lock, folder and root of the stage, what is known
   of good files, control, the log, the state folder's lock. */
enum wire_fd {
    WIRE_FD_AREA,
    WIRE_FD_CONFIG,
    WIRE_FD_STAGE_LOCK,
    WIRE_FD_STAGE,
    WIRE_FD_STAGE_ROOT,
    WIRE_FD_PROVEN,
    WIRE_FD_CONTROL,
    WIRE_FD_LOG,
    WIRE_FD_STATE_LOCK,
    WIRE_FD_COUNT
};

struct wire_hello {
    uint32_t workers;
    uint32_t listeners; /* so many LISTENER messages follow */
    uint32_t has;       /* bit i: enum wire_fd i was sent */
    uint32_t restarts;  /* server processes before this one */
    uint32_t standby;   /* another process serves: wait for SERVE */
    uint32_t vitals_ms; /* VITALS are wanted so often; 0: never */
    uint64_t seq;       /* the last number of a staged copy; the folder is shared by all of them */
    char stage_name[64], stage_path[PATH_MAX];
    char control_path[WIRE_SOCKET_PATH];
    uint64_t control_dev, control_ino;
};

/* Whose code the process before this one ended in. Empty strings: not known. */
struct wire_crashed {
    char plugin[65], version[65], id[40], sha256[65], config_sha256[65];
    int32_t signo; /* 0: it called exit */
    uint32_t in_row;
};

struct wire_listener { /* with its descriptor; also of OPS */
    int32_t kind, worker;
    uint32_t handed_over;
    uint64_t dev, ino;
    char path[WIRE_SOCKET_PATH], name[128];
};

struct wire_signal {
    int32_t signo;
};

struct wire_close { /* these close now, in every process of ours */
    uint32_t first, count;
};

struct wire_ready {
    char version[64]; /* of graftd */
    uint32_t state;   /* STATE_VERSION of supervisor_private.h */
};

struct wire_upgrade {
    char binary[PATH_MAX]; /* "": what the supervisor was started from */
};

struct wire_upgraded {
    uint32_t over; /* the next process serves: drain */
    int32_t old_pid, new_pid;
    uint64_t ms;
    char old_version[64], new_version[64];
    char note[256];    /* what did not go as it should, all the same; else "" */
    char error[32];    /* not over: a word, */
    char reason[2048]; /* and why */
};

struct wire_message {
    enum wire_type type;
    union {
        struct wire_hello hello;
        struct wire_crashed crashed;
        struct shared_key shared;
        struct wire_listener listener;
        struct wire_signal signal;
        struct wire_close close; /* and GOES_ON */
        struct wire_ready ready;
        struct wire_upgrade upgrade;
        struct wire_upgraded upgraded;
        struct vitals vitals;
    } body;
    int fds[WIRE_FDS_MAX]; /* received ones are the caller's, close-on-exec */
    unsigned nfds;
};

/* 0: wire[0] is the supervisor's end, wire[1] the server's; both close-on-exec and non-blocking. */
int wire_open(int wire[2], struct err *err);

/* Sends it, waiting for at most `ms` for room. 0 or -1 with errno: EAGAIN no room, EPIPE nobody. */
int wire_send(int fd, const struct wire_message *m, unsigned ms);
/* The same, up to a moment of clock_ms that several have in common. */
int wire_send_until(int fd, const struct wire_message *m, uint64_t until_ms);
int wire_send_type(int fd, enum wire_type type); /* one without a body; does not wait */
void wire_crash(int fd);                         /* async-signal-safe */

enum wire_result {
    WIRE_GOT,
    WIRE_NOTHING,
    WIRE_END,
    WIRE_NONSENSE,
    WIRE_LOST, /* a message whose descriptors had no room in this process (EMFILE); its type is told
                */
    WIRE_OTHER /* as nonsense: a peer of another WIRE_VERSION, now in wire_peer_version */
};
extern unsigned wire_peer_version;
extern const unsigned wire_version; /* ours */
/* The next message, waiting for at most `ms`. There is something to close only after GOT. */
enum wire_result wire_receive(int fd, struct wire_message *m, unsigned ms);
void wire_close_fds(struct wire_message *m);

/* Whether the number `text` is our end of a wire to our parent: the descriptor, made close-on-exec;
   -1: it is no wire; -2: it is one, but whoever made it is not our parent any more. */
int wire_inherited(const char *text);

#endif
