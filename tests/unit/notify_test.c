/* run/notify.c: the address, how often, what is told of a life, and a listener that has no room. */
#include "run/notify.h"

#include "tap.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

static int notifier; /* its descriptor: the module keeps it for the life of the process */

/* An abstract socket that is listened at, and the notifier opened for it. */
static int open_pair(const char *watchdog_usec, const char *watchdog_pid)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    char name[64];
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int n = snprintf(name, sizeof name, "@graft-notify-test-%d", (int)getpid());
    memcpy(sa.sun_path + 1, name + 1, (size_t)n - 1);
    must(bind(fd, (struct sockaddr *)&sa,
              (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n)) == 0);
    setenv("NOTIFY_SOCKET", name, 1);
    if (watchdog_usec != NULL)
        setenv("WATCHDOG_USEC", watchdog_usec, 1);
    if (watchdog_pid != NULL)
        setenv("WATCHDOG_PID", watchdog_pid, 1);
    notifier = dup(0);
    close(notifier);
    notify_open();
    return fd;
}

static void close_pair(int fd)
{
    close(fd);
    close(notifier);
}

static const char *next(int fd)
{
    static char text[512];
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    if (n < 0)
        return errno == EAGAIN ? "nothing" : "an error";
    text[n] = '\0';
    return text;
}

static struct vitals vitals(uint32_t state, uint64_t in_flight)
{
    return (struct vitals){ .state = state,
                            .live = 1,
                            .since_us = 7,
                            .generation = 3,
                            .in_flight = in_flight,
                            .plugins = 1,
                            .drain = "idle" };
}

static void tell(uint32_t state, uint64_t in_flight)
{
    struct vitals v = vitals(state, in_flight);
    notify_vitals(&v);
}

TEST(a_life)
{
    char ready[64];
    int fd = open_pair(NULL, NULL);
    snprintf(ready, sizeof ready, "READY=1\nMAINPID=%d", (int)getpid());
    tell(VITALS_STARTING, 0);
    is_str(next(fd), "STATUS=starting: generation 3, 0 in flight, 1 plugin");
    tell(VITALS_SERVING, 0);
    is_str(next(fd), ready);
    is_str(next(fd), "STATUS=generation 3, 0 in flight, 1 plugin");
    tell(VITALS_SERVING, 5);
    is_str(next(fd), "nothing"); /* so soon */
    tell(VITALS_RELOADING, 5);
    is_str(next(fd), "RELOADING=1\nMONOTONIC_USEC=7");
    is_str(next(fd), "nothing");
    tell(VITALS_SERVING, 5);
    is_str(next(fd), ready);
    notify_restarting("a crash");
    is_str(next(fd), "STATUS=a crash");
    tell(VITALS_SERVING, 0);
    is_str(next(fd), ready);
    is_str(next(fd), "STATUS=generation 3, 0 in flight, 1 plugin");
    notify_leaving();
    notify_leaving();
    is_str(next(fd), "STOPPING=1");
    tell(VITALS_LEAVING, 2);
    is_str(next(fd), "STATUS=draining (idle): generation 3, 2 in flight, 1 plugin");
    is_str(next(fd), "EXTEND_TIMEOUT_USEC=10000000");
    tell(VITALS_SERVING, 2); /* whatever comes now, it is over */
    is_str(next(fd), "EXTEND_TIMEOUT_USEC=10000000");
    is_str(next(fd), "nothing");
    close_pair(fd);
}

TEST(the_watchdog_hears_only_the_living)
{
    int fd = open_pair("800000", NULL);
    struct vitals v = vitals(VITALS_STARTING, 0);
    is(notify_every_ms(), 400);
    notify_vitals(&v);
    next(fd);
    is_str(next(fd), "WATCHDOG=1");
    v.live = 0;
    notify_vitals(&v);
    is_str(next(fd), "STATUS=starting: generation 3, 0 in flight, 1 plugin; a worker is stuck");
    is_str(next(fd), "nothing");
    close_pair(fd);
}

TEST(how_often)
{
    static const struct {
        const char *usec, *pid;
        unsigned ms;
    } all[] = {
        { NULL, NULL, 2000 }, { "30000000", NULL, 2000 }, { "1000000", NULL, 500 },
        { "1", NULL, 10 },    { "0", NULL, 2000 },        { "-5", NULL, 2000 },
        { "x", NULL, 2000 },  { "1000000", "1", 2000 },   { "1000000", "nobody", 2000 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int fd = open_pair(all[i].usec, all[i].pid);
        is(notify_every_ms(), all[i].ms);
        ok(getenv("NOTIFY_SOCKET") == NULL && getenv("WATCHDOG_USEC") == NULL &&
           getenv("WATCHDOG_PID") == NULL);
        close_pair(fd);
    }
}

TEST(nobody_listens)
{
    notify_open();
    is(notify_every_ms(), 0);
    tell(VITALS_SERVING, 0);
    notify_restarting("a crash");
    notify_leaving();
    ok(!notify_flush());
}

TEST(a_listener_without_room_is_told_later_in_order)
{
    int fd = open_pair("100000", NULL), n = 0;
    char last[64] = "";
    do
        tell(VITALS_STARTING, 0);
    while (++n < 100000 && !notify_flush() &&
           (tell(n % 2 ? VITALS_SERVING : VITALS_RELOADING, 0), true));
    ok(notify_flush());
    for (int i = 0; i < 100; i++) { /* more than are kept: the newest are */
        tell(VITALS_RELOADING, 0);
        tell(VITALS_SERVING, 0);
    }
    notify_leaving();
    for (const char *text; strcmp(text = next(fd), "nothing") != 0;)
        ok(strcmp(text, "STOPPING=1") != 0);
    ok(!notify_flush());
    for (const char *text; strcmp(text = next(fd), "nothing") != 0;)
        snprintf(last, sizeof last, "%.63s", text);
    is_str(last, "STOPPING=1");
    close_pair(fd);
}
