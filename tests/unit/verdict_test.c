/* plugin/verdict.c: what was said of identities, in memory that outlives the process and may hold
   anything. */
#include "plugin/verdict.h"

#include "tap.h"

static struct verdict_area area;
static unsigned seen;
static uint32_t kind;
static char last[65];

static struct identity id(const char *plugin, unsigned file)
{
    struct identity identity;
    char sha256[65];
    snprintf(sha256, sizeof sha256, "%064x", file);
    identity_set(&identity, plugin, sha256, sha256);
    return identity;
}

static void see(const struct verdict *v, void *arg)
{
    (void)arg;
    seen++;
    memcpy(last, v->identity.sha256, sizeof last);
    kind = v->kind;
}

/* As a process that starts finds it. */
static unsigned waiting(void)
{
    seen = 0;
    verdicts_open(&area);
    verdicts_each(see, NULL);
    return seen;
}

TEST(without_memory_nothing_waits)
{
    struct identity a = id("a", 1);
    verdict_bad(&a, "bad", 1);
    verdict_good(&a, 2);
    verdicts_written(7);
    is(verdicts_added(), 0);
    verdicts_each(see, NULL);
    is(seen, 0);
}

TEST(what_was_added_waits_until_it_is_written)
{
    struct identity a = id("a", 1), b = id("b", 2);
    verdicts_open(&area);
    verdict_bad(&a, "bad", 1);
    uint64_t then = verdicts_added();
    verdict_bad(&b, "worse", 2);
    is(waiting(), 2);
    is_str(last, b.sha256);
    verdicts_written(then);
    is(waiting(), 1);
    verdicts_written(verdicts_added());
    is(waiting(), 0);
}

TEST(what_the_dying_process_calls_written_does_not_count_any_more)
{
    struct identity a = id("a", 1);
    verdicts_open(&area);
    verdict_bad(&a, "bad", 1);
    verdicts_open(&area);
    verdicts_written(verdicts_added());
    seen = 0;
    verdicts_each(see, NULL);
    is(seen, 1);
}

TEST(a_later_one_comes_later)
{
    struct trial trial = { .identity = id("a", 1), .weight = 99, .held = true };
    verdicts_open(&area);
    verdict_bad(&trial.identity, "bad", 1);
    verdict_trial(&trial, 2);
    is(waiting(), 2);
    is(kind, VERDICT_TRIAL);
    is(area.all[1].weight, 99);
    is(area.all[1].shadow, 0); /* not asked for */
    verdict_no_trial(&trial.identity, 3);
    verdict_good(&trial.identity, 4);
    is(waiting(), 4);
    is(kind, VERDICT_GOOD);
}

TEST(a_share_of_shadows_is_as_it_was_asked_for)
{
    struct trial trial = { .identity = id("a", 1), .weight = 7, .held = true };
    verdicts_open(&area);
    for (unsigned percent = 0; percent <= 100; percent += 50) {
        trial.shadow_asked = true;
        trial.shadow = percent;
        verdict_trial(&trial, 1);
        is(waiting(), percent / 50 + 1);
        is(area.all[percent / 50].shadow, percent + 1);
    }
}

TEST(the_last_ones_are_kept)
{
    verdicts_open(&area);
    for (unsigned n = 0; n < 3 * VERDICTS_MAX + 5; n++) {
        struct identity a = id("a", n);
        verdict_bad(&a, "bad", n);
    }
    is(waiting(), VERDICTS_MAX);
    is_str(last, id("a", 3 * VERDICTS_MAX + 4).sha256);
}

TEST(whatever_a_crash_wrote_there_is_no_identity)
{
    struct identity a = id("a", 1);
    verdicts_open(&area);
    verdict_bad(&a, "bad", 1);
    memset(&area.all[0], 0xff, sizeof area.all[0]);
    is(waiting(), 0);
    memset(&area.all[0], 'a', sizeof area.all[0]);
    is(waiting(), 0);
    verdict_bad(&a, "bad", 1);
    area.all[1].identity.sha256[3] = 'G';
    is(waiting(), 0);
    area.all[1].identity = a;
    is(waiting(), 1);
    area.all[1].identity.plugin[0] = '/'; /* an index with that name could not be read again */
    is(waiting(), 0);
    area.all[1].identity = a;
    area.all[1].reason[0] = '\n';
    is(waiting(), 0);
    area.all[1].reason[0] = 'b';
    area.all[1].kind = VERDICT_NO_TRIAL + 1;
    is(waiting(), 0);
    area.all[1].kind = VERDICT_TRIAL;
    area.all[1].shadow = 101; /* 100 % */
    is(waiting(), 1);
    area.all[1].weight = 100;
    is(waiting(), 0);
    area.all[1].weight = 0;
    area.all[1].shadow = 102;
    is(waiting(), 0);
    area.all[1].kind = VERDICT_BAD;
    snprintf(area.all[1].reason, sizeof area.all[1].reason, "bad");
    area.written = UINT64_MAX;
    is(waiting(), 1);
    area.added = UINT64_MAX;
    area.written = 0;
    is(waiting(), 1);
}
