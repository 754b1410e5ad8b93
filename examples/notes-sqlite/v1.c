/* 1.0.0: an author is one column. A column that shall be left out one day needs a default. */
#include "notes.h"

const struct notes_schema notes_schema = {
    .version = "1.0.0",
    .create = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY,"
              " author TEXT NOT NULL DEFAULT '', text TEXT NOT NULL)",
    .insert = "INSERT INTO note (author, text) VALUES (?1, ?2)",
    .select = "SELECT author, text FROM note WHERE id = ?1",
};

NOTES_PLUGIN("1.0.0", "Notes: the author is one column.")
