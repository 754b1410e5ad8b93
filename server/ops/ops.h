/*
 * What people and programs see of a running server: the ops address (health, metrics, the page)
 * and the control socket. One struct holds what all of them look at. Control thread.
 */
#ifndef GRAFT_OPS_OPS_H
#define GRAFT_OPS_OPS_H

#include "base/buf.h"
#include "base/config.h"
#include "base/json.h"
#include "base/pool.h"
#include "ops/web.h"
#include "plugin/keep.h"
#include "plugin/swap.h"
#include "run/drain.h"
#include "run/worker.h"

#ifndef GRAFT_VERSION
#define GRAFT_VERSION "0"
#endif

struct ops_reload {
    bool retry, allow_empty, config;
};

/* What the control socket may ask of the server (run/control.c). */
struct ops_verbs {
    /* Answers the request by ops_answer_swap or ops_answer_error, later. */
    void (*reload)(void *arg, const struct ops_reload *how, struct web_request *req);
    int (*reopen)(void *arg, struct err *err);
    void (*drain)(void *arg);
    /* Answers the request later; `binary` "": the path that graftd was started from. */
    void (*upgrade)(void *arg, const char *binary, struct web_request *req);
};

#define OPS_MAGIC 0x6f707320u

struct ops {
    unsigned magic;
    struct workers *workers;
    struct swap *swap;
    struct drain *drain;
    struct pool *pool;
    struct keep *keep;
    uint64_t started_us; /* clock_us() */
    double started_unix; /* seconds since 1970 */
    bool live;           /* the first generation is, or was, served */
    bool heard; /* what was asked when that began, whether the plugins are well, is answered */
    size_t control_group_count;
    gid_t control_groups[CONFIG_GROUPS_MAX]; /* may ask the control socket what is */
    const struct ops_verbs *verbs;
    void *arg;
};

/* web_settings.handle of the two listeners; arg is the struct ops. */
void ops_handle(struct web_request *req, void *arg);     /* health, metrics, the page */
void ops_handle_api(struct web_request *req, void *arg); /* the control socket */

/* Answers of the control socket. */
void ops_answer_json(struct web_request *req, int status, struct json_out *out);
void ops_answer_error(struct web_request *req, int status, const char *error, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
void ops_answer_swap(struct web_request *req, const struct swap_result *result);
/* The result of a scan that never began, in the same shape. */
void ops_answer_no_swap(struct web_request *req, int status, unsigned generation, const char *error,
                        const char *reason);

/* One of the control socket's verbs, in a file of its own; `rest` is not used. */
void ops_answer_routes(struct ops *o, struct web_request *req, const char *rest);
/* The same; `rest` is the plugin's name. */
void ops_answer_canary(struct ops *o, struct web_request *req, const char *rest);
void ops_answer_promote(struct ops *o, struct web_request *req, const char *rest);
void ops_answer_abort(struct ops *o, struct web_request *req, const char *rest);
/* "rollout" of a canary: what its judge has seen; of another version nothing. */
void ops_put_rollout(struct json_out *j, const struct ops *o, const struct version *v);
/* "shadow" of a version that has had some, or is to have. */
void ops_put_shadow(struct json_out *j, const struct version *v);
/* Percent of its shadows now. */
unsigned ops_shadow_percent(const struct version *v);
/* Why its share stays where it is, or NULL. */
const char *ops_canary_reason(const struct ops *o, const struct version *v);
/* Why it is in the state it is in, or what is to be known of it; NULL: nothing. */
const char *ops_reason(const struct ops *o, const struct version *v);
/* "canary" for an active version that is one, "missing" for one that stands in, else the state's
   name. */
const char *ops_state_name(const struct version *v);

/* api_kept.c: graftctl rollback (`rest`: the plugin), and the members `kept` and `quarantined`. */
void ops_answer_rollback(struct ops *o, struct web_request *req, const char *rest);
void ops_put_kept(struct ops *o, struct json_out *j);
bool ops_serves(struct ops *o, const struct identity *identity); /* what serves is that */

/* Each appends its answer; 0, or -1: no memory. */
int ops_metrics(struct ops *o, struct buf *out);
int ops_page(struct ops *o, struct buf *out);

/* Is the server alive, ready? Fills `why` (a sentence a line) when not. */
bool ops_is_live(struct ops *o, struct buf *why);
bool ops_is_ready(struct ops *o, struct buf *why);

/* Figures that several of them show. */
struct ops_totals {
    uint64_t accepted, closed, closed_by_us, requests, in_flight, responses[6], refused;
    uint64_t bytes_in, bytes_out, accept_paused, misuse;
};
void ops_totals(const struct ops *o, struct ops_totals *out);
/* How late this worker's loop is: its last heartbeat's delay, or the time that the next one is
   overdue. */
uint64_t ops_lag_us(const struct ops *o, const struct loop *l, uint64_t now_us);

#endif
