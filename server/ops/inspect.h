/*
 * What graftd would say about a plugin file, without loading it into a server: staged, preflighted
 * and probed, every finding kept. For graftd -t and graftctl check. Main thread; may block.
 */
#ifndef GRAFT_OPS_INSPECT_H
#define GRAFT_OPS_INSPECT_H

#include "base/config.h"
#include "plugin/descriptor.h"
#include "plugin/probe.h"
#include "plugin/stage.h"

struct inspect_finding {
    bool refusal;      /* else a warning */
    const char *stage; /* "stage", "signature", "preflight", "probe", "routes"; a literal */
    char *text;
};

struct inspection {
    bool refused;
    char sha256[65];        /* "" when the file could not be read */
    const char *signature;  /* "good", "bad", "none"; NULL: none was asked for */
    struct descriptor desc; /* valid unless refused */
    struct inspect_finding *findings;
    size_t count;
};

/* Fills `out`, the caller's to fini. Everything is looked at, also behind a refusal; but none of
   the file's code runs (in the probe) once there is one. */
void inspect(struct inspection *out, struct stage *stage, struct probe *probe, const char *path,
             const struct config_signatures *demands, unsigned timeout_ms);
/* Adds a finding of the caller's own; a refusal makes the whole one. */
void inspect_add(struct inspection *out, bool refusal, const char *stage, const char *text);
void inspect_fini(struct inspection *out);

#endif
