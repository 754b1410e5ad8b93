/* base/buf.h and base/str.h: growing, printing, consuming, and reading of numbers. */
#include "tap.h"

#include "base/buf.h"

TEST(zero_is_an_empty_buffer)
{
    struct buf b = { 0 };
    is(buf_str(&b).len, 0);
    is_str(buf_str(&b).ptr, "");
    buf_consume(&b, 0);
    buf_fini(&b);
}

TEST(add_grows_and_keeps_a_nul_behind)
{
    struct buf b = { 0 };
    for (int i = 0; i < 10000; i++)
        is(buf_add(&b, "abc", 3), 0);
    is(b.len, 30000);
    is(strlen(b.data), 30000);
    is(memcmp(b.data + 29997, "abc", 3), 0);
    buf_fini(&b);
    ok(b.data == NULL && b.cap == 0);
}

TEST(printf_appends_whatever_the_length)
{
    struct buf b = { 0 };
    size_t want = 0;
    for (int width = 0; width < 600; width += 7) {
        is(buf_printf(&b, "%*d", width, 5), 0);
        want += width > 1 ? (size_t)width : 1;
        is(b.len, want);
        is(b.data[b.len - 1], '5');
        is(b.data[b.len], 0);
    }
    buf_fini(&b);
}

TEST(consume_drops_the_front)
{
    struct buf b = { 0 };
    buf_puts(&b, "one two three");
    buf_consume(&b, 4);
    is_str(b.data, "two three");
    buf_consume(&b, b.len);
    is_str(b.data, "");
    buf_fini(&b);
}

TEST(impossible_sizes_fail_and_change_nothing)
{
    struct buf b = { 0 };
    buf_puts(&b, "kept");
    is(buf_reserve(&b, SIZE_MAX), -1);
    is(buf_reserve(&b, SIZE_MAX - 4), -1);
    is_str(b.data, "kept");
    buf_fini(&b);
}

TEST(numbers_are_digits_that_fit)
{
    static const char *const bad[] = { "",   "-1",  "+1",  " 1",
                                       "1 ", "0x1", "1.0", "18446744073709551616" };
    uint64_t n = 0;
    is(str_to_u64(STR("18446744073709551615"), &n), 0);
    ok(n == UINT64_MAX);
    is(str_to_u64(STR("007"), &n), 0);
    is(n, 7);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        is(str_to_u64(str_of(bad[i]), &n), -1);
    is(n, 7);
}

TEST(comparing_sees_every_byte)
{
    char x[41], y[41];
    for (size_t len = 0; len < sizeof x; len++) {
        memset(x, 'x', sizeof x);
        memset(y, 'x', sizeof y);
        y[len] = 'z'; /* behind the end */
        ok(bytes_eq(x, y, len));
        for (size_t i = 0; i < len; i++) {
            y[i] = 'X';
            if (bytes_eq(x, y, len) || !str_case_eq((struct str){ x, len }, (struct str){ y, len }))
                is(i, len);
            y[i] = 'x';
        }
    }
}

TEST(comparing_without_case_is_ascii_only)
{
    ok(str_case_eq(STR("Content-Length"), STR("cONTENT-lENGTH")));
    ok(!str_case_eq(STR("a"), STR("ab")));
    ok(!str_case_eq(STR("["), STR("{")));
    ok(!str_case_eq(STR("\xc4"), STR("\xe4")));
    ok(str_eq((struct str){ NULL, 0 }, STR("")));
}
