/*
 * One loaded copy of a plugin: one staged file, one dlopen handle, one configuration, one state.
 *
 *   staged -> loaded -> warm -> active -> cooling -> retired (freed)
 *      \________\_________\-> failed (freed once undone)
 *   stuck: over, but still mapped, or a callback of it has not returned (never freed)
 *
 * The control thread owns it and alone changes `state`; the loader works on it between a job's
 * sending and its answer; workers touch their own cell and what never changes once it is warm.
 */
#ifndef GRAFT_PLUGIN_VERSION_H
#define GRAFT_PLUGIN_VERSION_H

#include "base/base.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "base/list.h"
#include "base/pool.h"
#include "net/loop.h"
#include "plugin/descriptor.h"
#include "plugin/loader.h"
#include "plugin/signature.h"
#include "plugin/shadow.h"
#include "plugin/shared.h"
#include "plugin/stage.h"
#include "plugin/tasks.h"

#include <graft/graft.h>

enum version_state {
    VERSION_STAGED,
    VERSION_LOADED,
    VERSION_WARM,
    VERSION_ACTIVE,
    VERSION_COOLING,
    VERSION_RETIRED,
    VERSION_FAILED,
    VERSION_STUCK
};
const char *version_state_name(enum version_state s);

/* Latency buckets: four to each power of two of microseconds; the last takes all that is longer
   (about 235 s). */
