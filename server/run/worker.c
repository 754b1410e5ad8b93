/* See worker.h. */
#include "run/worker.h"

#include "base/altstack.h"
#include "base/log.h"
#include "ops/process.h"
#include "run/turn.h"
#include "run/watchdog.h"

#include <errno.h>
#include <evhtp/thread.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ACCEPT_BURST    64  /* connections taken from one listener in one turn */
#define ACCEPT_RETRY_MS 100 /* after a pause for want of descriptors or by limits.connections */
#define RESERVE_MAX     128 /* descriptors that are not for connections */
#define ACCEPT_LAST_MS  250 /* how long a closing listener is still accepted from */
#define QUIET_MS        10  /* how often the end of half-sent requests is looked for */

struct worker;

/* One listener as one worker polls it. */
struct acceptor {
    struct event event;
    struct worker *worker;
    const struct listener *listener;
    bool on;
};

#define WORKER_MAGIC 0x776f726bu

struct worker {
    struct loop loop; /* first */
    unsigned magic;
    struct workers *all;
    evthr_t *thr;
    struct http http;
    struct chain chain;
    struct acceptor *acceptors;
    unsigned nacceptors;
    struct event retry; /* after a pause, or the last look at closing listeners */
    bool retry_due;     /* else it only keeps its place among libevent's timers */
    bool accepting, closing, ending;
    bool starved;       /* atomic: no descriptors */
    struct msg command; /* from the control thread; its fn says what */
    struct msg cut;     /* the same, whatever runs: the deadline does not wait */
    struct msg room;    /* the same */
    bool room_asked;    /* atomic: that message is on its way */
    struct msg answer;  /* back to it */
    struct err failed;
};

struct workers {
    unsigned n;
    struct worker **all;
    struct loop **loops;
    const struct config *config; /* at the start */
    struct pool *pool;
    struct inbox *control;
    sem_t up;
    uint64_t room;          /* connections; set before the first is accepted */
    uint64_t paused_second; /* atomic: when the last pause was logged */
    /* The command that runs on all of them. Control. */
    unsigned waiting;
    void (*done)(void *arg);
    void *arg;
};

/* ---- Accepting ------------------------------------------------------------------------------- */

static void accept_on(struct worker *w)
{
    for (unsigned i = 0; i < w->nacceptors; i++) {
        struct acceptor *a = &w->acceptors[i];
        if (!a->on && event_add(&a->event, NULL) == 0)
            a->on = true;
    }
}

static void acceptor_off(struct acceptor *a)
{
    if (a->on)
        event_del(&a->event);
    a->on = false;
}

static void accept_off(struct worker *w)
{
    for (unsigned i = 0; i < w->nacceptors; i++)
        acceptor_off(&w->acceptors[i]);
}

/* It is always pending, so that to move it needs no memory and cannot fail. */
static int retry_keep(struct worker *w)
{
    static const struct timeval far = { 3600, 0 };
    w->retry_due = false;
    return event_add(&w->retry, &far);
}

static void retry_in(struct worker *w, unsigned ms)
{
    struct timeval tv = { ms / 1000, (ms % 1000) * 1000 };
    w->retry_due = true;
    event_add(&w->retry, &tv);
}

static void log_pause(struct worker *w, const char *why)
{
    uint64_t now = clock_us() / 1000000u;
    uint64_t last = __atomic_exchange_n(&w->all->paused_second, now, __ATOMIC_RELAXED);
    if (last != now)
        log_msg(LOG_WARN, "accept_paused",
                "accepting pauses: %s; connections wait in the kernel's queue meanwhile", why);
}

/* Connections stay in the kernel's queue; we look again soon. */
static void pause_accepting(struct worker *w, const char *why)
{
    __atomic_store_n(&w->starved, true, __ATOMIC_RELAXED);
    accept_off(w);
    retry_in(w, ACCEPT_RETRY_MS);
    COUNTER_ADD(w->loop.stats.accept_paused, 1);
    log_pause(w, why);
}

/* Why no more connections may be open than there are; NULL: they may. */
static const char *at_limit(struct worker *w)
{
    const struct config *c = chain_app.config(&w->chain);
    uint64_t open = workers_connections(w->all);
    if (open >= c->limits.connections)
        return "limits.connections are open";
    return open >= w->all->room ? "only the descriptors kept for swaps, health and control are left"
                                : NULL;
}

