/* See canary.h. */
#include "plugin/canary.h"

#include "http/request.h"
#include "http/session.h"
#include "plugin/generation.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

void canary_dice_init(struct canary_dice *d, unsigned worker)
{
    if (getrandom(d, sizeof *d, GRND_NONBLOCK) != (ssize_t)sizeof *d)
        d->state = 0x9e3779b97f4a7c15u * (worker + 1u);
    d->state |= 1;
}

static const uint32_t steps[CANARIES_MAX] = { 3518319155u, 2882110345u, 2360945575u };

static uint32_t next_place(struct canary_dice *d, unsigned canary)
{
    return d->place[canary] += steps[canary];
}

bool canary_shadows(struct canary_dice *dice, unsigned i, unsigned percent)
{
    return canary_meets(dice->shadow_place[i] += steps[i], percent);
}

static uint64_t roll(struct canary_dice *d)
{
    uint64_t x = d->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    d->state = x;
    return x * 0x2545f4914f6cdd1du;
}

/* FNV-1a with the finish of MurmurHash3: every bit of the input changes every bit of the place. */
static uint64_t mix(uint64_t hash, const void *data, size_t len)
{
    const unsigned char *at = data;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ at[i]) * 0x100000001b3u;
    return hash;
}

uint32_t canary_place(struct str client, const char *plugin)
{
    uint64_t hash = mix(0xcbf29ce484222325u, plugin, strlen(plugin) + 1);
    hash = mix(hash, client.ptr, client.len);
    hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccdu;
    hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(hash >> 32);
}

/* ---- What tells a client from another -------------------------------------------------------- */

static bool is_token(struct str s)
{
    if (s.len != CANARY_TOKEN)
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!strchr("0123456789abcdef", s.ptr[i]) || s.ptr[i] == '\0')
            return false;
    return true;
}

/* The value of our cookie among "a=b; c=d" of one Cookie field. */
static struct str cookie_in(struct str field)
{
    static const char name[] = CANARY_COOKIE "=";
    while (field.len > 0) {
        const char *semicolon = memchr(field.ptr, ';', field.len);
        size_t len = semicolon ? (size_t)(semicolon - field.ptr) : field.len;
        if (len > sizeof name - 1 && memcmp(field.ptr, name, sizeof name - 1) == 0) {
            struct str value = { field.ptr + sizeof name - 1, len - (sizeof name - 1) };
            if (is_token(value))
                return value;
        }
        len += semicolon != NULL;
        while (len < field.len && (field.ptr[len] == ' ' || field.ptr[len] == '\t'))
            len++;
        field.ptr += len;
        field.len -= len;
    }
    return (struct str){ NULL, 0 };
}

static struct str cookie(const struct request *r)
{
    for (unsigned i = 0; i < r->head.nheaders; i++) {
        if (!str_case_eq(r->head.headers[i].name, STR("Cookie")))
            continue;
        struct str value = cookie_in(r->head.headers[i].value);
        if (value.ptr != NULL)
            return value;
    }
    return (struct str){ NULL, 0 };
}

/* A client that had none is given one, and placed by it at once. */
static struct str new_cookie(struct request *r, struct canary_dice *dice)
{
    char text[sizeof(CANARY_COOKIE) + CANARY_TOKEN + 64];
    int len = snprintf(text, sizeof text, CANARY_COOKIE "=%016llx; Path=/; HttpOnly; SameSite=Lax",
                       (unsigned long long)roll(dice));
    struct str line = arena_copy(&r->arena, (struct str){ text, (size_t)len });
    if (line.ptr == NULL || response_own_field(r, STR("Set-Cookie"), line) != 0)
        return (struct str){ NULL, 0 };
    return (struct str){ line.ptr + sizeof CANARY_COOKIE, CANARY_TOKEN };
}

