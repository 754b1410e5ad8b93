/*
 * Answers its build's VERSION in every way that a request can take: at once, by timer, by offload,
 * by stream, after an upload. What swap tests and soaks run; built as versioned_v1.so to _v3.so.
 *
 *     GET  /version                        VERSION
 *     GET  /version/timer?ms=100           VERSION, when the timer fires
 *     GET  /version/offload?ms=100         VERSION, after a sleep on the pool
 *     GET  /version/stream?chunks=5&ms=50  a line "VERSION n/chunks" every ms
 *     POST /version/upload                 VERSION and the number of bytes, GRAFT_STREAM
 */
#include "contract.h"

#ifndef VERSION
#define VERSION "v1"
#endif

/* Every step asks the code that runs, not the code that began: a mixed version would show. */
static graft_next answer(graft_req *req)
{
    graft_set_header(req, "X-Version", VERSION);
    return graft_text(req, 200, VERSION "\n");
}

static graft_next at_once(graft_req *req, void *state)
{
    (void)state;
    return answer(req);
}

static void over(graft_req *req, void *arg)
{
    (void)arg;
    answer(req);
    graft_done(req);
}

static graft_next timer(graft_req *req, void *state)
{
    (void)state;
    unsigned ms = query_number(req, "ms", 100);
    return graft_after(req, ms, over, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

static void work(void *arg)
{
    unsigned *ms = arg;
    sleep_ms(*ms);
}

static graft_next offload(graft_req *req, void *state)
{
    (void)state;
    unsigned *ms = graft_alloc(req, sizeof *ms);
    if (!ms)
        return GRAFT_ERROR;
    *ms = query_number(req, "ms", 100);
    if (graft_offload(req, work, over, ms) != 0)
        return graft_error(req, 503, "queue full");
    return GRAFT_LATER;
}

struct stream {
    unsigned ms, n, chunks;
};

static void step(graft_req *req, void *arg)
{
    struct stream *s = arg;
    if (graft_printf(req, VERSION " %u/%u\n", ++s->n, s->chunks) < 0 || s->n >= s->chunks)
        graft_done(req);
    else if (graft_flush(req) < 0 || graft_after(req, s->ms, step, s) != 0)
        graft_abort(req);
}

static graft_next stream(graft_req *req, void *state)
{
    (void)state;
    struct stream *s = graft_alloc(req, sizeof *s);
    if (!s)
        return GRAFT_ERROR;
    *s = (struct stream){ query_number(req, "ms", 50), 0, query_number(req, "chunks", 5) };
    graft_set_header(req, "X-Version", VERSION);
    graft_set_header(req, "Content-Type", "text/plain");
    step(req, s);
    return GRAFT_LATER;
}

static void on_body(graft_req *req, graft_str chunk, bool last, void *arg)
{
    uint64_t *bytes = arg;
    *bytes += chunk.len;
    if (!last)
        return;
    graft_set_header(req, "X-Version", VERSION);
    graft_printf(req, VERSION " %llu\n", (unsigned long long)*bytes);
    graft_done(req);
}

static void cut(graft_req *req, void *arg)
{
    (void)arg;
    graft_done(req);
}

static graft_next upload(graft_req *req, void *state)
{
    (void)state;
    uint64_t *bytes = graft_scratch(req);
    graft_on_abort(req, cut, NULL);
    graft_on_body(req, on_body, bytes);
    return GRAFT_LATER;
}

GRAFT_PLUGIN(
    .name         = "versioned",
    .version      = VERSION,
    .scratch_size = sizeof(uint64_t),
    .routes       = (const graft_route[]){ { "GET", "/version", at_once, 0 },
                                           { "GET", "/version/timer", timer, 0 },
                                           { "GET", "/version/offload", offload, 0 },
                                           { "GET", "/version/stream", stream, 0 },
                                           { "POST", "/version/upload", upload, GRAFT_STREAM },
                                           { 0 } },
)
