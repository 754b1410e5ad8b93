/*
 * A configuration from its three sources, each put over the one before: file, GRAFT_* variables,
 * flags. What comes out never changes. This file alone knows the paths that were built in.
 */
#include "base/config_private.h"

#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef GRAFT_SYSCONFDIR
#define GRAFT_SYSCONFDIR "/etc/graft"
#endif
#ifndef GRAFT_PLUGINDIR
#define GRAFT_PLUGINDIR "/usr/lib/graft/plugins"
#endif

const char config_default_file[] = GRAFT_SYSCONFDIR "/graft.json";
const char config_default_plugin_dir[] = GRAFT_PLUGINDIR;

const char *config_default_path(void)
{
    return config_default_file;
}

/* -- defaults ------------------------------------------------------------------------------ */

static struct config *new_config(struct err *err)
{
    struct config *cfg = calloc(1, sizeof(*cfg));
    if (cfg == NULL) {
        config_no_memory(err);
        return NULL;
    }
    cfg->magic = CONFIG_MAGIC;
    struct config_reader r = { .cfg = cfg, .err = err };
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->fallback != NULL && key->type->set(&r, key, key->fallback) != 0) {
            err_prefix(err, "default of %s", key->name);
            config_free(cfg);
            return NULL;
        }
    }
    return cfg;
}

void config_free(struct config *cfg)
{
    if (cfg == NULL)
        return;
    CHECK(cfg, CONFIG_MAGIC);
    cfg->magic = 0;
    config_plugins_free(cfg);
    free(cfg->version_header_from);
    config_trust_free(cfg);
    free(cfg->path);
    free(cfg->text);
    free(cfg->listen);
    free(cfg->plugin_dir);
    free(cfg->stage_dir);
    free(cfg->state_dir);
    free(cfg->control);
    free(cfg->ops);
    free(cfg->user);
    free(cfg->server_header);
    free(cfg->log_file);
    free(cfg);
}

/* -- the file ------------------------------------------------------------------------------ */

static int read_all(int fd, struct buf *out)
{
    while (out->len <= CONFIG_FILE_MAX) {
        if (buf_reserve(out, 4096) != 0)
            return -1;
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        out->len += (size_t)n;
    }
    return 0;
}

/* Only a regular file: anything else could make the control thread wait when HUP reads it again. */
static int read_open_file(int fd, const char *path, struct buf *out, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_set(err, "%s: cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, "%s: expected a regular file, found %s: name a file of JSON text", path,
                       S_ISDIR(st.st_mode) ? "a folder" : "a device, pipe or socket");
    if (read_all(fd, out) != 0)
        return err_set(err, "%s: cannot be read: %s", path, strerror(errno));
    if (out->len > CONFIG_FILE_MAX)
        return err_set(err, "%s: expected at most %u bytes, found more: is it the right file?",
                       path, CONFIG_FILE_MAX);
    return 0;
}

/* The text is kept: whoever starts again after a crash reads it, not a file that has changed. */
static int read_text(struct config_reader *r, const char *path, const char *text, size_t len)
{
    struct config *cfg = r->cfg;
    cfg->text = malloc(len + 1);
    if (cfg->text == NULL)
        return config_no_memory(r->err);
    memcpy(cfg->text, text, len);
    cfg->text[len] = '\0';
    cfg->text_len = len;
    if (config_copy(&cfg->path, path, r->err) != 0)
        return -1;
    return config_read(r, path, cfg->text, len);
}

