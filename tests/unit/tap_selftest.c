/*
 * Proves that the runner can fail: every case of tap_bad, the program beside this one, must be
 * reported as "not ok" with exit status 1, except "passes".
 */
#include "tap.h"

/* What tap_bad said about one of its cases: its TAP line; its exit status is the return value. */
static int run_bad(const char *name, char line[256])
{
    char self[4096] = "", command[4400];
    must(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    *strrchr(self, '/') = '\0';
    snprintf(command, sizeof command, "'%s/tap_bad' %s 2>/dev/null", self, name);
    FILE *out = popen(command, "r");
    must(out != NULL);
    if (fgets(line, 256, out) == NULL)
        line[0] = '\0';
    while (fgetc(out) != EOF)
        ;
    int status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void fails(const char *name)
{
    char line[256], want[256];
    is(run_bad(name, line), 1);
    snprintf(want, sizeof want, "not ok 1 - %s\n", name);
    is_str(line, want);
}

TEST(a_check_that_does_not_hold_fails)
{
    fails("check_fails");
    fails("number_differs");
    fails("string_differs");
    fails("must_ends_the_case");
}

TEST(a_descriptor_left_open_fails)
{
    fails("leaves_a_descriptor");
}

TEST(a_crash_fails)
{
    fails("crashes");
    fails("crashes_with_a_folder");
}

/* tap_bad says on stderr where its file was. */
TEST(the_folder_of_a_case_that_crashed_is_removed)
{
    char self[4096] = "", command[4400], path[256];
    must(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    *strrchr(self, '/') = '\0';
    snprintf(command, sizeof command, "'%s/tap_bad' crashes_with_a_folder 2>&1 >/dev/null", self);
    FILE *out = popen(command, "r");
    must(out != NULL && fgets(path, sizeof path, out) != NULL);
    while (fgetc(out) != EOF)
        ;
    pclose(out);
    path[strcspn(path, "\n")] = '\0';
    must(strncmp(path, "/tmp/", 5) == 0);
    is(access(path, F_OK), -1);
    *strrchr(path, '/') = '\0';
    is(access(path, F_OK), -1);
}

TEST(an_early_exit_fails)
{
    fails("exits_early");
}

TEST(a_hang_fails)
{
    fails("hangs");
}

TEST(a_good_case_passes)
{
    char line[256];
    is(run_bad("passes", line), 0);
    is_str(line, "ok 1 - passes\n");
}

TEST(no_case_at_all_fails)
{
    char line[256];
    is(run_bad("no_such_case", line), 1);
    is_str(line, "1..0\n");
}
