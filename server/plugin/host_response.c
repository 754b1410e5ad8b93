/* See host.h. Here: the response. */
#include "plugin/host.h"

#include "http/field.h"

#include <stdio.h>
#include <unistd.h>

/* The exchange whose response this plugin may change now, or NULL. */
static HOT struct exchange *open_response(graft_req *req, const char *function)
{
    struct exchange *x = host_exchange(req, function);
    return x && exchange_is_writable(x, handle_of(req)) ? x : NULL;
}

bool exchange_is_writable(const struct exchange *x, const struct handle *h)
{
    if (x->over || x->response_state == RESPONSE_SEALED || x->finishing)
        return false;
    return !x->replaced || x->responding == h;
}

/* graft_send_file, graft_text and so on with a status that is none: the plugin is to blame. */
static COLD void blame(struct exchange *x, struct handle *h, const char *what, int code)
{
    handle_misuse(h, "%s: status %d is not within 200..599", what, code);
    if (!x->request.response.head_sent)
        exchange_answer(x, 500, "the plugin set an impossible status");
}

static int host_status(graft_req *req, int code)
{
    struct exchange *x = open_response(req, "graft_status");
    if (!x)
        return -1;
    if (code < 200 || code > 599) {
        blame(x, handle_of(req), "graft_status", code);
        return -1;
    }
    if (x->request.response.head_sent)
        return -1;
    x->request.response.status = (unsigned)code;
    return 0;
}

static int change_field(graft_req *req, enum field_how how, const char *name, const char *value,
                        const char *function)
{
    struct exchange *x = open_response(req, function);
    if (!x || !name || !value || x->request.response.head_sent)
        return -1;
    return response_field(&x->request, how, str_of(name), str_of(value), NULL);
}

static int host_set_header(graft_req *req, const char *name, const char *value)
{
    return change_field(req, FIELD_SET, name, value, "graft_set_header");
}

static int host_add_header(graft_req *req, const char *name, const char *value)
{
    return change_field(req, FIELD_ADD, name, value, "graft_add_header");
}

static int host_remove_header(graft_req *req, const char *name)
{
    struct exchange *x = open_response(req, "graft_remove_header");
    if (!x || !name || x->request.response.head_sent)
        return -1;
    return response_field_remove(&x->request, str_of(name));
}

/* May `len` more bytes be written? Content-Length is a promise. */
static bool fits(struct exchange *x, struct handle *h, uint64_t len)
{
    const struct response *p = &x->request.response;
    if (p->promised < 0 || len <= (uint64_t)p->promised - p->written)
        return true;
    handle_misuse(h, "more was written than Content-Length promised (%lld)",
                  (long long)p->promised);
    return false;
}

/* `len` bytes were taken: 0, or 1 when more than limits.send_bytes waits. */
static int taken(struct exchange *x, struct handle *h, uint64_t len)
{
    x->request.response.written += len;
    if (response_pending(&x->request) <= x->chain->http->limits.send_bytes)
        return 0;
    h->blocked = true;
    exchange_wake(x);
    return 1;
}

static HOT int write_copy(struct exchange *x, struct handle *h, const void *data, size_t len)
{
    struct request *r = &x->request;
    if (len == 0)
        return 0;
    if (!data || !fits(x, h, len))
        return -1;
    struct arena *arena = r->response.head_sent ? NULL : &r->arena;
    return out_copy(&r->response.body, arena, data, len) == 0 ? taken(x, h, len) : -1;
}

static int host_write(graft_req *req, const void *data, size_t len)
{
    struct exchange *x = open_response(req, "graft_write");
    return x ? write_copy(x, handle_of(req), data, len) : -1;
}

static int host_write_static(graft_req *req, const void *data, size_t len)
{
    struct exchange *x = open_response(req, "graft_write_static");
    struct handle *h = handle_of(req);
    if (!x)
        return -1;
    if (len == 0)
        return 0;
    if (!data || !fits(x, h, len))
        return -1;
    return out_borrow(&x->request.response.body, data, len) == 0 ? taken(x, h, len) : -1;
}

static int host_vprintf(graft_req *req, const char *fmt, va_list args)
{
    struct exchange *x = open_response(req, "graft_printf");
    struct handle *h = handle_of(req);
    if (!x || !fmt)
        return -1;
    struct request *r = &x->request;
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (len <= 0)
        return len;
    if (!fits(x, h, (uint64_t)len))
        return -1;
    struct arena *arena = r->response.head_sent ? NULL : &r->arena;
    char *to = out_room(&r->response.body, arena, (size_t)len + 1);
    if (!to)
        return -1;
    vsnprintf(to, (size_t)len + 1, fmt, args);
    out_commit(&r->response.body, (size_t)len);
    return taken(x, h, (uint64_t)len);
}

