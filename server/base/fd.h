/* Descriptors: what several that write files and read folders need. Any thread; may block. */
#ifndef GRAFT_BASE_FD_H
#define GRAFT_BASE_FD_H

#include <dirent.h>
#include <stddef.h>

/* All of it. 0, or -1 and errno: then a part may have been written. */
int fd_write_all(int fd, const char *data, size_t len);

/* A stream of the entries of the folder `fd`, which stays the caller's; NULL and errno. */
DIR *fd_list(int fd);

#endif
