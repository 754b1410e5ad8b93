/* plugins/request-id, in process: a middleware around a handler of the test's own. */
#include <graft/harness.h>

#include <string.h>

static graft_next app(graft_req *req, void *state)
{
    (void)state;
    graft_set_header(req, "X-Request-ID", "from the handler");
    return graft_text(req, 200, "app\n");
}

static const graft_route app_routes[] = { { "GET", "/app", app, 0 }, { 0 } };
GRAFT_TEST_PLUGIN(app_plugin, .name = "app", .version = "1", .routes = app_routes)

int main(void)
{
    GRAFT_IS(graft_test_start(&graft_plugin_v1, "{\"header\": \"not a name\"}"), -1);
    GRAFT_OK(strstr(graft_test_why(), "config.header is \"not a name\"") != NULL);

    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    GRAFT_IS(graft_test_start(&app_plugin, NULL), 0);

    graft_test_req *r = graft_test_request("GET", "/app", "X-Request-ID: abc-1");
    GRAFT_IS_TEXT(graft_test_body(r), "app\n");
    GRAFT_IS_STR(graft_test_header(r, "X-Request-ID"), "abc-1");

    r = graft_test_request("GET", "/app", "X-Request-ID: a\\b");
    const char *id = graft_test_header(r, "X-Request-ID");
    GRAFT_OK(id != NULL && strlen(id) == 32);

    /* Answers that no handler gave carry one, too. */
    r = graft_test_request("GET", "/nothing", "X-Request-ID: abc-2");
    GRAFT_IS(graft_test_status(r), 404);
    GRAFT_IS_STR(graft_test_header(r, "X-Request-ID"), "abc-2");

    /* Another configuration takes its place. */
    GRAFT_IS(graft_test_start(&graft_plugin_v1, "{\"header\": \"X-Trace\", \"trust\": false}"), 0);
    r = graft_test_request("GET", "/app", "X-Trace: abc-3");
    id = graft_test_header(r, "X-Trace");
    GRAFT_OK(id != NULL && strlen(id) == 32);
    GRAFT_IS_STR(graft_test_header(r, "X-Request-ID"), "from the handler");
    return graft_test_end();
}
