/* graftctl dev FILE.so: builds, serves and swaps a plugin on every save. */
#ifndef GRAFT_CTL_DEV_H
#define GRAFT_CTL_DEV_H

#include "base/base.h"

struct dev_options {
    const char *so;      /* in the folder that we work in; also the target for make */
    const char *control; /* "": a graftd of our own */
    const char *plugins; /* the plugin folder of that server */
    const char *listen;  /* of our own; NULL: what graft.json says, else graftd's default */
};

/* Until SIGINT or SIGTERM. The exit status: 0; 1: it could not begin, or the server ended; 2:
 * usage. */
int dev_run(const struct dev_options *options);

#endif
