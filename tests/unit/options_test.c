/* options.h: graftd's command line. */
#include "tap.h"

#include "options.h"

#include "base/config.h"

static struct options options;
static struct err error;

#define PARSE(...) parse((char *[]){ "graftd", __VA_ARGS__, NULL })

static int parse(char **argv)
{
    int argc = 0;
    while (argv[argc] != NULL)
        argc++;
    error.text[0] = '\0';
    return options_parse(argc, argv, &options, &error);
}

static void setting(size_t i, const char *key, const char *value)
{
    must(i < options.setting_count);
    is_str(options.settings[i].key, key);
    is_str(options.settings[i].value, value);
}

TEST(nothing_given)
{
    is(parse((char *[]){ "graftd", NULL }), 0);
    is(options.action, OPTIONS_SERVE);
    ok(options.config_file == NULL);
    is(options.setting_count, 0);
}

TEST(every_flag)
{
    is(PARSE("-c", "a.json", "--listen", ":80", "--plugins", "dir", "--workers", "3", "--ops", "",
             "--control", "/x", "--watch", "--listen=[::1]:81"),
       0);
    is(options.action, OPTIONS_SERVE);
    is_str(options.config_file, "a.json");
    is(options.setting_count, 7);
    setting(0, "listen", ":80");
    setting(1, "plugin_dir", "dir");
    setting(2, "workers", "3");
    setting(3, "ops", "");
    setting(4, "control", "/x");
    setting(5, "watch", "true");
    setting(6, "listen", "[::1]:81");
    is_str(options.settings[6].flag, "--listen");
}

TEST(what_to_do)
{
    is(PARSE("-t"), 0);
    is(options.action, OPTIONS_TEST);
    is(PARSE("-V"), 0);
    is(options.action, OPTIONS_VERSION);
    is(PARSE("-h"), 0);
    is(options.action, OPTIONS_HELP);
    is(PARSE("--test", "--config", "b.json"), 0);
    is(options.action, OPTIONS_TEST);
    is_str(options.config_file, "b.json");
    is(PARSE("--version"), 0);
    is(options.action, OPTIONS_VERSION);
    is(PARSE("--help"), 0);
    is(options.action, OPTIONS_HELP);
}

TEST(faults_are_named)
{
    is(PARSE("--lisen", ":80"), -1);
    is_str(error.text, "unknown option --lisen: graftd -h lists those there are");
    is(PARSE("-x"), -1);
    is_str(error.text, "unknown option -x: graftd -h lists those there are");
    is(PARSE("-tx"), -1);
    is_str(error.text, "unknown option -x: graftd -h lists those there are");
    is(PARSE("--workers"), -1);
    is_str(error.text, "--workers: expected an argument behind it, found nothing");
    is(PARSE("-c"), -1);
    is_str(error.text, "-c: expected an argument behind it, found nothing");
    is(PARSE("--watch=yes"), -1);
    is_str(error.text, "--watch=yes: expected no argument: write the option alone");
    is(PARSE("serve"), -1);
    ok(strstr(error.text, "found \"serve\"") != NULL);
    is(PARSE("-t", "--", "x"), -1);
}

TEST(abbreviations_are_no_options)
{
    is(PARSE("--work", "3"), -1);
    is(PARSE("--h"), -1);
    is_str(error.text, "unknown option --h: graftd -h lists those there are");
}

TEST(too_many_settings_are_refused)
{
    char *argv[2 * OPTIONS_SETTINGS_MAX + 4] = { "graftd" };
    int argc = 1;
    for (int i = 0; i <= OPTIONS_SETTINGS_MAX; i++)
        argv[argc++] = "--watch";
    is(options_parse(argc, argv, &options, &error), -1);
    is(options_parse(argc - 1, argv, &options, &error), 0);
}

static unsigned keys, missing;
static const char *help;

static void look_up(const struct config_doc *doc, void *arg)
{
    char line[80];
    (void)arg;
    keys++;
    snprintf(line, sizeof(line), "\n  %s: ", doc->key);
    missing += strstr(help, line) == NULL;
    missing += doc->variable != NULL && strstr(help, doc->variable) == NULL;
    missing += doc->flag_shown != NULL && strstr(help, doc->flag_shown) == NULL;
}

TEST(help_names_every_key_variable_and_flag)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    must(out != NULL);
    options_print_help(out);
    options_print_version(out);
    fclose(out);
    help = text;
    config_describe(look_up, NULL);
    ok(keys > 35);
    is(missing, 0);
    ok(strncmp(text, "usage: graftd ", 14) == 0);
    ok(strstr(text, "(plugin contract 1.") != NULL);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
        ok(strlen(line) <= 100);
    free(text);
}
