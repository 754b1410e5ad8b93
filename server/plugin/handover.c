/* Both ends of the messages of handover.h; worker functions stand first. */
#include "plugin/handover.h"

#include "plugin/exchange.h"
#include "plugin/handle.h"
#include "plugin/shadows.h"

#include <stdlib.h>
#include <string.h>

struct node {
    struct msg hold, resume;
    struct handover *handover;
    struct loop *loop;
    unsigned busy;       /* versions that are in use here; the worker's */
    const char *refusal; /* the worker's until its answer */
    bool answered;       /* control's */
};

#define HANDOVER_MAGIC 0x68646f76u

struct handover {
    unsigned magic;
    void (*done)(struct handover *h, void *arg); /* control's, as what follows; NULL: told */
    void *arg;
    unsigned waiting, resuming;
    const char *refusal;
    struct version **olds;
    size_t nolds;
    unsigned nnodes;
    struct node nodes[];
};

static struct {
    struct loop **loops;
    unsigned nloops;
    struct inbox *control;
    void (*resume)(struct loop *l);
} deps;

void handover_init(struct loop **loops, unsigned nloops, struct inbox *control,
                   void (*resume)(struct loop *l))
{
    deps.loops = loops;
    deps.nloops = nloops;
    deps.control = control;
    deps.resume = resume;
}

/* ---- Worker ---------------------------------------------------------------------------------- */

static void hold_answered(struct msg *m);
static void resume_answered(struct msg *m);

static struct version_cell *cell_of(struct version *v, const struct loop *l)
{
    return &v->cells[l->number];
}

static void answer(struct node *node)
{
    node->hold.fn = hold_answered;
    inbox_send(deps.control, &node->hold);
}

/* Of what outlived its turn of the loop: is there something that may take for ever? */
static const char *endless(const struct version_cell *cell)
{
    list_each (it, &cell->suspended) {
        const struct exchange *x = list_entry(it, struct handle, node)->x;
        if (x->aside & ASIDE_SHADOW)
            continue; /* it was ended: shadows_leave */
        if (!x->over && x->request.response.head_sent && x->response_state != RESPONSE_SEALED)
            return "a stream is in progress";
        if (!x->over && x->on_body != NULL)
            return "an upload is in progress as a stream";
        for (unsigned i = 0; i < x->nhandles; i++)
            if (handle_owes(x->handles[i]))
                return "a request is in progress as GRAFT_LATER";
    }
    return NULL;
}

static void hold_taken(struct msg *m)
{
    struct node *node = container_of(m, struct node, hold);
    struct handover *h = node->handover;
    struct loop *l = node->loop;
    CHECK(h, HANDOVER_MAGIC);
    ON_LOOP(l);
    l->handover = h;
    for (size_t i = 0; i < h->nolds; i++) {
        struct version_cell *cell = cell_of(h->olds[i], l);
        cell->holding = true;
        shadows_leave(l, h->olds[i]);
        if (COUNTER_READ(cell->pins) == 0)
            continue;
        if (node->refusal == NULL)
            node->refusal = endless(cell);
        cell->quieting = cell->releasing = true;
        node->busy++;
    }
    if (node->busy == 0 || node->refusal != NULL)
        answer(node);
}

static struct node *node_of(struct handover *h, const struct loop *l)
{
    return &h->nodes[l->number];
}

void handover_cell_idle(struct version_cell *cell)
{
    struct loop *l = cell->loop;
    ON_LOOP(l);
    cell->quieting = cell->releasing = false;
    struct node *node = node_of(l->handover, l);
    if (--node->busy == 0 && node->refusal == NULL)
        answer(node);
}

static void go_on(struct loop *l)
{
    struct handover *h = l->handover;
    l->handover = NULL;
    for (size_t i = 0; i < h->nolds; i++) {
        struct version_cell *cell = cell_of(h->olds[i], l);
        if (cell->quieting)
            cell->releasing = false;
        cell->holding = cell->quieting = false;
    }
    if (deps.resume != NULL)
        deps.resume(l);
}

void handover_adopted(struct loop *l)
{
    if (l->handover != NULL)
        go_on(l);
}

static void resume_taken(struct msg *m)
{
    struct node *node = container_of(m, struct node, resume);
    ON_LOOP(node->loop);
    if (node->loop->handover == node->handover)
        go_on(node->loop);
    m->fn = resume_answered;
    inbox_send(deps.control, m);
}

/* ---- Control --------------------------------------------------------------------------------- */

struct handover *handover_hold(struct version *const *olds, size_t nolds,
                               void (*done)(struct handover *h, void *arg), void *arg)
{
    ON_CONTROL();
    struct handover *h = calloc(1, sizeof *h + deps.nloops * sizeof h->nodes[0]);
    if (h == NULL || (h->olds = calloc(nolds + 1, sizeof *h->olds)) == NULL) {
        free(h);
        return NULL;
    }
    memcpy(h->olds, olds, nolds * sizeof *olds);
    h->magic = HANDOVER_MAGIC;
    h->nolds = nolds;
    h->done = done;
    h->arg = arg;
    h->nnodes = h->waiting = deps.nloops;
    for (unsigned i = 0; i < h->nnodes; i++) {
        h->nodes[i].handover = h;
        h->nodes[i].loop = deps.loops[i];
        h->nodes[i].hold.fn = hold_taken;
    }
    for (unsigned i = 0; i < h->nnodes; i++)
        loop_post(deps.loops[i], &h->nodes[i].hold);
    return h;
}

static void hold_answered(struct msg *m)
{
    ON_CONTROL();
    struct node *node = container_of(m, struct node, hold);
    struct handover *h = node->handover;
    CHECK(h, HANDOVER_MAGIC);
    node->answered = true;
    h->waiting--;
    if (h->refusal == NULL)
        h->refusal = node->refusal;
    if (h->done == NULL || (h->waiting > 0 && h->refusal == NULL))
        return;
    void (*done)(struct handover *, void *) = h->done;
    h->done = NULL;
    done(h, h->arg);
}

const char *handover_refused(const struct handover *h)
{
    return h->refusal;
}

bool handover_blame(const struct handover *h, struct err *err)
{
    for (size_t i = 0; i < h->nolds; i++) {
        struct version_sums sums;
        version_sum(h->olds[i], &sums);
        if (sums.pins == 0)
            continue;
        err_set(err, "%llu requests of %s are still in progress, the oldest on %s, waiting for %s",
                (unsigned long long)sums.pins, h->olds[i]->id,
                sums.oldest_route != NULL ? sums.oldest_route : "no route",
                sums.oldest_waits_for != NULL ? sums.oldest_waits_for : "its handler");
        return true;
    }
    return false;
}

void handover_free(struct handover *h)
{
    if (h == NULL)
        return;
    CHECK(h, HANDOVER_MAGIC);
    h->magic = 0;
    free(h->olds);
    free(h);
}

/* A worker's answer to hold, if it comes at all, comes before that to resume. */
static void resume_answered(struct msg *m)
{
    ON_CONTROL();
    struct handover *h = container_of(m, struct node, resume)->handover;
    CHECK(h, HANDOVER_MAGIC);
    if (--h->resuming == 0)
        handover_free(h);
}

void handover_cancel(struct handover *h)
{
    ON_CONTROL();
    CHECK(h, HANDOVER_MAGIC);
    h->done = NULL;
    h->resuming = h->nnodes;
    for (unsigned i = 0; i < h->nnodes; i++) {
        h->nodes[i].resume.fn = resume_taken;
        loop_post(h->nodes[i].loop, &h->nodes[i].resume);
    }
}
