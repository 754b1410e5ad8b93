/* See chain_shadow.h. */
#include "plugin/chain_shadow.h"

#include "plugin/handle.h"

#include <fcntl.h>

#define LIMIT_MS   30000u     /* where timeouts_ms.handler is 0 */
#define LONGER     (1u << 20) /* bytes past the client's answer: it differs, and is ended */
#define LOG_SECOND 10
#define FILES_MAX  SHADOWS_MAX
/* The worker's own time, which its clients would have: in each WINDOW_US at most about SPENT_US.
   What takes longer than LONG_US at a time is met by a client: REST times as long is left to them
   then, so that one of a hundred meets it. */
#define WINDOW_US 100000u
#define SPENT_US  20000u
#define LONG_US   1000u
#define REST      99u
#define REST_US   60000000u /* at most */

/* What a client is sent, for comparing; in its request's arena. */
struct tap {
    uint64_t canaries[CANARIES_MAX]; /* version.number */
    unsigned ncanaries;
    struct outq body; /* the first SHADOW_BYTES */
    uint64_t len, held;
    unsigned files;
    bool broken; /* no memory, descriptor or room for it */
};

/* In the arena of the shadow's own request. */
struct shadow {
    uint64_t canary, with[CANARIES_MAX]; /* version.number; with: others that the client met */
    unsigned nwith;
    struct version
        *version; /* the canary: pinned once it has begun; before, shadows_leave says when */
    bool pinned;  /* by us: it is not in the chain */
    bool begun;   /* of nlive */
    bool ended;   /* by us, for a reason of ours */
    bool longer;
    uint64_t deadline_ms;
    struct shadow_answer given; /* the client's */
    struct shadow_digest digest;
};

static struct shadows *all_of(const struct exchange *x)
{
    return &x->chain->shadows;
}

static struct shadow_cell *cell_of(const struct version *v, const struct loop *l)
{
    return &v->cells[l->number].shadow;
}

static void count(const struct version *v, const struct loop *l, enum shadow_outcome o)
{
    COUNTER_ADD(cell_of(v, l)->outcomes[o], 1);
}

static const struct canary *canary_by(const struct generation *g, uint64_t number)
{
    for (unsigned i = 0; g != NULL && i < g->ncanaries; i++)
        if (g->canaries[i].version->number == number)
            return &g->canaries[i];
    return NULL;
}

static bool in_chain(const struct exchange *x, const struct version *v)
{
    for (unsigned i = 0; i < x->nhandles; i++)
        if (x->handles[i]->version == v)
            return true;
    return false;
}

/* ---- The client's request -------------------------------------------------------------------- */

/* One with a body is not copied: the canary would be asked something else. */
void shadow_consider(struct exchange *x)
{
    const struct head *head = &x->request.head;
    bool safe = head->method_id == HEAD_GET || head->method_id == HEAD_HEAD;
    if (!safe || head->framing != BODY_NONE)
        return;
    x->aside |= ASIDE_TAP;
    x->tap = NULL;
}

/* By the generation of now, when its answer begins. */
static struct tap *choose(struct exchange *x)
{
    const struct generation *g = x->chain->loop->generation;
    struct tap picked = { 0 };
    for (unsigned i = 0; g != NULL && g->shadows && i < g->ncanaries; i++) {
        const struct canary *c = &g->canaries[i];
        if (c->shadow > 0 && in_chain(x, c->stable) &&
            !atomic_load_explicit(&c->version->withdrawn, memory_order_relaxed) &&
            canary_shadows(&x->chain->dice, i, c->shadow))
            picked.canaries[picked.ncanaries++] = c->version->number;
    }
    if (picked.ncanaries == 0 || all_of(x)->stopped)
        return NULL;
    if (all_of(x)->n == SHADOWS_MAX) { /* then its client does not pay for the copy either */
        for (unsigned i = 0; i < picked.ncanaries; i++)
            count(canary_by(g, picked.canaries[i])->version, x->chain->loop, SHADOW_DROPPED);
        return NULL;
    }
    struct tap *t = arena_alloc(&x->request.arena, sizeof *t);
    if (t != NULL)
        *t = picked;
    return t;
}

