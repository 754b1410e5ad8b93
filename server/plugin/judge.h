/*
 * Is a canary worse than the stable version? Pure: counts in, verdict out.
 *
 * A difference that chance explains is not a verdict: a canary is worse only when what it has done
 * would be seen in one look of ten thousand at most (JUDGE_CHANCE) if it were just as good as the
 * limits allow. A rollout is looked at once a second for minutes, hence that small a number.
 *
 *   errors   worse when the share of failed requests (5xx, or cut by the server) is above
 *            max_error_rate, and above max_error_ratio times the stable version's share
 *   latency  worse when more than 1 % of its requests take longer than max_p99_ratio times the
 *            stable version's p99
 *
 * Both versions are counted over the same time. Any thread.
 */
#ifndef GRAFT_PLUGIN_JUDGE_H
#define GRAFT_PLUGIN_JUDGE_H

#include "plugin/version.h"

#define JUDGE_CHANCE 1e-4

struct judge_limits {
    uint64_t min_requests; /* of each of the two; fewer: wait */
    double max_error_rate, max_error_ratio, max_p99_ratio;
};

/* What a version did in the window. */
struct judge_sample {
    uint64_t requests, errors;
    uint64_t latency[LATENCY_BUCKETS];
};

enum judge_verdict { JUDGE_WAIT, JUDGE_GOOD, JUDGE_WORSE };

struct judgement {
    enum judge_verdict verdict;
    const char *why; /* a literal: "errors", "latency", "too little traffic", "no worse" */
    double error_rate, stable_error_rate;
    uint64_t p99_us, stable_p99_us;
    double error_chance; /* of as many errors or more, were it within the limits; 1: no question */
    double latency_chance; /* of as many slow requests or more */
};

void judge(const struct judge_sample *stable, const struct judge_sample *canary,
           const struct judge_limits *limits, struct judgement *out);

/* What came between two readings of a version's sums, the later first. */
void judge_sample_between(const struct version_sums *now, const struct version_sums *before,
                          struct judge_sample *out);

/* P(X >= k) of n tries that each succeed with probability p. */
double binomial_tail(uint64_t n, double p, uint64_t k);

#endif
