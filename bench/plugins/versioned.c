/* versioned: the plugin that bench/deploy.py and tests/soak/soak.py deploy. Every answer says which
 * copy of the code made it. The mark is a string of fixed width that the scripts overwrite in the
 * compiled file, so that each deployment is of bytes never seen before and costs no compiler.
 *
 *     GET  /v                          the mark
 *     GET  /v/static                   the mark, not copied: the version must outlive the write
 *     GET  /v/timer?ms=60              the mark as it began and as it ended, by a timer
 *     GET  /v/offload?ms=60            the same through the pool
 *     GET  /v/stream?chunks=5&ms=15    the mark, five times, 15 ms apart; chunks=0: until cooling
 *     GET  /v/big?kb=256               so many KB, as fast as the client reads
 *     POST /v/post, /v/upload          the mark, the body's length and its FNV-1a hash; upload
 *                                      takes the body as it comes
 *
 * -DPREFIX and -DNAME give a second plugin for the same server. */
#include <graft/graft.h>

#include <inttypes.h>
#include <string.h>
#include <time.h>

#ifndef PREFIX
#define PREFIX "/v"
#endif
#ifndef NAME
#define NAME "versioned"
#endif

static const char mark_text[] = "VERSION-0000000001";

/* Read at run time, so that no compiler copies the text into its code: the scripts overwrite one.
 */
static const char *const volatile mark = mark_text;

enum { MARK_LEN = sizeof mark_text - 1, NUMBER_MAX = 100000000, BLOCK = 1024 };

struct span {
    char began[MARK_LEN];
    struct timespec sleep;
    unsigned ms, left;
    bool endless, blocked;
};

struct sum {
    uint64_t hash, len;
};

static unsigned query_number(graft_req *req, const char *name, unsigned fallback)
{
    graft_str text = graft_query(req, name);
    unsigned value = 0;

    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9' || value > NUMBER_MAX / 10)
            return fallback;
        value = value * 10 + (unsigned)(text.ptr[i] - '0');
    }
    return text.len > 0 ? value : fallback;
}

static graft_next plain(graft_req *req, void *state)
{
    (void)state;
    graft_write(req, mark, MARK_LEN);
    graft_write(req, "\n", 1);
    return GRAFT_DONE;
}

static graft_next not_copied(graft_req *req, void *state)
{
    (void)state;
    graft_write_static(req, mark, MARK_LEN);
    graft_write_static(req, "\n", 1);
    return GRAFT_DONE;
}

static struct span *span_new(graft_req *req, unsigned ms)
{
    struct span *span = graft_alloc(req, sizeof *span);

    if (span == NULL)
        return NULL;
    memset(span, 0, sizeof *span);
    memcpy(span->began, mark, MARK_LEN);
    span->ms = query_number(req, "ms", ms);
    span->sleep.tv_sec = span->ms / 1000;
    span->sleep.tv_nsec = (long)(span->ms % 1000) * 1000000L;
    return span;
}

static void span_end(graft_req *req, void *arg)
{
    struct span *span = arg;

    graft_write(req, span->began, MARK_LEN);
    graft_write(req, "\n", 1);
    graft_write(req, mark, MARK_LEN);
    graft_write(req, "\n", 1);
    graft_done(req);
}

static graft_next timer(graft_req *req, void *state)
{
    struct span *span = span_new(req, 60);

    (void)state;
    if (span == NULL || graft_after(req, span->ms, span_end, span) != 0)
        return graft_fail_req(req, "no memory for a timer");
    return GRAFT_LATER;
}

static void span_sleep(void *arg)
{
    struct span *span = arg;

    nanosleep(&span->sleep, NULL);
}

static graft_next offload(graft_req *req, void *state)
{
    struct span *span = span_new(req, 60);

    (void)state;
    if (span == NULL || graft_offload(req, span_sleep, span_end, span) != 0)
        return graft_fail_req(req, "the pool's queue is full");
    return GRAFT_LATER;
}

