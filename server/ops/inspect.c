/* One plugin file, from the copy to its descriptor. */
#include "ops/inspect.h"

#include "plugin/preflight.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

void inspect_add(struct inspection *out, bool refusal, const char *stage, const char *text)
{
    struct inspect_finding *more = realloc(out->findings, (out->count + 1) * sizeof *more);
    char *copy = strdup(text);
    out->refused |= refusal;
    if (more != NULL)
        out->findings = more;
    if (more == NULL || copy == NULL) {
        free(copy);
        return;
    }
    out->findings[out->count++] = (struct inspect_finding){ refusal, stage, copy };
}

static void judge_copy(struct inspection *out, struct probe *probe, const char *path,
                       unsigned timeout_ms)
{
    struct preflight_report report;
    struct err err;
    int rc = preflight(path, &report, &err);
    for (size_t i = 0; i < report.count; i++)
        inspect_add(out, report.findings[i].severity == PREFLIGHT_REFUSAL, "preflight",
                    report.findings[i].text);
    preflight_report_fini(&report);
    if (rc != 0 && !out->refused)
        inspect_add(out, true, "preflight", err.text);
    if (out->refused)
        return;
    if (probe_run(probe, path, timeout_ms, &out->desc, &err) != 0)
        inspect_add(out, true, "probe", err.text);
    else if (descriptor_idle(&out->desc))
        inspect_add(out, false, "probe",
                    "has neither routes nor middleware functions: nothing will ever call it");
}

void inspect(struct inspection *out, struct stage *stage, struct probe *probe, const char *path,
             unsigned timeout_ms)
{
    struct staged *staged = calloc(1, sizeof *staged); /* holds a whole path */
    struct err err;
    memset(out, 0, sizeof *out);
    if (staged == NULL) {
        inspect_add(out, true, "stage", "out of memory");
        return;
    }
    if (stage_copy(stage, AT_FDCWD, path, staged, &err) != STAGE_OK) {
        inspect_add(out, true, "stage", err.text);
        memcpy(out->sha256, staged->sha256, sizeof out->sha256);
    } else {
        memcpy(out->sha256, staged->sha256, sizeof out->sha256);
        judge_copy(out, probe, staged->path, timeout_ms);
        stage_remove(stage, staged);
    }
    free(staged);
}

void inspect_fini(struct inspection *out)
{
    for (size_t i = 0; i < out->count; i++)
        free(out->findings[i].text);
    free(out->findings);
    descriptor_fini(&out->desc);
    memset(out, 0, sizeof *out);
}
