/*
 * POST /up, GRAFT_STREAM: counts what arrives and answers
 *     bytes=N chunks=N max=N sum=N last=N
 * where max is the longest chunk and sum adds all byte values. Query:
 *     pause=MS    after each chunk the body is paused for that long (a slow handler)
 *     late=MS     graft_on_body is registered that late
 *     early=1     answers 413 at once and reads nothing
 * When the request is cut it logs "stream_up aborted bytes=N last=N".
 */
#include "contract.h"

struct upload {
    uint64_t bytes, chunks, max, sum;
    unsigned last, pause, paused;
    bool over;
};

static void finish(graft_req *req, struct upload *up)
{
    up->over = true;
    graft_set_header(req, "Content-Type", "text/plain");
    graft_printf(req, "bytes=%llu chunks=%llu max=%llu sum=%llu last=%u\n",
                 (unsigned long long)up->bytes, (unsigned long long)up->chunks,
                 (unsigned long long)up->max, (unsigned long long)up->sum, up->last);
    graft_done(req);
}

static void unpause(graft_req *req, void *arg)
{
    struct upload *up = arg;
    up->paused = 0;
    if (!up->over)
        graft_body_resume(req);
}

static void on_body(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct upload *up = arg;
    if (chunk.len > 0)
        up->chunks++;
    up->bytes += chunk.len;
    up->max = chunk.len > up->max ? chunk.len : up->max;
    for (size_t i = 0; i < chunk.len; i++)
        up->sum += (unsigned char)chunk.ptr[i];
    up->last += last;
    if (last) {
        finish(req, up);
    } else if (up->pause > 0 && !up->paused && graft_after(req, up->pause, unpause, up) == 0) {
        up->paused = 1;
        graft_body_pause(req);
    }
}

static void aborted(graft_req *req, void *arg)
{
    struct upload *up = arg;
    up->over = true;
    graft_log(graft_self_of(req), GRAFT_INFO, "stream_up aborted bytes=%llu last=%u",
              (unsigned long long)up->bytes, up->last);
    graft_done(req);
}

static void register_late(graft_req *req, void *arg)
{
    struct upload *up = arg;
    if (!up->over)
        graft_on_body(req, on_body, up);
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    struct upload *up = graft_scratch(req);
    unsigned late = query_number(req, "late", 0);
    if (query_number(req, "early", 0))
        return graft_error(req, 413, "not read");
    up->pause = query_number(req, "pause", 0);
    graft_on_abort(req, aborted, up);
    if (late > 0)
        return graft_after(req, late, register_late, up) == 0 ? GRAFT_LATER : GRAFT_ERROR;
    graft_on_body(req, on_body, up);
    return GRAFT_LATER;
}

GRAFT_PLUGIN(
    .name         = "stream-up",
    .version      = "1.0.0",
    .scratch_size = sizeof(struct upload),
    .routes       = (const graft_route[]){ { NULL, "/up", handler, GRAFT_STREAM }, { 0 } },
)
