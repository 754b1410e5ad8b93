/*
 * /proc/self/task. A thread is its number and its start time. Threads of our own that start while
 * a plugin is being loaded (another loader, when one is stuck) are known by name here.
 */
#include "plugin/tasks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t ours_lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t ours[64]; /* protected by ours_lock; such threads never end */
static size_t nours;

void tasks_ours(void)
{
    pthread_mutex_lock(&ours_lock);
    if (nours < ARRAY_LEN(ours))
        ours[nours++] = gettid();
    pthread_mutex_unlock(&ours_lock);
}

static bool is_ours(pid_t tid)
{
    bool found = false;
    pthread_mutex_lock(&ours_lock);
    for (size_t i = 0; i < nours && !found; i++)
        found = ours[i] == tid;
    pthread_mutex_unlock(&ours_lock);
    return found;
}

static ssize_t read_small(pid_t tid, const char *name, char *out, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/%s", (int)tid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, out, size - 1);
    close(fd);
    out[n > 0 ? n : 0] = '\0';
    return n;
}

/* 0 when the thread has gone or is going. Field 22 of stat; the name before it may hold anything,
   so what counts begins behind the last ')'. */
static uint64_t started(pid_t tid)
{
    char text[1024];
    if (read_small(tid, "stat", text, sizeof text) <= 0)
        return 0;
    char *at = strrchr(text, ')');
    if (at == NULL || at[1] != ' ' || at[2] == 'Z' || at[2] == 'X')
        return 0;
    at += 2;
    for (int field = 3; field < 22; field++) {
        at = strchr(at, ' ');
        if (at == NULL)
            return 0;
        at++;
    }
    return strtoull(at, NULL, 10) + 1; /* never 0 */
}

static int append(struct tasks *t, size_t *cap, pid_t tid)
{
    if (t->n == *cap) {
        size_t more = *cap ? *cap * 2 : 32;
        struct task *list = realloc(t->list, more * sizeof *list);
        if (list == NULL)
            return -1;
        t->list = list;
        *cap = more;
    }
    t->list[t->n++] = (struct task){ .tid = tid };
    return 0;
}

/* Start times are read when they are needed: tasks_subtract. */
int tasks_list(struct tasks *out)
{
    *out = (struct tasks){ 0 };
    DIR *dir = opendir("/proc/self/task");
    if (dir == NULL)
        return -1;
    size_t cap = 0;
    int rc = 0;
    for (const struct dirent *e; rc == 0 && (e = readdir(dir)) != NULL;) {
        pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
        if (tid > 0 && !is_ours(tid))
            rc = append(out, &cap, tid);
    }
    closedir(dir);
    if (rc != 0) {
        tasks_fini(out);
        errno = ENOMEM;
    }
    return rc;
}

void tasks_fini(struct tasks *t)
{
    free(t->list);
    *t = (struct tasks){ 0 };
}

static bool has(const struct tasks *t, pid_t tid)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->list[i].tid == tid)
            return true;
    return false;
}

void tasks_subtract(struct tasks *after, const struct tasks *before)
{
    size_t kept = 0;
    for (size_t i = 0; i < after->n; i++) {
        struct task task = after->list[i];
        if (has(before, task.tid) || is_ours(task.tid) || (task.started = started(task.tid)) == 0)
            continue;
        after->list[kept++] = task;
    }
    after->n = kept;
    if (kept == 0)
        tasks_fini(after);
}

static void keep_living(struct tasks *t)
{
    size_t kept = 0;
    for (size_t i = 0; i < t->n; i++)
        if (started(t->list[i].tid) == t->list[i].started && !is_ours(t->list[i].tid))
            t->list[kept++] = t->list[i];
    t->n = kept;
}

void tasks_keep_living(struct tasks *t, unsigned ms)
{
    unsigned waited = 0, step = 1;
    keep_living(t);
    while (t->n > 0 && waited < ms) {
        nanosleep(&(struct timespec){ .tv_nsec = (long)step * 1000000 }, NULL);
        waited += step;
        step = step < 32 ? step * 2 : step;
        keep_living(t);
    }
}

static pthread_mutex_t claimed_lock = PTHREAD_MUTEX_INITIALIZER;
static struct task claimed[256]; /* protected by claimed_lock; of more, the oldest are forgotten */
static size_t nclaimed;

void tasks_claim(const struct tasks *t)
{
    pthread_mutex_lock(&claimed_lock);
    for (size_t i = 0; i < t->n; i++)
        claimed[nclaimed++ % ARRAY_LEN(claimed)] = t->list[i];
    pthread_mutex_unlock(&claimed_lock);
}

static bool is_claimed(const struct task *task)
{
    for (size_t i = 0; i < ARRAY_LEN(claimed); i++)
        if (claimed[i].tid == task->tid && claimed[i].started == task->started)
            return true;
    return false;
}

void tasks_drop_claimed(struct tasks *t)
{
    size_t kept = 0;
    pthread_mutex_lock(&claimed_lock);
    for (size_t i = 0; i < t->n; i++)
        if (!is_claimed(&t->list[i]))
            t->list[kept++] = t->list[i];
    pthread_mutex_unlock(&claimed_lock);
    t->n = kept;
}

void tasks_name(const struct task *t, char out[16])
{
    ssize_t n = read_small(t->tid, "comm", out, 16);
    if (n <= 0)
        strcpy(out, "?");
    else
        out[strcspn(out, "\n")] = '\0';
}
