/*
 * Threads of the plugin's own that call into the server: foreign_start() runs fn(arg) on a new one.
 * foreign_join() belongs into fini: every thread that a plugin started is joined there.
 */
#ifndef TESTS_FOREIGN_H
#define TESTS_FOREIGN_H

#include <pthread.h>
#include <stdlib.h>

struct foreign {
    struct foreign *next;
    pthread_t thread;
    void (*fn)(void *arg);
    void *arg;
};

static struct foreign *foreign_all; /* protected by foreign_lock */
static pthread_mutex_t foreign_lock = PTHREAD_MUTEX_INITIALIZER;

static void *foreign_main(void *arg)
{
    struct foreign *f = arg;
    f->fn(f->arg);
    return NULL;
}

/* 0, or -1: fn will not run. */
static int foreign_start(void (*fn)(void *arg), void *arg)
{
    struct foreign *f = malloc(sizeof *f);
    if (!f)
        return -1;
    f->fn = fn;
    f->arg = arg;
    pthread_mutex_lock(&foreign_lock);
    int rc = pthread_create(&f->thread, NULL, foreign_main, f);
    if (rc == 0) {
        f->next = foreign_all;
        foreign_all = f;
    }
    pthread_mutex_unlock(&foreign_lock);
    if (rc != 0)
        free(f);
    return rc == 0 ? 0 : -1;
}

static void foreign_join(void)
{
    pthread_mutex_lock(&foreign_lock);
    struct foreign *f = foreign_all;
    foreign_all = NULL;
    pthread_mutex_unlock(&foreign_lock);
    while (f) {
        struct foreign *next = f->next;
        pthread_join(f->thread, NULL);
        free(f);
        f = next;
    }
}

#endif
