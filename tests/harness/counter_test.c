/* plugins/counter, in process: no count is lost from version to version, shared or handed over. */
#include <graft/harness.h>

#include <string.h>

static graft_next app(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "app\n");
}

static graft_req *waits; /* of the route below */
static graft_next hold(graft_req *req, void *state)
{
    (void)state;
    waits = req;
    return GRAFT_LATER;
}

static void at_last(graft_req *req, void *arg)
{
    (void)arg;
    graft_text(req, 200, "at last\n");
    graft_done(req);
}

static const graft_route app_routes[] = {
    { "GET", "/app", app, 0 }, { "GET", "/hold", hold, 0 }, { "PUT", "/body", app, 0 }, { 0 }
};
GRAFT_TEST_PLUGIN(app_plugin, .name = "app", .version = "1", .routes = app_routes)

static bool tells(const char *text)
{
    graft_str body = graft_test_body(graft_test_request("GET", "/counter"));
    return strstr(body.ptr, text) != NULL;
}

int main(void)
{
    graft_test_settings("{\"timeouts_ms\": {\"handover\": 500}}");
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    GRAFT_IS(graft_test_start(&app_plugin, NULL), 0);
    for (int i = 0; i < 5; i++)
        graft_test_request("GET", "/app");
    graft_test_request("GET", "/nothing");
    GRAFT_OK(tells("\"total\":6,"));
    GRAFT_OK(tells("{\"path\":\"/app\",\"count\":5}"));
    GRAFT_OK(tells("\"/nothing\":404"));

    /* The next version: the block is the same, the map was exported and imported. */
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    graft_test_request("GET", "/app");
    GRAFT_OK(tells("{\"path\":\"/app\",\"count\":6}"));
    GRAFT_OK(tells("\"/nothing\":404"));

    /* A request that may take for ever: the swap is undone, and the old version counts on. */
    graft_test_req *r = graft_test_request("GET", "/hold");
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), -1);
    GRAFT_IS_STR(graft_test_why(), "a request is in progress as GRAFT_LATER, which the old version "
                                   "must finish: try again when it has ended");
    graft_test_request("GET", "/app");
    GRAFT_OK(tells("{\"path\":\"/app\",\"count\":7}"));
    graft_post(waits, at_last, NULL); /* as a thread of the plugin's would */
    graft_test_advance(0);
    GRAFT_IS_TEXT(graft_test_body(r), "at last\n");
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    GRAFT_OK(tells("\"/hold\":200"));

    /* One that ends by itself is waited for, as long as timeouts_ms.handover says. */
    r = graft_test_open("PUT", "/body", "Content-Length: 3");
    uint64_t before = graft_test_now();
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), -1);
    GRAFT_IS(graft_test_now() - before, 500);
    GRAFT_OK(strstr(graft_test_why(), "not done within 500 ms (timeouts_ms.handover): 1 requests "
                                      "of ") != NULL);
    GRAFT_OK(strstr(graft_test_why(), "still in progress, the oldest on /body, waiting for body"));
    graft_test_send(r, "abc", 3);
    GRAFT_IS_TEXT(graft_test_body(r), "app\n");
    GRAFT_IS(graft_test_start(&graft_plugin_v1, NULL), 0);
    GRAFT_OK(tells("\"/body\":200"));
    return graft_test_end();
}
