/* See conn.h. */
#include "net/conn.h"

#include "base/addr.h"
#include "net/io.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WANT_READ = 1, WANT_WRITE = 2, WANT_HANGUP = 4 };

static void on_event(evutil_socket_t fd, short what, void *arg);

/*
 * The client's leaving while we do not read. libevent reports EPOLLERR (a reset) as EV_READ and
 * EV_WRITE only, so an event for EV_CLOSED alone would miss it and spin: EV_READ is asked for as
 * well, edge-triggered, so that unread input wakes us once and not for ever.
 */
static short hangup_events(uint8_t mask)
{
    return mask & WANT_WRITE ? EV_CLOSED : (short)(EV_READ | EV_CLOSED | EV_ET);
}

/* Gives libevent the mask that our wishes come to; nothing when it has it already. */
static NOINLINE void apply(struct conn *c)
{
    uint8_t mask = (uint8_t)(c->want_read ? WANT_READ : c->hung_up ? 0 : WANT_HANGUP);
    if (c->write_blocked)
        mask |= WANT_WRITE;
    if (c->state == CONN_CLOSED)
        mask = 0;
    if (mask == c->interest)
        return;
    if (c->interest)
        event_del(&c->event);
    c->interest = mask;
    if (!mask)
        return;
    short events =
        (short)(EV_PERSIST | (mask & WANT_READ ? EV_READ : 0) | (mask & WANT_WRITE ? EV_WRITE : 0) |
                (mask & WANT_HANGUP ? hangup_events(mask) : 0));
    event_assign(&c->event, c->all->loop->base, c->fd, events, on_event, c);
    if (event_add(&c->event, NULL) != 0) {
        c->interest = 0;
        c->all->ops->broken(c, OUT_BROKEN, "no memory for the connection's event");
    }
}

static void set_peer(struct peer *p, const struct sockaddr *from)
{
    p->family = (uint8_t)from->sa_family;
    if (from->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)from;
        p->addr.v4 = in->sin_addr;
        p->port = ntohs(in->sin_port);
    } else if (from->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)from;
        p->addr.v6 = in6->sin6_addr;
        p->port = ntohs(in6->sin6_port);
    }
}

size_t peer_text(const struct peer *p, char out[ADDR_TEXT_MAX])
{
    struct sockaddr_storage ss = { .ss_family = p->family };
    socklen_t len = sizeof(sa_family_t);
    if (p->family == AF_INET) {
        struct sockaddr_in *in = (void *)&ss;
        in->sin_addr = p->addr.v4;
        in->sin_port = htons(p->port);
        len = sizeof *in;
    } else if (p->family == AF_INET6) {
        struct sockaddr_in6 *in6 = (void *)&ss;
        in6->sin6_addr = p->addr.v6;
        in6->sin6_port = htons(p->port);
        len = sizeof *in6;
    }
    addr_format((const void *)&ss, len, out);
    return strlen(out);
}

size_t conn_peer(const struct conn *c, char out[ADDR_TEXT_MAX])
{
    return peer_text(&c->peer, out);
}

void conns_init(struct conns *all, struct loop *loop, const struct conn_ops *ops)
{
    all->loop = loop;
    all->ops = ops;
    list_init(&all->open);
    list_init(&all->closed);
}

int conn_open(struct conn *c, struct conns *all, int fd, const struct sockaddr *peer)
{
    *c = (struct conn){ .magic = CONN_MAGIC, .fd = fd, .all = all, .want_read = true };
    set_peer(&c->peer, peer);
    wheel_timer_init(&c->timer);
    if (c->peer.family != AF_UNIX) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    c->interest = WANT_READ;
    event_assign(&c->event, all->loop->base, fd, EV_READ | EV_PERSIST, on_event, c);
    if (event_add(&c->event, NULL) != 0) {
        close(fd);
        return -1;
    }
    list_add_tail(&all->open, &c->node);
    COUNTER_ADD(all->loop->stats.accepted, 1);
    return 0;
}

HOT void conn_want_read(struct conn *c, bool want)
{
    if (c->want_read == want || c->state != CONN_OPEN)
        return;
    c->want_read = want;
    apply(c);
}

HOT ssize_t conn_recv(struct conn *c, void *to, size_t len)
{
    for (;;) {
        ssize_t n = io_recv(c->fd, to, len);
        if (n >= 0) {
            COUNTER_ADD(c->all->loop->stats.bytes_in, (uint64_t)n);
            return n;
        }
        if (errno == EINTR)
            continue;
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOMEM ? -1 : -2;
    }
}

static void linger_begin(struct conn *c)
{
    shutdown(c->fd, SHUT_WR);
    c->write_blocked = false;
    c->want_read = true;
    apply(c);
}

