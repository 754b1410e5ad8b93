/* graftload's connections: each has at most one request out, and sends the next one when the answer
 * to it is whole and correct. Closed loop: a slow server gets fewer requests, never a queue of
 * them.
 *
 *     DOWN -> CONNECTING -> READY -> WAITING -> READY ...
 *       ^---------'-----------'--------'   a connection that ended is opened again
 *
 * Invariant: load.sent == load.answered + load.failed + load.waiting. */
#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define BUF_BYTES   16384u
#define TICK_MS     20
#define REPORTED    10u
#define TICKS_CHECK 10u /* ticks between two looks for requests that wait too long */

enum conn_state { DOWN, CONNECTING, READY, WAITING };

struct conn {
    enum conn_state state;
    int fd;
    bool wants_out;
    bool interrupted; /* the end came while the request was still being written */
    struct kind *kind;
    size_t written;
    uint64_t sent_us, phase, required;
    struct answer answer;
    size_t have;
    char buf[BUF_BYTES];
};

struct run {
    struct load *load;
    struct conn *conns;
    int epoll;
    uint64_t random, begin_us, stop_us;
    bool stopping;
    unsigned reported;
};

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint64_t board_read(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void board_write(struct load *load)
{
    struct board *b = load->board;

    __atomic_store_n(&b->sent, load->sent, __ATOMIC_RELEASE);
    __atomic_store_n(&b->answered, load->answered, __ATOMIC_RELEASE);
    __atomic_store_n(&b->failed, load->failed, __ATOMIC_RELEASE);
    __atomic_store_n(&b->opened, load->opened, __ATOMIC_RELEASE);
    __atomic_store_n(&b->stale, load->stale, __ATOMIC_RELEASE);
    __atomic_store_n(&b->waiting, load->waiting, __ATOMIC_RELEASE);
}

static void watch(struct run *run, struct conn *c, bool out, int op)
{
    struct epoll_event event = { .events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = c };

    c->wants_out = out;
    if (epoll_ctl(run->epoll, op, c->fd, &event) != 0) {
        perror("graftload: epoll_ctl");
        exit(2);
    }
}

static void conn_close(struct conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = DOWN;
    c->have = 0;
}

/* Says of the first few failures exactly what was wrong: a count alone helps nobody. */
static void tell(struct run *run, const struct conn *c, const char *what, const char *detail)
{
    if (run->reported++ >= REPORTED)
        return;
    fprintf(stderr,
            "graftload: %s: %s (%s) after %.3f ms, at %.3f s; status %d, %llu bytes of answer, "
            "version %llu, required %llu\n",
            c->kind->name, what, detail, (double)(now_us() - c->sent_us) / 1e3,
            (double)(now_us() - run->begin_us) / 1e6, c->answer.status,
            (unsigned long long)c->answer.bytes + c->have, (unsigned long long)c->answer.version,
            (unsigned long long)c->required);
}

static void request_fail(struct run *run, struct conn *c, enum failure why, const char *detail)
{
    struct load *load = run->load;

    tell(run, c, failure_names[why], detail);
    load->failed++;
    load->failures[why]++;
    load->waiting--;
    c->kind->failed++;
    conn_close(c);
}

static void versions_check(struct run *run, struct conn *c)
{
    struct load *load = run->load;
    uint64_t version = c->answer.version;

    if (c->answer.mixed) {
        load->mixed++;
        tell(run, c, "mixed", "two versions in one answer");
    }
    if (version < c->required) {
        load->stale++;
        tell(run, c, "stale", "older than the last swap completed before it was sent");
    }
    if (version > board_read(&load->board->newest)) {
        load->future++;
        tell(run, c, "future", "newer than what was deployed");
    }
    if (version < board_read(&load->board->completed))
        c->kind->spanned++;
}

/* A request belongs to the swaps when a swap may have been in progress at either end of it, and to
 * the quiet only when nothing changed in between. */
static enum phase_class phase_of(const struct run *run, const struct conn *c)
{
    uint64_t now = board_read(&run->load->board->phase);

    if (now % 4 == PHASE_SWAPS || c->phase % 4 == PHASE_SWAPS)
        return PHASE_SWAPS;
    return now == c->phase && now % 4 == PHASE_QUIET ? PHASE_QUIET : PHASE_OTHER;
}

/* NULL when the whole answer is what this kind expects, else what is wrong with it. */
static const char *answer_fault(const struct load *load, const struct conn *c)
{
    const struct kind *kind = c->kind;
    const struct answer *a = &c->answer;

    if (kind->head)
        return NULL;
    if (kind->want_len > 0 && a->body_len != kind->want_len)
        return "another length of the body";
    if (!answer_ends_in(a, kind->want_tail, kind->want_tail_len))
        return "another end of the body";
    if (load->versioned && a->version == 0)
        return "no version in the body";
    return NULL;
}

static void answer_done(struct run *run, struct conn *c)
{
    struct load *load = run->load;
    const char *fault = answer_fault(load, c);

    if (c->answer.status != c->kind->status) {
        request_fail(run, c, FAILED_STATUS, "another status");
        return;
    }
    if (fault != NULL) {
        request_fail(run, c, FAILED_BODY, fault);
        return;
    }
    if (c->have > 0) {
        request_fail(run, c, FAILED_FRAMING, "bytes behind the answer");
        return;
    }
    if (load->versioned && !c->kind->head)
        versions_check(run, c);
    histogram_add(&c->kind->latency[phase_of(run, c)], now_us() - c->sent_us);
    c->kind->answered++;
    c->kind->body_bytes += c->answer.body_len;
    load->answered++;
    load->waiting--;
    c->state = READY;
    if (c->answer.close || c->kind->close || c->written < c->kind->request_len) {
        load->closed_said++;
        conn_close(c);
    }
}

static void conn_ended(struct run *run, struct conn *c, int error)
{
    const char *detail = error ? strerror(error) : "end of the connection";

    if (c->state == WAITING && error)
        request_fail(run, c, FAILED_RESET, detail);
    else if (c->state == WAITING)
        request_fail(run, c, c->answer.bytes + c->have > 0 ? FAILED_TRUNCATED : FAILED_CLOSED,
                     detail);
    else
        run->load->closed_idle++;
    conn_close(c);
}

static void conn_readable(struct run *run, struct conn *c)
{
    ssize_t n = read(c->fd, c->buf + c->have, sizeof c->buf - c->have);
    enum answer_result result;
    size_t used;

    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            conn_ended(run, c, n == 0 ? 0 : errno);
        return;
    }
    if (c->state != WAITING) {
        if (run->reported++ < REPORTED)
            fprintf(stderr, "graftload: %zd bytes on a connection that waits for nothing\n", n);
        run->load->failures[FAILED_FRAMING]++;
        conn_close(c);
        return;
    }
    c->have += (size_t)n;
    result = answer_feed(&c->answer, c->buf, c->have, &used);
    c->have -= used;
    memmove(c->buf, c->buf + used, c->have);
    if (result == ANSWER_BAD)
        request_fail(run, c, FAILED_FRAMING, c->answer.why);
    else if (result == ANSWER_DONE)
        answer_done(run, c);
    else if (c->have == sizeof c->buf)
        request_fail(run, c, FAILED_FRAMING, "a line longer than the buffer");
}

