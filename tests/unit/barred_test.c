/* plugin/barred.c: what was quarantined, in memory that outlives the process and may hold anything.
 */
#include "plugin/barred.h"

#include "tap.h"

static struct barred_area area;
static unsigned seen;
static char last[65];

static struct identity id(const char *plugin, unsigned file)
{
    struct identity identity;
    char sha256[65];
    snprintf(sha256, sizeof sha256, "%064x", file);
    identity_set(&identity, plugin, sha256, sha256);
    return identity;
}

static void see(const struct barred *b, void *arg)
{
    (void)arg;
    seen++;
    memcpy(last, b->identity.sha256, sizeof last);
}

/* As a process that starts finds it. */
static unsigned waiting(void)
{
    seen = 0;
    barred_open(&area);
    barred_each(see, NULL);
    return seen;
}

TEST(without_memory_nothing_waits)
{
    struct identity a = id("a", 1);
    barred_add(&a, "bad", 1);
    barred_remove(&a);
    barred_written(7);
    is(barred_added(), 0);
    barred_each(see, NULL);
    is(seen, 0);
}

TEST(what_was_added_waits_until_it_is_written)
{
    struct identity a = id("a", 1), b = id("b", 2);
    barred_open(&area);
    barred_add(&a, "bad", 1);
    uint64_t then = barred_added();
    barred_add(&b, "worse", 2);
    is(waiting(), 2);
    is_str(last, b.sha256);
    barred_written(then);
    is(waiting(), 1);
    barred_written(barred_added());
    is(waiting(), 0);
}

TEST(what_the_dying_process_calls_written_does_not_count_any_more)
{
    struct identity a = id("a", 1);
    barred_open(&area);
    barred_add(&a, "bad", 1);
    barred_open(&area);
    barred_written(barred_added());
    seen = 0;
    barred_each(see, NULL);
    is(seen, 1);
}

TEST(what_is_good_again_does_not_wait)
{
    struct identity a = id("a", 1), b = id("a", 2);
    barred_open(&area);
    barred_add(&a, "bad", 1);
    barred_add(&b, "bad", 1);
    barred_remove(&a);
    is(waiting(), 1);
    is_str(last, b.sha256);
}

TEST(the_last_ones_are_kept)
{
    barred_open(&area);
    for (unsigned n = 0; n < 3 * BARRED_MAX + 5; n++) {
        struct identity a = id("a", n);
        barred_add(&a, "bad", n);
    }
    is(waiting(), BARRED_MAX);
    is_str(last, id("a", 3 * BARRED_MAX + 4).sha256);
}

TEST(whatever_a_crash_wrote_there_is_no_identity)
{
    struct identity a = id("a", 1);
    barred_open(&area);
    barred_add(&a, "bad", 1);
    memset(&area.all[0], 0xff, sizeof area.all[0]);
    is(waiting(), 0);
    barred_remove(&a);
    memset(&area.all[0], 'a', sizeof area.all[0]);
    is(waiting(), 0);
    barred_add(&a, "bad", 1);
    area.all[1].identity.sha256[3] = 'G';
    is(waiting(), 0);
    area.all[1].identity = a;
    is(waiting(), 1);
    area.all[1].reason[0] = '\n';
    is(waiting(), 0);
    area.all[1].reason[0] = 'b';
    area.written = UINT64_MAX;
    is(waiting(), 1);
    area.added = UINT64_MAX;
    area.written = 0;
    is(waiting(), 1);
}
