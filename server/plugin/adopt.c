/*
 * Both ends of the messages of adopt.h. Worker functions stand first, control's behind them. What
 * a worker writes for control (node->rc, cell->...) is read after its answer has arrived.
 */
#include "plugin/adopt.h"

#include "plugin/handover.h"
#include "plugin/shadows.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct msg msg;
    struct adoption *adoption;
    struct loop *loop;
    bool answered; /* control's */
    struct version *failed;
    char why[512];
};

#define ADOPTION_MAGIC 0x61646f70u

struct adoption {
    unsigned magic;
    struct generation *generation;
    struct version **fresh;
    size_t nfresh;
    atomic_bool cancelled;
    unsigned waiting; /* control's, as what follows */
    struct version *failed;
    const char *why;
    void (*done)(struct adoption *a, void *arg); /* NULL: cancelled, or told already */
    void *arg;
    unsigned nnodes;
    struct node nodes[];
};

static struct {
    struct loop **loops;
    unsigned nloops;
    struct inbox *control;
    void (*cut)(struct version *v, struct loop *l);
} deps;

void adopt_init(struct loop **loops, unsigned nloops, struct inbox *control,
                void (*cut)(struct version *v, struct loop *l))
{
    deps.loops = loops;
    deps.nloops = nloops;
    deps.control = control;
    deps.cut = cut;
}

/* ---- Worker ---------------------------------------------------------------------------------- */

void adopt_doing(struct loop *l, struct version *v, const char *callback)
{
    if (v != NULL) {
        __atomic_store_n(&l->doing.route, NULL, __ATOMIC_RELAXED);
        __atomic_store_n(&l->doing.callback, callback, __ATOMIC_RELAXED);
        __atomic_store_n(&l->doing.since_us, clock_us(), __ATOMIC_RELAXED);
    }
    __atomic_store_n(&l->doing.version, v, __ATOMIC_RELEASE);
}

static int worker_init(struct node *node, struct version *v)
{
    struct loop *l = node->loop;
    int rc = 0;
    if (v->cells[l->number].inited)
        return 0; /* by an earlier try of the same swap */
    if (v->desc.worker_init != NULL) {
        version_fail_clear();
        adopt_doing(l, v, "worker_init");
        rc = v->desc.worker_init(&v->self, v->state_ptr);
        adopt_doing(l, NULL, NULL);
    }
    if (rc == 0) {
        v->cells[l->number].inited = true;
        return 0;
    }
    node->failed = v;
    size_t len = strnlen(version_fail_text(), sizeof node->why - 1);
    memcpy(node->why, version_fail_text(), len);
    node->why[len] = '\0';
    return -1;
}

static void prepare_answered(struct msg *m);
static void adopt_answered(struct msg *m);

static void answer(struct node *node, void (*fn)(struct msg *))
{
    node->msg.fn = fn;
    inbox_send(deps.control, &node->msg);
}

static void prepare_taken(struct msg *m)
{
    struct node *node = container_of(m, struct node, msg);
    struct adoption *a = node->adoption;
    CHECK(a, ADOPTION_MAGIC);
    ON_LOOP(node->loop);
    for (size_t i = 0; i < a->nfresh; i++)
        if (atomic_load_explicit(&a->cancelled, memory_order_acquire) ||
            worker_init(node, a->fresh[i]) != 0)
            break;
    answer(node, prepare_answered);
}

static void adopt_taken(struct msg *m)
{
    struct node *node = container_of(m, struct node, msg);
    ON_LOOP(node->loop);
    node->loop->generation = node->adoption->generation;
    node->loop->config_number = node->adoption->generation->number;
    handover_adopted(node->loop);
    answer(node, adopt_answered);
}

static void release_reported(struct msg *m);

/* The first turn runs worker_fini, outside of every frame that could still need the version; the
   second reports: libevent's deferred callbacks have run by then. */
