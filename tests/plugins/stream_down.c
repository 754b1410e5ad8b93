/*
 * GET /down?bytes=N: a stream of N bytes with back-pressure, each byte the low byte of its offset
 * / 64. chunk=N     bytes per write (16384, at most 65536) length=1    with a Content-Length
 * instead of chunks static=1    graft_write_static instead of graft_write abort=N     graft_abort
 * after N bytes When the stream ends it logs stream_down end sent=N max_pending=N waits=N gone=N
 */
#include "contract.h"

#include <stdio.h>

enum { CHUNK_MAX = 65536, PERIOD = 64 * 256 };

struct down {
    uint64_t bytes, sent, abort_at;
    size_t chunk, max_pending;
    unsigned waits;
    bool is_static, waiting, over;
};

static char pattern[PERIOD + CHUNK_MAX];

static int init(graft_self *self, void **state)
{
    (void)self;
    *state = NULL;
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)(i / 64);
    return 0;
}

static void log_end(graft_req *req, const struct down *d)
{
    graft_log(graft_self_of(req), GRAFT_INFO,
              "stream_down end sent=%llu max_pending=%zu waits=%u gone=%d",
              (unsigned long long)d->sent, d->max_pending, d->waits, graft_gone(req));
}

static void cut(graft_req *req, void *arg)
{
    (void)arg;
    graft_abort(req);
}

/* ?abort=: what was written gets 20 ms to leave before the connection is cut. */
static void end(graft_req *req, struct down *d)
{
    d->over = true;
    log_end(req, d);
    if (d->abort_at == 0 || d->sent < d->abort_at)
        graft_done(req);
    else if (graft_flush(req) < 0 || graft_after(req, 20, cut, NULL) != 0)
        graft_abort(req);
}

static int write_some(graft_req *req, struct down *d)
{
    uint64_t left = d->bytes - d->sent;
    size_t len = left < d->chunk ? (size_t)left : d->chunk;
    const char *from = pattern + d->sent % PERIOD;
    int rc = d->is_static ? graft_write_static(req, from, len) : graft_write(req, from, len);
    if (rc >= 0)
        d->sent += len;
    if (graft_pending(req) > d->max_pending)
        d->max_pending = graft_pending(req);
    return rc;
}

static void pump(graft_req *req, void *arg);

/* A bounded number of writes a turn, so that one stream does not hold its worker. */
static void pump_on(graft_req *req, struct down *d)
{
    int rc = 0;
    for (int turn = 0; turn < 16 && rc == 0 && d->sent < d->bytes; turn++) {
        rc = write_some(req, d);
        if (d->abort_at > 0 && d->sent >= d->abort_at)
            break;
    }
    if (rc < 0 || d->sent >= d->bytes || (d->abort_at > 0 && d->sent >= d->abort_at)) {
        end(req, d);
        return;
    }
    graft_flush(req);
    d->waiting = rc == 1;
    d->waits += d->waiting;
    if (!d->waiting && graft_post(req, pump, d) != 0) {
        d->over = true;
        graft_abort(req);
    }
}

static void pump(graft_req *req, void *arg)
{
    struct down *d = arg;
    if (!d->over)
        pump_on(req, d);
}

static void writable(graft_req *req, void *arg)
{
    struct down *d = arg;
    if (d->waiting)
        pump(req, d);
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    struct down *d = graft_scratch(req);
    d->bytes = query_u64(req, "bytes", 1 << 20);
    d->chunk = query_number(req, "chunk", 16384);
    d->chunk = d->chunk < 1 ? 1 : d->chunk > CHUNK_MAX ? CHUNK_MAX : d->chunk;
    d->is_static = query_number(req, "static", 0) != 0;
    d->abort_at = query_u64(req, "abort", 0);
    graft_set_header(req, "Content-Type", "application/octet-stream");
    if (query_number(req, "length", 0)) {
        char text[32];
        snprintf(text, sizeof text, "%llu", (unsigned long long)d->bytes);
        graft_set_header(req, "Content-Length", text);
    }
    graft_on_writable(req, writable, d);
    pump(req, d);
    return GRAFT_LATER;
}

GRAFT_PLUGIN(
    .name         = "stream-down",
    .version      = "1.0.0",
    .scratch_size = sizeof(struct down),
    .init         = init,
    .routes       = (const graft_route[]){ { "GET", "/down", handler, 0 }, { 0 } },
)
