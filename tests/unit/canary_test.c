/* plugin/canary.c: who meets a canary. */
#include "tap.h"

#include "http/request.h"
#include "http/session.h"
#include "plugin/canary.h"
#include "plugin/generation.h"

#define REQUESTS 100000

static struct loop loop, *loops[] = { &loop };
static struct http http;
static struct session session;
static struct request *request;
static struct canary_dice dice;
static struct generation generation;
static struct header headers[4];
static bool stray;

static struct version *version(const char *plugin, const char *id)
{
    struct version *v = version_new(loops, 1);
    must(v != NULL);
    v->plugin = strdup(plugin);
    snprintf(v->id, sizeof v->id, "%s", id);
    return v;
}

static void canary(const char *plugin, unsigned weight, enum config_sticky sticky)
{
    static struct version *stable[CANARIES_MAX];
    unsigned i = generation.ncanaries++;
    stable[i] = version(plugin, "aaaaaaaaaaaa.1");
    generation.canaries[i] = (struct canary){ .version = version(plugin, "bbbbbbbbbbbb.2"),
                                              .stable = stable[i],
                                              .weight = weight,
                                              .sticky = sticky,
                                              .header = "X-Client" };
    generation.versions = stable;
    generation.nversions = generation.ncanaries;
}

static void begin(void)
{
    generation.magic = GENERATION_MAGIC;
    canary_dice_init(&dice, 0);
    session.conn.peer.family = AF_UNIX;
    request = aligned_alloc(64, (sizeof *request + 63) / 64 * 64);
    must(request != NULL);
    request_init(request, &http);
}

static void done(void)
{
    request_reset(request);
    free(request);
    for (unsigned i = 0; i < generation.ncanaries; i++) {
        version_free(&generation.canaries[i].version);
        version_free(&generation.canaries[i].stable);
    }
}

static unsigned pick(const char *name, const char *value)
{
    request_reset(request);
    response_reset(request);
    request->session = &session;
    request->head.headers = headers;
    request->head.nheaders = name != NULL;
    headers[0] =
        (struct header){ str_of(name != NULL ? name : ""), str_of(value != NULL ? value : "") };
    return canary_pick(&generation, request, true, &dice, &stray);
}

static bool within(double part, double expected)
{
    bool good = part > expected - 0.01 && part < expected + 0.01;
    if (!good)
        fprintf(stderr, "# %f instead of %f\n", part, expected);
    return good;
}

TEST(shares_of_requests_are_kept_closely)
{
    static const unsigned weights[] = { 0, 1, 5, 50, 99 };
    begin();
    canary("a", 0, CONFIG_STICKY_NONE);
    for (size_t w = 0; w < ARRAY_LEN(weights); w++) {
        unsigned met = 0;
        generation.canaries[0].weight = weights[w];
        for (unsigned i = 0; i < REQUESTS; i++)
            met += pick(NULL, NULL);
        /* closer than chance would: a hundredth of the share itself */
        ok(met >= REQUESTS / 100 * weights[w] * 99 / 100 - (weights[w] > 0));
        ok(met <= REQUESTS / 100 * weights[w] * 101 / 100);
    }
    ok(!stray);
    done();
}

TEST(two_canaries_are_independent)
{
    unsigned count[8] = { 0 };
    begin();
    canary("a", 50, CONFIG_STICKY_NONE);
    canary("b", 20, CONFIG_STICKY_NONE);
    canary("c", 10, CONFIG_STICKY_NONE);
    for (unsigned i = 0; i < REQUESTS; i++)
        count[pick(NULL, NULL)]++;
    for (unsigned met = 0; met < 8; met++) {
        double expected = (met & 1 ? 0.5 : 0.5) * (met & 2 ? 0.2 : 0.8) * (met & 4 ? 0.1 : 0.9);
        ok(within((double)count[met] / REQUESTS, expected));
    }
    done();
}

/* Every other request is another plugin's: the rest still sees the share. */
TEST(shares_hold_for_a_part_of_the_requests)
{
    unsigned met = 0;
    begin();
    canary("a", 5, CONFIG_STICKY_NONE);
    for (unsigned i = 0; i < REQUESTS; i++)
        met += pick(NULL, NULL) * (i % 2);
    ok(within(met / (REQUESTS / 2.0), 0.05));
    done();
}

