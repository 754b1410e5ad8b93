/* See suspended.h. */
#include "plugin/suspended.h"

#include <unistd.h>

#define PREPARED_TRIES 1000
#define PREPARED_US    100

/* A seqlock with one writer: `seq` is odd while it writes. Each store of the data is a release, so
   that none is seen before the odd number. */
static void publish(struct version_cell *cell, const struct exchange *x)
{
    struct version_oldest *o = &cell->oldest;
    uint32_t seq = __atomic_load_n(&o->seq, __ATOMIC_RELAXED);
    __atomic_store_n(&o->seq, seq + 1, __ATOMIC_RELAXED);
    __atomic_store_n(&o->start_us, x ? x->request.start_us : 0, __ATOMIC_RELEASE);
    __atomic_store_n(&o->route, x ? x->pattern : NULL, __ATOMIC_RELEASE);
    __atomic_store_n(&o->waits_for, x ? x->waits_for : NULL, __ATOMIC_RELEASE);
    __atomic_store_n(&o->seq, seq + 2, __ATOMIC_RELEASE);
}

static struct version_cell *cell_of(struct handle *h)
{
    return &h->version->cells[h->chain->loop->number];
}

static void publish_first(struct version_cell *cell)
{
    struct exchange *x = NULL;
    if (!list_empty(&cell->suspended))
        x = list_entry(cell->suspended.next, struct handle, node)->x;
    publish(cell, x);
}

NOINLINE void suspended_add(struct exchange *x, const char *waits_for)
{
    bool changed = x->waits_for != waits_for;
    x->waits_for = waits_for;
    suspended_prepare(x);
    for (unsigned i = 0; i < x->nhandles; i++) {
        struct handle *h = x->handles[i];
        struct version_cell *cell = cell_of(h);
        if (!h->suspended) {
            h->suspended = true;
            list_add_tail(&cell->suspended, &h->node);
        } else if (!changed) {
            continue;
        }
        if (cell->suspended.next == &h->node)
            publish(cell, x);
    }
}

NOINLINE void suspended_remove(struct handle *h)
{
    if (!h->suspended)
        return;
    struct version_cell *cell = cell_of(h);
    bool first = cell->suspended.next == &h->node;
    h->suspended = false;
    list_del(&h->node);
    if (first)
        publish_first(cell);
}

/* ---- What is made on demand ------------------------------------------------------------------ */

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

const char *exchange_id(struct exchange *x)
{
    if (!x->id[0]) {
        static const char hex[] = "0123456789abcdef";
        struct chain *c = x->chain;
        uint64_t n = c->id_next++;
        uint64_t half[2] = { mix(c->id_seed[0] + n), mix(c->id_seed[1] ^ n) };
        for (unsigned i = 0; i < REQUEST_ID_LEN; i++)
            x->id[i] = hex[half[i / 16] >> (60 - 4 * (i % 16)) & 15u];
        x->id[REQUEST_ID_LEN] = 0;
    }
    return x->id;
}

struct str exchange_peer(struct exchange *x)
{
    if (!x->peer_len)
        x->peer_len = peer_text(&x->from, x->peer);
    return (struct str){ x->peer, x->peer_len };
}

/* The first of several fields of one name? `repeated` says whether there are more. */
static bool is_first(const struct head *head, unsigned i, bool *repeated)
{
    struct str name = head->headers[i].name;
    *repeated = false;
    for (unsigned j = 0; j < head->nheaders; j++) {
        if (j == i || !str_case_eq(name, head->headers[j].name))
            continue;
        if (j < i)
            return false;
        *repeated = true;
    }
    return true;
}

/* Fields that came several times are joined now, on the worker, where memory may be taken. */
static void join_repeated(struct exchange *x)
{
    struct request *r = &x->request;
    bool repeated;
    for (unsigned i = 0; i < r->head.nheaders; i++) {
        if (!is_first(&r->head, i, &repeated) || !repeated)
            continue;
        if (!x->joined)
            x->joined = arena_alloc(&r->arena, r->head.nheaders * sizeof *x->joined);
        struct str name = arena_copy(&r->arena, r->head.headers[i].name);
        if (!x->joined || !name.ptr)
            return;
        x->joined[x->njoined++] = (struct header){ name, request_field(r, name.ptr) };
    }
}

/* A thread that the handler started may ask before the handler has returned GRAFT_LATER: it waits
   for that moment, which is near, or, where the handler waits for the thread, gets nothing. */
bool suspended_is_prepared(struct exchange *x)
{
    for (int tries = 0; !atomic_load_explicit(&x->prepared, memory_order_acquire); tries++) {
        if (loop_current == x->chain->loop || tries == PREPARED_TRIES)
            return false;
        usleep(PREPARED_US);
    }
    return true;
}

void suspended_prepare(struct exchange *x)
{
    if (atomic_load_explicit(&x->prepared, memory_order_relaxed))
        return;
    exchange_id(x);
    exchange_peer(x);
    join_repeated(x);
    atomic_store_explicit(&x->prepared, true, memory_order_release);
}
