/*
 * A document: its text, jsmn's tokens, the decoded strings and, for each array and object, an
 * index of its children, so that the n-th is found at once. Everything is made at json_parse and
 * never changes, so any number of threads may read it.
 */
#include "base/json_private.h"

#include "base/escape.h"

#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include <jsmn.h>

#include <limits.h>
#include <stdlib.h>

struct json {
    char *name;
    char *text;    /* with a newline behind it: jsmn wants an end behind a bare number */
    size_t len;    /* without that newline */
    char *decoded; /* each string at the place where it stands in text, NUL behind */
    size_t count;
    jsmntok_t *tokens;
    int *string_len; /* of each string token, decoded */
    int *first_kid;  /* of each array or object: where its children begin in kids */
    int *kids;       /* tokens: elements, or keys (a key's value is the token behind it) */
};

/* -- making a document --------------------------------------------------------------------- */

static size_t put_utf8(char *out, unsigned cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0u | cp >> 6);
        out[1] = (char)(0x80u | (cp & 0x3fu));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0u | cp >> 12);
        out[1] = (char)(0x80u | (cp >> 6 & 0x3fu));
        out[2] = (char)(0x80u | (cp & 0x3fu));
        return 3;
    }
    out[0] = (char)(0xf0u | cp >> 18);
    out[1] = (char)(0x80u | (cp >> 12 & 0x3fu));
    out[2] = (char)(0x80u | (cp >> 6 & 0x3fu));
    out[3] = (char)(0x80u | (cp & 0x3fu));
    return 4;
}

static unsigned hex4(const char *p)
{
    unsigned n = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        unsigned digit = c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a') + 10u;
        n = n * 16u + digit;
    }
    return n;
}

/* Behind the backslash; the text has been checked. Returns the bytes read. */
static size_t decode_escape(const char *p, char *out, size_t *written)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *named = strchr(from, p[0]);
    if (p[0] != 'u') {
        out[0] = named ? to[named - from] : p[0];
        *written = 1;
        return 1;
    }
    unsigned cp = hex4(p + 1);
    bool pair = cp >= 0xd800 && cp <= 0xdbff;
    if (pair)
        cp = 0x10000u + ((cp - 0xd800u) << 10) + (hex4(p + 7) - 0xdc00u);
    *written = put_utf8(out, cp);
    return pair ? 11 : 5;
}

/* Never longer than what was written, so each string fits in where it stands. */
static int decode_string(const char *text, size_t len, char *out)
{
    size_t at = 0;
    for (size_t i = 0; i < len;) {
        if (text[i] != '\\') {
            out[at++] = text[i++];
            continue;
        }
        size_t written;
        i += 1 + decode_escape(text + i + 1, out + at, &written);
        at += written;
    }
    out[at] = '\0';
    return (int)at;
}

static void decode_strings(struct json *doc)
{
    for (size_t i = 0; i < doc->count; i++) {
        const jsmntok_t *t = &doc->tokens[i];
        if (t->type == JSMN_STRING)
            doc->string_len[i] = decode_string(doc->text + t->start, (size_t)(t->end - t->start),
                                               doc->decoded + t->start);
    }
}

static bool is_container(const jsmntok_t *t)
{
    return t->type == JSMN_ARRAY || t->type == JSMN_OBJECT;
}

/* Children follow their parent in jsmn's order, so one pass in that order fills each list. */
static void index_kids(struct json *doc)
{
    int at = 0;
    for (size_t i = 0; i < doc->count; i++) {
        doc->first_kid[i] = at;
        if (is_container(&doc->tokens[i])) {
            at += doc->tokens[i].size;
            doc->tokens[i].size = 0; /* counted up again below */
        }
    }
    for (size_t i = 1; i < doc->count; i++) {
        jsmntok_t *parent = &doc->tokens[doc->tokens[i].parent];
        if (is_container(parent))
            doc->kids[doc->first_kid[parent - doc->tokens] + parent->size++] = (int)i;
    }
}

static struct str decoded(const struct json *doc, int token)
{
    return (struct str){ doc->decoded + doc->tokens[token].start, (size_t)doc->string_len[token] };
}

/* Equal keys become neighbours, the earlier one first. */
static int compare_keys(const void *a, const void *b, void *doc)
{
    int ta = *(const int *)a, tb = *(const int *)b;
    struct str ka = decoded(doc, ta), kb = decoded(doc, tb);
    if (ka.len != kb.len)
        return ka.len < kb.len ? -1 : 1;
    int order = memcmp(ka.ptr, kb.ptr, ka.len);
    return order != 0 ? order : (ta > tb) - (ta < tb);
}

