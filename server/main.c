/* graftd: the command line, then the control thread. */
#include "options.h"
#include "run/control.h"
#include "run/signals.h"
#include "run/supervisor.h"

#include <stdio.h>
#include <unistd.h>

#define EXIT_USAGE 2

int main(int argc, char **argv)
{
    static struct options options; /* the settings that flags gave are read again at each HUP */
    struct err err;
    standard_fds_hold();
    signals_block();
    if (options_parse(argc, argv, &options, &err) != 0) {
        fprintf(stderr, "graftd: %s\n", err.text);
        options_print_usage(stderr);
        return EXIT_USAGE;
    }
    switch (options.action) {
    case OPTIONS_VERSION:
        options_print_version(stdout);
        return 0;
    case OPTIONS_HELP:
        options_print_help(stdout);
        return 0;
    case OPTIONS_TEST:
        return control_test(&options, environ);
    case OPTIONS_SERVE:
        break;
    }
    return supervisor_run(&options, argv);
}
