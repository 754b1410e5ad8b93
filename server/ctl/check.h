/* graftctl check FILE.so: what a graftd of this build would say about the file. */
#ifndef GRAFT_CTL_CHECK_H
#define GRAFT_CTL_CHECK_H

#include "base/base.h"

#define CHECK_KEYS_MAX 16

struct check_options {
    bool json;
    const char *config; /* whose signatures hold; NULL: the default one, if it is there */
    const char *keys[CHECK_KEYS_MAX]; /* or: a signature by one of these is required */
    size_t nkeys;
};

/* Prints every finding with its cure; the exit status: 0, or 1 when it would be refused. */
int check_file(const char *path, const struct check_options *options);

#endif
