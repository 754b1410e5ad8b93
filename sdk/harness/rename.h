/*
 * Put before every file of the engine (gcc -include): the clock, libevent's loop and chance are
 * ours. Nothing else of the server's code is changed. GRAFT_CHECKS: calls on wrong threads are
 * found.
 */
#ifndef GRAFT_HARNESS_RENAME_H
#define GRAFT_HARNESS_RENAME_H

#ifndef GRAFT_CHECKS
#define GRAFT_CHECKS 1
#endif
#define clock_gettime bottle_clock_gettime
#define event_active  bottle_event_active
#define event_add     bottle_event_add
#define event_assign  bottle_event_assign
#define event_del     bottle_event_del
#define event_free    bottle_event_free
#define event_new     bottle_event_new
#define getrandom     bottle_getrandom

#endif
