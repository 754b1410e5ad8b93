/*
 * The keys of graft.json that say whom to trust: signatures (of plugin files) and control_groups
 * (of the control socket). One configuration, one thread.
 */
#include "base/config_private.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEYS_MAX 64

/* ---- A public key ---------------------------------------------------------------------------- */

/* Who can write to it decides whose code runs. */
static int judge_key_file(const struct stat *st, struct err *err)
{
    if (!S_ISREG(st->st_mode))
        return err_set(err, "expected a regular file: name the .pub file that minisign -G wrote");
    if ((st->st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return err_set(
            err, "writable by %s (mode %04o), expected by its owner alone: chmod go-w it",
            (st->st_mode & S_IWOTH) != 0 ? "others" : "its group", (unsigned)(st->st_mode & 07777));
    if (st->st_size > (off_t)MINISIGN_KEY_FILE_MAX)
        return err_set(err, "has %jd bytes, expected at most %u: is it a .pub file of minisign?",
                       (intmax_t)st->st_size, MINISIGN_KEY_FILE_MAX);
    return 0;
}

static int read_open_key(struct config_key_text *k, int fd, struct err *err)
{
    char text[MINISIGN_KEY_FILE_MAX + 1];
    struct stat st;
    size_t len = 0;
    if (fstat(fd, &st) != 0)
        return err_set(err, "cannot be read: %s", strerror(errno));
    if (judge_key_file(&st, err) != 0)
        return -1;
    while (len < sizeof text) {
        ssize_t n = read(fd, text + len, sizeof text - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, "cannot be read: %s", strerror(errno));
        if (n == 0)
            return minisign_key_file(&k->key, (struct str){ text, len }, err);
        len += (size_t)n;
    }
    return err_set(err, "has more than %u bytes: is it a .pub file of minisign?",
                   MINISIGN_KEY_FILE_MAX);
}

static int read_key_file(struct config_key_text *k, struct err *err)
{
    int fd = open(k->text, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return err_set(err, "%s: cannot be opened: %s: name the .pub file that minisign -G wrote",
                       k->text, strerror(errno));
    int rc = read_open_key(k, fd, err);
    close(fd);
    if (rc != 0)
        return err_prefix(err, "%s", k->text);
    k->known = true;
    return 0;
}

/* A key begins with RW, a path with '/': no text is both. */
static int read_key_text(struct config_key_text *k, const char *text, bool files, struct err *err)
{
    if (config_copy(&k->text, text, err) != 0)
        return -1;
    if (text[0] == '/')
        return files ? read_key_file(k, err) : 0;
    if (minisign_key(&k->key, str_of(text), err) != 0)
        return err_set(err, "%s: give the last line of a .pub file, or its path from / on",
                       err->text);
    k->known = true;
    return 0;
}

/* Two keys of one id cannot be told apart by what a signature says. */
static int check_key_twice(const struct config_signatures *s, const struct config_key_text *k,
                           struct err *err)
{
    for (const struct config_key_text *other = s->keys; other < k; other++) {
        bool same = k->known && other->known ? k->key.id == other->key.id
                                             : strcmp(k->text, other->text) == 0;
        if (same)
            return err_set(err, "the key %.80s is named twice: remove one", k->text);
    }
    return 0;
}

/* ---- signatures ------------------------------------------------------------------------------ */

static void hash_demands(struct config_signatures *s)
{
    SHA2_CTX sha;
    SHA256Init(&sha);
    SHA256Update(&sha, (const uint8_t *)(s->required ? "required" : "optional"), 8);
    for (size_t i = 0; i < s->key_count; i++) {
        const struct minisign_key *k = &s->keys[i].key;
        SHA256Update(&sha, (const uint8_t *)&k->id, sizeof k->id);
        SHA256Update(&sha, k->key, sizeof k->key);
    }
    SHA256End(&sha, s->sha256);
}

static int make_room(struct config_signatures *s, size_t count, struct err *err)
{
    s->keys = calloc(count ? count : 1, sizeof *s->keys);
    return s->keys != NULL ? 0 : config_no_memory(err);
}

static int add_key(struct config_signatures *s, const char *text, bool files, struct err *err)
{
    struct config_key_text *k = &s->keys[s->key_count++];
    return read_key_text(k, text, files, err) == 0 ? check_key_twice(s, k, err) : -1;
}

static int read_keys(struct config_reader *r, struct json_value v)
{
    struct config_signatures *s = &r->cfg->signatures;
    size_t count = json_count(v);
    if (config_expect(v, JSON_ARRAY, "signatures.keys: expected an array of public keys", r->err) !=
        0)
        return -1;
    if (count > KEYS_MAX)
        return json_fail(v, r->err,
                         "signatures.keys: expected at most %d keys, found %zu: remove "
                         "those that sign nothing any more",
                         KEYS_MAX, count);
    if (make_room(s, count, r->err) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        struct json_value one = json_at(v, i);
        struct str text = STR("");
        if (config_expect(one, JSON_STRING, "signatures.keys: expected a public key as a string",
                          r->err) != 0)
            return -1;
        json_string(one, &text);
        if (add_key(s, text.ptr, r->resolve, r->err) != 0)
            return json_fail(one, r->err, "signatures.keys: %s", r->err->text);
    }
    return 0;
}

/* Nothing is verified without libsodium, so nothing may be demanded. */
static int check_supported(const struct config_signatures *s, struct json_value v, struct err *err)
{
#ifdef GRAFT_SODIUM
    (void)s;
    (void)v;
    (void)err;
    return 0;
#else
    if (!s->required && s->key_count == 0)
        return 0;
    return json_fail(v, err,
                     "signatures: this graftd cannot verify any: it was built without "
                     "libsodium: build it with --with-sodium (Debian: libsodium-dev), or "
                     "remove the key");
#endif
}

static int read_signatures(struct config_reader *r, const struct config_key *key,
                           struct json_value v)
{
    static const struct str known[] = { { "required", 8 }, { "keys", 4 } };
    struct config_signatures *s = &r->cfg->signatures;
    struct json_value required = json_get(v, "required"), keys = json_get(v, "keys");
    (void)key;
    for (size_t i = 0; i < json_count(v); i++) {
        struct str name = json_key_at(v, i);
        if (!str_eq(name, known[0]) && !str_eq(name, known[1]))
            return config_unknown(json_key_value_at(v, i), name, known, ARRAY_LEN(known), r->err);
    }
    if (json_present(required)) {
        if (config_expect(required, JSON_BOOL, "signatures.required: expected true or false",
                          r->err) != 0)
            return -1;
        json_bool(required, &s->required);
    }
    if (json_present(keys) && read_keys(r, keys) != 0)
        return -1;
    if (s->required && s->key_count == 0)
        return json_fail(v, r->err,
                         "signatures: required is true, but keys names none, so that no plugin "
                         "could be loaded: name a public key, or set \"required\": false");
    hash_demands(s);
    return check_supported(s, v, r->err);
}

int config_signatures_of(struct config_signatures *out, const char *const *keys, size_t count,
                         struct err *err)
{
    *out = (struct config_signatures){ .required = true };
    if (make_room(out, count, err) != 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (add_key(out, keys[i], true, err) != 0)
            return -1;
    hash_demands(out);
    return 0;
}

void config_signatures_free(struct config_signatures *s)
{
    for (size_t i = 0; i < s->key_count; i++)
        free(s->keys[i].text);
    free(s->keys);
    *s = (struct config_signatures){ 0 };
}

/* ---- control_groups -------------------------------------------------------------------------- */

static int find_group(gid_t *out, const char *name, struct err *err)
{
    struct group group, *found = NULL;
    char scratch[65536];
    uint64_t number;
    int why = getgrnam_r(name, &group, scratch, sizeof scratch, &found);
    if (found != NULL) {
        *out = found->gr_gid;
        return 0;
    }
    if (str_to_u64(str_of(name), &number) == 0 && number < UINT32_MAX) {
        *out = (gid_t)number;
        return 0;
    }
    if (why != 0 && why != ENOENT)
        return err_set(err, "the group \"%.64s\" cannot be looked up: %s", name, strerror(why));
    return err_set(err,
                   "expected a group of this machine, found \"%.64s\": make it (groupadd), or "
                   "give its number",
                   name);
}

static int read_group(struct config_reader *r, struct config_group *g, struct json_value v)
{
    struct str name = STR("");
    if (config_expect(v, JSON_STRING, "control_groups: expected the name of a group", r->err) != 0)
        return -1;
    json_string(v, &name);
    g->gid = (gid_t)-1;
    if (config_copy(&g->name, name.ptr, r->err) != 0)
        return -1;
    if (name.len == 0)
        return json_fail(v, r->err, "control_groups: expected the name of a group, found \"\"");
    if (r->resolve && find_group(&g->gid, name.ptr, r->err) != 0)
        return json_fail(v, r->err, "control_groups: %s", r->err->text);
    for (const struct config_group *other = r->cfg->control_groups; other < g; other++)
        if (strcmp(other->name, g->name) == 0 || (r->resolve && other->gid == g->gid))
            return json_fail(v, r->err, "control_groups: \"%.64s\" is named twice: remove one",
                             g->name);
    return 0;
}

static int read_groups(struct config_reader *r, const struct config_key *key, struct json_value v)
{
    size_t count = json_count(v);
    (void)key;
    if (count > CONFIG_GROUPS_MAX)
        return json_fail(v, r->err,
                         "control_groups: expected at most %d groups, found %zu: make one group "
                         "for them",
                         CONFIG_GROUPS_MAX, count);
    r->cfg->control_groups = calloc(count ? count : 1, sizeof *r->cfg->control_groups);
    if (r->cfg->control_groups == NULL)
        return config_no_memory(r->err);
    for (size_t i = 0; i < count; i++) {
        r->cfg->control_group_count = i + 1;
        if (read_group(r, &r->cfg->control_groups[i], json_at(v, i)) != 0)
            return -1;
    }
    return 0;
}

/* In any order. */
bool config_groups_equal(const struct config *a, const struct config *b)
{
    if (a->control_group_count != b->control_group_count)
        return false;
    for (size_t i = 0; i < a->control_group_count; i++) {
        bool found = false;
        for (size_t j = 0; j < b->control_group_count && !found; j++)
            found = a->control_groups[i].gid == b->control_groups[j].gid &&
                    strcmp(a->control_groups[i].name, b->control_groups[j].name) == 0;
        if (!found)
            return false;
    }
    return true;
}

void config_trust_free(struct config *cfg)
{
    config_signatures_free(&cfg->signatures);
    for (size_t i = 0; i < cfg->control_group_count; i++)
        free(cfg->control_groups[i].name);
    free(cfg->control_groups);
}

const struct config_type config_signatures = { "an object with required and keys", JSON_OBJECT,
                                               NULL, read_signatures };
const struct config_type config_groups = { "an array of groups", JSON_ARRAY, NULL, read_groups };
