/* base/json.h: what is JSON and what is not, places in messages, reading, compacting, writing. */
#include "tap.h"

#include "base/escape.h"
#include "base/json.h"

#include <math.h>

static struct json *parse(const char *text)
{
    struct err err;
    struct json *doc = json_parse("t", text, strlen(text), &err);
    if (doc == NULL)
        fprintf(stderr, "# %s\n", err.text);
    must(doc != NULL);
    return doc;
}

static void refuses(const char *text, const char *message)
{
    struct err err = { "" };
    struct json *doc = json_parse("t", text, strlen(text), &err);
    if (!ok(doc == NULL))
        fprintf(stderr, "# accepted: %s\n", text);
    json_free(doc);
    is_str(err.text, message);
}

TEST(every_kind_of_value)
{
    struct json *doc = parse(" {\"n\": null, \"t\": true, \"f\":false, \"i\": -12, \"d\": 1.5e+3,\n"
                             "\"s\": \"x\", \"a\": [1, [], {}], \"o\": {\"k\": {\"k\": 2}}} \n");
    struct json_value root = json_root(doc);
    int64_t i = 0;
    bool b = false;
    struct str s;
    is(json_type(root), JSON_OBJECT);
    is(json_count(root), 8);
    is(json_type(json_get(root, "n")), JSON_NULL);
    is(json_bool(json_get(root, "t"), &b), 0);
    ok(b);
    is(json_bool(json_get(root, "f"), &b), 0);
    ok(!b);
    is(json_bool(json_get(root, "n"), &b), -1);
    is(json_int(json_get(root, "i"), &i), 0);
    is(i, -12);
    is(json_int(json_get(root, "d"), &i), -1);
    is(json_int(json_get(root, "s"), &i), -1);
    is(json_string(json_get(root, "s"), &s), 0);
    is_str(s.ptr, "x");
    is(json_count(json_get(root, "a")), 3);
    is(json_type(json_at(json_get(root, "a"), 1)), JSON_ARRAY);
    is(json_type(json_at(json_get(root, "a"), 2)), JSON_OBJECT);
    ok(!json_present(json_at(json_get(root, "a"), 3)));
    is(json_int(json_get(json_get(json_get(root, "o"), "k"), "k"), &i), 0);
    is(i, 2);
    ok(!json_present(json_get(root, "absent")));
    ok(!json_present(json_get(json_get(root, "absent"), "x")));
    is(json_count(json_get(root, "absent")), 0);
    json_free(doc);
}

TEST(a_value_alone_is_a_document)
{
    static const struct {
        const char *text;
        enum json_type type;
    } cases[] = { { "5", JSON_NUMBER },    { "\"\"", JSON_STRING }, { " true", JSON_BOOL },
                  { "null\n", JSON_NULL }, { "[]", JSON_ARRAY },    { "{}", JSON_OBJECT } };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct json *doc = parse(cases[i].text);
        is(json_type(json_root(doc)), cases[i].type);
        json_free(doc);
    }
}

TEST(members_by_number)
{
    struct json *doc = parse("{\"a\": [1, 2], \"b\\u0062\": \"v\", \"c\": {\"x\": 1}}");
    struct json_value root = json_root(doc);
    is_str(json_key_at(root, 0).ptr, "a");
    is_str(json_key_at(root, 1).ptr, "bb");
    is(json_key_at(root, 1).len, 2);
    ok(str_eq(json_text(json_at(root, 2)), STR("{\"x\": 1}")));
    ok(str_eq(json_text(json_at(root, 1)), STR("\"v\"")));
    ok(str_eq(json_text(json_key_value_at(root, 1)), STR("\"b\\u0062\"")));
    json_free(doc);
}

TEST(strings_are_decoded)
{
    struct json *doc =
        parse("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\u20AC\\ud83d\\ude00\xc3\xa4!\"");
    struct str s;
    is(json_string(json_root(doc), &s), 0);
    is_str(s.ptr, "a\"\\/\b\f\n\r\t\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa4!");
    is(s.len, strlen(s.ptr));
    json_free(doc);
}

