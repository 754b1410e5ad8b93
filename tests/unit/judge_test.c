/* plugin/judge.c: a canary that is no worse is left alone whatever chance does; a worse one is not.
 */
#include "tap.h"

#include "plugin/judge.h"

#include <math.h>

static const struct judge_limits usual = {
    .min_requests = 200, .max_error_rate = 0.01, .max_error_ratio = 2.0, .max_p99_ratio = 1.5
};
static struct judge_sample stable, canary;
static struct judgement verdict;
static uint64_t state;

static double chance(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) / 9007199254740992.0;
}

/* Latencies from `us` up with a long tail (p99 is four times that); a share of the requests fails.
 */
static void serve(struct judge_sample *s, unsigned n, double us, double fails)
{
    for (unsigned i = 0; i < n; i++) {
        s->requests++;
        s->errors += chance() < fails;
        s->latency[latency_bucket((uint64_t)(us * pow(1 - chance(), -0.3)))]++;
    }
}

static void begin(uint64_t seed)
{
    state = seed * 0x9e3779b97f4a7c15u + 1;
    stable = canary = (struct judge_sample){ 0 };
}

static enum judge_verdict look(void)
{
    judge(&stable, &canary, &usual, &verdict);
    return verdict.verdict;
}

TEST(tails_of_the_binomial_distribution)
{
    ok(fabs(binomial_tail(10, 0.5, 5) - 1) < 1e-9); /* not above what is expected */
    ok(fabs(binomial_tail(10, 0.5, 8) - 56.0 / 1024) < 1e-9);
    ok(fabs(binomial_tail(10, 0.5, 10) - 1.0 / 1024) < 1e-12);
    ok(fabs(binomial_tail(3, 0.01, 3) - 1e-6) < 1e-12);
    is(binomial_tail(3, 0.01, 4), 0);
    is(binomial_tail(0, 0.5, 0), 1);
    is(binomial_tail(100, 0, 1), 0);
    is(binomial_tail(100, 1, 100), 1);
    double far = binomial_tail(1000000, 0.01, 10400); /* 4.02 standard deviations: 2.9e-5 normal */
    ok(far > 1e-5 && far < 6e-5);
    ok(binomial_tail(10000000000u, 0.01, 10000000000u) < 1e-300);
}

TEST(too_little_traffic_waits)
{
    begin(1);
    is(look(), JUDGE_WAIT);
    ok(strcmp(verdict.why, "too little traffic") == 0);
    serve(&stable, 10000, 100, 0);
    serve(&canary, 199, 100, 0);
    is(look(), JUDGE_WAIT);
    serve(&canary, 1, 100, 0);
    is(look(), JUDGE_GOOD);
    ok(strcmp(verdict.why, "no worse") == 0);
}

TEST(what_always_fails_is_seen_before_the_minimum)
{
    begin(2);
    serve(&stable, 100, 100, 0);
    serve(&canary, 2, 100, 1);
    is(look(), JUDGE_WAIT);
    serve(&canary, 3, 100, 1);
    is(look(), JUDGE_WORSE);
    ok(strcmp(verdict.why, "errors") == 0);
    ok(verdict.error_rate > 0.99 && verdict.error_chance < JUDGE_CHANCE);
}

TEST(more_errors_than_the_limit_and_than_the_stable_version)
{
    begin(3);
    serve(&stable, 20000, 100, 0.001);
    serve(&canary, 2000, 100, 0.03);
    is(look(), JUDGE_WORSE);
    ok(verdict.stable_error_rate < 0.01 && verdict.error_rate > 0.02);
}

TEST(errors_that_the_stable_version_makes_too_are_no_verdict)
{
    begin(4);
    serve(&stable, 20000, 100, 0.05);
    serve(&canary, 2000, 100, 0.05);
    is(look(), JUDGE_GOOD);
    serve(&canary, 20000, 100, 0.2);
    is(look(), JUDGE_WORSE);
}