static void stream_step(graft_req *req, void *arg)
{
    struct span *span = arg;
    bool last = span->endless ? graft_cooling(graft_self_of(req)) : span->left <= 1;

    span->left--;
    graft_write(req, mark, MARK_LEN);
    if (graft_write(req, "\n", 1) < 0 || last)
        graft_done(req);
    else if (graft_flush(req) < 0 || graft_after(req, span->ms, stream_step, span) != 0)
        graft_abort(req);
}

static graft_next stream(graft_req *req, void *state)
{
    struct span *span = span_new(req, 15);

    (void)state;
    if (span == NULL)
        return graft_fail_req(req, "no memory for a stream");
    span->left = query_number(req, "chunks", 5);
    span->endless = span->left == 0;
    stream_step(req, span);
    return GRAFT_LATER;
}

static void big_step(graft_req *req, void *arg)
{
    struct span *span = arg;
    char block[BLOCK];
    int rc = 0;

    memset(block, '.', sizeof block);
    while (rc == 0 && span->left > 0) {
        memcpy(block, mark, MARK_LEN);
        rc = graft_write(req, block, sizeof block);
        span->left--;
    }
    if (rc < 0 || span->left == 0) {
        span->left = 0;
        if (!span->blocked)
            graft_done(req);
        span->blocked = true; /* done once, however often the server calls */
    }
}

static graft_next big(graft_req *req, void *state)
{
    struct span *span = span_new(req, 0);

    (void)state;
    if (span == NULL)
        return graft_fail_req(req, "no memory for a big answer");
    span->left = query_number(req, "kb", 256);
    graft_on_writable(req, big_step, span);
    graft_flush(req);
    big_step(req, span);
    return GRAFT_LATER;
}

static void sum_add(struct sum *sum, graft_str data)
{
    for (size_t i = 0; i < data.len; i++)
        sum->hash = (sum->hash ^ (unsigned char)data.ptr[i]) * 0x100000001b3u;
    sum->len += data.len;
}

static void sum_answer(graft_req *req, const struct sum *sum)
{
    graft_printf(req, "%s %" PRIu64 " %016" PRIx64 "\n", mark, sum->len, sum->hash);
}

static graft_next post(graft_req *req, void *state)
{
    struct sum sum = { 0xcbf29ce484222325u, 0 };

    (void)state;
    sum_add(&sum, graft_body(req));
    sum_answer(req, &sum);
    return GRAFT_DONE;
}

static void upload_take(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct sum *sum = arg;

    sum_add(sum, chunk);
    if (last) {
        sum_answer(req, sum);
        graft_done(req);
    }
}

static void upload_abort(graft_req *req, void *arg)
{
    (void)arg;
    graft_done(req); /* owed also when the client left in the middle of its body */
}

static graft_next upload(graft_req *req, void *state)
{
    struct sum *sum = graft_alloc(req, sizeof *sum);

    (void)state;
    if (sum == NULL)
        return graft_fail_req(req, "no memory for an upload");
    *sum = (struct sum){ 0xcbf29ce484222325u, 0 };
    graft_on_abort(req, upload_abort, sum);
    graft_on_body(req, upload_take, sum);
    return GRAFT_LATER;
}

/* clang-format off */
GRAFT_PLUGIN(
    .name    = NAME,
    .version = mark_text,
    .summary = "Says which copy of the code answers.",
    .routes  = (const graft_route[]){
        { "GET", PREFIX, plain, 0 },
        { "GET", PREFIX "/static", not_copied, 0 },
        { "GET", PREFIX "/timer", timer, 0 },
        { "GET", PREFIX "/offload", offload, 0 },
        { "GET", PREFIX "/stream", stream, 0 },
        { "GET", PREFIX "/big", big, 0 },
        { "POST", PREFIX "/post", post, 0 },
        { "POST", PREFIX "/upload", upload, GRAFT_STREAM },
        { 0 },
    },
)
