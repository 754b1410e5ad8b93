/*
 * One at a time for plugins that say GRAFT_SERIAL: a turn for each plugin name, shared by all its
 * versions, taken for one callback. A worker that does not get the turn parks its request and
 * serves others; who gives the turn back hands it to the first that waits. The mutex guards the
 * queue for a few instructions and is never held across a callback. Never freed.
 */
#ifndef GRAFT_PLUGIN_SERIAL_H
#define GRAFT_PLUGIN_SERIAL_H

#include "base/list.h"

struct serial;

struct serial_waiter {
    struct list node;
    void (*granted)(struct serial_waiter *w); /* on the thread that gave the turn back: the waiter
                                                 has it now; must only send a message */
};

/* The one of that plugin name; NULL: no memory. Any thread. */
struct serial *serial_of(const char *plugin);

/* True: we have the turn. False: `w` waits in line and will be granted it. */
bool serial_enter(struct serial *s, struct serial_waiter *w);
bool serial_try(struct serial *s); /* true: we have it; else nothing waits */
void serial_leave(struct serial *s);

/* For threads that may block (the pool). */
void serial_enter_pool(struct serial *s);

#endif
