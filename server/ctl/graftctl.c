/*
 * graftctl: a client of graftd's control socket. One table of commands feeds the parser, the
 * requests, --help and the man page.
 */
#include "ctl/check.h"
#include "ctl/client.h"
#include "ctl/dev.h"
#include "ctl/gdb.h"
#include "ctl/new.h"
#include "ctl/show.h"
#include "ctl/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef GRAFT_VERSION
#define GRAFT_VERSION "0"
#endif

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_NO_SERVER = 4 };

enum {
    FLAG_RETRY = 1,
    FLAG_ALLOW_EMPTY = 2,
    FLAG_CONFIG = 4,
    FLAG_WEIGHT = 8,
    FLAG_SHADOW = 16,
    FLAG_BINARY = 32,
    FLAG_LANG = 64,
    FLAG_MIDDLEWARE = 128,
    FLAG_PLUGINS = 256,
    FLAG_LISTEN = 512
};

static const struct flag {
    unsigned bit;
    const char *name, *field, *help;
    bool value; /* the word behind it is the field's value, and it must be there */
} flags[] = {
    { FLAG_RETRY, "--retry", "retry=1", "try files again that failed before or are quarantined",
      false },
    { FLAG_ALLOW_EMPTY, "--allow-empty", "allow_empty=1", "also when no plugin is left", false },
    { FLAG_CONFIG, "--config", "config=1", "read the configuration again first, as SIGHUP", false },
    { FLAG_WEIGHT, "--weight", "weight", "N, percent of the requests: 0 to 99", true },
    { FLAG_SHADOW, "--shadow", "shadow", "N, percent of the others to try on it too: 0 to 100",
      true },
    { FLAG_BINARY, "--binary", "binary", "PATH of another graftd than the one that was started",
      true },
    { FLAG_LANG, "--lang", "", "c, c++ or rust; c unless given", true },
    { FLAG_MIDDLEWARE, "--middleware", "", "around other plugins' handlers; has no routes", false },
    { FLAG_LISTEN, "--listen", "", "ADDR to serve on, by a graftd of its own", true },
    { FLAG_PLUGINS, "--plugins", "", "DIR, the plugin folder of the graftd at --control", true },
};

struct line;
static int run_check(const struct line *line), run_new(const struct line *line),
    run_dev(const struct line *line), run_gdb(const struct line *line);

