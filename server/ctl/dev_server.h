/* The graftd that `graftctl dev` starts for itself, and the talk with whichever it serves with. */
#ifndef GRAFT_CTL_DEV_SERVER_H
#define GRAFT_CTL_DEV_SERVER_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"

#include <limits.h>
#include <sys/types.h>

struct dev_server {
    bool own;
    pid_t pid;    /* 0: it does not run */
    char dir[64]; /* own: a folder that is removed in the end; else "" */
    char control[PATH_MAX], plugins[PATH_MAX];
    const char *listen;
};

/* `control` "": of our own, in a folder that is made here. 0 or -1. */
int dev_server_init(struct dev_server *s, const char *control, const char *plugins,
                    const char *listen, struct err *err);
/* Own: starts it and waits until it serves. 0 or -1; what graftd says goes to stderr. */
int dev_server_start(struct dev_server *s, struct err *err);
/* Whether our own has ended by itself. */
bool dev_server_ended(struct dev_server *s, int *status);
/* Copies the file into the plugin folder, in one step. */
int dev_server_install(const struct dev_server *s, const char *so, struct err *err);
/* Swaps. True: what is in the folder serves. `said`: what changed, or why not, in one line. */
bool dev_server_reload(const struct dev_server *s, struct buf *said);
void dev_server_stop(struct dev_server *s);

#endif
