/*
 * The end: answers that are under way get half a second, then the sockets and the stage folder go,
 * the log is written out, and the process leaves by _exit, so that no thread-exit destructor runs
 * in a plugin that is already unmapped.
 */
#include "run/boss.h"
#include "run/notify.h"
#include "run/server.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ANSWER_TURNS 50 /* of 10 ms */
#define FLUSH_MS     1000
#define UNDO_MS      5000

#ifdef GRAFT_ASAN
#include <sanitizer/lsan_interface.h>
#define LEAK_STATUS 86

/* _exit would skip LeakSanitizer's own check. */
static int check_leaks(int status)
{
    return __lsan_do_recoverable_leak_check() != 0 ? LEAK_STATUS : status;
}
#else
static int check_leaks(int status)
{
    return status;
}
#endif

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    remove(path);
    return 0;
}

/* Loader threads may still be at work in the folder: it is emptied, not given up. What one of them
   adds behind our back, the next start removes. */
static void remove_stage(const struct server *s)
{
    if (s->stage != NULL)
        nftw(stage_path(s->stage), remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

_Noreturn void leave_now(struct server *s, int status, bool leaks)
{
    notify_leaving(); /* where there is no supervisor to do it */
    web_close(s->api_web);
    web_close(s->ops_web);
    if (!boss_is_up(s->boss)) { /* else they are the supervisor's, and may serve again */
        listener_unlink(&s->ops_listener);
        place_close(&s->control);
        listeners_unlink(s->listeners);
        remove_stage(s);
    }
    log_flush(FLUSH_MS);
    if (leaks)
        status = check_leaks(status);
    fflush(NULL);
    _exit(status);
}

static void on_leave(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct server *s = arg;
    CHECK(s, SERVER_MAGIC);
    unsigned busy = (s->api_web != NULL ? web_busy(s->api_web) : 0) +
                    (s->ops_web != NULL ? web_busy(s->ops_web) : 0);
    if (busy == 0 || ++s->leave_turns > ANSWER_TURNS)
        leave_now(s, s->exit_status, true);
}

void leave_when_answered(struct server *s, int status)
{
    struct timeval turn = { .tv_usec = 10000 };
    CHECK(s, SERVER_MAGIC);
    if (s->leaving)
        return;
    s->leaving = true;
    if (s->exit_status == 0)
        s->exit_status = status;
    event_assign(&s->leave_event, s->base, -1, EV_PERSIST, on_leave, s);
    event_add(&s->leave_event, &turn);
}

static void on_undone(void *arg)
{
    struct server *s = arg;
    leave_when_answered(s, 1);
}

static void on_undo_late(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    leave_now(arg, 1, true);
}

static void on_undo(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct server *s = arg;
    struct timeval late = { .tv_sec = UNDO_MS / 1000 };
    event_assign(&s->late_event, s->base, -1, 0, on_undo_late, s);
    event_add(&s->late_event, &late);
    swap_drain_begin(s->swap);
    swap_drain_fini(s->swap, on_undone, s);
}

void leave_undone(struct server *s)
{
    struct timeval now = { 0 };
    s->failed = true;
    s->exit_status = 1;
    event_assign(&s->late_event, s->base, -1, 0, on_undo, s); /* the swap is still speaking */
    event_add(&s->late_event, &now);
}
