/*
 * What systemd is told (sd_notify's protocol), by the process that it started: the supervisor, or
 * the only one. Owns NOTIFY_SOCKET and WATCHDOG_*: they leave the environment before anything else
 * runs, so neither the server process nor a plugin's child has them. A send never waits: systemd
 * may be busy, and a supervisor that waits for it starts nothing again. That, and that it reads the
 * environment at each call, is why it is not sd_notify itself. One thread: the supervisor's, or the
 * control thread.
 *
 *   STARTING -> SERVING <-> RELOADING       READY=1, RELOADING=1, READY=1
 *                  `----------`-> LEAVING   STOPPING=1; a process that follows a crash: READY=1
 */
#ifndef GRAFT_RUN_NOTIFY_H
#define GRAFT_RUN_NOTIFY_H

#include "base/base.h"

enum vitals_state { VITALS_STARTING, VITALS_SERVING, VITALS_RELOADING, VITALS_LEAVING };

/* What the server process says of itself, at every change of `state` and every notify_every_ms. */
struct vitals {
    uint32_t state;
    uint32_t live;     /* as /livez */
    uint64_t since_us; /* CLOCK_MONOTONIC of the state's begin */
    uint64_t generation, in_flight;
    uint32_t plugins;
    char drain[16]; /* LEAVING: the drain's phase */
};

/* Takes the variables out of the environment. Before there is another thread. */
void notify_open(void);
/* How often vitals are wanted: never later than half of WATCHDOG_USEC. 0: by nobody. */
unsigned notify_every_ms(void);

void notify_vitals(const struct vitals *v);
void notify_leaving(void); /* a stop signal: nothing but its end follows */
/* No server process is ready, and another one is being started: `status` says why. */
void notify_restarting(const char *status);
/* What did not fit into the socket. True: there is still something, call again in a moment. */
bool notify_flush(void);

#endif
