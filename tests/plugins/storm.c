/*
 * Does something else with every request: /storm?seed=N, all methods, /storm/up with GRAFT_STREAM;
 * and, as middleware, with every other one. Each request is a plan of random steps, each on another
 * way (post, after, offload, a thread of the plugin's own), that write, flush, pause, set deadlines,
 * send files, and end in exactly one done, continue or abort, wherever. Built as storm.so and, with
 * GRAFT_SERIAL, as storm_serial.so (plugins storm and storm-serial).
 *
 * fini logs "storm NAME requests=N finished=N works=N thens=N offloads=N": what must be equal.
 */
#include "contract.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef NAME
#define NAME "storm"
#define FLAGS 0
#endif

struct thread_job {
    struct thread_job *next;
    void (*fn)(void *arg);
    void *arg;
};

struct storm {
    graft_self *self;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct thread_job *first, *last; /* protected by lock */
    bool stop;                       /* protected by lock */
    atomic_uint requests, finished, offloads, works, thens;
};

/* In scratch. A plan runs in one place at a time, and its steps are handed on, so that only
   callbacks of the server's own (on_abort, on_writable, on_body) come in between, on the worker. */
struct plan {
    graft_req *req;
    struct storm *storm;
    uint64_t random;
    unsigned left;
    bool middleware, begun;
    bool was_later;        /* its on_request was: on_response may not be, it could run meanwhile */
    uint64_t worker_random; /* for what the server calls on the worker while a thread has the plan */
};

static const char block[100000];
static struct storm *the; /* for work, which has no request */

static unsigned shake(uint64_t *random, unsigned n)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (unsigned)(*random >> 33) % n;
}

static unsigned rnd(struct plan *p, unsigned n)
{
    return shake(&p->random, n);
}

/* ---- The thread ---------------------------------------------------------------------------- */

