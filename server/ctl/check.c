/* Local: asks no server. The file is copied to a stage folder of this process, its signature
   verified, preflighted, and loaded by the probe, which is another process. */
#include "ctl/check.h"

#include "base/json.h"
#include "ctl/table.h"
#include "ops/inspect.h"
#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    printf("%s%s", in->sha256[0] != '\0' ? "sha256 " : "not read", in->sha256);
    puts(in->signature == NULL                ? ""
         : strcmp(in->signature, "none") == 0 ? ", not signed"
         : strcmp(in->signature, "bad") == 0  ? ", signature bad"
                                              : ", signature good");
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
    json_put_z(&j, "signature", in->signature);
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

/* On a command line a path may be relative to where we are. */
static int read_keys(const struct check_options *options, struct config_signatures *demands,
                     struct err *err)
{
    const char *keys[CHECK_KEYS_MAX];
    char *paths[CHECK_KEYS_MAX] = { NULL };
    for (size_t i = 0; i < options->nkeys; i++) {
        bool file = strlen(options->keys[i]) != MINISIGN_KEY_TEXT;
        paths[i] = file ? realpath(options->keys[i], NULL) : NULL;
        keys[i] = paths[i] != NULL ? paths[i] : options->keys[i];
    }
    int rc = config_signatures_of(demands, keys, options->nkeys, err);
    for (size_t i = 0; i < options->nkeys; i++)
        free(paths[i]);
    if (rc == 0)
        return 0;
    config_signatures_free(demands);
    return err_prefix(err, "--key");
}

/* Whose signatures are demanded: by the keys given, else by a configuration. -1: neither can be
   read. `cfg` is the caller's to free; so are the demands when keys were given. */
static int find_demands(const struct check_options *options, struct config_signatures *demands,
                        struct config **cfg, struct err *err)
{
    static struct options file; /* holds room for flags */
    char *no_variables[] = { NULL };
    if (options->nkeys > 0)
        return read_keys(options, demands, err);
    file.config_file = options->config;
    *cfg = config_load(&file, no_variables, err);
    if (*cfg == NULL)
        return -1;
    *demands = (*cfg)->signatures;
    return 0;
}

static int check_against(const char *path, const struct check_options *options,
                         const struct config_signatures *demands, const char *warning)
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
    inspect(&in, stage, probe, path, demands, PROBE_MS);
    if (warning != NULL)
        inspect_add(&in, false, "signature", warning);
    if (options->json)
        print_json(path, &in);
    else
        print_text(path, &in);
    int status = in.refused ? 1 : 0;
    inspect_fini(&in);
    probe_close(probe);
    stage_close(stage);
    return status;
}

/* A configuration that nobody named and that cannot be read hinders nobody from looking at a file;
   that its signature was not looked at is told. */
int check_file(const char *path, const struct check_options *options)
{
    struct config_signatures demands = { 0 };
    struct config *cfg = NULL;
    struct err err = { "" };
    int rc = find_demands(options, &demands, &cfg, &err);
    if (rc != 0 && (options->nkeys > 0 || options->config != NULL)) {
        fprintf(stderr, "graftctl: %s\n", err.text);
        return 1;
    }
    if (rc != 0)
        err_prefix(&err,
                   "its signature was not verified (name a configuration, -c FILE, or a public "
                   "key, --key KEY)");
    rc = check_against(path, options, &demands, rc != 0 ? err.text : NULL);
    if (options->nkeys > 0)
        config_signatures_free(&demands);
    config_free(cfg);
    return rc;
}
