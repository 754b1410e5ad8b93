/* See proven.h. Entries stand one behind the other: hash, length, the descriptor as the probe wrote
   it. `used` is moved when an entry is whole, so that a crash leaves no half of one. */
#include "plugin/proven.h"

#include "plugin/probe_wire.h"

#include <stdatomic.h>
#include <string.h>

#define HASH 64

struct entry {
    char sha256[HASH];
    uint32_t len, forgotten;
};

static struct proven_area *area;

void proven_open(struct proven_area *at)
{
    area = at;
}

/* The entry at *at, which moves on; NULL: that was all, or the rest makes no sense. */
static unsigned char *next(uint32_t *at, struct entry *out)
{
    uint32_t used = atomic_load(&area->used), here = *at;
    if (used > PROVEN_SIZE || here > used || used - here < sizeof *out)
        return NULL;
    memcpy(out, area->bytes + here, sizeof *out);
    if (out->len > used - here - sizeof *out)
        return NULL;
    *at = here + (uint32_t)sizeof *out + out->len;
    return area->bytes + here;
}

static unsigned char *find(const char *sha256, struct entry *out)
{
    uint32_t at = 0;
    unsigned char *here;
    if (area == NULL || strlen(sha256) != HASH)
        return NULL;
    while ((here = next(&at, out)) != NULL)
        if (memcmp(out->sha256, sha256, HASH) == 0)
            return here;
    return NULL;
}

int proven_declared(const char *sha256, struct descriptor *out)
{
    struct entry e;
    struct err err;
    const unsigned char *here = find(sha256, &e);
    return here != NULL ? descriptor_decode(here + sizeof e, e.len, out, &err) : -1;
}

int proven_find(const char *sha256, struct descriptor *out)
{
    struct entry e;
    return find(sha256, &e) != NULL && !e.forgotten ? proven_declared(sha256, out) : -1;
}

void proven_forget(const char *sha256)
{
    struct entry e;
    unsigned char *here = find(sha256, &e);
    if (here == NULL)
        return;
    e.forgotten = 1;
    memcpy(here, &e, sizeof e);
}

void proven_add(const char *sha256, const struct descriptor *d)
{
    struct buf text = { 0 };
    struct entry e = { .len = 0 };
    unsigned char *there = find(sha256, &e);
    if (there != NULL && e.forgotten)
        memset(there, 0, HASH);
    if (area == NULL || strlen(sha256) != HASH || (there != NULL && !e.forgotten) ||
        descriptor_encode(d, &text) != 0 || text.len > PROVEN_SIZE - sizeof e) {
        buf_fini(&text);
        return;
    }
    uint32_t used = atomic_load(&area->used);
    if (used > PROVEN_SIZE || PROVEN_SIZE - used < sizeof e + text.len) {
        atomic_store(&area->used, 0);
        used = 0;
    }
    memcpy(e.sha256, sha256, HASH);
    e.len = (uint32_t)text.len;
    e.forgotten = 0;
    memcpy(area->bytes + used, &e, sizeof e);
    memcpy(area->bytes + used + sizeof e, text.data, text.len);
    atomic_store(&area->used, used + (uint32_t)(sizeof e + text.len));
    buf_fini(&text);
}
