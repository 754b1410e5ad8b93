/*
 * One character at a time, with a short cut for runs of plain ASCII. C1 control characters and DEL
 * are escaped too: U+009B starts a terminal's control sequence like ESC [ does.
 */
#include "base/escape.h"

#include <stdio.h>

#define ESCAPED_MAX 6 /* "\u001f" */

/* Second bytes that a lead byte allows: bounds shut out overlong forms, surrogates and what lies
   beyond U+10FFFF. */
static size_t sequence_len(unsigned char lead, unsigned char *low, unsigned char *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 2;
    if (lead >= 0xe0 && lead <= 0xef) {
        if (lead == 0xe0)
            *low = 0xa0;
        if (lead == 0xed)
            *high = 0x9f;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        if (lead == 0xf0)
            *low = 0x90;
        if (lead == 0xf4)
            *high = 0x8f;
        return 4;
    }
    return 0;
}

size_t utf8_len(const char *p, size_t left)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80)
        return 1;
    unsigned char low, high;
    size_t len = sequence_len(u[0], &low, &high);
    if (len == 0 || len > left || u[1] < low || u[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++) {
        if (u[i] < 0x80 || u[i] > 0xbf)
            return 0;
    }
    return len;
}

static bool plain(unsigned char c, enum escape_mode mode)
{
    return c >= 0x20 && c < 0x7f && (mode != ESCAPE_STRING || (c != '"' && c != '\\'));
}

static size_t control(char out[ESCAPED_MAX + 1], unsigned c, enum escape_mode mode)
{
    static const char named[] = "\bb\tt\nn\ff\rr\"\"\\\\";
    if (mode == ESCAPE_JSON && c < 0x20) { /* in valid JSON it can only be white space */
        out[0] = ' ';
        return 1;
    }
    for (size_t i = 0; i + 1 < sizeof(named); i += 2) {
        if ((unsigned char)named[i] == c) {
            out[0] = '\\';
            out[1] = named[i + 1];
            return 2;
        }
    }
    return (size_t)snprintf(out, ESCAPED_MAX + 1, "\\u%04x", c & 0xffffu);
}

/* The escaped form of the character at p, of which *used bytes were read. */
static size_t one(char out[ESCAPED_MAX + 1], const char *p, size_t left, enum escape_mode mode,
                  size_t *used)
{
    unsigned char c = (unsigned char)p[0];
    *used = 1;
    if (c < 0x80)
        return control(out, c, mode);
    size_t len = utf8_len(p, left);
    if (len == 0) {
        memcpy(out, "\xef\xbf\xbd", 3);
        return 3;
    }
    *used = len;
    if (c == 0xc2 && (unsigned char)p[1] < 0xa0)
        return control(out, (unsigned char)p[1], mode);
    memcpy(out, p, len);
    return len;
}

size_t escape(char *out, size_t room, struct str s, enum escape_mode mode, size_t *used)
{
    size_t at = 0, in = 0;
    while (in < s.len) {
        if (plain((unsigned char)s.ptr[in], mode)) {
            if (at == room)
                break;
            out[at++] = s.ptr[in++];
            continue;
        }
        char form[ESCAPED_MAX + 1];
        size_t read, len = one(form, s.ptr + in, s.len - in, mode, &read);
        if (len > room - at)
            break;
        memcpy(out + at, form, len);
        at += len;
        in += read;
    }
    *used = in;
    return at;
}