static const struct command {
    const char *name, *argument; /* NULL: takes none */
    const char *method, *target; /* "%s" in it: the argument; NULL: local */
    unsigned wait_s;
    unsigned flags;
    show_fn *show;
    const char *help;
    int (*run)(const struct line *line); /* local: does it */
} commands[] = {
    { "status", NULL, "GET", "/v1/status", CLIENT_WAIT_S, 0, show_status,
      "the server: workers, connections, generation", NULL },
    { "ready", NULL, "GET", "/v1/ready", CLIENT_WAIT_S, 0, show_ready,
      "are requests welcome, as /readyz says? Exit status 0 or 1", NULL },
    { "ps", NULL, "GET", "/v1/versions", CLIENT_WAIT_S, 0, show_versions,
      "every loaded version: state, requests, what its oldest request waits for", NULL },
    { "reload", NULL, "POST", "/v1/reload", CLIENT_RELOAD_S,
      FLAG_RETRY | FLAG_ALLOW_EMPTY | FLAG_CONFIG, show_reload,
      "look at the plugin folder and swap; returns when every worker has", NULL },
    { "reopen", NULL, "POST", "/v1/reopen", CLIENT_WAIT_S, 0, show_done,
      "reopen the log file, as SIGUSR1", NULL },
    { "routes", NULL, "GET", "/v1/routes", CLIENT_WAIT_S, 0, show_routes,
      "method, pattern, chain and version of every route", NULL },
    { "retire", "NAME@ID", "POST", "/v1/versions/%s/retire", CLIENT_WAIT_S, 0, show_done,
      "abort what a cooling version still serves", NULL },
    { "canary", "NAME", "POST", "/v1/plugins/%s/canary", CLIENT_RELOAD_S, FLAG_WEIGHT | FLAG_SHADOW,
      show_reload, "give the new file of that plugin a share of the requests", NULL },
    { "promote", "NAME", "POST", "/v1/plugins/%s/promote", CLIENT_RELOAD_S, 0, show_reload,
      "the canary serves all requests", NULL },
    { "abort", "NAME", "POST", "/v1/plugins/%s/abort", CLIENT_RELOAD_S, 0, show_reload,
      "the canary leaves, the stable version serves all requests", NULL },
    { "rollback", "NAME", "POST", "/v1/plugins/%s/rollback", CLIENT_RELOAD_S, 0, show_reload,
      "serve the good version before this one again, and quarantine this one", NULL },
    { "upgrade", NULL, "POST", "/v1/upgrade", CLIENT_RELOAD_S, FLAG_BINARY, show_upgrade,
      "start the installed graftd on the same sockets; also for listen and workers", NULL },
    { "drain", NULL, "POST", "/v1/drain", CLIENT_WAIT_S, 0, show_done,
      "finish and exit, as SIGTERM", NULL },
    { "check", "FILE.so", NULL, NULL, 0, 0, NULL,
      "would this file be loaded? Every finding with its cure. Asks no server", run_check },
    { "new", "NAME", NULL, NULL, 0, FLAG_LANG | FLAG_MIDDLEWARE, NULL,
      "make a folder with a new plugin: source, Makefile, test, Debian package", run_new },
    { "dev", "FILE.so", NULL, NULL, 0, FLAG_LISTEN | FLAG_PLUGINS, NULL,
      "make FILE.so here and swap it in, on every save", run_dev },
    { "gdb", NULL, NULL, NULL, 0, 0, NULL,
      "a debugger on the server that runs; gdb's own arguments behind --", run_gdb },
};

struct line {
    const char *control;
    bool json;
    const struct command *command;
    const char *argument;
    unsigned flags;
    const char *values[ARRAY_LEN(flags)]; /* of flags that have one */
    char *const *rest;                    /* behind "--"; NULL: none */
    struct check_options check;
};

/* What `check` may be given, each with a value. */
static const struct {
    const char *name, *shown, *help;
} check_options[] = {
    { "--key", "--key KEY", "demand a signature by this minisign public key (text or .pub file)" },
    { "-c", "-c FILE", "hold it against the signatures of this configuration" },
};

static void print_help(FILE *out)
{
    fputs("usage: graftctl [--control PATH] [--json] COMMAND [OPTION]...\n\ncommands:\n", out);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const struct command *c = &commands[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", c->name, c->argument != NULL ? " " : "",
                 c->argument != NULL ? c->argument : "");
        fprintf(out, "  %-18s %s\n", left, c->help);
        for (size_t f = 0; f < ARRAY_LEN(flags); f++)
            if ((c->flags & flags[f].bit) != 0)
                fprintf(out, "    %-16s %s\n", flags[f].name, flags[f].help);
        for (size_t k = 0; c->run == run_check && k < ARRAY_LEN(check_options); k++)
            fprintf(out, "    %-16s %s\n", check_options[k].shown, check_options[k].help);
    }
    fputs("\noptions:\n"
          "  --control PATH     graftd's control socket (else GRAFT_CONTROL, else where graftd\n"
          "                     makes it: $RUNTIME_DIRECTORY, or /run/graft,\n"
          "                     $XDG_RUNTIME_DIR/graft, /tmp/graft-UID)\n"
          "  --json             answers for programs\n"
          "  --help, --version\n\n"
          "exit status: 0 done, 1 refused or failed, 2 usage, 4 no server at the socket\n",
          out);
}

