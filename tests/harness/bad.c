/*
 * For tests/integration/31-harness.t: bad WHAT breaks the contract in that way, and its harness
 * must fail and say who did it.
 */
#include <graft/harness.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *what = "";

static bool is(const char *name)
{
    return strcmp(what, name) == 0;
}

static void crash(void *arg)
{
    (void)arg;
    *(volatile int *)(uintptr_t)8 = 1;
}

static void then(graft_req *req, void *arg)
{
    (void)arg;
    graft_done(req);
}

static void *sleeper(void *arg)
{
    pause();
    return arg;
}

static int init(graft_self *self, void **state)
{
    pthread_t thread;
    (void)self, (void)state;
    return is("thread") ? pthread_create(&thread, NULL, sleeper, NULL) : 0;
}

static void free_twice(void)
{
    void *volatile memory = malloc(100);
    free(memory);
    free(memory);
}

static graft_next handler(graft_req *req, void *state)
{
    (void)state;
    if (is("never"))
        return GRAFT_LATER;
    if (is("twice")) {
        graft_done(req);
        graft_done(req);
        return GRAFT_LATER;
    }
    if (is("free"))
        free_twice();
    if (is("crash"))
        crash(NULL);
    if (is("offload"))
        return graft_offload(req, crash, then, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
    if (is("exits"))
        exit(0);
    if (is("inside"))
        graft_test_advance(1);
    return graft_text(req, 200, "well\n");
}

static const graft_route routes[] = { { "GET", "/bad/:x", handler, 0 }, { 0 } };
GRAFT_TEST_PLUGIN(bad, .name = "bad", .version = "7", .init = init, .routes = routes)

int main(int argc, char **argv)
{
    what = argc > 1 ? argv[1] : "";
    if (is("expected"))
        graft_test_expect_misuse("nothing of the kind");
    if (is("config"))
        graft_test_start(&bad, "{\"a\": nothing}");
    graft_test_start(&bad, NULL);
    graft_test_req *r = graft_test_request("GET", "/bad/1");
    if (is("check"))
        GRAFT_IS_TEXT(graft_test_body(r), "ill\n");
    if (is("null"))
        graft_test_status(NULL);
    if (is("no target"))
        graft_test_request("GET", NULL);
    if (is("forgotten")) {
        graft_test_forget(r);
        graft_test_body(r);
    }
    if (is("no end"))
        return 0;
    if (is("two ends"))
        graft_test_end();
    return graft_test_end();
}
