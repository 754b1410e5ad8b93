/* See request.h. */
#include "http/request.h"

#include "http/field.h"
#include "http/status.h"

#include <stdio.h>
#include <stdlib.h>

void request_init(struct request *r, struct http *http)
{
    r->magic = REQUEST_MAGIC;
    r->http = http;
    r->session = NULL;
    arena_init(&r->arena, r->first_block, sizeof r->first_block);
    r->body_heap = (struct buf){ 0 };
    r->response = (struct response){ .status = 200, .promised = -1 };
    request_reset(r);
}

HOT void request_reset(struct request *r)
{
    HOT_CHECK(r, REQUEST_MAGIC);
    out_drop(&r->response.body);
    if (UNLIKELY(r->body_heap.data != NULL))
        buf_fini(&r->body_heap);
    arena_reset(&r->arena);
    r->session = NULL;
    r->body_mode = BODY_UNWANTED;
    r->body_paused = r->body_discard = r->body_complete = false;
    r->body_dead = r->continue_sent = false;
    r->body_left = r->body_seen = 0;
    r->body_fixed = NULL;
    r->response = (struct response){ .status = 200, .promised = -1 };
}

struct str request_body(const struct request *r)
{
    if (r->body_fixed)
        return (struct str){ r->body_fixed, (size_t)r->body_seen };
    return (struct str){ r->body_heap.data ? r->body_heap.data : "", r->body_heap.len };
}

struct str request_field(struct request *r, const char *name)
{
    struct str wanted = str_of(name), first = { NULL, 0 };
    size_t total = 0, found = 0;
    for (unsigned i = 0; i < r->head.nheaders; i++) {
        const struct header *h = &r->head.headers[i];
        if (h->name.len != wanted.len || !str_case_eq(h->name, wanted))
            continue;
        if (found++ == 0)
            first = h->value;
        total += h->value.len + 2;
    }
    if (found < 2)
        return first;
    char *joined = arena_alloc(&r->arena, total), *at = joined;
    if (!joined)
        return (struct str){ NULL, 0 };
    for (unsigned i = 0; i < r->head.nheaders; i++) {
        const struct header *h = &r->head.headers[i];
        if (h->name.len != wanted.len || !str_case_eq(h->name, wanted))
            continue;
        if (at != joined) {
            *at++ = ',';
            *at++ = ' ';
        }
        if (h->value.len)
            memcpy(at, h->value.ptr, h->value.len);
        at += h->value.len;
    }
    return (struct str){ joined, (size_t)(at - joined) };
}

static struct response_field *field_find(const struct request *r, struct str name)
{
    for (unsigned i = 0; i < r->response.nfields; i++) {
        struct response_field *f = &r->response.fields[i];
        if (f->name.ptr && f->name.len == name.len && f->owner != FIELD_OURS &&
            str_case_eq(f->name, name))
            return f;
    }
    return NULL;
}

static void forget_field(struct request *r, struct str name)
{
    struct response_field *f;
    while ((f = field_find(r, name)))
        f->name = (struct str){ NULL, 0 };
}

/* The places of fields that were replaced or removed are used again. */
static void fields_squeeze(struct response *p)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < p->nfields; i++)
        if (p->fields[i].name.ptr)
            p->fields[kept++] = p->fields[i];
    p->nfields = kept;
}

static HOT int field_room(struct request *r)
{
    struct response *p = &r->response;
    if (UNLIKELY(p->nfields == p->room && p->room > 0))
        fields_squeeze(p);
    if (p->nfields < p->room)
        return 0;
    unsigned room = p->room ? p->room * 2 : 8;
    if (room > RESPONSE_FIELDS_MAX)
        return -1;
    struct response_field *more = arena_alloc(&r->arena, room * sizeof *more);
    if (!more)
        return -1;
    if (p->nfields)
        memcpy(more, p->fields, p->nfields * sizeof *more);
    p->fields = more;
    p->room = room;
    return 0;
}

static HOT int store_field(struct request *r, struct str name, struct str value,
                           enum field_owner owner)
{
    if (field_room(r) != 0)
        return -1;
    /* One copy for both, with the ": " and CRLF of the head in place. */
    char *line = arena_alloc(&r->arena, name.len + value.len + 4);
    if (!line)
        return -1;
    memcpy(line, name.ptr, name.len);
    memcpy(line + name.len, ": ", 2);
    if (value.len)
        memcpy(line + name.len + 2, value.ptr, value.len);
    memcpy(line + name.len + 2 + value.len, "\r\n", 2);
    r->response.fields[r->response.nfields++] = (struct response_field){
        { line, name.len }, { line + name.len + 2, value.len }, (uint8_t)owner
    };
    return 0;
}

static COLD int refuse(const char **why, const char *text)
{
    if (why)
        *why = text;
    return -1;
}

