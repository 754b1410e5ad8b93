/*
 * Who is to blame: the log's lines are kept instead of written, each line of the event "misuse" is
 * a failed check, and a signal that ends the program is told with the callback that ran.
 */
#include "bottle.h"

#include "base/log_private.h"
#include "plugin/doing.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct text {
    struct list node;
    char line[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* threads of plugins log too */
static struct list lines, expected, misuses;             /* protected by lock */

static void add(struct list *to, const char *text, size_t len)
{
    struct text *t = malloc(sizeof *t + len + 1);
    if (t == NULL)
        give_up("no memory for the log");
    memcpy(t->line, text, len);
    t->line[len] = '\0';
    list_add_tail(to, &t->node);
}

static void clear(struct list *l)
{
    struct list *it;
    while ((it = list_pop(l)) != NULL)
        free(list_entry(it, struct text, node));
}

/* ---- The log -----------------------------------------------------------------------------------
 */

static bool was_expected(const char *line)
{
    list_each_safe (it, &expected)
        if (strstr(line, list_entry(it, struct text, node)->line) != NULL) {
            list_del(it);
            free(list_entry(it, struct text, node));
            return true;
        }
    return false;
}

/* Any thread: a misuse is told by the test's own, in tell_misuses. */
void log_out_line(const char *text, size_t len, uint64_t order_ns)
{
    (void)order_ns;
    size_t n = len > 0 && text[len - 1] == '\n' ? len - 1 : len;
    pthread_mutex_lock(&lock);
    add(&lines, text, n);
    const char *line = list_entry(lines.prev, struct text, node)->line;
    if (strstr(line, "\"event\":\"misuse\"") != NULL && !was_expected(line))
        add(&misuses, line, n);
    pthread_mutex_unlock(&lock);
    if (getenv("GRAFT_TEST_LOG") != NULL)
        fprintf(stderr, "# %.*s\n", (int)n, text);
}

unsigned graft_test_log_count(const char *text)
{
    unsigned n = 0;
    bottle_open();
    pthread_mutex_lock(&lock);
    list_each (it, &lines)
        n += strstr(list_entry(it, struct text, node)->line, text) != NULL;
    pthread_mutex_unlock(&lock);
    return n;
}

bool graft_test_logged(const char *text)
{
    return graft_test_log_count(text) > 0;
}

const char *graft_test_log_line(unsigned i)
{
    const char *line = NULL;
    bottle_open();
    pthread_mutex_lock(&lock);
    list_each (it, &lines)
        if (i-- == 0) {
            line = list_entry(it, struct text, node)->line;
            break;
        }
    pthread_mutex_unlock(&lock);
    return line;
}

void graft_test_forget_log(void)
{
    bottle_enter("graft_test_forget_log");
    pthread_mutex_lock(&lock);
    clear(&lines);
    pthread_mutex_unlock(&lock);
}

/* ---- Misuse ------------------------------------------------------------------------------------
 */

void graft_test_expect_misuse(const char *text)
{
    bottle_enter("graft_test_expect_misuse");
    pthread_mutex_lock(&lock);
    add(&expected, text, strlen(text));
    pthread_mutex_unlock(&lock);
}

void blame(const char *fmt, ...)
{
    char text[1200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&lock);
    bool wanted = was_expected(text);
    pthread_mutex_unlock(&lock);
    if (!wanted)
        tap_line(false, text);
}

/* "msg":"..." of a line, as it stands. */
static void tell(const char *line)
{
    static const char key[] = "\"msg\":\"";
    const char *from = strstr(line, key);
    const char *to = from ? strstr(from, "\",\"") : NULL;
    const char *route = strstr(line, "\"route\":\"");
    int route_len = route ? (int)strcspn(route + 9, "\"") : 0;
    char text[1200];
    from = from ? from + sizeof key - 1 : line;
    int len = to ? (int)(to - from) : (int)strlen(from);
    snprintf(text, sizeof text, "%.*s%s%.*s", len, from, route ? ", on route " : "", route_len,
             route ? route + 9 : "");
    tap_line(false, text);
}

void blame_tell(void)
{
    for (;;) {
        pthread_mutex_lock(&lock);
        struct list *it = list_pop(&misuses);
        pthread_mutex_unlock(&lock);
        if (it == NULL)
            return;
        tell(list_entry(it, struct text, node)->line);
        free(list_entry(it, struct text, node));
    }
}

void blame_end(void)
{
    blame_tell();
    list_each (it, &expected) {
        char text[600];
        snprintf(text, sizeof text,
                 "a breach of the contract was expected and has not come: %.400s",
                 list_entry(it, struct text, node)->line);
        tap_line(false, text);
    }
    clear(&expected);
    clear(&lines);
}

/* ---- Crashes -----------------------------------------------------------------------------------
 */

bool blame_running(char *out, size_t size)
{
    const struct version *v = doing_now.version;
    const char *callback = doing_now.callback, *route = doing_now.route;
    if (v == NULL && loop_current != NULL) {
        v = loop_current->doing.version;
        callback = loop_current->doing.callback;
        route = loop_current->doing.route;
    }
    if (v == NULL)
        return false;
    snprintf(out, size, "%s of plugin %s %s%s%s", callback, v->plugin,
             v->desc.version ? v->desc.version : "", route ? ", route " : "", route ? route : "");
    return true;
}

/* snprintf is not for signal handlers, but this process has nothing left to lose. */
static void on_crash(int sig)
{
    char what[300], text[500];
    if (!blame_running(what, sizeof what))
        snprintf(what, sizeof what, "no callback of a plugin on this thread");
    int len = snprintf(text, sizeof text, "\nnot ok - %s: in %s\n", strsignal(sig), what);
    if (write(STDOUT_FILENO, text, (size_t)len) < 0)
        _exit(2);
    raise(sig); /* SA_RESETHAND: as without us, with its core */
}

void blame_open(void)
{
    static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
    list_init(&lines);
    list_init(&expected);
    list_init(&misuses);
    atomic_store(&log_json_now, 1);
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        struct sigaction was, ours = { .sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND };
        if (sigaction(signals[i], NULL, &was) == 0 && was.sa_handler == SIG_DFL)
            sigaction(signals[i], &ours, NULL);
    }
}
