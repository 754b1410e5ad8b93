/*
 * Values of keys: each type checks a text and stores it. A setter that fails has stored nothing.
 * One configuration, one thread.
 */
#include "base/config_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define LISTEN_MAX 64
#define SHOWN      80 /* bytes of a wrong value that a message repeats */

int config_no_memory(struct err *err)
{
    return err_set(err, "out of memory");
}

int config_copy(char **out, const char *text, struct err *err)
{
    char *copy = strdup(text);
    if (copy == NULL)
        return config_no_memory(err);
    free(*out);
    *out = copy;
    return 0;
}

static void *member(const struct config_reader *r, const struct config_key *key)
{
    return (char *)r->cfg + key->offset;
}

static int refuse(const struct config_reader *r, const struct config_key *key, const char *text)
{
    char expected[96], fallback[96] = "";
    config_key_expected(key, expected, sizeof(expected));
    if (key->fallback != NULL && key->fallback[0] != '\0')
        snprintf(fallback, sizeof(fallback), ": the default is %s", key->fallback);
    return err_set(r->err, "expected %s, found \"%.*s%s\"%s", expected, SHOWN, text,
                   strlen(text) > SHOWN ? "..." : "", fallback);
}

/* -- plain values -------------------------------------------------------------------------- */

static int set_bool(struct config_reader *r, const struct config_key *key, const char *text)
{
    static const char *const no[] = { "false", "0", "no", "off" };
    static const char *const yes[] = { "true", "1", "yes", "on" };
    struct str word = str_of(text);
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        bool on = str_case_eq(word, str_of(yes[i]));
        if (on || str_case_eq(word, str_of(no[i]))) {
            *(bool *)member(r, key) = on;
            return 0;
        }
    }
    return refuse(r, key, text);
}

static int set_number(struct config_reader *r, const struct config_key *key, const char *text)
{
    uint64_t n;
    if (str_to_u64(str_of(text), &n) != 0 || n < key->min || n > key->max)
        return refuse(r, key, text);
    if (key->size == sizeof(uint64_t)) {
        memcpy(member(r, key), &n, sizeof(n));
    } else {
        unsigned small = (unsigned)n;
        memcpy(member(r, key), &small, sizeof(small));
    }
    return 0;
}
_Static_assert(sizeof(size_t) == sizeof(uint64_t), "set_number stores a size_t as a uint64_t");

/* What people and paths are named with: no byte that could hide something in a log. */
static int set_text(struct config_reader *r, const struct config_key *key, const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(r->err, "expected %s without control characters, found byte 0x%02x",
                           key->type->name, (unsigned char)*p);
    }
    if (strlen(text) > key->max)
        return err_set(r->err,
                       "expected %s of at most %" PRIu64 " bytes, found %zu: use a shorter "
                       "one",
                       key->type->name, key->max, strlen(text));
    return config_copy(member(r, key), text, r->err);
}

static int set_path(struct config_reader *r, const struct config_key *key, const char *text)
{
    return text[0] != '\0' ? set_text(r, key, text) : refuse(r, key, text);
}

/* A field value as it goes over the wire: visible ASCII, no blank at an end. */
static int set_header(struct config_reader *r, const struct config_key *key, const char *text)
{
    size_t len = strlen(text);
    if (len > 0 && (text[0] == ' ' || text[len - 1] == ' '))
        return refuse(r, key, text);
    for (size_t i = 0; i < len; i++) {
        if (text[i] < ' ' || text[i] > '~')
            return refuse(r, key, text);
    }
    return set_text(r, key, text);
}

static int set_level(struct config_reader *r, const struct config_key *key, const char *text)
{
    enum log_level level;
    if (log_level_parse(str_of(text), &level) != 0)
        return refuse(r, key, text);
    r->cfg->log.level = level;
    return 0;
}

static int set_format(struct config_reader *r, const struct config_key *key, const char *text)
{
    bool json = strcmp(text, "json") == 0;
    if (!json && strcmp(text, "text") != 0)
        return refuse(r, key, text);
    r->cfg->log.json = json;
    return 0;
}

/* -- addresses ----------------------------------------------------------------------------- */

static int set_ops(struct config_reader *r, const struct config_key *key, const char *text)
{
    struct addr addr = { .fd = -1 };
    if (text[0] != '\0' && addr_parse(&addr, text, r->resolve, r->err) != 0)
        return -1;
    if (config_copy(member(r, key), text, r->err) != 0)
        return -1;
    r->cfg->ops_addr = addr;
    return 0;
}

