/*
 * 3.0.0, migrate: still writes both forms; reads the new one, and the old one of rows that have no
 * other. Fills those in, a batch at a time on the pool. Back to 2.0.0 at any time: the old form is
 * whole.
 */
#include "notes.h"

const struct notes_schema notes_schema = {
    .version = "3.0.0",
    .create = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY,"
              " author TEXT NOT NULL DEFAULT '', text TEXT NOT NULL)",
    .add = { "given", "family" },
    .insert = "INSERT INTO note (author, given, family, text)"
              " VALUES (?1, " GIVEN("?1") ", " FAMILY("?1") ", ?2)",
    .select = "SELECT CASE WHEN family IS NULL THEN author ELSE " JOINED " END, text"
              " FROM note WHERE id = ?1",
    .backfill = "UPDATE note SET given = " GIVEN("author") ", family = " FAMILY(
        "author") " WHERE id IN (SELECT id FROM note WHERE family IS NULL LIMIT 200)",
};

NOTES_PLUGIN("3.0.0", "Notes: reads given and family name, and fills them in.")
