/*
 * The glue around htparser, and what a head means: method, target form, Host, framing, Connection,
 * Expect.
 *
 * htparser's hooks hand out pointers into its own buffer, which the next token overwrites, and it
 * has faults that the guard must keep from it (FACTS). So the head is copied into the arena once,
 * each token is found again in the copy at the place where it must be (`cursor`), and compared. Of
 * request lines htparser understands only methods in capital letters and the origin-form; for the
 * others (VERSION-CONTROL, "*", absolute-form) it is given a stand-in line and then the fields.
 */
#include "http/head.h"

#include "http/field.h"
#include "http/target.h"

#include <arpa/inet.h>
#include <evhtp/parser.h>
#include <stdlib.h>

#define HEAD_PARSER_MAGIC 0x68656164u
#define HOST_KEPT         64

/* Fields that decide something, remembered while tokens come in. */
enum { SEEN_LENGTH, SEEN_CODING, SEEN_HOST, SEEN_EXPECT, SEEN_CONNECTION, SEEN_KINDS };

struct head_parser {
    unsigned magic;
    htparser *htp;
    struct header *fields; /* of the head in hand; they move to the arena when it is whole */
    unsigned room;
    char host[HOST_KEPT]; /* the last that was sound: most clients of a worker ask for the same */
    size_t host_len;

    /* the head in hand */
    const char *copy; /* in the arena */
    size_t len, cursor;
    unsigned nfields;
    struct str key; /* whose value comes next; absent between fields */
    struct str line_method, line_target;
    bool verbatim;        /* htparser is given the request line itself, not a stand-in */
    unsigned line_tokens; /* of it that htparser has handed out */
    bool whole;           /* the empty line was where it must be */
    bool no_memory;
    unsigned count[SEEN_KINDS];
    struct str value[SEEN_KINDS]; /* the last; stale while its count is 0 */
    bool close, keep_alive;       /* in a Connection field */
};

static const struct str method_names[HEAD_OTHER] = {
#define METHOD_NAME(id, text) [HEAD_##id] = { text, sizeof text - 1 },
    HEAD_METHODS(METHOD_NAME)
};

unsigned head_method_id(struct str method)
{
    for (unsigned i = 0; i < HEAD_OTHER; i++)
        if (str_eq(method, method_names[i]))
            return i;
    return HEAD_OTHER;
}

struct str head_method_name(unsigned id)
{
    return id < HEAD_OTHER ? method_names[id] : (struct str){ NULL, 0 };
}

static COLD int refuse(struct head_verdict *v, unsigned status, const char *why)
{
    v->status = status;
    v->why = why;
    return -1;
}

/* ---- hooks: 0 to go on, anything else ends htparser_run ---- */

static _Thread_local struct head_parser *parsing; /* whose hooks run; cheaper than its userdata */

static bool stands_at(const struct head_parser *p, size_t at, const char *token, size_t len)
{
    return len <= p->len - at && bytes_eq(p->copy + at, token, len);
}

static HOT int on_method(htparser *htp, const char *token, size_t len)
{
    struct head_parser *p = parsing;
    (void)htp;
    p->line_tokens++;
    return p->verbatim && !str_eq(p->line_method, (struct str){ token, len });
}

/* Path and args arrive one by one; the target must be the one, or both with a '?' between. */
static HOT int on_path(htparser *htp, const char *token, size_t len)
{
    struct head_parser *p = parsing;
    (void)htp;
    struct str t = p->line_target;
    p->line_tokens++;
    return p->verbatim &&
           (len > t.len || !bytes_eq(t.ptr, token, len) || (len < t.len && t.ptr[len] != '?'));
}

static HOT int on_args(htparser *htp, const char *token, size_t len)
{
    struct head_parser *p = parsing;
    (void)htp;
    struct str t = p->line_target;
    return p->verbatim && (len >= t.len || memcmp(t.ptr + t.len - len, token, len) != 0 ||
                           t.ptr[t.len - len - 1] != '?');
}

static HOT int on_key(htparser *htp, const char *token, size_t len)
{
    struct head_parser *p = parsing;
    (void)htp;
    if (p->key.ptr || !stands_at(p, p->cursor, token, len) ||
        !stands_at(p, p->cursor + len, ":", 1))
        return -1;
    p->key = (struct str){ p->copy + p->cursor, len };
    p->cursor += len + 1;
    return 0;
}

static void note(struct head_parser *p, int kind, struct str value)
{
    p->count[kind]++;
    p->value[kind] = value;
    if (UNLIKELY(kind == SEEN_CONNECTION)) {
        p->close |= field_list_has(value, "close");
        p->keep_alive |= field_list_has(value, "keep-alive");
    }
}

