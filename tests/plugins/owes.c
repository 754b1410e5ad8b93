/*
 * GET|POST /owes?which=…: what a GRAFT_LATER request owes and is owed, where later_api.c needs other
 * clients or threads to show it. Logs "owes WHICH …"; it is also middleware, whose on_finish logs
 * "owes finish WHICH bytes=N elapsed_ms=N writes=N". ?ms= is the time that things take (50).
 */
#include "contract.h"
#include "foreign.h"

#include <stdatomic.h>
#include <stdio.h>

enum { POSTS = 200, POSTERS = 4 };

struct owes {
    graft_req *req;
    const char *which;
    unsigned ms, steps;
    unsigned aborts, writables, pieces, lasts, afters;
    atomic_uint done_taken, works, thens, next_poster;
    unsigned seen[POSTERS], posts, disorder;
    bool over;
};

static void say(struct owes *o, const char *what)
{
    graft_log(graft_self_of(o->req), GRAFT_INFO,
              "owes %s %s gone=%d aborts=%u writables=%u afters=%u works=%u thens=%u", o->which,
              what, graft_gone(o->req), o->aborts, o->writables, o->afters, atomic_load(&o->works),
              atomic_load(&o->thens));
}

static void finish(graft_req *req, void *arg)
{
    struct owes *o = arg;
    if (o->over)
        return;
    o->over = true;
    graft_printf(req, "%s\n", o->which);
    say(o, "done");
    graft_done(req);
}

static void aborted(graft_req *req, void *arg)
{
    struct owes *o = arg;
    o->aborts++;
    graft_log(graft_self_of(req), atomic_load(&o->done_taken) ? GRAFT_ERR : GRAFT_INFO,
              "owes %s on_abort%s n=%u gone=%d write=%d", o->which,
              atomic_load(&o->done_taken) ? " AFTER DONE" : "", o->aborts, graft_gone(req),
              graft_write(req, "x", 1));
}

static void aborted_ends(graft_req *req, void *arg)
{
    aborted(req, arg);
    finish(req, arg);
}

static void after(graft_req *req, void *arg)
{
    struct owes *o = arg;
    o->afters++;
    graft_log(graft_self_of(req), atomic_load(&o->done_taken) ? GRAFT_ERR : GRAFT_INFO,
              "owes %s after%s gone=%d write=%d", o->which,
              atomic_load(&o->done_taken) ? " AFTER DONE" : "", graft_gone(req),
              graft_write(req, "x", 1));
}

static void after_ends(graft_req *req, void *arg)
{
    after(req, arg);
    finish(req, arg);
}

static void work(void *arg)
{
    struct owes *o = arg;
    sleep_ms(o->ms);
    atomic_fetch_add(&o->works, 1);
}

static void then(graft_req *req, void *arg)
{
    struct owes *o = arg;
    atomic_fetch_add(&o->thens, 1);
    graft_log(graft_self_of(req), GRAFT_INFO, "owes %s then write=%d", o->which,
              graft_write(req, "x", 1));
}

static void then_ends(graft_req *req, void *arg)
{
    then(req, arg);
    finish(req, arg);
}

/* The response is over at once, the request when the offload has returned. */
static int next(struct owes *o)
{
    int rc = graft_offload(o->req, work, then, o);
    finish(o->req, o);
    return rc;
}

static int gone_after(struct owes *o)
{
    return graft_after(o->req, o->ms, after_ends, o);
}

static int gone_offload(struct owes *o)
{
    return graft_offload(o->req, work, then_ends, o);
}

static void gone_thread(void *arg)
{
    struct owes *o = arg;
    for (int i = 0; i < 2000 && !graft_gone(o->req); i++)
        sleep_ms(5);
    graft_log(graft_self_of(o->req), GRAFT_INFO, "owes thread gone=%d", graft_gone(o->req));
    graft_done(o->req);
}

static int gone_in_thread(struct owes *o)
{
    return foreign_start(gone_thread, o);
}