#define LATENCY_BUCKETS 108
#define STATUS_CLASSES  6 /* [0] = cut without an answer, 1xx .. 5xx */
static inline unsigned latency_bucket(uint64_t us)
{
    if (us < 4)
        return (unsigned)us;
    unsigned top = 63u - (unsigned)__builtin_clzll(us);
    unsigned bucket = 4u * (top - 1u) + (unsigned)((us >> (top - 2u)) & 3u);
    return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

uint64_t latency_bound_us(unsigned bucket); /* its upper bound, inclusive */

/* What the oldest unfinished request of a version on one worker waits for; a seqlock: `seq` is odd
   while the worker writes. */
struct version_oldest {
    uint32_t seq;
    uint64_t start_us;     /* 0: none */
    const char *route;     /* interned; NULL: none (404) */
    const char *waits_for; /* a literal: "body", "timer", "offload", "done", "client", ... */
};

/* What ended in one status class, on one worker. */
struct version_class {
    uint64_t count, sum_us;
    uint64_t latency[LATENCY_BUCKETS];
};

/* One worker's share of a version; only that worker writes. */
struct version_cell {
    _Alignas(CACHE_LINE) uint64_t pins; /* requests of this worker that still use the version */
    uint64_t bytes_out;
    struct version_class by_class[STATUS_CLASSES]; /* [0] = cut */
    struct version_oldest oldest;
    struct shadow_cell shadow;
    struct list suspended; /* handles (plugin/chain.h) that outlived a loop turn, oldest first */
    bool inited;           /* worker_init returned 0 and worker_fini is owed */
    bool releasing;        /* plugin/adopt.c waits for pins == 0 */
    bool holding;          /* it hands over: new requests wait (plugin/handover.h) */
    bool quieting;         /* `releasing` is for that: pins == 0 is to be told */
    bool cutting;          /* retire asked: what still runs is aborted */
    bool turning;          /* `release` is on its way through this worker's own inbox */
    bool finished;         /* worker_fini has run (or was not owed); one turn is waited for */
    struct version *version;
    struct loop *loop;
    struct msg release; /* plugin/adopt.c: to the worker, and its report */
    struct msg cut;
};

#define VERSION_MAGIC 0x76657273u

/* What export_state writes into (plugin/handover.h). */
struct handover_buf {
    graft_buf pub;
    struct buf data;
    bool failed; /* some of it is missing */
};

/* Where a version is on its way out (plugin/retire.c). */
enum retire_step {
    RETIRE_NOT,
    RETIRE_EVERY, /* its graft_every calls come back from the pool */
    RETIRE_COOL,
    RETIRE_COOLED,  /* for a drain: until all have cooled */
    RETIRE_RELEASE, /* workers: pins, worker_fini, one turn of the loop */
    RETIRE_FINI,
    RETIRE_UNLOAD, /* dlclose, verify */
    RETIRE_OVER    /* stuck for good */
};

/* plugin/health.h. Control's, but for what the job writes. */
struct version_health {
    struct list node; /* of those that run or wait, while it does */
    struct pool_job job;
    struct msg back;
    bool running, unwell, told;
    uint64_t asked_us, began_us; /* began_us: atomic; 0: the job waits */
    int rc;                      /* the job's, as `said` */
    char said[256], why[256];
    void (*stopped)(struct version *v);
};

struct serial; /* plugin/serial.h: one for each plugin name, never freed */

struct version {
    unsigned magic;
    uint64_t number;          /* no other version of this process has it */
    struct list node;         /* control: all versions (swap.h) */
    enum version_state state; /* control */
    char *plugin;             /* its name, = desc.name */
    char id[40];              /* SHA12.SEQ */
    char sha256[65], config_sha256[65];
    char *source; /* the path that it came from */
    struct staged staged;
    struct descriptor desc;
    char *config_text;   /* compact JSON of plugins.NAME.config */
    struct json *config; /* parsed; read by any thread */
    void *dl;
    void *state_ptr; /* what init gave */

    graft_host host; /* the table that this version's handles point to (plugin/host.h) */
    graft_self self; /* .host = &host */

    struct shared_user shared; /* its blocks; the registry's lock */
    bool in_init;              /* loader: graft_shared is allowed */

    struct serial *serial; /* NULL unless GRAFT_SERIAL */
    unsigned ncells;
    struct version_cell *cells; /* [ncells], by worker number */
    uint64_t outside;           /* atomic: pool jobs of it (graft_every) that run now */
    int cooling;                /* atomic: what graft_cooling() answers, with the drain's flag */

    /* The life cycle's book-keeping: which undo steps are owed. Loader and control in turn: while
       a job runs (plugin/loader.h), the loader. */
    bool init_done, started, cooled;
    bool unmapped; /* dlclose took its mapping away, or it never had one */
    struct job job;
    struct job export_job; /* export_state: it serves meanwhile, and may have other jobs later */
    struct handover_buf handed; /* what it exports, or is to import */
    uint32_t handed_schema;
    bool takes_over;    /* ready comes after import_state */
    struct tasks tasks; /* threads that appeared while it was loaded, and were there afterwards */
    bool loaded_late;   /* it hung, and others were loaded meanwhile */

    /* Control. */
    uint64_t loaded_us, cooling_us;
    unsigned waiting; /* workers that have not reported (plugin/adopt.h) */
    void (*released)(struct version *v);
    unsigned cuts; /* cut messages on their way */
    void (*cut_done)(struct version *v);
    enum retire_step retire_step;
    bool cool_only;         /* retire_cool */
    bool drained;           /* the drain began its end, and waits for it also when it is stuck */
    bool met;               /* workers have been told of it: they must be asked to let go */
    bool canary;            /* fresh: it is to be one; active: it is one */
    unsigned weight;        /* percent of the requests that it gets, while it serves */
    unsigned shadow;        /* percent of the stable version's that are tried on it */
    _Atomic bool withdrawn; /* [any] found worse: a canary without a share until it has left */
    bool told;              /* its weight has been logged */
    bool hung;              /* a callback of it has not returned in time, and has not yet */
    bool absent;            /* the watch missed its file once, at absent_us */
    uint64_t absent_us;
    char *reason;             /* failed or stuck: why */
    char signer[SIGNER_SIZE]; /* whose signature of the file was verified; "" = nobody's */
    bool from_store;          /* not the file in the plugin folder: plugin/keep.h */
    char *store_why;          /* NULL: no memory for it */
    bool stand_in;            /* for a plugin that is missing: plugin/stand_in.h; store_why: why */
    struct event *deadline;   /* timeouts_ms.retire; NULL: none */
    struct event *lookout;    /* while workers let go: does a callback hang? */
    struct list every;        /* graft_every registrations (plugin/every.h) */
    unsigned every_running;   /* of them on the pool now */
    struct version_health health;
    bool every_on; /* they may run */
    bool handing;  /* they stand still: it hands over */
    void (*every_stopped)(struct version *v);
};

/* Pins are plain increments on the request's worker. */
static inline void version_pin(struct version *v, unsigned worker)
{
    HOT_CHECK(v, VERSION_MAGIC);
    COUNTER_ADD(v->cells[worker].pins, 1);
}

/* plugin/adopt.c: a pin reached zero while the version is being released here. */
void adopt_cell_idle(struct version *v, struct loop *l);

static inline void version_unpin(struct version **vp, struct loop *l)
{
    struct version *v = *vp;
    *vp = NULL;
    struct version_cell *cell = &v->cells[l->number];
    HOT_REQUIRE(COUNTER_READ(cell->pins) > 0);
    COUNTER_ADD(cell->pins, (uint64_t)-1);
    if (__builtin_expect(cell->releasing && COUNTER_READ(cell->pins) == 0, 0))
        adopt_cell_idle(v, l);
}

static inline struct version *version_of_self(graft_self *self)
{
    return container_of(self, struct version, self);
}

/* One with nothing in it but a cell for each worker; NULL: no memory. Any thread. */
struct version *version_new(struct loop *const *loops, unsigned nloops);
void version_free(struct version **vp); /* unloaded, on no list; takes NULL */
void version_reason_set(struct version *v, const char *text);

/* What graft_fail() stores: the reason of this thread's callback. */
void version_fail_set(const char *text);
void version_fail_clear(void);       /* before a callback */
const char *version_fail_text(void); /* after one that failed; never NULL */

/* Sums over the cells. Control. */
struct version_sums {
    uint64_t pins, bytes_out, by_class[STATUS_CLASSES];
    uint64_t served, errors; /* requests that ended; of them with 5xx or cut */
    uint64_t latency[STATUS_CLASSES][LATENCY_BUCKETS], latency_sum_us[STATUS_CLASSES];
    uint64_t latency_all[LATENCY_BUCKETS], latency_count; /* of all classes */
    uint64_t oldest_age_us;                               /* 0: none */
    const char *oldest_route, *oldest_waits_for;
};
void version_sum(const struct version *v, struct version_sums *out);
void version_sum_shadows(const struct version *v, struct shadow_sums *out);
uint64_t latency_quantile_us(const uint64_t buckets[LATENCY_BUCKETS], double q);

/* An immortal copy of the text, the same pointer for the same text; NULL: no memory. Any thread. */
const char *intern(const char *text);

#endif
