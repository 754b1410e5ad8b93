/*
 * Hostile bytes made safe to show: in JSON strings, and on one line of a log or a terminal. Any
 * thread; holds nothing.
 */
#ifndef GRAFT_BASE_ESCAPE_H
#define GRAFT_BASE_ESCAPE_H

#include "base/str.h"

/* Length of the well-formed UTF-8 sequence at p (RFC 3629: shortest form, no surrogates), 0 if
   there is none. `left` > 0. */
size_t utf8_len(const char *p, size_t left);

enum escape_mode {
    ESCAPE_STRING, /* what stands between the quotes of a JSON string */
    ESCAPE_LINE,   /* text for people: as ESCAPE_STRING, but " and \ stay */
    ESCAPE_JSON    /* valid JSON as it is, but on one line and harmless on a terminal */
};

/* Writes as much of s as fits into `room` bytes, never half a character: control characters as
   \n or \u001b, malformed UTF-8 as U+FFFD. Returns the bytes written; *used = bytes of s read. */
size_t escape(char *out, size_t room, struct str s, enum escape_mode mode, size_t *used);

#endif
