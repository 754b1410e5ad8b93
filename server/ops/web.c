/*
 * Connections of the small HTTP server. Control thread only. Invariant: a connection is on its
 * web's list from accept to free, in the order of accepting, and `web->open` counts them; one that
 * waits for its answer (HANDLING) is freed only by web_answer.
 */
#include "ops/web.h"

#include "base/list.h"
#include "ops/web_parse.h"

#include <errno.h>
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define WEB_MAGIC         0x77656220u
#define WEB_REQUEST_MAGIC 0x77657271u
#define HEAD_MAX          16384 /* refuse() says so */
#define CLOSING_MS        1000  /* how long the client may still talk after our answer */

enum state { READING, HANDLING, WRITING, CLOSING };

struct web {
    unsigned magic;
    struct web_settings settings;
    struct event accept;
    struct event resume; /* accepting again after the descriptors had run out */
    struct list connections;
    unsigned open;
    bool paused;
};

struct web_request {
    unsigned magic;
    struct web *web; /* NULL: closed while this one waited for its answer */
    struct list node;
    enum state state;
    int fd;
    bool head_only; /* HEAD */
    struct event event;
    struct event deadline;
    struct buf in;
    size_t body_left;
    struct web_head head; /* points into `in` */
    struct buf out;
    size_t sent;
};

static void on_event(evutil_socket_t fd, short what, void *arg);

static void request_free(struct web_request *req)
{
    CHECK(req, WEB_REQUEST_MAGIC);
    if (req->web != NULL) {
        list_del(&req->node);
        req->web->open--;
        event_del(&req->event);
        event_del(&req->deadline);
    }
    if (req->fd >= 0)
        close(req->fd);
    buf_fini(&req->in);
    buf_fini(&req->out);
    req->magic = 0;
    free(req);
}

static int set_deadline(struct web_request *req, unsigned ms)
{
    struct timeval tv = { .tv_sec = (time_t)(ms / 1000),
                          .tv_usec = (suseconds_t)(ms % 1000) * 1000 };
    return event_add(&req->deadline, &tv);
}

static void wait_for(struct web_request *req, short what)
{
    event_del(&req->event);
    event_assign(&req->event, req->web->settings.base, req->fd, (short)(what | EV_PERSIST),
                 on_event, req);
    event_add(&req->event, NULL);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct web_request *req = arg;
    CHECK(req, WEB_REQUEST_MAGIC);
    REQUIRE(req->state != HANDLING);
    request_free(req);
}

/* The answer is out: what the client still sends is read and dropped, so that closing does not
   reset the connection and take the answer with it. */
static void drop_input(struct web_request *req)
{
    char scratch[4096];
    for (int i = 0; i < 16; i++) {
        ssize_t n = recv(req->fd, scratch, sizeof scratch, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            request_free(req);
            return;
        }
    }
}

static void write_more(struct web_request *req)
{
    while (req->sent < req->out.len) {
        ssize_t n =
            send(req->fd, req->out.data + req->sent, req->out.len - req->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            request_free(req);
            return;
        }
        req->sent += (size_t)n;
    }
    req->state = CLOSING;
    shutdown(req->fd, SHUT_WR);
    wait_for(req, EV_READ);
    set_deadline(req, CLOSING_MS);
}

static const char *reason_phrase(int status)
{
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        { 200, "OK" },
        { 400, "Bad Request" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 409, "Conflict" },
        { 413, "Content Too Large" },
        { 431, "Request Header Fields Too Large" },
        { 500, "Internal Server Error" },
        { 501, "Not Implemented" },
        { 503, "Service Unavailable" },
        { 505, "HTTP Version Not Supported" },
    };
    for (size_t i = 0; i < ARRAY_LEN(phrases); i++)
        if (phrases[i].status == status)
            return phrases[i].phrase;
    return "";
}

