/*
 * A stack for signal handlers, one for each thread that may run foreign code: a thread whose own
 * stack is full can still say so. With a guard page below. It is had before there is a thread that
 * would need it: a crash of one without could not be told, and what crashed would not be barred.
 */
#ifndef GRAFT_BASE_ALTSTACK_H
#define GRAFT_BASE_ALTSTACK_H

/* NULL: no memory. Any thread. */
void *altstack_new(void);
void altstack_free(void *map); /* one that is not used; takes NULL */

/* For the calling thread, from now on; -1: none was given, or the kernel refuses it (which frees
   it): errno. A thread that has one keeps that, and frees this one. */
int altstack_use(void *map);
void altstack_drop(void); /* before the thread ends; what was in use before is again */

#endif