HOT int response_field(struct request *r, enum field_how how, struct str name, struct str value,
                       const char **why)
{
    if (!field_name_ok(name.ptr, name.len))
        return refuse(why, "the field's name is not a token");
    if (!field_value_ok(value.ptr, value.len))
        return refuse(why, "the field's value has a control character");
    uint64_t promised;
    enum field_owner owner = field_owner(name);
    switch (owner) {
    case FIELD_FRAMING:
        return refuse(why, "the field belongs to the message's framing");
    case FIELD_CONNECTION:
        if (!str_case_eq(field_trim(value), STR("close")))
            return refuse(why, "Connection may only be set to close");
        r->response.close = true;
        how = FIELD_SET;
        break;
    case FIELD_CONTENT_LENGTH:
        if (str_to_u64(value, &promised) != 0 || promised > INT64_MAX)
            return refuse(why, "Content-Length is not a number");
        if (promised < r->response.written)
            return refuse(why, "more than this Content-Length was written already");
        r->response.promised = (int64_t)promised;
        how = FIELD_SET;
        break;
    default:
        break;
    }
    if (how == FIELD_SET)
        forget_field(r, name);
    return store_field(r, name, value, owner) == 0 ? 0 : refuse(why, "no room for another field");
}

int response_field_remove(struct request *r, struct str name)
{
    if (!name.ptr || !field_name_ok(name.ptr, name.len))
        return -1;
    enum field_owner owner = field_owner(name);
    if (owner == FIELD_FRAMING)
        return -1;
    if (owner == FIELD_CONTENT_LENGTH)
        r->response.promised = -1;
    if (owner == FIELD_CONNECTION)
        r->response.close = false;
    forget_field(r, name);
    return 0;
}

HOT int response_type(struct request *r, struct str line)
{
    const size_t name = sizeof "Content-Type" - 1;
    if (UNLIKELY(r->response.nfields))
        forget_field(r, STR("Content-Type"));
    if (UNLIKELY(r->response.promised >= 0))
        response_field_remove(r, STR("Content-Length"));
    if (field_room(r) != 0)
        return -1;
    r->response.fields[r->response.nfields++] = (struct response_field){
        { line.ptr, name }, { line.ptr + name + 2, line.len - name - 4 }, FIELD_FREE
    };
    return 0;
}

struct str response_field_get(const struct request *r, struct str name)
{
    const struct response_field *f = field_find(r, name);
    return f ? f->value : (struct str){ NULL, 0 };
}

int response_own_field(struct request *r, struct str name, struct str value)
{
    return store_field(r, name, value, FIELD_OURS);
}

struct str response_own_field_get(const struct request *r, struct str name)
{
    for (unsigned i = 0; i < r->response.nfields; i++) {
        const struct response_field *f = &r->response.fields[i];
        if (f->owner == FIELD_OURS && str_eq(f->name, name))
            return f->value;
    }
    return (struct str){ NULL, 0 };
}

void response_reset(struct request *r)
{
    struct response *p = &r->response;
    unsigned kept = 0;
    for (unsigned i = 0; i < p->nfields; i++)
        if (p->fields[i].owner == FIELD_OURS)
            p->fields[kept++] = p->fields[i];
    out_drop(&p->body);
    *p = (struct response){
        .status = 200, .promised = -1, .nfields = kept, .fields = p->fields, .room = p->room
    };
}

static size_t json_escape(char *to, size_t size, const char *from)
{
    size_t n = 0;
    for (; *from && n + 7 < size; from++) {
        unsigned char c = (unsigned char)*from;
        if (c == '"' || c == '\\') {
            to[n++] = '\\';
            to[n++] = (char)c;
        } else if (c < 0x20) {
            n += (size_t)snprintf(to + n, size - n, "\\u%04x", c);
        } else {
            to[n++] = (char)c;
        }
    }
    to[n] = 0;
    return n;
}

size_t response_problem_text(char to[PROBLEM_MAX], unsigned status, const char *detail)
{
    char escaped[1024];
    const char *title = status_reason(status);
    int n;
    if (detail) {
        json_escape(escaped, sizeof escaped, detail);
        n = snprintf(to, PROBLEM_MAX, "{\"title\":\"%s\",\"status\":%u,\"detail\":\"%s\"}\n",
                     title ? title : "", status, escaped);
    } else {
        n = snprintf(to, PROBLEM_MAX, "{\"title\":\"%s\",\"status\":%u}\n", title ? title : "",
                     status);
    }
    return n > 0 ? (size_t)n : 0;
}

/* The body in place of what was there; fields stay. */
void response_problem_keep(struct request *r, unsigned status, const char *detail)
{
    char body[PROBLEM_MAX];
    size_t n = response_problem_text(body, status, detail);
    out_drop(&r->response.body);
    r->response.status = status;
    r->response.written = 0;
    response_type(r, CONTENT_TYPE("application/problem+json"));
    if (out_copy(&r->response.body, &r->arena, body, n) == 0)
        r->response.written = n;
}

void response_problem(struct request *r, unsigned status, const char *detail)
{
    response_reset(r);
    response_problem_keep(r, status, detail);
}
