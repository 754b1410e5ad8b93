/* A thread of init's, named "outlives", still runs when fini has returned: the version is stuck. */
#define SIN "thread_outlives"
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <graft/graft.h>

#include <pthread.h>
#include <unistd.h>

static void *live(void *arg)
{
    (void)arg;
    for (;;)
        pause();
    return NULL;
}

static int init(graft_self *self, void **state)
{
    pthread_t thread;
    *state = NULL;
    if (pthread_create(&thread, NULL, live, NULL) != 0)
        return graft_fail(self, "no thread");
    pthread_setname_np(thread, "outlives");
    pthread_detach(thread);
    return 0;
}

#define INIT init
#include "sin.h"
