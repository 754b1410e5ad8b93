/*
 * The command line by getopt_long. The flags that set something come from the table of
 * configuration keys; only what to do (-c, -t, -V, -h) is known here. Main thread, at start.
 */
#include "options.h"

#include "base/config.h"

#include <getopt.h>
#include <graft/graft.h>
#include <string.h>

#ifndef GRAFT_VERSION
#define GRAFT_VERSION "0"
#endif

#define USAGE                                                                                      \
    "usage: graftd [-c FILE] [--listen ADDR]... [--plugins DIR] [--workers N] [--ops ADDR]\n"      \
    "              [--control PATH] [--watch] [-t] [-V] [-h]\n"

#define FLAGS_MAX     16
#define FIRST_SETTING 1000 /* getopt's value for the first flag of the table */

struct flags {
    struct option all[FLAGS_MAX + 1]; /* for getopt_long; ends with a zero */
    const char *keys[FLAGS_MAX];      /* of each setting */
    const char *shown[FLAGS_MAX];
    size_t count, settings;
};

static void add_flag(struct flags *f, const char *name, int argument, int value)
{
    REQUIRE(f->count < FLAGS_MAX);
    f->all[f->count++] = (struct option){ .name = name, .has_arg = argument, .val = value };
}

static void add_setting(const struct config_doc *doc, void *arg)
{
    struct flags *f = arg;
    if (doc->flag == NULL)
        return;
    f->keys[f->settings] = doc->key;
    f->shown[f->settings] = doc->flag_shown;
    add_flag(f, doc->flag, doc->is_switch ? no_argument : required_argument,
             FIRST_SETTING + (int)f->settings);
    f->settings++;
}

static void make_flags(struct flags *f)
{
    *f = (struct flags){ 0 };
    add_flag(f, "config", required_argument, 'c');
    add_flag(f, "test", no_argument, 't');
    add_flag(f, "version", no_argument, 'V');
    add_flag(f, "help", no_argument, 'h');
    config_describe(add_setting, f);
}

static int refuse(char **argv, int value, struct err *err)
{
    const char *word = argv[optind - 1];
    if (value == ':' && optopt > 0 && optopt < FIRST_SETTING && strncmp(word, "--", 2) != 0)
        return err_set(err, "-%c: expected an argument behind it, found nothing", optopt);
    if (value == ':')
        return err_set(err, "%s: expected an argument behind it, found nothing", word);
    if (optopt > 0 && strncmp(word, "--", 2) != 0)
        return err_set(err, "unknown option -%c: graftd -h lists those there are", optopt);
    if (optopt > 0)
        return err_set(err, "%s: expected no argument: write the option alone", word);
    return err_set(err, "unknown option %s: graftd -h lists those there are", word);
}

static int add(struct options *out, const struct flags *f, int value, struct err *err)
{
    size_t i = (size_t)(value - FIRST_SETTING);
    if (out->setting_count == OPTIONS_SETTINGS_MAX)
        return err_set(err, "expected at most %d options, found more: use a configuration file",
                       OPTIONS_SETTINGS_MAX);
    out->settings[out->setting_count++] = (struct options_setting){
        .flag = f->shown[i], .key = f->keys[i], .value = optarg != NULL ? optarg : "true"
    };
    return 0;
}

/* The first of these that is given counts: "graftd -h -t" is a question. */
static void act(struct options *out, enum options_action action)
{
    if (out->action == OPTIONS_SERVE)
        out->action = action;
}

static int take(struct options *out, const struct flags *f, char **argv, int value, struct err *err)
{
    switch (value) {
    case 'c':
        out->config_file = optarg;
        return 0;
    case 't':
        act(out, OPTIONS_TEST);
        return 0;
    case 'V':
        act(out, OPTIONS_VERSION);
        return 0;
    case 'h':
        act(out, OPTIONS_HELP);
        return 0;
    case ':':
    case '?':
        return refuse(argv, value, err);
    default:
        return add(out, f, value, err);
    }
}

/* getopt takes "--work" for "--workers"; a new flag could then break a script. */
static bool written_out(const char *word, const char *name)
{
    return strcspn(word + 2, "=") == strlen(name);
}

