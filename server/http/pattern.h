/*
 * Patterns as text, for http/router.c and http/pattern.c alone: one segment after the other.
 */
#ifndef GRAFT_HTTP_PATTERN_H
#define GRAFT_HTTP_PATTERN_H

#include "base/str.h"

enum pattern_kind { PATTERN_LITERAL, PATTERN_PARAM, PATTERN_REST };

struct pattern_segment {
    enum pattern_kind kind;
    struct str text; /* the literal; of a parameter or rest its name */
};

/* *at stands on the slash before a segment and then on the one behind it; false at the end. */
bool pattern_next(const char **at, struct pattern_segment *out);

#endif