/* False: no more for now. */
static bool accept_one(struct acceptor *a)
{
    struct worker *w = a->worker;
    struct sockaddr_storage peer = { .ss_family = AF_UNSPEC };
    socklen_t len = sizeof peer;
    /* closing: those who idle would keep the queue waiting */
    const char *full = w->closing ? NULL : at_limit(w);
    if (full != NULL) {
        pause_accepting(w, full);
        return false;
    }
    if (session_prepare(&w->http) != 0) {
        pause_accepting(w, "no memory for a connection");
        return false;
    }
    int fd = accept4(a->listener->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        if (a->listener->kind == LISTENER_UNIX)
            peer.ss_family = AF_UNIX;
        else if (w->closing)
            listener_admit(fd);
        if (session_open(&w->http, fd, (struct sockaddr *)&peer) == 0)
            return true;
        pause_accepting(
            w, "a connection had to be closed: the kernel or libevent has no room to watch it "
               "(memory, fs.epoll.max_user_watches)");
        return false;
    }
    switch (errno) {
    case EAGAIN:
    case EINVAL: /* a unix listener that was shut down and is empty */
        return false;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        pause_accepting(w, strerror(errno));
        return false;
    default: /* EINTR, ECONNABORTED and the network errors of that one connection */
        return true;
    }
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct acceptor *a = arg;
    unsigned burst = a->listener->worker < 0 ? 1 : ACCEPT_BURST;
    loop_enter(&a->worker->loop);
    for (unsigned i = 0; i < burst && accept_one(a); i++)
        ;
    loop_leave(&a->worker->loop);
}

static void answer(struct worker *w)
{
    inbox_send(w->all->control, &w->answer);
}

static void accept_all(struct worker *w)
{
    __atomic_store_n(&w->starved, false, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < w->nacceptors; i++)
        while (!w->acceptors[i].listener->handed_over && accept_one(&w->acceptors[i]))
            ;
}

/* Idle connections are closed; who has sent a part of a request may send the rest. */
static void look_quiet(struct worker *w)
{
    if (http_is_quiet(&w->http))
        answer(w);
    else
        retry_in(w, QUIET_MS);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct worker *w = arg;
    bool due = w->retry_due;
    retry_keep(w);
    if (!due)
        return;
    loop_enter(&w->loop);
    __atomic_store_n(&w->starved, false, __ATOMIC_RELAXED);
    if (w->ending) {
        look_quiet(w);
    } else if (!w->closing) {
        if (w->accepting)
            accept_on(w);
    } else {
        accept_all(w);
        if (!w->starved) { /* else pause_accepting has set the timer again */
            accept_off(w);
            answer(w);
        }
    }
    loop_leave(&w->loop);
}

/* ---- Commands: on the worker ----------------------------------------------------------------- */

static struct worker *worker_of(struct msg *m)
{
    struct worker *w = container_of(m, struct worker, command);
    CHECK(w, WORKER_MAGIC);
    return w;
}

static void do_accept(struct msg *m)
{
    struct worker *w = worker_of(m);
    w->accepting = true;
    accept_on(w);
    answer(w);
}

/* Sockets that only we hold refuse new clients and are emptied; others are left to their owner. A
   unix socket that was shut down would be readable for ever. */
static void do_stop(struct msg *m)
{
    struct worker *w = worker_of(m);
    w->closing = true;
    http_set_closing(&w->http);
    shadows_stop(&w->chain.shadows);
    for (unsigned i = 0; i < w->nacceptors; i++) {
        const struct listener *l = w->acceptors[i].listener;
        if (l->handed_over) {
            acceptor_off(&w->acceptors[i]);
        } else if (l->kind == LISTENER_UNIX) {
            shutdown(l->fd, SHUT_RD);
            acceptor_off(&w->acceptors[i]);
        } else if (listener_refuse_new(l) != 0) {
            log_msg(LOG_WARN, "drain", "%s: no filter against new connections: %s", l->name,
                    strerror(errno));
        }
    }
    accept_all(w);
    if (!w->starved)
        retry_in(w, ACCEPT_LAST_MS);
}

static void do_close_idle(struct msg *m)
{
    struct worker *w = worker_of(m);
    w->ending = true;
    http_close_idle(&w->http);
    look_quiet(w);
}

