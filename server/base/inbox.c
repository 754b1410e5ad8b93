/*
 * Many senders push onto one atomic pointer; the receiver takes the whole list and turns it
 * round. No sender touches a message after it has pushed it: the receiver may have freed it.
 * Wake-ups cannot be lost: the receiver clears the eventfd before it takes the list, and whoever
 * pushes onto an empty list writes the eventfd after the push.
 */
#include "base/inbox.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int inbox_open(struct inbox *in)
{
    atomic_init(&in->head, NULL);
    in->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return in->fd < 0 ? -1 : 0;
}

void inbox_close(struct inbox *in)
{
    if (in->fd >= 0)
        close(in->fd);
    in->fd = -1;
}

/* EAGAIN would mean a counter near 2^64, and that is readable as well. */
static void wake(int fd)
{
    const uint64_t one = 1;
    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void clear(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

void inbox_send(struct inbox *in, struct msg *msg)
{
    int fd = in->fd;
    struct msg *old = atomic_load_explicit(&in->head, memory_order_relaxed);
    do {
        msg->next = old;
    } while (!atomic_compare_exchange_weak_explicit(&in->head, &old, msg, memory_order_release,
                                                    memory_order_relaxed));
    if (old == NULL)
        wake(fd);
}

static struct msg *reverse(struct msg *newest)
{
    struct msg *oldest = NULL;
    while (newest != NULL) {
        struct msg *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

size_t inbox_run(struct inbox *in)
{
    clear(in->fd);
    struct msg *msg = reverse(atomic_exchange_explicit(&in->head, NULL, memory_order_acquire));
    size_t count = 0;
    while (msg != NULL) {
        struct msg *next = msg->next; /* fn may free the message or send it again */
        msg->fn(msg);
        msg = next;
        count++;
    }
    return count;
}
