/* plugins/access-log, in process: what it logs, also of requests that were cut. */
#include <graft/harness.h>

#include <string.h>

static graft_next never(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, graft_query(req, "bad").ptr ? 503 : 200, "abc");
}

static const graft_route app_routes[] = { { "GET", "/app", never, 0 }, { 0 } };
GRAFT_TEST_PLUGIN(app_plugin, .name = "app", .version = "1", .routes = app_routes)

int main(void)
{
    GRAFT_IS(graft_test_start(&graft_plugin_v1, "{\"sample\": 0}"), -1);
    GRAFT_OK(strstr(graft_test_why(), "config.sample is 0, expected 1 or more") != NULL);
    GRAFT_IS(graft_test_start(&graft_plugin_v1, "{\"format\": \"text\"}"), 0);
    GRAFT_IS(graft_test_start(&app_plugin, NULL), 0);

    graft_test_request("GET", "/app");
    GRAFT_OK(graft_test_logged("GET /app 200 3 B 0 us route=/app peer=192.0.2.1:40001 id="));
    graft_test_request("GET", "/no%22thing");
    GRAFT_OK(graft_test_logged("GET /no%22thing 404 "));

    GRAFT_IS(graft_test_start(&graft_plugin_v1, "{\"sample\": 3}"), 0);
    graft_test_forget_log();
    for (int i = 0; i < 7; i++)
        graft_test_request("GET", "/app");
    GRAFT_IS(graft_test_log_count("\\\"path\\\":\\\"/app\\\",\\\"status\\\":200"), 3);
    graft_test_request("GET", "/app?bad=1");
    GRAFT_IS(graft_test_log_count("\\\"status\\\":503"), 1);
    return graft_test_end();
}