static void do_cut(struct msg *m)
{
    struct worker *w = container_of(m, struct worker, cut);
    CHECK(w, WORKER_MAGIC);
    http_close_all(&w->http);
}

static void do_make_room(struct msg *m)
{
    struct worker *w = container_of(m, struct worker, room);
    CHECK(w, WORKER_MAGIC);
    __atomic_store_n(&w->room_asked, false, __ATOMIC_RELEASE);
    if (!w->ending)
        http_make_room(&w->http);
}

/* ---- Commands: on the control thread --------------------------------------------------------- */

static void on_answer(struct msg *m)
{
    struct worker *w = container_of(m, struct worker, answer);
    struct workers *ws = w->all;
    ON_CONTROL();
    if (--ws->waiting > 0 || !ws->done)
        return;
    void (*done)(void *) = ws->done;
    ws->done = NULL;
    done(ws->arg);
}

static void command(struct workers *ws, void (*fn)(struct msg *), void (*done)(void *), void *arg)
{
    ON_CONTROL();
    REQUIRE(ws->waiting == 0);
    ws->waiting = ws->n;
    ws->done = done;
    ws->arg = arg;
    for (unsigned i = 0; i < ws->n; i++) {
        ws->all[i]->command.fn = fn;
        ws->all[i]->answer.fn = on_answer;
        loop_post(&ws->all[i]->loop, &ws->all[i]->command);
    }
}

/*
 * How many connections there are descriptors for, when some are left over: a server whose clients
 * hold all of them could neither swap nor be asked how it is.
 */
static uint64_t room_for_connections(void)
{
    struct process now;
    process_read(&now);
    uint64_t kept = now.max_fds / 8 < RESERVE_MAX ? now.max_fds / 8 : RESERVE_MAX;
    return now.max_fds > now.open_fds + kept ? now.max_fds - now.open_fds - kept : 1;
}

void workers_accept(struct workers *ws)
{
    ws->room = room_for_connections();
    command(ws, do_accept, NULL, NULL);
}

void workers_stop_accepting(struct workers *ws, void (*done)(void *arg), void *arg)
{
    command(ws, do_stop, done, arg);
}

void workers_close_idle(struct workers *ws, void (*done)(void *arg), void *arg)
{
    command(ws, do_close_idle, done, arg);
}

void workers_cut_all(struct workers *ws)
{
    ON_CONTROL();
    for (unsigned i = 0; i < ws->n; i++) {
        ws->all[i]->cut.fn = do_cut;
        loop_post(&ws->all[i]->loop, &ws->all[i]->cut);
    }
}

void workers_make_room(struct workers *ws)
{
    bool starved = false;
    ON_CONTROL();
    for (unsigned i = 0; i < ws->n; i++)
        starved |= __atomic_load_n(&ws->all[i]->starved, __ATOMIC_RELAXED);
    for (unsigned i = 0; starved && i < ws->n; i++) {
        struct worker *w = ws->all[i];
        if (__atomic_exchange_n(&w->room_asked, true, __ATOMIC_ACQUIRE))
            continue;
        w->room.fn = do_make_room;
        loop_post(&w->loop, &w->room);
    }
}

bool workers_busy(const struct workers *ws)
{
    return ws->waiting > 0;
}

/* ---- Start ----------------------------------------------------------------------------------- */

static void step(void *arg)
{
    struct worker *w = arg;
    turn_step(&w->chain, &w->http);
}

static void expired(struct wheel_timer *t, void *arg)
{
    struct worker *w = arg;
    turn_expired(t, w->loop.wheel.now_ms);
}

static int open_acceptors(struct worker *w, const struct listeners *ls)
{
    w->acceptors = calloc(ls->n ? ls->n : 1, sizeof *w->acceptors);
    if (!w->acceptors)
        return -1;
    for (unsigned i = 0; i < ls->n; i++)
        if (ls->all[i].worker < 0 || ls->all[i].worker == (int)w->loop.number)
            w->acceptors[w->nacceptors++] =
                (struct acceptor){ .worker = w, .listener = &ls->all[i] };
    return 0;
}

