/*
 * GRAFT_SERIAL: one callback at a time for all versions of the plugin "serial". Built as
 * serial_v1.so and serial_v2.so. Each callback holds the lock file config.lock while it runs (two
 * versions have no memory in common) and counts how often somebody else held it already.
 *
 *     GET /serial?ms=2         the handler sleeps; "VERSION calls=N overlaps=N"
 *     GET /serial/later?ms=2   the same from a timer, a post and an offload's then
 *     POST /serial/up?ms=2     the same from each on_body (GRAFT_STREAM), and from on_abort
 *     GET /serial/down?ms=2    the same from each on_writable of a stream of 4 MB
 *     ?serial-mw=1             (as middleware) on_request and on_finish sleep too
 * graft_every runs each 5 ms under the same lock. Overlaps are logged as "serial OVERLAP in …".
 */
#include "contract.h"

#include <fcntl.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "v1"
#endif

/* Touched by serial callbacks only: no lock, no atomics. That is the point. */
struct serial {
    graft_self *self;
    const char *lock;
    unsigned calls, overlaps;
};

static void critical(struct serial *s, const char *where, unsigned ms)
{
    int fd = open(s->lock, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        s->overlaps++;
        graft_log(s->self, GRAFT_WARN, "serial OVERLAP in %s", where);
    }
    unsigned before = s->calls;
    sleep_ms(ms);
    s->calls = before + 1;
    if (fd >= 0) {
        unlink(s->lock);
        close(fd);
    }
}

static void tick(void *state)
{
    critical(state, "every", 1);
}

static int init(graft_self *self, void **state)
{
    static struct serial serial;
    serial = (struct serial){ .self = self, .lock = graft_config_str(self, "lock", NULL) };
    if (!serial.lock)
        return graft_fail(self, "config.lock is absent: expected the path of a lock file");
    *state = &serial;
    return graft_every(self, 5, tick, &serial);
}

static void report(graft_req *req, const struct serial *s)
{
    graft_set_header(req, "Content-Type", "text/plain");
    graft_printf(req, VERSION " calls=%u overlaps=%u\n", s->calls, s->overlaps);
}

static graft_next handler(graft_req *req, void *state)
{
    critical(state, "handler", query_number(req, "ms", 2));
    report(req, state);
    return GRAFT_DONE;
}

static void in_then(graft_req *req, void *arg)
{
    critical(arg, "then", query_number(req, "ms", 2));
    report(req, arg);
    graft_done(req);
}

static void nothing(void *arg)
{
    (void)arg;
}

static void in_post(graft_req *req, void *arg)
{
    critical(arg, "post", query_number(req, "ms", 2));
    if (graft_offload(req, nothing, in_then, arg) != 0)
        in_then(req, arg);
}

static void in_timer(graft_req *req, void *arg)
{
    critical(arg, "timer", query_number(req, "ms", 2));
    if (graft_post(req, in_post, arg) != 0)
        in_post(req, arg);
}

static graft_next later(graft_req *req, void *state)
{
    critical(state, "handler", query_number(req, "ms", 2));
    return graft_after(req, 1, in_timer, state) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

struct stream {
    struct serial *serial;
    unsigned ms, left;
    bool over;
};

static struct stream *stream_of(graft_req *req, void *state)
{
    struct stream *st = graft_scratch(req);
    *st = (struct stream){ .serial = state, .ms = query_number(req, "ms", 2), .left = 64 };
    return st;
}

static void finish(graft_req *req, struct stream *st)
{
    if (!st->over)
        graft_done(req);
    st->over = true;
}

static void on_abort(graft_req *req, void *arg)
{
    struct stream *st = arg;
    critical(st->serial, "on_abort", st->ms);
    graft_log(st->serial->self, GRAFT_INFO, "serial aborted");
    finish(req, st);
}

static void on_body(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct stream *st = arg;
    (void)chunk;
    critical(st->serial, "on_body", st->ms);
    if (!last)
        return;
    report(req, st->serial);
    finish(req, st);
}

static graft_next up(graft_req *req, void *state)
{
    struct stream *st = stream_of(req, state);
    graft_on_abort(req, on_abort, st);
    graft_on_body(req, on_body, st);
    return GRAFT_LATER;
}

static void on_writable(graft_req *req, void *arg)
{
    static const char block[65536];
    struct stream *st = arg;
    int rc = 0;
    critical(st->serial, "on_writable", st->ms);
    while (rc == 0 && st->left > 0) {
        rc = graft_write(req, block, sizeof block);
        st->left--;
    }
    graft_flush(req);
    if (rc < 0 || st->left == 0)
        finish(req, st);
}

static graft_next down(graft_req *req, void *state)
{
    struct stream *st = stream_of(req, state);
    graft_on_abort(req, on_abort, st);
    graft_on_writable(req, on_writable, st);
    on_writable(req, st);
    return GRAFT_LATER;
}

static graft_next on_request(graft_req *req, void *state)
{
    if (query_number(req, "serial-mw", 0))
        critical(state, "on_request", query_number(req, "ms", 2));
    return GRAFT_NEXT;
}

static graft_next on_response(graft_req *req, void *state)
{
    if (query_number(req, "serial-mw", 0))
        critical(state, "on_response", query_number(req, "ms", 2));
    return GRAFT_NEXT;
}

static void on_finish(graft_req *req, void *state)
{
    if (query_number(req, "serial-mw", 0))
        critical(state, "on_finish", query_number(req, "ms", 2));
}

GRAFT_PLUGIN(
    .flags       = GRAFT_SERIAL,
    .name        = "serial",
    .version     = VERSION,
    .scratch_size = sizeof(struct stream),
    .init        = init,
    .routes      = (const graft_route[]){ { "GET", "/serial", handler, 0 },
                                          { "GET", "/serial/later", later, 0 },
                                          { "POST", "/serial/up", up, GRAFT_STREAM },
                                          { "GET", "/serial/down", down, 0 },
                                          { 0 } },
    .on_request  = on_request,
    .on_response = on_response,
    .on_finish   = on_finish,
)
