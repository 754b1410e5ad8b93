/* The harness's header in C++: a handler that is a C++ function, and a test of it. */
#include <graft/harness.h>

#include <string>

namespace
{

graft_next greet(graft_req *req, void *)
{
    graft_str name = graft_param(req, "name");
    std::string text = "hello, " + std::string(name.ptr, name.len) + "\n";
    return graft_text(req, 200, text.c_str());
}

const graft_route routes[] = { { "GET", "/hello/:name", greet, 0 }, {} };

} // namespace

GRAFT_TEST_PLUGIN(hello, .name = "hello", .version = "1", .routes = routes)

int main()
{
    GRAFT_IS(graft_test_start(&hello, nullptr), 0);
    graft_test_req *r = graft_test_request("GET", "/hello/you", "Accept: text/plain");
    GRAFT_IS(graft_test_status(r), 200);
    GRAFT_IS_TEXT(graft_test_body(r), "hello, you\n");
    GRAFT_IS_STR(graft_test_header(r, "content-length"), "11");
    return graft_test_end();
}