static void *thread_main(void *arg)
{
    struct storm *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        struct thread_job *job = s->first;
        if (!job && s->stop)
            break;
        if (!job) {
            pthread_cond_wait(&s->wake, &s->lock);
            continue;
        }
        s->first = job->next;
        pthread_mutex_unlock(&s->lock);
        job->fn(job->arg);
        free(job);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void on_thread(struct storm *s, void (*fn)(void *), void *arg)
{
    struct thread_job *job = malloc(sizeof *job);
    if (!job)
        abort();
    *job = (struct thread_job){ NULL, fn, arg };
    pthread_mutex_lock(&s->lock);
    if (s->first)
        s->last->next = job;
    else
        s->first = job;
    s->last = job;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* ---- Steps --------------------------------------------------------------------------------- */

static void step(graft_req *req, void *arg);

static void end(struct plan *p)
{
    graft_req *req = p->req;
    bool middleware = p->middleware;
    unsigned how = rnd(p, 20); /* after the answer the plan is not ours any more */
    if (how == 0)
        graft_abort(req);
    else if (middleware)
        graft_continue(req, how == 1 ? GRAFT_ERROR : how == 2 ? GRAFT_DONE : GRAFT_NEXT);
    else
        graft_done(req);
}

static void thread_step(void *arg)
{
    struct plan *p = arg;
    graft_str method = graft_method(p->req), many = graft_header(p->req, "x-many");
    (void)graft_gone(p->req);
    if (method.len == 0 || (many.ptr && many.len != 4))
        abort();
    if (p->left == 0)
        end(p);
    else if (graft_post(p->req, step, p) != 0)
        graft_abort(p->req);
}

static void work(void *arg)
{
    struct plan *p = arg;
    if (graft_path(p->req).len == 0)
        abort();
    atomic_fetch_add(&the->works, 1);
}

static void work_alone(void *arg) /* its request may not be LATER: it must not look at it */
{
    (void)arg;
    atomic_fetch_add(&the->works, 1);
}

static void then(graft_req *req, void *arg)
{
    atomic_fetch_add(&the->thens, 1);
    step(req, arg);
}

static void then_alone(graft_req *req, void *arg)
{
    (void)arg;
    graft_write(req, "then ", 5);
    atomic_fetch_add(&the->thens, 1);
}

static void alone(graft_req *req, void *arg)
{
    (void)arg;
    graft_write(req, "alone ", 6);
}

static void aborted(graft_req *req, void *arg)
{
    struct plan *p = arg;
    if (graft_write(req, "x", 1) != -1 || p->req != req)
        abort();
}

static void writable(graft_req *req, void *arg)
{
    struct plan *p = arg;
    graft_write(req, block, 1 + shake(&p->worker_random, 3000));
}

static void body(graft_req *req, graft_str chunk, bool last, void *arg)
{
    struct plan *p = arg;
    graft_write(req, chunk.ptr, chunk.len < 100 ? chunk.len : 100);
    if (!last && shake(&p->worker_random, 4) == 0) {
        graft_body_pause(req);
        if (shake(&p->worker_random, 2) == 0)
            graft_body_resume(req);
    }
}

/* Something of its own, which nothing waits for. */
static void side(graft_req *req, struct plan *p)
{
    switch (rnd(p, 3)) {
    case 0:
        graft_post(req, alone, NULL);
        break;
    case 1:
        graft_after(req, rnd(p, 30), alone, NULL);
        break;
    default:
        if (graft_offload(req, work_alone, then_alone, NULL) == 0)
            atomic_fetch_add(&p->storm->offloads, 1);
        break;
    }
}

static void act(graft_req *req, struct plan *p)
{
    char name[16];
    switch (rnd(p, 16)) {
    case 0:
        graft_write(req, block, rnd(p, sizeof block));
        break;
    case 1:
        graft_write_static(req, block, rnd(p, sizeof block));
        break;
    case 2:
        graft_flush(req);
        break;
    case 3:
        graft_send_file(req, open("/proc/self/exe", O_RDONLY | O_CLOEXEC), rnd(p, 1000),
                        rnd(p, 50000));
        break;
    case 4:
        graft_deadline(req, rnd(p, 3) ? 1 + rnd(p, 20) : 0);
        break;
    case 5:
        graft_on_abort(req, aborted, p);
        break;
    case 6:
        graft_on_writable(req, writable, p);
        break;
    case 7:
        if (!p->middleware)
            graft_on_body(req, body, p);
        break;
    case 8:
        graft_body_resume(req);
        break;
    case 9:
        snprintf(name, sizeof name, "X-%u", rnd(p, 50));
        graft_set_header(req, name, name);
        break;
    case 10:
        graft_text(req, 200 + (int)rnd(p, 300), "text");
        break;
    case 11:
        graft_reset_response(req);
        break;
    case 12:
        graft_alloc(req, rnd(p, 20000));
        break;
    case 13:
        side(req, p);
        break;
    default:
        graft_printf(req, "%u %u\n", p->left, graft_worker(p->storm->self));
        break;
    }
}

/* Hands the plan on, in one of the ways; a plan that cannot be handed on ends here. */
static void hand_on(graft_req *req, struct plan *p)
{
    int rc = 0;
    switch (rnd(p, 4)) {
    case 0:
        rc = graft_post(req, step, p);
        break;
    case 1:
        rc = graft_after(req, rnd(p, 15), step, p);
        break;
    case 2:
        rc = graft_offload(req, work, then, p);
        if (rc == 0)
            atomic_fetch_add(&p->storm->offloads, 1);
        break;
    default:
        on_thread(p->storm, thread_step, p);
        break;
    }
    if (rc != 0)
        end(p);
}

static void step(graft_req *req, void *arg)
{
    struct plan *p = arg;
    if (p->req != req || graft_scratch(req) != p)
        abort();
    for (unsigned n = rnd(p, 4); n > 0; n--)
        act(req, p);
    if (p->left == 0) {
        end(p);
        return;
    }
    p->left--;
    hand_on(req, p);
}

/* ---- Requests ------------------------------------------------------------------------------ */

static struct plan *plan_of(graft_req *req, struct storm *s)
{
    struct plan *p = graft_scratch(req);
    if (!p->begun) {
        *p = (struct plan){ .req = req, .storm = s, .begun = true };
        p->random = (query_u64(req, "seed", 1) + 1) * (uint64_t)0x9e3779b97f4a7c15;
        for (const char *n = NAME; *n; n++)
            p->random = p->random * 31 + (unsigned char)*n;
        p->worker_random = p->random + 1;
    }
    return p;
}

static graft_next begin(graft_req *req, struct plan *p, bool middleware)
{
    p->middleware = middleware;
    p->was_later = p->was_later || middleware;
    p->left = rnd(p, 5);
    step(req, p);
    return GRAFT_LATER;
}

static graft_next handler(graft_req *req, void *state)
{
    struct plan *p = plan_of(req, state);
    for (unsigned n = rnd(p, 4); n > 0; n--)
        act(req, p);
    if (rnd(p, 3) > 0)
        return begin(req, p, false);
    return rnd(p, 10) ? GRAFT_DONE : graft_fail_req(req, "the plan fails");
}

static graft_next on_request(graft_req *req, void *state)
{
    struct storm *s = state;
    atomic_fetch_add(&s->requests, 1);
    struct plan *p = plan_of(req, s);
    switch (rnd(p, 8)) {
    case 0:
        return begin(req, p, true);
    case 1:
        return rnd(p, 4) ? GRAFT_NEXT : graft_text(req, 403, "no");
    case 2:
        return rnd(p, 6) ? GRAFT_NEXT : graft_fail_req(req, "the plan fails");
    case 3:
        graft_set_header(req, "X-Storm", NAME);
        return GRAFT_NEXT;
    default:
        return GRAFT_NEXT;
    }
}

static void resume(graft_req *req, void *arg)
{
    (void)arg;
    graft_continue(req, GRAFT_NEXT);
}

static graft_next on_response(graft_req *req, void *state)
{
    struct plan *p = plan_of(req, state);
    if (p->was_later || shake(&p->worker_random, 8) > 0 || str_begins(graft_path(req), "/" NAME))
        return GRAFT_NEXT;
    return graft_after(req, shake(&p->worker_random, 10), resume, NULL) == 0 ? GRAFT_LATER : GRAFT_NEXT;
}

static void on_finish(graft_req *req, void *state)
{
    struct storm *s = state;
    struct plan *p = plan_of(req, s);
    if (graft_write(req, "x", 1) != -1 || p->req != req)
        abort();
    atomic_fetch_add(&s->finished, 1);
}

static int init(graft_self *self, void **state)
{
    struct storm *s = calloc(1, sizeof *s);
    if (!s)
        return graft_fail(self, "no memory");
    s->self = self;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    if (pthread_create(&s->thread, NULL, thread_main, s) != 0) {
        free(s);
        return graft_fail(self, "no thread");
    }
    the = s;
    *state = s;
    return 0;
}

static void fini(graft_self *self, void *state)
{
    struct storm *s = state;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    graft_log(self, GRAFT_INFO, "storm " NAME " requests=%u finished=%u works=%u thens=%u offloads=%u",
              atomic_load(&s->requests), atomic_load(&s->finished), atomic_load(&s->works),
              atomic_load(&s->thens), atomic_load(&s->offloads));
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    free(s);
}

GRAFT_PLUGIN(
    .flags        = FLAGS,
    .name         = NAME,
    .version      = "1.0.0",
    .scratch_size = sizeof(struct plan),
    .init         = init,
    .fini         = fini,
    .routes       = (const graft_route[]){ { NULL, "/" NAME, handler, 0 },
                                           { NULL, "/" NAME "/up", handler, GRAFT_STREAM },
                                           { 0 } },
    .on_request   = on_request,
    .on_response  = on_response,
    .on_finish    = on_finish,
)
