/* Local: asks no server. The file is copied to a stage folder of this process, preflighted, and
   loaded by the probe, which is another process. */
#include "ctl/check.h"

#include "base/json.h"
#include "ctl/table.h"
#include "ops/inspect.h"

#include <stdio.h>

#define PROBE_MS 30000

static void print_text(const char *path, const struct inspection *in)
{
    table_put_safe(stdout, str_of(path));
    fputs(": ", stdout);
    if (!in->refused) {
        table_put_safe(stdout, str_of(in->desc.name));
        putchar(' ');
        table_put_safe(stdout, str_of(in->desc.version));
        printf(", %zu route%s, ", in->desc.route_count, in->desc.route_count == 1 ? "" : "s");
    }
    printf("%s%s\n", in->sha256[0] != '\0' ? "sha256 " : "not read", in->sha256);
    for (size_t i = 0; i < in->count; i++) {
        printf("%s (%s): ", in->findings[i].refusal ? "refused" : "warning", in->findings[i].stage);
        table_put_safe(stdout, str_of(in->findings[i].text));
        putchar('\n');
    }
    puts(in->refused ? "It would be refused." : "It would be loaded.");
}

/* As graftd's own answers: a word and a sentence when it is not ok. */
static void put_reason(struct json_out *j, const struct inspection *in)
{
    for (size_t i = 0; i < in->count; i++) {
        if (!in->findings[i].refusal)
            continue;
        json_put_z(j, "error", "refused");
        json_put_z(j, "reason", in->findings[i].text);
        return;
    }
}

static void print_json(const char *path, const struct inspection *in)
{
    struct buf body = { 0 };
    struct json_out j;
    json_out_init(&j, &body);
    json_open(&j, NULL, '{');
    json_put_bool(&j, "ok", !in->refused);
    put_reason(&j, in);
    json_put_z(&j, "file", path);
    json_put_z(&j, "plugin", in->desc.name);
    json_put_z(&j, "version", in->desc.version);
    json_put_z(&j, "sha256", in->sha256[0] != '\0' ? in->sha256 : NULL);
    json_open(&j, "findings", '[');
    for (size_t i = 0; i < in->count; i++) {
        json_open(&j, NULL, '{');
        json_put_z(&j, "severity", in->findings[i].refusal ? "refusal" : "warning");
        json_put_z(&j, "stage", in->findings[i].stage);
        json_put_z(&j, "text", in->findings[i].text);
        json_close(&j, '}');
    }
    json_close(&j, ']');
    json_close(&j, '}');
    if (!j.failed)
        puts(body.data);
    buf_fini(&body);
}

int check_file(const char *path, bool json)
{
    struct stage *stage;
    struct inspection in;
    struct err err;
    if (stage_open(&stage, NULL, &err) != 0) {
        fprintf(stderr, "graftctl: %s\n", err.text);
        return 1;
    }
    struct probe *probe = probe_open(NULL, &err);
    if (probe == NULL) {
        fprintf(stderr, "graftctl: %s\n", err.text);
        stage_close(stage);
        return 1;
    }
    inspect(&in, stage, probe, path, PROBE_MS);
    if (json)
        print_json(path, &in);
    else
        print_text(path, &in);
    int status = in.refused ? 1 : 0;
    inspect_fini(&in);
    probe_close(probe);
    stage_close(stage);
    return status;
}
