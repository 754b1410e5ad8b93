/* The store's questions and changes about versions on trial (plugin/trial.h). */
#include "plugin/keep_private.h"

bool keep_trial(struct keep *k, const struct trial *trial)
{
    if (k == NULL)
        return false;
    CHECK(k, KEEP_MAGIC);
    pthread_mutex_lock(&k->lock);
    bool changed = trials_set(&k->model.trials, trial);
    k->changes += changed;
    pthread_mutex_unlock(&k->lock);
    return changed;
}

bool keep_trial_end(struct keep *k, const struct identity *identity)
{
    if (k == NULL)
        return false;
    CHECK(k, KEEP_MAGIC);
    pthread_mutex_lock(&k->lock);
    bool changed = trials_end(&k->model.trials, identity);
    k->changes += changed;
    pthread_mutex_unlock(&k->lock);
    return changed;
}

bool keep_is_on_trial(struct keep *k, const struct identity *identity, struct trial *out)
{
    if (k == NULL)
        return false;
    pthread_mutex_lock(&k->lock);
    const struct trial *trial = trials_find(&k->model.trials, identity);
    if (trial != NULL)
        *out = *trial;
    pthread_mutex_unlock(&k->lock);
    return trial != NULL;
}
