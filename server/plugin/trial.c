/* See trial.h. */
#include "plugin/trial.h"

#include <string.h>

static void drop(struct trials *t, size_t at)
{
    t->n--;
    memmove(&t->list[at], &t->list[at + 1], (t->n - at) * sizeof t->list[0]);
}

static bool is_same(const struct trial *a, const struct trial *b)
{
    return identity_same(&a->identity, &b->identity) && a->weight == b->weight &&
           a->held == b->held && a->shadow_asked == b->shadow_asked && a->shadow == b->shadow;
}

bool trials_set(struct trials *t, const struct trial *trial)
{
    for (size_t i = 0; i < t->n; i++) {
        struct trial *old = &t->list[i];
        if (strcmp(old->identity.plugin, trial->identity.plugin) != 0)
            continue;
        if (is_same(old, trial))
            return false;
        drop(t, i);
        break;
    }
    if (t->n == TRIALS_MAX)
        drop(t, 0);
    t->list[t->n++] = *trial;
    return true;
}

bool trials_end(struct trials *t, const struct identity *identity)
{
    for (size_t i = 0; i < t->n; i++)
        if (identity_same(&t->list[i].identity, identity)) {
            drop(t, i);
            return true;
        }
    return false;
}

const struct trial *trials_find(const struct trials *t, const struct identity *identity)
{
    for (size_t i = 0; i < t->n; i++)
        if (identity_same(&t->list[i].identity, identity))
            return &t->list[i];
    return NULL;
}