static int read_file(struct config_reader *r, const char *path, bool must_exist)
{
    struct buf text = { 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 && !must_exist && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (fd < 0)
        return err_set(r->err,
                       "%s: cannot open the configuration: %s: make it readable for uid %u, or "
                       "name another one (-c)",
                       path, strerror(errno), (unsigned)geteuid());
    int rc = read_open_file(fd, path, &text, r->err);
    close(fd);
    if (rc == 0)
        rc = read_text(r, path, buf_str(&text).ptr, text.len);
    buf_fini(&text);
    return rc;
}

/* -- variables and flags ------------------------------------------------------------------- */

static void mark_set(struct config *cfg, const struct config_key *key)
{
    cfg->keys_set |= (uint64_t)1 << (key - config_keys);
}

const char *config_variable(char *const *envp, const char *name)
{
    size_t len = strlen(name);
    for (; envp != NULL && *envp != NULL; envp++) {
        if (strncmp(*envp, name, len) == 0 && (*envp)[len] == '=')
            return *envp + len + 1;
    }
    return NULL;
}

static int read_variables(struct config_reader *r, char *const *envp)
{
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        const char *value = config_variable(envp, key->variable);
        char name[64];
        if (value == NULL)
            continue;
        snprintf(name, sizeof(name), "variable %s", key->variable);
        if (key->type->set == NULL && config_read_value(r, key, name, value) != 0)
            return -1;
        if (key->type->set != NULL && key->type->set(r, key, value) != 0)
            return err_prefix(r->err, "%s", name);
        mark_set(r->cfg, key);
    }
    return 0;
}

/* A list flag replaces what other sources said; each further one adds to it. */
static int read_flags(struct config_reader *r, const struct options *opt)
{
    bool listen_seen = false;
    for (size_t i = 0; i < opt->setting_count; i++) {
        const struct options_setting *s = &opt->settings[i];
        const struct config_key *key = config_key_find(str_of(s->key));
        REQUIRE(key != NULL && key->type->set != NULL);
        bool listen = key->type == &config_listen;
        r->append = listen && listen_seen;
        listen_seen |= listen;
        if (key->type->set(r, key, s->value) != 0)
            return err_prefix(r->err, "%s", s->flag);
        mark_set(r->cfg, key);
    }
    return 0;
}

void config_unknown_variables(char *const *envp, void (*fn)(const char *name, void *arg), void *arg)
{
    for (; envp != NULL && *envp != NULL; envp++) {
        size_t len = strcspn(*envp, "="), k = 0;
        char name[128];
        if (strncmp(*envp, "GRAFT_", 6) != 0 || len >= sizeof(name))
            continue;
        memcpy(name, *envp, len);
        name[len] = '\0';
        while (k < config_key_count && strcmp(config_keys[k].variable, name) != 0)
            k++;
        if (k == config_key_count)
            fn(name, arg);
    }
}

/* -- all together -------------------------------------------------------------------------- */

static bool is_set(const struct config *cfg, const char *name)
{
    const struct config_key *key = config_key_find(str_of(name));
    return (cfg->keys_set >> (key - config_keys) & 1u) != 0;
}

static void finish(struct config *cfg)
{
    if (!is_set(cfg, "log.format") && cfg->log_file[0] == '\0' && isatty(STDERR_FILENO))
        cfg->log.json = false;
    cfg->log.file = cfg->log_file;
}

static struct config *load(const struct options *opt, char *const *envp,
                           int (*read)(struct config_reader *r, const struct options *opt,
                                       const char *path, const struct str *text),
                           const struct str *text, bool resolve, struct err *err)
{
    struct config *cfg = new_config(err);
    if (cfg == NULL)
        return NULL;
    struct config_reader r = { .cfg = cfg, .err = err, .resolve = resolve, .envp = envp };
    const char *path = opt->config_file ? opt->config_file : config_default_file;
    if (read(&r, opt, path, text) != 0 || read_variables(&r, envp) != 0 ||
        read_flags(&r, opt) != 0) {
        config_free(cfg);
        return NULL;
    }
    finish(cfg);
    return cfg;
}

static int from_file(struct config_reader *r, const struct options *opt, const char *path,
                     const struct str *text)
{
    (void)text;
    return read_file(r, path, opt->config_file != NULL);
}

