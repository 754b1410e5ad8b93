/* See upgrade.h. */
#include "run/upgrade.h"

#include "base/clock.h"
#include "base/thread.h"
#include "plugin/keep.h"
#include "run/boss.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_MS   20
#define WRITE_MS  10000 /* for the store's disk */
#define YIELD_MS  2000
#define TAKE_MS   10000 /* for the lock of the store */
#define HEALTH_MS 1000  /* between two questions */

enum step { UPGRADE_OFF, READING, WRITING, ASKED, YIELDING, YIELDED, HEALTH, READY, TAKING };

struct upgrade {
    struct server *server;
    enum step step;
    uint64_t until_ms;
    struct event look;
    struct web_request *req;
    char binary[PATH_MAX];
    struct config *config;
    struct err err;
    struct msg msg;
    uint64_t asked_ms; /* for health */
    struct buf why;    /* told last */
};

static void look_again(struct upgrade *u)
{
    struct timeval tv = { .tv_usec = LOOK_MS * 1000 };
    event_add(&u->look, &tv);
}

static void go_to(struct upgrade *u, enum step step, unsigned ms)
{
    u->step = step;
    u->until_ms = clock_ms() + ms;
    look_again(u);
}

/* ---- The one that serves --------------------------------------------------------------------- */

static void take_store(struct upgrade *u)
{
    struct err err;
    if (keep_take(u->server->keep, &err) == 0) {
        u->step = UPGRADE_OFF;
        return;
    }
    if (clock_ms() < u->until_ms) {
        look_again(u);
        return;
    }
    log_msg(LOG_WARN, "state", "good versions and the quarantine are not written: %s", err.text);
    u->step = UPGRADE_OFF;
}

/* After all: what was let go for the next process. */
static void take_back(struct upgrade *u)
{
    web_accept(u->server->ops_web, true);
    web_accept(u->server->api_web, true);
    u->step = TAKING;
    u->until_ms = clock_ms() + TAKE_MS;
    take_store(u);
}

static void refuse(struct upgrade *u, int status, const char *error, const char *reason)
{
    bool yielded = u->step == YIELDING || u->step == YIELDED;
    log_msg(LOG_ERROR, "upgrade", "not upgraded, nothing was changed: %s", reason);
    if (u->req != NULL)
        ops_answer_error(u->req, status, error, "%s", reason);
    u->req = NULL;
    u->step = UPGRADE_OFF;
    event_del(&u->look);
    config_free(u->config);
    u->config = NULL;
    if (yielded)
        take_back(u);
    swap_hold(u->server->swap, false);
}

static const struct version *find_canary(struct server *s)
{
    list_each (it, swap_versions(s->swap)) {
        const struct version *v = list_entry(it, struct version, node);
        if (v->canary && v->state == VERSION_ACTIVE)
            return v;
    }
    return NULL;
}

/* What can be said at once; true: it was. */
static bool refuse_at_once(struct server *s, struct web_request *req)
{
    const struct version *canary = find_canary(s);
    if (!boss_is_up(s->boss))
        ops_answer_error(req, 409, "refused",
                         "there is no supervisor (supervise is false), which would start the new "
                         "graftd beside this one: restart the service instead");
    else if (s->failed || drain_is_on(s->drain))
        ops_answer_error(req, 503, "draining",
                         "the server drains: start the new graftd when it "
                         "has ended");
    else if (s->upgrade->step != UPGRADE_OFF)
        ops_answer_error(req, 409, "busy", "an upgrade is under way: ask again when it has ended");
    else if (swap_running(s->swap) || s->reading != NULL)
        ops_answer_error(req, 409, "busy", "a swap is in progress: ask again when it has ended");
    else if (canary != NULL)
        ops_answer_error(
            req, 409, "refused",
            "a canary of plugin %s (%s) is being judged, which a new process could not "
            "go on with: promote or abort it first",
            canary->plugin, canary->id);
    else
        return false;
    return true;
}

static void ask_supervisor(struct upgrade *u)
{
    struct err err;
    if (boss_ask_upgrade(u->server->boss, u->binary, u->config, &err) != 0) {
        refuse(u, 409, "failed", err.text);
        return;
    }
    u->step = ASKED; /* its answer comes: it watches the clock */
    config_free(u->config);
    u->config = NULL;
}

static void on_read(struct msg *msg)
{
    struct upgrade *u = container_of(msg, struct upgrade, msg);
    if (u->config == NULL)
        refuse(u, 409, "failed", u->err.text);
    else if (drain_is_on(u->server->drain))
        refuse(u, 503, "draining", "the server drains");
    else if (!u->config->supervise)
        refuse(u, 409, "refused",
               "the configuration says now that supervise is false: that needs "
               "a restart");
    else
        go_to(u, WRITING, WRITE_MS);
}

static void *read_config(void *arg)
{
    struct upgrade *u = arg;
    u->config = config_load(u->server->options, u->server->envp, &u->err);
    inbox_send(&u->server->inbox, &u->msg);
    return NULL;
}

void upgrade_verb(struct server *s, const char *binary, struct web_request *req)
{
    struct upgrade *u = s->upgrade;
    if (refuse_at_once(s, req))
        return;
    log_msg(LOG_INFO, "upgrade", "an upgrade begins");
    u->req = req;
    u->step = READING;
    snprintf(u->binary, sizeof u->binary, "%s", binary);
    swap_hold(s->swap, true);
    keep_save(s->keep, true); /* the next process reads what it says */
    u->msg.fn = on_read;
    if (thread_start("config", read_config, u, &u->err) != 0)
        inbox_send(&s->inbox, &u->msg);
}

