/* Threads of our own never meet a signal: the control thread reads them from a signalfd. */
#include "base/thread.h"

#include "base/altstack.h"
#include "base/log.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void thread_signals(sigset_t *set)
{
    static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS };
    sigfillset(set);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        sigdelset(set, faults[i]);
}

struct birth {
    void *(*main)(void *arg);
    void *arg;
    void *altstack;
    char name[THREAD_NAME_SIZE];
};

static void *begin(void *arg)
{
    struct birth birth = *(struct birth *)arg;
    free(arg);
    pthread_setname_np(pthread_self(), birth.name);
    REQUIRE(altstack_use(birth.altstack) == 0);
    log_prepare(); /* without memory now, at its first line perhaps */
    void *result = birth.main(birth.arg);
    altstack_drop();
    return result;
}

static int create(struct birth *birth)
{
    sigset_t blocked, before;
    pthread_attr_t attr;
    pthread_t thread;
    thread_signals(&blocked);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &blocked, &before); /* the new thread inherits it */
    int rc = pthread_create(&thread, &attr, begin, birth);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return rc;
}

int thread_start(const char *name, void *(*main)(void *arg), void *arg, struct err *err)
{
    struct birth *birth = malloc(sizeof *birth);
    void *altstack = altstack_new();
    if (birth == NULL || altstack == NULL) {
        free(birth);
        altstack_free(altstack);
        return err_set(err, "out of memory for the thread %s", name);
    }
    *birth = (struct birth){ .main = main, .arg = arg, .altstack = altstack };
    snprintf(birth->name, sizeof birth->name, "%s", name);
    int rc = create(birth);
    if (rc != 0) {
        altstack_free(altstack);
        free(birth);
        return err_set(err, "cannot start the thread %s: %s: raise the limit of processes", name,
                       strerror(rc));
    }
    return 0;
}