/* Whoever has met the canary meets it at every higher share, and is as often new to it. */
TEST(sticky_clients_stay)
{
    static const unsigned steps[] = { 0, 5, 25, 50, 99 };
    char who[32];
    begin();
    canary("a", 0, CONFIG_STICKY_HEADER);
    canary("b", 50, CONFIG_STICKY_HEADER);
    unsigned changed = 0, together = 0, seen[ARRAY_LEN(steps)] = { 0 };
    for (unsigned client = 0; client < 20000; client++) {
        unsigned before = 0;
        snprintf(who, sizeof who, "client-%u", client);
        for (size_t s = 0; s < ARRAY_LEN(steps); s++) {
            generation.canaries[0].weight = steps[s];
            unsigned met = pick("x-client", who);
            changed += met != pick("X-Client", who); /* the same each time */
            changed += (before & 1) && !(met & 1);
            seen[s] += met & 1;
            together += steps[s] == 50 && met == 3;
            before = met;
        }
    }
    is(changed, 0);
    for (size_t s = 0; s < ARRAY_LEN(steps); s++)
        ok(within(seen[s] / 20000.0, steps[s] / 100.0));
    ok(within(together / 20000.0,
              0.25)); /* places of two plugins have nothing to do with each other */
    done();
}

TEST(sticky_by_address)
{
    begin();
    canary("a", 30, CONFIG_STICKY_PEER);
    session.conn.peer.family = AF_INET;
    unsigned met = 0, changed = 0;
    for (unsigned i = 0; i < 20000; i++) {
        session.conn.peer.addr.v4.s_addr = htonl(0x0a000000u + i);
        session.conn.peer.port = (uint16_t)i;
        unsigned first = pick(NULL, NULL);
        session.conn.peer.port = (uint16_t)(i + 7);
        changed += pick(NULL, NULL) != first;
        met += first;
    }
    is(changed, 0);
    ok(within(met / 20000.0, 0.3));
    done();
}

TEST(sticky_by_an_address_of_version_6)
{
    begin();
    canary("a", 30, CONFIG_STICKY_PEER);
    session.conn.peer.family = AF_INET6;
    unsigned met = 0, changed = 0;
    for (unsigned i = 0; i < 20000; i++) {
        struct in6_addr *to = &session.conn.peer.addr.v6;
        memset(to, 0, sizeof *to);
        to->s6_addr[0] = 0x20;
        to->s6_addr[14] = (uint8_t)(i >> 8); /* the last bytes tell clients apart, too */
        to->s6_addr[15] = (uint8_t)i;
        unsigned first = pick(NULL, NULL);
        session.conn.peer.port = (uint16_t)i;
        changed += pick(NULL, NULL) != first;
        met += first;
    }
    is(changed, 0);
    ok(within(met / 20000.0, 0.3));
    done();
}

/* Nothing tells them from others: not all of them on one side. */
TEST(clients_without_what_would_tell_them_are_spread)
{
    static const struct {
        enum config_sticky sticky;
        const char *name, *value;
    } cases[] = { { CONFIG_STICKY_HEADER, NULL, NULL },
                  { CONFIG_STICKY_HEADER, "X-Client", "" },
                  { CONFIG_STICKY_PEER, NULL, NULL } }; /* of a unix socket */
    begin();
    canary("a", 30, CONFIG_STICKY_NONE);
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        unsigned met = 0;
        generation.canaries[0].sticky = cases[c].sticky;
        for (unsigned i = 0; i < 20000; i++)
            met += pick(cases[c].name, cases[c].value);
        ok(within(met / 20000.0, 0.3));
    }
    done();
}

static struct str set_cookie(void)
{
    return response_own_field_get(request, STR("Set-Cookie"));
}

