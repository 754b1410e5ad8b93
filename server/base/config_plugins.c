/*
 * The parts of graft.json that name plugins: plugins, middleware and routes. One configuration,
 * one thread.
 */
#include "base/config_private.h"

#include <sha2.h>
#include <stdlib.h>

#define SEGMENTS_MAX 64 /* of a pattern, as the router has them */
#define PARAMS_MAX   16

/* -- names, mounts and patterns ------------------------------------------------------------ */

static bool one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

#define LOWER  "abcdefghijklmnopqrstuvwxyz"
#define UPPER  "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

static bool name_valid(struct str name)
{
    if (name.len == 0 || name.len > CONFIG_NAME_MAX || !one_of(name.ptr[0], LOWER))
        return false;
    for (size_t i = 1; i < name.len; i++) {
        if (!one_of(name.ptr[i], LOWER DIGITS "-"))
            return false;
    }
    return true;
}

static int refuse_name(struct json_value v, const char *where, struct str name, struct err *err)
{
    int shown = name.len > CONFIG_NAME_MAX ? CONFIG_NAME_MAX : (int)name.len;
    return json_fail(v, err,
                     "%s: expected the name of a plugin (a-z, then a-z, 0-9 and '-', at most %d "
                     "bytes), found \"%.*s\"",
                     where, CONFIG_NAME_MAX, shown, name.ptr);
}

/* A parameter's name: whole segment behind ':' or '*'. */
static bool param_valid(struct str name)
{
    if (name.len == 0 || one_of(name.ptr[0], DIGITS "-"))
        return false;
    for (size_t i = 0; i < name.len; i++) {
        if (!one_of(name.ptr[i], LOWER UPPER DIGITS "_-"))
            return false;
    }
    return true;
}

/* %2F alone stays as it is when a path is decoded. */
static bool escaped(const char *p, size_t len)
{
    return len >= 3 && p[0] == '%' && one_of(p[1], DIGITS "abcdefABCDEF") &&
           one_of(p[2], DIGITS "abcdefABCDEF") && memcmp(p, "%2F", 3) != 0;
}

static const char *literal_fault(struct str segment)
{
    if (str_eq(segment, STR(".")) || str_eq(segment, STR("..")))
        return "no path contains the segments \".\" and \"..\": leave them out";
    for (size_t i = 0; i < segment.len; i++) {
        unsigned char c = (unsigned char)segment.ptr[i];
        if (c < 0x20 || c == 0x7f)
            return "a path has no control characters: remove them";
        if (c == '?' || c == '#')
            return "a pattern is compared with the path alone: leave out what follows '?' or '#'";
        if (escaped(segment.ptr + i, segment.len - i))
            return "a pattern is compared with the decoded path: write the character itself "
                   "instead "
                   "of its %-escape";
        if (c == '*')
            return "\"*\" stands for whole segments, at the end only: expected \"/*\" behind a "
                   "prefix";
    }
    return NULL;
}

/* The segment that begins at *at, behind a slash; *at moves to the slash behind it or the end. */
static struct str next_segment(const char **at)
{
    struct str segment = { *at, strcspn(*at, "/") };
    *at += segment.len;
    return segment;
}

static const char *mount_fault(const char *mount)
{
    if (mount[0] == '\0')
        return NULL;
    if (mount[0] != '/')
        return "expected it to begin with '/'";
    for (const char *at = mount; *at == '/';) {
        at++;
        struct str segment = next_segment(&at);
        if (segment.len == 0)
            return at[0] == '\0' ? "expected it without a slash at its end; \"\" is no prefix"
                                 : "expected one slash between two segments";
        if (segment.ptr[0] == ':' || segment.ptr[0] == '*')
            return "a mount has no parameters: expected plain segments, as in \"/api/v1\"";
        const char *fault = literal_fault(segment);
        if (fault != NULL)
            return fault;
    }
    return NULL;
}

static const char *segment_fault(struct str segment, const char *behind)
{
    bool rest = segment.len > 0 && segment.ptr[0] == '*';
    bool param = segment.len > 0 && segment.ptr[0] == ':';
    struct str name = { segment.ptr + 1, segment.len - 1 };
    if (!rest && !param)
        return literal_fault(segment);
    if (rest && *behind != '\0')
        return "\"*\" must be the last segment";
    if (rest && name.len == 0)
        return NULL;
    return param_valid(name) ? NULL
                             : "expected a name of letters, digits, '_' and '-' behind ':' or '*'";
}