static struct str peer(const struct request *r)
{
    const struct peer *p = &r->session->conn.peer;
    if (p->family == AF_INET)
        return (struct str){ (const char *)&p->addr.v4, sizeof p->addr.v4 };
    if (p->family == AF_INET6)
        return (struct str){ (const char *)&p->addr.v6, sizeof p->addr.v6 };
    return (struct str){ NULL, 0 };
}

/* Absent: nothing tells this client from others, and each of its requests is placed anew. */
static struct str client(const struct canary *c, struct request *r, struct canary_dice *dice,
                         struct str *token)
{
    switch (c->sticky) {
    case CONFIG_STICKY_COOKIE:
        if (token->ptr == NULL)
            *token = cookie(r);
        if (token->ptr == NULL) /* chosen again, after it was held for a hand-over */
            *token = cookie_in(response_own_field_get(r, STR("Set-Cookie")));
        if (token->ptr == NULL)
            *token = new_cookie(r, dice);
        return *token;
    case CONFIG_STICKY_HEADER:
        return request_field(r, c->header);
    case CONFIG_STICKY_PEER:
        return peer(r);
    default:
        return (struct str){ NULL, 0 };
    }
}

/* ---- Chosen by name -------------------------------------------------------------------------- */

static struct str trimmed(const char *ptr, size_t len)
{
    while (len > 0 && (*ptr == ' ' || *ptr == '\t'))
        ptr++, len--;
    while (len > 0 && (ptr[len - 1] == ' ' || ptr[len - 1] == '\t'))
        len--;
    return (struct str){ ptr, len };
}

struct named {
    unsigned asked, met; /* canaries that the field decides about, and those that it chooses */
    bool stray;
};

/* One "NAME=ID". */
static void take_name(const struct generation *g, struct str item, struct named *out)
{
    const char *equals = item.len > 0 ? memchr(item.ptr, '=', item.len) : NULL;
    if (!equals) {
        out->stray = out->stray || item.len > 0;
        return;
    }
    struct str plugin = { item.ptr, (size_t)(equals - item.ptr) };
    struct str id = { equals + 1, item.len - plugin.len - 1 };
    for (unsigned i = 0; i < g->ncanaries; i++) {
        const struct version *v = g->canaries[i].version;
        if (!str_eq(plugin, str_of(v->plugin)))
            continue;
        out->asked |= 1u << i;
        if (str_eq(id, str_of(v->id))) {
            out->met |= 1u << i;
            return;
        }
    }
    for (unsigned i = 0; i < g->nversions; i++)
        if (str_eq(plugin, str_of(g->versions[i]->plugin)) &&
            str_eq(id, str_of(g->versions[i]->id)))
            return;
    out->stray = true;
}

static void take_names(const struct generation *g, struct str field, struct named *out)
{
    while (field.len > 0) {
        const char *comma = memchr(field.ptr, ',', field.len);
        size_t len = comma ? (size_t)(comma - field.ptr) : field.len;
        take_name(g, trimmed(field.ptr, len), out);
        len += comma != NULL;
        field.ptr += len;
        field.len -= len;
    }
}

unsigned canary_share(const struct canary *c)
{
    bool none = atomic_load_explicit(&c->version->withdrawn, memory_order_relaxed);
    return none ? 0 : c->weight;
}

unsigned canary_pick(const struct generation *g, struct request *r, bool by_name,
                     struct canary_dice *dice, bool *stray)
{
    struct named named = { 0 };
    struct str token = { NULL, 0 };
    if (by_name)
        take_names(g, request_field(r, CANARY_BY_NAME), &named);
    *stray = named.stray;
    unsigned mask = named.met;
    for (unsigned i = 0; i < g->ncanaries; i++) {
        const struct canary *c = &g->canaries[i];
        if (named.asked & 1u << i)
            continue;
        struct str who = client(c, r, dice, &token);
        uint32_t place = who.len > 0 ? canary_place(who, c->version->plugin) : next_place(dice, i);
        mask |= (unsigned)canary_meets(place, canary_share(c)) << i;
    }
    return mask;
}
