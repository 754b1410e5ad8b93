/*
 * 2.0.0, expand: adds the new columns and writes both forms; what it reads is the old one. Back to
 * 1.0.0 at any time: that neither knows nor needs the new columns, and leaves them NULL.
 */
#include "notes.h"

const struct notes_schema notes_schema = {
    .version = "2.0.0",
    .create = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY,"
              " author TEXT NOT NULL DEFAULT '', text TEXT NOT NULL)",
    .add = { "given", "family" },
    .insert = "INSERT INTO note (author, given, family, text)"
              " VALUES (?1, " GIVEN("?1") ", " FAMILY("?1") ", ?2)",
    .select = "SELECT author, text FROM note WHERE id = ?1",
};

NOTES_PLUGIN("2.0.0", "Notes: writes given and family name too.")
