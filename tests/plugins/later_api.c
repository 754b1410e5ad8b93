/*
 * GET /later?which=…: one sentence of "What LATER owes" each; the table below names them. ?ms= is
 * the time that it takes (50). What happens after the answer is logged as "later WHICH …".
 */
#include "contract.h"
#include "foreign.h"

struct later {
    graft_req *req;
    const char *which;
    unsigned ms, steps;
    unsigned worked, thened; /* how often work and then ran */
    bool owes;               /* done has not been called */
    uint64_t began_us;       /* when graft_after was called */
};

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void say(struct later *l, const char *what)
{
    graft_log(graft_self_of(l->req), GRAFT_INFO, "later %s %s gone=%d work=%u then=%u", l->which,
              what, graft_gone(l->req), l->worked, l->thened);
}

static void finish(struct later *l)
{
    if (!l->owes)
        return;
    l->owes = false;
    graft_done(l->req);
}

static void answer_and_finish(graft_req *req, void *arg)
{
    struct later *l = arg;
    graft_printf(req, "%s\n", l->which);
    finish(l);
}

/* on_abort of all: says so, and tries a write, which must answer -1. */
static void aborted(graft_req *req, void *arg)
{
    struct later *l = arg;
    int rc = graft_write(req, "x", 1);
    graft_log(graft_self_of(req), GRAFT_INFO, "later %s on_abort gone=%d write=%d", l->which,
              graft_gone(req), rc);
}

static void aborted_finish(graft_req *req, void *arg)
{
    aborted(req, arg);
    finish(arg);
}

static void work(void *arg)
{
    struct later *l = arg;
    sleep_ms(l->ms);
    l->worked++;
}

static void then_finish(graft_req *req, void *arg)
{
    struct later *l = arg;
    l->thened++;
    say(l, "then");
    answer_and_finish(req, l);
}

static int timer(struct later *l)
{
    return graft_after(l->req, l->ms, answer_and_finish, l);
}

static int offload(struct later *l)
{
    return graft_offload(l->req, work, then_finish, l);
}

static int post(struct later *l)
{
    return graft_post(l->req, answer_and_finish, l);
}

static void thread_posts(void *arg)
{
    struct later *l = arg;
    sleep_ms(l->ms);
    graft_post(l->req, answer_and_finish, l);
}

static int post_thread(struct later *l)
{
    return foreign_start(thread_posts, l);
}

static void thread_done(void *arg)
{
    struct later *l = arg;
    sleep_ms(l->ms);
    finish(l);
}

/* The answer is written by the worker, the end is declared by another thread. */
static int done_thread(struct later *l)
{
    graft_printf(l->req, "%s\n", l->which);
    return foreign_start(thread_done, l);
}

/* What is [any] between LATER and done, from a thread of the plugin's own. */
static void thread_reads(void *arg)
{
    struct later *l = arg;
    sleep_ms(l->ms);
    graft_str method = graft_method(l->req), path = graft_path(l->req);
    graft_str host = graft_header(l->req, "Host"), id = graft_request_id(l->req);
    bool ok = str_is(method, "GET") && str_is(path, "/later") && host.len > 0 && id.len > 0 &&
              str_is(graft_route_pattern(l->req), "/later") && graft_target(l->req).len > 6 &&
              graft_peer(l->req).len > 0 && !graft_is_tls(l->req) &&
              graft_header_count(l->req) > 0 && !graft_gone(l->req);
    l->which = ok ? "any-thread ok" : "any-thread wrong";
    graft_post(l->req, answer_and_finish, l);
}

static int any_thread(struct later *l)
{
    return foreign_start(thread_reads, l);
}

static int done_before(struct later *l)
{
    answer_and_finish(l->req, l);
    return 0;
}

static void post_step(graft_req *req, void *arg)
{
    struct later *l = arg;
    graft_printf(req, "%u", ++l->steps);
    if (l->steps == 5)
        answer_and_finish(req, l);
}

/* Five posts run in order, and none of them inside this call. */
static int post_order(struct later *l)
{
    int rc = 0;
    for (int i = 0; i < 5; i++)
        rc |= graft_post(l->req, post_step, l);
    graft_printf(l->req, "0");
    return rc;
}

static void never(graft_req *req, void *arg)
{
    (void)req;
    say(arg, "DROPPED TIMER RAN");
}

/* A timer that still waits when done is taken does not run. */
static int after_dropped(struct later *l)
{
    int rc = graft_after(l->req, l->ms, never, l);
    answer_and_finish(l->req, l);
    return rc;
}

static void then_late(graft_req *req, void *arg)
{
    struct later *l = arg;
    l->thened++;
    graft_log(graft_self_of(req), GRAFT_INFO, "later %s then write=%d", l->which,
              graft_write(req, "x", 1));
}

/* done is taken at once; the offload's `then` runs all the same, after the answer. */
static int then_after_done(struct later *l)
{
    int rc = graft_offload(l->req, work, then_late, l);
    if (rc == 0)
        answer_and_finish(l->req, l);
    return rc;
}

/* Never ends by itself, within ?deadline= ms: 504, on_abort, and then the timer, which ends it. */
static int deadline(struct later *l)
{
    graft_deadline(l->req, query_number(l->req, "deadline", 100));
    return graft_after(l->req, l->ms, answer_and_finish, l);
}

/* Ends when on_abort runs: the client left, a timeout, retire, a drain. */
static int on_abort(struct later *l)
{
    graft_on_abort(l->req, aborted_finish, l);
    return 0;
}

