/*
 * What RFC 9110 lets stand in a field name and a field value: one table of character classes that
 * the guard, the chunked decoder and the response code share; and which response fields are not a
 * plugin's to set, because framing owns them. Pure functions, any thread.
 */
#ifndef GRAFT_HTTP_FIELD_H
#define GRAFT_HTTP_FIELD_H

#include "base/base.h"
#include "base/str.h"

#define FIELD_TOKEN  1u /* tchar: methods, field names */
#define FIELD_VALUE  2u /* HTAB, SP, visible ASCII and obs-text (0x80..0xff) */
#define FIELD_TARGET 4u /* visible ASCII: what a request target may be made of */
#define FIELD_HOST   8u /* unreserved and sub-delims: a registered name, escapes aside */

extern const unsigned char field_class[256];

static inline bool field_is(char c, unsigned classes)
{
    return (field_class[(unsigned char)c] & classes) != 0;
}

bool field_name_ok(const char *name, size_t len);   /* a token, at least one character */
bool field_value_ok(const char *value, size_t len); /* no CR, LF, NUL or other control; may be "" */

/* Without SP and HTAB at both ends. */
static inline struct str field_trim(struct str s)
{
    for (; s.len > 0 && (*s.ptr == ' ' || *s.ptr == '\t'); s.len--)
        s.ptr++;
    while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

/* Is `token` an element of the comma-separated list? ASCII case aside. */
bool field_list_has(struct str value, const char *token);

/* Who decides about a response field (SDK, "The response"). */
enum field_owner {
    FIELD_FREE,           /* the plugin */
    FIELD_CONNECTION,     /* framing, but a plugin may say `close` */
    FIELD_FRAMING,        /* framing alone: Transfer-Encoding, Keep-Alive, Upgrade, Trailer */
    FIELD_CONTENT_LENGTH, /* the plugin's promise, which the server holds it to */
    FIELD_DATE,           /* the server adds these two where no plugin has set them */
    FIELD_SERVER,
    FIELD_OURS /* never of a name: one that the server adds for itself (response_own_field) */
};
enum field_owner field_owner(struct str name);

#endif