TEST(sticky_by_cookie)
{
    begin();
    dice.state = 20261123; /* the same cookies each time: chance has had its say */
    canary("a", 50, CONFIG_STICKY_COOKIE);
    unsigned met = 0, wrong = 0;
    for (unsigned i = 0; i < 20000; i++) {
        char field[128], cookie[64];
        unsigned first = pick(NULL, NULL);
        struct str given = set_cookie();
        must(given.len > sizeof CANARY_COOKIE + CANARY_TOKEN && given.len < sizeof field);
        snprintf(cookie, sizeof cookie, "%.*s", (int)sizeof CANARY_COOKIE + CANARY_TOKEN,
                 given.ptr);
        snprintf(field, sizeof field, "theme=dark; %s; other=1", cookie);
        wrong += pick("Cookie", field) != first;
        wrong += set_cookie().ptr != NULL; /* it has one */
        met += first;
    }
    is(wrong, 0);
    ok(within(met / 20000.0, 0.5));
    static const char *const bad[] = { "",
                                       ";;; ;",
                                       "graft-canary",
                                       "graft-canary=",
                                       "graft-canary=0123456789abcde",
                                       "graft-canary=0123456789abcdef0",
                                       "graft-canary=0123456789ABCDEF",
                                       "xgraft-canary=0123456789abcdef",
                                       "a=graft-canary=0123456789abcdef" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        pick("Cookie", bad[i]);
        ok(set_cookie().ptr != NULL);
    }
    done();
}

TEST(chosen_by_name)
{
    begin();
    canary("a", 0, CONFIG_STICKY_NONE);
    canary("b", 99, CONFIG_STICKY_NONE);
    is(pick("X-Graft-Version", "a=bbbbbbbbbbbb.2") & 1, 1);
    ok(!stray);
    is(pick("X-Graft-Version", " b=aaaaaaaaaaaa.1 ,a=bbbbbbbbbbbb.2"), 1);
    ok(!stray);
    static const char *const stray_names[] = { "a=cccccccccccc.3",
                                               "nobody=bbbbbbbbbbbb.2",
                                               "a",
                                               "a=",
                                               "=",
                                               "a=bbbbbbbbbbbb",
                                               ",x,",
                                               "b=aaaaaaaaaaaa.1,a=bbbbbbbbbbbb.22" };
    for (size_t i = 0; i < ARRAY_LEN(stray_names); i++) {
        pick("X-Graft-Version", stray_names[i]);
        if (!stray)
            fprintf(stderr, "# %s\n", stray_names[i]);
        ok(stray);
    }
    pick("X-Graft-Version", ",, ,");
    ok(!stray);
    request->head.nheaders = 1;
    is(canary_pick(&generation, request, false, &dice, &stray) & 1,
       0); /* who may not is not heard */
    done();
}

TEST(one_that_was_found_worse_has_no_share)
{
    unsigned met = 0, other = 0;
    char who[32];
    begin();
    canary("a", 99, CONFIG_STICKY_HEADER);
    canary("b", 99, CONFIG_STICKY_NONE);
    for (unsigned c = 0; c < 2; c++) {
        generation.canaries[0].version->withdrawn = c == 0;
        generation.canaries[1].version->withdrawn = c == 1;
        for (unsigned i = 0; i < 1000; i++) {
            snprintf(who, sizeof who, "client-%u", i);
            unsigned picked = pick("X-Client", who);
            met += (picked & 1u << c) != 0;
            other += (picked & 1u << (1 - c)) != 0;
        }
    }
    is(met, 0);
    ok(other > 1900);
    is(pick("X-Graft-Version", "b=bbbbbbbbbbbb.2") & 2, 2); /* by name it can still be asked */
    done();
}

/* The share of those that the stable version has served, whatever the canary's own share is. */
TEST(shares_of_shadows_are_kept_closely)
{
    static const unsigned percents[] = { 0, 1, 5, 33, 50, 99, 100 };
    begin();
    canary("a", 30, CONFIG_STICKY_NONE);
    for (size_t p = 0; p < ARRAY_LEN(percents); p++) {
        unsigned stable = 0, shadows = 0;
        for (unsigned i = 0; i < REQUESTS; i++) {
            if (pick(NULL, NULL) != 0)
                continue;
            stable++;
            shadows += canary_shadows(&dice, 0, percents[p]);
        }
        ok(shadows >= stable / 100 * percents[p] * 99 / 100);
        ok(shadows <= (stable / 100 + 1) * percents[p] * 101 / 100);
        ok(percents[p] != 100 || shadows == stable);
    }
    done();
}
