/* See altstack.h. */
#include "base/altstack.h"

#include "base/base.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROOM ((size_t)64 << 10) /* beyond what the kernel itself puts there */

static _Thread_local struct {
    char *map; /* NULL: none */
    size_t size;
    stack_t before;
} own;

void altstack_use(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    long least = sysconf(_SC_MINSIGSTKSZ);
    if (own.map != NULL)
        return;
    size_t usable = ROOM + (least > 0 ? ((size_t)least + page - 1) / page * page : page);
    void *map =
        mmap(NULL, page + usable, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (map == MAP_FAILED)
        return;
    stack_t stack = { .ss_sp = (char *)map + page, .ss_size = usable };
    if (mprotect(stack.ss_sp, usable, PROT_READ | PROT_WRITE) != 0 ||
        sigaltstack(&stack, &own.before) != 0) {
        munmap(map, page + usable);
        return;
    }
    own.map = map;
    own.size = page + usable;
}

void altstack_drop(void)
{
    if (own.map == NULL)
        return;
    sigaltstack(&own.before, NULL);
    munmap(own.map, own.size);
    own.map = NULL;
}
