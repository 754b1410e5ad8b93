/*
 * From a wish to a swap. USR2 and `reload` ask at once; HUP and `reload --config` read the
 * configuration first, on a thread of its own, because files and names may be slow. One is read at
 * a time, so that the last one asked for is the last one in force.
 */
#include "run/boss.h"
#include "run/server.h"
#include "run/vitals.h"

#include "base/clock.h"
#include "base/thread.h"

#include <stdlib.h>

struct reload {
    struct swap_ask ask;
    struct server *server;
    struct web_request *req; /* NULL: a signal asked */
    bool wants_config;
    struct config *config; /* what was read, until the swap has it */
    struct err err;        /* why it could not be read */
    struct reload *next;   /* in server->reading */
    struct msg msg;
};

static void answered(struct swap_ask *ask, const struct swap_result *result)
{
    struct reload *r = container_of(ask, struct reload, ask);
    vitals_reload_end(r->server);
    if (r->req != NULL)
        ops_answer_swap(r->req, result);
    free(r);
}

/* The scan that was asked for does not take place: that is a swap that failed, too. */
static void log_refused(struct server *s, uint64_t asked_us, const char *reason)
{
    static struct log_line line; /* 4 KB; the control thread's alone */
    log_begin(&line, LOG_ERROR, "swap", "nothing was changed: %s", reason);
    log_bool(&line, "ok", false);
    log_u64(&line, "generation", swap_generation(s->swap));
    log_raw(&line, "changed", STR("[]"));
    log_raw(&line, "unchanged", STR("[]"));
    log_raw(&line, "failed", STR("[]"));
    log_z(&line, "error", reason);
    log_u64(&line, "duration_us", clock_us() - asked_us);
    log_u64(&line, "publish_us", 0);
    log_end(&line);
}

static void refuse(struct reload *r, const char *error, const char *reason)
{
    struct server *s = r->server;
    log_refused(s, r->ask.asked_us, reason);
    if (r->req != NULL)
        ops_answer_no_swap(r->req, 409, swap_generation(s->swap), error, reason);
    vitals_reload_end(s);
    config_free(r->config);
    free(r);
}

/* Names what the new configuration says and a running server cannot do. */
static void warn_restart_keys(struct server *s, const struct config *config)
{
    const char *names[64];
    struct buf list = { 0 };
    int n = config_restart_keys_changed(swap_config(s->swap), config, names, ARRAY_LEN(names));
    for (int i = 0; i < n && i < (int)ARRAY_LEN(names); i++)
        buf_printf(&list, "%s%s", i > 0 ? ", " : "", names[i]);
    if (n > 0)
        log_msg(LOG_WARN, "config", "changed, but takes effect only at a restart: %s",
                list.data != NULL ? list.data : "");
    buf_fini(&list);
}

static void ask_swap(struct reload *r)
{
    if (r->config != NULL)
        warn_restart_keys(r->server, r->config);
    r->ask.config = r->config;
    r->config = NULL;
    r->ask.done = answered;
    swap_ask(r->server->swap, &r->ask);
}

static void start_reading(struct reload *r);

/* Control: the thread has come back. */
static void on_read(struct msg *msg)
{
    struct reload *r = container_of(msg, struct reload, msg);
    struct server *s = r->server;
    REQUIRE(s->reading == r);
    s->reading = r->next;
    if (s->reading != NULL)
        start_reading(s->reading);
    if (r->config == NULL || log_try(&r->config->log, &r->err) != 0)
        refuse(r, "failed", r->err.text);
    else
        ask_swap(r);
}

static void *read_config(void *arg)
{
    struct reload *r = arg;
    r->config = config_load(r->server->options, r->server->envp, &r->err);
    inbox_send(&r->server->inbox, &r->msg);
    return NULL;
}

static void start_reading(struct reload *r)
{
    r->msg.fn = on_read;
    if (thread_start("config", read_config, r, &r->err) != 0)
        inbox_send(&r->server->inbox, &r->msg); /* config is NULL, err says why */
}

static void begin(struct reload *r)
{
    vitals_reload_begin(r->server);
    if (!r->wants_config || drain_is_on(r->server->drain)) {
        ask_swap(r);
        return;
    }
    struct reload **end = &r->server->reading;
    bool first = *end == NULL;
    while (*end != NULL)
        end = &(*end)->next;
    *end = r;
    if (first)
        start_reading(r);
}

void reload_signal(struct server *s, bool config)
{
    struct reload *r = calloc(1, sizeof *r);
    if (r == NULL) {
        log_refused(s, clock_us(), "out of memory: send the signal again");
        return;
    }
    r->server = s;
    r->wants_config = config;
    r->ask.asked_us = clock_us();
    begin(r);
}

void reload_verb(struct server *s, const struct ops_reload *how, struct web_request *req)
{
    struct reload *r = calloc(1, sizeof *r);
    if (r == NULL) {
        ops_answer_error(req, 503, "no_memory", "out of memory: ask again");
        return;
    }
    r->server = s;
    r->req = req;
    r->wants_config = how->config;
    r->ask.retry = how->retry;
    r->ask.allow_empty = how->allow_empty;
    r->ask.asked_us = clock_us();
    begin(r);
}

void reload_configured(void *arg, struct config *config)
{
    struct server *s = arg;
    struct err err;
    CHECK(s, SERVER_MAGIC);
    boss_config(s->boss, config);
    watchdog_configure(s->watchdog, config);
    if (log_configure(&config->log, &err) != 0)
        log_msg(LOG_ERROR, "config", "%s", err.text);
    if (!config->watch)
        swap_watch_stop(s->swap);
    else if (swap_watch_start(s->swap, &err) != 0)
        log_msg(LOG_ERROR, "config", "watch: %s", err.text);
}