static void poll_gone(graft_req *req, void *arg)
{
    struct later *l = arg;
    if (!graft_gone(req) && ++l->steps < 500) {
        graft_after(req, 20, poll_gone, l);
        return;
    }
    say(l, "polled");
    answer_and_finish(req, l);
}

static int gone(struct later *l)
{
    return graft_after(l->req, 20, poll_gone, l);
}

static void cut(graft_req *req, void *arg)
{
    struct later *l = arg;
    l->owes = false;
    graft_abort(req);
}

/* graft_abort before anything was sent, and in the middle of a stream. */
static int abort_now(struct later *l)
{
    return graft_after(l->req, l->ms, cut, l);
}

static int abort_stream(struct later *l)
{
    graft_write(l->req, "half", 4);
    graft_flush(l->req);
    return graft_after(l->req, l->ms, cut, l);
}

static void elapsed_step(graft_req *req, void *arg)
{
    struct later *l = arg;
    graft_printf(req, "elapsed_ms=%llu\n", (unsigned long long)graft_elapsed_us(req) / 1000);
    finish(l);
}

static int elapsed(struct later *l)
{
    return graft_after(l->req, l->ms, elapsed_step, l);
}

static void early_step(graft_req *req, void *arg)
{
    struct later *l = arg;
    int64_t us = (int64_t)(now_us() - l->began_us) - (int64_t)l->ms * 1000;
    graft_printf(req, "%s\n", us < 0 ? "early" : "in time");
    finish(l);
}

/* The loop's idea of the time is as old as the turn: graft_after counts from the call. */
static int early(struct later *l)
{
    sleep_ms(20);
    l->began_us = now_us();
    return graft_after(l->req, l->ms, early_step, l);
}

/* Fills the pool's queue until it refuses; each job still runs once. */
static void then_count(graft_req *req, void *arg)
{
    struct later *l = arg;
    if (--l->steps > 0)
        return;
    graft_printf(req, "thens=%u\n", ++l->thened);
    finish(l);
}

static void no_work(void *arg)
{
    struct later *l = arg;
    sleep_ms(l->ms > 5 ? 5 : l->ms);
}

static int offload_full(struct later *l)
{
    l->steps = 1; /* our own hold, so that it cannot reach 0 meanwhile */
    while (l->steps < 100000 && graft_offload(l->req, no_work, then_count, l) == 0)
        l->steps++;
    graft_printf(l->req, "taken=%u\n", l->steps - 1);
    return graft_post(l->req, then_count, l);
}

/* The arena: many blocks, aligned and our own. */
static int alloc(struct later *l)
{
    unsigned bad = 0;
    for (size_t size = 1; size < 5000; size += 37) {
        unsigned char *p = graft_alloc(l->req, size);
        bad += !p || (uintptr_t)p % _Alignof(max_align_t) != 0;
        if (p)
            memset(p, 0xa5, size);
    }
    graft_printf(l->req, "bad=%u\n", bad);
    return timer(l);
}

static const struct {
    const char *name;
    int (*begin)(struct later *l);
} cases[] = {
    { "timer", timer },                     /* graft_after */
    { "offload", offload },                 /* graft_offload */
    { "post", post },                       /* graft_post from the handler */
    { "post-thread", post_thread },         /* graft_post from a foreign thread */
    { "done-thread", done_thread },         /* graft_done from a foreign thread */
    { "any-thread", any_thread },           /* getters from a foreign thread */
    { "done-before", done_before },         /* graft_done before GRAFT_LATER is returned */
    { "post-order", post_order },           /* 012345post-order */
    { "after-dropped", after_dropped },     /* no log line may follow */
    { "then-after-done", then_after_done }, /* log: later then-after-done then write=-1 */
    { "deadline", deadline },               /* ?deadline=, 0 = none */
    { "on-abort", on_abort },               /* waits for the server to cut it */
    { "gone", gone },                       /* polls graft_gone */
    { "abort", abort_now },                 /* the connection is cut, nothing sent */
    { "abort-stream", abort_stream },       /* the connection is cut, no last chunk */
    { "elapsed", elapsed },                 /* elapsed_ms=N */
    { "early", early },                     /* "in time" or "early" */
    { "offload-full", offload_full },       /* taken=N, thens=1 when all have run */
    { "alloc", alloc },                     /* bad=0 */
};

/* scratch is zeroed for every request, and this handler leaves its mark in it. */
static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    struct later *l = graft_scratch(req);
    graft_str which = graft_query(req, "which");
    if (l->which || l->steps || l->owes)
        return graft_fail_req(req, "scratch was not zeroed");
    *l = (struct later){ .req = req, .ms = query_number(req, "ms", 50), .owes = true };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (!str_is(which, cases[i].name))
            continue;
        l->which = cases[i].name;
        graft_set_header(req, "Content-Type", "text/plain");
        graft_on_abort(req, aborted, l);
        return cases[i].begin(l) == 0 ? GRAFT_LATER : graft_error(req, 503, "refused");
    }
    return graft_error(req, 404, "no such case");
}

static void fini(graft_self *self, void *state)
{
    (void)self;
    (void)state;
    foreign_join();
}

GRAFT_PLUGIN(
    .name         = "later-api",
    .version      = "1.0.0",
    .scratch_size = sizeof(struct later),
    .fini         = fini,
    .routes       = (const graft_route[]){ { "GET", "/later", handler, 0 }, { 0 } },
)
