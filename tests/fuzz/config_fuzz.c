/*
 * The JSON reader and writer, and graft.json as a whole: whatever is accepted can be read, written
 * and read again as the same; whatever is refused is refused with its place; any bytes can be
 * written as a string. No file is opened and no name resolved.
 */
#include "fuzz.h"

#include "base/config.h"
#include "base/escape.h"
#include "base/json.h"

static struct json *must_parse(struct str text)
{
    struct err err;
    char *copy = fuzz_copy(text.ptr, text.len);
    struct json *doc = json_parse("again", copy, text.len, &err);
    free(copy);
    if (doc == NULL)
        fprintf(stderr, "%s\n", err.text);
    HOLDS(doc != NULL);
    return doc;
}

/* "fuzz:LINE:COLUMN: words" */
static void check_message(const char *text)
{
    unsigned long line = 0, column = 0;
    int at = 0;
    HOLDS(sscanf(text, "fuzz:%lu:%lu: %n", &line, &column, &at) == 2);
    HOLDS(line > 0 && column > 0 && at > 0 && text[at] != '\0');
}

static void write_value(struct json_out *o, const char *key, struct json_value v);

static void write_members(struct json_out *o, const char *key, struct json_value v)
{
    bool object = json_type(v) == JSON_OBJECT;
    json_open(o, key, object ? '{' : '[');
    for (size_t i = 0; i < json_count(v); i++)
        write_value(o, object ? json_key_at(v, i).ptr : NULL, json_at(v, i));
    json_close(o, object ? '}' : ']');
    HOLDS(!json_present(json_at(v, json_count(v))));
}

static void write_value(struct json_out *o, const char *key, struct json_value v)
{
    int64_t n;
    bool b;
    struct str s;
    if (json_string(v, &s) == 0) {
        HOLDS(s.ptr[s.len] == '\0' && strlen(s.ptr) == s.len);
        json_put_str(o, key, s);
    } else if (json_int(v, &n) == 0) {
        json_put_int(o, key, n);
    } else if (json_bool(v, &b) == 0) {
        json_put_bool(o, key, b);
    } else if (json_type(v) == JSON_ARRAY || json_type(v) == JSON_OBJECT) {
        write_members(o, key, v);
    } else {
        json_put_raw(o, key, json_text(v));
    }
}

static struct buf written(const struct json *doc)
{
    struct buf out = { 0 };
    struct json_out o;
    json_out_init(&o, &out);
    write_value(&o, NULL, json_root(doc));
    HOLDS(!o.failed);
    return out;
}

static struct buf compact(const struct json *doc)
{
    struct buf out = { 0 };
    HOLDS(json_compact(json_root(doc), &out) == 0);
    return out;
}

/* Both ways of writing a document lead back to it. */
static void check_document(const struct json *doc)
{
    struct buf first = written(doc), small = compact(doc);
    struct json *from_written = must_parse(buf_str(&first));
    struct json *from_small = must_parse(buf_str(&small));
    struct buf second = written(from_written), third = written(from_small);
    struct buf smaller = compact(from_small);
    HOLDS(str_eq(buf_str(&first), buf_str(&second)));
    HOLDS(str_eq(buf_str(&first), buf_str(&third)));
    HOLDS(str_eq(buf_str(&small), buf_str(&smaller)));
    json_free(from_written);
    json_free(from_small);
    buf_fini(&first);
    buf_fini(&second);
    buf_fini(&third);
    buf_fini(&small);
    buf_fini(&smaller);
}

static void check_any_bytes(struct str data)
{
    struct buf out = { 0 };
    struct json_out o;
    struct str s;
    bool has_nul = data.len > 0 && memchr(data.ptr, 0, data.len) != NULL;
    json_out_init(&o, &out);
    json_put_str(&o, NULL, data);
    if (!has_nul) { /* \u0000 is valid JSON that the reader refuses */
        struct json *doc = must_parse(buf_str(&out));
        HOLDS(json_string(json_root(doc), &s) == 0);
        HOLDS(s.len >= data.len);
        json_free(doc);
    }
    for (size_t i = 0; i < out.len; i++)
        HOLDS((unsigned char)out.data[i] >= 0x20 && out.data[i] != 0x7f);
    buf_fini(&out);
}

static void check_config(const struct config *c)
{
    HOLDS(c->listen_count >= 1 && c->workers <= 1024);
    HOLDS(c->limits.field_bytes <= 8191 && c->limits.target_bytes <= 8191);
    HOLDS(config_restart_keys_changed(c, c, NULL, 0) == 0);
    for (size_t i = 0; i < c->plugin_count; i++) {
        const struct config_plugin *p = &c->plugins[i];
        HOLDS(config_plugin(c, p->name) == p && p->written);
        HOLDS(p->config[0] == '{' && strlen(p->config_sha256) == 64);
        HOLDS(p->mount[0] == '\0' || (p->mount[0] == '/' && p->mount[strlen(p->mount) - 1] != '/'));
        json_free(must_parse(str_of(p->config)));
    }
    for (size_t i = 0; i < c->route_count; i++) {
        const struct config_route *r = &c->routes[i];
        HOLDS(r->pattern[0] == '/' && (r->method == NULL || r->method[0] != '\0'));
        for (size_t k = 0; k < r->middleware_count; k++)
            HOLDS(r->middleware[k][0] >= 'a' && r->middleware[k][0] <= 'z');
    }
}

static void check_address(struct str data)
{
    struct addr a;
    struct err err = { "" };
    char *text = strndup(data.ptr ? data.ptr : "", data.len), shown[ADDR_FORMAT_SIZE];
    HOLDS(text != NULL);
    if (addr_parse(&a, text, false, &err) == 0) {
        HOLDS(addr_equal(&a, &a));
        if (a.len > 0)
            addr_format((const struct sockaddr *)&a.sa, a.len, shown);
    } else {
        HOLDS(err.text[0] != '\0');
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct err json_err = { "" }, err = { "" };
    char *copy = fuzz_copy(data, len);
    struct str text = { copy, len };
    struct json *doc = json_parse("fuzz", copy, len, &json_err);
    struct config *config = config_from_text("fuzz", copy, len, &err);
    if (doc == NULL) {
        check_message(json_err.text);
        HOLDS(config == NULL && strcmp(json_err.text, err.text) == 0);
    } else {
        check_document(doc);
    }
    if (config != NULL)
        check_config(config);
    else
        check_message(err.text);
    check_any_bytes(text);
    check_address(text);
    config_free(config);
    json_free(doc);
    free(copy);
    return 0;
}
