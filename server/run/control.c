/*
 * The control thread's loop: signals, answers of workers and loaders, and the log. Everything that
 * it calls returns at once.
 */
#include "run/control.h"

#include "run/boss.h"
#include "run/server.h"
#include "run/upgrade.h"
#include "run/vitals.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct server the_server = {
    .magic = SERVER_MAGIC, .control = { .fd = -1 }, .ops_listener = { .fd = -1 }, .state_lock = -1
};

/* -- the log -- */

static void on_log(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct server *s = arg;
    int full = log_drain();
    if (full < 0 || event_pending(&s->log_room_event, EV_WRITE | EV_TIMEOUT, NULL))
        return;
    event_assign(&s->log_room_event, s->base, full, EV_WRITE, on_log, s);
    if (event_add(&s->log_room_event, NULL) != 0) { /* epoll does not know it: go by the clock */
        struct timeval soon = { .tv_usec = 50000 };
        event_assign(&s->log_room_event, s->base, -1, 0, on_log, s);
        event_add(&s->log_room_event, &soon);
    }
}

/* -- messages -- */

static void on_inbox(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct server *s = arg;
    inbox_run(&s->inbox);
}

/* -- signals -- */

static void stop_signal(struct server *s, int signo)
{
    if (s->failed)
        leave_now(s, s->exit_status, false);
    boss_leaving(s->boss);
    switch (signals_stop(&s->stop, clock_ms())) {
    case SIGNALS_DRAIN:
        drain_begin(s->drain, swap_config(s->swap), signals_name(signo));
        vitals_changed(s);
        break;
    case SIGNALS_SAME:
        break;
    case SIGNALS_EXIT:
        log_msg(LOG_WARN, "exit", "%s again: exiting at once", signals_name(signo));
        leave_now(s, 128 + signo, false);
    }
}

static void reopen(struct server *s)
{
    struct err err;
    boss_reopen(s->boss);
    if (log_reopen(&err) != 0)
        log_msg(LOG_ERROR, "config", "reopening the log: %s", err.text);
}

/* As PID 1 the dead children of others are ours to take away. */
static void reap(struct server *s)
{
    struct timeval later = { .tv_sec = 1 };
    if (getpid() == 1 && signals_reap(clock_ms()))
        event_add(&s->reap_event, &later);
}

static void on_reap(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    reap(arg);
}

static void act_on(struct server *s, int signo)
{
    switch (signo) {
    case SIGUSR2:
        reload_signal(s, false);
        break;
    case SIGHUP:
        reload_signal(s, true);
        break;
    case SIGUSR1:
        reopen(s);
        break;
    case SIGCHLD:
        reap(s);
        break;
    case SIGQUIT:
        boss_leaving(s->boss);
        log_msg(LOG_WARN, "exit", "SIGQUIT: exiting at once");
        leave_now(s, 128 + signo, false);
    default:
        stop_signal(s, signo);
    }
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct server *s = arg;
    CHECK(s, SERVER_MAGIC);
    for (int signo; (signo = signals_next((int)fd)) != 0;)
        act_on(s, signo);
}

/* Without a supervisor nobody starts us again, and nobody holds the sockets: we end as we should.
 */
static void on_orphaned(struct server *s)
{
    event_del(&s->boss_event);
    log_msg(LOG_ERROR, "exit", "the supervisor is gone");
    if (s->failed)
        leave_now(s, s->exit_status, false);
    drain_begin(s->drain, swap_config(s->swap), "the supervisor is gone");
}

static void on_boss(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct server *s = arg;
    int signo;
    CHECK(s, SERVER_MAGIC);
    while ((signo = boss_next(s->boss)) > 0)
        act_on(s, signo);
    if (signo < 0)
        on_orphaned(s);
}

/* -- the loop -- */

static int watch_fd(struct server *s, struct event *event, int fd, event_callback_fn fn)
{
    event_assign(event, s->base, fd, EV_READ | EV_PERSIST, fn, s);
    return event_add(event, NULL);
}

/* Without one of them the loop would wait for ever for what has come: no start is better. */
static int watch_all(struct server *s, struct err *err)
{
    if (watch_fd(s, &s->inbox_event, s->inbox.fd, on_inbox) == 0 &&
        watch_fd(s, &s->log_event, s->log_fd, on_log) == 0 &&
        watch_fd(s, &s->signal_event, s->signal_fd, on_signal) == 0 &&
        (s->boss == NULL || watch_fd(s, &s->boss_event, boss_fd(s->boss), on_boss) == 0))
        return 0;
    return err_set(err, "cannot watch descriptors: %s", strerror(errno));
}

