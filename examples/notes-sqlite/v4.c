/*
 * 4.0.0, contract: knows the new form only, so it refuses to serve while a row lacks it. The old
 * column stays, for 3.0.0 to go back to, until "drop": true says that nobody will.
 */
#include "notes.h"

const struct notes_schema notes_schema = {
    .version = "4.0.0",
    .create = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY,"
              " text TEXT NOT NULL, given TEXT, family TEXT)",
    .insert = "INSERT INTO note (given, family, text)"
              " VALUES (" GIVEN("?1") ", " FAMILY("?1") ", ?2)",
    .select = "SELECT " JOINED ", text FROM note WHERE id = ?1",
    .unfit = "SELECT count(*) FROM note WHERE family IS NULL",
    .unused = "author",
};

NOTES_PLUGIN("4.0.0", "Notes: given and family name.")
