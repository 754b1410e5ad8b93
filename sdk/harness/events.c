/*
 * libevent's loop as far as the server's code uses it (timers, events that are made active, and
 * descriptors that are readable), and its clock, which stands still unless the test moves it.
 * Events of one time run in the order in which they were added.
 */
#include "bottle.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define EPOCH_S 1767225600 /* 2026-01-01T00:00:00Z */
#define BEGIN_S 1000       /* of the monotonic clock: nothing is due at 0 */

struct pending {
    struct event *ev;
    uint64_t due_us; /* 0: not a timer */
    bool active, readable;
};

static struct pending *all;
static size_t n, cap;
static _Atomic uint64_t now_us; /* any thread of a plugin's may read the clock */
/* A timer's first look at the clock is one microsecond ahead: plugin/work.c waits that long beyond
   its time, for libevent's clock is coarse, and chains of graft_after would drift by it here. */
static bool ahead;

/* ---- The clock ------------------------------------------------------------------------------- */

int bottle_clock_gettime(clockid_t id, struct timespec *out)
{
    uint64_t us = now_us;
    if (thread_kind != THREAD_OTHER && ahead) {
        ahead = false;
        us++;
    }
    int64_t base = id == CLOCK_REALTIME ? EPOCH_S : BEGIN_S;
    out->tv_sec = (time_t)(base + (int64_t)(us / 1000000u));
    out->tv_nsec = (long)(us % 1000000u) * 1000;
    return 0;
}

uint64_t bottle_now_us(void)
{
    return now_us;
}

void bottle_clock_set(uint64_t at_us)
{
    now_us = at_us;
}

/* ---- Events ---------------------------------------------------------------------------------- */

struct event_base *control_base(void)
{
    static char name[1];
    return (struct event_base *)(void *)name;
}

static struct pending *find(const struct event *ev)
{
    for (size_t i = 0; i < n; i++)
        if (all[i].ev == ev)
            return &all[i];
    return NULL;
}

static struct pending *find_or_add(struct event *ev)
{
    struct pending *p = find(ev);
    if (p != NULL)
        return p;
    if (n == cap) {
        cap = cap ? cap * 2 : 64;
        all = realloc(all, cap * sizeof *all);
        if (all == NULL)
            give_up("no memory");
    }
    all[n] = (struct pending){ .ev = ev };
    return &all[n++];
}

static void forget(const struct event *ev)
{
    for (size_t i = 0; i < n; i++)
        if (all[i].ev == ev) {
            memmove(&all[i], &all[i + 1], (n - i - 1) * sizeof *all);
            n--;
            return;
        }
}

int event_assign(struct event *ev, struct event_base *base, evutil_socket_t fd, short what,
                 event_callback_fn fn, void *arg)
{
    memset(ev, 0, sizeof *ev);
    ev->ev_base = base;
    ev->ev_fd = fd;
    ev->ev_events = what;
    ev->ev_evcallback.evcb_cb_union.evcb_callback = fn;
    ev->ev_evcallback.evcb_arg = arg;
    return 0;
}

/* Behind those that are there: to be added again is to be moved. */
int event_add(struct event *ev, const struct timeval *after)
{
    bool active = false;
    struct pending *was = find(ev);
    if (was != NULL)
        active = was->active;
    forget(ev);
    struct pending *p = find_or_add(ev);
    p->active = active;
    p->readable = ev->ev_fd >= 0;
    if (after != NULL)
        p->due_us = now_us + (uint64_t)after->tv_sec * 1000000u + (uint64_t)after->tv_usec + 1;
    return 0;
}

int event_del(struct event *ev)
{
    forget(ev);
    return 0;
}

void event_active(struct event *ev, int what, short calls)
{
    (void)what, (void)calls;
    find_or_add(ev)->active = true;
}

struct event *event_new(struct event_base *base, evutil_socket_t fd, short what,
                        event_callback_fn fn, void *arg)
{
    struct event *ev = malloc(sizeof *ev);
    if (ev != NULL)
        event_assign(ev, base, fd, what, fn, arg);
    return ev;
}

void event_free(struct event *ev)
{
    forget(ev);
    free(ev);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* On the thread whose loop it is of. */
static void run(struct event *ev, short what)
{
    struct played was;
    unsigned i = 0;
    while (i < bottle.nworkers && bottle.loops[i]->base != ev->ev_base)
        i++;
    was = i < bottle.nworkers ? play(ON_WORKER_THREAD, i) : play(ON_CONTROL_THREAD, 0);
    ahead = what == EV_TIMEOUT;
    ev->ev_evcallback.evcb_cb_union.evcb_callback(ev->ev_fd, what, ev->ev_evcallback.evcb_arg);
    ahead = false;
    play_again(was);
}

static bool is_readable(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    return poll(&p, 1, 0) == 1;
}

static bool is_due(const struct pending *p, short *what)
{
    *what = p->active                                   ? 0
            : p->due_us != 0 && p->due_us <= now_us + 1 ? EV_TIMEOUT
            : p->readable && is_readable(p->ev->ev_fd)  ? EV_READ
                                                        : -1;
    return *what >= 0;
}

bool events_turn(void)
{
    bool done = false;
    for (size_t i = 0; i < n;) {
        short what;
        struct event *ev = all[i].ev;
        if (!is_due(&all[i], &what)) {
            i++;
            continue;
        }
        if (all[i].readable)
            all[i].active = false;
        else
            forget(ev);
        run(ev, what);
        i = 0; /* what ran may have changed all */
        done = true;
    }
    return done;
}

bool events_next(uint64_t *at_us)
{
    bool found = false;
    for (size_t i = 0; i < n; i++)
        if (all[i].due_us != 0 && (!found || all[i].due_us - 1 < *at_us)) {
            *at_us = all[i].due_us - 1;
            found = true;
        }
    return found;
}

/* ---- Chance: request ids are the same in each run ----------------------------------------------
 */

ssize_t getrandom(void *to, size_t len, unsigned flags)
{
    (void)flags;
    memset(to, 0x5a, len);
    return (ssize_t)len;
}
