/*
 * What belongs to the running process, in one struct that lives in static storage: made in the
 * order of start.c, given up by leave.c. Private to server/run. Control thread.
 */
#ifndef GRAFT_RUN_SERVER_H
#define GRAFT_RUN_SERVER_H

#include "base/config.h"
#include "base/inbox.h"
#include "base/pool.h"
#include "net/listener.h"
#include "ops/ops.h"
#include "ops/place.h"
#include "ops/web.h"
#include "options.h"
#include "plugin/probe.h"
#include "plugin/stage.h"
#include "plugin/swap.h"
#include "run/drain.h"
#include "run/signals.h"
#include "run/watchdog.h"
#include "run/worker.h"

#include <event2/event.h>
#include <event2/event_struct.h>

#define SERVER_MAGIC 0x73727672u

struct boss;

struct user {
    char name[64]; /* "" = who we were started as */
    uid_t uid;
    gid_t gid;
};

struct server {
    unsigned magic;
    const struct options *options;
    char **envp;
    struct config *config; /* until swap_open takes it */

    /* Opened before the threads start, and before another user is become. */
    struct user user;
    unsigned nworkers;
    struct listeners *listeners;
    struct place_socket control;
    struct listener ops_listener; /* fd -1: none */
    struct stage *stage;
    int state_lock;    /* of the state folder; -1: there is none */
    struct keep *keep; /* plugin/keep.h */
    struct probe *probe;

    /* The loop and what happens on it. */
    struct event_base *base;
    struct inbox inbox;
    int log_fd, signal_fd;
    struct event inbox_event, log_event, log_room_event, signal_event, reap_event, boss_event;
    struct boss *boss; /* to the supervisor; NULL: there is none */
    struct pool *pool;
    struct workers *workers;
    struct swap *swap;
    struct drain *drain;
    struct ops ops;
    struct web *ops_web, *api_web;

    struct watchdog *watchdog;
    unsigned vitals_ms; /* vitals.h; 0: nobody asks */
    unsigned reloads;   /* that were asked for and have not ended */
    struct event vitals_event;
    struct signals_stop stop;
    struct swap_ask first;
    bool first_failed;       /* it is done again, with what the store has */
    struct upgrade *upgrade; /* upgrade.c */
    struct reload *reading;  /* reload.c: configurations that are being read, oldest first */

    bool failed; /* the first load: it is being undone */
    bool leaving;
    int exit_status;
    unsigned leave_turns;
    struct event leave_event, late_event;
};

/* start.c: everything up to the first load, in its order. -1: why is in err. */
int server_start(struct server *s, struct err *err);

/* Of that, what asks for privileges and what outlives a server process: limits, sockets, the other
   user, the stage folder. The supervisor's part, if there is one. */
int server_open_held(struct server *s, struct err *err);

/* reload.c. */
void reload_signal(struct server *s, bool config); /* USR2, HUP */
void reload_verb(struct server *s, const struct ops_reload *how, struct web_request *req);
/* The configuration that serves from now on: what is not the workers' to apply. */
void reload_configured(void *arg, struct config *config);

/* leave.c. */
void leave_when_answered(struct server *s, int status); /* the drain is over */
/* The first load failed: what was loaded ends as it should, for at most some seconds; exit 1. */
void leave_undone(struct server *s);
_Noreturn void leave_now(struct server *s, int status, bool check_leaks);

/* user.c: who `user` is. */
int user_find(struct user *out, const char *name, struct err *err);
int user_become(const struct user *u, struct err *err); /* setgroups, setgid, setuid */
/* The same, with root's rights kept where they can be (base/root.h): the supervisor. */
int user_work_as(const struct user *u, struct err *err);

#endif
