/*
 * For unit tests that need plugin files: a private folder for each case, and shared objects
 * compiled into it from a few lines of source. The runner removes the folder when the case's
 * process is gone: a case that crashes or hangs cannot, and one that ends while threads of its
 * still write there might not get it empty.
 */
#ifndef GRAFT_TESTS_SO_H
#define GRAFT_TESTS_SO_H

#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define SO_PLUGIN(name) "#include <graft/graft.h>\nGRAFT_PLUGIN(.name = \"" name "\")\n"

static char *so_dir; /* 128 bytes shared by the runner and its cases; "" = none */

static int so_remove(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    remove(path);
    return 0;
}

static void so_sweep(void)
{
    if (so_dir[0] != '\0')
        nftw(so_dir, so_remove, 8, FTW_DEPTH | FTW_PHYS);
    so_dir[0] = '\0';
}

__attribute__((constructor)) static void so_share(void)
{
    so_dir = mmap(NULL, 128, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (so_dir == MAP_FAILED)
        abort();
    tap_sweep = so_sweep;
}

/* The folder; made at the first call. */
static inline const char *so_folder(void)
{
    if (so_dir[0] == '\0') {
        char name[] = "/tmp/graft-unit-XXXXXX";
        must(mkdtemp(name) != NULL);
        strcpy(so_dir, name);
    }
    return so_dir;
}

/* "FOLDER/name", in one of a few buffers used in turn. */
static inline const char *so_path(const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", so_folder(), name);
    return path;
}

static inline void so_write(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    must(fd >= 0);
    must(write(fd, data, len) == (ssize_t)len);
    fchmod(fd, 0644);
    close(fd);
}

static inline const char *so_env(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : otherwise;
}

/* Compiles `source` (file name `from` in the folder) with `compiler` and `flags` into `name`. */
static inline const char *so_compile(const char *compiler, const char *from, const char *source,
                                     const char *name, const char *flags)
{
    char *command = NULL;
    const char *path = so_path(name), *src = so_path(from);
    so_write(src, source, strlen(source));
    must(asprintf(&command, "%s -w -I'%s/sdk/include' -o '%s' '%s' %s", compiler,
                  so_env("TEST_SRCDIR", "."), path, src, flags) > 0);
    must(system(command) == 0); /* the compiler says why */
    free(command);
    chmod(path, 0755);
    return path;
}

/* A shared object from C, as graft.pc would have it, with more flags behind. */
static inline const char *so_build(const char *name, const char *source, const char *flags)
{
    char *from = NULL, *all = NULL;
    must(asprintf(&from, "%s.c", name) > 0);
    must(asprintf(&all, "-shared -fPIC -fvisibility=hidden -Wl,-Bsymbolic %s", flags) > 0);
    const char *path = so_compile(so_env("TEST_CC", "cc"), from, source, name, all);
    free(from);
    free(all);
    return path;
}

/* The file in memory; free() it. */
static inline unsigned char *so_read(const char *path, size_t *len)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    must(fd >= 0 && fstat(fd, &st) == 0);
    unsigned char *data = malloc((size_t)st.st_size + 1);
    must(data != NULL && read(fd, data, (size_t)st.st_size) == st.st_size);
    close(fd);
    *len = (size_t)st.st_size;
    return data;
}

#endif
