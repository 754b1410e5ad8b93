/* plugin/quarantine.c: what is not loaded by itself, and crashes that make it so. */
#include "plugin/quarantine.h"

#include "tap.h"

static struct identity id(const char *plugin, unsigned file, unsigned config)
{
    struct identity identity;
    char sha256[65], config_sha256[65];
    snprintf(sha256, sizeof sha256, "%064x", file);
    snprintf(config_sha256, sizeof config_sha256, "%064x", config);
    identity_set(&identity, plugin, sha256, config_sha256);
    return identity;
}

TEST(an_identity_is_name_file_and_configuration)
{
    struct quarantine q;
    struct identity a = id("a", 1, 1), file = id("a", 2, 1), config = id("a", 1, 2),
                    name = id("b", 1, 1);
    quarantine_init(&q);
    ok(quarantine_find(&q, &a) == NULL);
    ok(quarantine_add(&q, &a, "bad", "{\"p99\":7}", 1000));
    const struct quarantined *entry = quarantine_find(&q, &a);
    must(entry != NULL);
    is_str(entry->reason, "bad");
    is_str(entry->evidence, "{\"p99\":7}");
    is(entry->when_ms, 1000);
    ok(quarantine_find(&q, &file) == NULL);
    ok(quarantine_find(&q, &config) == NULL);
    ok(quarantine_find(&q, &name) == NULL);
    ok(!quarantine_remove(&q, &file));
    ok(quarantine_remove(&q, &a));
    ok(!quarantine_remove(&q, &a));
    is(q.count, 0);
    quarantine_fini(&q);
}

TEST(added_again_the_newer_reason_counts)
{
    struct quarantine q;
    struct identity a = id("a", 1, 1);
    quarantine_init(&q);
    quarantine_add(&q, &a, "first", NULL, 1);
    quarantine_add(&q, &a, "second", NULL, 2);
    is(q.count, 1);
    is_str(quarantine_find(&q, &a)->reason, "second");
    quarantine_fini(&q);
}

TEST(a_reason_is_one_line_of_ascii_and_bounded)
{
    struct quarantine q;
    struct identity a = id("a", 1, 1);
    char reason[2000];
    memset(reason, 'x', sizeof reason - 1);
    reason[sizeof reason - 1] = '\0';
    memcpy(reason, "a\nb\xff\xc3\xa4", 6);
    quarantine_init(&q);
    quarantine_add(&q, &a, reason, NULL, 1);
    const char *kept = quarantine_find(&q, &a)->reason;
    is(strlen(kept), QUARANTINE_REASON_MAX - 1);
    is(strncmp(kept, "a?b???xxx", 9), 0);
    quarantine_fini(&q);
}

TEST(the_oldest_go_when_there_are_too_many)
{
    struct quarantine q;
    quarantine_init(&q);
    for (unsigned i = 0; i < 100; i++) {
        struct identity a = id("a", i, 0);
        ok(quarantine_add(&q, &a, "bad", NULL, i));
    }
    is(q.count, QUARANTINE_OF_PLUGIN);
    struct identity oldest = id("a", 99 - QUARANTINE_OF_PLUGIN, 0), kept = id("a", 84, 0);
    ok(quarantine_find(&q, &oldest) == NULL);
    ok(quarantine_find(&q, &kept) != NULL);
    for (unsigned i = 0; i < QUARANTINE_MAX + 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%u", i);
        struct identity a = id(name, i, 0);
        quarantine_add(&q, &a, "bad", NULL, i);
    }
    is(q.count, QUARANTINE_MAX);
    ok(quarantine_find(&q, &kept) == NULL);
    quarantine_fini(&q);
}

TEST(two_crashes_within_the_window)
{
    struct quarantine q;
    struct identity a = id("a", 1, 1), b = id("a", 2, 1);
    quarantine_init(&q);
    ok(!crash_note(&q, &a, 100000, 60000));
    ok(!crash_note(&q, &b, 100001, 60000)); /* another version's is not counted */
    ok(!crash_note(&q, &a, 160001, 60000)); /* one millisecond too late: it is the first again */
    ok(crash_note(&q, &a, 220001, 60000));
    is(q.ncrashes, 1);
    ok(!crash_note(&q, &a, 220002, 60000)); /* it was told: what follows is counted anew */
    ok(crash_note(&q, &a, 220003, 60000));
    quarantine_fini(&q);
}

TEST(a_clock_that_was_set_back)
{
    struct quarantine q;
    struct identity a = id("a", 1, 1);
    quarantine_init(&q);
    ok(!crash_note(&q, &a, 100000, 60000));
    ok(!crash_note(&q, &a, 10, 60000)); /* far apart: which of them was first is not known */
    ok(crash_note(&q, &a, 5, 60000));
    ok(!crash_note(&q, &a, INT64_MAX, 60000));
    ok(!crash_note(&q, &a, INT64_MIN, 60000));
    quarantine_fini(&q);
}

TEST(noted_crashes_are_bounded)
{
    struct quarantine q;
    quarantine_init(&q);
    for (unsigned i = 0; i < 1000; i++) {
        struct identity a = id("a", i, 0);
        ok(!crash_note(&q, &a, 1000 + i, 60000));
    }
    is(q.ncrashes, QUARANTINE_CRASHES);
    struct identity last = id("a", 999, 0), first = id("a", 0, 0);
    ok(crash_note(&q, &last, 2000, 60000));
    ok(!crash_note(&q, &first, 2000, 60000));
    quarantine_fini(&q);
}
