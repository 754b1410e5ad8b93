/*
 * What is known: good versions by plugin, newest first, and with them the quarantine. No lock and
 * no file: keep.c has the one, keep_folder.c the other.
 */
#include "plugin/keep_private.h"

#include <stdlib.h>
#include <string.h>

/* ---- A kept version -------------------------------------------------------------------------- */

void kept_fini(struct kept *kept)
{
    free(kept->version);
    free(kept->config);
    free(kept->file);
    free(kept->from);
    memset(kept, 0, sizeof *kept);
}

static bool copy(char **to, const char *from)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL;
}

bool kept_copy(struct kept *to, const struct kept *from)
{
    *to = (struct kept){ .identity = from->identity,
                         .since_ms = from->since_ms,
                         .stored = from->stored,
                         .synced = from->synced };
    memcpy(to->signer, from->signer, sizeof to->signer);
    bool all = copy(&to->version, from->version);
    all = copy(&to->config, from->config) && all;
    all = copy(&to->file, from->file) && all;
    all = copy(&to->from, from->from) && all;
    if (!all)
        kept_fini(to);
    return all;
}

/* ---- The model ------------------------------------------------------------------------------- */

void keep_model_init(struct keep_model *m)
{
    list_init(&m->plugins);
    m->nplugins = 0;
    m->trials.n = 0;
    quarantine_init(&m->quarantine);
}

static void plugin_free(struct keep_model *m, struct keep_plugin *p)
{
    list_del(&p->node);
    m->nplugins--;
    for (size_t i = 0; i < p->ngood; i++)
        kept_fini(&p->good[i]);
    free(p);
}

void keep_model_fini(struct keep_model *m)
{
    list_each_safe (it, &m->plugins)
        plugin_free(m, list_entry(it, struct keep_plugin, node));
    quarantine_fini(&m->quarantine);
}

struct keep_plugin *keep_model_plugin(const struct keep_model *m, const char *plugin)
{
    list_each (it, &m->plugins) {
        struct keep_plugin *p = list_entry(it, struct keep_plugin, node);
        if (strcmp(p->good[0].identity.plugin, plugin) == 0)
            return p;
    }
    return NULL;
}

static void drop(struct keep_plugin *p, size_t at)
{
    kept_fini(&p->good[at]);
    p->ngood--;
    memmove(&p->good[at], &p->good[at + 1], (p->ngood - at) * sizeof p->good[0]);
}

static struct keep_plugin *add_plugin(struct keep_model *m)
{
    struct keep_plugin *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    list_init(&p->node);
    if (m->nplugins >= KEEP_PLUGINS)
        plugin_free(m, list_entry(m->plugins.prev, struct keep_plugin, node));
    m->nplugins++;
    return p;
}

bool keep_model_good(struct keep_model *m, const struct kept *kept)
{
    struct kept mine;
    if (!kept_copy(&mine, kept))
        return false;
    struct keep_plugin *p = keep_model_plugin(m, kept->identity.plugin);
    if (p == NULL && (p = add_plugin(m)) == NULL) {
        kept_fini(&mine);
        return false;
    }
    for (size_t i = 0; i < p->ngood; i++)
        if (identity_same(&p->good[i].identity, &kept->identity)) {
            mine.stored = mine.stored || p->good[i].stored;
            mine.synced = mine.synced || p->good[i].synced;
            drop(p, i);
            break;
        }
    if (p->ngood == KEEP_GOOD)
        drop(p, KEEP_GOOD - 1);
    memmove(&p->good[1], &p->good[0], p->ngood * sizeof p->good[0]);
    p->good[0] = mine;
    p->ngood++;
    list_del(&p->node);
    list_add_head(&m->plugins, &p->node);
    quarantine_remove(&m->quarantine, &kept->identity);
    trials_end(&m->trials, &kept->identity);
    return true;
}

bool keep_model_forget(struct keep_model *m, const struct identity *identity)
{
    struct keep_plugin *p = keep_model_plugin(m, identity->plugin);
    for (size_t i = 0; p != NULL && i < p->ngood; i++) {
        if (!identity_same(&p->good[i].identity, identity))
            continue;
        if (p->ngood == 1)
            plugin_free(m, p);
        else
            drop(p, i);
        return true;
    }
    return false;
}
