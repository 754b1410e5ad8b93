/*
 * What every file of graftd may use: magic checks, container_of, small macros.
 *
 * CHECK(p, MAGIC) proves that a pointer is what its type says. It is always live outside the
 * request path; HOT_CHECK is its form for the request path, live in the checks build only
 * (configure --enable-checks).
 */
#ifndef GRAFT_BASE_BASE_H
#define GRAFT_BASE_BASE_H

#ifdef HAVE_CONFIG_H
#include <config.h> /* in brackets: base/config.h is another one */
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define CACHE_LINE             64

/* For what goes wrong: its code, and the branches that lead to it, are kept out of the way of the
   request path, whose size in the instruction cache is most of what it costs. */
#define COLD __attribute__((cold))
/* And for what every request runs, so that it lies together. */
#define HOT                 __attribute__((hot))
/* What few requests need is called where it is needed, and does not lie amid what all run. */
#define NOINLINE __attribute__((noinline))
#define LIKELY(condition)   __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Says where and what, then aborts: for broken invariants only, never for input. */
COLD _Noreturn void check_failed(const char *file, int line, const char *what);

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            check_failed(__FILE__, __LINE__, #cond);                                               \
    } while (0)

#define CHECK(p, m) REQUIRE((p) != NULL && (p)->magic == (m))

#ifdef GRAFT_CHECKS
#define HOT_REQUIRE(cond) REQUIRE(cond)
#define HOT_CHECK(p, m)   CHECK(p, m)
#else
#define HOT_REQUIRE(cond) ((void)0)
#define HOT_CHECK(p, m)   ((void)0)
#endif

/* Which kind of thread this is; each thread says so once, when it starts. */
enum thread_kind { THREAD_OTHER, THREAD_CONTROL, THREAD_LOADER, THREAD_WORKER, THREAD_POOL };
extern _Thread_local enum thread_kind thread_kind;

/* A number of its own for each worker and pool thread, workers first: the index of the cells that
   only this thread writes (counters). UINT_MAX elsewhere. */
extern _Thread_local unsigned thread_slot;

#define ON_CONTROL() REQUIRE(thread_kind == THREAD_CONTROL)
#define ON_LOADER()  REQUIRE(thread_kind == THREAD_LOADER)

/* A number that one thread writes and others may read: no lock, no locked instruction. */
#define COUNTER_ADD(c, n)                                                                          \
    __atomic_store_n(&(c), __atomic_load_n(&(c), __ATOMIC_RELAXED) + (n), __ATOMIC_RELAXED)
#define COUNTER_READ(c) __atomic_load_n(&(c), __ATOMIC_RELAXED)

/* Descriptors 0, 1 and 2 that are closed become /dev/null, so that none of ours gets such a number:
   libraries and plugins write there. First thing in main. */
void standard_fds_hold(void);

/* Allocation outside the request path, where running out of memory ends the process with a
   message: start-up and small control-side objects. Swap and request code uses malloc and checks.
 */
void *xcalloc(size_t n, size_t size);
char *xstrdup(const char *s);

#endif
