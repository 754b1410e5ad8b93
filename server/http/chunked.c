/*
 * The decoder: a table of states, one function for each, every one of which looks at the bytes at
 * hand and says how many it took. What it refuses: sizes that are not hex digits at once, that
 * overflow 63 bits or have 17 digits, lines that end in anything but CRLF, control bytes in
 * extensions and trailers, trailers that are not fields, and bodies made of more framing than data.
 */
#include "http/chunked.h"

#include "http/field.h"

enum {
    IN_SIZE,
    IN_BWS, /* white space between size and ';' */
    IN_EXT,
    IN_SIZE_LF,
    IN_DATA,
    IN_DATA_CR,
    IN_DATA_LF,
    IN_LINE, /* first byte of a trailer, or the CR of the empty line */
    IN_NAME,
    IN_VALUE,
    IN_VALUE_LF,
    IN_LAST_LF,
    IN_END,
    IN_BAD
};

#define FAIR_SHARE 16u /* framing bytes that a chunk may have without being counted */
#define DIGITS_MAX 16u
#define SIZE_BOUND ((uint64_t)INT64_MAX)

void chunked_init(struct chunked *c, size_t trailer_bytes)
{
    *c = (struct chunked){ .trailer_left = trailer_bytes };
}

static void refuse(struct chunked *c, unsigned status, const char *why)
{
    c->status = status;
    c->why = why;
    c->state = IN_BAD;
}

static int hex(char ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    char low = (char)(ch | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

static void take_size(struct chunked *c, char ch)
{
    int digit = hex(ch);
    if (digit >= 0) {
        if (++c->digits > DIGITS_MAX || c->left > (SIZE_BOUND - (unsigned)digit) >> 4)
            refuse(c, 400, "a chunk size that does not fit");
        else
            c->left = c->left << 4 | (unsigned)digit;
    } else if (c->digits == 0) {
        refuse(c, 400, "a chunk that does not begin with a hexadecimal size");
    } else if (ch == '\r') {
        c->state = IN_SIZE_LF;
    } else if (ch == ';') {
        c->state = IN_EXT;
    } else if (ch == ' ' || ch == '\t') {
        c->state = IN_BWS;
    } else {
        refuse(c, 400, "a chunk size that is not followed by CRLF or an extension");
    }
}

static void take_extension(struct chunked *c, char ch)
{
    if (ch == '\r' && c->state == IN_EXT)
        c->state = IN_SIZE_LF;
    else if (c->state == IN_BWS && ch != ';' && ch != ' ' && ch != '\t')
        refuse(c, 400, "white space behind a chunk size");
    else if (!field_is(ch, FIELD_VALUE))
        refuse(c, 400, "a bare LF or a control byte in a chunk extension");
    else if (ch == ';')
        c->state = IN_EXT;
}

/* The whole size line is known: is this still a body, or an attack by framing? */
static void size_known(struct chunked *c)
{
    size_t line = c->line + 4; /* with the CRLF behind the data */
    uint64_t fair = c->left > CHUNKED_EXCESS_MAX ? CHUNKED_EXCESS_MAX : c->left + FAIR_SHARE;
    c->excess = c->excess + line > fair ? c->excess + line - (size_t)fair : 0;
    c->state = c->left > 0 ? IN_DATA : IN_LINE;
    c->line = c->digits = 0;
    if (c->excess > CHUNKED_EXCESS_MAX)
        refuse(c, 400, "more chunk framing than body");
}

static void take_lf(struct chunked *c, char ch)
{
    if (ch != '\n')
        refuse(c, 400, "a CR without LF in the chunked framing");
    else if (c->state == IN_SIZE_LF)
        size_known(c);
    else if (c->state == IN_DATA_LF)
        c->state = IN_SIZE;
    else if (c->state == IN_VALUE_LF)
        c->state = IN_LINE;
    else
        c->state = IN_END;
}

static void take_trailer(struct chunked *c, char ch)
{
    if (c->state == IN_LINE && ch == '\r')
        c->state = IN_LAST_LF;
    else if (c->trailer_left == 0)
        refuse(c, 431, "trailers longer than limits.field_bytes");
    else if (c->state == IN_VALUE && ch == '\r')
        c->state = IN_VALUE_LF;
    else if (c->state == IN_VALUE && !field_is(ch, FIELD_VALUE))
        refuse(c, 400, "a bare LF or a control byte in a trailer");
    else if (c->state == IN_NAME && ch == ':')
        c->state = IN_VALUE;
    else if (c->state != IN_VALUE && !field_is(ch, FIELD_TOKEN))
        refuse(c, 400, "a trailer that is not a field");
    else if (c->state == IN_LINE)
        c->state = IN_NAME;
    if (c->trailer_left > 0)
        c->trailer_left--;
}

/* One byte of framing. */
static void take(struct chunked *c, char ch)
{
    switch (c->state) {
    case IN_SIZE:
        take_size(c, ch);
        break;
    case IN_BWS:
    case IN_EXT:
        take_extension(c, ch);
        break;
    case IN_DATA_CR:
        if (ch == '\r')
            c->state = IN_DATA_LF;
        else
            refuse(c, 400, "chunk data that is longer than its size");
        return;
    case IN_LINE:
    case IN_NAME:
    case IN_VALUE:
        take_trailer(c, ch);
        return;
    default:
        take_lf(c, ch);
        return;
    }
    if (++c->line > CHUNKED_EXT_MAX && c->state != IN_BAD)
        refuse(c, 400, "a chunk extension of more than 4096 bytes");
}

static struct str piece(struct chunked *c, const char *data, size_t len)
{
    if (len > c->left)
        len = (size_t)c->left;
    c->left -= len;
    c->total += len;
    if (c->left == 0)
        c->state = IN_DATA_CR;
    return (struct str){ data, len };
}

enum chunked_result chunked_next(struct chunked *c, const char *data, size_t len, size_t *used,
                                 struct str *body)
{
    size_t at = 0;
    *body = (struct str){ NULL, 0 };
    while (at < len && c->state < IN_END) {
        if (c->state == IN_DATA) {
            *body = piece(c, data + at, len - at);
            *used = at + body->len;
            return CHUNKED_DATA;
        }
        take(c, data[at++]);
    }
    *used = at;
    if (c->state == IN_BAD)
        return CHUNKED_BAD;
    return c->state == IN_END ? CHUNKED_END : CHUNKED_MORE;
}

size_t chunked_head(char out[CHUNKED_HEAD_MAX], size_t len)
{
    static const char digits[] = "0123456789abcdef";
    char reversed[16];
    size_t n = 0, at = 0;
    do {
        reversed[n++] = digits[len & 15u];
        len >>= 4;
    } while (len > 0);
    while (n > 0)
        out[at++] = reversed[--n];
    out[at++] = '\r';
    out[at++] = '\n';
    return at;
}
