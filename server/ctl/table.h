/* Rows in aligned columns, for people. What would steer a terminal is shown as '?'. */
#ifndef GRAFT_CTL_TABLE_H
#define GRAFT_CTL_TABLE_H

#include "base/base.h"
#include "base/str.h"

#include <stdio.h>

#define TABLE_COLUMNS_MAX 16

struct table {
    unsigned columns;
    char **cells; /* [rows * columns], the heading first */
    size_t count, cap;
    bool right[TABLE_COLUMNS_MAX]; /* numbers */
};

/* Headings end with NULL; one that begins with '>' is flushed right. */
void table_init(struct table *t, const char *const *headings);
void table_add(struct table *t, struct str cell);
void table_addf(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
void table_print(const struct table *t, FILE *out);
void table_fini(struct table *t);

/* The text as it may go to a terminal. */
void table_put_safe(FILE *out, struct str text);

#endif
