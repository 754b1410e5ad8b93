/* plugins/echo, in process: bodies in one piece, in slow pieces, too large, and from clients that
 * leave. */
#include <graft/harness.h>

#include <stdlib.h>
#include <string.h>

int main(void)
{
    graft_test_settings("{\"limits\": {\"body_bytes\": 1000}, \"timeouts_ms\": {\"body\": 5000}}");
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);

    graft_test_req *r =
        graft_test_request_body("POST", "/echo", "abc", 3, "Content-Type: text/plain");
    GRAFT_IS(graft_test_status(r), 200);
    GRAFT_IS_TEXT(graft_test_body(r), "abc");
    GRAFT_IS_STR(graft_test_header(r, "Content-Type"), "text/plain");

    r = graft_test_request("GET", "/echo");
    GRAFT_IS_TEXT(graft_test_body(r), "Send a body and it comes back.\n");

    /* Slowly, but in time. */
    r = graft_test_open("PUT", "/echo");
    graft_test_send(r, "one ", 4);
    graft_test_advance(4000);
    GRAFT_IS(graft_test_status(r), 0);
    graft_test_send(r, "two", 3);
    graft_test_send_end(r);
    GRAFT_IS(graft_test_status(r), 200);
    GRAFT_IS_TEXT(graft_test_body(r), "one two");
    GRAFT_IS_STR(graft_test_header(r, "Content-Type"), "application/octet-stream");

    /* Too slowly. */
    r = graft_test_open("PUT", "/echo", "Content-Length: 10");
    graft_test_send(r, "one", 3);
    graft_test_advance(4900);
    GRAFT_IS(graft_test_status(r), 0);
    graft_test_advance(200);
    GRAFT_IS(graft_test_status(r), 408);

    r = graft_test_open("POST", "/echo", "Content-Length: 1001");
    GRAFT_IS(graft_test_status(r), 413);

    r = graft_test_open("POST", "/echo", "Content-Length: 3", "Expect: 100-continue");
    GRAFT_IS(graft_test_continued(r), 1);
    graft_test_send(r, "abc", 3);
    GRAFT_IS_TEXT(graft_test_body(r), "abc");

    r = graft_test_open("POST", "/echo", "Content-Length: 3");
    graft_test_send(r, "ab", 2);
    GRAFT_IS(graft_test_unfinished(), 1);
    graft_test_hangup(r);
    GRAFT_IS(graft_test_unfinished(), 0);
    GRAFT_OK(graft_test_cut(r));
    return graft_test_end();
}