static int refuse_twice(struct json *doc, int first, int second, struct err *err)
{
    size_t line, column;
    struct str key = decoded(doc, first);
    json_position((struct str){ doc->text, doc->len }, (size_t)doc->tokens[first].start - 1, &line,
                  &column);
    return json_fail((struct json_value){ doc, second }, err,
                     "the key \"" STR_FMT "\" stands here a second time (first in line %zu): "
                     "remove one",
                     STR_ARG(key), line);
}

/* `room` holds as many ints as there are tokens. */
static int check_keys(struct json *doc, int object, int *room, struct err *err)
{
    size_t n = (size_t)doc->tokens[object].size;
    memcpy(room, doc->kids + doc->first_kid[object], n * sizeof(*room));
    qsort_r(room, n, sizeof(*room), compare_keys, doc);
    for (size_t i = 1; i < n; i++) {
        if (str_eq(decoded(doc, room[i - 1]), decoded(doc, room[i])))
            return refuse_twice(doc, room[i - 1], room[i], err);
    }
    return 0;
}

static int check_all_keys(struct json *doc, struct err *err)
{
    int rc = 0;
    int *room = malloc(doc->count * sizeof(*room));
    if (room == NULL)
        return err_set(err, "%s: out of memory", doc->name);
    for (size_t i = 0; rc == 0 && i < doc->count; i++) {
        if (doc->tokens[i].type == JSMN_OBJECT && doc->tokens[i].size > 1)
            rc = check_keys(doc, (int)i, room, err);
    }
    free(room);
    return rc;
}

static struct json *make(const char *name, struct str text, size_t tokens)
{
    struct json *doc = calloc(1, sizeof(*doc));
    if (doc == NULL)
        return NULL;
    doc->len = text.len;
    doc->count = tokens;
    doc->name = strdup(name);
    doc->text = malloc(text.len + 1);
    doc->decoded = malloc(text.len + 1);
    doc->tokens = calloc(tokens, sizeof(*doc->tokens));
    doc->string_len = calloc(tokens, sizeof(*doc->string_len));
    doc->first_kid = calloc(tokens, sizeof(*doc->first_kid));
    doc->kids = calloc(tokens, sizeof(*doc->kids));
    if (doc->name && doc->text && doc->decoded && doc->tokens && doc->string_len &&
        doc->first_kid && doc->kids) {
        memcpy(doc->text, text.ptr, text.len);
        doc->text[text.len] = '\n';
        return doc;
    }
    json_free(doc);
    return NULL;
}

static int tokenize(struct json *doc, struct err *err)
{
    jsmn_parser parser;
    jsmn_init(&parser);
    int n = jsmn_parse(&parser, doc->text, doc->len + 1, doc->tokens, (unsigned)doc->count);
    if (n < 0 || (size_t)n != doc->count)
        return err_set(err, "%s: expected %zu JSON tokens, jsmn found %d: please report this text",
                       doc->name, doc->count, n);
    decode_strings(doc);
    index_kids(doc);
    return check_all_keys(doc, err);
}

struct json *json_parse(const char *name, const char *text, size_t len, struct err *err)
{
    return json_parse_deep(name, text, len, JSON_DEPTH_MAX, err);
}

struct json *json_parse_deep(const char *name, const char *text, size_t len, unsigned levels,
                             struct err *err)
{
    size_t tokens = 0;
    if (len >= INT_MAX) { /* jsmn counts in int */
        err_set(err, "%s: too large for JSON: %zu bytes", name, len);
        return NULL;
    }
    if (json_check(name, (struct str){ text, len }, levels, &tokens, err) != 0)
        return NULL;
    struct json *doc = make(name, (struct str){ text, len }, tokens);
    if (doc == NULL) {
        err_set(err, "%s: out of memory", name);
        return NULL;
    }
    if (tokenize(doc, err) != 0) {
        json_free(doc);
        return NULL;
    }
    return doc;
}

void json_free(struct json *doc)
{
    if (doc == NULL)
        return;
    free(doc->name);
    free(doc->text);
    free(doc->decoded);
    free(doc->tokens);
    free(doc->string_len);
    free(doc->first_kid);
    free(doc->kids);
    free(doc);
}

/* -- reading ------------------------------------------------------------------------------- */

static const struct json_value absent = { NULL, -1 };

static const jsmntok_t *token(struct json_value v)
{
    return json_present(v) ? &v.doc->tokens[v.token] : NULL;
}

struct json_value json_root(const struct json *doc)
{
    return (struct json_value){ doc, 0 };
}

