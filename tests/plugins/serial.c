/*
 * GRAFT_SERIAL: one callback at a time for all versions of the plugin "serial". Built as
 * serial_v1.so and serial_v2.so. Each callback holds the lock file config.lock while it runs (two
 * versions have no memory in common) and counts how often somebody else held it already.
 *
 *     GET /serial?ms=2         the handler sleeps; "VERSION calls=N overlaps=N"
 *     GET /serial/later?ms=2   the same from a timer, a post and an offload's then
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
    .init        = init,
    .routes      = (const graft_route[]){ { "GET", "/serial", handler, 0 },
                                          { "GET", "/serial/later", later, 0 },
                                          { 0 } },
    .on_request  = on_request,
    .on_response = on_response,
    .on_finish   = on_finish,
)