int options_parse(int argc, char **argv, struct options *out, struct err *err)
{
    struct flags flags;
    make_flags(&flags);
    *out = (struct options){ .action = OPTIONS_SERVE };
    optind = 0; /* glibc: start over, also when it has been used before */
    opterr = 0;
    for (;;) {
        int index = -1, at = optind > 0 ? optind : 1;
        int value = getopt_long(argc, argv, "+:c:tVh", flags.all, &index);
        if (value == -1)
            break;
        if (index >= 0 && !written_out(argv[at], flags.all[index].name))
            return err_set(err, "unknown option %s: graftd -h lists those there are", argv[at]);
        if (take(out, &flags, argv, value, err) != 0)
            return -1;
    }
    if (optind < argc)
        return err_set(err,
                       "expected options only, found \"%s\": a folder of plugins is named with "
                       "--plugins, a configuration with -c",
                       argv[optind]);
    return 0;
}

/* -- help ---------------------------------------------------------------------------------- */

void options_print_version(FILE *out)
{
    fprintf(out, "graftd %s (plugin contract %d.%d)\n", GRAFT_VERSION, GRAFT_ABI, GRAFT_MINOR);
}

void options_print_usage(FILE *out)
{
    fputs(USAGE, out);
}

/* Breaks at blanks, so that lines stay under 80 columns. */
static void print_wrapped(FILE *out, const char *text, int indent)
{
    size_t room = 79 - (size_t)indent;
    while (*text != '\0') {
        size_t len = strlen(text);
        for (size_t i = len; len > room && i > 0; i--) {
            if (text[i - 1] == ' ' && i - 1 <= room) {
                len = i - 1;
                break;
            }
        }
        fprintf(out, "%*s%.*s\n", indent, "", (int)len, text);
        text += len;
        text += strspn(text, " ");
    }
}

static void print_key(const struct config_doc *doc, void *arg)
{
    FILE *out = arg;
    const char *quote = doc->fallback != NULL && doc->fallback[0] == '\0' ? "\"\"" : "";
    fprintf(out, "\n  %s: %s", doc->key, doc->type);
    if (doc->fallback != NULL)
        fprintf(out, "; default %s%s", doc->fallback, quote);
    fputc('\n', out);
    if (doc->variable != NULL || doc->flag != NULL)
        fprintf(out, "      %s%s%s\n", doc->variable != NULL ? doc->variable : "",
                doc->variable != NULL && doc->flag != NULL ? ", " : "",
                doc->flag != NULL ? doc->flag_shown : "");
    print_wrapped(out, doc->meaning, 6);
}

static const char help[] =
    USAGE "\n"
          "Serves HTTP with handlers that are shared objects, and swaps them while it runs.\n"
          "\n"
          "  -c, --config FILE  configuration; default, if it is there:\n"
          "                     %s\n"
          "  --listen ADDR      address to serve (again: one more)\n"
          "  --plugins DIR      folder with plugins, *.so\n"
          "  --workers N        worker threads; 0 = one per usable core\n"
          "  --ops ADDR         address of health and metrics; \"\" = none\n"
          "  --control PATH     control socket, for graftctl\n"
          "  --watch            swap when the plugin folder changes\n"
          "  -t, --test         check configuration and plugins, exit 0 or 1\n"
          "  -V, --version      say the version\n"
          "  -h, --help         say this\n"
          "\n"
          "ADDR: host:port, [v6]:port, :port, unix:/path or fd:N.\n"
          "Signals: USR2 scan and swap; HUP read the configuration again and swap;\n"
          "TERM, INT drain; QUIT stop at once; USR1 reopen log files.\n"
          "Exit status: 0 drained; 1 could not start; 2 usage; 3 the drain's deadline cut\n"
          "requests; 128+N ended by signal N.\n"
          "\n"
          "Keys of the configuration file, JSON. A flag counts before a variable, a variable\n"
          "before the file:\n";

void options_print_help(FILE *out)
{
    fprintf(out, help, config_default_path());
    config_describe(print_key, out);
}
