/* plugin/proven.c: what was found good is known again, and nothing else; any bytes are survived. */
#include "plugin/proven.h"

#include "tap.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static struct proven_area area;

static void learn(const char *sha256, const char *name)
{
    const graft_plugin p = {
        .size = sizeof p, .route_size = sizeof(graft_route), .name = name, .version = "1.0.0"
    };
    struct descriptor d;
    struct err err;
    must(descriptor_copy(&p, sizeof p, &d, &err) == 0);
    proven_add(sha256, &d);
    descriptor_fini(&d);
}

static bool knows(const char *sha256, const char *name)
{
    struct descriptor d = { 0 };
    if (proven_find(sha256, &d) != 0)
        return false;
    bool same = strcmp(d.name, name) == 0;
    descriptor_fini(&d);
    return same;
}

static bool declared(const char *sha256, const char *name)
{
    struct descriptor d = { 0 };
    if (proven_declared(sha256, &d) != 0)
        return false;
    bool same = strcmp(d.name, name) == 0;
    descriptor_fini(&d);
    return same;
}

TEST(nothing_is_known_without_memory)
{
    learn(A, "a");
    ok(!knows(A, "a"));
}

TEST(what_was_added_is_found_until_it_is_forgotten)
{
    proven_open(&area);
    ok(!knows(A, "a"));
    learn(A, "a");
    learn(B, "b");
    ok(knows(A, "a"));
    ok(knows(B, "b"));
    proven_forget(A);
    ok(!knows(A, "a"));
    ok(knows(B, "b"));
    ok(declared(A, "a")); /* that it crashed does not make its routes unknown */
    ok(declared(B, "b"));
    ok(!declared("", "a"));
    learn(A, "again");
    ok(knows(A, "again"));
    ok(declared(A, "again"));
    proven_forget("");
    proven_forget("short");
}

TEST(when_it_is_full_it_begins_anew)
{
    char sha256[65];
    proven_open(&area);
    for (int i = 0; i < 20000; i++) {
        snprintf(sha256, sizeof sha256, "%064d", i);
        learn(sha256, "some");
        if (!ok(knows(sha256, "some")))
            return;
    }
    ok(area.used <= PROVEN_SIZE);
}

TEST(any_bytes_are_survived)
{
    proven_open(&area);
    learn(A, "a");
    uint32_t used = area.used;
    unsigned seed = 1;
    for (int i = 0; i < 20000; i++) {
        for (unsigned j = 0; j < used; j++)
            if (rand_r(&seed) % 16 == 0)
                area.bytes[j] = (unsigned char)rand_r(&seed);
        area.used = rand_r(&seed) % 4 == 0 ? (uint32_t)rand_r(&seed) : used;
        knows(A, "a");
        proven_forget(B);
        learn(B, "b");
    }
    ok(true);
}