static void request_write(struct run *run, struct conn *c)
{
    struct kind *kind = c->kind;
    ssize_t n =
        send(c->fd, kind->request + c->written, kind->request_len - c->written, MSG_NOSIGNAL);

    if (n > 0)
        c->written += (size_t)n;
    else if (errno != EAGAIN && errno != EINTR) {
        /* An early answer may wait to be read; whether one does, the next read tells. */
        if (errno == EPIPE && !c->interrupted) {
            c->interrupted = true;
            c->written = kind->request_len;
        } else {
            conn_ended(run, c, errno);
            return;
        }
    }
    if ((c->written < kind->request_len) != c->wants_out)
        watch(run, c, c->written < kind->request_len, EPOLL_CTL_MOD);
}

static struct kind *kind_choose(struct run *run)
{
    struct load *load = run->load;
    unsigned at, i = 0;

    run->random ^= run->random << 13;
    run->random ^= run->random >> 7;
    run->random ^= run->random << 17;
    at = (unsigned)(run->random % load->weights);
    while (at >= load->kinds[i].weight)
        at -= load->kinds[i++].weight;
    return &load->kinds[i];
}

static bool may_send(struct run *run)
{
    struct load *load = run->load;

    if (load->requests > 0 && load->sent >= load->requests)
        run->stopping = true;
    if (board_read(&load->board->stop) != 0)
        run->stopping = true;
    return !run->stopping && board_read(&load->board->pause) == 0;
}