TEST(a_relative_difference_below_the_fixed_limit_is_no_verdict)
{
    begin(5);
    serve(&stable, 200000, 100, 0);
    serve(&canary, 20000, 100, 0.005);
    is(look(), JUDGE_GOOD);
}

TEST(a_slower_one)
{
    begin(6);
    serve(&stable, 20000, 100, 0);
    serve(&canary, 2000, 400, 0);
    is(look(), JUDGE_WORSE);
    ok(strcmp(verdict.why, "latency") == 0);
    ok(verdict.p99_us > 2 * verdict.stable_p99_us);
}

TEST(a_faster_one)
{
    begin(7);
    serve(&stable, 20000, 400, 0);
    serve(&canary, 2000, 100, 0);
    is(look(), JUDGE_GOOD);
}

/* Rollouts of a version that is no worse, looked at 100 times each while the samples grow: at the
   fixed limit itself, beside a stable version that is there too, and with its heavy tail. */
TEST(chance_rolls_nothing_back)
{
    unsigned alarms = 0;
    for (unsigned rollout = 0; rollout < 300; rollout++) {
        begin(100 + rollout);
        for (unsigned i = 0; i < 100; i++) {
            serve(&stable, 190, 100, 0.01);
            serve(&canary, 10, 100, 0.01);
            if (look() == JUDGE_WORSE) {
                alarms++;
                break;
            }
        }
    }
    ok(alarms <= 1);
}

/* And one that is clearly worse is always found within as many. */
TEST(what_is_worse_is_found)
{
    unsigned errors = 0, slow = 0;
    for (unsigned rollout = 0; rollout < 100; rollout++) {
        for (unsigned which = 0; which < 2; which++) {
            begin(1000 + rollout);
            enum judge_verdict v = JUDGE_WAIT;
            for (unsigned i = 0; i < 100 && v != JUDGE_WORSE; i++) {
                serve(&stable, 190, 100, 0.002);
                serve(&canary, 10, which ? 400 : 100, which ? 0.002 : 0.06);
                v = look();
            }
            if (v == JUDGE_WORSE)
                *(which ? &slow : &errors) += 1;
        }
    }
    is(errors, 100);
    is(slow, 100);
}

/* Of a few hundred requests nobody knows the p99; that all of them are ten times as slow is plain.
 */
TEST(a_slower_one_with_few_requests)
{
    for (unsigned n = 200; n < 1000; n += 100) {
        begin(n);
        serve(&stable, n, 100, 0);
        serve(&canary, n, 1000, 0);
        is(look(), JUDGE_WORSE);
        ok(strcmp(verdict.why, "latency") == 0);
        begin(n);
        serve(&stable, n, 100, 0);
        serve(&canary, n, 100, 0);
        serve(&canary, n / 10, 5000, 0); /* every eleventh, beyond all of the stable version's */
        is(look(), JUDGE_WORSE);
    }
}

/* As slow as is borne, and as fast: looked at as often as a rollout is, from the first requests on.
 */
TEST(chance_makes_nothing_of_few_requests)
{
    unsigned alarms = 0;
    for (unsigned rollout = 0; rollout < 400; rollout++) {
        begin(5000 + rollout);
        for (unsigned i = 0; i < 100; i++) {
            serve(&stable, 10, 100, 0);
            serve(&canary, 10, rollout % 2 ? 150 : 100, 0);
            if (look() == JUDGE_WORSE) {
                alarms++;
                break;
            }
        }
    }
    ok(alarms <= 1);
    if (alarms > 0)
        fprintf(stderr, "# %u alarms\n", alarms);
}

TEST(one_of_them_without_requests)
{
    begin(8);
    serve(&canary, 100000, 100, 1);
    is(look(), JUDGE_WAIT); /* nobody to compare it with */
    ok(verdict.error_chance <= 1 && verdict.latency_chance <= 1);
    begin(9);
    serve(&stable, 100000, 100, 1);
    is(look(), JUDGE_WAIT);
    begin(10);
    serve(&canary, 990, 100, 1); /* a weight of 99: the others are few, but enough */
    serve(&stable, 30, 100, 0);
    is(look(), JUDGE_WORSE);
}
