/*
 * Runs graft-probe: a small program that dlopens a staged plugin and reports its descriptor. A
 * constructor that crashes, exits or hangs does so there, not in the server.
 *
 * Loader thread: probe_run blocks until the child has ended, at most timeout_ms and the moment that
 * killing takes. The child is waited for by its own pid.
 */
#ifndef GRAFT_PLUGIN_PROBE_H
#define GRAFT_PLUGIN_PROBE_H

#include "base/base.h"
#include "base/err.h"
#include "plugin/descriptor.h"

struct probe;

/* Opens the program (close-on-exec), so that an upgrade of the package cannot exchange it under a
   running server. `path` NULL: the installed one. NULL with the reason. */
struct probe *probe_open(const char *path, struct err *err);
void probe_close(struct probe *probe); /* accepts NULL */

/*
 * 0: `out` is what the plugin says, checked, functions NULL; the caller's to descriptor_fini.
 * -1: err says what happened ("constructor crashed: SIGSEGV", "a constructor called exit(3)",
 * "a constructor did not return within 30000 ms", dlerror's text, what is wrong with the
 * descriptor); nothing to free.
 */
int probe_run(struct probe *probe, const char *so_path, unsigned timeout_ms, struct descriptor *out,
              struct err *err);

#endif
