/*
 * Messages to a thread with an event loop. Sending cannot fail and allocates nothing: the node
 * lies inside the request, job or generation that the message is about. Many senders, one
 * receiver; an eventfd is written only when the list was empty. Messages of one sender arrive in
 * order. A node must not be sent again before its function has begun.
 */
#ifndef GRAFT_BASE_INBOX_H
#define GRAFT_BASE_INBOX_H

#include "base/base.h"

#include <stdatomic.h>

struct msg {
    struct msg *next;
    void (*fn)(struct msg *msg); /* runs on the receiver; may free or send the node again */
};

struct inbox {
    _Alignas(CACHE_LINE) _Atomic(struct msg *) head; /* newest first */
    int fd;                                          /* eventfd; readable = look */
};

int inbox_open(struct inbox *in); /* 0, or -1 with errno */
void inbox_close(struct inbox *in);
void inbox_send(struct inbox *in, struct msg *msg); /* any thread */
/* Receiver only: runs the messages that were there, oldest first; returns how many. Those that
   are sent meanwhile wait for the next call (the eventfd says so). */
size_t inbox_run(struct inbox *in);

#endif