TEST(integers_that_fit)
{
    struct json *doc = parse("[9223372036854775807, -9223372036854775808, 9223372036854775808,"
                             "-9223372036854775809, 1.0, 1e2, -0, 99999999999999999999999]");
    struct json_value root = json_root(doc);
    int64_t n = 0;
    is(json_int(json_at(root, 0), &n), 0);
    ok(n == INT64_MAX);
    is(json_int(json_at(root, 1), &n), 0);
    ok(n == INT64_MIN);
    for (size_t i = 2; i < 6; i++)
        is(json_int(json_at(root, i), &n), -1);
    is(json_int(json_at(root, 6), &n), 0);
    is(n, 0);
    is(json_int(json_at(root, 7), &n), -1);
    json_free(doc);
}

TEST(what_is_not_json_is_refused_with_its_place)
{
    refuses("", "t:1:1: expected a value, found the end of the text");
    refuses(" \n ", "t:2:2: expected a value, found the end of the text");
    refuses("{", "t:1:2: expected a key in double quotes or '}', found the end of the text");
    refuses("{\"a\" 1}", "t:1:6: expected ':' behind the key, found '1'");
    refuses("{\"a\":1 \"b\":2}", "t:1:8: expected ',' or '}', found '\"'");
    refuses("{\"a\":1,\n}", "t:2:1: expected a key in double quotes behind ',', found '}'");
    refuses("[1 2]", "t:1:4: expected ',' or ']', found '2'");
    refuses("[1,]", "t:1:4: expected a value, found ']'");
    refuses("[1}", "t:1:3: expected ',' or ']', found '}'");
    refuses("{} {}", "t:1:4: expected nothing behind the end of the value, found '{'");
    refuses("tru", "t:1:1: expected a value, found 't'");
    refuses("True", "t:1:1: expected a value, found 'T'");
    refuses("trueish", "t:1:5: expected nothing behind the end of the value, found 'i'");
    refuses("// c\n1", "t:1:1: expected a value, found '/': JSON has no comments, remove it");
    refuses("'a'", "t:1:1: expected a value, found ''': strings stand in double quotes");
    refuses("\xef\xbb\xbf{}", "t:1:1: expected a value, found byte 0xef: save the file as UTF-8 "
                              "without a byte order mark");
}

TEST(numbers_follow_the_grammar)
{
    static const char *const bad[] = { "01", "-",   "+1",  ".5",  "1.", "1.e2",
                                       "1e", "1e+", "0x1", "NaN", "-a", "Infinity" };
    static const char *const good[] = { "0", "-0", "0.5", "1e5", "1E-5", "10.25e+3" };
    struct err err;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct json *doc = json_parse("t", bad[i], strlen(bad[i]), &err);
        if (!ok(doc == NULL))
            fprintf(stderr, "# accepted: %s\n", bad[i]);
        json_free(doc);
    }
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        json_free(parse(good[i]));
    refuses("[01]", "t:1:2: a number does not begin with 0: write it without");
}

TEST(strings_follow_the_grammar)
{
    refuses("\"abc", "t:1:1: this string has no closing quote");
    refuses("[\"abc\n\"]", "t:1:2: this string has no closing quote on its line");
    refuses("\"a\tb\"",
            "t:1:3: expected control characters in a string as escapes, as in \\t, found byte "
            "0x09");
    refuses("\"\\x\"", "t:1:3: expected one of \" \\ / b f n r t u behind a backslash, found 'x'");
    refuses("\"\\u12g4\"", "t:1:6: expected four hexadecimal digits behind \\u, found 'g'");
    refuses("\"a\\u0000\"", "t:1:3: \\u0000 cannot be part of a string here: remove it");
    refuses("\"\\ud800\"", "t:1:2: half of a surrogate pair: its other half must follow");
    refuses("\"\\ud800\\n\"", "t:1:2: half of a surrogate pair: its other half must follow");
    refuses("\"\\ud800\\ud800\"", "t:1:2: half of a surrogate pair: its other half must follow");
    refuses("\"\\udc00\"", "t:1:2: half of a surrogate pair: its other half must follow");
    refuses("\"\\", "t:1:3: expected one of \" \\ / b f n r t u behind a backslash, found the end "
                    "of the text");
}