static void release_turn(struct msg *m)
{
    struct version_cell *cell = container_of(m, struct version_cell, release);
    struct version *v = cell->version;
    struct loop *l = cell->loop;
    CHECK(v, VERSION_MAGIC);
    ON_LOOP(l);
    cell->turning = false;
    if (cell->finished) {
        m->fn = release_reported;
        inbox_send(deps.control, m);
        return;
    }
    if (COUNTER_READ(cell->pins) != 0)
        return; /* adopt_cell_idle will come */
    if (cell->inited && v->desc.worker_fini != NULL) {
        adopt_doing(l, v, "worker_fini");
        v->desc.worker_fini(&v->self, v->state_ptr);
        adopt_doing(l, NULL, NULL);
    }
    cell->inited = false;
    cell->finished = cell->turning = true;
    loop_post(l, m);
}

void adopt_cell_idle(struct version *v, struct loop *l)
{
    struct version_cell *cell = &v->cells[l->number];
    if (cell->quieting) {
        handover_cell_idle(cell);
        return;
    }
    if (cell->turning || cell->finished)
        return;
    cell->turning = true;
    cell->release.fn = release_turn;
    loop_post(l, &cell->release);
}

static void release_taken(struct msg *m)
{
    struct version_cell *cell = container_of(m, struct version_cell, release);
    ON_LOOP(cell->loop);
    cell->releasing = true;
    shadows_leave(cell->loop, cell->version);
    if (COUNTER_READ(cell->pins) == 0)
        adopt_cell_idle(cell->version, cell->loop);
}

static void cut_answered(struct msg *m);

static void cut_taken(struct msg *m)
{
    struct version_cell *cell = container_of(m, struct version_cell, cut);
    ON_LOOP(cell->loop);
    cell->cutting = true;
    deps.cut(cell->version, cell->loop);
    m->fn = cut_answered;
    inbox_send(deps.control, m);
}

/* ---- Control: generations -------------------------------------------------------------------- */

struct adoption *adoption_new(struct generation *g, struct version *const *fresh, size_t nfresh,
                              void (*done)(struct adoption *a, void *arg), void *arg)
{
    ON_CONTROL();
    struct adoption *a = calloc(1, sizeof *a + deps.nloops * sizeof a->nodes[0]);
    if (a == NULL)
        return NULL;
    a->fresh = calloc(nfresh + 1, sizeof *a->fresh);
    if (a->fresh == NULL) {
        free(a);
        return NULL;
    }
    if (nfresh > 0)
        memcpy(a->fresh, fresh, nfresh * sizeof *fresh);
    a->magic = ADOPTION_MAGIC;
    a->generation = g;
    a->nfresh = nfresh;
    a->done = done;
    a->arg = arg;
    a->nnodes = deps.nloops;
    for (unsigned i = 0; i < a->nnodes; i++) {
        a->nodes[i].adoption = a;
        a->nodes[i].loop = deps.loops[i];
    }
    return a;
}

static void send_all(struct adoption *a, void (*fn)(struct msg *))
{
    a->waiting = a->nnodes;
    for (unsigned i = 0; i < a->nnodes; i++) {
        a->nodes[i].answered = false;
        a->nodes[i].msg.fn = fn;
    }
    for (unsigned i = 0; i < a->nnodes; i++)
        loop_post(a->nodes[i].loop, &a->nodes[i].msg);
}

void adoption_prepare(struct adoption *a)
{
    ON_CONTROL();
    CHECK(a, ADOPTION_MAGIC);
    send_all(a, prepare_taken);
}

void adoption_publish(struct adoption *a)
{
    ON_CONTROL();
    CHECK(a, ADOPTION_MAGIC);
    REQUIRE(a->waiting == 0 && a->failed == NULL);
    send_all(a, adopt_taken);
}

struct generation *adoption_generation(const struct adoption *a)
{
    return a->generation;
}

struct generation *adoption_free(struct adoption *a)
{
    if (a == NULL)
        return NULL;
    CHECK(a, ADOPTION_MAGIC);
    REQUIRE(a->waiting == 0);
    struct generation *g = a->generation;
    a->magic = 0;
    free(a->fresh);
    free(a);
    return g;
}

