/*
 * One ring of lines for each thread that logs: the thread pushes, the control thread takes. Rings
 * are made at a thread's first line or before (log_prepare), stay on a list for ever, and are
 * handed on to a new thread when their own has ended (what that one left behind is still written).
 * No ring is ever waited for: a full one drops the line and counts it.
 */
#include "base/log_private.h"

#include <pthread.h>
#include <stdlib.h>

#define RING_SIZE ((size_t)256 << 10) /* a power of two: positions run on and are masked */

struct record {
    uint64_t order_ns;
    uint64_t len;
};

struct log_ring {
    struct log_ring *next;
    size_t mark;               /* taker: pushed before this belongs to the merge that runs */
    _Atomic(bool) in_use;      /* a living thread pushes here */
    _Atomic(uint64_t) dropped; /* pusher */
    _Alignas(CACHE_LINE) _Atomic(size_t) pushed; /* bytes ever; pusher */
    _Alignas(CACHE_LINE) _Atomic(size_t) taken;  /* bytes ever; taker */
    _Alignas(CACHE_LINE) char data[RING_SIZE];
};

static _Atomic(struct log_ring *) rings; /* only grows */
static _Atomic(uint64_t) no_ring;        /* lines lost for want of memory */
static _Thread_local struct log_ring *mine;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool key_made;

/* At the thread's end: whoever takes the ring over sees all that was pushed. */
static void give_back(void *ring)
{
    mine = NULL;
    atomic_store_explicit(&((struct log_ring *)ring)->in_use, false, memory_order_release);
}

static void make_key(void)
{
    key_made = pthread_key_create(&key, give_back) == 0;
}

static struct log_ring *find_free(void)
{
    struct log_ring *r = atomic_load_explicit(&rings, memory_order_acquire);
    for (; r != NULL; r = r->next) {
        bool expected = false;
        if (atomic_compare_exchange_strong_explicit(&r->in_use, &expected, true,
                                                    memory_order_acquire, memory_order_relaxed))
            return r;
    }
    return NULL;
}

static struct log_ring *make_ring(void)
{
    struct log_ring *r = NULL;
    if (posix_memalign((void **)&r, CACHE_LINE, sizeof(*r)) != 0)
        return NULL;
    r->mark = 0;
    atomic_init(&r->in_use, true);
    atomic_init(&r->dropped, 0);
    atomic_init(&r->pushed, 0);
    atomic_init(&r->taken, 0);
    r->next = atomic_load(&rings);
    while (!atomic_compare_exchange_weak(&rings, &r->next, r))
        ;
    return r;
}

static struct log_ring *my_ring(void)
{
    if (mine != NULL)
        return mine;
    pthread_once(&key_once, make_key);
    if (!key_made)
        return NULL;
    struct log_ring *r = find_free();
    if (r == NULL)
        r = make_ring();
    if (r != NULL && pthread_setspecific(key, r) != 0) {
        atomic_store_explicit(&r->in_use, false, memory_order_release);
        r = NULL;
    }
    return mine = r;
}

bool log_prepare(void)
{
    return my_ring() != NULL;
}

static void copy_in(struct log_ring *r, size_t at, const void *from, size_t len)
{
    size_t i = at % RING_SIZE, first = len < RING_SIZE - i ? len : RING_SIZE - i;
    memcpy(r->data + i, from, first);
    memcpy(r->data, (const char *)from + first, len - first);
}

static void copy_out(const struct log_ring *r, size_t at, void *to, size_t len)
{
    size_t i = at % RING_SIZE, first = len < RING_SIZE - i ? len : RING_SIZE - i;
    memcpy(to, r->data + i, first);
    memcpy((char *)to + first, r->data, len - first);
}

bool log_ring_push(const char *text, size_t len, uint64_t order_ns)
{
    struct log_ring *r = my_ring();
    if (r == NULL) {
        atomic_fetch_add_explicit(&no_ring, 1, memory_order_relaxed);
        return false;
    }
    struct record head = { .order_ns = order_ns, .len = len };
    size_t pushed = atomic_load_explicit(&r->pushed, memory_order_relaxed);
    size_t taken = atomic_load_explicit(&r->taken, memory_order_acquire);
    if (sizeof(head) + len > RING_SIZE - (pushed - taken)) {
        uint64_t dropped = atomic_load_explicit(&r->dropped, memory_order_relaxed);
        atomic_store_explicit(&r->dropped, dropped + 1, memory_order_relaxed);
        return false;
    }
    copy_in(r, pushed, &head, sizeof(head));
    copy_in(r, pushed + sizeof(head), text, len);
    /* Sequentially consistent, like the "wanted" flag in log_out.c: either the pusher sees that a
       wake-up is wanted, or the taker sees this line. */
    atomic_store(&r->pushed, pushed + sizeof(head) + len);
    return true;
}

uint64_t log_ring_dropped(void)
{
    uint64_t n = atomic_load_explicit(&no_ring, memory_order_relaxed);
    const struct log_ring *r = atomic_load_explicit(&rings, memory_order_acquire);
    for (; r != NULL; r = r->next)
        n += atomic_load_explicit(&r->dropped, memory_order_relaxed);
    return n;
}

void log_ring_mark(void)
{
    struct log_ring *r = atomic_load(&rings);
    for (; r != NULL; r = r->next)
        r->mark = atomic_load(&r->pushed);
}

size_t log_ring_oldest(struct log_ring **ring)
{
    struct record oldest = { .order_ns = UINT64_MAX, .len = 0 };
    struct log_ring *r = atomic_load_explicit(&rings, memory_order_acquire);
    for (; r != NULL; r = r->next) {
        struct record head;
        size_t taken = atomic_load_explicit(&r->taken, memory_order_relaxed);
        if (taken == r->mark)
            continue;
        copy_out(r, taken, &head, sizeof(head));
        if (oldest.len == 0 || head.order_ns < oldest.order_ns) {
            oldest = head;
            *ring = r;
        }
    }
    return oldest.len;
}

void log_ring_take(struct log_ring *r, char *out)
{
    struct record head;
    size_t taken = atomic_load_explicit(&r->taken, memory_order_relaxed);
    copy_out(r, taken, &head, sizeof(head));
    copy_out(r, taken + sizeof(head), out, head.len);
    atomic_store_explicit(&r->taken, taken + sizeof(head) + head.len, memory_order_release);
}