enum json_type json_type(struct json_value v)
{
    const jsmntok_t *t = token(v);
    if (t == NULL)
        return JSON_NULL;
    if (t->type == JSMN_OBJECT)
        return JSON_OBJECT;
    if (t->type == JSMN_ARRAY)
        return JSON_ARRAY;
    if (t->type == JSMN_STRING)
        return JSON_STRING;
    char c = v.doc->text[t->start];
    if (c == 't' || c == 'f')
        return JSON_BOOL;
    return c == 'n' ? JSON_NULL : JSON_NUMBER;
}

const char *json_type_name(enum json_type t)
{
    static const char *const names[] = { "null",     "true or false", "a number",
                                         "a string", "an array",      "an object" };
    return names[t];
}

size_t json_count(struct json_value v)
{
    const jsmntok_t *t = token(v);
    return t != NULL && is_container(t) ? (size_t)t->size : 0;
}

struct json_value json_key_value_at(struct json_value v, size_t i)
{
    if (i >= json_count(v))
        return absent;
    return (struct json_value){ v.doc, v.doc->kids[(size_t)v.doc->first_kid[v.token] + i] };
}

struct json_value json_at(struct json_value v, size_t i)
{
    struct json_value kid = json_key_value_at(v, i);
    if (json_present(kid) && json_type(v) == JSON_OBJECT)
        kid.token++;
    return kid;
}

struct str json_key_at(struct json_value v, size_t i)
{
    struct json_value key = json_key_value_at(v, i);
    if (!json_present(key) || json_type(v) != JSON_OBJECT)
        return (struct str){ NULL, 0 };
    return decoded(key.doc, key.token);
}

struct json_value json_get(struct json_value v, const char *key)
{
    struct str wanted = str_of(key);
    if (json_type(v) != JSON_OBJECT)
        return absent;
    for (size_t i = 0; i < json_count(v); i++) {
        if (str_eq(json_key_at(v, i), wanted))
            return json_at(v, i);
    }
    return absent;
}

int json_bool(struct json_value v, bool *out)
{
    if (json_type(v) != JSON_BOOL)
        return -1;
    *out = json_text(v).ptr[0] == 't';
    return 0;
}

int json_int(struct json_value v, int64_t *out)
{
    if (json_type(v) != JSON_NUMBER)
        return -1;
    struct str digits = json_text(v);
    bool negative = digits.ptr[0] == '-';
    digits.ptr += negative;
    digits.len -= negative;
    uint64_t n;
    if (str_to_u64(digits, &n) != 0 || n > (uint64_t)INT64_MAX + negative)
        return -1;
    *out = negative ? (int64_t)(0 - n) : (int64_t)n;
    return 0;
}

int json_string(struct json_value v, struct str *out)
{
    if (json_type(v) != JSON_STRING)
        return -1;
    *out = decoded(v.doc, v.token);
    return 0;
}

struct str json_get_string(struct json_value object, const char *key)
{
    struct str s = { NULL, 0 };
    struct json_value v = json_get(object, key);
    return json_present(v) && json_string(v, &s) == 0 ? s : (struct str){ NULL, 0 };
}

struct str json_text(struct json_value v)
{
    const jsmntok_t *t = token(v);
    if (t == NULL)
        return (struct str){ NULL, 0 };
    int quote = t->type == JSMN_STRING; /* jsmn leaves them out */
    return (struct str){ v.doc->text + t->start - quote, (size_t)(t->end - t->start + 2 * quote) };
}

int json_compact(struct json_value v, struct buf *out)
{
    struct str text = json_text(v);
    bool in_string = false;
    if (buf_reserve(out, text.len) != 0)
        return -1;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        if (!in_string && (c == ' ' || c == '\t' || c == '\n' || c == '\r'))
            continue;
        out->data[out->len++] = c;
        if (c == '"')
            in_string = !in_string;
        else if (in_string && c == '\\') /* what follows ends no string */
            out->data[out->len++] = text.ptr[++i];
    }
    out->data[out->len] = '\0';
    return 0;
}

/* What the document says is quoted in the reason: on one line, harmless on a terminal. */
int json_fail(struct json_value v, struct err *err, const char *fmt, ...)
{
    struct err raw, shown;
    size_t used;
    va_list ap;
    va_start(ap, fmt);
    err_vset(&raw, fmt, ap);
    va_end(ap);
    size_t len = escape(shown.text, sizeof(shown.text) - 1, str_of(raw.text), ESCAPE_LINE, &used);
    shown.text[len] = '\0';
    err_set(err, "%s", shown.text);
    if (!json_present(v))
        return -1;
    size_t line, column;
    struct str text = json_text(v);
    json_position((struct str){ v.doc->text, v.doc->len }, (size_t)(text.ptr - v.doc->text), &line,
                  &column);
    return err_prefix(err, "%s:%zu:%zu", v.doc->name, line, column);
}