TEST(utf8_is_checked)
{
    static const char *const bad[] = { "\x80",
                                       "\xc3",
                                       "\xc0\x80",
                                       "\xc1\xbf",
                                       "\xe0\x9f\xbf",
                                       "\xed\xa0\x80",
                                       "\xf0\x8f\xbf\xbf",
                                       "\xf4\x90\x80\x80",
                                       "\xf5\x80\x80\x80",
                                       "\xe2\x82",
                                       "\xff",
                                       "\xe2\x28\xa1" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[16], message[80];
        snprintf(text, sizeof(text), "\"%s\"", bad[i]);
        snprintf(message, sizeof(message), "t:1:2: expected UTF-8, found byte 0x%02x",
                 (unsigned char)bad[i][0]);
        refuses(text, message);
    }
    json_free(parse("\"\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf\""));
}

TEST(a_nul_byte_is_not_the_end)
{
    struct err err;
    ok(json_parse("t", "1\0 2", 4, &err) == NULL);
    is_str(err.text, "t:1:2: expected nothing behind the end of the value, found byte 0x00");
    ok(json_parse("t", "\"a\0b\"", 5, &err) == NULL);
}

TEST(keys_must_differ_also_when_written_differently)
{
    refuses("{\"a\": 1,\n \"b\": 2, \"a\": 3}",
            "t:2:10: the key \"a\" stands here a second time (first in line 1): remove one");
    refuses("[{\"k\": {\"x\": 1, \"\\u0078\": 2}}]",
            "t:1:17: the key \"x\" stands here a second time (first in line 1): remove one");
    json_free(parse("{\"a\": {\"a\": {\"a\": 1}}, \"A\": 1, \"\": 2}"));
}

TEST(depth_is_bounded)
{
    char text[300];
    for (size_t depth = 63; depth <= 66; depth++) {
        struct err err;
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        struct json *doc = json_parse("t", text, 2 * depth, &err);
        is(doc != NULL, depth <= 64);
        if (doc == NULL)
            is_str(err.text, "t:1:65: nested more than 64 levels deep: make it flatter");
        json_free(doc);
    }
}

TEST(compact_removes_white_space_outside_strings_alone)
{
    struct json *doc =
        parse("[ {\"a b\" :\t[ 1 , -2.50 ,\n true ], \"\\\" \\\\\" : \" \\u0020 \"} , {} , [ ] ]");
    struct buf out = { 0 };
    is(json_compact(json_root(doc), &out), 0);
    is_str(out.data, "[{\"a b\":[1,-2.50,true],\"\\\" \\\\\":\" \\u0020 \"},{},[]]");
    is(json_compact(json_at(json_root(doc), 1), &out), 0);
    is_str(out.data + out.len - 2, "{}");
    buf_fini(&out);
    json_free(doc);
}

TEST(fail_tells_the_place_of_a_value)
{
    struct json *doc = parse("{\n  \"a\": [1,\n    \"b\"]}");
    struct json_value a = json_get(json_root(doc), "a");
    struct err err;
    is(json_fail(json_at(a, 1), &err, "wrong %s", "thing"), -1);
    is_str(err.text, "t:3:5: wrong thing");
    json_fail(json_key_value_at(json_root(doc), 0), &err, "key");
    is_str(err.text, "t:2:3: key");
    json_fail(a, &err, "array");
    is_str(err.text, "t:2:8: array");
    json_free(doc);
}