static int host_send_file(graft_req *req, int fd, int64_t offset, uint64_t len)
{
    struct exchange *x = open_response(req, "graft_send_file");
    struct handle *h = handle_of(req);
    if (!x || fd < 0 || offset < 0 || len > INT64_MAX || !fits(x, h, len)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    if (out_file(&x->request.response.body, fd, offset, len) != 0)
        return -1;
    return taken(x, h, len);
}

static int host_flush(graft_req *req)
{
    struct exchange *x = open_response(req, "graft_flush");
    if (!x)
        return -1;
    x->flush = true;
    exchange_wake(x);
    return taken(x, handle_of(req), 0);
}

/* graft_text and its like: replaces what has not left. */
static HOT graft_next whole(graft_req *req, int code, struct str type, const char *data, size_t len,
                            const char *function)
{
    struct exchange *x = open_response(req, function);
    if (!x)
        return GRAFT_DONE;
    struct request *r = &x->request;
    struct response *p = &r->response;
    if (code < 200 || code > 599) {
        blame(x, handle_of(req), function, code);
        return GRAFT_DONE;
    }
    p->written -= p->body.bytes < p->written ? p->body.bytes : p->written;
    out_drop(&p->body);
    bool complete = true;
    if (!p->head_sent) {
        p->status = (unsigned)code;
        complete = response_type(r, type) == 0;
    }
    complete = write_copy(x, handle_of(req), data, len) >= 0 && complete;
    if (!complete && !p->head_sent && (data || len == 0)) /* not a 200 without its body */
        exchange_answer(x, 503, "no memory for the response");
    return GRAFT_DONE;
}

static HOT graft_next host_text(graft_req *req, int code, const char *text)
{
    return whole(req, code, CONTENT_TYPE("text/plain; charset=utf-8"), text,
                 text ? strlen(text) : 0, "graft_text");
}

static graft_next host_json(graft_req *req, int code, const char *json, size_t len)
{
    return whole(req, code, CONTENT_TYPE("application/json"), json, json ? len : 0, "graft_json");
}

static graft_next host_error(graft_req *req, int code, const char *detail)
{
    struct exchange *x = open_response(req, "graft_error");
    if (!x)
        return GRAFT_DONE;
    if (code < 200 || code > 599) {
        blame(x, handle_of(req), "graft_error", code);
        return GRAFT_DONE;
    }
    if (x->request.response.head_sent) {
        char text[PROBLEM_MAX];
        size_t len = response_problem_text(text, (unsigned)code, detail);
        return whole(req, code, STR(""), text, len, "graft_error");
    }
    response_problem_keep(&x->request, (unsigned)code, detail);
    return GRAFT_DONE;
}

static int host_response_status(const graft_req *req)
{
    const struct exchange *x = host_exchange(req, "graft_response_status");
    return x ? (int)x->request.response.status : 0;
}

static graft_str host_response_header(const graft_req *req, const char *name)
{
    const struct exchange *x = host_exchange(req, "graft_response_header");
    if (!x || !name)
        return (graft_str){ NULL, 0 };
    return to_graft(response_field_get(&x->request, str_of(name)));
}

static graft_str host_response_body(graft_req *req)
{
    struct exchange *x = host_exchange(req, "graft_response_body");
    if (!x || x->over)
        return (graft_str){ NULL, 0 };
    struct request *r = &x->request;
    const struct outq *q = &r->response.body;
    if (out_has_file(q))
        return (graft_str){ NULL, 0 };
    if (q->bytes == 0)
        return (graft_str){ "", 0 };
    if (q->first->len == q->bytes)
        return (graft_str){ q->first->ptr, (size_t)q->bytes };
    char *copy = arena_alloc(&r->arena, (size_t)q->bytes);
    if (!copy)
        return (graft_str){ NULL, 0 };
    out_gather(q, copy);
    return (graft_str){ copy, (size_t)q->bytes };
}

static int host_reset_response(graft_req *req)
{
    struct exchange *x = open_response(req, "graft_reset_response");
    if (!x || x->request.response.head_sent)
        return -1;
    response_reset(&x->request);
    return 0;
}

static bool host_streaming(const graft_req *req)
{
    const struct exchange *x = host_exchange(req, "graft_streaming");
    if (!x)
        return false;
    return (x->request.response.head_sent && !x->request.response.done) ||
           x->request.response.chunked || x->request.response.until_eof || x->flush;
}

static uint64_t host_response_bytes(const graft_req *req)
{
    const struct exchange *x = host_exchange(req, "graft_response_bytes");
    if (!x)
        return 0;
    return x->over ? x->bytes_out : x->request.response.sent;
}

static uint64_t host_elapsed_us(const graft_req *req)
{
    const struct exchange *x = host_exchange(req, "graft_elapsed_us");
    if (!x)
        return 0;
    return (x->over ? x->over_us : clock_us()) - x->request.start_us;
}

void host_fill_response(graft_host *host)
{
    host->status = host_status;
    host->set_header = host_set_header;
    host->add_header = host_add_header;
    host->remove_header = host_remove_header;
    host->write = host_write;
    host->write_static = host_write_static;
    host->vprintf = host_vprintf;
    host->send_file = host_send_file;
    host->flush = host_flush;
    host->text = host_text;
    host->json = host_json;
    host->error = host_error;
    host->response_status = host_response_status;
    host->response_header = host_response_header;
    host->response_body = host_response_body;
    host->reset_response = host_reset_response;
    host->streaming = host_streaming;
    host->response_bytes = host_response_bytes;
    host->elapsed_us = host_elapsed_us;
}