void web_answer(struct web_request *req, int status, const char *type, const char *extra,
                struct buf *body)
{
    CHECK(req, WEB_REQUEST_MAGIC);
    REQUIRE(req->state == READING || req->state == HANDLING);
    int rc = buf_printf(&req->out,
                        "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%s"
                        "Connection: close\r\n\r\n",
                        status, reason_phrase(status), type, body->len, extra != NULL ? extra : "");
    if (rc == 0 && !req->head_only)
        rc = buf_add(&req->out, body->data, body->len);
    buf_fini(body);
    if (rc != 0 || req->web == NULL) {
        request_free(req);
        return;
    }
    req->state = WRITING;
    set_deadline(req, req->web->settings.request_ms);
    wait_for(req, EV_WRITE); /* written from the loop: the handler may still look at the request */
}

void web_answer_text(struct web_request *req, int status, const char *fmt, ...)
{
    struct buf body = { 0 };
    va_list ap;
    va_start(ap, fmt);
    int rc = buf_vprintf(&body, fmt, ap);
    va_end(ap);
    (void)rc; /* no memory: an empty body */
    web_answer(req, status, "text/plain; charset=utf-8", NULL, &body);
}

static void handle(struct web_request *req)
{
    event_del(&req->event);
    event_del(&req->deadline);
    req->state = HANDLING;
    req->head_only = strcmp(req->head.method, "HEAD") == 0;
    if (req->head_only)
        req->head.method = "GET";
    req->web->settings.handle(req, req->web->settings.arg);
}

/* Does what was read begin like a request whose answer has no body? Also while it is half cut. */
static bool asks_head(const struct web_request *req)
{
    const char *p = req->in.data;
    return req->in.len > 4 && memcmp(p, "HEAD", 4) == 0 && (p[4] == ' ' || p[4] == '\0');
}

/* The request cannot be taken: says why. */
static void refuse(struct web_request *req, int status, const char *why)
{
    req->head_only = asks_head(req);
    web_answer_text(req, status, "Bad request: %s.\n", why);
}

/* Looks for the end of the head, and then of the body. */
static void advance(struct web_request *req, size_t new_bytes)
{
    if (req->head.method != NULL) {
        req->body_left -= new_bytes < req->body_left ? new_bytes : req->body_left;
        req->in.len -= new_bytes; /* the head stays, a body is dropped */
    } else {
        size_t from = req->in.len - new_bytes;
        from = from > 3 ? from - 3 : 0;
        char *end = memmem(req->in.data + from, req->in.len - from, "\r\n\r\n", 4);
        if (end == NULL) {
            if (req->in.len > HEAD_MAX)
                refuse(req, 431, "the head is longer than 16384 bytes");
            return;
        }
        size_t head_len = (size_t)(end + 4 - req->in.data), rest = req->in.len - head_len;
        const char *why = "";
        int status = web_parse(req->in.data, head_len, &req->head, &why);
        if (status != 0) {
            refuse(req, status, why);
            return;
        }
        req->body_left =
            req->head.body_len - (rest < req->head.body_len ? rest : req->head.body_len);
        req->in.len = head_len;
    }
    if (req->body_left == 0)
        handle(req);
}

/* Reads once a turn. The buffer must not move once the head points into it: it is reserved whole.
 */
static void read_more(struct web_request *req)
{
    size_t room = req->in.cap - req->in.len - 1;
    ssize_t n = recv(req->fd, req->in.data + req->in.len, room, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        request_free(req);
        return;
    }
    req->in.len += (size_t)n;
    req->in.data[req->in.len] = '\0';
    advance(req, (size_t)n);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct web_request *req = arg;
    CHECK(req, WEB_REQUEST_MAGIC);
    if (req->state == READING)
        read_more(req);
    else if (req->state == WRITING)
        write_more(req);
    else
        drop_input(req);
}

/* All places are taken: the connection that has been sending, or taking its answer, for the longest
   loses its own. False when all wait for answers of ours. */
static bool make_room(struct web *web)
{
    list_each (it, &web->connections) {
        struct web_request *req = list_entry(it, struct web_request, node);
        if (req->state != HANDLING) {
            request_free(req);
            return true;
        }
    }
    return false;
}

