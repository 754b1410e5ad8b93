/*
 * The start, in the order that privileges and threads ask for: what needs root or must not be
 * shared (limits, sockets, folders), then the other user, then threads, then plugins. Main thread,
 * which becomes the control thread on the way.
 */
#include "run/boss.h"
#include "run/cores.h"
#include "run/server.h"
#include "run/upgrade.h"
#include "run/vitals.h"

#include "base/clock.h"
#include "base/json.h"
#include "plugin/chain.h"
#include "plugin/keep.h"
#include "plugin/metric.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define OPS_BACKLOG     512
#define OPS_CONNECTIONS 64
#define OPS_MS          10000
#define API_CONNECTIONS 256
#define API_MS          30000

/* How many may be open from now on. */
static rlim_t raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return RLIM_INFINITY;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

static void warn_of_descriptors(const struct config *cfg, rlim_t most)
{
    if (most < cfg->limits.connections)
        log_msg(LOG_WARN, "limits",
                "%llu descriptors may be open, but limits.connections is %u: raise the limit "
                "(ulimit -n, LimitNOFILE=) or lower limits.connections",
                (unsigned long long)most, cfg->limits.connections);
}

static void add_name(const char *key, void *arg)
{
    struct buf *list = arg;
    buf_printf(list, "%s%s", list->len > 0 ? ", " : "", key);
}

static void name_what_waits(const struct config *cfg)
{
    struct buf list = { 0 };
    config_not_in_effect(cfg, add_name, &list);
    if (list.len > 0)
        log_msg(LOG_INFO, "config", "set, but not yet in effect in this version: %s", list.data);
    buf_fini(&list);
}

/* -- the ops address -- */

static int ops_bind(const struct addr *a, struct err *err)
{
    struct sockaddr_storage sa = a->sa;
    socklen_t len = a->len;
    int one = 1, zero = 0;
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 && errno == EAFNOSUPPORT && a->dual) {
        sa = a->any4;
        len = sizeof(struct sockaddr_in);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    }
    if (fd < 0)
        return err_set(err, "ops %s: cannot make a socket: %s", a->text, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (sa.ss_family == AF_INET6 && a->dual)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    if (bind(fd, (const struct sockaddr *)&sa, len) != 0 || listen(fd, OPS_BACKLOG) != 0) {
        err_set(err, "ops %s: %s%s", a->text, strerror(errno),
                errno == EADDRINUSE ? ": another server has it: stop that one, or give this one "
                                      "another address (--ops)"
                                    : "");
        close(fd);
        return -1;
    }
    return fd;
}

static int ops_listen_tcp(struct listener *out, const struct addr *a, struct err *err)
{
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    char name[ADDR_FORMAT_SIZE];
    *out = (struct listener){ .fd = ops_bind(a, err), .kind = LISTENER_TCP };
    if (out->fd < 0)
        return -1;
    snprintf(out->name, sizeof out->name, "%.127s", a->text);
    if (getsockname(out->fd, (struct sockaddr *)&bound, &len) == 0) {
        addr_format((const struct sockaddr *)&bound, len, name);
        snprintf(out->name, sizeof out->name, "%s", name);
    }
    return 0;
}

static int ops_listen(struct listener *out, const struct config *cfg, struct err *err)
{
    const struct addr *a = &cfg->ops_addr;
    if (cfg->ops[0] == '\0')
        return 0;
    return a->kind == ADDR_FD     ? listener_take(out, a->fd, "ops", a->text, err)
           : a->kind == ADDR_UNIX ? listener_open_unix(out, a, "ops", err)
                                  : ops_listen_tcp(out, a, err);
}

/* -- with privileges -- */

static size_t group_ids(const struct config *cfg, gid_t out[CONFIG_GROUPS_MAX])
{
    for (size_t i = 0; i < cfg->control_group_count; i++)
        out[i] = cfg->control_groups[i].gid;
    return cfg->control_group_count;
}

static int open_control_socket(struct server *s, const struct config *cfg, struct err *err)
{
    gid_t groups[CONFIG_GROUPS_MAX];
    struct err why;
    int rc = place_open(&s->control, cfg->control, &why);
    if (rc > 0)
        log_msg(LOG_WARN, "control",
                "running without a control socket: %s: name one (--control PATH)", why.text);
    else if (rc < 0)
        return err_set(err, "control: %s", why.text);
    if (place_share(&s->control, groups, group_ids(cfg, groups), &why) != 0)
        return err_set(err, "control: %s", why.text);
    return 0;
}

