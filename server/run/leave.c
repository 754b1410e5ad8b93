/*
 * The end: answers that are under way get half a second, then the sockets and the stage folder go,
 * the log is written out, and the process leaves by _exit, so that no thread-exit destructor runs
 * in a plugin that is already unmapped.
 */
#include "run/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ANSWER_TURNS 50 /* of 10 ms */
#define FLUSH_MS     1000

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

_Noreturn void leave_now(struct server *s, int status, bool leaks)
{
    web_close(s->api_web);
    web_close(s->ops_web);
    if (s->ops_path != NULL)
        unlink(s->ops_path);
    place_close(&s->control);
    stage_close(s->stage);
    s->stage = NULL;
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
    s->exit_status = status;
    event_assign(&s->leave_event, s->base, -1, EV_PERSIST, on_leave, s);
    event_add(&s->leave_event, &turn);
}
