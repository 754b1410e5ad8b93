/*
 * The harness itself: the life of a plugin, what is told of a plugin that breaks the contract, and
 * what no shipped plugin uses.
 */
#include <graft/harness.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- A life ------------------------------------------------------------------------------------
 */

static char trace[500];

static void note(const char *what)
{
    strcat(strcat(trace, trace[0] ? " " : ""), what);
}

static const char *fails = "";

static int step(graft_self *self, const char *what)
{
    note(what);
    return strcmp(fails, what) == 0 ? graft_fail(self, "told to") : 0;
}

static void tick(void *state)
{
    (void)state;
    note("every");
}

static graft_metric *metric;

static int init(graft_self *self, void **state)
{
    *state = trace;
    metric = graft_counter(self, "seen_total", "requests");
    graft_every(self, 100, tick, NULL);
    return step(self, "init");
}

static int ready(graft_self *s, void *state)
{
    return state == trace ? step(s, "ready") : -1;
}

static int worker_init(graft_self *s, void *state)
{
    (void)state;
    return graft_worker(s) < graft_workers(s) ? step(s, "worker_init") : -1;
}

static int start(graft_self *s, void *state)
{
    (void)state;
    return step(s, "start");
}

static void cool(graft_self *s, void *state)
{
    (void)state;
    step(s, "cool");
}

static void worker_fini(graft_self *s, void *state)
{
    (void)state;
    step(s, "worker_fini");
}

static void fini(graft_self *s, void *state)
{
    (void)state;
    step(s, "fini");
}

static int health(graft_self *s, void *state)
{
    (void)state;
    return step(s, "health");
}

static graft_next serve(graft_req *req, void *state)
{
    (void)state;
    graft_add(metric, 1);
    return graft_text(req, 200, "served\n");
}

static const graft_route life_routes[] = { { "GET", "/life", serve, 0 }, { 0 } };
GRAFT_TEST_PLUGIN(life_plugin, .name = "life", .version = "1", .init = init, .ready = ready,
                  .worker_init = worker_init, .start = start, .cool = cool,
                  .worker_fini = worker_fini, .fini = fini, .routes = life_routes, .health = health)

