/* graftctl check FILE.so: what a graftd of this build would say about the file. */
#ifndef GRAFT_CTL_CHECK_H
#define GRAFT_CTL_CHECK_H

#include "base/base.h"

/* Prints every finding with its cure; the exit status: 0, or 1 when it would be refused. */
int check_file(const char *path, bool json);

#endif
