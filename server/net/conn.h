/*
 * One connection as a socket: its events, its deadlines, its output, its end. What the bytes mean
 * is the business of whoever embeds it (http/session.h) and gets the callbacks below. One worker
 * owns it; all calls are that worker's.
 *
 *   OPEN -> (conn_linger) LINGERING -> CLOSED      conn_close goes to CLOSED from anywhere
 *
 * A closed connection is never touched by events again, but its memory lives until the step of the
 * loop (ops->reap), so that callers on the stack can look at `state`.
 */
#ifndef GRAFT_NET_CONN_H
#define GRAFT_NET_CONN_H

#include "base/list.h"
#include "net/loop.h"
#include "net/out.h"

#include <netinet/in.h>
#include <sys/types.h>

#define CONN_MAGIC      0x636f6e6eu
#define CONN_SEND_SHARE (1u << 20) /* bytes sent to one connection in one go */
#define LINGER_BYTES    (256u * 1024u)
#define LINGER_MS       2000u

enum conn_state { CONN_OPEN, CONN_LINGERING, CONN_CLOSED };
enum conn_timeout { CONN_READ_TIMEOUT, CONN_WRITE_TIMEOUT };

struct conn;

struct conn_ops {
    void (*readable)(struct conn *c); /* input may be there, or an end */
    void (*hangup)(struct conn *c);   /* the client left while we did not read */
    void (*sent)(struct conn *c);     /* output went out; c->out.bytes says what is left */
    /* Output failed; nothing more will go. OUT_CUT: it was a file's fault, else OUT_BROKEN. */
    void (*broken)(struct conn *c, enum out_result how, const char *why);
    void (*timeout)(struct conn *c, enum conn_timeout which);
    void (*reap)(struct conn *c); /* closed, and nobody on the stack looks at it: free it */
};

/* Connections of one worker. */
struct conns {
    struct loop *loop;
    const struct conn_ops *ops;
    struct list open, closed;
};

#define ADDR_TEXT_MAX 64

/* Who is at the other end, in few bytes: requests keep a copy. */
struct peer {
    uint8_t family; /* AF_INET, AF_INET6, AF_UNIX */
    uint16_t port;
    union {
        struct in_addr v4;
        struct in6_addr v6;
    } addr;
};

struct conn {
    unsigned magic;
    int fd;
    struct conns *all;
    struct list node; /* conns.open or .closed */
    struct event event;
    struct wheel_timer timer;
    uint64_t read_deadline_ms, write_deadline_ms; /* 0 = none */
    struct outq out;
    uint32_t linger_left;
    uint8_t state;      /* enum conn_state */
    uint8_t interest;   /* CONN_READ | ... as the loop has it */
    bool write_blocked; /* waits for writability */
    bool want_read;
    bool hung_up; /* ops->hangup was called: no need to watch for it again */
    struct peer peer;
};

/* Takes fd (set non-blocking by accept4). 0, or -1: no memory for the event (fd is closed). */
int conn_open(struct conn *c, struct conns *all, int fd, const struct sockaddr *peer);

/* Whether to look for input. While we do not, only the client's leaving is watched for. */
void conn_want_read(struct conn *c, bool want);

/* > 0 bytes; 0 the client's FIN; -1 nothing there now; -2 the connection is broken. */
ssize_t conn_recv(struct conn *c, void *to, size_t len);

/* Sends what is in c->out now, and the rest when the socket has room. */
void conn_flush(struct conn *c);
/* For the fast path: sends these bytes at once if nothing waits, queues what did not go. 0, or -1:
   broken (ops->broken is not called). Copies what it keeps. */
int conn_send(struct conn *c, const void *data, size_t len);

void conn_deadline(struct conn *c, enum conn_timeout which, uint64_t deadline_ms); /* 0 = none */

/* What is in c->out goes, then our write side is shut, up to LINGER_BYTES or `ms` of input is
   discarded, and the connection closes: an answer is not lost to a reset. */
void conn_linger(struct conn *c, unsigned ms);
/* At once; `reset`: so that the client cannot take it for the end of an answer. By us or not:
   only counted. */
void conn_close(struct conn *c, bool reset, bool by_us);

void conns_init(struct conns *all, struct loop *loop, const struct conn_ops *ops);
void conns_reap(struct conns *all); /* in the loop's step */

static inline bool conn_is_open(const struct conn *c)
{
    return c->state == CONN_OPEN;
}

/* "192.0.2.1:4711", "[2001:db8::1]:80", "unix"; returns the length. */
size_t peer_text(const struct peer *p, char out[ADDR_TEXT_MAX]);
size_t conn_peer(const struct conn *c, char out[ADDR_TEXT_MAX]);

/* conns.loop's wheel calls this for a timer of ours. */
void conn_expired(struct wheel_timer *t, uint64_t now_ms);

#endif