/* A timer is due at 2/4 of ms, a thread is done at 3/4; the test lets the worker stand still for
   all of it. Nothing may be called then. */
static void race_thread(void *arg)
{
    struct owes *o = arg;
    sleep_ms(o->ms / 4 * 3);
    atomic_store(&o->done_taken, 1);
    graft_log(graft_self_of(o->req), GRAFT_INFO, "owes race taken %d", graft_done(o->req));
}

static int race(struct owes *o)
{
    if (graft_after(o->req, o->ms / 2, after, o) != 0)
        return -1;
    graft_on_abort(o->req, aborted, o);
    return foreign_start(race_thread, o);
}

/* The worker stands still. */
static int block(struct owes *o)
{
    sleep_ms(o->ms);
    finish(o->req, o);
    return 0;
}

static void writable(graft_req *req, void *arg)
{
    struct owes *o = arg;
    static const char block_of_zeros[65536];
    int rc = 0;
    o->writables++;
    if (o->over)
        graft_log(graft_self_of(req), GRAFT_ERR, "owes %s on_writable AFTER DONE", o->which);
    while (rc == 0)
        rc = graft_write(req, block_of_zeros, sizeof block_of_zeros);
    if (rc < 0)
        graft_log(graft_self_of(req), GRAFT_INFO, "owes %s on_writable write=%d gone=%d", o->which,
                  rc, graft_gone(req));
    else
        graft_flush(req);
}

/* An endless stream, ended by a timer some time after it was cut. */
static void end_of_cut(graft_req *req, void *arg)
{
    struct owes *o = arg;
    if (graft_gone(req) && ++o->steps > 3)
        finish(req, o);
    else
        graft_after(req, o->ms, end_of_cut, o);
}

static int cut(struct owes *o)
{
    graft_on_abort(o->req, aborted, o);
    graft_on_writable(o->req, writable, o);
    writable(o->req, o);
    return graft_after(o->req, o->ms, end_of_cut, o);
}

/* The same, ended by on_abort: then on_writable has nothing to say any more. */
static int cut_ends(struct owes *o)
{
    graft_on_abort(o->req, aborted_ends, o);
    graft_on_writable(o->req, writable, o);
    writable(o->req, o);
    return 0;
}

static void on_body(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct owes *o = arg;
    (void)req;
    (void)chunk;
    o->pieces++;
    o->lasts += last;
    if (o->aborts)
        graft_log(graft_self_of(req), GRAFT_ERR, "owes %s on_body AFTER ABORT", o->which);
    if (last)
        finish(req, o);
}

static void body_ends(graft_req *req, void *arg)
{
    struct owes *o = arg;
    graft_log(graft_self_of(req), GRAFT_INFO, "owes body pieces=%u lasts=%u aborts=%u", o->pieces,
              o->lasts, o->aborts);
    finish(req, o);
}

static void body_aborted(graft_req *req, void *arg)
{
    struct owes *o = arg;
    aborted(req, arg);
    graft_after(req, o->ms, body_ends, o);
}

static int body(struct owes *o)
{
    graft_on_abort(o->req, body_aborted, o);
    graft_on_body(o->req, on_body, o);
    return 0;
}

struct posted {
    struct owes *o;
    unsigned poster, number;
};

static void post_came(graft_req *req, void *arg)
{
    struct posted *p = arg;
    struct owes *o = p->o;
    o->disorder += p->number != o->seen[p->poster];
    o->seen[p->poster] = p->number + 1;
    free(p);
    if (++o->posts < POSTS * POSTERS)
        return;
    graft_printf(req, "posts=%u disorder=%u\n", o->posts, o->disorder);
    graft_log(graft_self_of(req), GRAFT_INFO, "owes posts n=%u disorder=%u gone=%d", o->posts,
              o->disorder, graft_gone(req));
    finish(req, o);
}

