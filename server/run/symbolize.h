/*
 * Names for the raw addresses that a crash left: which file lies there, which function of it. From
 * the text of /proc/PID/maps and the ELF files that it names; no process is looked into. Plugins
 * are compiled without frame pointers, so callers are found by looking through the copy of the
 * stack: a word counts when it points behind a call instruction of mapped code. What an earlier
 * call left there may be told, too: function names are a hint, the first one is sure.
 *
 * Any one thread; reads files.
 */
#ifndef GRAFT_RUN_SYMBOLIZE_H
#define GRAFT_RUN_SYMBOLIZE_H

#include "run/crash_area.h"

#define SYMBOLIZE_FRAMES 24

struct symbolized {
    char function[160]; /* the innermost in a staged file: "handler+0x1c"; "": none was found */
    char staged[256];   /* that file's path below the stage folder: "hello/SHA12.SEQ.so" */
    unsigned n;
    char frames[SYMBOLIZE_FRAMES][256]; /* "file.so: function+0x1c" */
};

/* The innermost staged file alone, as in `staged` above, without looking for names: quick. */
void symbolize_staged(const struct crash_frame *at, const unsigned char *stack, const char *maps,
                      const char *stage, char staged[256]);

/* `stage`: the stage folder's path. Everything but that may be anything: of the files that `maps`
   names (plugins, libraries, the program) regular ones are opened, and only read. */
void symbolize(const struct crash_frame *at, const unsigned char *stack, const char *maps,
               const char *stage, struct symbolized *out);

#endif
