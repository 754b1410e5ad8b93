/* Between supervisor*.c only. */
#ifndef GRAFT_RUN_SUPERVISOR_PRIVATE_H
#define GRAFT_RUN_SUPERVISOR_PRIVATE_H

#include "base/root.h"
#include "run/crash_area.h"
#include "run/server.h"
#include "run/supervisor_state.h"
#include "run/supervisor_wire.h"
#include "run/symbolize.h"

/* One server process. */
struct child {
    pid_t pid; /* 0: none */
    int wire;  /* -1: closed */
    struct crash_area *area;
    int area_fd; /* the same memory; -1: none */
    uint64_t started_ms, first_seq;
    bool ready;
    bool leaving;     /* it was told to end, or said so */
    bool told;        /* its crash was logged */
    char version[64]; /* of graftd, as it said; "": not ready yet */
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

/* What another process is started with. */
struct launch {
    int exe, config_fd, state_lock;
    unsigned workers;
    const struct listeners *listeners;
    const struct supervisor_blocks *blocks;
    int stderr_fd; /* -1: ours */
    bool standby;
    const struct root_ids *user; /* whom it is to be; NULL: whom we work as */
    uint64_t seq;                /* the last number of a staged copy that may be taken */
};

/* One that another has taken the place of, and that finishes what it began. */
#define OLD_MAX 4
struct old {
    struct child child;          /* pid 0: none */
    struct listeners *listeners; /* the set it knows; what goes on with others is -1 in it */
    uint64_t until_ms;           /* SIGKILL then: its drain has a deadline of its own */
    uint64_t last_seq;
};

/* supervisor_upgrade.c. OVER: the new one serves; it remains to become the new program, to answer.
 */
enum upgrade_phase { UP_OFF, UP_STARTING, UP_YIELDING, UP_SERVING, UP_OVER, UP_FAILED };
struct supervisor_upgrade {
    enum upgrade_phase phase;
    struct child next; /* until it serves; FAILED: until it is reaped */
    struct listeners *listeners;
    struct config *config;
    int config_fd, exe;
    int state_lock; /* of another state_dir; -1: the same */
    unsigned workers;
    struct user user;      /* whom the new process is */
    struct root_ids *ids;  /* NULL: nobody but whom we work as could be become */
    struct root_gift gift; /* what became that user's, to be taken back on failure */
    /* "": nobody but root could have written that program, the configuration; else why. */
    struct err foreign, foreign_config;
    struct supervisor_blocks blocks;
    char path[PATH_MAX];
    bool can_follow; /* the new program understands our state */
    int err_fd;      /* what it writes to stderr until it serves; -1: nothing */
    char said[2048]; /* the end of that */
    size_t nsaid;
    uint64_t began_ms, until_ms;
    int32_t old_pid, new_pid; /* who is to be answered; whom it is about */
    char old_version[64], new_version[64], note[256];
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
    unsigned unspawned;      /* tries in a row to make a process at all */
    uint64_t restart_at_ms;  /* 0: no start is waited for */
    uint64_t sweep_at_ms;    /* 0: nothing that the dead have staged is left */
    uint64_t kill_at_ms;     /* 0: nobody is in a hurry */
    int kill_signo;
    struct signals_stop stop;
    struct wire_crashed crashed; /* the last one, for the next process */
    bool after_crash;
    struct supervisor_blocks blocks;
    struct old old[OLD_MAX];
    struct supervisor_upgrade up;
    char path[PATH_MAX];    /* what serves; an upgrade may have named another one */
    char program[PATH_MAX]; /* what we were started from: that alone is ever run with root's rights
                             */
    int ended;              /* the server's exit status; -1: none */
    uint64_t seq;           /* the last number of a staged copy that any of them may have used */
    int exit_status;        /* -1: go on */
};

/* supervisor.c: by the wire; by a plain signal when that is full, because the server does not read.
   False: there is nobody, or it is dead. */
bool supervisor_pass_to(const struct child *c, int signo);
/* Acts on what all of them have said, at most so many messages of each. */
void supervisor_listen(struct supervisor *sv, int most);

/* supervisor_life.c. */
void supervisor_start(struct supervisor *sv);         /* the next server process, or a later try */
void supervisor_child_crashed(struct supervisor *sv); /* it wrote down why, and dies */
void supervisor_reap(struct supervisor *sv);          /* all that have died */
/* Removes what one that ended has staged, numbers above `first` up to `last`, and what could not be
   removed earlier; what cannot be is tried again a second later. */
void supervisor_sweep(struct supervisor *sv, uint64_t first, uint64_t last);
/* Whether there are others than the one that serves: old ones, one in waiting. */
bool supervisor_old_ones(const struct supervisor *sv);
/* The last number of a copy that it may have made. */
uint64_t supervisor_last_seq(const struct child *c);

/* supervisor_spawn.c: starts `c` and hands it everything. -1: it is not there. */
int supervisor_spawn(struct supervisor *sv, struct child *c, const struct launch *how,
                     struct err *err);
void supervisor_forget(struct child *c); /* closes and unmaps what belonged to it */

/* supervisor_shared.c: a WIRE_SHARED of the server, and all of them for the next one, who has until
   then to take them. */
void supervisor_take_block(struct supervisor_blocks *bs, struct wire_message *m);
int supervisor_hand_blocks(const struct supervisor_blocks *bs, int wire, uint64_t until_ms);
int supervisor_copy_blocks(struct supervisor_blocks *to, const struct supervisor_blocks *from);
bool supervisor_add_block(struct supervisor_blocks *bs, const struct shared_key *key, int fd);
void supervisor_free_blocks(struct supervisor_blocks *bs);

/* supervisor_prepare.c: fills `up` with what the next process is started with, and takes all of it
   back. The point of no return: what the user before has made is passed on to the one that the next
   process is, and we work as that one, too. */
int supervisor_prepare(struct supervisor *sv, struct wire_message *m, struct err *err);
void supervisor_unprepare(struct supervisor *sv);
void supervisor_change_user(struct supervisor *sv);

/* supervisor_upgrade.c. What the serving process, the one in waiting and old ones say; all return
   false for what is not theirs to say. */
void supervisor_upgrade_begin(struct supervisor *sv, struct wire_message *m);
void supervisor_upgrade_yielded(struct supervisor *sv);
void supervisor_upgrade_serving(struct supervisor *sv);
void supervisor_upgrade_next_said(struct supervisor *sv, struct wire_message *m);
/* Nothing is changed, and whoever asked is told; without an upgrade that can still fail: nothing.
 */
void supervisor_upgrade_fail(struct supervisor *sv, const char *why);
bool supervisor_upgrade_ended(struct supervisor *sv, pid_t pid, int status); /* was it the next? */
void supervisor_upgrade_clock(struct supervisor *sv, uint64_t now);
uint64_t supervisor_upgrade_wakes(const struct supervisor *sv); /* 0: no need */
void supervisor_upgrade_read(struct supervisor *sv);            /* its stderr */
void supervisor_upgrade_answer(struct supervisor *sv);          /* OVER: the last step */
void supervisor_closes(struct listeners *ls, const struct wire_close *which);

/* supervisor_exec.c: becomes the program at sv->exe, in place. Returns when it cannot: why. */
void supervisor_exec(struct supervisor *sv, struct err *err);
/* We are that program: 0, all is as it was; 1: we are not; -1: what was handed over is unfit. */
int supervisor_resume(struct supervisor *sv, struct err *err);
void supervisor_own_path(char out[PATH_MAX]); /* what this program was started from */

/* supervisor_symbols.c: what symbolize.h finds, `all` or the staged file alone; nothing when it
   cannot be found, within 10 s. */
void supervisor_names(const struct crash_frame *f, const struct crash_area *area, const char *stage,
                      bool all, struct symbolized *out);

/* supervisor_crash.c: whose code it was, for the next process. `status` as of waitpid, or -1: it
   still dies. */
void supervisor_identify(struct supervisor *sv, const struct child *c, int status);
/* The `crash` event, once. */
void supervisor_crash(struct supervisor *sv, struct child *c, int status);

#endif