static void keep_file(struct exchange *x, struct tap *t, const struct seg *seg, uint64_t n)
{
    struct shadows *all = all_of(x);
    int fd = all->files < FILES_MAX ? fcntl(seg->fd, F_DUPFD_CLOEXEC, 0) : -1;
    t->broken = fd < 0 || out_file(&t->body, fd, seg->offset, n) != 0;
    if (!t->broken) {
        t->files++;
        all->files++;
    }
}

static void keep_bytes(struct exchange *x, struct tap *t, const struct seg *seg, uint64_t n)
{
    struct shadows *all = all_of(x);
    t->broken = all->held + n > SHADOWS_HELD ||
                out_copy(&t->body, &x->request.arena, seg->ptr, (size_t)n) != 0;
    if (!t->broken) {
        t->held += n;
        all->held += n;
    }
}

static void tap(struct exchange *x)
{
    struct tap *t = x->tap;
    const struct outq *q = &x->request.response.body;
    for (const struct seg *seg = q->first; seg != NULL && !t->broken; seg = seg->next) {
        uint64_t left = t->len < SHADOW_BYTES ? SHADOW_BYTES - t->len : 0;
        uint64_t n = seg->len < left ? seg->len : left;
        if (n > 0 && seg->kind == SEG_FILE)
            keep_file(x, t, seg, n);
        else if (n > 0)
            keep_bytes(x, t, seg, n);
        t->len += seg->len;
    }
}

static void tap_close(struct exchange *x)
{
    struct tap *t = x->tap;
    out_drop(&t->body);
    all_of(x)->held -= t->held;
    all_of(x)->files -= t->files;
}

/* ---- Launching ------------------------------------------------------------------------------- */

static int copy_str(struct arena *a, struct str *s)
{
    if (s->ptr == NULL)
        return 0;
    *s = arena_copy(a, *s);
    return s->ptr != NULL ? 0 : -1;
}

static int copy_fields(struct request *to, const struct request *from)
{
    struct arena *a = &to->arena;
    to->head = from->head;
    to->head.headers = arena_alloc(a, (from->head.nheaders + 1) * sizeof *to->head.headers);
    if (to->head.headers == NULL || copy_str(a, &to->head.target) != 0 ||
        copy_str(a, &to->head.host) != 0)
        return -1;
    for (unsigned i = 0; i < from->head.nheaders; i++) {
        struct header *h = &to->head.headers[i];
        *h = from->head.headers[i];
        if (copy_str(a, &h->name) != 0 || copy_str(a, &h->value) != 0)
            return -1;
    }
    return 0;
}

static int copy_target(struct request *to, const struct request *from)
{
    struct arena *a = &to->arena;
    struct target *t = &to->target;
    *t = from->target;
    t->segments = arena_alloc(a, (t->nsegments + 1) * sizeof *t->segments);
    if (t->segments == NULL || copy_str(a, &t->path) != 0 || copy_str(a, &t->query) != 0)
        return -1;
    for (unsigned i = 0; i < t->nsegments; i++) {
        struct segment *s = &t->segments[i];
        *s = from->target.segments[i];
        bool same = s->decoded.ptr == s->raw.ptr && s->decoded.len == s->raw.len;
        if (copy_str(a, &s->raw) != 0 || (!same && copy_str(a, &s->decoded) != 0))
            return -1;
        if (same)
            s->decoded = s->raw;
    }
    return 0;
}

static int copy_head(struct request *to, const struct request *from)
{
    to->body_complete = true;
    return copy_fields(to, from) == 0 && copy_target(to, from) == 0 ? 0 : -1;
}

/* NULL: no memory. */
static struct exchange *copy(struct exchange *of, const struct canary *c,
                             const struct shadow_answer *given)
{
    const struct generation *g = of->chain->loop->generation;
    struct exchange *x = exchange_new(of->chain);
    if (x == NULL)
        return NULL;
    exchange_reset(x);
    struct shadow *s = arena_alloc(&x->request.arena, sizeof *s);
    if (s == NULL || copy_head(&x->request, &of->request) != 0) {
        exchange_close(x);
        return NULL;
    }
    *s = (struct shadow){ .canary = c->version->number, .version = c->version, .given = *given };
    for (unsigned i = 0; i < g->ncanaries; i++)
        if (in_chain(of, g->canaries[i].version))
            s->with[s->nwith++] = g->canaries[i].version->number;
    shadow_digest_init(&s->digest);
    x->aside = ASIDE_SHADOW;
    x->shadow = s;
    x->from = of->from;
    memcpy(x->id, of->id, sizeof x->id);
    return x;
}

