/* Writing JSON onto a buffer. Commas come by themselves; an error sticks. One owner. */
#include "base/json.h"

#include "base/escape.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void json_out_init(struct json_out *o, struct buf *buf)
{
    *o = (struct json_out){ .buf = buf };
}

static void put(struct json_out *o, struct str s)
{
    if (!o->failed)
        o->failed = buf_add(o->buf, s.ptr, s.len) != 0;
}

/* Makes room as it goes: most strings need no more than their own length. */
static void put_escaped(struct json_out *o, struct str s)
{
    while (s.len > 0 && !o->failed) {
        o->failed = buf_reserve(o->buf, s.len + 16) != 0;
        if (o->failed)
            return;
        size_t used, room = o->buf->cap - o->buf->len - 1;
        o->buf->len += escape(o->buf->data + o->buf->len, room, s, ESCAPE_STRING, &used);
        o->buf->data[o->buf->len] = '\0';
        s.ptr += used;
        s.len -= used;
    }
}

static void put_quoted(struct json_out *o, struct str s)
{
    put(o, STR("\""));
    put_escaped(o, s);
    put(o, STR("\""));
}

/* What stands before every value. */
static void lead_in(struct json_out *o, const char *key)
{
    if (o->comma)
        put(o, STR(","));
    o->comma = true;
    if (key == NULL)
        return;
    put_quoted(o, str_of(key));
    put(o, STR(":"));
}

void json_open(struct json_out *o, const char *key, char bracket)
{
    lead_in(o, key);
    put(o, (struct str){ &bracket, 1 });
    o->comma = false;
}

void json_close(struct json_out *o, char bracket)
{
    put(o, (struct str){ &bracket, 1 });
    o->comma = true;
}

void json_put_raw(struct json_out *o, const char *key, struct str json)
{
    lead_in(o, key);
    put(o, json);
}

void json_put_str(struct json_out *o, const char *key, struct str s)
{
    lead_in(o, key);
    put_quoted(o, s);
}

void json_put_z(struct json_out *o, const char *key, const char *z)
{
    if (z == NULL)
        json_put_raw(o, key, STR("null"));
    else
        json_put_str(o, key, str_of(z));
}

void json_put_int(struct json_out *o, const char *key, int64_t n)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRId64, n);
    json_put_raw(o, key, str_of(text));
}

void json_put_u64(struct json_out *o, const char *key, uint64_t n)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, n);
    json_put_raw(o, key, str_of(text));
}

void json_put_bool(struct json_out *o, const char *key, bool b)
{
    json_put_raw(o, key, b ? STR("true") : STR("false"));
}

/* The shorter form where it reads back as the same number. JSON has no infinity. */
void json_put_double(struct json_out *o, const char *key, double d)
{
    char text[40];
    if (!isfinite(d)) {
        json_put_raw(o, key, STR("null"));
        return;
    }
    snprintf(text, sizeof(text), "%.15g", d);
    double back = strtod(text, NULL);
    if (back < d || back > d)
        snprintf(text, sizeof(text), "%.17g", d);
    json_put_raw(o, key, str_of(text));
}
