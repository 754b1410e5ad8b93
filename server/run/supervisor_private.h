/* Between supervisor*.c only. */
#ifndef GRAFT_RUN_SUPERVISOR_PRIVATE_H
#define GRAFT_RUN_SUPERVISOR_PRIVATE_H

#include "run/crash_area.h"
#include "run/server.h"
#include "run/supervisor_wire.h"

/* One server process. */
struct child {
    pid_t pid; /* 0: none */
    int wire;  /* -1: closed */
    struct crash_area *area;
    uint64_t started_ms, first_seq;
    bool ready;
    bool leaving; /* it was told to end, or said so */
    bool told;    /* its crash was logged */
};

/* A block of graft_shared, for every server process (supervisor_shared.c). */
struct supervisor_block {
    struct shared_key key;
    int fd;
};
struct supervisor_blocks {
    struct supervisor_block *all;
    size_t n;
};

#define DYING_MAX 16 /* crashed, and perhaps still writing their core */

struct supervisor {
    struct server held; /* its sockets, stage and configuration; nothing else in it is used */
    char **argv;        /* for each of them */
    int exe;            /* the program that we are, whatever lies at its path by now */
    int config_fd;      /* the text of the configuration that is in force */
    int proven_fd; /* what is known of good files (plugin/proven.h), for every server process */
    int signal_fd, log_fd;
    struct child child;
    struct child dying[DYING_MAX];
    bool served; /* a server process was ready once */
    bool hup;    /* a HUP came while none was ready: the next ones are told until one is */
    unsigned starts, in_row; /* crashes of processes that did not live crash_window_ms */
    unsigned no_spawn;       /* tries in a row for which there was no process or memory */
    uint64_t restart_at_ms;  /* 0: no start is waited for */
    uint64_t kill_at_ms;     /* 0: nobody is in a hurry */
    int kill_signo;
    struct signals_stop stop;
    struct wire_crashed crashed; /* the last one, for the next process */
    bool after_crash;
    struct supervisor_blocks blocks;
    uint64_t seq;    /* the last number of a staged copy that any of them may have used */
    int exit_status; /* -1: go on */
};

/* supervisor_spawn.c: starts sv->child and hands it everything. -1: it is not there. */
int supervisor_spawn(struct supervisor *sv, struct err *err);
void supervisor_forget(struct child *c); /* closes and unmaps what belonged to it */

/* supervisor_shared.c: a WIRE_SHARED of the server, and all of them for the next one. */
void supervisor_take_block(struct supervisor *sv, struct wire_message *m);
int supervisor_hand_blocks(const struct supervisor *sv, int wire);

/* supervisor_crash.c: whose code it was, for the next process. `status` as of waitpid, or -1: it
   still dies. */
void supervisor_identify(struct supervisor *sv, const struct child *c, int status);
/* The `crash` event, once. */
void supervisor_crash(struct supervisor *sv, struct child *c, int status);

#endif