/* The log file is reopened by the user that we become. */
static void give_log_file(const struct config *cfg, const struct user *u)
{
    if (log_give(u->uid, u->gid) != 0)
        log_msg(LOG_WARN, "config", "%s cannot be given to %s: %s: reopening it will fail",
                cfg->log.file, u->name, strerror(errno));
}

static int change_user(struct server *s, const struct config *cfg, const struct user *u,
                       struct err *err)
{
    if (u->name[0] == '\0' || geteuid() != 0)
        return 0;
    if (stage_prepare(cfg->stage_dir, u->uid, u->gid, err) != 0 ||
        keep_prepare(cfg->state_dir, u->uid, u->gid, err) != 0 ||
        place_give(&s->control, u->uid, u->gid, err) != 0)
        return -1;
    listeners_give(s->listeners, u->uid, u->gid);
    give_log_file(cfg, u);
    return cfg->supervise ? user_work_as(u, err) : user_become(u, err);
}

int server_open_held(struct server *s, struct err *err)
{
    const struct config *cfg = s->config;
    if (user_find(&s->user, cfg->user, err) != 0)
        return -1;
    warn_of_descriptors(cfg, raise_descriptors());
    s->nworkers = cfg->workers > 0 ? cfg->workers : cores_usable();
    if (listeners_open(&s->listeners, cfg, s->nworkers, err) != 0 ||
        open_control_socket(s, cfg, err) != 0 || ops_listen(&s->ops_listener, cfg, err) != 0 ||
        change_user(s, cfg, &s->user, err) != 0)
        return -1;
    s->state_lock = keep_lock(cfg->state_dir);
    return stage_open(&s->stage, cfg->stage_dir, err);
}

/* The id comes from a process that was crashing: any bytes. NULL: no memory. */
static const char *write_evidence(const struct wire_crashed *c, struct buf *out)
{
    struct json_out j;
    json_out_init(&j, out);
    json_open(&j, NULL, '{');
    json_put_int(&j, "signal", c->signo);
    json_put_z(&j, "id", c->id);
    json_close(&j, '}');
    return j.failed || buf_add(out, "", 1) != 0 ? NULL : out->data;
}

/* The second crash of an identity within crash_window_ms quarantines it: the first load then takes
   its predecessor out of the store. What is noted must outlive the next crash. */
