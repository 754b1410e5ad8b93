/*
 * The index of the store as text: JSON, one object. What we did not write is refused whole: every
 * member is known, every hash is one, every configuration has the hash that stands beside it, and
 * nothing is there twice.
 */
#include "plugin/keep_private.h"

#include "base/json.h"
#include "plugin/descriptor.h"

#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT   1
#define LEVELS   (JSON_DEPTH_MAX + 8) /* configurations stand deeper here than in their own file */
#define FILE_MAX 255

/* ---- Writing --------------------------------------------------------------------------------- */

static void put_identity(struct json_out *j, const struct identity *identity)
{
    json_put_z(j, "sha256", identity->sha256);
    json_put_z(j, "config_sha256", identity->config_sha256);
}

static void put_kept(struct json_out *j, const struct kept *kept)
{
    json_open(j, NULL, '{');
    put_identity(j, &kept->identity);
    json_put_z(j, "version", kept->version);
    json_put_z(j, "file", kept->file);
    json_put_int(j, "since_ms", kept->since_ms);
    if (kept->signer[0] != '\0')
        json_put_z(j, "signer", kept->signer);
    json_put_raw(j, "config", str_of(kept->config));
    json_close(j, '}');
}

static void put_plugins(struct json_out *j, const struct keep_model *m)
{
    json_open(j, "plugins", '[');
    list_each (it, &m->plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        json_open(j, NULL, '{');
        json_put_z(j, "plugin", p->good[0].identity.plugin);
        json_open(j, "good", '[');
        for (size_t i = 0; i < p->ngood; i++)
            if (p->good[i].synced)
                put_kept(j, &p->good[i]);
        json_close(j, ']');
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void put_quarantine(struct json_out *j, const struct quarantine *q)
{
    json_open(j, "quarantine", '[');
    list_each (it, &q->list) {
        const struct quarantined *entry = list_entry(it, struct quarantined, node);
        json_open(j, NULL, '{');
        json_put_z(j, "plugin", entry->identity.plugin);
        put_identity(j, &entry->identity);
        json_put_int(j, "when_ms", entry->when_ms);
        json_put_z(j, "reason", entry->reason);
        if (entry->evidence != NULL)
            json_put_raw(j, "evidence", str_of(entry->evidence));
        json_close(j, '}');
    }
    json_close(j, ']');
    json_open(j, "crashes", '[');
    list_each (it, &q->crashes) {
        const struct crash *crash = list_entry(it, struct crash, node);
        json_open(j, NULL, '{');
        json_put_z(j, "plugin", crash->identity.plugin);
        put_identity(j, &crash->identity);
        json_put_int(j, "when_ms", crash->when_ms);
        json_close(j, '}');
    }
    json_close(j, ']');
}

/* Only when there are: a graftd that knows of none reads what has none. */
static void put_trials(struct json_out *j, const struct trials *t)
{
    if (t->n == 0)
        return;
    json_open(j, "canaries", '[');
    for (size_t i = 0; i < t->n; i++) {
        const struct trial *trial = &t->list[i];
        json_open(j, NULL, '{');
        json_put_z(j, "plugin", trial->identity.plugin);
        put_identity(j, &trial->identity);
        json_put_u64(j, "weight", trial->weight);
        json_put_bool(j, "held", trial->held);
        if (trial->shadow_asked)
            json_put_u64(j, "shadow", trial->shadow);
        json_close(j, '}');
    }
    json_close(j, ']');
}

int keep_index_write(const struct keep_model *m, struct buf *out)
{
    struct json_out j;
    json_out_init(&j, out);
    json_open(&j, NULL, '{');
    json_put_int(&j, "graft_state", FORMAT);
    put_plugins(&j, m);
    put_quarantine(&j, &m->quarantine);
    put_trials(&j, &m->trials);
    json_close(&j, '}');
    return j.failed || buf_puts(out, "\n") != 0 ? -1 : 0;
}

/* ---- Reading: members ------------------------------------------------------------------------ */

/* Every member is one of the names, which stand between spaces. */
static int check_members(struct json_value v, const char *names, struct err *err)
{
    if (json_type(v) != JSON_OBJECT)
        return json_fail(v, err, "expected an object, found %s", json_type_name(json_type(v)));
    for (size_t i = 0; i < json_count(v); i++) {
        struct str key = json_key_at(v, i);
        char name[40];
        int len =
            snprintf(name, sizeof name, " %.*s ", (int)(key.len < 32 ? key.len : 32), key.ptr);
        if (key.len > 32 || memchr(key.ptr, ' ', key.len) != NULL ||
            memchr(key.ptr, '\0', key.len) != NULL || len < 3 || strstr(names, name) == NULL)
            return json_fail(json_key_value_at(v, i), err, "expected one of%s, found \"%.*s\"",
                             names, (int)(key.len < 32 ? key.len : 32), key.ptr);
    }
    return 0;
}

/* A string of at most max - 1 bytes without a NUL. */
static int read_text(struct json_value object, const char *key, char *out, size_t max,
                     struct err *err)
{
    struct str text;
    struct json_value v = json_get(object, key);
    if (!json_present(v))
        return json_fail(object, err, "expected a member \"%s\", found none", key);
    if (json_string(v, &text) != 0 || text.len >= max || memchr(text.ptr, '\0', text.len) != NULL)
        return json_fail(v, err, "%s: expected a string of less than %zu bytes", key, max);
    memcpy(out, text.ptr, text.len);
    out[text.len] = '\0';
    return 0;
}

static int read_hash(struct json_value object, const char *key, char out[65], struct err *err)
{
    if (read_text(object, key, out, 65, err) != 0)
        return -1;
    if (strlen(out) != 64 || strspn(out, "0123456789abcdef") != 64)
        return json_fail(json_get(object, key), err, "%s: expected 64 hex digits", key);
    return 0;
}

static int read_time(struct json_value object, const char *key, int64_t *out, struct err *err)
{
    struct json_value v = json_get(object, key);
    if (!json_present(v))
        return json_fail(object, err, "expected a member \"%s\", found none", key);
    if (json_int(v, out) != 0 || *out < 0)
        return json_fail(v, err, "%s: expected milliseconds since 1970", key);
    return 0;
}

/* By the rules of descriptors, which it came from. */
static int check_names(struct json_value at, char *plugin, char *version, struct err *err)
{
    static char nothing[] = "";
    struct err why;
    struct descriptor d = { .name = plugin, .version = version, .summary = nothing };
    return descriptor_check(&d, &why) == 0 ? 0 : json_fail(at, err, "%s", why.text);
}

static int read_plugin(struct json_value object, char out[65], struct err *err)
{
    static char nothing[] = "";
    if (read_text(object, "plugin", out, 65, err) != 0)
        return -1;
    return check_names(json_get(object, "plugin"), out, nothing, err);
}

static int read_identity(struct json_value object, struct identity *out, struct err *err)
{
    return read_hash(object, "sha256", out->sha256, err) != 0 ||
                   read_hash(object, "config_sha256", out->config_sha256, err) != 0
               ? -1
               : 0;
}

static int no_memory(struct err *err)
{
    return err_set(err, "out of memory");
}

/* Without insignificant white space, as it was hashed. */
static int read_config(struct json_value object, const char *sha256, char **out, struct err *err)
{
    struct json_value v = json_get(object, "config");
    struct buf text = { 0 };
    char hash[65];
    if (!json_present(v) || json_type(v) != JSON_OBJECT)
        return json_fail(object, err, "expected a member \"config\", an object");
    if (json_compact(v, &text) != 0 || buf_add(&text, "", 1) != 0) {
        buf_fini(&text);
        return no_memory(err);
    }
    SHA256Data((const uint8_t *)text.data, text.len - 1, hash);
    if (strcmp(hash, sha256) != 0) {
        buf_fini(&text);
        return json_fail(v, err, "config: its SHA-256 is not config_sha256");
    }
    *out = text.data;
    return 0;
}

/* ---- Reading: the parts ---------------------------------------------------------------------- */

/* May be absent: then nobody's signature was verified. The key's id alone, which stood there
   before: no key. */
static int read_signer(struct json_value object, char out[SIGNER_SIZE], struct err *err)
{
    out[0] = '\0';
    if (!json_present(json_get(object, "signer")))
        return 0;
    if (read_text(object, "signer", out, SIGNER_SIZE, err) != 0)
        return -1;
    size_t id = strspn(out, "0123456789ABCDEF"), len = strlen(out);
    bool whole = len == SIGNER_SIZE - 1 && id >= SIGNER_ID &&
                 strspn(out + SIGNER_ID, "0123456789abcdef") == len - SIGNER_ID;
    if (!whole && (len != SIGNER_ID || id != SIGNER_ID))
        return json_fail(json_get(object, "signer"), err,
                         "signer: expected the id of a key and the key, %u hex digits",
                         SIGNER_SIZE - 1);
    return 0;
}

static bool is_file_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL;
}

static int read_kept(struct json_value v, const char *plugin, struct kept *out, struct err *err)
{
    char version[DESCRIPTOR_VERSION_MAX + 1], file[FILE_MAX + 1];
    if (check_members(v, " sha256 config_sha256 version file since_ms signer config ", err) != 0 ||
        read_identity(v, &out->identity, err) != 0 ||
        read_text(v, "version", version, sizeof version, err) != 0 ||
        read_text(v, "file", file, sizeof file, err) != 0 ||
        read_time(v, "since_ms", &out->since_ms, err) != 0 || read_signer(v, out->signer, err) != 0)
        return -1;
    snprintf(out->identity.plugin, sizeof out->identity.plugin, "%s", plugin);
    if (check_names(v, out->identity.plugin, version, err) != 0)
        return -1;
    if (!is_file_name(file))
        return json_fail(json_get(v, "file"), err, "file: expected the name of a file");
    if (read_config(v, out->identity.config_sha256, &out->config, err) != 0)
        return -1;
    out->version = strdup(version);
    out->file = strdup(file);
    out->stored = out->synced = true;
    return out->version != NULL && out->file != NULL ? 0 : no_memory(err);
}

static bool has_plugin(const struct keep_model *m, const char *plugin)
{
    list_each (it, &m->plugins)
        if (strcmp(list_entry(it, struct keep_plugin, node)->good[0].identity.plugin, plugin) == 0)
            return true;
    return false;
}

/* They stand newest first; keep_model_good puts each before the others. */
static int read_goods(struct json_value list, const char *plugin, struct keep_model *m,
                      struct err *err)
{
    if (json_type(list) != JSON_ARRAY || json_count(list) > KEEP_GOOD)
        return json_fail(list, err, "good: expected an array of at most %d", KEEP_GOOD);
    for (size_t i = json_count(list); i-- > 0;) {
        struct kept kept = { .stored = false };
        int rc = read_kept(json_at(list, i), plugin, &kept, err);
        if (rc == 0 && !keep_model_good(m, &kept))
            rc = no_memory(err);
        kept_fini(&kept);
        if (rc != 0)
            return -1;
    }
    return 0;
}

static int read_plugins(struct json_value list, struct keep_model *m, struct err *err)
{
    if (json_type(list) != JSON_ARRAY || json_count(list) > KEEP_PLUGINS)
        return json_fail(list, err, "plugins: expected an array of at most %d", KEEP_PLUGINS);
    for (size_t i = json_count(list); i-- > 0;) {
        struct json_value v = json_at(list, i), good;
        char plugin[65];
        if (check_members(v, " plugin good ", err) != 0 || read_plugin(v, plugin, err) != 0)
            return -1;
        good = json_get(v, "good");
        if (has_plugin(m, plugin))
            return json_fail(v, err, "plugin %s is there twice", plugin);
        if (!json_present(good))
            return json_fail(v, err, "expected a member \"good\", found none");
        if (read_goods(good, plugin, m, err) != 0)
            return -1;
    }
    return 0;
}

static bool is_good(const struct keep_model *m, const struct identity *identity)
{
    list_each (it, &m->plugins) {
        const struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        for (size_t i = 0; i < p->ngood; i++)
            if (identity_same(&p->good[i].identity, identity))
                return true;
    }
    return false;
}

static int read_quarantined(struct json_value v, struct keep_model *m, struct err *err)
{
    struct quarantine *q = &m->quarantine;
    struct identity identity;
    char reason[QUARANTINE_REASON_MAX];
    int64_t when;
    struct buf evidence = { 0 };
    if (check_members(v, " plugin sha256 config_sha256 when_ms reason evidence ", err) != 0 ||
        read_plugin(v, identity.plugin, err) != 0 || read_identity(v, &identity, err) != 0 ||
        read_time(v, "when_ms", &when, err) != 0 ||
        read_text(v, "reason", reason, sizeof reason, err) != 0)
        return -1;
    if (quarantine_find(q, &identity) != NULL || is_good(m, &identity))
        return json_fail(v, err, "this identity is there twice");
    struct json_value e = json_get(v, "evidence");
    int rc = 0;
    if (json_present(e) && (json_compact(e, &evidence) != 0 || buf_add(&evidence, "", 1) != 0))
        rc = no_memory(err);
    else if (!quarantine_add(q, &identity, reason, evidence.data, when))
        rc = no_memory(err);
    buf_fini(&evidence);
    return rc;
}

static int read_quarantine(struct json_value list, struct keep_model *m, struct err *err)
{
    if (json_type(list) != JSON_ARRAY || json_count(list) > QUARANTINE_MAX)
        return json_fail(list, err, "quarantine: expected an array of at most %d", QUARANTINE_MAX);
    for (size_t i = json_count(list); i-- > 0;)
        if (read_quarantined(json_at(list, i), m, err) != 0)
            return -1;
    return 0;
}

static int read_crashes(struct json_value list, struct quarantine *q, struct err *err)
{
    if (json_type(list) != JSON_ARRAY || json_count(list) > QUARANTINE_CRASHES)
        return json_fail(list, err, "crashes: expected an array of at most %d", QUARANTINE_CRASHES);
    for (size_t i = json_count(list); i-- > 0;) {
        struct json_value v = json_at(list, i);
        struct identity identity;
        int64_t when;
        if (check_members(v, " plugin sha256 config_sha256 when_ms ", err) != 0 ||
            read_plugin(v, identity.plugin, err) != 0 || read_identity(v, &identity, err) != 0 ||
            read_time(v, "when_ms", &when, err) != 0)
            return -1;
        if (crash_note(q, &identity, when, 0))
            return json_fail(v, err, "this crash is there twice");
    }
    return 0;
}

/* May be absent: then it was not set by hand. */
static int read_shadow(struct json_value object, struct trial *out, struct err *err)
{
    int64_t shadow = 0;
    struct json_value v = json_get(object, "shadow");
    out->shadow_asked = json_present(v);
    if (out->shadow_asked && (json_int(v, &shadow) != 0 || shadow < 0 || shadow > 100))
        return json_fail(v, err, "shadow: expected 0 to 100");
    out->shadow = (unsigned)shadow;
    return 0;
}

static int read_trial(struct json_value v, struct keep_model *m, struct err *err)
{
    struct trial trial;
    int64_t weight;
    if (check_members(v, " plugin sha256 config_sha256 weight held shadow ", err) != 0 ||
        read_plugin(v, trial.identity.plugin, err) != 0 ||
        read_identity(v, &trial.identity, err) != 0 || read_shadow(v, &trial, err) != 0)
        return -1;
    struct json_value w = json_get(v, "weight"), held = json_get(v, "held");
    if (!json_present(w) || json_int(w, &weight) != 0 || weight < 0 || weight > 99)
        return json_fail(v, err, "weight: expected 0 to 99");
    if (!json_present(held) || json_bool(held, &trial.held) != 0)
        return json_fail(v, err, "held: expected true or false");
    trial.weight = (unsigned)weight;
    for (size_t i = 0; i < m->trials.n; i++)
        if (strcmp(m->trials.list[i].identity.plugin, trial.identity.plugin) == 0)
            return json_fail(v, err, "this plugin is there twice");
    trials_set(&m->trials, &trial);
    return 0;
}

static int read_trials(struct json_value list, struct keep_model *m, struct err *err)
{
    if (!json_present(list))
        return 0;
    if (json_type(list) != JSON_ARRAY || json_count(list) > TRIALS_MAX)
        return json_fail(list, err, "canaries: expected an array of at most %d", TRIALS_MAX);
    for (size_t i = 0; i < json_count(list); i++)
        if (read_trial(json_at(list, i), m, err) != 0)
            return -1;
    return 0;
}

/* ---- Reading: the whole ---------------------------------------------------------------------- */

static int check_format(struct json_value root, bool *newer, struct err *err)
{
    int64_t format = 0;
    struct json_value v = json_type(root) == JSON_OBJECT ? json_get(root, "graft_state")
                                                         : (struct json_value){ NULL, -1 };
    if (!json_present(v) || json_int(v, &format) != 0 || format < 1)
        return json_fail(root, err, "expected an object with \"graft_state\": %d: it is not ours",
                         FORMAT);
    *newer = format > FORMAT;
    if (*newer)
        return json_fail(v, err,
                         "its format is %lld, this graftd reads %d: it was written by a newer one",
                         (long long)format, FORMAT);
    return 0;
}

static int read_root(struct json_value root, struct keep_model *m, bool *newer, struct err *err)
{
    static const char *const parts[] = { "plugins", "quarantine", "crashes" };
    if (check_format(root, newer, err) != 0 ||
        check_members(root, " graft_state plugins quarantine crashes canaries ", err) != 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (!json_present(json_get(root, parts[i])))
            return json_fail(root, err, "expected a member \"%s\", found none", parts[i]);
    if (read_plugins(json_get(root, "plugins"), m, err) != 0 ||
        read_quarantine(json_get(root, "quarantine"), m, err) != 0)
        return -1;
    if (read_crashes(json_get(root, "crashes"), &m->quarantine, err) != 0)
        return -1;
    return read_trials(json_get(root, "canaries"), m, err);
}

int keep_index_read(const char *name, const char *text, size_t len, struct keep_model *m,
                    bool *newer, struct err *err)
{
    *newer = false;
    struct json *doc = json_parse_deep(name, text, len, LEVELS, err);
    if (doc == NULL)
        return -1;
    int rc = read_root(json_root(doc), m, newer, err);
    json_free(doc);
    if (rc == 0)
        return 0;
    keep_model_fini(m);
    keep_model_init(m);
    return -1;
}
