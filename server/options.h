/*
 * graftd's command line. What it says about settings is kept as text: config_load puts it over
 * the file and the GRAFT_* variables, and checks it by the same table. Main thread, at start.
 */
#ifndef GRAFT_OPTIONS_H
#define GRAFT_OPTIONS_H

#include "base/base.h"
#include "base/err.h"

#include <stdio.h>

enum options_action {
    OPTIONS_SERVE,
    OPTIONS_TEST,    /* -t: check configuration and plugins, exit 0 or 1 */
    OPTIONS_VERSION, /* -V: print options_print_version, exit 0 */
    OPTIONS_HELP     /* -h: print options_print_help, exit 0 */
};

/* One flag that sets a configuration key; `key` as in graft.json. */
struct options_setting {
    const char *flag;  /* "--listen", as written in messages */
    const char *key;   /* "listen" */
    const char *value; /* lives in argv; "true" for a flag without argument */
};

#define OPTIONS_SETTINGS_MAX 128

struct options {
    enum options_action action;
    const char *config_file; /* -c; NULL = /etc/graft/graft.json if it is there */
    struct options_setting settings[OPTIONS_SETTINGS_MAX]; /* in order; listen may come again */
    size_t setting_count;
};

/* 0, or -1 with err: exit status 2. Changes nothing outside *out (getopt's globals are reset). */
int options_parse(int argc, char **argv, struct options *out, struct err *err);

void options_print_version(FILE *out);
void options_print_help(FILE *out);  /* usage, then every key with variable, default and meaning */
void options_print_usage(FILE *out); /* the usage line alone: goes with an error */

#endif