static int from_text(struct config_reader *r, const struct options *opt, const char *path,
                     const struct str *text)
{
    (void)opt;
    return text->ptr != NULL ? read_text(r, path, text->ptr, text->len) : 0;
}

struct config *config_load(const struct options *opt, char *const *envp, struct err *err)
{
    return load(opt, envp, from_file, NULL, true, err);
}

struct config *config_load_text(const struct options *opt, char *const *envp, const char *text,
                                size_t len, bool resolve, struct err *err)
{
    const struct str given = { text, len };
    return load(opt, envp, from_text, &given, resolve, err);
}

struct config *config_from_text(const char *name, const char *text, size_t len, struct err *err)
{
    struct config *cfg = new_config(err);
    if (cfg == NULL)
        return NULL;
    struct config_reader r = { .cfg = cfg, .err = err };
    if (config_read(&r, name, text, len) != 0) {
        config_free(cfg);
        return NULL;
    }
    finish(cfg);
    return cfg;
}

/* -- questions ----------------------------------------------------------------------------- */

#define SHA256_OF_EMPTY_OBJECT "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

const struct config_plugin *config_plugin(const struct config *cfg, const char *name)
{
    static char nothing[] = "", object[] = "{}";
    static const struct config_plugin unnamed = { .name = nothing,
                                                  .config = object,
                                                  .config_sha256 = SHA256_OF_EMPTY_OBJECT,
                                                  .mount = nothing,
                                                  .enabled = true,
                                                  .required = true };
    for (size_t i = 0; i < cfg->plugin_count; i++) {
        if (strcmp(cfg->plugins[i].name, name) == 0)
            return &cfg->plugins[i];
    }
    return &unnamed;
}

void config_not_in_effect(const struct config *cfg, void (*fn)(const char *key, void *arg),
                          void *arg)
{
    for (size_t i = 0; i < config_key_count; i++) {
        if ((config_keys[i].bits & CONFIG_LATER) != 0 && (cfg->keys_set >> i & 1u) != 0)
            fn(config_keys[i].name, arg);
    }
}

static size_t times_in(const struct config *cfg, const struct addr *addr)
{
    size_t n = 0;
    for (size_t i = 0; i < cfg->listen_count; i++)
        n += addr_equal(&cfg->listen[i], addr) ? 1 : 0;
    return n;
}

/* In any order. Port 0 may be there more than once. */
static bool listen_equal(const struct config *a, const struct config *b)
{
    if (a->listen_count != b->listen_count)
        return false;
    for (size_t i = 0; i < a->listen_count; i++) {
        if (times_in(a, &a->listen[i]) != times_in(b, &a->listen[i]))
            return false;
    }
    return true;
}

static bool value_equal(const struct config_key *key, const struct config *a,
                        const struct config *b)
{
    const char *pa = (const char *)a + key->offset, *pb = (const char *)b + key->offset;
    if (key->type == &config_listen)
        return listen_equal(a, b);
    if (key->type == &config_groups)
        return config_groups_equal(a, b);
    if (key->type->json != JSON_STRING)
        return memcmp(pa, pb, key->size) == 0;
    const char *sa, *sb;
    memcpy(&sa, pa, sizeof(sa));
    memcpy(&sb, pb, sizeof(sb));
    return strcmp(sa, sb) == 0;
}

int config_restart_keys_changed(const struct config *a, const struct config *b, const char *names[],
                                size_t max)
{
    size_t changed = 0;
    for (size_t i = 0; i < config_key_count; i++) {
        const struct config_key *key = &config_keys[i];
        if ((key->bits & CONFIG_RESTART) == 0 || value_equal(key, a, b))
            continue;
        if (changed < max)
            names[changed] = key->name;
        changed++;
    }
    return (int)changed;
}

bool config_upgrade_applies(const char *key)
{
    static const char *const keys[] = { "listen",    "workers",         "user",
                                        "state_dir", "offload.threads", "offload.queue" };
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}
