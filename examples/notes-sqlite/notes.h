/*
 * What the four versions of notes share (notes.c), and what each says of its own (v1.c ... v4.c):
 * the SQL by which it meets a table that its neighbours, the version before and the one after it,
 * use at the same time. docs/DEPLOYMENT.md tells the story: expand, migrate, contract.
 *
 *     cc $(pkg-config --cflags graft) -o notes.so v1.c notes.c $(pkg-config --libs graft sqlite3)
 */
#ifndef NOTES_H
#define NOTES_H

#include <graft/graft.h>

/* Statements name their columns: "SELECT *" would change its meaning under a version that serves.
 */
struct notes_schema {
    const char *version;
    const char *create;   /* the table, where there is none yet */
    const char *add[3];   /* columns that it adds where they are missing; ends with NULL */
    const char *insert;   /* ?1 author, ?2 text */
    const char *select;   /* ?1 id; gives author, text */
    const char *backfill; /* one batch; NULL: nothing to fill */
    const char *unfit;    /* how many rows this version cannot read; NULL: it reads all */
    const char *unused;   /* the column to drop when "drop" is configured; NULL: none */
};
extern const struct notes_schema notes_schema;

int notes_init(graft_self *self, void **state);
int notes_ready(graft_self *self, void *state);
int notes_start(graft_self *self, void *state);
void notes_fini(graft_self *self, void *state);
extern const graft_route notes_routes[];

#define NOTES_PLUGIN(VERSION, SUMMARY)                                                             \
    GRAFT_PLUGIN(.name = "notes", .version = VERSION, .summary = SUMMARY, .init = notes_init,      \
                 .ready = notes_ready, .start = notes_start, .fini = notes_fini,                   \
                 .routes = notes_routes)

/* "Ada King" is given "Ada" and family "King"; "Plato" has a family name only. */
#define GIVEN(AUTHOR)  "substr(" AUTHOR ", 1, max(instr(" AUTHOR ", ' ') - 1, 0))"
#define FAMILY(AUTHOR) "substr(" AUTHOR ", instr(" AUTHOR ", ' ') + 1)"
#define JOINED         "CASE given WHEN '' THEN family ELSE given || ' ' || family END"

#endif