static void request_send(struct run *run, struct conn *c)
{
    struct load *load = run->load;

    c->kind = kind_choose(run);
    c->written = 0;
    c->interrupted = false;
    answer_init(&c->answer, c->kind->head);
    c->state = WAITING;
    c->kind->sent++;
    load->sent++;
    load->waiting++;
    c->phase = board_read(&load->board->phase);
    c->required = board_read(&load->board->completed);
    c->sent_us = now_us();
    request_write(run, c);
}

static void conn_open(struct run *run, struct conn *c)
{
    int family = run->load->addr.sa.sa_family, on = 1;

    c->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        perror("graftload: socket");
        exit(2);
    }
    if (family != AF_UNIX)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, &run->load->addr.sa, run->load->addr_len) != 0 && errno != EINPROGRESS) {
        if (errno != EAGAIN) /* a unix socket whose queue is full: the next tick tries again */
            run->load->refused++;
        conn_close(c);
        return;
    }
    c->state = CONNECTING;
    watch(run, c, true, EPOLL_CTL_ADD);
}

static void conn_connected(struct run *run, struct conn *c)
{
    int error = 0;
    socklen_t len = sizeof error;

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        run->load->refused++;
        conn_close(c);
        return;
    }
    run->load->opened++;
    c->state = READY;
    watch(run, c, false, EPOLL_CTL_MOD);
}

/* One event of one connection, and the request that follows from it. */
static void conn_event(struct run *run, struct conn *c, uint32_t events)
{
    if (c->state == CONNECTING)
        conn_connected(run, c);
    else if (c->state == WAITING && c->wants_out && (events & EPOLLOUT))
        request_write(run, c);
    if (c->state > CONNECTING && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        conn_readable(run, c);
    if (c->state == DOWN && may_send(run))
        conn_open(run, c);
    else if (c->state == READY && may_send(run))
        request_send(run, c);
}

static void timeouts_check(struct run *run)
{
    uint64_t now = now_us(), limit = (uint64_t)run->load->timeout_ms * 1000u;

    for (unsigned i = 0; i < run->load->connections; i++) {
        struct conn *c = &run->conns[i];

        if (c->state == WAITING && now - c->sent_us > limit)
            request_fail(run, c, FAILED_TIMEOUT, "no whole answer");
    }
}

/* Opens what is down and sends on what stood still during a pause. */
static void tick(struct run *run)
{
    if (now_us() >= run->stop_us)
        run->stopping = true;
    board_write(run->load);
    for (unsigned i = 0; i < run->load->connections && may_send(run); i++) {
        struct conn *c = &run->conns[i];

        if (c->state == DOWN)
            conn_open(run, c);
        else if (c->state == READY)
            request_send(run, c);
    }
}

static void loop(struct run *run)
{
    uint64_t next_us = 0;
    unsigned ticks = 0;

    while (!run->stopping || run->load->waiting > 0) {
        struct epoll_event events[256];
        int n = epoll_wait(run->epoll, events, 256, TICK_MS);

        for (int i = 0; i < n; i++)
            conn_event(run, events[i].data.ptr, events[i].events);
        if (now_us() < next_us)
            continue;
        next_us = now_us() + TICK_MS * 1000u;
        tick(run);
        if (++ticks % TICKS_CHECK == 0)
            timeouts_check(run);
    }
}

int load_run(struct load *load)
{
    struct run run = { .load = load, .random = load->seed * 2654435769u + 88172645463325252u };

    run.conns = calloc(load->connections, sizeof *run.conns);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (run.conns == NULL || run.epoll < 0) {
        perror("graftload");
        free(run.conns);
        return -1;
    }
    for (unsigned i = 0; i < load->connections; i++)
        run.conns[i].fd = -1;
    run.begin_us = now_us();
    run.stop_us = run.begin_us + (uint64_t)(load->seconds * 1e6);
    loop(&run);
    load->elapsed = (double)(now_us() - run.begin_us) / 1e6;
    for (unsigned i = 0; i < load->connections; i++)
        conn_close(&run.conns[i]);
    board_write(load);
    close(run.epoll);
    free(run.conns);
    return 0;
}
