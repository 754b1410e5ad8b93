/* The findings while they are being collected: shared by the files of the preflight, nobody else.
 */
#ifndef GRAFT_PLUGIN_PREFLIGHT_REPORT_H
#define GRAFT_PLUGIN_PREFLIGHT_REPORT_H

#include "plugin/elf_image.h"
#include "plugin/preflight.h"

#include <limits.h>

#define REFUSE(report, ...) preflight_add(report, PREFLIGHT_REFUSAL, __VA_ARGS__)
#define WARN(report, ...)   preflight_add(report, PREFLIGHT_WARNING, __VA_ARGS__)

/* Out of memory: the finding is lost, and a refusal that says so takes its place in the end. */
void preflight_add(struct preflight_report *report, enum preflight_severity severity,
                   const char *fmt, ...) PRINTF_LIKE(3, 4);

/* plugin/needed.c: dependencies from outside of the system's folders whose file is not the one
   that this process has mapped under their name. */
void preflight_needed(const struct elf_image *img, struct preflight_report *report);

/* Where RPATH, LD_LIBRARY_PATH or RUNPATH lead for that name; false: ld.so looks where it always does. */
bool preflight_resolve(const struct elf_image *img, const char *needed, char path[PATH_MAX]);

/* The whole of a regular file in memory (free() it), or NULL with the reason. */
void *preflight_read_file(const char *path, size_t *size, struct err *err);

#endif
