/*
 * What can be said about a plugin file before any of its code runs: is it a shared object for this
 * machine, does it offer the descriptor, and is there anything in it that would keep it from being
 * loaded beside, and unloaded after, other versions of itself. Reads the file as the dynamic loader
 * does, by program headers; section headers need not be there. The file is hostile.
 *
 * Loader thread, or a program of its own (graftctl check); keeps no state.
 */
#ifndef GRAFT_PLUGIN_PREFLIGHT_H
#define GRAFT_PLUGIN_PREFLIGHT_H

#include "base/base.h"
#include "base/err.h"

enum preflight_severity { PREFLIGHT_WARNING, PREFLIGHT_REFUSAL };

struct preflight_finding {
    enum preflight_severity severity;
    char *text; /* what, expected, found, cure; does not name the file */
};

struct preflight_report {
    struct preflight_finding *findings; /* in the order of the checks */
    size_t count;
    bool stays_mapped; /* the warning about __cxa_thread_atexit is among them */
    bool no_memory;    /* a finding was lost: counts as a refusal */
};

/*
 * Checks the file; all findings go to `report` (may be NULL; else zeroed first, the caller's to
 * fini also on -1). 0 = nothing speaks against loading it, or -1 with the first refusal in err.
 * Give it a staged copy: a file that is being written is judged as it happens to be read.
 */
int preflight(const char *path, struct preflight_report *report, struct err *err);

/* The same for an image in memory, without looking for its dependencies' files. */
int preflight_image(const void *image, size_t size, struct preflight_report *report,
                    struct err *err);

void preflight_report_fini(struct preflight_report *report);

/* Whether a library, by the path that the loader knows it by, lies in one of the system's folders:
   /lib, /usr/lib, their 64- and 32-bit siblings and multiarch subfolders. Such libraries are kept
   mapped for ever. */
bool preflight_system_library(const char *path);

#endif