static void send_turn(struct shadows *all)
{
    if (all->turn_sent || all->resting || all->nlive >= all->allowed || list_empty(&all->waiting))
        return;
    loop_post(all->loop, &all->turn);
    all->turn_sent = true;
}

static void on_rested(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct shadows *all = arg;
    all->resting = false;
    send_turn(all);
}

static void rest(struct shadows *all, uint64_t us)
{
    uint64_t now = clock_us(), until = all->resting ? all->rest_until_us + us : now + us;
    all->rest_until_us = until < now + REST_US ? until : now + REST_US;
    us = all->rest_until_us - now;
    struct timeval tv = { (time_t)(us / 1000000u), (suseconds_t)(us % 1000000u) };
    all->resting = event_add(&all->rest, &tv) == 0;
}

/* So much of the worker's time has gone to shadows, at one time. */
static void spend(struct shadows *all, uint64_t us)
{
    uint64_t now = clock_us(), window = now / WINDOW_US;
    if (window != all->window)
        all->spent_us = 0;
    all->window = window;
    all->spent_us += us;
    if (us > LONG_US) {
        all->allowed = 1;
        rest(all, us * REST);
    } else if (all->spent_us > SPENT_US && !all->resting) {
        rest(all, WINDOW_US - now % WINDOW_US);
    }
}

static void launch(struct exchange *of, const struct canary *c, const struct shadow_answer *given)
{
    struct shadows *all = all_of(of);
    struct exchange *x = NULL;
    if (given != NULL && !all->stopped && all->n < SHADOWS_MAX)
        x = copy(of, c, given);
    if (x == NULL) {
        count(c->version, all->loop, SHADOW_DROPPED);
        return;
    }
    all->n++;
    COUNTER_ADD(cell_of(c->version, all->loop)->live, 1);
    list_add_tail(&all->waiting, &x->node);
    send_turn(all);
}

void shadow_launch(struct exchange *x)
{
    struct tap *t = x->tap;
    struct shadow_digest digest;
    struct shadow_answer given;
    if (t == NULL)
        return; /* its answer never began, or there was no room for a shadow */
    bool whole = !t->broken && !x->cut && all_of(x)->n < SHADOWS_MAX;
    uint64_t began = clock_us();
    shadow_digest_init(&digest);
    if (whole)
        shadow_digest_queue(&digest, &t->body);
    digest.len = t->len;
    shadow_digest_end(&digest, x->request.response.status, &given);
    whole = whole && !digest.unreadable;
    tap_close(x);
    spend(all_of(x), clock_us() - began);
    for (unsigned i = 0; i < t->ncanaries; i++) {
        const struct canary *c = canary_by(x->chain->loop->generation, t->canaries[i]);
        if (c != NULL)
            launch(x, c, whole ? &given : NULL);
    }
}

/* ---- Running --------------------------------------------------------------------------------- */

/* One that has not begun. */
static void forget(struct shadows *all, struct exchange *x)
{
    const struct version *canary = x->shadow->version;
    count(canary, all->loop, SHADOW_DROPPED);
    COUNTER_ADD(cell_of(canary, all->loop)->live, (uint64_t)-1);
    all->n--;
    list_del(&x->node);
    exchange_close(x);
}

/* The canaries that its client has met, and the one that it is for. */
unsigned shadow_subset(const struct exchange *x, const struct generation *g)
{
    const struct shadow *s = x->shadow;
    unsigned met = 0;
    for (unsigned i = 0; i < g->ncanaries; i++) {
        uint64_t number = g->canaries[i].version->number;
        bool there = number == s->canary;
        for (unsigned k = 0; k < s->nwith; k++)
            there = there || number == s->with[k];
        met |= (unsigned)there << i;
    }
    return met;
}