NOINLINE void conn_flush(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    uint64_t sent = 0;
    enum out_result r = out_send(&c->out, c->fd, CONN_SEND_SHARE, &sent);
    COUNTER_ADD(c->all->loop->stats.bytes_out, sent);
    if (r == OUT_BROKEN || r == OUT_CUT) {
        if (c->state == CONN_LINGERING)
            conn_close(c, r == OUT_CUT, true);
        else
            c->all->ops->broken(c, r, r == OUT_CUT ? "a file ended before its length" : "reset");
        return;
    }
    c->write_blocked = r == OUT_BLOCKED;
    apply(c);
    if (c->state == CONN_LINGERING) {
        if (r == OUT_EMPTY)
            linger_begin(c);
    } else if (sent > 0 || r == OUT_EMPTY) {
        c->all->ops->sent(c);
    }
}

/* What a send left over waits in the queue, and the rest of its fate is conn_flush's. */
static NOINLINE int send_rest(struct conn *c, const char *data, size_t len)
{
    if (out_copy(&c->out, NULL, data, len) != 0)
        return -1;
    if (!c->write_blocked) {
        c->write_blocked = true;
        apply(c);
    }
    return 0;
}

static NOINLINE int send_failed(struct conn *c, const void *data, size_t len)
{
    bool later = errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM;
    if (errno == EINTR)
        return conn_send(c, data, len);
    return later ? send_rest(c, data, len) : -1;
}

HOT int conn_send(struct conn *c, const void *data, size_t len)
{
    if (UNLIKELY(c->out.first != NULL))
        return send_rest(c, data, len);
    ssize_t n = io_send(c->fd, data, len);
    if (UNLIKELY(n < 0))
        return send_failed(c, data, len);
    COUNTER_ADD(c->all->loop->stats.bytes_out, (uint64_t)n);
    if (LIKELY((size_t)n == len))
        return 0;
    return send_rest(c, (const char *)data + n, len - (size_t)n);
}

/* Is all that we have sent in the client's kernel? A reset takes with it what is still in ours. */
static bool arrived(const struct conn *c)
{
    int untaken;
    return ioctl(c->fd, SIOCOUTQ, &untaken) != 0 || untaken == 0;
}

/* The client goes on and on: no more is read; what was sent has until the deadline to arrive. */
static void linger_enough(struct conn *c)
{
    if (arrived(c)) {
        conn_close(c, false, true);
        return;
    }
    c->want_read = false;
    c->hung_up = true;
    apply(c);
}

/* Input of a lingering connection goes nowhere; its end, or enough of it, closes. */
static NOINLINE void linger_read(struct conn *c)
{
    char sink[16384];
    for (int turn = 0; turn < 4; turn++) {
        ssize_t n = conn_recv(c, sink, sizeof sink);
        if (n == -1)
            return;
        if (n <= 0) {
            conn_close(c, false, true);
            return;
        }
        if ((size_t)n >= c->linger_left) {
            linger_enough(c);
            return;
        }
        c->linger_left -= (uint32_t)n;
    }
}

NOINLINE void conn_close(struct conn *c, bool reset, bool by_us)
{
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    apply(c);
    wheel_clear(&c->all->loop->wheel, &c->timer);
    out_drop(&c->out);
    if (reset) {
        struct linger now = { 1, 0 };
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(c->fd);
    c->fd = -1;
    COUNTER_ADD(c->all->loop->stats.closed, 1);
    COUNTER_ADD(c->all->loop->stats.closed_by_us, by_us ? 1u : 0u);
    list_del(&c->node);
    list_add_tail(&c->all->closed, &c->node);
    loop_mark(c->all->loop);
}

void conns_reap(struct conns *all)
{
    struct list *n;
    while ((n = list_pop(&all->closed)))
        all->ops->reap(list_entry(n, struct conn, node));
}

static bool has_left(struct conn *c, short what)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (what & EV_CLOSED)
        return true;
    return (what & EV_READ) && getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error;
}

static HOT void on_event(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    struct conn *c = arg;
    HOT_CHECK(c, CONN_MAGIC);
    struct loop *l = c->all->loop;
    loop_enter(l);
    if (UNLIKELY((what & EV_WRITE) && c->write_blocked))
        conn_flush(c);
    if ((what & EV_READ) && c->state == CONN_OPEN && c->want_read)
        c->all->ops->readable(c);
    else if ((what & EV_READ) && c->state == CONN_LINGERING)
        linger_read(c);
    else if (c->state == CONN_OPEN && !c->want_read && !c->hung_up && has_left(c, what)) {
        c->hung_up = true;
        apply(c);
        c->all->ops->hangup(c);
    }
    loop_leave(l);
}
