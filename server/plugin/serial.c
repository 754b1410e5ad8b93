/* See serial.h. */
#include "plugin/serial.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct serial {
    struct serial *next; /* all of them, newest first */
    char *plugin;
    pthread_mutex_t lock;
    bool taken;          /* protected by lock */
    struct list waiting; /* protected by lock */
};

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct serial *all; /* protected by all_lock */

static struct serial *make(const char *plugin)
{
    struct serial *s = calloc(1, sizeof *s);
    if (!s || !(s->plugin = strdup(plugin))) {
        free(s);
        return NULL;
    }
    pthread_mutex_init(&s->lock, NULL);
    list_init(&s->waiting);
    s->next = all;
    all = s;
    return s;
}

struct serial *serial_of(const char *plugin)
{
    pthread_mutex_lock(&all_lock);
    struct serial *s = all;
    while (s && strcmp(s->plugin, plugin) != 0)
        s = s->next;
    if (!s)
        s = make(plugin);
    pthread_mutex_unlock(&all_lock);
    return s;
}

NOINLINE bool serial_enter(struct serial *s, struct serial_waiter *w)
{
    pthread_mutex_lock(&s->lock);
    bool mine = !s->taken;
    s->taken = true;
    if (!mine)
        list_add_tail(&s->waiting, &w->node);
    pthread_mutex_unlock(&s->lock);
    return mine;
}

bool serial_try(struct serial *s)
{
    pthread_mutex_lock(&s->lock);
    bool mine = !s->taken;
    s->taken = true;
    pthread_mutex_unlock(&s->lock);
    return mine;
}

NOINLINE void serial_leave(struct serial *s)
{
    pthread_mutex_lock(&s->lock);
    struct list *next = list_pop(&s->waiting);
    s->taken = next != NULL; /* handed over, not given up, where somebody waits */
    pthread_mutex_unlock(&s->lock);
    if (next) {
        struct serial_waiter *w = list_entry(next, struct serial_waiter, node);
        w->granted(w);
    }
}

struct blocked {
    struct serial_waiter waiter;
    pthread_mutex_t lock;
    pthread_cond_t turn;
    bool granted;
};

static void wake_blocked(struct serial_waiter *w)
{
    struct blocked *b = container_of(w, struct blocked, waiter);
    pthread_mutex_lock(&b->lock);
    b->granted = true;
    pthread_cond_signal(&b->turn);
    pthread_mutex_unlock(&b->lock);
}

void serial_enter_pool(struct serial *s)
{
    struct blocked b = { .waiter = { .granted = wake_blocked },
                         .lock = PTHREAD_MUTEX_INITIALIZER,
                         .turn = PTHREAD_COND_INITIALIZER };
    if (serial_enter(s, &b.waiter))
        return;
    pthread_mutex_lock(&b.lock);
    while (!b.granted)
        pthread_cond_wait(&b.turn, &b.lock);
    pthread_mutex_unlock(&b.lock);
    pthread_cond_destroy(&b.turn);
    pthread_mutex_destroy(&b.lock);
}
