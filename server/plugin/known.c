/* Lists in order of use: a scan asks for some tens of entries of at most 512, a few microseconds.
 */
#include "plugin/known.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct name {
    struct list node;
    char sha256[65];
    char plugin[]; /* NUL-terminated */
};

void known_init(struct known *k)
{
    list_init(&k->names);
    list_init(&k->failures);
    k->nnames = k->nfailures = 0;
}

static void failure_free(struct known *k, struct known_failure *f)
{
    list_del(&f->node);
    k->nfailures--;
    free(f->key);
    free(f->stage);
    free(f->error);
    free(f->plugin);
    free(f->other_sha256);
    free(f);
}

void known_fini(struct known *k)
{
    for (struct list *it; (it = list_pop(&k->names)) != NULL;)
        free(list_entry(it, struct name, node));
    list_each_safe (it, &k->failures)
        failure_free(k, list_entry(it, struct known_failure, node));
    k->nnames = 0;
}

/* ---- Names ----------------------------------------------------------------------------------- */

const char *known_name(struct known *k, const char *sha256)
{
    list_each (it, &k->names) {
        struct name *name = list_entry(it, struct name, node);
        if (strcmp(name->sha256, sha256) != 0)
            continue;
        list_del(&name->node);
        list_add_head(&k->names, &name->node);
        return name->plugin;
    }
    return NULL;
}

void known_name_add(struct known *k, const char *sha256, const char *plugin)
{
    if (known_name(k, sha256) != NULL)
        return;
    size_t size = strlen(plugin) + 1;
    struct name *name = malloc(sizeof *name + size);
    if (name == NULL)
        return; /* then it is probed again */
    memcpy(name->plugin, plugin, size);
    snprintf(name->sha256, sizeof name->sha256, "%s", sha256);
    list_init(&name->node);
    list_add_head(&k->names, &name->node);
    if (++k->nnames <= KNOWN_MAX)
        return;
    struct name *last = list_entry(k->names.prev, struct name, node);
    list_del(&last->node);
    free(last);
    k->nnames--;
}

/* ---- Failures -------------------------------------------------------------------------------- */

void known_key_file(char out[KNOWN_KEY], const char *sha256)
{
    snprintf(out, KNOWN_KEY, "file %s", sha256);
}

void known_key_identity(char out[KNOWN_KEY], const char *sha256, const char *config_sha256)
{
    snprintf(out, KNOWN_KEY, "identity %s %s", sha256, config_sha256);
}

void known_key_signature(char out[KNOWN_KEY], const char *file, const char *sha256,
                         const char *config_sha256, const char *signature, const char *demands)
{
    snprintf(out, KNOWN_KEY, "signature %.255s %s %s %.80s %s", file, sha256, config_sha256,
             signature, demands);
}

static struct known_failure *find(struct known *k, const char *key)
{
    list_each (it, &k->failures) {
        struct known_failure *f = list_entry(it, struct known_failure, node);
        if (strcmp(f->key, key) != 0)
            continue;
        list_del(&f->node);
        list_add_head(&k->failures, &f->node);
        return f;
    }
    return NULL;
}

struct known_failure *known_failure(struct known *k, const char *key)
{
    struct known_failure *f = find(k, key);
    return f != NULL && !f->suspect ? f : NULL;
}

static bool copy(char **to, const char *from)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL;
}

static bool says_one_of(const char *text, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(text, words[i]) != NULL)
            return true;
    return false;
}

/* Not in a callback of the plugin, these words are the machine's, not the file's. */
static bool machine_was_short(const struct known_failure *f)
{
    static const char *const ours[] = { "stage",  "signature",  "preflight", "probe",
                                        "dlopen", "descriptor", "config",    "routes" };
    static const char *const words[] = { "out of memory", "no memory", "annot allocate memory",
                                         "Too many open files", "failed to map segment" };
    bool is_ours = false;
    for (size_t i = 0; i < ARRAY_LEN(ours); i++)
        is_ours = is_ours || strcmp(f->stage, ours[i]) == 0;
    return is_ours && says_one_of(f->error, words, ARRAY_LEN(words));
}

/* dlopen failed although the probe could, and not because of what the file holds. */
static bool machine_may_be(const struct known_failure *f)
{
    static const char *const words[] = { "undefined symbol", "(required by ", "ELF" };
    return strstr(f->error, "dlopen: ") != NULL && strcmp(f->stage, "dlopen") == 0 &&
           !says_one_of(f->error, words, ARRAY_LEN(words));
}

void known_failure_add(struct known *k, const struct known_failure *from)
{
    bool again = find(k, from->key) != NULL;
    known_failure_forget(k, from->key);
    if (machine_was_short(from))
        return;
    struct known_failure *f = calloc(1, sizeof *f);
    if (f == NULL)
        return;
    list_init(&f->node);
    list_add_head(&k->failures, &f->node);
    k->nfailures++;
    f->config_bound = from->config_bound;
    f->suspect = !again && machine_may_be(from);
    bool all = copy(&f->key, from->key);
    all = copy(&f->stage, from->stage) && all;
    all = copy(&f->error, from->error) && all;
    all = copy(&f->plugin, from->plugin) && all;
    all = copy(&f->other_sha256, from->other_sha256) && all;
    if (!all)
        failure_free(k, f);
    else if (k->nfailures > KNOWN_MAX)
        failure_free(k, list_entry(k->failures.prev, struct known_failure, node));
}

void known_failure_forget(struct known *k, const char *key)
{
    struct known_failure *f = find(k, key);
    if (f != NULL)
        failure_free(k, f);
}

void known_forget_config_bound(struct known *k)
{
    list_each_safe (it, &k->failures) {
        struct known_failure *f = list_entry(it, struct known_failure, node);
        if (f->config_bound)
            failure_free(k, f);
    }
}
