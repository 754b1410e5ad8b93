/* See roster.h. */
#include "plugin/roster.h"

#include "plugin/version.h"

#include <stdio.h>
#include <string.h>

static struct roster *the_roster;

void roster_open(struct roster *at)
{
    the_roster = at;
}

#define PUT(to, from) snprintf(to, sizeof(to), "%s", from)

static void write_entry(struct roster_entry *e, const struct version *v)
{
    PUT(e->plugin, v->plugin);
    PUT(e->version, v->desc.version != NULL ? v->desc.version : "");
    PUT(e->id, v->id);
    PUT(e->sha256, v->sha256);
    PUT(e->config_sha256, v->config_sha256);
    atomic_store(&e->state, ROSTER_WHOLE);
}

void roster_enter(const struct version *v)
{
    for (size_t i = 0; the_roster != NULL && i < ROSTER_MAX; i++) {
        uint32_t none = ROSTER_FREE;
        struct roster_entry *e = &the_roster->entries[i];
        if (!atomic_compare_exchange_strong(&e->state, &none, ROSTER_WRITING))
            continue;
        write_entry(e, v);
        return;
    }
}

static bool is_of(const struct roster_entry *e, const char *id)
{
    return atomic_load(&e->state) == ROSTER_WHOLE && strncmp(e->id, id, sizeof e->id) == 0;
}

void roster_leave(const struct version *v)
{
    for (size_t i = 0; the_roster != NULL && i < ROSTER_MAX; i++)
        if (is_of(&the_roster->entries[i], v->id))
            atomic_store(&the_roster->entries[i].state, ROSTER_FREE);
}

#define END(text) (text)[sizeof(text) - 1] = '\0'

bool roster_find(const struct roster *roster, const char *id, struct roster_entry *out)
{
    for (size_t i = 0; i < ROSTER_MAX; i++) {
        if (!is_of(&roster->entries[i], id))
            continue;
        memcpy(out, &roster->entries[i], sizeof *out);
        END(out->plugin);
        END(out->version);
        END(out->id);
        END(out->sha256);
        END(out->config_sha256);
        return true;
    }
    return false;
}
