/*
 * Walking through graft.json by the table of keys. Every fault is told with its place: what was
 * expected there, what was found, what to do. One configuration, one thread.
 */
#include "base/config_private.h"

#include "base/nearest.h"

#include <stdio.h>

#define KEY_MAX 64 /* bytes of "group.key" */

int config_expect(struct json_value v, enum json_type type, const char *what, struct err *err)
{
    enum json_type found = json_type(v);
    if (found == type)
        return 0;
    const char *cure = "";
    if (found == JSON_STRING && (type == JSON_NUMBER || type == JSON_BOOL))
        cure = ": write it without quotes";
    else if (type == JSON_STRING && found != JSON_OBJECT && found != JSON_ARRAY)
        cure = ": write it in double quotes";
    else if (type == JSON_ARRAY && found != JSON_OBJECT)
        cure = ": write it in [ ]";
    return json_fail(v, err, "%s, found %s%s", what, json_type_name(found), cure);
}

int config_unknown(struct json_value key, struct str name, const struct str *known, size_t count,
                   struct err *err)
{
    char list[400] = "";
    size_t len = 0;
    struct str near = nearest(name, known, count);
    int shown = name.len > 60 ? 60 : (int)name.len;
    if (near.ptr != NULL)
        return json_fail(key, err, "unknown key \"%.*s\": did you mean \"" STR_FMT "\"?", shown,
                         name.ptr, STR_ARG(near));
    for (size_t i = 0; i < count && len + known[i].len + 3 < sizeof(list); i++)
        len += (size_t)snprintf(list + len, sizeof(list) - len, "%s" STR_FMT, i ? ", " : "",
                                STR_ARG(known[i]));
    return json_fail(key, err, "unknown key \"%.*s\": expected one of %s", shown, name.ptr, list);
}

/* The part of a key's name that stands in an object: "limits" at the top, "head_bytes" in it. */
static struct str part_below(const char *name, const char *prefix)
{
    size_t len = strlen(prefix);
    if (strncmp(name, prefix, len) != 0)
        return (struct str){ NULL, 0 };
    return (struct str){ name + len, strcspn(name + len, ".") };
}

static bool is_group(struct str name)
{
    for (size_t i = 0; i < config_key_count; i++) {
        struct str top = part_below(config_keys[i].name, "");
        if (str_eq(top, name) && config_keys[i].name[top.len] == '.')
            return true;
    }
    return false;
}

static int unknown_key(struct config_reader *r, struct json_value key, struct str name,
                       const char *prefix)
{
    struct str known[64];
    size_t count = 0;
    for (size_t i = 0; i < config_key_count; i++) {
        struct str part = part_below(config_keys[i].name, prefix);
        if (part.ptr != NULL && (count == 0 || !str_eq(known[count - 1], part)))
            known[count++] = part;
        const char *dot = strchr(config_keys[i].name, '.');
        if (dot != NULL && prefix[0] == '\0' && str_eq(name, str_of(dot + 1)))
            return json_fail(key, r->err,
                             "unknown key \"%s\": it belongs into \"%.*s\": {\"%s\": ...}", dot + 1,
                             (int)(dot - config_keys[i].name), config_keys[i].name, dot + 1);
    }
    return config_unknown(key, name, known, count, r->err);
}

static int read_key(struct config_reader *r, const struct config_key *key, struct json_value v)
{
    char expected[96], what[192];
    struct str text = json_text(v);
    config_key_expected(key, expected, sizeof(expected));
    snprintf(what, sizeof(what), "%s: expected %s", key->name, expected);
    if (config_expect(v, key->type->json, what, r->err) != 0)
        return -1;
    r->cfg->keys_set |= (uint64_t)1 << (key - config_keys);
    if (key->type->set == NULL && config_variable(r->envp, key->variable) != NULL)
        return 0; /* what is a list or an object is read once: from there */
    if (key->type->read != NULL)
        return key->type->read(r, key, v);
    char number[64];
    if (json_string(v, &text) != 0) {
        snprintf(number, sizeof(number), STR_FMT, STR_ARG(text));
        text = str_of(number);
    }
    if (key->type->set(r, key, text.ptr) != 0)
        return json_fail(v, r->err, "%s: %s", key->name, r->err->text);
    return 0;
}

static int read_members(struct config_reader *r, struct json_value object, const char *prefix);

static int read_group(struct config_reader *r, const char *name, struct json_value v)
{
    char what[KEY_MAX + 32], below[KEY_MAX + 1];
    snprintf(what, sizeof(what), "%s: expected an object", name);
    snprintf(below, sizeof(below), "%s.", name);
    if (config_expect(v, JSON_OBJECT, what, r->err) != 0)
        return -1;
    return read_members(r, v, below);
}

static int read_member(struct config_reader *r, struct json_value object, size_t i,
                       const char *prefix)
{
    struct json_value key = json_key_value_at(object, i);
    struct str name = json_key_at(object, i);
    char full[KEY_MAX];
    int len = snprintf(full, sizeof(full), "%s" STR_FMT, prefix, STR_ARG(name));
    if (len < 0 || len >= KEY_MAX || strchr(name.ptr, '.') != NULL)
        return unknown_key(r, key, name, prefix);
    const struct config_key *known = config_key_find(str_of(full));
    if (known != NULL)
        return read_key(r, known, json_at(object, i));
    if (prefix[0] == '\0' && is_group(name))
        return read_group(r, full, json_at(object, i));
    return unknown_key(r, key, name, prefix);
}

static int read_members(struct config_reader *r, struct json_value object, const char *prefix)
{
    for (size_t i = 0; i < json_count(object); i++) {
        if (read_member(r, object, i, prefix) != 0)
            return -1;
    }
    return 0;
}

int config_read(struct config_reader *r, const char *name, const char *text, size_t len)
{
    struct json *doc = json_parse(name, text, len, r->err);
    if (doc == NULL)
        return -1;
    int rc = config_expect(json_root(doc), JSON_OBJECT, "expected an object of settings", r->err);
    if (rc == 0)
        rc = read_members(r, json_root(doc), "");
    json_free(doc);
    return rc;
}

int config_read_value(struct config_reader *r, const struct config_key *key, const char *name,
                      const char *text)
{
    struct json *doc = json_parse(name, text, strlen(text), r->err);
    if (doc == NULL)
        return -1;
    char what[112];
    snprintf(what, sizeof(what), "expected %s", key->type->name);
    int rc = config_expect(json_root(doc), key->type->json, what, r->err);
    if (rc == 0)
        rc = key->type->read(r, key, json_root(doc));
    json_free(doc);
    return rc;
}