static int usage(const char *what, const char *found)
{
    fprintf(stderr, "graftctl: %s%s%s: see graftctl --help\n", what, found != NULL ? ": " : "",
            found != NULL ? found : "");
    return EXIT_USAGE;
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* An option that belongs to the command, which must have come before it. */
static int parse_flag(struct line *line, const char *arg, const char *next, int *used)
{
    for (size_t f = 0; f < ARRAY_LEN(flags); f++)
        if (line->command != NULL && (line->command->flags & flags[f].bit) != 0 &&
            strcmp(flags[f].name, arg) == 0) {
            line->flags |= flags[f].bit;
            if (!flags[f].value)
                return 0;
            line->values[f] = next;
            *used = 1;
            return next != NULL ? 0 : usage("missing the value of", arg);
        }
    return usage("unknown option", arg);
}

/* "--key KEY", "--key=KEY", "-c FILE". False: it is none of them. */
static bool parse_check(struct line *line, int argc, char **argv, int *i, int *rc)
{
    const char *arg = argv[*i], *value = NULL;
    size_t k = 0;
    if (line->command == NULL || strcmp(line->command->name, "check") != 0)
        return false;
    for (;; k++) {
        if (k == ARRAY_LEN(check_options))
            return false;
        size_t len = strlen(check_options[k].name);
        if (strcmp(arg, check_options[k].name) == 0)
            value = *i + 1 < argc ? argv[++*i] : "";
        else if (len > 2 && strncmp(arg, check_options[k].name, len) == 0 && arg[len] == '=')
            value = arg + len + 1;
        if (value != NULL)
            break;
    }
    if (value[0] == '\0')
        *rc = usage("a value is missing behind", check_options[k].name);
    else if (k == 1)
        line->check.config = value;
    else if (line->check.nkeys < CHECK_KEYS_MAX)
        line->check.keys[line->check.nkeys++] = value;
    else
        *rc = usage("one key too many", value);
    if (*rc == 0 && line->check.config != NULL && line->check.nkeys > 0)
        *rc = usage("either keys or a configuration", arg);
    return true;
}

static int parse_word(struct line *line, const char *arg)
{
    if (line->command == NULL) {
        line->command = find_command(arg);
        return line->command != NULL ? 0 : usage("unknown command", arg);
    }
    if (line->command->argument == NULL || line->argument != NULL)
        return usage("one word too many", arg);
    line->argument = arg;
    return 0;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct line *line)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        int rc = 0, used = 0;
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            print_help(stdout);
            return EXIT_DONE;
        }
        if (strcmp(arg, "--version") == 0 || strcmp(arg, "-V") == 0) {
            puts("graftctl " GRAFT_VERSION);
            return EXIT_DONE;
        }
        if (strcmp(arg, "--") == 0 && line->command != NULL && line->command->run == run_gdb) {
            line->rest = argv + i + 1;
            return -1;
        }
        if (strcmp(arg, "--json") == 0)
            line->json = true;
        else if (strcmp(arg, "--control") == 0 && i + 1 < argc)
            line->control = argv[++i];
        else if (strncmp(arg, "--control=", 10) == 0)
            line->control = arg + 10;
        else if (strcmp(arg, "--control") == 0)
            rc = usage("--control needs a path", NULL);
        else if (!parse_check(line, argc, argv, &i, &rc))
            rc = arg[0] == '-' ? parse_flag(line, arg, argv[i + 1], &used) : parse_word(line, arg);
        if (rc != 0)
            return rc;
        i += used;
    }
    if (line->command == NULL)
        return usage("which command?", NULL);
    if (line->command->argument != NULL && line->argument == NULL)
        return usage("missing", line->command->argument);
    if ((line->command->flags & ~line->flags & FLAG_WEIGHT) != 0)
        return usage("missing", "--weight N");
    return -1;
}

/* Percent-encodes everything that could mean something in a path. */
static void add_encoded(struct buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            strchr("-._~@", c) != NULL)
            buf_add(out, text, 1);
        else
            buf_printf(out, "%%%02X", c);
    }
}

