/* Checks, and their lines in TAP on stdout. */
#include "bottle.h"

#include <stdio.h>
#include <string.h>

static unsigned tests, failed;

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

/* A text as one line of comment, cut when it is long. */
static void show(const char *name, const char *text, size_t len)
{
    printf("#   %s ", name);
    for (size_t i = 0; text != NULL && i < len && i < 300; i++)
        printf((unsigned char)text[i] < 0x20 || text[i] == 0x7f ? "\\x%02x" : "%c",
               (unsigned char)text[i]);
    printf("%s\n", text == NULL ? "nothing (absent)" : len > 300 ? "..." : "");
}

bool graft_test_is_text(graft_str got, const char *want, const char *file, int line,
                        const char *what)
{
    bool same = (got.ptr == NULL) == (want == NULL);
    if (same && want != NULL)
        same = strlen(want) == got.len && memcmp(got.ptr, want, got.len) == 0;
    if (!graft_test_ok(same, file, line, what)) {
        show("got", got.ptr, got.len);
        show("expected", want, want ? strlen(want) : 0);
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
    settle();
    if (clients.next != NULL)
        while (!list_empty(&clients))
            graft_test_forget(list_entry(clients.next, graft_test_req, node));
    graft_test_hold_pool(false);
    plugins_end();
    blame_end();
    printf("1..%u\n", tests);
    fflush(stdout);
    return failed > 0;
}
