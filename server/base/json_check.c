/*
 * The grammar of RFC 8259, strictly. jsmn takes a lot that is not JSON (missing commas, any word as
 * a value, broken escapes); it is shown a text only after this file has accepted it. Recursive
 * descent, as deep as the caller says. Also refused: "\u0000", since strings become C strings.
 */
#include "base/json_private.h"

#include "base/escape.h"

#include <stdio.h>

struct check {
    const char *name;
    struct str text;
    size_t at;
    size_t tokens;
    unsigned depth, levels;
    struct err *err;
};

void json_position(struct str text, size_t at, size_t *line, size_t *column)
{
    *line = *column = 1;
    for (size_t i = 0; i < at; i++) {
        ++*column;
        if (text.ptr[i] == '\n') {
            ++*line;
            *column = 1;
        }
    }
}

static int refuse_at(const struct check *c, size_t at, const char *what)
{
    size_t line, column;
    json_position(c->text, at, &line, &column);
    return err_set(c->err, "%s:%zu:%zu: %s", c->name, line, column, what);
}

/* "expected <what>, found <what stands there>" and, where the mistake is a usual one, the cure. */
static int refuse(const struct check *c, const char *expected)
{
    char text[200];
    if (c->at >= c->text.len) {
        snprintf(text, sizeof(text), "expected %s, found the end of the text", expected);
        return refuse_at(c, c->at, text);
    }
    unsigned char found = (unsigned char)c->text.ptr[c->at];
    const char *cure = "";
    if (found == '/' || found == '#')
        cure = ": JSON has no comments, remove it";
    else if (found == '\'')
        cure = ": strings stand in double quotes";
    else if (found == 0xef)
        cure = ": save the file as UTF-8 without a byte order mark";
    if (found > ' ' && found < 0x7f)
        snprintf(text, sizeof(text), "expected %s, found '%c'%s", expected, found, cure);
    else
        snprintf(text, sizeof(text), "expected %s, found byte 0x%02x%s", expected, found, cure);
    return refuse_at(c, c->at, text);
}

static bool more(const struct check *c)
{
    return c->at < c->text.len;
}

static bool next_is(const struct check *c, char wanted)
{
    return more(c) && c->text.ptr[c->at] == wanted;
}

static bool take(struct check *c, char wanted)
{
    bool there = next_is(c, wanted);
    c->at += there;
    return there;
}

static void skip_space(struct check *c)
{
    while (next_is(c, ' ') || next_is(c, '\t') || next_is(c, '\n') || next_is(c, '\r'))
        c->at++;
}

static bool take_digits(struct check *c)
{
    size_t from = c->at;
    while (more(c) && c->text.ptr[c->at] >= '0' && c->text.ptr[c->at] <= '9')
        c->at++;
    return c->at > from;
}

static int check_number(struct check *c)
{
    take(c, '-');
    if (take(c, '0')) {
        if (more(c) && c->text.ptr[c->at] >= '0' && c->text.ptr[c->at] <= '9')
            return refuse_at(c, c->at - 1, "a number does not begin with 0: write it without");
    } else if (!take_digits(c)) {
        return refuse(c, "a digit");
    }
    if (take(c, '.') && !take_digits(c))
        return refuse(c, "a digit behind the decimal point");
    if (take(c, 'e') || take(c, 'E')) {
        if (!take(c, '+'))
            take(c, '-');
        if (!take_digits(c))
            return refuse(c, "a digit in the exponent");
    }
    return 0;
}

static int hex_digit(char ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    if (ch >= 'a' && ch <= 'f')
        return ch - 'a' + 10;
    return ch >= 'A' && ch <= 'F' ? ch - 'A' + 10 : -1;
}

static int take_hex4(struct check *c, unsigned *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, c->at++) {
        int digit = more(c) ? hex_digit(c->text.ptr[c->at]) : -1;
        if (digit < 0)
            return refuse(c, "four hexadecimal digits behind \\u");
        *out = *out * 16u + (unsigned)digit;
    }
    return 0;
}

