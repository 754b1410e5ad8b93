/* ops/web.c and ops/web_parse.c: strict requests, bounded connections, late answers. */
#include "tap.h"

#include "base/clock.h"
#include "ops/web.h"
#include "ops/web_parse.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

/* -- parsing -- */

static int parse(const char *head, struct web_head *out)
{
    static char text[4096]; /* the fields point into it */
    const char *why = "";
    snprintf(text, sizeof text, "%s", head);
    return web_parse(text, strlen(text), out, &why);
}

TEST(parses_a_request)
{
    struct web_head h;
    is(parse("POST /v1/reload?retry=1&a%20b=c+d&x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
             &h),
       0);
    is_str(h.method, "POST");
    is_str(h.path, "/v1/reload");
    is(h.nfields, 3);
    is_str(h.fields[0].name, "retry");
    is_str(h.fields[0].value, "1");
    is_str(h.fields[1].name, "a b");
    is_str(h.fields[1].value, "c d");
    is_str(h.fields[2].name, "x");
    is_str(h.fields[2].value, "");
    is(h.body_len, 5);
}

TEST(refuses_bad_requests)
{
    static const struct {
        int status;
        const char *head;
    } cases[] = {
        { 400, "GET\r\n\r\n" },
        { 400, " / HTTP/1.1\r\nHost: h\r\n\r\n" },
        { 400, "GET  / HTTP/1.1\r\nHost: h\r\n\r\n" },
        { 505, "GET / HTTP/2.0\r\nHost: h\r\n\r\n" },
        { 505, "GET / HTTP/1.1 \r\nHost: h\r\n\r\n" },
        { 400, "GET x HTTP/1.1\r\nHost: h\r\n\r\n" },
        { 501, "get / HTTP/1.1\r\nHost: h\r\n\r\n" },
        { 400, "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n" },
        { 400, "GET /%0 HTTP/1.1\r\nHost: h\r\n\r\n" },
        { 400, "GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n" },
        { 400, "GET /?a=%0a HTTP/1.1\r\nHost: h\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n" },
        { 400, "GET / HTTP/1.1\nHost: h\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nHost: h\rx\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nHost : h\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\n Host: h\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n" },
        { 400, "GET / HTTP/1.1\r\nHost: h\r\n: v\r\n\r\n" },
        { 400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n" },
        { 400, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n" },
        { 413, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n" },
        { 501, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" },
        { 400, "GET /?a&b&c&d&e&f&g&h&i&j&k&l&m&n&o&p&q HTTP/1.1\r\nHost: h\r\n\r\n" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct web_head h;
        int status = parse(cases[i].head, &h);
        if (!is(status, cases[i].status))
            fprintf(stderr, "# %s", cases[i].head);
    }
    struct web_head h;
    is(parse("GET / HTTP/1.0\r\n\r\n", &h), 0); /* 1.0 needs no Host */
}

/* -- serving: the server runs in this thread, clients are raw sockets -- */

static struct event_base *base;
static struct web *web;
static struct web_request *kept;
static char path[108];

static void handle(struct web_request *req, void *arg)
{
    (void)arg;
    const struct web_field *fields;
    struct buf body = { 0 };
    if (strcmp(web_path(req), "/later") == 0) {
        kept = req;
        return;
    }
    if (strcmp(web_path(req), "/big") == 0) {
        buf_reserve(&body, 4u << 20);
        memset(body.data, 'x', 4u << 20);
        body.len = 4u << 20;
        web_answer(req, 200, "text/plain", "X-Extra: 1\r\n", &body);
        return;
    }
    web_answer_text(req, 200, "%s %s %zu", web_method(req), web_path(req),
                    web_fields(req, &fields));
}

static void start(unsigned connections, unsigned request_ms)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    struct err err;
    snprintf(path, sizeof path, "/tmp/web_test.%d", (int)getpid());
    memcpy(sa.sun_path, path, sizeof path);
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    must(bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0 && listen(fd, 64) == 0);
    base = event_base_new();
    struct web_settings s = { base, fd, connections, request_ms, handle, NULL };
    must(web_open(&web, &s, &err) == 0);
}

static void stop(void)
{
    web_close(web);
    event_base_free(base);
    unlink(path);
}

static int dial(void)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    memcpy(sa.sun_path, path, sizeof path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0);
    return fd;
}

static void say(int fd, const char *text)
{
    must(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

static void turn(unsigned ms)
{
    struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000 };
    event_base_loopexit(base, &tv);
    event_base_dispatch(base);
}

/* Serves until the peer has closed; what it said. Static, NUL-terminated. */
static char *hear(int fd, size_t *len)
{
    static char text[8u << 20];
    size_t n = 0;
    for (uint64_t end = clock_ms() + 20000; clock_ms() < end;) {
        ssize_t got = recv(fd, text + n, sizeof text - 1 - n, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN))
            break;
        if (got > 0)
            n += (size_t)got;
        event_base_loop(base, EVLOOP_NONBLOCK);
    }
    text[n] = '\0';
    if (len != NULL)
        *len = n;
    return text;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

TEST(answers_and_closes)
{
    start(8, 5000);
    int fd = dial();
    say(fd, "GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n");
    char *text = hear(fd, NULL);
    ok(strncmp(text, "HTTP/1.1 200 OK\r\n", 17) == 0);
    ok(strstr(text, "Connection: close\r\n") != NULL);
    ok(ends_with(text, "\r\n\r\nGET /a 1"));
    close(fd);
    turn(10);
    stop();
}

TEST(takes_a_request_in_pieces_with_a_body)
{
    start(8, 5000);
    int fd = dial();
    say(fd, "POST /a HT");
    turn(10);
    say(fd, "TP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r");
    turn(10);
    say(fd, "\n12345");
    turn(10);
    say(fd, "67890");
    ok(ends_with(hear(fd, NULL), "\r\n\r\nPOST /a 0"));
    close(fd);
    stop();
}

TEST(head_has_no_body)
{
    start(8, 5000);
    int fd = dial();
    say(fd, "HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n");
    char *text = hear(fd, NULL);
    ok(strstr(text, "Content-Length: 8\r\n") != NULL);
    ok(ends_with(text, "\r\n\r\n"));
    close(fd);
    stop();
}

TEST(sends_a_big_answer_to_a_slow_reader)
{
    size_t len;
    start(8, 20000);
    int fd = dial(), small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say(fd, "GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
    turn(20);
    is(web_busy(web), 1);
    char *text = hear(fd, &len);
    char *body = strstr(text, "\r\n\r\n");
    must(body != NULL);
    is(len - (size_t)(body + 4 - text), 4 << 20);
    is(web_busy(web), 0);
    close(fd);
    stop();
}

TEST(answers_later)
{
    start(8, 100);
    int fd = dial();
    say(fd, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    turn(300); /* longer than request_ms: waiting for us has no deadline */
    must(kept != NULL);
    web_answer_text(kept, 503, "at last");
    char *text = hear(fd, NULL);
    ok(strncmp(text, "HTTP/1.1 503 ", 13) == 0 && ends_with(text, "at last"));
    close(fd);
    stop();
}

TEST(answers_later_to_nobody)
{
    start(8, 5000);
    int fd = dial();
    say(fd, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    turn(20);
    must(kept != NULL);
    close(fd);
    turn(20);
    web_answer_text(kept, 200, "too late");
    turn(20);
    stop();
}

TEST(answers_after_the_close)
{
    start(8, 5000);
    int fd = dial();
    say(fd, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    turn(20);
    must(kept != NULL);
    stop();
    web_answer_text(kept, 200, "too late");
    close(fd);
}

TEST(a_slow_sender_is_cut_off)
{
    start(8, 100);
    int fd = dial();
    say(fd, "GET / HTTP/1.1\r\n");
    size_t len;
    hear(fd, &len); /* ends when the server closes */
    is(len, 0);
    close(fd);
    stop();
}

TEST(a_head_without_end_is_refused)
{
    start(8, 5000);
    int fd = dial();
    char line[1024];
    memset(line, 'a', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    for (int i = 0; i < 18; i++)
        say(fd, line);
    ok(strncmp(hear(fd, NULL), "HTTP/1.1 431 ", 13) == 0);
    close(fd);
    stop();
}

/* Sixteen idle connections hold all places: one that asks is served nevertheless. */
TEST(idle_connections_lose_their_places)
{
    int idle[16];
    start(4, 20000);
    for (size_t i = 0; i < ARRAY_LEN(idle); i++)
        idle[i] = dial();
    turn(20);
    int fd = dial();
    say(fd, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    ok(ends_with(hear(fd, NULL), "GET /a 0"));
    close(fd);
    for (size_t i = 0; i < ARRAY_LEN(idle); i++)
        close(idle[i]);
    stop();
}
