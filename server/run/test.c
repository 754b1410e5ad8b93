/*
 * graftd -t: the configuration, every plugin file in a stage folder of its own, and whether the
 * two fit: names, routes, and whether `user` could read the file again. Says what it found.
 */
#include "run/control.h"

#include "base/config.h"
#include "http/router.h"
#include "ops/inspect.h"
#include "run/server.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct found {
    char *file, *name; /* name: NULL when the file is bad */
};

struct test {
    const struct config *cfg;
    struct stage *stage;
    struct probe *probe;
    struct router *router;
    struct found *found;
    size_t nfound;
    unsigned refused, warned;
};

static void refuse(struct test *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void refuse(struct test *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("refused: ", stdout);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
    t->refused++;
}

static void warn(struct test *t, const char *text)
{
    printf("warning: %s\n", text);
    t->warned++;
}

static const struct found *find(const struct test *t, const char *name)
{
    for (size_t i = 0; i < t->nfound; i++)
        if (t->found[i].name != NULL && strcmp(t->found[i].name, name) == 0)
            return &t->found[i];
    return NULL;
}

static void add_routes(struct test *t, struct inspection *in, const struct config_plugin *entry)
{
    for (size_t i = 0; i < in->desc.route_count; i++) {
        struct buf pattern = { 0 };
        struct err err;
        buf_printf(&pattern, "%s%s", entry->mount, in->desc.routes[i].pattern);
        if (router_add(t->router, in->desc.routes[i].method, pattern.data, t, &err) != 0)
            inspect_add(in, true, "routes", err.text);
        buf_fini(&pattern);
    }
}

static void judge(struct test *t, struct inspection *in, struct found *found)
{
    const struct found *other = find(t, in->desc.name);
    const struct config_plugin *entry = config_plugin(t->cfg, in->desc.name);
    struct err err;
    if (other != NULL) {
        err_set(&err, "duplicate name: %s is declared by %s too: remove one of them", in->desc.name,
                other->file);
        inspect_add(in, true, "scan", err.text);
        return;
    }
    found->name = xstrdup(in->desc.name);
    if (entry->enabled)
        add_routes(t, in, entry);
}

static void show(struct test *t, const char *file, const struct inspection *in)
{
    for (size_t i = 0; i < in->count; i++) {
        struct err err;
        err_set(&err, "%s: %s: %s", file, in->findings[i].stage, in->findings[i].text);
        if (in->findings[i].refusal)
            refuse(t, "%s", err.text);
        else
            warn(t, err.text);
    }
    if (in->refused)
        return;
    const struct config_plugin *entry = config_plugin(t->cfg, in->desc.name);
    printf("ok: %s: %s %s, %zu route%s, sha256 %.12s%s\n", file, in->desc.name, in->desc.version,
           in->desc.route_count, in->desc.route_count == 1 ? "" : "s", in->sha256,
           entry->enabled ? "" : " (not enabled)");
}

static void test_file(struct test *t, const char *file)
{
    struct buf path = { 0 };
    struct inspection in;
    t->found = realloc(t->found, (t->nfound + 1) * sizeof *t->found);
    REQUIRE(t->found != NULL && buf_printf(&path, "%s/%s", t->cfg->plugin_dir, file) == 0);
    struct found found = { .file = xstrdup(file) };
    inspect(&in, t->stage, t->probe, path.data, &t->cfg->signatures, t->cfg->timeouts_ms.load);
    if (!in.refused)
        judge(t, &in, &found);
    show(t, file, &in);
    t->found[t->nfound++] = found;
    inspect_fini(&in);
    buf_fini(&path);
}

static int is_plugin_file(const struct dirent *e)
{
    size_t len = strlen(e->d_name);
    return e->d_name[0] != '.' && len > 3 && strcmp(e->d_name + len - 3, ".so") == 0;
}

static void test_folder(struct test *t)
{
    struct dirent **entries;
    int n = scandir(t->cfg->plugin_dir, &entries, is_plugin_file, alphasort);
    if (n < 0) {
        refuse(t, "plugin_dir %s: %s: make it, or name another one (--plugins)", t->cfg->plugin_dir,
               strerror(errno));
        return;
    }
    if (n == 0)
        warn(t, "the plugin folder is empty: every request will be answered with 404");
    for (int i = 0; i < n; i++) {
        test_file(t, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
}

/* A name that the configuration relies on. */
static void need(struct test *t, const char *where, const char *name)
{
    if (find(t, name) == NULL)
        refuse(t, "%s names the plugin %s, but no good file in %s declares that name", where, name,
               t->cfg->plugin_dir);
    else if (!config_plugin(t->cfg, name)->enabled)
        refuse(t, "%s names the plugin %s, which is not enabled", where, name);
}

static bool named_before(char *const *names, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (strcmp(names[k], names[i]) == 0)
            return true;
    return false;
}

static void test_names(struct test *t)
{
    const struct config *cfg = t->cfg;
    for (size_t i = 0; i < cfg->middleware_count; i++)
        if (!named_before(cfg->middleware, i))
            need(t, "middleware", cfg->middleware[i]);
    for (size_t i = 0; i < cfg->route_count; i++) {
        for (size_t k = 0; k < cfg->routes[i].middleware_count; k++)
            need(t, "routes", cfg->routes[i].middleware[k]);
        if (cfg->routes[i].plugin != NULL)
            need(t, "routes", cfg->routes[i].plugin);
    }
    for (size_t i = 0; i < cfg->plugin_count; i++) {
        const struct config_plugin *p = &cfg->plugins[i];
        if (p->enabled && p->required_written && p->required)
            need(t, "plugins (required)", p->name);
    }
}

/* Becomes `user` as a start does: what is looked at from here on is looked at with its eyes, the
   file too, which a HUP will have to read. */
static void test_user(struct test *t)
{
    struct user user;
    struct err err;
    if (user_find(&user, t->cfg->user, &err) != 0) {
        refuse(t, "%s", err.text);
        return;
    }
    if (user.name[0] == '\0' || geteuid() != 0)
        return;
    if (stage_prepare(t->cfg->stage_dir, user.uid, user.gid, &err) != 0 ||
        user_become(&user, &err) != 0) {
        refuse(t, "%s", err.text);
        return;
    }
    if (t->cfg->path == NULL || access(t->cfg->path, R_OK) == 0)
        return;
    err_set(&err,
            "%s cannot be read by the user %s: SIGHUP will not be able to read it again: "
            "chgrp it to a group of that user and chmod g+r it",
            t->cfg->path, user.name);
    warn(t, err.text);
}

/* Whether open() for appending would succeed: 0 or errno. Makes nothing. */
static int cannot_append(const char *file)
{
    struct stat st;
    if (stat(file, &st) == 0)
        return S_ISDIR(st.st_mode) ? EISDIR : access(file, W_OK) == 0 ? 0 : errno;
    if (errno != ENOENT)
        return errno;
    const char *slash = strrchr(file, '/');
    char *folder = slash == NULL   ? xstrdup(".")
                   : slash == file ? xstrdup("/")
                                   : strndup(file, (size_t)(slash - file));
    REQUIRE(folder != NULL);
    int why = access(folder, W_OK | X_OK) == 0 ? 0 : errno;
    free(folder);
    return why;
}

/* A start opens the log file before it becomes `user`: so this comes before test_user. */
static void test_log(struct test *t)
{
    const char *file = t->cfg->log.file;
    int why = file != NULL && file[0] != '\0' ? cannot_append(file) : 0;
    if (why != 0)
        refuse(t, "log.file %s: %s: make its folder writable for this user, or name another file",
               file, strerror(why));
}

static void say_not_in_effect(const char *key, void *arg)
{
    (void)arg;
    printf("note: %s is set, but not yet in effect in this version\n", key);
}

static int open_tools(struct test *t, struct err *err)
{
    t->router = router_new();
    if (t->router == NULL)
        return err_set(err, "out of memory");
    if (stage_open(&t->stage, t->cfg->stage_dir, err) != 0)
        return -1;
    t->probe = probe_open(NULL, err);
    return t->probe != NULL ? 0 : -1;
}

static void close_tools(struct test *t)
{
    for (size_t i = 0; i < t->nfound; i++) {
        free(t->found[i].file);
        free(t->found[i].name);
    }
    free(t->found);
    router_free(t->router);
    probe_close(t->probe);
    stage_close(t->stage);
}

int control_test(const struct options *options, char **envp)
{
    struct test t = { 0 };
    struct err err;
    struct config *cfg = config_load(options, envp, &err);
    if (cfg == NULL) {
        fprintf(stderr, "graftd: %s\n", err.text);
        return 1;
    }
    t.cfg = cfg;
    printf("ok: configuration %s\n", cfg->path != NULL ? cfg->path : "(defaults)");
    config_not_in_effect(cfg, say_not_in_effect, NULL);
    test_log(&t);
    test_user(&t);
    if (open_tools(&t, &err) != 0) {
        refuse(&t, "%s", err.text);
    } else {
        test_folder(&t);
        test_names(&t);
    }
    close_tools(&t);
    config_free(cfg);
    printf("%s: %u refused, %u warning%s\n", t.refused == 0 ? "fit to start" : "not fit to start",
           t.refused, t.warned, t.warned == 1 ? "" : "s");
    return t.refused == 0 ? 0 : 1;
}
