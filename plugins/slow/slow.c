/*
 * slow: handlers that take their time, in the three ways a handler can. Made to try swaps on:
 * start one, swap the plugin, and see it end on the version that it began on.
 *
 *     GET /slow/timer?ms=1000             a timer on the worker
 *     GET /slow/offload?ms=1000           a sleep on the pool
 *     GET /slow/stream?chunks=10&ms=200   a line at a time; chunks=0 streams until graft_cooling()
 *
 * Each answer carries SLOW_VERSION: build with -DSLOW_VERSION='"2.0.0"' for another one.
 */
#include <graft/graft.h>

#include <time.h>

#ifndef SLOW_VERSION
#define SLOW_VERSION "1.0.0"
#endif

enum { MS_MAX = 600000, CHUNKS_MAX = 1000000 };

/* A decimal query field, or the fallback when it is absent or not a number; at most max. */
static unsigned query_number(graft_req *req, const char *name, unsigned fallback, unsigned max)
{
    graft_str text = graft_query(req, name);
    unsigned value = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return fallback;
        value = value * 10 + (unsigned)(text.ptr[i] - '0');
        if (value > max)
            return max;
    }
    return text.len > 0 ? value : fallback;
}

/* ---- A timer ---- */

static void timer_over(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "timer " SLOW_VERSION "\n");
    graft_done(req);
}

static graft_next timer(graft_req *req, void *state)
{
    (void)state;
    if (graft_after(req, query_number(req, "ms", 1000, MS_MAX), timer_over, NULL) != 0)
        return graft_fail_req(req, "no memory for a timer");
    return GRAFT_LATER;
}

/* ---- An offloaded job: `work` may block, and touches nothing but its argument ---- */

struct job {
    struct timespec sleep;
};

static void job_work(void *arg)
{
    struct job *job = arg;
    nanosleep(&job->sleep, NULL);
}

static void job_then(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "offload " SLOW_VERSION "\n");
    graft_done(req);
}

static graft_next offload(graft_req *req, void *state)
{
    (void)state;
    struct job *job = graft_alloc(req, sizeof *job);
    if (!job)
        return graft_fail_req(req, "no memory for a job");
    unsigned ms = query_number(req, "ms", 1000, MS_MAX);
    job->sleep = (struct timespec){ ms / 1000, (long)(ms % 1000) * 1000000L };
    if (graft_offload(req, job_work, job_then, job) != 0)
        return graft_error(req, 503, "The pool's queue is full; try again.");
    return GRAFT_LATER;
}

/* ---- A stream: write, then wait for the timer, or for the client when it is the slower one ----
 */

struct stream {
    unsigned ms, sent, chunks; /* chunks 0: until no new requests come here */
    bool blocked;              /* waits for graft_on_writable, not for the timer */
};

static void stream_step(graft_req *req, void *arg)
{
    struct stream *stream = arg;
    bool last =
        stream->chunks ? stream->sent + 1 >= stream->chunks : graft_cooling(graft_self_of(req));

    int rc = graft_printf(req, "stream " SLOW_VERSION " %u\n", ++stream->sent);
    if (rc >= 0 && !last)
        rc = graft_flush(req);
    stream->blocked = rc == 1 && !last;
    if (rc < 0 || last)
        graft_done(req);
    else if (rc == 0 && graft_after(req, stream->ms, stream_step, stream) != 0)
        graft_abort(req); /* a stream that cannot go on must not look complete */
}

static void stream_writable(graft_req *req, void *arg)
{
    struct stream *stream = arg;
    if (stream->blocked)
        stream_step(req, stream);
}

static graft_next stream(graft_req *req, void *state)
{
    (void)state;
    struct stream *stream = graft_alloc(req, sizeof *stream);
    if (!stream)
        return graft_fail_req(req, "no memory for a stream");
    *stream = (struct stream){
        .ms = query_number(req, "ms", 200, MS_MAX),
        .chunks = query_number(req, "chunks", 10, CHUNKS_MAX),
    };
    graft_set_header(req, "Content-Type", "text/plain; charset=utf-8");
    graft_on_writable(req, stream_writable, stream);
    stream_step(req, stream); /* graft_done before GRAFT_LATER is returned is fine */
    return GRAFT_LATER;
}

GRAFT_PLUGIN(
    .name    = "slow",
    .version = SLOW_VERSION,
    .summary = "Takes its time: a timer, a pool job, a stream.",
    .routes  = (const graft_route[]){
        { "GET", "/slow/timer", timer, 0 },
        { "GET", "/slow/offload", offload, 0 },
        { "GET", "/slow/stream", stream, 0 },
        { 0 },
    },
)
