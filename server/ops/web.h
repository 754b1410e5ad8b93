/*
 * A small HTTP/1.1 server for the control thread: the ops address and the control socket. It is
 * not made for load but for being there: everything is bounded (connections, bytes of a request,
 * time), nothing blocks, and when all places are taken the slowest sender loses its own. One
 * request a connection; every answer closes.
 *
 *   READING -> HANDLING (answered now or later) -> WRITING -> CLOSING (reads what is left) -> freed
 */
#ifndef GRAFT_OPS_WEB_H
#define GRAFT_OPS_WEB_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

#include <event2/event.h>

struct web;
struct web_request;

struct web_settings {
    struct event_base *base;
    int fd;               /* listening, non-blocking; the web's from then on */
    unsigned connections; /* at most so many at a time */
    unsigned request_ms;  /* for sending the whole request, and again for taking the answer */
    /* Answers by web_answer, now or later, exactly once. */
    void (*handle)(struct web_request *req, void *arg);
    void *arg;
};

/* 0, or -1 with the reason; the descriptor is closed then. Control. */
int web_open(struct web **out, const struct web_settings *settings, struct err *err);

/* Closes the listening socket and every connection. Requests that wait for an answer are freed
   when they get it. Takes NULL. */
void web_close(struct web *web);

/* Whether new connections are taken; those there are go on. At first: yes. */
void web_accept(struct web *web, bool on);

/* Connections that still take their answer. */
unsigned web_busy(const struct web *web);

/* Valid until the answer. The path is percent-decoded; HEAD appears as GET. */
const char *web_method(const struct web_request *req);
const char *web_path(const struct web_request *req);

/* The connected socket, to ask who is at its other end. */
int web_fd(const struct web_request *req);

/* The fields of the query, decoded, in their order. */
#define WEB_FIELDS_MAX 16
struct web_field {
    const char *name, *value; /* value "" when there is no '=' */
};
size_t web_fields(const struct web_request *req, const struct web_field **out);

/* Answers and forgets the request. `type` and `extra` (NULL, or header lines each ending in CRLF)
   are literals; `body` is emptied. */
void web_answer(struct web_request *req, int status, const char *type, const char *extra,
                struct buf *body);
void web_answer_text(struct web_request *req, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
