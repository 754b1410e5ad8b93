/* What came back, taken apart as a client would: head, framing, chunks. Anew whenever more came. */
#include "bottle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct answer {
    size_t seen; /* bytes of `out` that it was made from */
    bool closed; /* the connection was, then */
    int status;
    unsigned continued;
    char *head; /* its lines, each NUL-terminated, an empty one at the end */
    size_t body_at;
    bool whole;
    struct buf body;
    size_t *ends;
    unsigned npieces, cap;
};

void answer_free(struct answer *a)
{
    if (a == NULL)
        return;
    free(a->head);
    free(a->ends);
    buf_fini(&a->body);
    free(a);
}

static void add_piece(struct answer *a, const char *data, size_t len)
{
    if (a->npieces == a->cap) {
        a->cap = a->cap ? a->cap * 2 : 16;
        a->ends = realloc(a->ends, a->cap * sizeof *a->ends);
    }
    if (a->ends == NULL || buf_add(&a->body, data, len) != 0)
        give_up("no memory for an answer");
    a->ends[a->npieces++] = a->body.len;
}

/* ---- The head ----------------------------------------------------------------------------------
 */

/* The value of a field in the head, or NULL. */
static const char *field(const struct answer *a, const char *name)
{
    size_t len = strlen(name);
    if (a->head == NULL)
        return NULL;
    for (const char *line = a->head + strlen(a->head) + 1; *line; line += strlen(line) + 1)
        if (strncasecmp(line, name, len) == 0 && line[len] == ':')
            return line + len + 1 + strspn(line + len + 1, " \t");
    return NULL;
}

/* Past interim answers; false: no head is whole yet. */
static bool read_head(struct answer *a, struct str in)
{
    size_t at = 0;
    for (;;) {
        const char *end = at < in.len ? memmem(in.ptr + at, in.len - at, "\r\n\r\n", 4) : NULL;
        if (end == NULL || sscanf(in.ptr + at, "HTTP/1.%*d %d", &a->status) != 1)
            break;
        const char *begin = in.ptr + at;
        size_t len = (size_t)(end - begin) + 2;
        at += len + 2;
        if (a->status < 200) {
            a->continued++;
            continue;
        }
        a->head = xcalloc(1, len + 2);
        char *to = a->head;
        for (size_t i = 0; i < len; i++)
            if (begin[i] != '\r')
                *to++ = begin[i] == '\n' ? '\0' : begin[i];
        a->body_at = at;
        return true;
    }
    a->status = 0;
    return false;
}

/* ---- The body ----------------------------------------------------------------------------------
 */

static void read_chunks(struct answer *a, struct str in)
{
    size_t at = a->body_at;
    while (at < in.len) {
        const char *line = in.ptr + at;
        const char *end = memchr(line, '\n', in.len - at);
        if (end == NULL)
            return;
        size_t size = strtoul(line, NULL, 16), data = at + (size_t)(end - line) + 1;
        if (size == 0) {
            a->whole = data + 2 <= in.len;
            return;
        }
        if (size > in.len - data || in.len - data - size < 2)
            return;
        add_piece(a, in.ptr + data, size);
        at = data + size + 2;
    }
}

static void read_body(struct answer *a, struct str in, bool is_head, bool reset)
{
    const char *coding = field(a, "Transfer-Encoding"), *length = field(a, "Content-Length");
    struct str rest = { in.ptr + a->body_at, in.len - a->body_at };
    if (is_head || a->status == 204 || a->status == 304) {
        a->whole = true;
        return;
    }
    if (coding != NULL && strcasecmp(coding, "chunked") == 0) {
        read_chunks(a, in);
        return;
    }
    size_t len = length ? strtoul(length, NULL, 10) : rest.len;
    if (buf_add(&a->body, rest.ptr, rest.len < len ? rest.len : len) != 0)
        give_up("no memory for an answer");
    a->whole = length ? rest.len >= len : a->closed && !reset;
}

static struct answer *look(graft_test_req *r, const char *function)
{
    client_check(r, function);
    struct str in = buf_str(&r->out);
    bool closed = r->conn == NULL;
    if (r->answer != NULL && r->answer->seen == in.len && r->answer->closed == closed)
        return r->answer;
    answer_free(r->answer);
    struct answer *a = r->answer = xcalloc(1, sizeof *a);
    a->seen = in.len;
    a->closed = closed;
    if (buf_add(&a->body, "", 0) != 0)
        give_up("no memory for an answer");
    if (read_head(a, in))
        read_body(a, in, r->is_head, r->reset);
    return a;
}

/* ---- The test's looks --------------------------------------------------------------------------
 */

int graft_test_status(graft_test_req *r)
{
    return look(r, "graft_test_status")->status;
}

const char *graft_test_header(graft_test_req *r, const char *name)
{
    return field(look(r, "graft_test_header"), name);
}

graft_str graft_test_body(graft_test_req *r)
{
    struct str body = buf_str(&look(r, "graft_test_body")->body);
    return (graft_str){ body.ptr, body.len };
}

bool graft_test_complete(graft_test_req *r)
{
    return look(r, "graft_test_complete")->whole;
}

bool graft_test_cut(graft_test_req *r)
{
    const struct answer *a = look(r, "graft_test_cut");
    return a->closed && !a->whole;
}

bool graft_test_closed(graft_test_req *r)
{
    client_check(r, "graft_test_closed");
    return r->conn == NULL;
}

unsigned graft_test_continued(graft_test_req *r)
{
    return look(r, "graft_test_continued")->continued;
}

unsigned graft_test_pieces(graft_test_req *r)
{
    return look(r, "graft_test_pieces")->npieces;
}

graft_str graft_test_piece(graft_test_req *r, unsigned i)
{
    const struct answer *a = look(r, "graft_test_piece");
    if (i >= a->npieces)
        return (graft_str){ NULL, 0 };
    size_t from = i > 0 ? a->ends[i - 1] : 0;
    return (graft_str){ a->body.data + from, a->ends[i] - from };
}

graft_str graft_test_received(graft_test_req *r)
{
    client_check(r, "graft_test_received");
    struct str all = buf_str(&r->out);
    return (graft_str){ all.ptr, all.len };
}
