/*
 * A stack for signal handlers, one for each thread that may run foreign code: a thread whose own
 * stack is full can still say so. With a guard page below.
 */
#ifndef GRAFT_BASE_ALTSTACK_H
#define GRAFT_BASE_ALTSTACK_H

/* For the calling thread, from now on. Without memory it stays without one: what a fault then
   costs is the report. */
void altstack_use(void);
void altstack_drop(void); /* before the thread ends; what was in use before is again */

#endif
