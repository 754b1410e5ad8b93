/* Cells are kept until all are there, because the widest decides its column. */
#include "ctl/table.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

/* Columns on a terminal: characters of UTF-8, without what double width is. */
static size_t width(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void make_safe(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f ||
            ((unsigned char)*text == 0xc2 && ((unsigned char)text[1] & 0xe0) == 0x80))
            *text = '?'; /* also the C1 controls: 0xc2 0x80..0x9f */
}

void table_put_safe(FILE *out, struct str text)
{
    char *copy = strndup(text.ptr != NULL ? text.ptr : "", text.len);
    if (copy == NULL)
        return;
    make_safe(copy);
    fputs(copy, out);
    free(copy);
}

static void add_owned(struct table *t, char *cell)
{
    REQUIRE(cell != NULL);
    if (t->count == t->cap) {
        t->cap = t->cap > 0 ? t->cap * 2 : 64;
        t->cells = realloc(t->cells, t->cap * sizeof *t->cells);
        REQUIRE(t->cells != NULL);
    }
    make_safe(cell);
    t->cells[t->count++] = cell;
}

void table_init(struct table *t, const char *const *headings)
{
    memset(t, 0, sizeof *t);
    for (; headings[t->columns] != NULL; t->columns++) {
        REQUIRE(t->columns < TABLE_COLUMNS_MAX);
        t->right[t->columns] = headings[t->columns][0] == '>';
        add_owned(t, strdup(headings[t->columns] + t->right[t->columns]));
    }
}

void table_add(struct table *t, struct str cell)
{
    add_owned(t, strndup(cell.ptr != NULL ? cell.ptr : "-", cell.ptr != NULL ? cell.len : 1));
}

void table_addf(struct table *t, const char *fmt, ...)
{
    struct buf b = { 0 };
    va_list ap;
    va_start(ap, fmt);
    REQUIRE(buf_vprintf(&b, fmt, ap) == 0);
    va_end(ap);
    add_owned(t, b.data);
}

static void pad(FILE *out, size_t n)
{
    while (n-- > 0)
        fputc(' ', out);
}

void table_print(const struct table *t, FILE *out)
{
    size_t widest[TABLE_COLUMNS_MAX] = { 0 };
    for (size_t i = 0; i < t->count; i++)
        if (width(t->cells[i]) > widest[i % t->columns])
            widest[i % t->columns] = width(t->cells[i]);
    for (size_t i = 0; i < t->count; i++) {
        size_t column = i % t->columns, room = widest[column] - width(t->cells[i]);
        bool last = column + 1 == t->columns;
        if (t->right[column])
            pad(out, room);
        fputs(t->cells[i], out);
        if (!t->right[column] && !last)
            pad(out, room);
        fputs(last ? "\n" : "  ", out);
    }
}

void table_fini(struct table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i]);
    free(t->cells);
    memset(t, 0, sizeof *t);
}
