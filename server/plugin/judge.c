/* See judge.h. */
#include "plugin/judge.h"

#include <math.h>
#include <string.h>

#define FEW 2000

double binomial_tail(uint64_t n, double p, uint64_t k)
{
    if (k == 0 || p >= 1)
        return 1;
    if (k > n || p <= 0)
        return 0;
    if ((double)k <= (double)n * p)
        return 1; /* not above what is expected: no question to be asked */
    double dn = (double)n, dk = (double)k;
    double term = exp(lgamma(dn + 1) - lgamma(dk + 1) - lgamma(dn - dk + 1) + dk * log(p) +
                      (dn - dk) * log1p(-p));
    double sum = term, odds = p / (1 - p);
    for (uint64_t i = k; i < n && term > sum * 1e-12; i++) {
        term *= (double)(n - i) / (double)(i + 1) * odds;
        sum += term;
    }
    return sum < 1 ? sum : 1;
}

static double rate(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

/*
 * Two questions, and the kinder answer. Against the fixed limit: that many errors of n requests.
 * Against the stable version, whose own share is known from a sample only: of all the errors of
 * both, as many on this side, when one request of the canary fails `ratio` times as often.
 */
static double error_chance(const struct judge_sample *stable, const struct judge_sample *canary,
                           const struct judge_limits *limits)
{
    double fixed = binomial_tail(canary->requests, limits->max_error_rate, canary->errors);
    double share = limits->max_error_ratio * (double)canary->requests;
    double relative = binomial_tail(canary->errors + stable->errors,
                                    share / (share + (double)stable->requests), canary->errors);
    return fmax(fixed, relative);
}

/* The bucket that the p99 lies in at most, so that a sample of the stable version that happens to
   be fast does not make the canary look slow: three standard deviations above. */
static unsigned p99_bucket_at_most(const struct judge_sample *s)
{
    double n = (double)s->requests, seen = 0;
    double at = 0.99 * n + 3 * sqrt(n * 0.99 * 0.01);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += (double)s->latency[i];
        if (seen >= at)
            return i;
    }
    return LATENCY_BUCKETS - 1;
}

static uint64_t slower_than(const struct judge_sample *s, double us)
{
    uint64_t n = 0;
    for (unsigned i = 1; i < LATENCY_BUCKETS; i++)
        if ((double)latency_bound_us(i - 1) >= us)
            n += s->latency[i];
    return n;
}

/*
 * Of fewer than FEW requests little or nothing bounds the p99. Then the slowest of both are looked
 * at: those of the stable version above its p99 as it was seen, and those of the canary above the
 * ratio times that. If no request took more than the ratio times as long on the canary, each of
 * them would be either one's by their numbers of requests alone, wherever that p99 was seen.
 */
static double latency_chance_of_few(const struct judge_sample *stable,
                                    const struct judge_sample *canary, double ratio)
{
    unsigned bucket = 0;
    uint64_t above = stable->requests;
    for (; bucket < LATENCY_BUCKETS && above * 100 > stable->requests; bucket++)
        above -= stable->latency[bucket] < above ? stable->latency[bucket] : above;
    if (bucket == 0)
        return 1; /* there are none */
    double limit = ratio * (double)latency_bound_us(bucket - 1);
    uint64_t slower = slower_than(canary, limit);
    double share = (double)canary->requests / (double)(canary->requests + stable->requests);
    return fmax(binomial_tail(canary->requests, 0.01, slower),
                binomial_tail(slower + above, share, slower));
}

static double latency_chance(const struct judge_sample *stable, const struct judge_sample *canary,
                             const struct judge_limits *limits)
{
    if (stable->requests < FEW)
        return latency_chance_of_few(stable, canary, limits->max_p99_ratio);
    double bound = (double)latency_bound_us(p99_bucket_at_most(stable));
    double limit = limits->max_p99_ratio * bound;
    return binomial_tail(canary->requests, 0.01, slower_than(canary, limit));
}

void judge(const struct judge_sample *stable, const struct judge_sample *canary,
           const struct judge_limits *limits, struct judgement *out)
{
    *out = (struct judgement){ .verdict = JUDGE_GOOD,
                               .why = "no worse",
                               .error_rate = rate(canary->errors, canary->requests),
                               .stable_error_rate = rate(stable->errors, stable->requests),
                               .p99_us = latency_quantile_us(canary->latency, 0.99),
                               .stable_p99_us = latency_quantile_us(stable->latency, 0.99),
                               .error_chance = error_chance(stable, canary, limits),
                               .latency_chance = latency_chance(stable, canary, limits) };
    bool enough =
        canary->requests >= limits->min_requests && stable->requests >= limits->min_requests;
    if (out->error_chance < JUDGE_CHANCE) {
        /* also of a small sample: what fails each time need not be seen 200 times */
        out->verdict = JUDGE_WORSE;
        out->why = "errors";
    } else if (!enough) {
        out->verdict = JUDGE_WAIT;
        out->why = "too little traffic";
    } else if (out->latency_chance < JUDGE_CHANCE) {
        out->verdict = JUDGE_WORSE;
        out->why = "latency";
    }
}

void judge_sample_between(const struct version_sums *now, const struct version_sums *before,
                          struct judge_sample *out)
{
    out->requests = now->served - before->served;
    out->errors = now->errors - before->errors;
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        out->latency[i] = now->latency_all[i] - before->latency_all[i];
}
