/*
 * JSON: a strict reader over jsmn that remembers where everything stood, and a writer onto a
 * struct buf. Any thread; a document has one owner.
 */
#ifndef GRAFT_BASE_JSON_H
#define GRAFT_BASE_JSON_H

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json; /* a document */

struct json_value {
    const struct json *doc;
    int token; /* -1 = absent */
};

/* Strict RFC 8259: exactly one value, no trailing garbage, no duplicate key, valid escapes and
   UTF-8, numbers in the grammar, at most JSON_DEPTH_MAX levels deep. Copies text. On error NULL,
   and err says "name:line:column: what was expected and what stands there". */
#define JSON_DEPTH_MAX 64
struct json *json_parse(const char *name, const char *text, size_t len, struct err *err);
/* The same of a text of ours that holds what others may have nested that deep. */
struct json *json_parse_deep(const char *name, const char *text, size_t len, unsigned levels,
                             struct err *err);
void json_free(struct json *doc);

struct json_value json_root(const struct json *doc);
enum json_type json_type(struct json_value v);
const char *json_type_name(enum json_type t); /* "an object", "a string", ... */
size_t json_count(struct json_value v);       /* members of an object, elements of an array */
struct json_value json_at(struct json_value v, size_t i); /* element; for objects the value */
struct str json_key_at(struct json_value v, size_t i);    /* decoded; lives as long as doc */
struct json_value json_key_value_at(struct json_value v, size_t i); /* the key, for its position */
struct json_value json_get(struct json_value v, const char *key);   /* token -1 when absent */
static inline bool json_present(struct json_value v)
{
    return v.token >= 0;
}

int json_bool(struct json_value v, bool *out);         /* 0, or -1: another type */
int json_int(struct json_value v, int64_t *out);       /* -1: not an integer that fits */
int json_string(struct json_value v, struct str *out); /* decoded, NUL behind; lives with doc */
struct str json_text(struct json_value v);             /* as written */
/* The string of that name, decoded; {NULL, 0} when there is none. Lives with doc. */
struct str json_get_string(struct json_value object, const char *key);
/* As written, without insignificant white space: appended to out. 0 or -1 (memory). */
int json_compact(struct json_value v, struct buf *out);
/* Fills "name:line:column: " + the message; returns -1. */
int json_fail(struct json_value v, struct err *err, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Writer: commas come by themselves. Errors (memory) stick in `failed`. */
struct json_out {
    struct buf *buf;
    bool failed;
    bool comma; /* one is due before the next value */
};
void json_out_init(struct json_out *o, struct buf *buf);
void json_open(struct json_out *o, const char *key, char bracket); /* '{' or '['; key may be NULL */
void json_close(struct json_out *o, char bracket);                 /* '}' or ']' */
void json_put_str(struct json_out *o, const char *key, struct str s); /* invalid UTF-8: U+FFFD */
void json_put_z(struct json_out *o, const char *key, const char *z);  /* NULL = null */
void json_put_int(struct json_out *o, const char *key, int64_t n);
void json_put_u64(struct json_out *o, const char *key, uint64_t n);
void json_put_bool(struct json_out *o, const char *key, bool b);
void json_put_double(struct json_out *o, const char *key, double d);
void json_put_raw(struct json_out *o, const char *key, struct str json);

#endif
