/*
 * A plugin with events of its own on the workers' loops. In them it calls graft_done, graft_flush
 * and graft_continue: only marks, so that none of its callbacks may run before the event's returns;
 * one that does is logged as "loop_user NESTED". Each worker also has a persistent timer.
 *
 *     GET /loop/done?ms=10           answered from an event
 *     GET /loop/stream?ms=10&n=3     a line and a flush from each event
 *     GET /loop/ticks                how often this worker's persistent timer ran
 *     ?loop-mw=1                     (as middleware) continued from an event
 */
#include "contract.h"

#include <event2/event.h>
#include <stdlib.h>

struct user {
    struct event **ticker; /* by worker number */
    unsigned *ticks;
};

struct wait {
    graft_req *req;
    struct event_base *loop;
    unsigned ms, left;
    bool middleware;
};

static _Thread_local unsigned depth; /* how many of our callbacks stand on this stack */

static void enter(graft_self *self)
{
    if (depth++ > 0)
        graft_log(self, GRAFT_ERR, "loop_user NESTED");
}

static void ticked(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    ++*(unsigned *)arg;
}

static int init(graft_self *self, void **state)
{
    struct user *u = calloc(1, sizeof *u);
    unsigned n = graft_workers(self);
    if (u && (!(u->ticker = calloc(n, sizeof *u->ticker)) ||
              !(u->ticks = calloc(n, sizeof *u->ticks)))) {
        free(u->ticker);
        free(u);
        u = NULL;
    }
    *state = u;
    return u ? 0 : graft_fail(self, "no memory");
}

static int worker_init(graft_self *self, void *state)
{
    struct user *u = state;
    unsigned me = graft_worker(self);
    struct timeval tv = { 0, 10000 };
    u->ticker[me] = event_new(graft_loop(self), -1, EV_PERSIST, ticked, &u->ticks[me]);
    if (u->ticker[me] && event_add(u->ticker[me], &tv) == 0)
        return 0;
    if (u->ticker[me])
        event_free(u->ticker[me]);
    return graft_fail(self, "no event");
}

static void worker_fini(graft_self *self, void *state)
{
    struct user *u = state;
    event_free(u->ticker[graft_worker(self)]);
}

static void fini(graft_self *self, void *state)
{
    struct user *u = state;
    (void)self;
    free(u->ticker);
    free(u->ticks);
    free(u);
}

static void fired(evutil_socket_t fd, short what, void *arg);

static int arm(struct wait *w)
{
    struct timeval tv = { w->ms / 1000, (long)(w->ms % 1000) * 1000 };
    return event_base_once(w->loop, -1, EV_TIMEOUT, fired, w, &tv);
}

static void fired(evutil_socket_t fd, short what, void *arg)
{
    struct wait *w = arg;
    (void)fd;
    (void)what;
    enter(graft_self_of(w->req));
    if (w->middleware) {
        graft_continue(w->req, GRAFT_NEXT);
    } else {
        graft_printf(w->req, "loop %u\n", w->left);
        if (w->left > 1)
            graft_flush(w->req);
        w->left--;
        if (w->left == 0)
            graft_done(w->req);
        else if (arm(w) != 0)
            graft_abort(w->req);
    }
    depth--;
}

static graft_next begin(graft_req *req, unsigned n, bool middleware)
{
    struct wait *w = graft_alloc(req, sizeof *w);
    if (!w)
        return GRAFT_ERROR;
    *w = (struct wait){ req, graft_loop(graft_self_of(req)), query_number(req, "ms", 10), n,
                        middleware };
    return arm(w) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static graft_next done(graft_req *req, void *state)
{
    (void)state;
    enter(graft_self_of(req));
    graft_next next = begin(req, 1, false);
    depth--;
    return next;
}

static graft_next stream(graft_req *req, void *state)
{
    (void)state;
    enter(graft_self_of(req));
    graft_next next = begin(req, query_number(req, "n", 3), false);
    depth--;
    return next;
}

static graft_next ticks(graft_req *req, void *state)
{
    struct user *u = state;
    graft_printf(req, "%u\n", u->ticks[graft_worker(graft_self_of(req))]);
    return GRAFT_DONE;
}

static graft_next on_request(graft_req *req, void *state)
{
    (void)state;
    if (!query_number(req, "loop-mw", 0))
        return GRAFT_NEXT;
    enter(graft_self_of(req));
    graft_next next = begin(req, 1, true);
    depth--;
    return next;
}

/* Runs as a consequence of graft_done or graft_flush: never inside the event that called it. */
static graft_next on_response(graft_req *req, void *state)
{
    (void)state;
    enter(graft_self_of(req));
    graft_set_header(req, "X-Loop", "1");
    depth--;
    return GRAFT_NEXT;
}

static void on_finish(graft_req *req, void *state)
{
    (void)state;
    enter(graft_self_of(req));
    depth--;
}

GRAFT_PLUGIN(
    .name        = "loop-user",
    .version     = "1.0.0",
    .init        = init,
    .worker_init = worker_init,
    .worker_fini = worker_fini,
    .fini        = fini,
    .routes      = (const graft_route[]){ { "GET", "/loop/done", done, 0 },
                                          { "GET", "/loop/stream", stream, 0 },
                                          { "GET", "/loop/ticks", ticks, 0 },
                                          { 0 } },
    .on_request  = on_request,
    .on_response = on_response,
    .on_finish   = on_finish,
)
