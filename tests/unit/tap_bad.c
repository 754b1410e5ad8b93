/*
 * Cases that must fail, each in a way of its own. tap_selftest runs them one by one: a runner that
 * lets one of them pass proves nothing about any other test. Never run by "make check" itself.
 */
#include "so.h"

TEST(check_fails)
{
    ok(1 + 1 == 3);
}

TEST(number_differs)
{
    is(2, 3);
}

TEST(string_differs)
{
    is_str("a", NULL);
}

TEST(must_ends_the_case)
{
    must(getpid() == 0);
    exit(0);
}

TEST(leaves_a_descriptor)
{
    ok(open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0);
}

TEST(crashes)
{
    abort();
}

TEST(crashes_with_a_folder)
{
    fprintf(stderr, "%s\n", so_path("file"));
    so_write(so_path("file"), "x", 1);
    abort();
}

TEST(exits_early)
{
    exit(0);
}

TEST_WITHIN(hangs, 1)
{
    for (;;)
        pause();
}

TEST(passes)
{
    ok(true);
}