static void answered(struct msg *m, bool prepare)
{
    ON_CONTROL();
    struct node *node = container_of(m, struct node, msg);
    struct adoption *a = node->adoption;
    CHECK(a, ADOPTION_MAGIC);
    node->answered = true;
    a->waiting--;
    if (prepare && node->failed != NULL && a->failed == NULL) {
        a->failed = node->failed;
        a->why = node->why;
    }
    if (a->done == NULL) {
        if (a->waiting == 0)
            generation_free(adoption_free(a));
        return;
    }
    if (a->waiting == 0 || (prepare && a->failed != NULL))
        a->done(a, a->arg);
}

static void prepare_answered(struct msg *m)
{
    answered(m, true);
}

static void adopt_answered(struct msg *m)
{
    answered(m, false);
}

void adoption_cancel(struct adoption *a)
{
    ON_CONTROL();
    CHECK(a, ADOPTION_MAGIC);
    atomic_store_explicit(&a->cancelled, true, memory_order_release);
    a->done = NULL;
    if (a->waiting == 0)
        generation_free(adoption_free(a));
}

struct version *adoption_failed(const struct adoption *a, struct err *err)
{
    if (a->failed != NULL)
        err_set(err, "worker_init failed: %s", a->why);
    return a->failed;
}

void adoption_blame(const struct adoption *a, unsigned timeout_ms, struct err *err)
{
    for (unsigned i = 0; i < a->nnodes; i++) {
        if (a->nodes[i].answered)
            continue;
        const struct loop *l = a->nodes[i].loop;
        const struct version *v = __atomic_load_n(&l->doing.version, __ATOMIC_ACQUIRE);
        const char *route = __atomic_load_n(&l->doing.route, __ATOMIC_RELAXED);
        const char *callback = __atomic_load_n(&l->doing.callback, __ATOMIC_RELAXED);
        uint64_t since = __atomic_load_n(&l->doing.since_us, __ATOMIC_RELAXED), now = clock_us();
        if (v == NULL)
            err_set(err,
                    "worker %u has not answered within %u ms, though no plugin's code runs on it: "
                    "is the machine overloaded?",
                    l->number, timeout_ms);
        else
            err_set(err,
                    "worker %u has not answered within %u ms: it stands in %s of plugin \"%s\" "
                    "(%s)%s%s for %llu ms; what runs on a worker must not block: use graft_offload",
                    l->number, timeout_ms, callback != NULL ? callback : "a callback", v->plugin,
                    v->id, route != NULL ? ", route " : "", route != NULL ? route : "",
                    (unsigned long long)((now > since ? now - since : 0) / 1000u));
        return;
    }
    err_set(err, "all workers have answered");
}

/* ---- Control: versions ----------------------------------------------------------------------- */

void adopt_release(struct version *v, void (*done)(struct version *v))
{
    ON_CONTROL();
    CHECK(v, VERSION_MAGIC);
    REQUIRE(v->ncells == deps.nloops && v->waiting == 0);
    v->released = done;
    v->waiting = v->ncells;
    for (unsigned i = 0; i < v->ncells; i++) {
        v->cells[i].release.fn = release_taken;
        loop_post(deps.loops[i], &v->cells[i].release);
    }
}

static void release_reported(struct msg *m)
{
    ON_CONTROL();
    struct version *v = container_of(m, struct version_cell, release)->version;
    CHECK(v, VERSION_MAGIC);
    if (--v->waiting == 0)
        v->released(v);
}

void adopt_cut(struct version *v, void (*done)(struct version *v))
{
    ON_CONTROL();
    CHECK(v, VERSION_MAGIC);
    if (v->cuts > 0)
        return;
    v->cut_done = done;
    v->cuts = v->ncells;
    for (unsigned i = 0; i < v->ncells; i++) {
        v->cells[i].cut.fn = cut_taken;
        loop_post(deps.loops[i], &v->cells[i].cut);
    }
}

static void cut_answered(struct msg *m)
{
    ON_CONTROL();
    struct version *v = container_of(m, struct version_cell, cut)->version;
    CHECK(v, VERSION_MAGIC);
    if (--v->cuts == 0 && v->cut_done != NULL)
        v->cut_done(v);
}