static void note_crash(struct server *s)
{
    const struct wire_crashed *c = boss_crashed(s->boss);
    struct identity identity;
    struct timespec now;
    struct err err;
    struct buf evidence = { 0 };
    if (c == NULL)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    identity_set(&identity, c->plugin, c->sha256, c->config_sha256);
    keep_crash(s->keep, &identity, (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000,
               s->config->crash_window_ms, write_evidence(c, &evidence));
    buf_fini(&evidence);
    if (keep_flush(s->keep, &err) != 0)
        log_msg(LOG_WARN, "state", "a crash of %s is not noted: %s", c->plugin, err.text);
}

/* Everything before the first thread. */
static int open_resources(struct server *s, struct err *err)
{
    if (s->boss == NULL && server_open_held(s, err) != 0)
        return -1;
    if (s->boss != NULL)
        raise_descriptors(); /* the supervisor's own may have been lowered meanwhile */
    s->keep = (boss_is_standby(s->boss) ? keep_open_behind : keep_open)(s->config->state_dir,
                                                                        s->stage, s->state_lock);
    if (s->keep == NULL)
        return err_set(err, "out of memory");
    if (keep_lacks(s->keep, err))
        return -1;
    note_crash(s);
    boss_keep_blocks(s->boss);
    s->probe = probe_open(NULL, err);
    return s->probe != NULL ? 0 : -1;
}

/* -- threads -- */

static int open_threads(struct server *s, struct err *err)
{
    const struct config *cfg = s->config;
    watchdog_prepare();
    metric_init(s->nworkers + cfg->offload_threads);
    if (pool_open(&s->pool, cfg->offload_threads, cfg->offload_queue, s->nworkers, err) != 0)
        return -1;
    return workers_open(&s->workers, cfg, s->listeners, s->pool, &s->inbox, s->nworkers, err);
}

static int open_swap(struct server *s, struct err *err)
{
    struct swap_deps deps = {
        .loops = workers_loops(s->workers),
        .nloops = workers_count(s->workers),
        .base = s->base,
        .inbox = &s->inbox,
        .stage = s->stage,
        .probe = s->probe,
        .pool = s->pool,
        .keep = s->keep,
        .config = s->config,
        .after_crash = boss_after_crash(s->boss),
        .host_init = chain_host_init,
        .cut = chain_cut_version,
        .resume = chain_resume,
        .configured = reload_configured,
        .arg = s,
    };
    if (swap_open(&s->swap, &deps, err) != 0)
        return -1;
    s->config = NULL; /* the swap's */
    return 0;
}

static bool is_draining(void *arg)
{
    const struct server *s = arg;
    return s->failed || drain_is_on(s->drain);
}

static int open_watchdog(struct server *s, struct err *err)
{
    struct watchdog_deps deps = {
        .base = s->base,
        .inbox = &s->inbox,
        .loops = workers_loops(s->workers),
        .nloops = workers_count(s->workers),
        .stage = stage_path(s->stage),
        .spared = is_draining,
        .arg = s,
    };
    if (watchdog_open(&s->watchdog, &deps, err) != 0)
        return -1;
    watchdog_configure(s->watchdog, swap_config(s->swap));
    return 0;
}

static void on_drained(int status, void *arg)
{
    struct server *s = arg;
    CHECK(s, SERVER_MAGIC);
    leave_when_answered(s, status);
}

static void on_closing(void *arg)
{
    struct server *s = arg;
    boss_closing(s->boss, s->listeners->n);
}

static int open_drain(struct server *s, struct err *err)
{
    struct drain_deps deps = {
        .base = s->base,
        .workers = s->workers,
        .listeners = s->listeners,
        .swap = s->swap,
        .closing = on_closing,
        .over = on_drained,
        .arg = s,
    };
    s->drain = drain_open(&deps);
    return s->drain != NULL ? 0 : err_set(err, "out of memory for the drain");
}

/* -- what people see -- */

static void verb_reload(void *arg, const struct ops_reload *how, struct web_request *req)
{
    reload_verb(arg, how, req);
}

static int verb_reopen(void *arg, struct err *err)
{
    struct server *s = arg;
    boss_reopen(s->boss);
    return log_reopen(err);
}

static void verb_drain(void *arg)
{
    struct server *s = arg;
    if (s->failed) /* it is leaving already */
        return;
    boss_leaving(s->boss);
    drain_begin(s->drain, swap_config(s->swap), "graftctl drain");
    vitals_changed(s);
}

static void verb_upgrade(void *arg, const char *binary, struct web_request *req)
{
    upgrade_verb(arg, binary, req);
}

static const struct ops_verbs ops_verbs = { verb_reload, verb_reopen, verb_drain, verb_upgrade };

static int open_webs(struct server *s, struct err *err)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    s->ops = (struct ops){
        .magic = OPS_MAGIC,
        .workers = s->workers,
        .swap = s->swap,
        .drain = s->drain,
        .pool = s->pool,
        .keep = s->keep,
        .started_us = clock_us(),
        .started_unix = (double)now.tv_sec + (double)now.tv_nsec / 1e9,
        .verbs = &ops_verbs,
        .arg = s,
    };
    s->ops.control_group_count = group_ids(swap_config(s->swap), s->ops.control_groups);
    struct web_settings ops = { s->base, s->ops_listener.fd, OPS_CONNECTIONS,
                                OPS_MS,  ops_handle,         &s->ops };
    struct web_settings api = { s->base, s->control.fd,  API_CONNECTIONS,
                                API_MS,  ops_handle_api, &s->ops };
    if (s->ops_listener.fd >= 0 && web_open(&s->ops_web, &ops, err) != 0)
        return -1;
    if (s->control.fd >= 0 && web_open(&s->api_web, &api, err) != 0)
        return -1;
    web_accept(s->ops_web, !boss_is_standby(s->boss));
    web_accept(s->api_web, !boss_is_standby(s->boss));
    return 0;
}

int server_start(struct server *s, struct err *err)
{
    CHECK(s, SERVER_MAGIC);
    name_what_waits(s->config);
    if (open_resources(s, err) != 0 || open_threads(s, err) != 0 || open_swap(s, err) != 0 ||
        open_watchdog(s, err) != 0 || open_drain(s, err) != 0 || upgrade_open(s, err) != 0)
        return -1;
    return open_webs(s, err) == 0 ? vitals_open(s, err) : -1;
}