TEST(large_documents_stay_quick)
{
    struct buf text = { 0 };
    struct err err;
    buf_puts(&text, "{");
    for (int i = 0; i < 50000; i++)
        buf_printf(&text, "%s\"key%d\": [%d]", i ? "," : "", i, i);
    buf_puts(&text, "}");
    struct json *doc = json_parse("t", text.data, text.len, &err);
    must(doc != NULL);
    is(json_count(json_root(doc)), 50000);
    for (int64_t i = 0; i < 50000; i++) {
        int64_t n = -1;
        json_int(json_at(json_at(json_root(doc), (size_t)i), 0), &n);
        if (n != i)
            is(n, i);
    }
    json_free(doc);
    buf_fini(&text);
}

TEST(the_writer_sets_commas)
{
    struct buf out = { 0 };
    struct json_out o;
    json_out_init(&o, &out);
    json_open(&o, NULL, '{');
    json_put_bool(&o, "ok", true);
    json_open(&o, "list", '[');
    json_put_int(&o, NULL, -1);
    json_open(&o, NULL, '{');
    json_close(&o, '}');
    json_put_u64(&o, NULL, UINT64_MAX);
    json_close(&o, ']');
    json_put_z(&o, "none", NULL);
    json_put_raw(&o, "raw", STR("[1]"));
    json_close(&o, '}');
    ok(!o.failed);
    is_str(out.data, "{\"ok\":true,\"list\":[-1,{},18446744073709551615],\"none\":null,"
                     "\"raw\":[1]}");
    buf_fini(&out);
}

TEST(the_writer_escapes_what_it_must)
{
    struct buf out = { 0 };
    struct json_out o;
    json_out_init(&o, &out);
    json_put_str(&o, NULL, STR("\"\\/\b\n\x01\x7f\xc2\x9b\xc3\xa4\xff\xc3"));
    is_str(out.data, "\"\\\"\\\\/\\b\\n\\u0001\\u007f\\u009b\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\"");
    struct err err;
    struct json *doc = json_parse("t", out.data, out.len, &err);
    ok(doc != NULL);
    json_free(doc);
    buf_fini(&out);
}

TEST(long_strings_are_written_whole)
{
    struct buf out = { 0 };
    struct json_out o;
    struct str s;
    struct err err;
    static char text[70001];
    memset(text, 1, sizeof(text) - 1);
    json_out_init(&o, &out);
    json_put_z(&o, NULL, text);
    is(out.len, 6 * 70000 + 2);
    struct json *doc = json_parse("t", out.data, out.len, &err);
    must(doc != NULL);
    json_string(json_root(doc), &s);
    ok(str_eq(s, str_of(text)));
    json_free(doc);
    buf_fini(&out);
}

TEST(doubles_read_back_as_they_were)
{
    static const double values[] = { 0.1, 1.0 / 3, 1e300, -2.5, 123456789012345678.0, 5e-324 };
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        struct buf out = { 0 };
        struct json_out o;
        json_out_init(&o, &out);
        json_put_double(&o, NULL, values[i]);
        double back = strtod(out.data, NULL);
        ok(memcmp(&back, &values[i], sizeof(back)) == 0);
        buf_fini(&out);
    }
    struct buf out = { 0 };
    struct json_out o;
    json_out_init(&o, &out);
    json_open(&o, NULL, '[');
    json_put_double(&o, NULL, (double)INFINITY);
    json_put_double(&o, NULL, (double)NAN);
    json_put_double(&o, NULL, 0.1);
    json_close(&o, ']');
    is_str(out.data, "[null,null,0.1]");
    buf_fini(&out);
}

TEST(escape_never_writes_half_a_character)
{
    struct str s = STR("a\xe2\x82\xac\n\x1b");
    char out[32];
    for (size_t room = 0; room <= 12; room++) {
        size_t used = 99, len = escape(out, room, s, ESCAPE_STRING, &used);
        static const size_t lens[] = { 0, 1, 1, 1, 4, 4, 6, 6, 6, 6, 6, 6, 12 };
        is(len, lens[room]);
        is(used, room == 0 ? 0u : room < 4 ? 1u : room < 6 ? 4u : room < 12 ? 5u : 6u);
    }
}