static void poster(void *arg)
{
    struct owes *o = arg;
    unsigned me = atomic_fetch_add(&o->next_poster, 1);
    for (unsigned i = 0; i < POSTS; i++) {
        struct posted *p = malloc(sizeof *p);
        if (!p)
            abort();
        *p = (struct posted){ o, me, i };
        if (graft_post(o->req, post_came, p) != 0)
            abort();
        if (i % 50 == 0)
            sleep_ms(1);
    }
}

static int posts(struct owes *o)
{
    for (int i = 0; i < POSTERS; i++)
        if (foreign_start(poster, o) != 0)
            abort();
    return 0;
}

/* ?deadline= in place of timeouts_ms.handler; done comes after ms. */
static int deadline(struct owes *o)
{
    graft_on_abort(o->req, aborted, o);
    graft_deadline(o->req, query_number(o->req, "deadline", 0));
    return graft_after(o->req, o->ms, after_ends, o);
}

/* Registered when the response is another's already: told at once. */
static void register_late(graft_req *req, void *arg)
{
    graft_on_abort(req, aborted_ends, arg);
}

static int late(struct owes *o)
{
    graft_deadline(o->req, query_number(o->req, "deadline", 0));
    return graft_after(o->req, o->ms, register_late, o);
}

static int wait_for_abort(struct owes *o)
{
    graft_on_abort(o->req, aborted_ends, o);
    return 0;
}

/* The handle's address, and LATER: to see when it comes again. */
static int address(struct owes *o)
{
    graft_printf(o->req, "%p", (void *)o->req);
    o->over = true;
    graft_done(o->req);
    return 0;
}

static int elapsed(struct owes *o)
{
    return next(o);
}

/* A timer without LATER: it fires at its time, the response has long been sent. */
static int timer_then_done(struct owes *o)
{
    return graft_after(o->req, o->ms, after, o);
}

static const struct {
    const char *name;
    int (*begin)(struct owes *o);
} cases[] = {
    { "next", next },
    { "gone-after", gone_after },
    { "gone-offload", gone_offload },
    { "gone-thread", gone_in_thread },
    { "race", race },
    { "block", block },
    { "cut", cut },
    { "cut-ends", cut_ends },
    { "body", body },
    { "posts", posts },
    { "deadline", deadline },
    { "wait", wait_for_abort },
    { "late", late },
    { "address", address },
    { "elapsed", elapsed },
    { "timer", timer_then_done },
};

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    struct owes *o = graft_scratch(req);
    graft_str which = graft_query(req, "which");
    o->req = req;
    o->ms = query_number(req, "ms", 50);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (!str_is(which, cases[i].name))
            continue;
        o->which = cases[i].name;
        if (cases[i].begin(o) != 0)
            return graft_error(req, 503, "refused");
        return str_is(which, "timer") ? graft_text(req, 200, "timer\n") : GRAFT_LATER;
    }
    return graft_error(req, 404, "no such case");
}

static void on_finish(graft_req *req, void *state)
{
    (void)state;
    struct owes *o = graft_scratch(req);
    int write = graft_write(req, "x", 1);
    if (o->which && !str_is(graft_query(req, "which"), "address"))
        graft_log(graft_self_of(req), GRAFT_INFO,
                  "owes finish %s bytes=%llu elapsed_ms=%llu write=%d aborts=%u works=%u thens=%u",
                  o->which, (unsigned long long)graft_response_bytes(req),
                  (unsigned long long)graft_elapsed_us(req) / 1000, write, o->aborts,
                  atomic_load(&o->works), atomic_load(&o->thens));
}

static void fini(graft_self *self, void *state)
{
    (void)self;
    (void)state;
    foreign_join();
}

GRAFT_PLUGIN(
    .name         = "owes",
    .version      = "1.0.0",
    .scratch_size = sizeof(struct owes),
    .fini         = fini,
    .routes       = (const graft_route[]){ { "GET", "/owes", handler, 0 },
                                           { "POST", "/owes", handler, GRAFT_STREAM },
                                           { 0 } },
    .on_finish    = on_finish,
)