static void lives(void)
{
    static const struct {
        const char *fails, *trace, *why;
    } cases[] = {
        { "init", "init", "life: init failed: told to" },
        { "ready", "init ready fini", "life: ready says that it is not fit to serve: told to" },
        { "worker_init", "init ready worker_init worker_init worker_fini fini",
          "worker_init failed: told to" },
        { "start", "init ready worker_init worker_init start worker_fini worker_fini fini",
          "life: start failed: told to" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        trace[0] = '\0';
        fails = cases[i].fails;
        GRAFT_IS(graft_test_start(&life_plugin, NULL), -1);
        GRAFT_IS_STR(graft_test_why(), cases[i].why);
        if (strcmp(fails, "worker_init") != 0)
            GRAFT_IS_STR(trace, cases[i].trace);
    }
    trace[0] = '\0';
    fails = "health";
    GRAFT_IS(graft_test_start(&life_plugin, NULL), 0);
    GRAFT_IS(graft_test_health("life"), -1);
    GRAFT_IS_STR(graft_test_why(), "told to");
    fails = "";
    graft_test_advance(250);
    GRAFT_IS_TEXT(graft_test_body(graft_test_request("GET", "/life")), "served\n");
    GRAFT_IS(graft_test_counter("graft_plugin_life_seen_total"), 1);
    GRAFT_IS(graft_test_stop("life"), 0);
    graft_test_advance(1000);
    GRAFT_IS_STR(trace, "init ready worker_init worker_init start health every every cool "
                        "worker_fini worker_fini fini");
    GRAFT_IS(graft_test_status(graft_test_request("GET", "/life")), 404);
}

/* ---- What breaks the contract
 * -------------------------------------------------------------------- */

static graft_req *kept;

static graft_next twice(graft_req *req, void *state)
{
    (void)state;
    kept = req;
    graft_text(req, 200, "once\n");
    graft_done(req);
    graft_done(req);
    return GRAFT_LATER;
}

static graft_next use_kept(graft_req *req, void *state)
{
    (void)state;
    graft_write(kept, "late", 4);
    return graft_text(req, 200, "x");
}

static graft_next unasked(graft_req *req, void *state)
{
    (void)state;
    graft_done(req);
    return graft_text(req, 200, "x");
}

static graft_next too_much(graft_req *req, void *state)
{
    (void)state;
    graft_set_header(req, "Content-Length", "2");
    graft_write(req, "abc", 3);
    graft_write(req, "ab", 2);
    return GRAFT_DONE;
}

static graft_next wrong_status(graft_req *req, void *state)
{
    (void)state;
    graft_status(req, 99);
    return GRAFT_DONE;
}

static void on_pool(void *arg)
{
    graft_write(arg, "x", 1); /* [worker] */
}

static void then(graft_req *req, void *arg)
{
    (void)arg;
    graft_done(req);
}

static graft_next wrong_thread(graft_req *req, void *state)
{
    (void)state;
    graft_offload(req, on_pool, then, req);
    return GRAFT_LATER;
}

/* ---- A thread of its own
 * ------------------------------------------------------------------------- */

static void *answer(void *arg)
{
    usleep(20000);
    graft_done(arg);
    return NULL;
}

static pthread_t thread;

static graft_next threaded(graft_req *req, void *state)
{
    (void)state;
    graft_text(req, 200, "from a thread\n");
    return pthread_create(&thread, NULL, answer, req) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}

/* ---- An upload as a stream
 * ----------------------------------------------------------------------- */

static unsigned aborts;

static void piece(graft_req *req, graft_str chunk, bool last, void *arg)
{
    (void)arg;
    graft_printf(req, "[%.*s]", (int)chunk.len, chunk.ptr);
    if (last)
        graft_done(req);
}

static void gone(graft_req *req, void *arg)
{
    (void)arg;
    aborts += graft_gone(req);
    graft_done(req);
}

static graft_next upload(graft_req *req, void *state)
{
    (void)state;
    graft_on_abort(req, gone, NULL);
    graft_on_body(req, piece, NULL);
    return GRAFT_LATER;
}

static const graft_route bad_routes[] = {
    { "GET", "/kept", use_kept, 0 },
    { "GET", "/twice", twice, 0 },
    { "GET", "/unasked", unasked, 0 },
    { "GET", "/much", too_much, 0 },
    { "GET", "/status", wrong_status, 0 },
    { "GET", "/pool", wrong_thread, 0 },
    { "GET", "/thread", threaded, 0 },
    { "PUT", "/up", upload, GRAFT_STREAM },
    { 0 },
};
GRAFT_TEST_PLUGIN(bad_plugin, .name = "bad", .version = "1", .routes = bad_routes)

static void breaches(void)
{
    graft_test_expect_misuse("graft_done: nothing is owed");
    graft_test_req *r = graft_test_request("GET", "/twice");
    GRAFT_IS_TEXT(graft_test_body(r), "once\n");

    graft_test_expect_misuse("graft_write was called after the request was over");
    graft_test_request("GET", "/kept");
    graft_test_expect_misuse("graft_write was called off the request's worker");
    graft_write(kept, "late", 4); /* from main: no worker */

    graft_test_expect_misuse("graft_done was called but the callback did not return GRAFT_LATER");
    graft_test_request("GET", "/unasked");

    graft_test_expect_misuse("more was written than Content-Length promised");
    GRAFT_IS_TEXT(graft_test_body(graft_test_request("GET", "/much")), "ab");

    graft_test_expect_misuse("graft_status: status 99 is not within 200..599");
    GRAFT_IS(graft_test_status(graft_test_request("GET", "/status")), 500);

    graft_test_expect_misuse("graft_write was called off the request's worker");
    graft_test_request("GET", "/pool");
}

static void uploads(void)
{
    graft_test_req *r = graft_test_open("PUT", "/up");
    graft_test_send(r, "one", 3);
    graft_test_advance(100);
    graft_test_send(r, "two", 3);
    graft_test_send_end(r);
    GRAFT_IS_TEXT(graft_test_body(r), "[one][two][]");

    r = graft_test_open("PUT", "/up");
    graft_test_send(r, "one", 3);
    graft_test_hangup(r);
    GRAFT_IS(aborts, 1);
    GRAFT_OK(graft_test_cut(r));
    GRAFT_IS(graft_test_unfinished(), 0);
}

int main(void)
{
    graft_test_settings("{\"workers\": 2}");
    lives();
    GRAFT_IS(graft_test_start(&bad_plugin, NULL), 0);
    breaches();
    uploads();

    graft_test_req *r = graft_test_request("GET", "/thread");
    GRAFT_IS(graft_test_status(r), 0);
    GRAFT_OK(graft_test_wait(r, 10000));
    GRAFT_IS_TEXT(graft_test_body(r), "from a thread\n");
    pthread_join(thread, NULL);

    r = graft_test_raw("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 37);
    GRAFT_IS(graft_test_status(r), 400);
    GRAFT_OK(graft_test_closed(r));
    GRAFT_IS(graft_test_start(&bad_plugin, "{oops"), -1);
    GRAFT_OK(strstr(graft_test_why(), "config:") != NULL);
    return graft_test_end();
}