static void add_connection(struct web *web, int fd)
{
    struct web_request *req = NULL;
    if (web->open < web->settings.connections || make_room(web))
        req = calloc(1, sizeof *req);
    if (req == NULL || buf_reserve(&req->in, HEAD_MAX + 4096) != 0) {
        free(req);
        close(fd);
        return;
    }
    req->magic = WEB_REQUEST_MAGIC;
    req->web = web;
    req->fd = fd;
    list_add_tail(&web->connections, &req->node);
    web->open++;
    event_assign(&req->event, web->settings.base, fd, EV_READ | EV_PERSIST, on_event, req);
    event_assign(&req->deadline, web->settings.base, -1, 0, on_deadline, req);
    if (event_add(&req->event, NULL) != 0 || set_deadline(req, web->settings.request_ms) != 0)
        request_free(req); /* no memory: nobody would ever look after it */
}

static void on_accept(evutil_socket_t listening, short what, void *arg)
{
    (void)what;
    struct web *web = arg;
    CHECK(web, WEB_MAGIC);
    int fd = accept4((int)listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        add_connection(web, fd);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        struct timeval pause = { .tv_usec = 100000 };
        if (event_add(&web->resume, &pause) == 0)
            event_del(&web->accept);
    }
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct web *web = arg;
    struct timeval pause = { .tv_usec = 100000 };
    if (!web->paused && event_add(&web->accept, NULL) != 0)
        event_add(&web->resume, &pause);
}

int web_open(struct web **out, const struct web_settings *settings, struct err *err)
{
    struct web *web = calloc(1, sizeof *web);
    if (web == NULL) {
        close(settings->fd);
        return err_set(err, "out of memory for a listener");
    }
    web->magic = WEB_MAGIC;
    web->settings = *settings;
    list_init(&web->connections);
    event_assign(&web->accept, settings->base, settings->fd, EV_READ | EV_PERSIST, on_accept, web);
    event_assign(&web->resume, settings->base, -1, 0, on_resume, web);
    if (event_add(&web->accept, NULL) != 0) {
        free(web);
        close(settings->fd);
        return err_set(err, "out of memory for a listener");
    }
    *out = web;
    return 0;
}

void web_accept(struct web *web, bool on)
{
    if (web == NULL)
        return;
    CHECK(web, WEB_MAGIC);
    web->paused = !on;
    event_del(&web->resume);
    if (on)
        event_add(&web->accept, NULL);
    else
        event_del(&web->accept);
}

void web_close(struct web *web)
{
    if (web == NULL)
        return;
    CHECK(web, WEB_MAGIC);
    event_del(&web->accept);
    event_del(&web->resume);
    close(web->settings.fd);
    list_each_safe (it, &web->connections) {
        struct web_request *req = list_entry(it, struct web_request, node);
        if (req->state != HANDLING) {
            request_free(req);
            continue;
        }
        list_del(&req->node);
        req->web = NULL;
    }
    web->magic = 0;
    free(web);
}

unsigned web_busy(const struct web *web)
{
    unsigned n = 0;
    CHECK(web, WEB_MAGIC);
    list_each (it, &web->connections)
        if (list_entry(it, struct web_request, node)->state == WRITING)
            n++;
    return n;
}

const char *web_method(const struct web_request *req)
{
    CHECK(req, WEB_REQUEST_MAGIC);
    return req->head.method;
}

const char *web_path(const struct web_request *req)
{
    CHECK(req, WEB_REQUEST_MAGIC);
    return req->head.path;
}

int web_fd(const struct web_request *req)
{
    CHECK(req, WEB_REQUEST_MAGIC);
    return req->fd;
}

size_t web_fields(const struct web_request *req, const struct web_field **out)
{
    CHECK(req, WEB_REQUEST_MAGIC);
    *out = req->head.fields;
    return req->head.nfields;
}
