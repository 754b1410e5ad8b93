/* One plugin file, from the copy to its descriptor. */
#include "ops/inspect.h"

#include "http/router.h"
#include "plugin/preflight.h"
#include "plugin/signature.h"

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

static void judge_signature(struct inspection *out, const char *path, const char *copy,
                            const struct config_signatures *demands)
{
    struct signature sig;
    struct err err;
    if (!signature_wanted(demands))
        return;
    signature_read(&sig, AT_FDCWD, path);
    if (signature_verify(&sig, demands, copy, &err) != 0) {
        inspect_add(out, true, "signature", err.text);
        out->signature = sig.kind == SIGNATURE_MISSING ? "none" : "bad";
    } else {
        out->signature = sig.kind == SIGNATURE_MISSING ? "none" : "good";
    }
    signature_fini(&sig);
}

/* Two of its own routes that match the same requests. */
static void judge_routes(struct inspection *out)
{
    struct router *router = router_new();
    for (size_t i = 0; router != NULL && i < out->desc.route_count; i++) {
        const struct descriptor_route *r = &out->desc.routes[i];
        struct err err;
        if (router_add(router, r->method, r->pattern, out, &err) != 0)
            inspect_add(out, true, "routes", err.text);
    }
    router_free(router);
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
                    "has neither routes nor middleware functions: nothing will ever call it: name "
                    "them in GRAFT_PLUGIN(.routes = ..., .on_request = ...)");
    if (!out->refused)
        judge_routes(out);
}

void inspect(struct inspection *out, struct stage *stage, struct probe *probe, const char *path,
             const struct config_signatures *demands, unsigned timeout_ms)
{
    struct staged *staged = calloc(1, sizeof *staged); /* holds a whole path */
    struct err owner, err;
    memset(out, 0, sizeof *out);
    if (staged == NULL) {
        inspect_add(out, true, "stage", "out of memory");
        return;
    }
    if (stage_copy_any(stage, AT_FDCWD, path, staged, &owner, &err) != STAGE_OK) {
        if (owner.text[0] != '\0')
            inspect_add(out, true, "stage", owner.text);
        inspect_add(out, true, "stage", err.text);
        memcpy(out->sha256, staged->sha256, sizeof out->sha256);
    } else {
        memcpy(out->sha256, staged->sha256, sizeof out->sha256);
        if (owner.text[0] != '\0')
            inspect_add(out, true, "stage", owner.text);
        judge_signature(out, path, staged->path, demands);
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
