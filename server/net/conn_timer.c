/*
 * The time a connection has: its two deadlines on one timer of the worker's wheel, what happens
 * when they pass, and the bounded wait for a client's last bytes. Of the socket it knows nothing.
 */
#include "net/conn.h"

/* The earlier of the two deadlines; postponing it costs one store (wheel.h). */
static HOT void arm(struct conn *c)
{
    uint64_t r = c->read_deadline_ms, w = c->write_deadline_ms;
    uint64_t first = !r ? w : !w ? r : r < w ? r : w;
    if (first)
        loop_timer(c->all->loop, &c->timer, first);
    else
        wheel_clear(&c->all->loop->wheel, &c->timer);
}

HOT void conn_deadline(struct conn *c, enum conn_timeout which, uint64_t deadline_ms)
{
    if (c->state == CONN_CLOSED)
        return;
    uint64_t *d = which == CONN_READ_TIMEOUT ? &c->read_deadline_ms : &c->write_deadline_ms;
    if (*d == deadline_ms)
        return;
    *d = deadline_ms;
    arm(c);
}

void conn_expired(struct wheel_timer *t, uint64_t now_ms)
{
    struct conn *c = container_of(t, struct conn, timer);
    CHECK(c, CONN_MAGIC);
    if (c->state == CONN_LINGERING) {
        conn_close(c, false, true);
        return;
    }
    if (c->write_deadline_ms && c->write_deadline_ms <= now_ms) {
        c->write_deadline_ms = 0;
        c->all->ops->timeout(c, CONN_WRITE_TIMEOUT);
    }
    if (c->state == CONN_OPEN && c->read_deadline_ms && c->read_deadline_ms <= now_ms) {
        c->read_deadline_ms = 0;
        c->all->ops->timeout(c, CONN_READ_TIMEOUT);
    }
    if (c->state == CONN_OPEN && !t->deadline_ms)
        arm(c);
}

NOINLINE void conn_linger(struct conn *c, unsigned ms)
{
    if (c->state != CONN_OPEN)
        return;
    c->state = CONN_LINGERING;
    c->linger_left = LINGER_BYTES;
    c->read_deadline_ms = c->write_deadline_ms = clock_ms() + ms;
    arm(c);
    conn_flush(c);
}