static int add_listen(struct config_reader *r, const char *text)
{
    struct config *cfg = r->cfg;
    struct addr addr;
    if (addr_parse(&addr, text, r->resolve, r->err) != 0)
        return -1;
    for (size_t i = 0; i < cfg->listen_count; i++) {
        if (addr_equal(&cfg->listen[i], &addr) && !addr_picks_port(&addr))
            return err_set(r->err, "\"%s\" is named twice: remove one", text);
    }
    if (cfg->listen_count == LISTEN_MAX)
        return err_set(r->err, "expected at most %d addresses, found more", LISTEN_MAX);
    struct addr *list = realloc(cfg->listen, (cfg->listen_count + 1) * sizeof(*list));
    if (list == NULL)
        return config_no_memory(r->err);
    cfg->listen = list;
    cfg->listen[cfg->listen_count++] = addr;
    return 0;
}

/* "127.0.0.1:80, [::1]:80" */
static int set_listen(struct config_reader *r, const struct config_key *key, const char *text)
{
    (void)key;
    if (!r->append)
        r->cfg->listen_count = 0;
    for (;;) {
        char one[sizeof(r->cfg->listen->text)];
        text += strspn(text, " ");
        size_t len = strcspn(text, ","), shown = len;
        while (shown > 0 && text[shown - 1] == ' ')
            shown--;
        if (shown >= sizeof(one))
            return err_set(r->err, "expected an address, found %zu bytes", shown);
        memcpy(one, text, shown);
        one[shown] = '\0';
        if (add_listen(r, one) != 0)
            return -1;
        if (text[len] == '\0')
            return 0;
        text += len + 1;
    }
}

static int read_listen(struct config_reader *r, const struct config_key *key, struct json_value v)
{
    size_t count = json_count(v);
    (void)key;
    if (count == 0)
        return json_fail(v, r->err,
                         "listen: expected at least one address, found none: remove the key for "
                         "the default 127.0.0.1:8080");
    r->cfg->listen_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct json_value one = json_at(v, i);
        struct str text = { NULL, 0 };
        if (config_expect(one, JSON_STRING, "listen: expected an address as a string", r->err) != 0)
            return -1;
        json_string(one, &text);
        if (add_listen(r, text.ptr) != 0)
            return json_fail(one, r->err, "listen: %s", r->err->text);
    }
    return 0;
}

static int read_networks(struct config_reader *r, const struct config_key *key, struct json_value v)
{
    size_t count = json_count(v);
    struct cidr *list = calloc(count + 1, sizeof(*list));
    if (list == NULL)
        return config_no_memory(r->err);
    r->cfg->version_header_from = list;
    for (size_t i = 0; i < count; i++) {
        struct json_value one = json_at(v, i);
        struct str text = { NULL, 0 };
        if (config_expect(one, JSON_STRING, "version_header_from: expected an address as a string",
                          r->err) != 0)
            return -1;
        json_string(one, &text);
        if (cidr_parse(&list[i], text.ptr, r->err) != 0)
            return json_fail(one, r->err, "%s: %s", key->name, r->err->text);
    }
    r->cfg->version_header_from_count = count;
    return 0;
}

const struct config_type config_bool = { "true or false", JSON_BOOL, set_bool, NULL };
const struct config_type config_number = { NULL, JSON_NUMBER, set_number, NULL };
const struct config_type config_text = { "a string", JSON_STRING, set_text, NULL };
const struct config_type config_folder = { "a path, or \"\"", JSON_STRING, set_text, NULL };
const struct config_type config_path = { "a path", JSON_STRING, set_path, NULL };
const struct config_type config_socket = { "the path of a socket, or \"\"", JSON_STRING, set_text,
                                           NULL };
const struct config_type config_header = { "visible ASCII, or \"\"", JSON_STRING, set_header,
                                           NULL };
const struct config_type config_ops = { "an address, or \"\"", JSON_STRING, set_ops, NULL };
const struct config_type config_level = { "debug, info, warn or error", JSON_STRING, set_level,
                                          NULL };
const struct config_type config_format = { "json or text", JSON_STRING, set_format, NULL };
const struct config_type config_listen = { "an array of addresses", JSON_ARRAY, set_listen,
                                           read_listen };
const struct config_type config_networks = { "an array of addresses and networks", JSON_ARRAY, NULL,
                                             read_networks };
