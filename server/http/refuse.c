/* Answers to what never became a request: the guard's refusals, heads that do not come, bad
 * framing. */
#include "http/session_private.h"

#include "base/escape.h"
#include "base/log.h"
#include "http/status.h"

#include <stdio.h>

#define REFUSED_PER_SECOND 10

static COLD void log_refused(struct session *s, unsigned status, const char *why)
{
    struct http *h = s->http;
    uint64_t second = h->now_us / 1000000u;
    if (second != h->refused_second) {
        h->refused_second = second;
        h->refused_logged = 0;
    }
    if (h->refused_logged++ >= REFUSED_PER_SECOND || !log_on(LOG_WARN))
        return;
    char peer[ADDR_TEXT_MAX];
    conn_peer(&s->conn, peer);
    struct log_line l;
    log_begin(&l, LOG_WARN, "refused", "refused a request: %s", why);
    log_u64(&l, "status", status);
    log_z(&l, "why", why);
    log_z(&l, "peer", peer);
    log_end(&l);
}

/* Does the refused head begin like one whose answer has no body? */
static bool asks_head(struct str in)
{
    while (in.len >= 2 && in.ptr[0] == '\r' && in.ptr[1] == '\n') {
        in.ptr += 2;
        in.len -= 2;
    }
    return in.len >= 5 && memcmp(in.ptr, "HEAD ", 5) == 0;
}

static size_t problem(char *body, size_t room, unsigned status, const char *why)
{
    char detail[160];
    size_t used, len = escape(detail, sizeof detail, str_of(why), ESCAPE_STRING, &used);
    const char *reason = status_reason(status);
    int n = snprintf(body, room, "{\"title\":\"%s\",\"status\":%u,\"detail\":\"%.*s\"}\n",
                     reason ? reason : "", status, (int)len, detail);
    return n > 0 && (size_t)n < room ? (size_t)n : 0;
}

void session_refuse(struct session *s, unsigned status, const char *why, struct str in)
{
    struct http *h = s->http;
    bool bodyless = asks_head(in);
    COUNTER_ADD(h->conns.loop->stats.refused, 1);
    COUNTER_ADD(h->conns.loop->stats.responses[status / 100], 1);
    log_refused(s, status, why);
    char body[320], head[512];
    const char *reason = status_reason(status);
    size_t blen = problem(body, sizeof body, status, why);
    int hlen = snprintf(head, sizeof head,
                        "HTTP/1.1 %u %s\r\n%sContent-Type: application/problem+json\r\n"
                        "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                        status, reason ? reason : "", http_lines(h), blen);
    if (hlen > 0 && (size_t)hlen < sizeof head &&
        out_copy(&s->conn.out, NULL, head, (size_t)hlen) == 0 &&
        (bodyless || blen == 0 || out_copy(&s->conn.out, NULL, body, blen) == 0))
        conn_linger(&s->conn, LINGER_MS);
    else
        conn_close(&s->conn, false, true);
}
