/* plugins/hello, in process. */
#include <graft/harness.h>

int main(void)
{
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);

    graft_test_req *r = graft_test_request("GET", "/hello");
    GRAFT_IS(graft_test_status(r), 200);
    GRAFT_IS_TEXT(graft_test_body(r), "hello, world\n");
    GRAFT_IS_STR(graft_test_header(r, "content-length"), "13");

    r = graft_test_request("GET", "/hello/J%C3%BCrgen%2Fx");
    GRAFT_IS(graft_test_status(r), 200);
    GRAFT_IS_TEXT(graft_test_body(r), "hello, J\303\274rgen/x\n");

    r = graft_test_request("HEAD", "/hello");
    GRAFT_IS(graft_test_status(r), 200);
    GRAFT_IS_TEXT(graft_test_body(r), "");
    GRAFT_IS_STR(graft_test_header(r, "Content-Length"), "13");

    r = graft_test_request("POST", "/hello");
    GRAFT_IS(graft_test_status(r), 405);
    GRAFT_IS_STR(graft_test_header(r, "Allow"), "GET, HEAD");
    GRAFT_IS(graft_test_status(graft_test_request("GET", "/hullo")), 404);
    return graft_test_end();
}