static void run(struct exchange *x)
{
    struct shadow *s = x->shadow;
    unsigned limit = x->chain->http->timeouts_ms.handler;
    s->deadline_ms = clock_ms() + (limit ? limit : LIMIT_MS);
    s->ended = x->answer_status != 0; /* no memory for its chain */
    s->pinned = !in_chain(x, s->version);
    if (s->pinned)
        version_pin(s->version, x->chain->loop->number);
    s->begun = true;
    all_of(x)->nlive++;
    shadow_run(x);
}

void shadow_run(struct exchange *x)
{
    struct shadows *all = all_of(x);
    uint64_t began = loop_clock_us(all->loop);
    x->chain->http->now_us = began;
    exchange_run(x);
    spend(all, clock_us() - began);
}

static void begin(struct shadows *all, struct exchange *x)
{
    if (canary_by(all->loop->generation, x->shadow->canary) == NULL) {
        forget(all, x);
        return;
    }
    list_add_tail(&all->live, &x->node);
    x->request.start_us = loop_clock_us(all->loop);
    exchange_choose(x);
    if (x->state == CHAIN_HELD) /* a version of it hands over */
        forget(all, x);
    else
        run(x);
}

static void on_turn(struct msg *m)
{
    struct shadows *all = container_of(m, struct shadows, turn);
    all->turn_sent = false;
    if (all->nlive < all->allowed && !list_empty(&all->waiting))
        begin(all, list_entry(list_pop(&all->waiting), struct exchange, node));
    send_turn(all);
}

/* ---- The answer ------------------------------------------------------------------------------ */

/* As http/response.c frames it, for those who ask. */
static void decide(struct request *r, bool final)
{
    struct response *p = &r->response;
    p->bodyless = request_is_head(r) || p->status == 204 || p->status == 304;
    if (final || p->promised >= 0 || p->status == 204)
        return;
    p->chunked = r->head.minor >= 1;
    p->until_eof = !p->chunked && !p->bodyless;
}

static enum response_result digest(struct exchange *x, bool final, const char **why)
{
    struct response *p = &x->request.response;
    struct shadow *s = x->shadow;
    if (!p->head_sent)
        decide(&x->request, final);
    if (final && p->promised >= 0 && !p->bodyless && (uint64_t)p->promised != p->written) {
        *why = "less was written than Content-Length promised";
        return RESPONSE_IMPOSSIBLE;
    }
    shadow_digest_queue(&s->digest, &p->body);
    if (!p->bodyless)
        p->sent += p->body.bytes;
    out_drop(&p->body);
    p->head_sent = true;
    if (!final && s->digest.len > s->given.len + LONGER) {
        s->longer = true;
        x->cut_why = "a shadow is much longer than its client's answer";
    }
    if (!final)
        return RESPONSE_ON_ITS_WAY;
    p->done = x->over = true;
    x->over_us = loop_clock_us(x->chain->loop);
    shadow_over(x);
    return RESPONSE_ON_ITS_WAY;
}

enum response_result shadow_send(struct exchange *x, bool final, const char **why)
{
    if (x->aside & ASIDE_SHADOW)
        return digest(x, final, why);
    if (x->tap == NULL && !x->request.response.head_sent)
        x->tap = choose(x);
    if (x->tap != NULL)
        tap(x);
    else
        x->aside &= (uint8_t)~ASIDE_TAP;
    return response_send(&x->request, final, why);
}

static enum shadow_outcome judge(struct exchange *x, struct shadow_answer *answer)
{
    struct shadow *s = x->shadow;
    shadow_digest_end(&s->digest, x->request.response.status, answer);
    enum shadow_outcome o = shadow_compare(&s->given, answer);
    if (s->longer)
        return o == SHADOW_SAME ? SHADOW_BODY : o;
    if (s->ended || s->digest.unreadable)
        return SHADOW_DROPPED;
    return x->cut ? SHADOW_FAILED : o;
}

