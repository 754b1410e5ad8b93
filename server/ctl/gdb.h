/* graftctl gdb: a debugger on the server process. */
#ifndef GRAFT_CTL_GDB_H
#define GRAFT_CTL_GDB_H

/* Becomes gdb, with these further arguments (ends with NULL; may be NULL). Returns only the exit
   status of a failure: 1, or 4 when there is no server. */
int gdb_run(const char *control, char *const *args);

#endif