static void yield(struct upgrade *u)
{
    struct server *s = u->server;
    web_accept(s->ops_web, false);
    web_accept(s->api_web, false);
    if (!keep_writes(s->keep))
        keep_yield(s->keep);
    else if (clock_ms() < u->until_ms) {
        look_again(u);
        return;
    } else {
        log_msg(LOG_WARN, "state",
                "the store is still being written: the next process waits for "
                "its lock");
    }
    u->step = YIELDED;
    boss_tell(s->boss, WIRE_YIELDED);
}

/* They are the next process's too: never filtered, only our copies are closed. */
static void go_on(struct listeners *ls, const struct wire_close *which)
{
    for (unsigned i = which->first; i < ls->n && i - which->first < which->count; i++) {
        ls->all[i].handed_over = true;
        free(ls->all[i].path);
        ls->all[i].path = NULL;
    }
}

static void put_done(struct json_out *j, const struct wire_upgraded *m)
{
    json_open(j, NULL, '{');
    json_put_bool(j, "ok", true);
    json_open(j, "old", '{');
    json_put_int(j, "pid", m->old_pid);
    json_put_z(j, "version", m->old_version);
    json_close(j, '}');
    json_open(j, "new", '{');
    json_put_int(j, "pid", m->new_pid);
    json_put_z(j, "version", m->new_version);
    json_close(j, '}');
    json_put_u64(j, "duration_us", m->ms * 1000);
    json_put_z(j, "note", m->note[0] != '\0' ? m->note : NULL);
    json_close(j, '}');
}

static void on_upgraded(struct upgrade *u, const struct wire_upgraded *m)
{
    struct server *s = u->server;
    struct buf body = { 0 };
    struct json_out j;
    if (!m->over) {
        refuse(u, 409, m->error, m->reason);
        return;
    }
    if (u->req != NULL) {
        json_out_init(&j, &body);
        put_done(&j, m);
        ops_answer_json(u->req, 200, &j);
    }
    u->req = NULL;
    u->step = YIELDED;
    drain_begin_at_once(s->drain, swap_config(s->swap), "another process serves: an upgrade");
}

/* ---- The one in waiting ---------------------------------------------------------------------- */

/* Each reason once, for whoever waits for us. */
static void tell_why(struct upgrade *u, struct buf *why)
{
    if (why->len == 0 || (u->why.len == why->len && memcmp(u->why.data, why->data, why->len) == 0))
        return;
    fprintf(stderr, "graftd: not ready yet: %s", why->data);
    fflush(stderr);
    buf_fini(&u->why);
    u->why = *why;
    *why = (struct buf){ 0 };
}

static void look_at_health(struct upgrade *u)
{
    struct server *s = u->server;
    struct buf why = { 0 };
    uint64_t now = clock_ms();
    if (now - u->asked_ms >= HEALTH_MS) {
        swap_ask_health(s->swap);
        u->asked_ms = now;
    }
    if (ops_is_ready(&s->ops, &why) && swap_health_known(s->swap)) {
        u->step = READY;
        boss_ready(s->boss);
    } else {
        tell_why(u, &why);
        look_again(u);
    }
    buf_fini(&why);
}

void upgrade_wait(struct server *s)
{
    s->ops.live = true;
    s->upgrade->step = HEALTH;
    look_at_health(s->upgrade);
}

static void serve(struct upgrade *u, int stderr_fd)
{
    struct server *s = u->server;
    struct err err;
    dup2(stderr_fd, STDERR_FILENO);
    if (listeners_listen(s->listeners, &err) != 0)
        log_msg(LOG_ERROR, "listening", "%s", err.text);
    control_serve(s);
    boss_tell(s->boss, WIRE_SERVING);
    web_accept(s->ops_web, true);
    web_accept(s->api_web, true);
    u->step = TAKING;
    u->until_ms = clock_ms() + TAKE_MS;
    take_store(u);
}

/* ---- Both ------------------------------------------------------------------------------------ */

static void on_look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upgrade *u = arg;
    switch (u->step) {
    case WRITING:
        if (swap_running(u->server->swap))
            refuse(u, 409, "busy", "a swap is in progress: ask again when it has ended");
        else if (!keep_writes(u->server->keep))
            ask_supervisor(u);
        else if (clock_ms() < u->until_ms)
            look_again(u);
        else
            refuse(u, 409, "failed",
                   "the store of good versions (state_dir) is still being "
                   "written: is its disk well?");
        break;
    case YIELDING:
        yield(u);
        break;
    case HEALTH:
        look_at_health(u);
        break;
    case TAKING:
        take_store(u);
        break;
    default:
        break;
    }
}

static bool on_message(void *arg, struct wire_message *m)
{
    struct server *s = arg;
    struct upgrade *u = s->upgrade;
    CHECK(s, SERVER_MAGIC);
    if (m->type == WIRE_GOES_ON && u->step == ASKED)
        go_on(s->listeners, &m->body.close);
    else if (m->type == WIRE_YIELD && u->step == ASKED) {
        u->step = YIELDING;
        u->until_ms = clock_ms() + YIELD_MS;
        yield(u);
    } else if (m->type == WIRE_UPGRADED && u->step >= ASKED && u->step <= YIELDED)
        on_upgraded(u, &m->body.upgraded);
    else if (m->type == WIRE_SERVE && u->step == READY)
        serve(u, m->fds[0]);
    else
        return false;
    return true;
}

int upgrade_open(struct server *s, struct err *err)
{
    s->upgrade = calloc(1, sizeof *s->upgrade);
    if (s->upgrade == NULL)
        return err_set(err, "out of memory");
    s->upgrade->server = s;
    event_assign(&s->upgrade->look, s->base, -1, 0, on_look, s->upgrade);
    boss_listen(s->boss, on_message, s);
    return 0;
}
