/* See altstack.h. */
#include "base/altstack.h"

#include "base/base.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROOM ((size_t)64 << 10) /* beyond what the kernel itself puts there */

static _Thread_local struct {
    void *map; /* NULL: none */
    stack_t before;
} own;

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Without the guard page. */
static size_t usable_size(void)
{
    size_t page = page_size();
    long least = sysconf(_SC_MINSIGSTKSZ);
    return ROOM + (least > 0 ? ((size_t)least + page - 1) / page * page : page);
}

void *altstack_new(void)
{
    size_t page = page_size(), usable = usable_size();
    void *map =
        mmap(NULL, page + usable, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    if (mprotect((char *)map + page, usable, PROT_READ | PROT_WRITE) == 0)
        return map;
    altstack_free(map);
    return NULL;
}

void altstack_free(void *map)
{
    int saved = errno;
    if (map != NULL)
        munmap(map, page_size() + usable_size());
    errno = saved;
}

int altstack_use(void *map)
{
    if (own.map != NULL) {
        altstack_free(map);
        return 0;
    }
    if (map == NULL) {
        errno = ENOMEM;
        return -1;
    }
    stack_t stack = { .ss_sp = (char *)map + page_size(), .ss_size = usable_size() };
    if (sigaltstack(&stack, &own.before) != 0) {
        altstack_free(map);
        return -1;
    }
    own.map = map;
    return 0;
}

void altstack_drop(void)
{
    if (own.map == NULL)
        return;
    sigaltstack(&own.before, NULL);
    altstack_free(own.map);
    own.map = NULL;
}
