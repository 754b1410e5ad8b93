/*
 * The server process's end of the wire to its supervisor: what it is handed at the start, and what
 * it tells. Control thread. Functions that tell take NULL: a server without a supervisor.
 */
#ifndef GRAFT_RUN_BOSS_H
#define GRAFT_RUN_BOSS_H

#include "run/server.h"
#include "run/supervisor_wire.h"

/* main's first lines: reads the variable and removes it. The descriptor; -1: we were started by
   somebody else; -2: by a supervisor that is gone. */
int boss_from_environment(void);

/* Takes over what the supervisor holds (sockets, stage folder, crash area), into `s`, and the text
   of the configuration (NULL in *text: there is no file). Waits for a bounded time. */
int boss_take(struct server *s, int fd, struct buf *text, struct err *err);

/* What else the supervisor says, from inside boss_next; false: it does not belong there. */
typedef bool boss_fn(void *arg, struct wire_message *m);
void boss_listen(struct boss *boss, boss_fn *fn, void *arg);
bool boss_is_standby(const struct boss *boss); /* another process serves, until WIRE_SERVE */

/* The next signal that the supervisor passes on; 0: none now; -1: the supervisor is gone, once. */
int boss_next(struct boss *boss);
int boss_fd(const struct boss *boss);
bool boss_is_up(const struct boss *boss);

void boss_log_crashed(const struct boss *boss); /* why this process was started, if by a crash */
bool boss_after_crash(const struct boss *boss);
/* What the process before has crashed in, and by which signal; NULL: no crash, or nobody knows. */
const struct wire_crashed *boss_crashed(const struct boss *boss);
void boss_ready(struct boss *boss);
void boss_tell(struct boss *boss, enum wire_type type); /* one without a body */
int boss_ask_upgrade(struct boss *boss, const char *binary, const struct config *c,
                     struct err *err);
void boss_leaving(struct boss *boss); /* it ends because it was told to */
void boss_vitals(struct boss *boss, const struct vitals *v);
unsigned boss_vitals_ms(const struct boss *boss);            /* 0: nobody wants them */
void boss_closing(struct boss *boss, unsigned count);        /* all listeners, now */
void boss_config(struct boss *boss, const struct config *c); /* it serves from now on */
void boss_reopen(struct boss *boss);
void boss_keep_blocks(struct boss *boss); /* graft_shared's: before the first load */

#endif
