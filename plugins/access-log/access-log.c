/*
 * access-log: middleware that writes one line for each request into the server's log.
 *
 * It works in on_finish, when the request is over and status, bytes and time are final; that runs
 * for requests that were cut off, too. graft_log never waits: when the log's reader is slow, lines
 * are dropped and counted, and no request is late. Configuration, all optional:
 *     "config": { "format": "json" or "text", "sample": 100 }
 * With "sample": n each worker logs every n-th request, and every one that ended with 5xx.
 */
#include <graft/graft.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One worker's counter, alone on its cache line so that workers do not slow each other down. */
struct seen {
    _Alignas(64) uint64_t count;
};

struct access_log {
    bool json;
    uint64_t sample;
    struct seen *seen; /* by worker number */
};

static int init(graft_self *self, void **state)
{
    const char *format = graft_config_str(self, "format", "json");
    if (strcmp(format, "json") != 0 && strcmp(format, "text") != 0)
        return graft_fail(self, "config.format is \"%s\", expected \"json\" or \"text\"", format);
    int64_t sample = graft_config_int(self, "sample", 1);
    if (sample < 1)
        return graft_fail(self, "config.sample is %" PRId64 ", expected 1 or more", sample);

    size_t bytes = graft_workers(self) * sizeof(struct seen);
    struct access_log *log = malloc(sizeof *log);
    struct seen *seen = aligned_alloc(_Alignof(struct seen), bytes);
    if (!log || !seen) {
        free(seen);
        free(log);
        return graft_fail(self, "no memory");
    }
    memset(seen, 0, bytes);
    *log = (struct access_log){ strcmp(format, "json") == 0, (uint64_t)sample, seen };
    *state = log;
    return 0;
}

static void fini(graft_self *self, void *state)
{
    (void)self;
    struct access_log *log = state;
    free(log->seen);
    free(log);
}

/* Copies `in` as it may stand in a line and in a JSON string: what is not plain ASCII becomes %XX,
 * and what is too long is cut. */
static const char *plain(graft_str in, char *out, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < in.len && used + 4 < size; i++) {
        unsigned char c = (unsigned char)in.ptr[i];
        if (c > 0x20 && c < 0x7f && c != '"' && c != '\\')
            out[used++] = (char)c;
        else
            used += (size_t)snprintf(out + used, size - used, "%%%02X", c);
    }
    out[used] = '\0';
    return out;
}

/* Both take the same arguments in the same order. */
#define JSON_LINE                                                                                  \
    "{\"method\":\"%s\",\"path\":\"%s\",\"status\":%d,\"bytes\":%" PRIu64                          \
    ",\"elapsed_us\":%" PRIu64 ",\"route\":\"%s\",\"peer\":\"%s\",\"id\":\"%s\"}"
#define TEXT_LINE "%s %s %d %" PRIu64 " B %" PRIu64 " us route=%s peer=%s id=%s"

static bool wanted(struct access_log *log, graft_self *self, int status)
{
    uint64_t nth = log->seen[graft_worker(self)].count++;
    return status >= 500 || nth % log->sample == 0;
}

static void on_finish(graft_req *req, void *state)
{
    struct access_log *log = state;
    graft_self *self = graft_self_of(req);
    int status = graft_response_status(req);
    if (!wanted(log, self, status))
        return;

    char method[32], path[512], route[128], peer[64], id[64];
    graft_log(self, GRAFT_INFO, log->json ? JSON_LINE : TEXT_LINE,
              plain(graft_method(req), method, sizeof method),
              plain(graft_path(req), path, sizeof path), status, graft_response_bytes(req),
              graft_elapsed_us(req), plain(graft_route_pattern(req), route, sizeof route),
              plain(graft_peer(req), peer, sizeof peer),
              plain(graft_request_id(req), id, sizeof id));
}

GRAFT_PLUGIN(
    .name      = "access-log",
    .version   = "1.0.0",
    .summary   = "Logs one line for each request.",
    .init      = init,
    .fini      = fini,
    .on_finish = on_finish,
)