/* Behind "\u": one UTF-16 unit, or two that are a pair. */
static int check_unicode(struct check *c)
{
    size_t from = c->at - 2;
    unsigned unit, low = 0;
    if (take_hex4(c, &unit) != 0)
        return -1;
    if (unit == 0)
        return refuse_at(c, from, "\\u0000 cannot be part of a string here: remove it");
    if (unit < 0xd800 || unit > 0xdfff)
        return 0;
    if (unit < 0xdc00 && take(c, '\\')) {
        if (!take(c, 'u'))
            return refuse_at(c, from, "half of a surrogate pair: its other half must follow");
        if (take_hex4(c, &low) != 0)
            return -1;
    }
    if (low < 0xdc00 || low > 0xdfff)
        return refuse_at(c, from, "half of a surrogate pair: its other half must follow");
    return 0;
}

static int check_escape(struct check *c)
{
    if (take(c, 'u'))
        return check_unicode(c);
    if (!more(c) || strchr("\"\\/bfnrt", c->text.ptr[c->at]) == NULL || c->text.ptr[c->at] == '\0')
        return refuse(c, "one of \" \\ / b f n r t u behind a backslash");
    c->at++;
    return 0;
}

static int check_string(struct check *c)
{
    size_t from = c->at++;
    while (more(c) && !next_is(c, '"')) {
        unsigned char ch = (unsigned char)c->text.ptr[c->at];
        if (ch == '\n')
            return refuse_at(c, from, "this string has no closing quote on its line");
        if (ch < 0x20)
            return refuse(c, "control characters in a string as escapes, as in \\t");
        if (take(c, '\\')) {
            if (check_escape(c) != 0)
                return -1;
            continue;
        }
        size_t len = utf8_len(c->text.ptr + c->at, c->text.len - c->at);
        if (len == 0)
            return refuse(c, "UTF-8");
        c->at += len;
    }
    return take(c, '"') ? 0 : refuse_at(c, from, "this string has no closing quote");
}

static int check_value(struct check *c);

static int check_key(struct check *c, bool after_comma)
{
    if (!next_is(c, '"'))
        return after_comma ? refuse(c, "a key in double quotes behind ','")
                           : refuse(c, "a key in double quotes or '}'");
    c->tokens++;
    if (check_string(c) != 0)
        return -1;
    skip_space(c);
    if (!take(c, ':'))
        return refuse(c, "':' behind the key");
    skip_space(c);
    return 0;
}

/* Members or elements up to the closing bracket. */
static int check_members(struct check *c, bool object)
{
    char close = object ? '}' : ']';
    c->at++;
    skip_space(c);
    if (take(c, close))
        return 0;
    for (bool after_comma = false;; after_comma = true) {
        if (object && check_key(c, after_comma) != 0)
            return -1;
        if (check_value(c) != 0)
            return -1;
        skip_space(c);
        if (take(c, close))
            return 0;
        if (!take(c, ','))
            return object ? refuse(c, "',' or '}'") : refuse(c, "',' or ']'");
        skip_space(c);
    }
}

static int check_word(struct check *c)
{
    static const char *const words[] = { "true", "false", "null" };
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        size_t len = strlen(words[i]);
        if (c->text.len - c->at >= len && memcmp(c->text.ptr + c->at, words[i], len) == 0) {
            c->at += len;
            return 0;
        }
    }
    return refuse(c, "a value");
}

static int refuse_deep(const struct check *c)
{
    char what[80];
    snprintf(what, sizeof what, "nested more than %u levels deep: make it flatter", c->levels);
    return refuse_at(c, c->at, what);
}

static int check_value(struct check *c)
{
    if (!more(c))
        return refuse(c, "a value");
    c->tokens++;
    char ch = c->text.ptr[c->at];
    if (ch == '"')
        return check_string(c);
    if (ch == '-' || (ch >= '0' && ch <= '9'))
        return check_number(c);
    if (ch != '{' && ch != '[')
        return check_word(c);
    if (c->depth == c->levels)
        return refuse_deep(c);
    c->depth++;
    int rc = check_members(c, ch == '{');
    c->depth--;
    return rc;
}

int json_check(const char *name, struct str text, unsigned levels, size_t *tokens, struct err *err)
{
    struct check c = { .name = name, .text = text, .levels = levels, .err = err };
    skip_space(&c);
    if (check_value(&c) != 0)
        return -1;
    skip_space(&c);
    if (more(&c))
        return refuse(&c, "nothing behind the end of the value");
    *tokens = c.tokens;
    return 0;
}
