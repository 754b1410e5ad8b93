/*
 * Connections without sockets: net/conn.h on two buffers, in the place of server/net/conn.c, whose
 * order of calls it keeps. Input comes when the test sends it; output goes as far as the client's
 * window.
 */
#include "bottle.h"

#include "base/addr.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_FD (-1000) /* of a connection: none that the kernel could know */

struct list clients;
static graft_test_req *opening;

static graft_test_req *client_of(const struct conn *c)
{
    list_each (it, &clients) {
        graft_test_req *r = list_entry(it, graft_test_req, node);
        if (r->conn == c)
            return r;
    }
    return NULL;
}

graft_test_req *client_new(size_t window)
{
    static bool made;
    graft_test_req *r = xcalloc(1, sizeof *r);
    struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = htons(40001) };
    if (!made)
        list_init(&clients);
    made = true;
    peer.sin_addr.s_addr = htonl(0xc0000201); /* 192.0.2.1 */
    r->window = window;
    r->worker = bottle.workers[bottle.next_worker];
    list_add_tail(&clients, &r->node);
    struct played was = play(ON_WORKER_THREAD, bottle.next_worker);
    opening = r;
    if (session_prepare(&r->worker->http) != 0 ||
        session_open(&r->worker->http, NO_FD, (const struct sockaddr *)&peer) != 0)
        give_up("no memory for a connection");
    opening = NULL;
    play_again(was);
    return r;
}

void client_check(const graft_test_req *r, const char *function)
{
    if (r == NULL)
        give_up("%s was given NULL: expected a request", function);
    if (clients.next != NULL)
        list_each (it, &clients)
            if (list_entry(it, graft_test_req, node) == r)
                return;
    give_up("%s was given a request that is over: graft_test_forget() has freed it", function);
}

/* ---- net/conn.h: opening and input -------------------------------------------------------------
 */

size_t peer_text(const struct peer *p, char out[ADDR_TEXT_MAX])
{
    struct sockaddr_in in = { .sin_family = AF_INET,
                              .sin_addr = p->addr.v4,
                              .sin_port = htons(p->port) };
    addr_format((const struct sockaddr *)&in, sizeof in, out);
    return strlen(out);
}

size_t conn_peer(const struct conn *c, char out[ADDR_TEXT_MAX])
{
    return peer_text(&c->peer, out);
}

void conns_init(struct conns *a, struct loop *loop, const struct conn_ops *ops)
{
    a->loop = loop;
    a->ops = ops;
    list_init(&a->open);
    list_init(&a->closed);
}

int conn_open(struct conn *c, struct conns *a, int fd, const struct sockaddr *peer)
{
    const struct sockaddr_in *in = (const void *)peer;
    *c = (struct conn){ .magic = CONN_MAGIC, .fd = fd, .all = a, .want_read = true };
    c->peer = (struct peer){ .family = AF_INET, .port = ntohs(in->sin_port) };
    c->peer.addr.v4 = in->sin_addr;
    wheel_timer_init(&c->timer);
    list_add_tail(&a->open, &c->node);
    COUNTER_ADD(a->loop->stats.accepted, 1);
    opening->conn = c;
    return 0;
}

void conn_want_read(struct conn *c, bool want)
{
    if (c->state == CONN_OPEN)
        c->want_read = want;
}

ssize_t conn_recv(struct conn *c, void *to, size_t len)
{
    graft_test_req *r = client_of(c);
    if (r->in.len == 0)
        return r->fin ? 0 : -1;
    size_t n = r->in.len < len ? r->in.len : len;
    memcpy(to, r->in.data, n);
    buf_consume(&r->in, n);
    COUNTER_ADD(c->all->loop->stats.bytes_in, n);
    return (ssize_t)n;
}

/* ---- Output ------------------------------------------------------------------------------------
 */

static void take(graft_test_req *r, const void *data, size_t len)
{
    if (buf_add(&r->out, data, len) != 0)
        give_up("no memory for an answer");
    if (r->window != SIZE_MAX)
        r->window -= len;
    COUNTER_ADD(r->conn->all->loop->stats.bytes_out, len);
}