static void note_field(struct head_parser *p, struct str name, struct str value)
{
    static const struct {
        struct str name;
        int kind;
    } known[] = {
        { { "Host", 4 }, SEEN_HOST },
        { { "Expect", 6 }, SEEN_EXPECT },
        { { "Connection", 10 }, SEEN_CONNECTION },
        { { "Content-Length", 14 }, SEEN_LENGTH },
        { { "Transfer-Encoding", 17 }, SEEN_CODING },
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (name.len == known[i].name.len && str_case_eq(name, known[i].name)) {
            note(p, known[i].kind, value);
            return;
        }
}

static int keep_field(struct head_parser *p, struct str name, struct str value)
{
    if (UNLIKELY(p->nfields == p->room)) {
        unsigned room = p->room ? p->room * 2 : 32;
        struct header *fields = realloc(p->fields, room * sizeof *fields);
        if (!fields) {
            p->no_memory = true;
            return -1;
        }
        p->fields = fields;
        p->room = room;
    }
    p->fields[p->nfields++] = (struct header){ name, value };
    return 0;
}

/* htparser leaves out the spaces before a value, and calls an empty one " ". It keeps white space
   at the end, and tabs. The guard promises that a CR follows each value. */
static HOT int on_value(htparser *htp, const char *token, size_t len)
{
    struct head_parser *p = parsing;
    (void)htp;
    const char *at = p->copy + p->cursor, *end = p->copy + p->len;
    while (at < end && *at == ' ')
        at++;
    if (len == 1 && token[0] == ' ' && at < end && *at == '\r')
        len = 0;
    size_t left = (size_t)(end - at);
    if (!p->key.ptr || left < 2 || len > left - 2 || !bytes_eq(at, token, len) || at[len] != '\r' ||
        at[len + 1] != '\n')
        return -1;
    struct str name = p->key, value = field_trim((struct str){ at, len });
    p->key = (struct str){ NULL, 0 };
    p->cursor = (size_t)(at + len + 2 - p->copy);
    note_field(p, name, value);
    return keep_field(p, name, value);
}

static HOT int on_whole(htparser *htp)
{
    struct head_parser *p = parsing;
    (void)htp;
    p->whole = p->line_tokens >= 2 && !p->key.ptr && p->cursor + 2 == p->len &&
               stands_at(p, p->cursor, "\r\n", 2);
    return -1; /* no byte of a body is for htparser */
}

/* ---- tokens ---- */

/* The guard's promise, looked at once more because all that follows leans on it. Searched in
   `data`, which was copied just now: a load from the copy would wait until the stores have gone
   through. */
static bool split_request_line(struct head_parser *p, const char *data, struct head *out)
{
    const char *end = bytes_find(data, data + p->len, '\n');
    const char *first = end ? bytes_find(data, end, ' ') : NULL;
    if (!first || end - first < 12) /* SP target SP HTTP/1.x CR */
        return false;
    const char *version = end - 9;
    if (memcmp(version, "HTTP/1.", 7) != 0 || version[-1] != ' ' || version[8] != '\r')
        return false;
    size_t method = (size_t)(first - data);
    struct str target = { p->copy + method + 1, (size_t)(version - 1 - (first + 1)) };
    p->line_method = (struct str){ p->copy, method };
    p->line_target = target;
    p->cursor = (size_t)(end + 1 - data);
    out->target = target;
    out->minor = version[7] == '1';
    return p->len >= 4 && memcmp(data + p->len - 4, "\r\n\r\n", 4) == 0;
}

static bool htparser_takes(unsigned method, struct str target)
{
    return target.ptr[0] == '/' && method != HEAD_BASELINE_CONTROL &&
           method != HEAD_VERSION_CONTROL;
}

static HOT int run(struct head_parser *p, struct head_verdict *v)
{
    static htparse_hooks hooks = {
        .method = on_method,
        .path = on_path,
        .args = on_args,
        .hdr_key = on_key,
        .hdr_val = on_value,
        .on_hdrs_complete = on_whole,
    };
    const char *from = p->copy;
    size_t len = p->len;
    htparser_init(p->htp, htp_type_request);
    parsing = p;
    if (UNLIKELY(!p->verbatim)) {
        static const char line[] = "GET / HTTP/1.1\r\n";
        htparser_run(p->htp, &hooks, line, sizeof line - 1);
        from += p->cursor;
        len -= p->cursor;
    }
    htparser_run(p->htp, &hooks, from, len);
    if (LIKELY(p->whole))
        return 0;
    if (p->no_memory)
        return refuse(v, 500, "no memory for the fields of a request");
    if (p->key.len == 14 && htparser_get_error(p->htp) == htparse_error_too_big)
        return refuse(v, 400, "Content-Length is not one number that fits in 64 bits");
    return refuse(v, 400, "the parser and the guard do not agree about this head");
}

/* htparser takes a tab before a Content-Length for a part of the number. Once: more of these fields
   are refused anyway. */
static COLD bool blank_tabs(struct head_parser *p)
{
    size_t at = p->cursor;
    if (p->key.len != 14 || htparser_get_error(p->htp) != htparse_error_too_big)
        return false;
    bool tabs = false;
    for (; at < p->len && (p->copy[at] == ' ' || p->copy[at] == '\t'); at++) {
        tabs |= p->copy[at] == '\t';
        ((char *)p->copy)[at] = ' ';
    }
    return tabs;
}

static void start_over(struct head_parser *p, size_t cursor)
{
    p->cursor = cursor;
    p->nfields = p->line_tokens = 0;
    p->key = (struct str){ NULL, 0 };
    p->whole = p->no_memory = p->close = p->keep_alive = false;
    memset(p->count, 0, sizeof p->count);
}

static int tokenize(struct head_parser *p, struct arena *a, const char *data, size_t len,
                    struct head *out, struct head_verdict *v)
{
    p->copy = arena_alloc(a, len);
    if (!p->copy)
        return refuse(v, 500, "no memory for a request head");
    bytes_copy((char *)p->copy, data, len);
    p->len = len;
    start_over(p, 0);
    if (!split_request_line(p, data, out))
        return refuse(v, 400, "a head that has not passed the guard");

    out->method_id = head_method_id(p->line_method);
    if (out->method_id == HEAD_OTHER)
        return refuse(v, 501, "a method that is not registered");
    out->method = method_names[out->method_id];
    p->verbatim = htparser_takes(out->method_id, p->line_target);
    size_t fields_at = p->cursor;
    int failed = run(p, v);
    if (UNLIKELY(failed && blank_tabs(p))) {
        start_over(p, fields_at);
        failed = run(p, v);
    }
    if (failed)
        return -1;

    out->nheaders = p->nfields;
    out->headers = arena_alloc(a, p->nfields * sizeof *out->headers);
    if (!out->headers)
        return refuse(v, 500, "no memory for the fields of a request");
    if (p->nfields > 0)
        bytes_copy((char *)out->headers, (const char *)p->fields,
                   p->nfields * sizeof *out->headers);
    return 0;
}

/* ---- meaning ---- */

static bool port_ok(struct str port)
{
    unsigned n = 0;
    for (size_t i = 0; i < port.len; i++) {
        unsigned digit = (unsigned)port.ptr[i] - '0';
        n = n * 10 + digit;
        if (digit > 9 || n > 65535)
            return false;
    }
    return true;
}

static bool v6_ok(struct str s)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char addr[16];
    if (s.len >= sizeof text)
        return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = '\0';
    return inet_pton(AF_INET6, text, addr) == 1;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* How many bytes of `s` are a registered name or an IPv4 address. */
static size_t reg_name(struct str s)
{
    size_t i = 0;
    for (;;) {
        while (i < s.len && field_is(s.ptr[i], FIELD_HOST))
            i++;
        if (s.len - i < 3 || s.ptr[i] != '%' || !is_hex(s.ptr[i + 1]) || !is_hex(s.ptr[i + 2]))
            return i;
        i += 3;
    }
}

NOINLINE bool head_host_ok(struct str host)
{
    size_t len;
    if (host.len == 0)
        return true;
    if (host.ptr[0] == '[') {
        const char *close = memchr(host.ptr, ']', host.len);
        if (!close || !v6_ok((struct str){ host.ptr + 1, (size_t)(close - host.ptr - 1) }))
            return false;
        len = (size_t)(close + 1 - host.ptr);
    } else {
        len = reg_name(host);
    }
    if (len == host.len)
        return true;
    return len > 0 && host.ptr[len] == ':' &&
           port_ok((struct str){ host.ptr + len + 1, host.len - len - 1 });
}

/* http:// or https:// and an authority, which then stands for Host (RFC 9112 3.2.2). */
static COLD int judge_absolute(struct head *out, struct head_verdict *v)
{
    struct str rest;
    if (!target_split_absolute(out->target, &out->host, &rest))
        return refuse(v, 400, "a target that is neither a path nor an http URI");
    if (out->host.len == 0 || !head_host_ok(out->host))
        return refuse(v, 400, "the authority in the target is not a host and port");
    return 0;
}

static int judge_target(struct head *out, struct head_verdict *v)
{
    if (out->method_id == HEAD_CONNECT)
        return refuse(v, 501, "CONNECT: graft is no proxy");
    if (out->method_id == HEAD_PRI)
        return refuse(v, 501, "PRI is not a method of HTTP/1.1");
    if (LIKELY(out->target.ptr[0] == '/'))
        return 0;
    if (out->target.len == 1 && out->target.ptr[0] == '*')
        return out->method_id == HEAD_OPTIONS ? 0 : refuse(v, 400, "\"*\" is for OPTIONS alone");
    return judge_absolute(out, v);
}

/* head_host_ok for a Host field: looks no closer at one that was just found to be sound. */
static bool host_ok(struct head_parser *p, struct str host)
{
    if (host.len == 0) /* HTTP/1.0 without one, or an empty one */
        return true;
    if (host.len == p->host_len && bytes_eq(host.ptr, p->host, host.len))
        return true;
    if (!head_host_ok(host))
        return false;
    if (host.len <= sizeof p->host) {
        memcpy(p->host, host.ptr, host.len);
        p->host_len = host.len;
    }
    return true;
}

static int judge_host(struct head_parser *p, struct head *out, struct head_verdict *v)
{
    if (p->count[SEEN_HOST] > 1)
        return refuse(v, 400, "more than one Host");
    if (p->count[SEEN_HOST] == 0 && out->minor >= 1)
        return refuse(v, 400, "HTTP/1.1 without Host");
    if (p->count[SEEN_HOST] > 0)
        out->host = p->value[SEEN_HOST];
    if (!host_ok(p, out->host))
        return refuse(v, 400, "Host is not a host and port");
    return 0;
}

static COLD int judge_coding(const struct head_parser *p, struct head *out, struct head_verdict *v)
{
    struct str coding = p->value[SEEN_CODING];
    if (p->count[SEEN_LENGTH] > 0)
        return refuse(v, 400, "Content-Length beside Transfer-Encoding");
    if (out->minor == 0)
        return refuse(v, 400, "Transfer-Encoding in HTTP/1.0");
    if (p->count[SEEN_CODING] > 1)
        return refuse(v, 400, "more than one Transfer-Encoding");
    if (coding.len == 0)
        return refuse(v, 400, "an empty Transfer-Encoding");
    if (!str_case_eq(coding, STR("chunked")))
        return refuse(v, 501, "a Transfer-Encoding other than chunked");
    out->framing = BODY_CHUNKED;
    return 0;
}

static int judge_framing(const struct head_parser *p, struct head *out, struct head_verdict *v)
{
    out->framing = BODY_NONE;
    out->content_length = 0;
    if (UNLIKELY(p->count[SEEN_CODING] > 0))
        return judge_coding(p, out, v);
    if (LIKELY(p->count[SEEN_LENGTH] == 0))
        return 0;
    if (p->count[SEEN_LENGTH] > 1)
        return refuse(v, 400, "more than one Content-Length");
    if (p->value[SEEN_LENGTH].len == 0 || str_to_u64(p->value[SEEN_LENGTH], &out->content_length) ||
        out->content_length > INT64_MAX)
        return refuse(v, 400, "Content-Length is not one number that fits");
    if (out->content_length > 0)
        out->framing = BODY_LENGTH;
    return 0;
}

/* Last: only this one leaves a head that can be gone on with. HTTP/1.0 knows no Expect. */
static int judge_expect(const struct head_parser *p, struct head *out, struct head_verdict *v)
{
    out->expect_continue = false;
    if (LIKELY(p->count[SEEN_EXPECT] == 0) || out->minor == 0)
        return 0;
    if (p->count[SEEN_EXPECT] > 1 || !str_case_eq(p->value[SEEN_EXPECT], STR("100-continue")))
        return refuse(v, 417, "an expectation other than 100-continue");
    out->expect_continue = out->framing != BODY_NONE;
    return 0;
}

HOT int head_parse(struct head_parser *p, struct arena *a, const char *data, size_t len,
                   struct head *out, struct head_verdict *v)
{
    HOT_CHECK(p, HEAD_PARSER_MAGIC);
    out->host = (struct str){ NULL, 0 }; /* all else is set below, if it is sound */
    *v = (struct head_verdict){ 0 };
    if (tokenize(p, a, data, len, out, v) || judge_host(p, out, v) || judge_target(out, v) ||
        judge_framing(p, out, v))
        return -1;
    out->keep_alive = !p->close && (out->minor >= 1 || p->keep_alive);
    return judge_expect(p, out, v);
}

struct str head_field(const struct head *h, const char *name)
{
    struct str want = str_of(name);
    for (unsigned i = 0; i < h->nheaders; i++)
        if (h->headers[i].name.len == want.len && str_case_eq(h->headers[i].name, want))
            return h->headers[i].value;
    return (struct str){ NULL, 0 };
}

struct head_parser *head_parser_new(void)
{
    struct head_parser *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->magic = HEAD_PARSER_MAGIC;
    p->htp = htparser_new();
    if (!p->htp) {
        free(p);
        return NULL;
    }
    htparser_init(p->htp, htp_type_request);
    return p;
}

void head_parser_free(struct head_parser *p)
{
    if (!p)
        return;
    CHECK(p, HEAD_PARSER_MAGIC);
    p->magic = 0;
    free(p->fields);
    free(p->htp);
    free(p);
}
