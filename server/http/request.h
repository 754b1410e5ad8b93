/*
 * One request and its response, as HTTP sees them: the head, the body on its way in, the fields and
 * bytes on their way out. Pooled by its worker and touched by that worker alone. Who answers it is
 * the business of the layer above (struct http_app, http/session.h), which embeds it.
 *
 * The response is over when it is in the kernel or was cut: then `session` is NULL and the
 * connection's next request may start. The request itself ends when the layer above says so.
 */
#ifndef GRAFT_HTTP_REQUEST_H
#define GRAFT_HTTP_REQUEST_H

#include "base/arena.h"
#include "base/buf.h"
#include "http/chunked.h"
#include "http/head.h"
#include "http/target.h"
#include "net/out.h"

#define REQUEST_MAGIC       0x72657175u
#define REQUEST_FIRST_BLOCK 6144
#define RESPONSE_FIELDS_MAX 65536 /* a bound, none that a plugin meets */

struct session;
struct http;

/* What is to become of the body. It only goes up: a body that is streamed is not buffered. */
enum body_mode {
    BODY_UNWANTED, /* stays on the wire: nobody has asked */
    BODY_BUFFERED, /* collected up to limits.body_bytes, then http_app.body_in */
    BODY_STREAMED  /* each piece goes to http_app.body_piece */
};

struct response_field {
    struct str name, value; /* as one line, in the arena or static; name.ptr NULL: removed */
    uint8_t owner;          /* enum field_owner of the name */
};

struct response {
    unsigned status;
    unsigned nfields, room;
    struct response_field *fields; /* in the arena */
    int64_t promised;              /* Content-Length that the plugin set; -1 none */
    uint64_t written;              /* body bytes that were given to us */
    uint64_t sent;                 /* bytes that left this object for the connection's queue */
    struct outq body;              /* given and not yet framed */
    bool close;                    /* Connection: close */
    bool head_sent;
    bool chunked;   /* streaming in chunks */
    bool until_eof; /* streaming to HTTP/1.0: ends by closing */
    bool bodyless;  /* HEAD, 204, 304: bytes are counted, not sent */
    bool done;      /* all of it is in the connection's queue */
    bool file_cut;  /* broken because a file ended early, or could not be read */
};

struct request {
    unsigned magic;
    struct http *http;
    struct session *session; /* NULL once the response is over */
    struct arena arena;
    struct head head;
    struct target target;
    uint64_t start_us; /* when the head was complete */

    enum body_mode body_mode;
    bool body_paused;   /* do not read on */
    bool body_discard;  /* nobody reads on: pieces are dropped */
    bool body_complete; /* its last byte was taken from the wire (also: there is none) */
    bool body_dead;     /* it can go no further: broken, too large, too late */
    bool continue_sent;
    uint64_t body_left; /* BODY_LENGTH: not yet read */
    uint64_t body_seen; /* bytes taken so far */
    struct chunked chunked;
    char *body_fixed;     /* a small body of known length, in the arena */
    struct buf body_heap; /* any other that is buffered */

    /* Aligned, as what is cleared for each request sixteen bytes at a time. */
    _Alignas(16) struct response response;
    _Alignas(16) char first_block[REQUEST_FIRST_BLOCK];
};

void request_init(struct request *r, struct http *http); /* once, when the pool grows */
void request_reset(struct request *r);                   /* between two uses */

static inline bool request_is_head(const struct request *r)
{
    return r->head.method_id == HEAD_HEAD;
}

/* The buffered body; valid when body_complete in BODY_BUFFERED mode, or there is none. */
struct str request_body(const struct request *r);

/* The field of that name; several are joined by ", " in the arena. Absent: {NULL, 0}. */
struct str request_field(struct request *r, const char *name);

/* Response fields: 0, or -1 for a bad name or value, one that framing owns, or no memory. `why`
   (may be NULL) says which. */
enum field_how { FIELD_SET, FIELD_ADD };
int response_field(struct request *r, enum field_how how, struct str name, struct str value,
                   const char **why);
/* For a new body: as FIELD_SET of Content-Type, for a constant that needs neither proof nor copy,
   and no promise of a length. */
#define CONTENT_TYPE(type) STR("Content-Type: " type "\r\n")
int response_type(struct request *r, struct str line);
int response_field_remove(struct request *r, struct str name);
struct str response_field_get(const struct request *r, struct str name);
void response_reset(struct request *r); /* status 200, no fields, no body; before the head left */

/* One of the server's own, which no plugin sees, replaces or removes; nor does response_reset. The
   value is one that a field may have. */
int response_own_field(struct request *r, struct str name, struct str value);
struct str response_own_field_get(const struct request *r, struct str name);

/* A body of the server's own: application/problem+json (RFC 9457) for that status, in place of the
   whole response, or of its body alone. `detail` may be NULL. Before the head has left. */
#define PROBLEM_MAX 1400
size_t response_problem_text(char to[PROBLEM_MAX], unsigned status, const char *detail);
void response_problem(struct request *r, unsigned status, const char *detail);
void response_problem_keep(struct request *r, unsigned status, const char *detail);

#endif