static int open_loop(struct server *s, struct err *err)
{
    s->base = event_base_new();
    if (s->base == NULL)
        return err_set(err, "cannot make an event loop: %s", strerror(errno));
    if (inbox_open(&s->inbox) != 0)
        return err_set(err, "cannot make an eventfd: %s", strerror(errno));
    s->signal_fd = signals_open(err);
    if (s->signal_fd < 0)
        return -1;
    event_assign(&s->log_room_event, s->base, -1, 0, on_log, s);
    event_assign(&s->reap_event, s->base, -1, 0, on_reap, s);
    return watch_all(s, err);
}

_Noreturn static void fail_start(struct server *s, const char *why)
{
    log_flush(1000);
    fprintf(stderr, "graftd: %s\n", why);
    if (s->boss != NULL && s->listeners != NULL)
        s->listeners->n = 0; /* the supervisor's, to close and to unlink */
    listeners_free(s->listeners);
    s->listeners = NULL;
    leave_now(s, 1, true);
}

static void log_address(const char *event, const char *address)
{
    struct log_line line;
    log_begin(&line, LOG_INFO, event, "%s at %s", event, address);
    log_z(&line, "address", address);
    log_end(&line);
}

void control_serve(struct server *s)
{
    struct err err;
    s->ops.live = true;
    swap_ask_health(s->swap); /* ready is who has heard that all are well */
    workers_accept(s->workers);
    if (!boss_is_standby(s->boss))
        boss_ready(s->boss);
    vitals_changed(s);
    boss_log_crashed(s->boss);
    listeners_log(s->listeners);
    if (s->ops_web != NULL)
        log_address("ops", s->ops_listener.name);
    if (s->api_web != NULL)
        log_address("control", s->control.path);
    if (swap_config(s->swap)->watch && swap_watch_start(s->swap, &err) != 0)
        log_msg(LOG_ERROR, "config", "watch: %s", err.text);
}

static void load_first(struct server *s);

static void load_again(evutil_socket_t fd, short what, void *arg)
{
    struct server *s = arg;
    (void)fd;
    (void)what;
    CHECK(s, SERVER_MAGIC);
    load_first(s);
}

/* The process before served: with what was good then this one does, too, whatever lies in the
   folder by now. False: that has been tried, or nothing has crashed. */
static bool first_again(struct server *s, const char *why)
{
    static const struct timeval now = { 0, 0 };
    if (!boss_after_crash(s->boss) || s->first_failed)
        return false;
    s->first_failed = true;
    log_msg(LOG_WARN, "plugin_warning",
            "after a crash the plugins could not be loaded: %s: good versions from the store serve "
            "in place of files that fail",
            why);
    return event_base_once(s->base, -1, EV_TIMEOUT, load_again, s, &now) == 0;
}

/* The first load is done. While a drain is on, its end decides. */
static void on_first(struct swap_ask *ask, const struct swap_result *result)
{
    struct server *s = ask->arg;
    CHECK(s, SERVER_MAGIC);
    if (drain_is_on(s->drain))
        return;
    if (result->ok) {
        if (boss_is_standby(s->boss))
            upgrade_wait(s);
        else
            control_serve(s);
        return;
    }
    if (first_again(s, result->reason != NULL ? result->reason : "no reason given"))
        return;
    log_flush(1000);
    fprintf(stderr, "graftd: %s\n",
            result->reason != NULL ? result->reason : "the plugins could not be loaded");
    leave_undone(s);
}

static void load_first(struct server *s)
{
    s->first = (struct swap_ask){ .done = on_first, .arg = s, .asked_us = clock_us() };
    if (s->first_failed)
        swap_first_again(s->swap, &s->first);
    else
        swap_first(s->swap, &s->first);
}

_Noreturn static void run(struct server *s)
{
    struct err err;
    if (log_start(&s->config->log, &s->log_fd, &err) != 0 || open_loop(s, &err) != 0 ||
        server_start(s, &err) != 0)
        fail_start(s, err.text);
    load_first(s);
    event_base_dispatch(s->base);
    fail_start(s, "the control thread's loop ended");
}

static struct server *begin(const struct options *options, char **envp)
{
    struct server *s = &the_server;
    thread_kind = THREAD_CONTROL;
    pthread_setname_np(pthread_self(), "graftd");
    s->options = options;
    s->envp = envp;
    return s;
}

int control_run(const struct options *options, char **envp, struct config *config)
{
    struct server *s = begin(options, envp);
    s->config = config;
    run(s);
}

int control_run_supervised(const struct options *options, char **envp, int wire)
{
    struct server *s = begin(options, envp);
    struct buf text = { 0 };
    struct err err;
    if (boss_take(s, wire, &text, &err) == 0)
        s->config = config_load_text(options, envp, text.data, text.len, true, &err);
    buf_fini(&text);
    if (s->config == NULL)
        fail_start(s, err.text);
    run(s);
}