/* What of this segment the client takes: bytes, or -1: its file has ended. */
static ssize_t take_seg(graft_test_req *r, const struct seg *s)
{
    char piece[16384];
    size_t len = s->len < r->window ? (size_t)s->len : r->window;
    if (s->kind != SEG_FILE) {
        take(r, s->ptr, len);
        return (ssize_t)len;
    }
    ssize_t n = pread(s->fd, piece, len < sizeof piece ? len : sizeof piece, s->offset);
    if (n <= 0)
        return -1;
    take(r, piece, (size_t)n);
    return n;
}

static enum out_result send_queue(graft_test_req *r, struct outq *q, uint64_t *sent)
{
    while (q->first != NULL) {
        if (q->first->len == 0) {
            out_advance(q, 0);
            continue;
        }
        if (r->window == 0 || *sent >= CONN_SEND_SHARE)
            return OUT_BLOCKED;
        ssize_t n = take_seg(r, q->first);
        if (n < 0)
            return OUT_CUT;
        *sent += (uint64_t)n;
        out_advance(q, (uint64_t)n);
    }
    return OUT_EMPTY;
}

void conn_flush(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    uint64_t sent = 0;
    enum out_result how = send_queue(client_of(c), &c->out, &sent);
    if (how == OUT_CUT) {
        if (c->state == CONN_LINGERING)
            conn_close(c, true, true);
        else
            c->all->ops->broken(c, how, "a file ended before its length");
        return;
    }
    c->write_blocked = how == OUT_BLOCKED;
    if (c->state == CONN_OPEN && (sent > 0 || how == OUT_EMPTY))
        c->all->ops->sent(c);
}

int conn_send(struct conn *c, const void *data, size_t len)
{
    graft_test_req *r = client_of(c);
    size_t n = c->out.first != NULL ? 0 : len < r->window ? len : r->window;
    if (n > 0)
        take(r, data, n);
    if (n == len)
        return 0;
    if (out_copy(&c->out, NULL, (const char *)data + n, len - n) != 0)
        return -1;
    c->write_blocked = true;
    return 0;
}

/* ---- Ends (deadlines are server/net/conn_timer.c) ---------------------------------------------
 */

void conn_close(struct conn *c, bool reset, bool by_us)
{
    if (c->state == CONN_CLOSED)
        return;
    graft_test_req *r = client_of(c);
    c->state = CONN_CLOSED;
    wheel_clear(&c->all->loop->wheel, &c->timer);
    out_drop(&c->out);
    if (r != NULL) {
        r->reset = reset;
        r->conn = NULL;
    }
    COUNTER_ADD(c->all->loop->stats.closed, 1);
    COUNTER_ADD(c->all->loop->stats.closed_by_us, by_us ? 1u : 0u);
    list_del(&c->node);
    list_add_tail(&c->all->closed, &c->node);
    loop_mark(c->all->loop);
}

void conns_reap(struct conns *a)
{
    struct list *it;
    while ((it = list_pop(&a->closed)) != NULL)
        a->ops->reap(list_entry(it, struct conn, node));
}

/* ---- What a socket's events would tell
 * ----------------------------------------------------------- */

/* True: something was done. A lingering connection is over when all has been taken. */
static bool client_turn(graft_test_req *r)
{
    struct conn *c = r->conn;
    if (c->write_blocked && r->window > 0) {
        conn_flush(c);
        return true;
    }
    if (c->state == CONN_LINGERING) {
        buf_fini(&r->in);
        if (c->out.first == NULL)
            conn_close(c, false, true);
        return c->state == CONN_CLOSED;
    }
    if (c->want_read && (r->in.len > 0 || (r->fin && !c->hung_up))) {
        size_t before = r->in.len;
        c->all->ops->readable(c);
        return c->state == CONN_CLOSED || r->in.len != before || c->hung_up;
    }
    if (!c->want_read && r->fin && !c->hung_up) {
        c->hung_up = true;
        c->all->ops->hangup(c);
        return true;
    }
    return false;
}

bool clients_turn(void)
{
    bool done = false;
    if (clients.next == NULL)
        return false;
    list_each_safe (it, &clients) {
        graft_test_req *r = list_entry(it, graft_test_req, node);
        if (r->conn == NULL)
            continue;
        struct played was = play(ON_WORKER_THREAD, r->worker->loop.number);
        loop_enter(&r->worker->loop);
        done = client_turn(r) || done;
        loop_leave(&r->worker->loop);
        play_again(was);
    }
    return done;
}
