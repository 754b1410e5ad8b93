/*
 * The n-th allocation, open, mmap or dlopen inside a swap fails, for every n: the old generation
 * serves, nothing is left behind, and the same file can be swapped in afterwards. Linked with
 * --wrap, so that what graftd's own code asks for passes through here.
 */
#include "swap_rig.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <sys/mman.h>

enum { ALLOCATIONS, OPENS, MAPS, LOADS, KINDS };

static _Atomic int armed = -1;       /* the kind that fails */
static _Atomic unsigned count;       /* calls of that kind since it was armed */
static _Atomic unsigned from, until; /* those with from <= number < until fail */

static bool fails(int kind)
{
    if (armed != kind)
        return false;
    unsigned n = count++;
    return n >= from && n < until;
}

#define WRAP(type, name, params, args, kind, failed, code)                                         \
    type __real_##name params;                                                                     \
    type __wrap_##name params;                                                                     \
    type __wrap_##name params                                                                      \
    {                                                                                              \
        if (!fails(kind))                                                                          \
            return __real_##name args;                                                             \
        errno = code;                                                                              \
        return failed;                                                                             \
    }

WRAP(void *, malloc, (size_t n), (n), ALLOCATIONS, NULL, ENOMEM)
WRAP(void *, calloc, (size_t n, size_t s), (n, s), ALLOCATIONS, NULL, ENOMEM)
WRAP(void *, realloc, (void *p, size_t n), (p, n), ALLOCATIONS, NULL, ENOMEM)
WRAP(void *, aligned_alloc, (size_t a, size_t n), (a, n), ALLOCATIONS, NULL, ENOMEM)
WRAP(char *, strdup, (const char *s), (s), ALLOCATIONS, NULL, ENOMEM)
WRAP(int, vasprintf, (char **p, const char *f, va_list v), (p, f, v), ALLOCATIONS, -1, ENOMEM)
WRAP(DIR *, fdopendir, (int fd), (fd), ALLOCATIONS, NULL, ENOMEM)
WRAP(void *, mmap, (void *a, size_t n, int p, int f, int fd, off_t o), (a, n, p, f, fd, o), MAPS,
     MAP_FAILED, ENOMEM)

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (!fails(OPENS))
        return __real_open(path, flags, mode);
    errno = EMFILE;
    return -1;
}

int __real_openat(int dirfd, const char *path, int flags, ...);
int __wrap_openat(int dirfd, const char *path, int flags, ...);
int __wrap_openat(int dirfd, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (!fails(OPENS))
        return __real_openat(dirfd, path, flags, mode);
    errno = EMFILE;
    return -1;
}

/* dlopen as the loader does it: looks (RTLD_NOLOAD) always succeed. */
void *__real_dlopen(const char *path, int flags);
void *__wrap_dlopen(const char *path, int flags);
void *__wrap_dlopen(const char *path, int flags)
{
    static char why[] = "/no/such.so";
    if ((flags & RTLD_NOLOAD) || !fails(LOADS))
        return __real_dlopen(path, flags);
    return __real_dlopen(why, flags); /* so that dlerror has something to say */
}

static bool serves(unsigned tag)
{
    struct version *v = rig_version("one", VERSION_ACTIVE);
    (void)tag;
    return v != NULL && load_is_mapped(v->staged.path);
}

/* One faulty swap and its repair. True: some call did fail. */
static bool attempt(struct rig_so *so, int kind, unsigned n, bool all, unsigned tag)
{
    unsigned generation = swap_generation(rig->swap);
    rig_put(so, "one.so", tag);
    from = n;
    until = all ? UINT32_MAX : n + 1;
    count = 0;
    armed = kind;
    bool went = rig_reload();
    armed = -1;
    bool hit = count > n;
    rig_until(rig_versions() == 1 && rig_staged() == 1);
    is(swap_generation(rig->swap), generation + went);
    ok(serves(tag));
    if (!went) {
        ok(rig->reason[0] != '\0');
        if (!rig_swap((struct swap_ask){ .retry = true }))
            fail(rig->reason);
        rig_until(rig_versions() == 1 && rig_staged() == 1);
    }
    return hit;
}

static void walk(int kind, bool all)
{
    rig_open("{\"plugin_dir\":\"@DIR@\"}");
    struct rig_so so = rig_build("one", "");
    unsigned tag = 1, n = 0;
    rig_put(&so, "one.so", tag);
    must(rig_reload());
    while (attempt(&so, kind, n, all, ++tag))
        n++;
    fprintf(stderr, "# %u calls can fail\n", n);
    ok(n > 0);
    rig_close();
}

TEST_WITHIN(one_allocation_fails, 300)
{
    walk(ALLOCATIONS, false);
}

TEST_WITHIN(all_allocations_from_the_nth_on_fail, 300)
{
    walk(ALLOCATIONS, true);
}

TEST_WITHIN(one_open_fails, 300)
{
    walk(OPENS, false);
}

TEST_WITHIN(all_opens_from_the_nth_on_fail, 300)
{
    walk(OPENS, true);
}

TEST_WITHIN(mmap_fails, 300)
{
    walk(MAPS, true);
}

TEST_WITHIN(dlopen_fails, 300)
{
    walk(LOADS, true);
}

/* ---- Rollbacks ------------------------------------------------------------------------------- */

/* A new version, then a faulty rollback and its repair. True: some call did fail. */
static bool attempt_rollback(struct rig_so *so, int kind, unsigned n, unsigned tag)
{
    rig_put(so, "one.so", tag);
    must(rig_reload());
    rig_until(rig_versions() == 1 && rig_staged() == 1);
    unsigned generation = swap_generation(rig->swap);
    from = n;
    until = n + 1;
    count = 0;
    armed = kind;
    bool went = rig_swap((struct swap_ask){ .wish = SWAP_ROLLBACK, .plugin = "one" });
    armed = -1;
    bool hit = count > n;
    rig_until(rig_versions() == 1 && rig_staged() == 1);
    is(swap_generation(rig->swap), generation + went);
    ok(serves(tag));
    if (!went) {
        ok(rig->reason[0] != '\0');
        if (!rig_swap((struct swap_ask){ .wish = SWAP_ROLLBACK, .plugin = "one" }))
            fail(rig->reason);
        rig_until(rig_versions() == 1 && rig_staged() == 1);
    }
    return hit;
}

static void walk_rollback(int kind)
{
    rig_open("{\"plugin_dir\":\"@DIR@\"}");
    struct rig_so so = rig_build("one", "");
    unsigned tag = 1, n = 0;
    rig_put(&so, "one.so", tag);
    must(rig_reload());
    while (attempt_rollback(&so, kind, n, ++tag))
        n++;
    fprintf(stderr, "# %u calls can fail\n", n);
    ok(n > 0);
    rig_close();
}

TEST_WITHIN(one_allocation_fails_in_a_rollback, 300)
{
    walk_rollback(ALLOCATIONS);
}

TEST_WITHIN(one_open_fails_in_a_rollback, 300)
{
    walk_rollback(OPENS);
}

TEST_WITHIN(dlopen_fails_in_a_rollback, 300)
{
    walk_rollback(LOADS);
}
