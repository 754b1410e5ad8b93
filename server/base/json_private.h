/* Between json.c (documents) and json_check.c (the grammar) only. */
#ifndef GRAFT_BASE_JSON_PRIVATE_H
#define GRAFT_BASE_JSON_PRIVATE_H

#include "base/json.h"

/* Proves that the text is one JSON value in the grammar of RFC 8259 and valid UTF-8; *tokens = the
   number of values and keys in it. -1: err says "name:line:column: expected, found". */
int json_check(const char *name, struct str text, unsigned levels, size_t *tokens, struct err *err);

/* Line and column, both from 1; columns count bytes. */
void json_position(struct str text, size_t at, size_t *line, size_t *column);

#endif