void shadow_over(struct exchange *x)
{
    struct shadow *s = x->shadow;
    const struct head *head = &x->request.head;
    struct loop *l = x->chain->loop;
    struct shadow_answer answer;
    enum shadow_outcome o = judge(x, &answer);
    x->counted = true;
    x->bytes_out = x->request.response.sent;
    count(s->version, l, o);
    if (o == SHADOW_SAME || o == SHADOW_DROPPED)
        return;
    struct shadow_example e = { .when_us = x->over_us,
                                .status = s->given.status,
                                .len = s->given.len,
                                .shadow_status = o == SHADOW_FAILED ? 0 : answer.status,
                                .shadow_len = answer.len,
                                .outcome = o };
    memcpy(e.method, head->method.ptr, head->method.len); /* GET or HEAD */
    shadow_path(e.path, head->target);
    shadow_put(cell_of(s->version, l), &e);
}

void shadow_end(struct exchange *x)
{
    struct shadows *all = all_of(x);
    struct version *canary = x->shadow->version;
    bool pinned = x->shadow->pinned;
    COUNTER_ADD(cell_of(canary, all->loop)->live, (uint64_t)-1);
    all->n--;
    all->nlive -= x->shadow->begun;
    all->allowed = all->allowed * 2 < SHADOWS_MAX ? all->allowed * 2 : SHADOWS_MAX;
    exchange_put_back(x);
    if (pinned)
        version_unpin(&canary, all->loop);
    send_turn(all);
}

/* ---- Bounds ---------------------------------------------------------------------------------- */

/* timeouts_ms.handler for all of it; what its handler asked for itself comes first. */
void shadow_set_deadline(struct exchange *x)
{
    struct loop *l = x->chain->loop;
    uint64_t due = x->shadow->deadline_ms;
    bool own = x->user_deadline && x->user_deadline_ms && !x->request.response.head_sent;
    if (own && !x->timed_out && x->user_deadline_ms < due)
        due = x->user_deadline_ms;
    if (x->over)
        wheel_clear(&l->wheel, &x->deadline);
    else
        loop_timer(l, &x->deadline, due);
}

bool shadow_expired(struct exchange *x)
{
    if (clock_ms() < x->shadow->deadline_ms)
        return false;
    x->cut_why = "a shadow has not ended within timeouts_ms.handler";
    exchange_wake(x);
    return true;
}

bool shadow_may_log(struct exchange *x)
{
    struct shadows *all = all_of(x);
    uint64_t second = clock_us() / 1000000u;
    all->logged = second == all->logged_second ? all->logged + 1 : 1;
    all->logged_second = second;
    return all->logged <= LOG_SECOND;
}

static void end(struct exchange *x, const char *why)
{
    if (x->over || x->cut_why != NULL)
        return;
    x->shadow->ended = true;
    x->cut_why = why;
    exchange_wake(x);
}

static bool uses(const struct exchange *x, const struct version *v)
{
    return x->shadow->version == v || in_chain(x, v);
}

void shadows_leave(struct loop *l, const struct version *v)
{
    ON_LOOP(l);
    struct shadows *all = l->shadows;
    if (all == NULL)
        return;
    all->allowed = 1; /* what comes next is not known yet */
    list_each_safe (n, &all->waiting) {
        struct exchange *x = list_entry(n, struct exchange, node);
        if (x->shadow->version == v)
            forget(all, x);
    }
    list_each (n, &all->live) {
        struct exchange *x = list_entry(n, struct exchange, node);
        if (uses(x, v))
            end(x, "a version that a shadow uses leaves");
    }
}

void shadows_stop(struct shadows *all)
{
    ON_LOOP(all->loop);
    all->stopped = true;
    while (!list_empty(&all->waiting))
        forget(all, list_entry(all->waiting.next, struct exchange, node));
    list_each (it, &all->live)
        end(list_entry(it, struct exchange, node), "the server drains");
}

void shadows_init(struct shadows *s, struct loop *l)
{
    *s = (struct shadows){ .loop = l, .allowed = 1, .turn.fn = on_turn };
    list_init(&s->waiting);
    list_init(&s->live);
    event_assign(&s->rest, l->base, -1, 0, on_rested, s);
    l->shadows = s;
}
