/* What the test's clients send: heads and bodies are composed here and put into the connection. */
#include "bottle.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static size_t window = SIZE_MAX;

static void put(graft_test_req *r, const void *data, size_t len)
{
    if (buf_add(&r->in, data, len) != 0)
        give_up("no memory for a request");
}

static void put_z(graft_test_req *r, const char *z)
{
    put(r, z, strlen(z));
}

static bool is_field(const char *line, const char *name)
{
    size_t len = strlen(name);
    return strncasecmp(line, name, len) == 0 && line[len] == ':';
}

enum body_kind { NO_BODY, WHOLE_BODY, BODY_FOLLOWS };

/* The head; `lines` up to its NULL. */
static graft_test_req *begin(const char *method, const char *target, va_list lines,
                             enum body_kind kind, size_t len)
{
    char text[64];
    bool host = false, length = false;
    if (method == NULL || target == NULL)
        give_up("a request needs a method and a target: one of them is NULL");
    graft_test_req *r = client_new(window);
    r->is_head = strcmp(method, "HEAD") == 0;
    put_z(r, method);
    put_z(r, " ");
    put_z(r, target);
    put_z(r, " HTTP/1.1\r\n");
    for (const char *line; (line = va_arg(lines, const char *)) != NULL;) {
        host = host || is_field(line, "Host");
        length = length || is_field(line, "Content-Length");
        put_z(r, line);
        put_z(r, "\r\n");
    }
    if (!host)
        put_z(r, "Host: test\r\n");
    r->chunked = kind == BODY_FOLLOWS && !length;
    if (r->chunked)
        put_z(r, "Transfer-Encoding: chunked\r\n");
    snprintf(text, sizeof text, "Content-Length: %zu\r\n", len);
    if (kind == WHOLE_BODY && !length)
        put_z(r, text);
    put_z(r, "\r\n");
    return r;
}

graft_test_req *graft_test_request_(const char *method, const char *target, ...)
{
    va_list lines;
    bottle_enter("graft_test_request");
    va_start(lines, target);
    graft_test_req *r = begin(method, target, lines, NO_BODY, 0);
    va_end(lines);
    settle();
    return r;
}

graft_test_req *graft_test_request_body_(const char *method, const char *target, const void *body,
                                         size_t len, ...)
{
    va_list lines;
    bottle_enter("graft_test_request_body");
    va_start(lines, len);
    graft_test_req *r = begin(method, target, lines, WHOLE_BODY, len);
    va_end(lines);
    put(r, body, len);
    settle();
    return r;
}

graft_test_req *graft_test_open_(const char *method, const char *target, ...)
{
    va_list lines;
    bottle_enter("graft_test_open");
    va_start(lines, target);
    graft_test_req *r = begin(method, target, lines, BODY_FOLLOWS, 0);
    va_end(lines);
    settle();
    return r;
}

void graft_test_send(graft_test_req *r, const void *data, size_t len)
{
    char size[32];
    bottle_enter("graft_test_send");
    client_check(r, "graft_test_send");
    if (len == 0)
        return;
    snprintf(size, sizeof size, "%zx\r\n", len);
    if (r->chunked)
        put_z(r, size);
    put(r, data, len);
    if (r->chunked)
        put_z(r, "\r\n");
    settle();
}

void graft_test_send_end(graft_test_req *r)
{
    bottle_enter("graft_test_send_end");
    client_check(r, "graft_test_send_end");
    if (r->chunked)
        put_z(r, "0\r\n\r\n");
    settle();
}

graft_test_req *graft_test_raw(const void *data, size_t len)
{
    bottle_enter("graft_test_raw");
    graft_test_req *r = client_new(window);
    r->is_head = len > 5 && memcmp(data, "HEAD ", 5) == 0;
    put(r, data, len);
    settle();
    return r;
}

void graft_test_hangup(graft_test_req *r)
{
    bottle_enter("graft_test_hangup");
    client_check(r, "graft_test_hangup");
    r->fin = true;
    settle();
}

void graft_test_window(size_t bytes)
{
    window = bytes;
}

void graft_test_take(graft_test_req *r, size_t bytes)
{
    bottle_enter("graft_test_take");
    client_check(r, "graft_test_take");
    bool all = bytes == SIZE_MAX || r->window >= SIZE_MAX - bytes;
    r->window = all ? SIZE_MAX : r->window + bytes;
    settle();
}

/* A client that is gone takes everything: what the server still has for it goes nowhere. */
void graft_test_forget(graft_test_req *r)
{
    bottle_enter("graft_test_forget");
    client_check(r, "graft_test_forget");
    r->fin = true;
    r->window = SIZE_MAX;
    settle();
    if (r->conn != NULL) {
        struct played was = play(ON_WORKER_THREAD, r->worker->loop.number);
        loop_enter(&r->worker->loop);
        if (conn_is_open(r->conn))
            r->conn->all->ops->broken(r->conn, OUT_BROKEN, "the client reset the connection");
        if (r->conn != NULL)
            conn_close(r->conn, true, false);
        loop_leave(&r->worker->loop);
        play_again(was);
        settle();
    }
    list_del(&r->node);
    buf_fini(&r->in);
    buf_fini(&r->out);
    answer_free(r->answer);
    free(r);
}
