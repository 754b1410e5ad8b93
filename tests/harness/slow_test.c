/* plugins/slow, in process: timers, the pool, streams; clients that leave, and that are slow. */
#include <graft/harness.h>

#include <string.h>

static void timers(void)
{
    graft_test_req *r = graft_test_request("GET", "/slow/timer?ms=1000");
    graft_test_advance(999);
    GRAFT_IS(graft_test_status(r), 0);
    graft_test_advance(1);
    GRAFT_IS(graft_test_status(r), 200);
    GRAFT_IS_TEXT(graft_test_body(r), "timer 1.0.0\n");

    /* Its version has gone meanwhile: it ends where it began. */
    r = graft_test_request("GET", "/slow/timer?ms=1000");
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    graft_test_advance(1000);
    GRAFT_IS(graft_test_status(r), 200);

    /* timeouts_ms.handler */
    r = graft_test_request("GET", "/slow/timer?ms=3000");
    graft_test_advance(2100);
    GRAFT_IS(graft_test_status(r), 504);
    GRAFT_IS(graft_test_unfinished(), 1);
    graft_test_advance(900);
    GRAFT_IS(graft_test_unfinished(), 0);
}

static void pool(void)
{
    graft_test_req *r[4];
    graft_test_hold_pool(true);
    for (int i = 0; i < 4; i++)
        r[i] = graft_test_request("GET", "/slow/offload?ms=0");
    GRAFT_IS(graft_test_status(r[2]), 0);
    GRAFT_IS(graft_test_status(r[3]), 503); /* offload.queue is 3 */
    graft_test_hangup(r[1]);
    GRAFT_IS(graft_test_run_pool(9), 3);
    GRAFT_IS_TEXT(graft_test_body(r[0]), "offload 1.0.0\n");
    GRAFT_OK(graft_test_cut(r[1]));
    GRAFT_IS_TEXT(graft_test_body(r[2]), "offload 1.0.0\n");
    graft_test_hold_pool(false);
}

static void streams(void)
{
    graft_test_req *r = graft_test_request("GET", "/slow/stream?chunks=10&ms=100");
    GRAFT_IS(graft_test_pieces(r), 1);
    GRAFT_IS_TEXT(graft_test_piece(r, 0), "stream 1.0.0 1\n");
    graft_test_advance(899);
    GRAFT_IS(graft_test_pieces(r), 9);
    GRAFT_OK(!graft_test_complete(r));
    graft_test_advance(1);
    GRAFT_IS_TEXT(graft_test_piece(r, 9), "stream 1.0.0 10\n");
    GRAFT_OK(graft_test_complete(r));

    /* A client that takes nothing: the stream stands still above limits.send_bytes. */
    graft_test_window(0);
    r = graft_test_request("GET", "/slow/stream?chunks=10&ms=1");
    graft_test_window(SIZE_MAX);
    graft_test_advance(100);
    GRAFT_IS(graft_test_received(r).len, 0);
    GRAFT_IS(graft_test_unfinished(), 1);
    graft_test_take(r, SIZE_MAX);
    graft_test_advance(100);
    GRAFT_OK(graft_test_complete(r));
    GRAFT_IS(graft_test_pieces(r), 10);

    /* One that leaves in the middle. */
    r = graft_test_request("GET", "/slow/stream?chunks=10&ms=100");
    graft_test_advance(250);
    graft_test_hangup(r);
    GRAFT_OK(graft_test_cut(r));
    graft_test_advance(100);
    GRAFT_IS(graft_test_unfinished(), 0);

    /* One without an end, until its version cools. */
    r = graft_test_request("GET", "/slow/stream?chunks=0&ms=100");
    graft_test_advance(5000);
    GRAFT_OK(!graft_test_complete(r));
    GRAFT_IS(graft_test_stop("slow"), 0);
    graft_test_advance(100);
    GRAFT_OK(graft_test_complete(r));
}

/* timeouts_ms.retire, and the same by hand. */
static void retire(void)
{
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    graft_test_req *r = graft_test_request("GET", "/slow/stream?chunks=100&ms=100");
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    graft_test_advance(4999);
    GRAFT_OK(!graft_test_closed(r));
    graft_test_advance(1);
    GRAFT_OK(graft_test_cut(r));

    r = graft_test_request("GET", "/slow/stream?chunks=100&ms=100");
    GRAFT_IS(graft_test_stop("slow"), 0);
    GRAFT_OK(!graft_test_closed(r));
    graft_test_retire();
    GRAFT_OK(graft_test_cut(r));
}

int main(void)
{
    graft_test_settings(
        "{\"offload\": {\"queue\": 3}, \"timeouts_ms\": {\"handler\": 2000, \"retire\": 5000},"
        " \"limits\": {\"send_bytes\": 4096}}");
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    timers();
    pool();
    streams();
    retire();
    return graft_test_end();
}