static int set_up(struct worker *w, struct event_base *base)
{
    struct workers *ws = w->all;
    w->loop.step = step;
    w->loop.step_arg = w;
    w->loop.expired = expired;
    w->loop.expired_arg = w;
    if (loop_attach(&w->loop, base) != 0)
        return err_set(&w->failed, "a worker's event loop cannot be set up");
    for (unsigned i = 0; i < w->nacceptors; i++)
        event_assign(&w->acceptors[i].event, base, w->acceptors[i].listener->fd,
                     EV_READ | EV_PERSIST, on_accept, &w->acceptors[i]);
    event_assign(&w->retry, base, -1, 0, on_retry, w);
    if (retry_keep(w) != 0)
        return err_set(&w->failed, "a worker's event loop cannot be set up");
    if (!log_prepare())
        return err_set(&w->failed, "no memory for a worker's log");
    if (chain_init(&w->chain, &w->loop, &w->http, ws->pool, ws->n, ws->config, &w->failed) != 0)
        return -1;
    return http_init(&w->http, &w->loop, &chain_app, &w->chain, &w->failed);
}

/* evthr calls this on the new thread, before its loop runs. */
static void on_start(evthr_t *thr, void *arg)
{
    struct worker *w = arg;
    char name[16];
    snprintf(name, sizeof name, "worker-%u", w->loop.number);
    pthread_setname_np(pthread_self(), name);
    watchdog_worker();
    if (altstack_use(altstack_new()) != 0)
        err_set(&w->failed, "no memory for a worker's stack for signals: %s", strerror(errno));
    else
        set_up(w, evthr_get_base(thr));
    sem_post(&w->all->up);
}

static void on_exit_never(evthr_t *thr, void *arg)
{
    (void)thr, (void)arg; /* worker threads live until _exit */
}

static int worker_open(struct workers *ws, unsigned number, const struct listeners *ls,
                       struct err *err)
{
    struct worker *w = NULL;
    if (posix_memalign((void **)&w, CACHE_LINE, sizeof *w) != 0)
        return err_set(err, "no memory for worker %u", number);
    memset(w, 0, sizeof *w);
    ws->all[number] = w;
    w->magic = WORKER_MAGIC;
    w->all = ws;
    if (loop_init(&w->loop, number) != 0)
        return err_set(err, "worker %u: eventfd: %s", number, strerror(errno));
    ws->loops[number] = &w->loop;
    if (open_acceptors(w, ls) != 0)
        return err_set(err, "no memory for worker %u", number);
    w->thr = evthr_wexit_new(on_start, on_exit_never, w);
    if (!w->thr || evthr_start(w->thr) != 0)
        return err_set(err, "worker %u: its thread cannot be started: %s", number, strerror(errno));
    while (sem_wait(&ws->up) != 0)
        ;
    if (w->failed.text[0])
        return err_set(err, "worker %u: %s", number, w->failed.text);
    return 0;
}

int workers_open(struct workers **out, const struct config *cfg, struct listeners *listeners,
                 struct pool *pool, struct inbox *control, unsigned count, struct err *err)
{
    struct workers *ws = xcalloc(1, sizeof *ws);
    ws->config = cfg;
    ws->pool = pool;
    ws->control = control;
    ws->all = xcalloc(count, sizeof *ws->all);
    ws->loops = xcalloc(count, sizeof *ws->loops);
    ws->n = count;
    sem_init(&ws->up, 0, 0);
    for (unsigned i = 0; i < count; i++)
        if (worker_open(ws, i, listeners, err) != 0)
            return -1;
    *out = ws;
    return 0;
}

unsigned workers_count(const struct workers *ws)
{
    return ws->n;
}

struct loop **workers_loops(struct workers *ws)
{
    return ws->loops;
}

uint64_t workers_connections(const struct workers *ws)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < ws->n; i++) {
        const struct loop_stats *s = &ws->loops[i]->stats;
        n += COUNTER_READ(s->accepted) - COUNTER_READ(s->closed);
    }
    return n;
}

uint64_t workers_in_flight(const struct workers *ws)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < ws->n; i++)
        n += COUNTER_READ(ws->loops[i]->stats.in_flight);
    return n;
}

uint64_t workers_answered(const struct workers *ws)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < ws->n; i++)
        for (unsigned class = 1; class < 6; class ++)
            n += COUNTER_READ(ws->loops[i]->stats.responses[class]);
    return n;
}
