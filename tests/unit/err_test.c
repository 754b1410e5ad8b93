/* base/err.h: texts that replace themselves, prefixes, and texts that are too long. */
#include "tap.h"

#include "base/err.h"

TEST(set_returns_minus_one_and_formats)
{
    struct err err;
    is(err_set(&err, "%s: expected %d, found %d", "x.so", 1, 2), -1);
    is_str(err.text, "x.so: expected 1, found 2");
}

TEST(null_is_taken)
{
    is(err_set(NULL, "nobody listens"), -1);
    is(err_prefix(NULL, "nobody"), -1);
}

TEST(arguments_may_be_the_text_itself)
{
    struct err err;
    err_set(&err, "inner");
    err_set(&err, "outer: %s (%s)", err.text, err.text);
    is_str(err.text, "outer: inner (inner)");
}

TEST(prefix_goes_before)
{
    struct err err;
    err_set(&err, "no such file");
    is(err_prefix(&err, "%s:%d", "graft.json", 7), -1);
    is_str(err.text, "graft.json:7: no such file");
}

TEST(too_long_is_cut_with_dots)
{
    struct err err;
    char big[3000];
    memset(big, 'a', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    err_set(&err, "%s", big);
    is(strlen(err.text), sizeof(err.text) - 1);
    is_str(err.text + sizeof(err.text) - 5, "a...");
    err_prefix(&err, "before");
    ok(strncmp(err.text, "before: aaa", 11) == 0);
    is(strlen(err.text), sizeof(err.text) - 1);
}