static const char *pattern_fault(const char *pattern)
{
    struct str names[PARAMS_MAX];
    size_t segments = 0, params = 0;
    if (pattern[0] != '/')
        return "expected \"/path\", or a method, one space and \"/path\"";
    for (const char *at = pattern; *at == '/';) {
        at++;
        struct str segment = next_segment(&at);
        const char *fault = segment_fault(segment, at);
        if (fault != NULL)
            return fault;
        if (++segments > SEGMENTS_MAX)
            return "expected at most 64 segments";
        if (segment.len < 2 || !one_of(segment.ptr[0], ":*"))
            continue;
        for (size_t i = 0; i < params; i++) {
            if (str_eq((struct str){ segment.ptr + 1, segment.len - 1 }, names[i]))
                return "two parameters have one name: rename one";
        }
        if (params == PARAMS_MAX)
            return "expected at most 16 parameters";
        names[params++] = (struct str){ segment.ptr + 1, segment.len - 1 };
    }
    return NULL;
}

/* -- lists of names ------------------------------------------------------------------------ */

void config_strings_free(char **strings, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(strings[i]);
    free(strings);
}

static int read_name(char **out, struct json_value v, const char *where, struct err *err)
{
    struct str name = json_text(v);
    if (json_string(v, &name) != 0 || !name_valid(name))
        return refuse_name(v, where, name, err);
    return config_copy(out, name.ptr, err);
}

static int read_names(char ***out, size_t *count, struct json_value v, const char *where,
                      struct err *err)
{
    size_t n = json_count(v);
    char **names = calloc(n ? n : 1, sizeof(*names));
    if (names == NULL)
        return config_no_memory(err);
    for (size_t i = 0; i < n; i++) {
        if (read_name(&names[i], json_at(v, i), where, err) != 0) {
            config_strings_free(names, n);
            return -1;
        }
    }
    *out = names;
    *count = n;
    return 0;
}

static int read_middleware(struct config_reader *r, const struct config_key *key,
                           struct json_value v)
{
    (void)key;
    return read_names(&r->cfg->middleware, &r->cfg->middleware_count, v, "middleware", r->err);
}

/* -- plugins ------------------------------------------------------------------------------- */

static int read_flag(bool *out, struct json_value v, const char *what, struct err *err)
{
    if (config_expect(v, JSON_BOOL, what, err) != 0)
        return -1;
    return json_bool(v, out);
}

static int set_plugin_config(struct config_plugin *p, struct str text, struct err *err)
{
    p->config = strndup(text.ptr, text.len);
    if (p->config == NULL)
        return config_no_memory(err);
    SHA256Data((const uint8_t *)text.ptr, text.len, p->config_sha256);
    return 0;
}

static int read_plugin_config(struct config_plugin *p, struct json_value v, struct err *err)
{
    struct buf text = { 0 };
    if (!json_present(v))
        return set_plugin_config(p, STR("{}"), err);
    if (config_expect(v, JSON_OBJECT, "config: expected an object", err) != 0)
        return -1;
    int rc = json_compact(v, &text) == 0 ? set_plugin_config(p, buf_str(&text), err)
                                         : config_no_memory(err);
    buf_fini(&text);
    return rc;
}

static int read_mount(struct config_plugin *p, struct json_value v, struct err *err)
{
    struct str mount = STR("");
    if (json_present(v) &&
        config_expect(v, JSON_STRING, "mount: expected \"\" or \"/prefix\"", err) != 0)
        return -1;
    json_string(v, &mount);
    const char *fault = mount_fault(mount.ptr);
    if (fault != NULL)
        return json_fail(v, err, "mount: found \"%.80s\": %s", mount.ptr, fault);
    return config_copy(&p->mount, mount.ptr, err);
}

int config_check_keys(struct json_value v, const struct str *known, size_t count, struct err *err)
{
    for (size_t i = 0; i < json_count(v); i++) {
        struct str name = json_key_at(v, i);
        size_t k = 0;
        while (k < count && !str_eq(known[k], name))
            k++;
        if (k == count)
            return config_unknown(json_key_value_at(v, i), name, known, count, err);
    }
    return 0;
}

static int read_plugin(struct config_plugin *p, struct json_value v, struct err *err)
{
    static const struct str known[] = {
        { "config", 6 }, { "mount", 5 }, { "enabled", 7 }, { "required", 8 }, { "rollout", 7 }
    };
    struct json_value enabled = json_get(v, "enabled"), required = json_get(v, "required");
    struct json_value rollout = json_get(v, "rollout");
    if (config_expect(v, JSON_OBJECT, "expected an object for this plugin", err) != 0 ||
        config_check_keys(v, known, ARRAY_LEN(known), err) != 0)
        return -1;
    p->enabled = p->required = p->written = true;
    p->required_written = json_present(required);
    if (json_present(enabled) &&
        read_flag(&p->enabled, enabled, "enabled: expected true or false", err) != 0)
        return -1;
    if (p->required_written &&
        read_flag(&p->required, required, "required: expected true or false", err) != 0)
        return -1;
    if (json_present(rollout) && config_read_rollout(&p->rollout, rollout, err) != 0)
        return -1;
    if (read_mount(p, json_get(v, "mount"), err) != 0)
        return -1;
    return read_plugin_config(p, json_get(v, "config"), err);
}

