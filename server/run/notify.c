/* See notify.h. */
#include "run/notify.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EVERY_MS  2000     /* the status line, when it has changed */
#define LEAST_MS  10       /* a watchdog that asks for more is not kept up with */
#define STATUS_MS 500      /* between two status lines */
#define EXTEND_US 10000000 /* at each sign of life of a drain */
#define TEXT_MAX  256
#define WAITING   8 /* messages that systemd had no room for; then the oldest give way */

static struct {
    int fd; /* -1: nobody listens */
    struct sockaddr_un to;
    socklen_t to_len;
    uint64_t watchdog_us; /* 0: none */
    uint32_t state;       /* as told */
    char status[TEXT_MAX];
    uint64_t status_ms; /* when that was told */
    char waiting[WAITING][TEXT_MAX];
    unsigned nwaiting;
} the_notify = { .fd = -1 };

/* ---- The socket ------------------------------------------------------------------------------ */

/* "/path" or "@abstract", as systemd passes them. */
static int read_address(const char *text)
{
    size_t len = strlen(text);
    struct sockaddr_un *to = &the_notify.to;
    if ((text[0] != '/' && text[0] != '@') || len < 2 || len >= sizeof to->sun_path)
        return -1;
    to->sun_family = AF_UNIX;
    memcpy(to->sun_path, text, len);
    the_notify.to_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (text[0] == '@')
        to->sun_path[0] = '\0';
    else
        the_notify.to_len++;
    return 0;
}

/* 0: none, or it is another process's. */
static uint64_t read_watchdog(const char *usec, const char *pid)
{
    uint64_t us, whose;
    if (usec == NULL || str_to_u64(str_of(usec), &us) != 0)
        return 0;
    if (pid != NULL && (str_to_u64(str_of(pid), &whose) != 0 || whose != (uint64_t)getpid()))
        return 0;
    return us;
}

void notify_open(void)
{
    const char *address = getenv("NOTIFY_SOCKET");
    if (address != NULL && read_address(address) == 0)
        the_notify.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (address != NULL && the_notify.fd < 0)
        log_msg(LOG_WARN, "config",
                "NOTIFY_SOCKET is not used: \"%.200s\" is no /path and no @name", address);
    if (the_notify.fd >= 0)
        the_notify.watchdog_us = read_watchdog(getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

unsigned notify_every_ms(void)
{
    uint64_t half = the_notify.watchdog_us / 2000;
    if (the_notify.fd < 0)
        return 0;
    if (the_notify.watchdog_us == 0 || half > EVERY_MS)
        return EVERY_MS;
    return half > LEAST_MS ? (unsigned)half : LEAST_MS;
}

/* False: there is no room now. A socket that is gone is nobody to tell. */
static bool send_now(const char *text)
{
    ssize_t n;
    do
        n = sendto(the_notify.fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
                   (const struct sockaddr *)&the_notify.to, the_notify.to_len);
    while (n < 0 && errno == EINTR);
    return n >= 0 || (errno != EAGAIN && errno != ENOBUFS);
}

bool notify_flush(void)
{
    unsigned sent = 0;
    while (sent < the_notify.nwaiting && send_now(the_notify.waiting[sent]))
        sent++;
    the_notify.nwaiting -= sent;
    memmove(the_notify.waiting, the_notify.waiting[sent], the_notify.nwaiting * TEXT_MAX);
    return the_notify.nwaiting > 0;
}

/* In its order, behind what waits. */
static void tell(const char *text)
{
    if (!notify_flush() && send_now(text))
        return;
    if (the_notify.nwaiting == WAITING) {
        memmove(the_notify.waiting, the_notify.waiting[1], (WAITING - 1) * TEXT_MAX);
        the_notify.nwaiting--;
    }
    snprintf(the_notify.waiting[the_notify.nwaiting++], TEXT_MAX, "%s", text);
}

/* ---- What it is told ------------------------------------------------------------------------- */

static void tell_state(uint32_t state, uint64_t since_us)
{
    char text[TEXT_MAX] = "STOPPING=1";
    if (state == the_notify.state || state == VITALS_STARTING || the_notify.state == VITALS_LEAVING)
        return;
    if (state == VITALS_SERVING)
        snprintf(text, sizeof text, "READY=1\nMAINPID=%d", (int)getpid());
    else if (state == VITALS_RELOADING)
        snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
                 (unsigned long long)since_us);
    tell(text);
    the_notify.state = state;
}

static void tell_status(const char *status)
{
    char text[TEXT_MAX];
    if (strcmp(the_notify.status, status) == 0)
        return;
    snprintf(the_notify.status, sizeof the_notify.status, "%s", status);
    snprintf(text, sizeof text, "STATUS=%.240s", status);
    tell(text);
    the_notify.status_ms = clock_ms();
}

static void describe(const struct vitals *v, char *out, size_t size)
{
    static const char *const names[] = { "starting: ", "", "reloading: ", "draining" };
    bool leaving = v->state == VITALS_LEAVING;
    snprintf(out, size, "%s%s%s%sgeneration %llu, %llu in flight, %u plugin%s%s", names[v->state],
             leaving ? " (" : "", leaving ? v->drain : "", leaving ? "): " : "",
             (unsigned long long)v->generation, (unsigned long long)v->in_flight, v->plugins,
             v->plugins == 1 ? "" : "s", v->live ? "" : "; a worker is stuck");
}

/* What only counts now, and comes again: not kept for later. */
static void tell_alive(void)
{
    char text[64];
    if (the_notify.nwaiting > 0)
        return;
    if (the_notify.watchdog_us > 0)
        send_now("WATCHDOG=1");
    if (the_notify.state == VITALS_LEAVING) {
        snprintf(text, sizeof text, "EXTEND_TIMEOUT_USEC=%d", EXTEND_US);
        send_now(text);
    }
}

void notify_vitals(const struct vitals *v)
{
    char status[TEXT_MAX];
    bool soon = clock_ms() - the_notify.status_ms < STATUS_MS;
    if (the_notify.fd < 0)
        return;
    soon = soon && v->state != VITALS_LEAVING && the_notify.state != VITALS_STARTING;
    if (v->state == VITALS_RELOADING && the_notify.state != VITALS_RELOADING)
        soon = true; /* most have ended before anybody could read it */
    notify_flush();
    tell_state(v->state, v->since_us);
    describe(v, status, sizeof status);
    if (!soon)
        tell_status(status);
    if (v->live)
        tell_alive();
}

void notify_leaving(void)
{
    if (the_notify.fd >= 0)
        tell_state(VITALS_LEAVING, 0);
}

void notify_restarting(const char *status)
{
    if (the_notify.fd < 0)
        return;
    if (the_notify.state != VITALS_LEAVING)
        the_notify.state = VITALS_STARTING;
    tell_status(status);
}