static void make_target(const struct line *line, struct buf *out)
{
    const char *hole = strstr(line->command->target, "%s");
    if (hole != NULL) {
        buf_add(out, line->command->target, (size_t)(hole - line->command->target));
        add_encoded(out, line->argument);
        buf_puts(out, hole + 2);
    } else {
        buf_puts(out, line->command->target);
    }
    char joint = '?';
    for (size_t f = 0; f < ARRAY_LEN(flags); f++)
        if ((line->flags & flags[f].bit) != 0) {
            buf_printf(out, "%c%s", joint, flags[f].field);
            if (flags[f].value) {
                buf_puts(out, "=");
                add_encoded(out, line->values[f]);
            }
            joint = '&';
        }
}

static bool answer_is_ok(struct json_value answer)
{
    bool good = false;
    struct json_value v = json_get(answer, "ok");
    return json_present(v) && json_bool(v, &good) == 0 && good;
}

static void print_reason(const struct command *c, struct json_value answer)
{
    struct str error = { 0 }, reason = { 0 };
    struct json_value e = json_get(answer, "error"), r = json_get(answer, "reason");
    if (json_present(e))
        json_string(e, &error);
    if (json_present(r))
        json_string(r, &reason);
    fprintf(stderr, "graftctl: %s: ", c->name);
    table_put_safe(stderr, error);
    fputs(": ", stderr);
    table_put_safe(stderr, reason);
    fputc('\n', stderr);
}

static int show_answer(const struct line *line, const struct buf *body)
{
    struct err err;
    struct json *doc = json_parse("the answer", body->data, body->len, &err);
    if (doc == NULL || json_type(json_root(doc)) != JSON_OBJECT) {
        fprintf(stderr, "graftctl: what answers there is not graftd\n");
        json_free(doc);
        return EXIT_REFUSED;
    }
    struct json_value answer = json_root(doc);
    bool good = answer_is_ok(answer);
    if (line->json)
        fwrite(body->data, 1, body->len, stdout);
    else if (good ||
             (line->command->show == show_reload && json_present(json_get(answer, "generation"))))
        line->command->show(answer, stdout);
    if (!good && !line->json) {
        fflush(stdout);
        print_reason(line->command, answer);
    }
    json_free(doc);
    return good ? EXIT_DONE : EXIT_REFUSED;
}

static int ask(const struct line *line)
{
    struct buf target = { 0 }, body = { 0 };
    struct err err;
    int status = 0, rc = EXIT_REFUSED;
    make_target(line, &target);
    enum client_result result = client_call(line->control, line->command->method, target.data,
                                            line->command->wait_s, &status, &body, &err);
    if (result == CLIENT_OK) {
        rc = show_answer(line, &body);
    } else {
        fprintf(stderr, "graftctl: %s\n", err.text);
        rc = result == CLIENT_NO_SERVER ? EXIT_NO_SERVER : EXIT_REFUSED;
    }
    buf_fini(&target);
    buf_fini(&body);
    return rc;
}

static const char *value_of(const struct line *line, unsigned bit)
{
    for (size_t f = 0; f < ARRAY_LEN(flags); f++)
        if (flags[f].bit == bit)
            return line->values[f];
    return NULL;
}

static int run_check(const struct line *line)
{
    return check_file(line->argument, &line->check);
}

static int run_new(const struct line *line)
{
    return new_plugin(line->argument, value_of(line, FLAG_LANG),
                      (line->flags & FLAG_MIDDLEWARE) != 0);
}

static int run_dev(const struct line *line)
{
    struct dev_options options = { .so = line->argument,
                                   .control = line->control,
                                   .plugins = value_of(line, FLAG_PLUGINS),
                                   .listen = value_of(line, FLAG_LISTEN) };
    return dev_run(&options);
}

static int run_gdb(const struct line *line)
{
    return gdb_run(line->control, line->rest);
}

int main(int argc, char **argv)
{
    const char *control = getenv("GRAFT_CONTROL");
    struct line line = { .control = control != NULL ? control : "" };
    int rc = parse(argc, argv, &line);
    if (rc >= 0)
        return rc;
    line.check.json = line.json;
    rc = line.command->run != NULL ? line.command->run(&line) : ask(&line);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "graftctl: cannot write the answer\n");
        return EXIT_REFUSED;
    }
    return rc;
}
