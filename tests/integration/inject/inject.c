/*
 * Preloaded into graftd by 72-inject.t: lets the n-th allocation, open, mmap or dlopen fail, while
 * it is armed. Armed through the file that INJECT_CONTROL names, which the test maps too; nothing
 * of graftd takes part in that. What libraries ask for inside (libc's opendir, libelf's and
 * libevent's malloc, the loader's malloc) passes through here as well, other than with --wrap.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ALLOCATION = 1, OPEN, MAP, LOAD, GROWTH };

/* 72-inject.t knows this layout. */
struct control {
    _Atomic int32_t armed; /* 0, or the kind that fails */
    int32_t unused;
    _Atomic int64_t count; /* calls of that kind since it was armed */
    int64_t from, until;   /* those with from <= number < until fail; the first is number 0 */
};

static struct control *control;
static void *(*real_dlopen)(const char *, int);
static DIR *(*real_fdopendir)(int);

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);

__attribute__((constructor)) static void open_control(void)
{
    real_dlopen = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    real_fdopendir = (DIR * (*)(int)) dlsym(RTLD_NEXT, "fdopendir");
    const char *path = getenv("INJECT_CONTROL");
    long fd = path != NULL ? syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map =
        (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    control = map != MAP_FAILED ? map : NULL;
    close((int)fd);
}

static int fails(int kind, int error)
{
    if (control == NULL || control->armed != kind)
        return 0;
    int64_t number = control->count++;
    if (number < control->from || number >= control->until)
        return 0;
    errno = error;
    return 1;
}

void *malloc(size_t n)
{
    return fails(ALLOCATION, ENOMEM) ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return fails(ALLOCATION, ENOMEM) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    if (fails(ALLOCATION, ENOMEM) || (p != NULL && fails(GROWTH, ENOMEM)))
        return NULL;
    return __libc_realloc(p, n);
}

void *memalign(size_t align, size_t n)
{
    return fails(ALLOCATION, ENOMEM) ? NULL : __libc_memalign(align, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    return memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    void *p = memalign(align, n);
    if (p == NULL)
        return ENOMEM;
    *out = p;
    return 0;
}

int openat(int dirfd, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return fails(OPEN, EMFILE) ? -1 : (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = (flags & O_CREAT) != 0 ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return fails(OPEN, EMFILE) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int openat64(int dirfd, const char *path, int flags, ...) __attribute__((alias("openat")));

int pipe2(int ends[2], int flags)
{
    return fails(OPEN, EMFILE) ? -1 : (int)syscall(SYS_pipe2, ends, flags);
}

DIR *fdopendir(int fd)
{
    return fails(OPEN, ENOMEM) ? NULL : real_fdopendir(fd);
}

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
    if (fails(MAP, ENOMEM))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, offset);
}

void *mmap64(void *at, size_t len, int prot, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));

/* To look whether something is loaded always works. */
void *dlopen(const char *path, int flags)
{
    if ((flags & RTLD_NOLOAD) == 0 && fails(LOAD, ENOMEM))
        return real_dlopen("/no/such.so", RTLD_NOW);
    return real_dlopen(path, flags);
}