static int read_plugins(struct config_reader *r, const struct config_key *key, struct json_value v)
{
    size_t n = json_count(v);
    (void)key;
    r->cfg->plugins = calloc(n ? n : 1, sizeof(*r->cfg->plugins));
    if (r->cfg->plugins == NULL)
        return config_no_memory(r->err);
    r->cfg->plugin_count = n;
    for (size_t i = 0; i < n; i++) {
        struct config_plugin *p = &r->cfg->plugins[i];
        struct str name = json_key_at(v, i);
        if (!name_valid(name))
            return refuse_name(json_key_value_at(v, i), "plugins", name, r->err);
        if (config_copy(&p->name, name.ptr, r->err) != 0 ||
            read_plugin(p, json_at(v, i), r->err) != 0)
            return -1;
    }
    return 0;
}

/* -- routes -------------------------------------------------------------------------------- */

/* "METHOD /pattern" or "/pattern". */
static int read_match(struct config_route *route, struct json_value v, struct err *err)
{
    struct str match = { NULL, 0 };
    if (config_expect(v, JSON_STRING, "match: expected \"GET /pattern\" or \"/prefix/*\"", err) !=
        0)
        return -1;
    json_string(v, &match);
    const char *pattern = match.ptr;
    size_t method = match.ptr[0] == '/' ? 0 : strcspn(match.ptr, " ");
    for (size_t i = 0; i < method; i++) {
        if (!one_of(match.ptr[i], UPPER DIGITS "-_"))
            return json_fail(v, err,
                             "match: found \"%.80s\": expected \"/path\", or a method in upper "
                             "case, one space and \"/path\"",
                             match.ptr);
    }
    if (method > 0)
        pattern += method + (pattern[method] == ' ');
    const char *fault = pattern_fault(pattern);
    if (fault != NULL)
        return json_fail(v, err, "match: found \"%.80s\": %s", match.ptr, fault);
    if (method > 0 && (route->method = strndup(match.ptr, method)) == NULL)
        return config_no_memory(err);
    return config_copy(&route->pattern, pattern, err);
}

static int read_route(struct config_route *route, struct json_value v, struct err *err)
{
    static const struct str known[] = { { "match", 5 }, { "middleware", 10 }, { "plugin", 6 } };
    if (config_expect(v, JSON_OBJECT, "routes: expected an object", err) != 0 ||
        config_check_keys(v, known, ARRAY_LEN(known), err) != 0)
        return -1;
    struct json_value match = json_get(v, "match"), middleware = json_get(v, "middleware");
    struct json_value plugin = json_get(v, "plugin");
    if (!json_present(match) || !json_present(middleware))
        return json_fail(v, err, "routes: expected a \"match\" and a \"middleware\", found no %s",
                         json_present(match) ? "middleware" : "match");
    if (config_expect(middleware, JSON_ARRAY, "middleware: expected an array of names", err) != 0 ||
        read_match(route, match, err) != 0)
        return -1;
    if (json_present(plugin) && read_name(&route->plugin, plugin, "plugin", err) != 0)
        return -1;
    return read_names(&route->middleware, &route->middleware_count, middleware, "middleware", err);
}

static int read_routes(struct config_reader *r, const struct config_key *key, struct json_value v)
{
    size_t n = json_count(v);
    (void)key;
    r->cfg->routes = calloc(n ? n : 1, sizeof(*r->cfg->routes));
    if (r->cfg->routes == NULL)
        return config_no_memory(r->err);
    r->cfg->route_count = n;
    for (size_t i = 0; i < n; i++) {
        if (read_route(&r->cfg->routes[i], json_at(v, i), r->err) != 0)
            return -1;
    }
    return 0;
}

/* Also of a configuration that was read in part: what is not there yet is zero. */
void config_plugins_free(struct config *cfg)
{
    for (size_t i = 0; i < cfg->plugin_count; i++) {
        free(cfg->plugins[i].name);
        free(cfg->plugins[i].config);
        free(cfg->plugins[i].mount);
        config_rollout_free(cfg->plugins[i].rollout);
    }
    for (size_t i = 0; i < cfg->route_count; i++) {
        free(cfg->routes[i].method);
        free(cfg->routes[i].pattern);
        free(cfg->routes[i].plugin);
        config_strings_free(cfg->routes[i].middleware, cfg->routes[i].middleware_count);
    }
    free(cfg->plugins);
    free(cfg->routes);
    config_strings_free(cfg->middleware, cfg->middleware_count);
}

const struct config_type config_plugins = { "an object of plugins", JSON_OBJECT, NULL,
                                            read_plugins };
const struct config_type config_names = { "an array of plugin names", JSON_ARRAY, NULL,
                                          read_middleware };
const struct config_type config_routes = { "an array of routes", JSON_ARRAY, NULL, read_routes };
