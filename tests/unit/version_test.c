/* plugin/version.c: latency buckets, sums, interned strings; plugin/known.c: what is remembered. */
#include "plugin/known.h"
#include "plugin/tasks.h"
#include "plugin/version.h"
#include "tap.h"

#include <pthread.h>

TEST(buckets_follow_one_another)
{
    uint64_t last = 0;
    for (unsigned b = 0; b < LATENCY_BUCKETS - 1; b++) {
        uint64_t bound = latency_bound_us(b);
        is(latency_bucket(bound), b);
        is(latency_bucket(bound + 1), b + 1);
        ok(b == 0 || bound > last);
        last = bound;
    }
    is(latency_bucket(0), 0);
    is(latency_bucket(UINT64_MAX), LATENCY_BUCKETS - 1);
    ok(last > 200ull * 1000000 && last < 250ull * 1000000);
}

TEST(quantiles_are_bounds)
{
    uint64_t buckets[LATENCY_BUCKETS] = { 0 };
    is(latency_quantile_us(buckets, 0.5), 0);
    for (unsigned us = 1; us <= 1000; us++)
        buckets[latency_bucket(us)]++;
    uint64_t half = latency_quantile_us(buckets, 0.5), most = latency_quantile_us(buckets, 0.99);
    ok(half >= 500 && half < 640);
    ok(most >= 990 && most < 1280);
}

TEST(sums_are_over_the_cells)
{
    struct loop loops[2], *list[] = { &loops[0], &loops[1] };
    struct version *v = version_new(list, 2);
    struct version_sums sums;
    must(v != NULL);
    version_pin(v, 0);
    version_pin(v, 1);
    version_pin(v, 1);
    v->cells[0].by_class[0].count = 1;
    v->cells[0].by_class[5].count = 3;
    v->cells[1].by_class[4].count = 1;
    v->cells[1].by_class[2].count = 2;
    v->cells[1].by_class[2].sum_us = 15;
    v->cells[1].by_class[2].latency[7] = 2;
    v->cells[1].oldest.start_us = clock_us() - 5000;
    v->cells[1].oldest.route = "/x";
    version_sum(v, &sums);
    is(sums.pins, 3);
    is(sums.served, 7);
    is(sums.errors, 4);
    is(sums.by_class[2], 2);
    is(sums.latency_sum_us[2], 15);
    is(sums.latency_count, 2);
    is(sums.latency[2][7], 2);
    is(sums.latency_all[7], 2);
    is_str(sums.oldest_route, "/x");
    ok(sums.oldest_age_us >= 5000);
    v->cells[1].oldest.seq = 1; /* being written */
    version_sum(v, &sums);
    is(sums.oldest_age_us, 0);
    version_free(&v);
    ok(v == NULL);
    version_free(&v);
}

TEST(the_same_text_is_the_same_pointer)
{
    char text[] = "/a/:b";
    const char *a = intern(text);
    ok(a != text && a == intern("/a/:b"));
    is_str(a, "/a/:b");
    ok(a != intern("/a/:c"));
}

TEST(reasons_are_per_thread_and_end)
{
    char text[2000];
    version_fail_clear();
    ok(strstr(version_fail_text(), "graft_fail") != NULL);
    version_fail_set("why");
    is_str(version_fail_text(), "why");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    version_fail_set(text);
    ok(strlen(version_fail_text()) < 1000);
}

/* ---- known.c --------------------------------------------------------------------------------- */

TEST(names_are_forgotten_in_order)
{
    struct known k;
    char sha[65];
    known_init(&k);
    for (unsigned i = 0; i < KNOWN_MAX + 10; i++) {
        snprintf(sha, sizeof sha, "%064x", i);
        known_name_add(&k, sha, "p");
        snprintf(sha, sizeof sha, "%064x", 0);
        is_str(known_name(&k, sha), "p"); /* asked for again and again: kept */
    }
    is(k.nnames, KNOWN_MAX);
    snprintf(sha, sizeof sha, "%064x", 1);
    ok(known_name(&k, sha) == NULL);
    known_fini(&k);
}

TEST(failures_are_kept_replaced_and_forgotten)
{
    struct known k;
    char key[KNOWN_KEY], stage[] = "init", first[] = "first", second[] = "second";
    known_init(&k);
    known_key_identity(key, "a", "b");
    known_failure_add(&k, &(struct known_failure){ .key = key, .stage = stage, .error = first });
    known_failure_add(&k, &(struct known_failure){
                              .key = key, .stage = stage, .error = second, .config_bound = true });
    is(k.nfailures, 1);
    is_str(known_failure(&k, key)->error, "second");
    known_forget_config_bound(&k);
    ok(known_failure(&k, key) == NULL);
    known_fini(&k);
}

/* ---- tasks.c --------------------------------------------------------------------------------- */

static pthread_barrier_t barrier;

static void *ends(void *arg)
{
    return arg;
}

static void *waits(void *arg)
{
    pthread_setname_np(pthread_self(), "a) name (");
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return arg;
}

TEST(a_thread_that_appears_and_ends)
{
    struct tasks before, after;
    pthread_t t;
    char name[16];
    must(pthread_create(&t, NULL, ends, NULL) == 0); /* a sanitizer's own thread comes with it */
    pthread_join(t, NULL);
    pthread_barrier_init(&barrier, NULL, 2);
    must(tasks_list(&before) == 0);
    must(pthread_create(&t, NULL, waits, NULL) == 0);
    pthread_barrier_wait(&barrier);
    must(tasks_list(&after) == 0);
    tasks_subtract(&after, &before);
    must(after.n == 1);
    tasks_name(&after.list[0], name);
    is_str(name, "a) name (");
    tasks_keep_living(&after, 0);
    is(after.n, 1);
    pthread_barrier_wait(&barrier);
    pthread_join(t, NULL);
    tasks_keep_living(&after, 5000);
    is(after.n, 0);
    tasks_fini(&before);
    tasks_fini(&after);
}
