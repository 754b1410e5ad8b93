/* plugin/metric.c: names, handles of versions, cells of threads, the text. */
#include "tap.h"

#include "plugin/metric.h"

#include <limits.h>
#include <pthread.h>

static graft_host v1, v2;

TEST(counts_by_plugin_name_across_versions)
{
    struct err err;
    metric_init(2);
    graft_metric *a = metric_counter(&v1, "my-app", "hits_total", "Hits.", &err);
    graft_metric *b = metric_counter(&v2, "my-app", "hits_total", "Hits, again.", &err);
    must(a != NULL && b != NULL);
    ok(a != b);
    ok(a->host == &v1 && b->host == &v2);
    metric_add(a, 3);
    metric_add(b, 4);
    is(metric_value("graft_plugin_my_app_hits_total"), 7);
    metric_release(&v1);
    metric_add(b, 1);
    is(metric_value("graft_plugin_my_app_hits_total"), 8);
    metric_release(&v2);
    is(metric_value("graft_plugin_my_app_hits_total"), 8);
    metric_add(NULL, 1);
}

TEST(the_same_handle_when_asked_twice)
{
    struct err err;
    metric_init(1);
    graft_metric *a = metric_counter(&v1, "p", "n-m", "", &err);
    ok(a != NULL && a == metric_counter(&v1, "p", "n_m", "", &err));
    metric_release(&v1);
}

TEST(refuses_bad_and_taken_names)
{
    struct err err;
    const char *bad[] = { NULL, "", "1st", "-x", "a b", "a{", "\xc3\xa4", "a\n" };
    char longer[200];
    metric_init(1);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ok(metric_counter(&v1, "p", bad[i], "", &err) == NULL);
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    ok(metric_counter(&v1, "p", longer, "", &err) == NULL);
    must(metric_counter(&v1, "a", "b_c", "", &err) != NULL);
    ok(metric_counter(&v2, "a-b", "c", "", &err) == NULL);
    ok(strstr(err.text, "graft_plugin_a_b_c") != NULL);
    metric_release(&v1);
}

static graft_metric *shared;

static void *add_many(void *arg)
{
    thread_slot = *(unsigned *)arg;
    for (int i = 0; i < 100000; i++)
        metric_add(shared, 1);
    return NULL;
}

TEST(loses_nothing_between_threads)
{
    struct err err;
    pthread_t threads[4];
    unsigned slots[4] = { 0, 1, UINT_MAX, UINT_MAX }; /* the last two have no cell of their own */
    metric_init(2);
    shared = metric_counter(&v1, "p", "n", "", &err);
    must(shared != NULL);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, add_many, &slots[i]);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    is(metric_value("graft_plugin_p_n"), 400000);
    metric_release(&v1);
}

TEST(writes_prometheus_text)
{
    struct err err;
    struct buf out = { 0 };
    metric_init(1);
    metric_add(metric_counter(&v1, "p", "n_total", "a\\b\nc\x01", &err), 5);
    metric_counter(&v1, "p", "m_total", NULL, &err);
    is(metric_write(&out), 0);
    is_str(out.data, "# HELP graft_plugin_p_n_total a\\\\b\\nc \n"
                     "# TYPE graft_plugin_p_n_total counter\n"
                     "graft_plugin_p_n_total 5\n"
                     "# HELP graft_plugin_p_m_total A counter of this plugin.\n"
                     "# TYPE graft_plugin_p_m_total counter\n"
                     "graft_plugin_p_m_total 0\n");
    buf_fini(&out);
    metric_release(&v1);
}
