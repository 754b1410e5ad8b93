/* The character classes spelled out again, and the questions about response fields. */
#include "tap.h"

#include "http/field.h"

static unsigned expected(unsigned c)
{
    static const char alnum[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    bool an = c != 0 && strchr(alnum, (int)c) != NULL;
    unsigned classes = 0;
    if (an || (c != 0 && strchr("!#$%&'*+-.^_`|~", (int)c)))
        classes |= FIELD_TOKEN;
    if (c == '\t' || (c >= 0x20 && c != 0x7f))
        classes |= FIELD_VALUE;
    if (c > 0x20 && c < 0x7f)
        classes |= FIELD_TARGET;
    if (an || (c != 0 && strchr("-._~!$&'()*+,;=", (int)c)))
        classes |= FIELD_HOST;
    return classes;
}

TEST(classes_are_those_of_the_rfcs)
{
    for (unsigned c = 0; c < 256; c++)
        if (!is(field_class[c], expected(c)))
            fprintf(stderr, "# character 0x%02x\n", c);
}

TEST(names_are_tokens)
{
    ok(field_name_ok("X-Request-ID", 12));
    ok(!field_name_ok("", 0));
    ok(!field_name_ok("X Y", 3));
    ok(!field_name_ok("X:", 2));
    ok(!field_name_ok("X\r\n", 3));
    ok(!field_name_ok("X\0", 2));
    ok(!field_name_ok("Gr\xc3\xbc", 4));
}

TEST(values_hold_no_control)
{
    ok(field_value_ok("", 0));
    ok(field_value_ok("a\tb \xc3\xbc", 6));
    ok(!field_value_ok("a\rb", 3));
    ok(!field_value_ok("a\nb", 3));
    ok(!field_value_ok("a\0b", 3));
    ok(!field_value_ok("a\x7f", 2));
    ok(!field_value_ok("\x1b[31m", 5));
}

TEST(lists_are_searched_by_element)
{
    ok(field_list_has(STR("close"), "close"));
    ok(field_list_has(STR("foo, CLOSE"), "close"));
    ok(field_list_has(STR(",, \tclose\t ,"), "close"));
    ok(!field_list_has(STR("closed, not-close, clos"), "close"));
    ok(!field_list_has(STR(""), "close"));
    ok(!field_list_has(STR("clo,se"), "close"));
}

TEST(trim_takes_both_ends_only)
{
    ok(str_eq(field_trim(STR(" \ta b\t ")), STR("a b")));
    is(field_trim(STR(" \t ")).len, 0);
}

TEST(framing_owns_its_fields)
{
    is(field_owner(STR("connection")), FIELD_CONNECTION);
    is(field_owner(STR("TRANSFER-ENCODING")), FIELD_FRAMING);
    is(field_owner(STR("Keep-Alive")), FIELD_FRAMING);
    is(field_owner(STR("Upgrade")), FIELD_FRAMING);
    is(field_owner(STR("Trailer")), FIELD_FRAMING);
    is(field_owner(STR("Content-Length")), FIELD_CONTENT_LENGTH);
    is(field_owner(STR("Date")), FIELD_DATE);
    is(field_owner(STR("Server")), FIELD_SERVER);
    is(field_owner(STR("Content-Type")), FIELD_FREE);
    is(field_owner(STR("Trailers")), FIELD_FREE);
}
