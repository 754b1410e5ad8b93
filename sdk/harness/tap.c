/* Checks, and their lines in TAP on stdout. */
#include "bottle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned tests, failed;
static pid_t program; /* 0: not begun, or graft_test_end() has been called */
static bool ended;

/* Without graft_test_end() nobody has looked at what is owed; a status of 0 would hide that. */
static void at_exit(void)
{
    char what[300];
    if (program != getpid()) /* a child that somebody forked */
        return;
    if (blame_running(what, sizeof what))
        give_up("exit() was called in %s", what);
    give_up("the program ended without graft_test_end(): expected it last in main");
}

void tap_open(void)
{
    program = getpid();
    if (atexit(at_exit) != 0)
        give_up("no memory for atexit");
}

void tap_line(bool held, const char *what)
{
    printf("%sok %u - %s\n", held ? "" : "not ", ++tests, what);
    failed += !held;
    fflush(stdout);
}

bool graft_test_ok(bool held, const char *file, int line, const char *what)
{
    tap_line(held, what);
    if (!held)
        printf("#   at %s:%d\n", file, line);
    return held;
}

bool graft_test_is(long long got, long long want, const char *file, int line, const char *what)
{
    if (!graft_test_ok(got == want, file, line, what))
        printf("#   got %lld, expected %lld\n", got, want);
    return got == want;
}

void tap_comment(const char *name, const char *text, size_t len)
{
    printf("#   %s ", name);
    for (size_t i = 0; text != NULL && i < len && i < 300; i++)
        printf((unsigned char)text[i] < 0x20 || text[i] == 0x7f ? "\\x%02x" : "%c",
               (unsigned char)text[i]);
    printf("%s\n", text == NULL ? "nothing (absent)" : len > 300 ? "..." : "");
    fflush(stdout);
}

bool graft_test_is_text(graft_str got, const char *want, const char *file, int line,
                        const char *what)
{
    bool same = (got.ptr == NULL) == (want == NULL);
    if (same && want != NULL)
        same = strlen(want) == got.len && memcmp(got.ptr, want, got.len) == 0;
    if (!graft_test_ok(same, file, line, what)) {
        tap_comment("got", got.ptr, got.len);
        tap_comment("expected", want, want ? strlen(want) : 0);
    }
    return same;
}

bool graft_test_is_str(const char *got, const char *want, const char *file, int line,
                       const char *what)
{
    graft_str text = { got, got ? strlen(got) : 0 };
    return graft_test_is_text(text, want, file, line, what);
}

/* The server's clients leave, time passes, plugins end: who owes something then is named. */
int graft_test_end(void)
{
    bottle_enter("graft_test_end");
    if (ended)
        give_up("graft_test_end was called twice");
    settle();
    if (clients.next != NULL)
        while (!list_empty(&clients))
            graft_test_forget(list_entry(clients.next, graft_test_req, node));
    graft_test_hold_pool(false);
    plugins_end();
    blame_end();
    ended = true;
    program = 0;
    printf("1..%u\n", tests);
    fflush(stdout);
    return failed > 0;
}
