/* base/config.h: defaults, every source and their order, every kind of fault, what HUP asks. */
#include "tap.h"

#include "base/config_private.h"

#include "options.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sha2.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct err error;

static struct config *from(const char *text)
{
    error.text[0] = '\0';
    return config_from_text("graft.json", text, strlen(text), &error);
}

static struct config *good(const char *text)
{
    struct config *cfg = from(text);
    if (cfg == NULL)
        fprintf(stderr, "# %s: %s\n", text, error.text);
    must(cfg != NULL);
    return cfg;
}

static void bad(const char *text, const char *message)
{
    struct config *cfg = from(text);
    if (!ok(cfg == NULL))
        fprintf(stderr, "# accepted: %s\n", text);
    config_free(cfg);
    is_str(error.text, message);
}

/* A file in a folder of its own, removed by file_gone. */
static char folder[64], file[96];

static void write_file(const char *text, size_t len)
{
    snprintf(folder, sizeof(folder), "%s", "/tmp/graft-config-XXXXXX");
    must(mkdtemp(folder) != NULL);
    snprintf(file, sizeof(file), "%s/graft.json", folder);
    FILE *f = fopen(file, "w");
    must(f != NULL);
    is(fwrite(text, 1, len, f), len);
    fclose(f);
}

static void file_gone(void)
{
    unlink(file);
    rmdir(folder);
}

static struct config *load(struct options *opt, char **envp)
{
    error.text[0] = '\0';
    opt->config_file = file;
    return config_load(opt, envp, &error);
}

TEST(defaults_are_those_of_the_manual)
{
    struct config *c = good("{}");
    is(c->listen_count, 1);
    is_str(c->listen[0].text, "127.0.0.1:8080");
    ok(c->plugin_dir[0] == '/');
    is_str(c->stage_dir, "");
    is_str(c->state_dir, "");
    is(c->workers, 0);
    is(c->offload_threads, 4);
    is(c->offload_queue, 1024);
    is(c->watch, false);
    is_str(c->control, "");
    is_str(c->ops, "127.0.0.1:9180");
    is(c->ops_addr.kind, ADDR_TCP);
    is(c->supervise, true);
    is(c->crash_window_ms, 60000);
    is(c->watchdog_ms, 5000);
    is(c->watchdog_kill, false);
    is_str(c->user, "");
    is_str(c->server_header, "graft");
    is(c->plugin_count + c->middleware_count + c->route_count, 0);
    is(c->limits.head_bytes, 16384);
    is(c->limits.field_bytes, 8000);
    is(c->limits.target_bytes, 8000);
    is(c->limits.headers, 100);
    is(c->limits.body_bytes, 8388608);
    is(c->limits.send_bytes, 262144);
    is(c->limits.connections, 65536);
    is(c->limits.pipeline, 64);
    is(c->limits.versions, 8);
    is(c->timeouts_ms.head, 10000);
    is(c->timeouts_ms.idle, 75000);
    is(c->timeouts_ms.body, 30000);
    is(c->timeouts_ms.write, 30000);
    is(c->timeouts_ms.handler, 30000);
    is(c->timeouts_ms.load, 30000);
    is(c->timeouts_ms.adopt, 1000);
    is(c->timeouts_ms.handover, 100);
    is(c->timeouts_ms.retire, 0);
    is(c->timeouts_ms.upgrade, 60000);
    is(c->drain.delay_ms, 0);
    is(c->drain.idle_ms, 1000);
    is(c->drain.timeout_ms, 30000);
    is(c->log.level, LOG_INFO);
    is_str(c->log.file, "");
    is(c->log_access, false);
    is(c->keys_set, 0);
    config_free(c);
}

TEST(every_key_of_the_file)
{
    struct config *c = good(
        "{\"listen\": [\":80\", \"unix:/run/x.sock\", \"[::1]:81\", \"fd:7\"],"
        "\"plugin_dir\": \"p\", \"stage_dir\": \"/s\", \"state_dir\": \"/t\", \"workers\": 3,"
        "\"offload\": {\"threads\": 5, \"queue\": 6}, \"watch\": true, \"control\": \"/c\","
        "\"ops\": \"\", \"supervise\": false, \"user\": \"www\", \"server_header\": \"\","
        "\"middleware\": [\"a\", \"b-2\"],"
        "\"limits\": {\"head_bytes\": 2000, \"field_bytes\": 8191, \"target_bytes\": 300,"
        "\"headers\": 7, \"body_bytes\": 5000000000, \"send_bytes\": 9, \"connections\": 10,"
        "\"pipeline\": 11, \"versions\": 12},"
        "\"timeouts_ms\": {\"head\": 1, \"idle\": 2, \"body\": 3, \"write\": 4, \"handler\": 5,"
        "\"load\": 6, \"adopt\": 7, \"handover\": 8, \"retire\": 9},"
        "\"drain\": {\"delay_ms\": 1, \"idle_ms\": 2, \"timeout_ms\": 3},"
        "\"log\": {\"level\": \"error\", \"format\": \"text\", \"file\": \"/l\", \"access\": "
        "true}}");
    is(c->listen_count, 4);
    ok(c->listen[0].dual);
    is(c->listen[1].kind, ADDR_UNIX);
    is_str(((struct sockaddr_un *)&c->listen[1].sa)->sun_path, "/run/x.sock");
    is(c->listen[2].sa.ss_family, AF_INET6);
    is(c->listen[3].kind, ADDR_FD);
    is(c->listen[3].fd, 7);
    is_str(c->plugin_dir, "p");
    is_str(c->stage_dir, "/s");
    is_str(c->state_dir, "/t");
    is(c->workers, 3);
    is(c->offload_threads, 5);
    is(c->offload_queue, 6);
    ok(c->watch && !c->supervise && c->log_access && !c->log.json);
    is_str(c->control, "/c");
    is_str(c->ops, "");
    is_str(c->user, "www");
    is_str(c->server_header, "");
    is(c->middleware_count, 2);
    is_str(c->middleware[1], "b-2");
    is(c->limits.head_bytes, 2000);
    is(c->limits.field_bytes, 8191);
    is(c->limits.target_bytes, 300);
    is(c->limits.headers, 7);
    ok(c->limits.body_bytes == 5000000000u);
    is(c->limits.send_bytes, 9);
    is(c->limits.connections, 10);
    is(c->limits.pipeline, 11);
    is(c->limits.versions, 12);
    is(c->timeouts_ms.head, 1);
    is(c->timeouts_ms.retire, 9);
    is(c->drain.delay_ms, 1);
    is(c->drain.timeout_ms, 3);
    is(c->log.level, LOG_ERROR);
    is_str(c->log.file, "/l");
    config_free(c);
}

TEST(plugins_keep_what_was_written)
{
    struct config *c = good("{\"plugins\": {"
                            "\"hello\": {\"config\": { \"greeting\" : \"a b\", \"n\": [1, 2] },"
                            "            \"mount\": \"/x/y\", \"required\": true},"
                            "\"off\": {\"enabled\": false, \"required\": false}, \"bare\": {}}}");
    const struct config_plugin *p = config_plugin(c, "hello");
    char sha[65];
    is(c->plugin_count, 3);
    is_str(p->config, "{\"greeting\":\"a b\",\"n\":[1,2]}");
    SHA256Data((const uint8_t *)p->config, strlen(p->config), sha);
    is_str(p->config_sha256, sha);
    is_str(p->mount, "/x/y");
    ok(p->enabled && p->required && p->required_written && p->written);
    p = config_plugin(c, "off");
    ok(!p->enabled && !p->required && p->required_written);
    p = config_plugin(c, "bare");
    ok(p->enabled && p->required && !p->required_written && p->written);
    is_str(p->config, "{}");
    is_str(p->mount, "");
    config_free(c);
}

TEST(an_absent_config_is_an_empty_one)
{
    struct config *c = good("{\"plugins\": {\"a\": {}, \"b\": {\"config\": { }}}}");
    is_str(config_plugin(c, "a")->config_sha256, config_plugin(c, "b")->config_sha256);
    is_str(config_plugin(c, "nobody")->config_sha256, config_plugin(c, "b")->config_sha256);
    is_str(config_plugin(c, "nobody")->config, "{}");
    ok(!config_plugin(c, "nobody")->written && config_plugin(c, "nobody")->enabled);
    config_free(c);
}

TEST(routes_are_a_method_and_a_pattern)
{
    struct config *c = good("{\"routes\": ["
                            "{\"match\": \"GET /a/:x/c\", \"middleware\": [\"auth\"]},"
                            "{\"match\": \"/p/*\", \"middleware\": [\"auth\", \"log\"],"
                            " \"plugin\": \"hello\"},"
                            "{\"match\": \"M-SEARCH /*rest\", \"middleware\": []},"
                            "{\"match\": \"/with space/\", \"middleware\": []}]}");
    is(c->route_count, 4);
    is_str(c->routes[0].method, "GET");
    is_str(c->routes[0].pattern, "/a/:x/c");
    ok(c->routes[0].plugin == NULL);
    ok(c->routes[1].method == NULL);
    is_str(c->routes[1].pattern, "/p/*");
    is_str(c->routes[1].plugin, "hello");
    is_str(c->routes[1].middleware[1], "log");
    is_str(c->routes[2].method, "M-SEARCH");
    is_str(c->routes[2].pattern, "/*rest");
    is_str(c->routes[3].pattern, "/with space/");
    config_free(c);
}

TEST(rollouts)
{
    struct config *c =
        good("{\"plugins\": {\"a\": {\"rollout\": {}}, \"b\": {},"
             "\"c\": {\"rollout\": {\"steps\": [0, 1, 99], \"step_ms\": 100,"
             "  \"min_requests\": 5, \"max_error_rate\": 0, \"max_error_ratio\": 1.25,"
             "  \"max_p99_ratio\": 3e1, \"sticky\": \"header:X-User\", \"auto\": false,"
             "  \"shadow\": 100}},"
             "\"d\": {\"rollout\": {\"sticky\": \"cookie\"}},"
             "\"e\": {\"rollout\": {\"sticky\": \"peer\"}}}}");
    const struct config_rollout *r = config_plugin(c, "a")->rollout;
    must(r != NULL);
    is(r->nsteps, 3);
    ok(r->steps[0] == 5 && r->steps[1] == 25 && r->steps[2] == 50);
    ok(r->step_ms == 30000 && r->min_requests == 200 && r->advance);
    ok(r->max_error_rate == 0.01 && r->max_error_ratio == 2 && r->max_p99_ratio == 1.5);
    ok(r->sticky == CONFIG_STICKY_NONE && r->header == NULL && r->shadow == 0);
    ok(config_plugin(c, "b")->rollout == NULL && config_plugin(c, "other")->rollout == NULL);
    r = config_plugin(c, "c")->rollout;
    ok(r->nsteps == 3 && r->steps[0] == 0 && r->steps[2] == 99);
    ok(r->step_ms == 100 && r->min_requests == 5 && !r->advance);
    ok(r->max_error_rate == 0 && r->max_error_ratio == 1.25 && r->max_p99_ratio == 30);
    ok(r->sticky == CONFIG_STICKY_HEADER);
    is_str(r->header, "X-User");
    is(r->shadow, 100);
    ok(config_plugin(c, "d")->rollout->sticky == CONFIG_STICKY_COOKIE);
    ok(config_plugin(c, "e")->rollout->sticky == CONFIG_STICKY_PEER);
    config_free(c);
}

#define ROLLOUT(text) "{\"plugins\":{\"a\":{\"rollout\":{" text "}}}}"

TEST(whose_version_header_is_heard)
{
    struct config *c = good("{\"version_header_from\": [\"127.0.0.1\", \"fd00::/8\", \"unix\"]}");
    is(c->version_header_from_count, 3);
    is(c->version_header_from[1].bits, 8);
    config_free(c);
    c = good("{}");
    is(c->version_header_from_count, 0);
    config_free(c);
    bad("{\"version_header_from\": [\"unix\", \"10.0.0.1/8\"]}",
        "graft.json:1:34: version_header_from: \"10.0.0.1/8\": bits of the address are set behind "
        "its prefix of 8 bits");
    ok(from("{\"version_header_from\": [1]}") == NULL);
    ok(from("{\"version_header_from\": \"unix\"}") == NULL);
}

TEST(bad_rollouts)
{
    static const char *const steps[] = {
        "[]",    "[100]",   "[-1]",
        "[5,5]", "[25,5]",  "[5,2.5]",
        "5",     "[\"5\"]", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]"
    };
    char text[256];
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        snprintf(text, sizeof text, ROLLOUT("\"steps\":%s"), steps[i]);
        ok(from(text) == NULL);
        ok(strstr(error.text, "steps: expected 1 to 16 rising whole numbers from 0 to 99") != NULL);
    }
    bad(ROLLOUT("\"step_ms\":99"), "graft.json:1:39: step_ms: expected a whole number from 100 to "
                                   "604800000, found 99");
    bad(ROLLOUT("\"min_requests\":0"),
        "graft.json:1:44: min_requests: expected a whole number from "
        "1 to 1073741824, found 0");
    bad(ROLLOUT("\"max_error_rate\":1.01"),
        "graft.json:1:46: max_error_rate: expected a number from 0 to 1, found 1.01");
    bad(ROLLOUT("\"max_error_ratio\":0.5"),
        "graft.json:1:47: max_error_ratio: expected a number from 1 to 1000, found 0.5");
    bad(ROLLOUT("\"max_p99_ratio\":\"2\""),
        "graft.json:1:45: max_p99_ratio: expected a number from 1 to 1000, found \"2\"");
    bad(ROLLOUT("\"shadow\":101"),
        "graft.json:1:38: shadow: expected a whole number from 0 to 100, found 101");
    bad(ROLLOUT("\"sticky\":\"header:\""), "graft.json:1:38: sticky: expected \"none\", "
                                           "\"cookie\", \"header:NAME\" or \"peer\", found "
                                           "\"header:\"");
    bad(ROLLOUT("\"sticky\":\"header:a b\""), "graft.json:1:38: sticky: expected \"none\", "
                                              "\"cookie\", \"header:NAME\" or \"peer\", found "
                                              "\"header:a b\"");
    bad(ROLLOUT("\"step\":1"), "graft.json:1:29: unknown key \"step\": did you mean \"steps\"?");
    ok(from("{\"plugins\":{\"a\":{\"rollout\":true}}}") == NULL);
}

TEST(unknown_keys_name_the_nearest)
{
    bad("{\"lisen\": 1}", "graft.json:1:2: unknown key \"lisen\": did you mean \"listen\"?");
    bad("{\n \"limits\": {\"head_byte\": 1}}",
        "graft.json:2:13: unknown key \"head_byte\": did you mean \"head_bytes\"?");
    bad("{\"offload\": {\"zzz\": 1}}",
        "graft.json:1:14: unknown key \"zzz\": expected one of threads, queue");
    bad("{\"head_bytes\": 1}",
        "graft.json:1:2: unknown key \"head_bytes\": it belongs into \"limits\": {\"head_bytes\": "
        "...}");
    bad("{\"plugins\": {\"a\": {\"requird\": true}}}",
        "graft.json:1:20: unknown key \"requird\": did you mean \"required\"?");
    bad("{\"routes\": [{\"path\": \"/\"}]}",
        "graft.json:1:14: unknown key \"path\": did you mean \"match\"?");
    bad("{\"li\\nsen\\u001b\": 1}",
        "graft.json:1:2: unknown key \"li\\nsen\\u001b\": did you mean \"listen\"?");
    ok(from("{\"limits.head_bytes\": 1}") == NULL);
    ok(from("{\"\": 1}") == NULL);
    ok(from("{\"limits\": {\"limits\": {}}}") == NULL);
}

TEST(types_and_ranges)
{
    bad("[]", "graft.json:1:1: expected an object of settings, found an array");
    bad("{\"workers\": \"3\"}", "graft.json:1:13: workers: expected a whole number from 0 to 1024, "
                                "found a string: write it without quotes");
    bad("{\"workers\": 1025}", "graft.json:1:13: workers: expected a whole number from 0 to 1024, "
                               "found \"1025\": the default is 0");
    bad("{\"workers\": -1}", "graft.json:1:13: workers: expected a whole number from 0 to 1024, "
                             "found \"-1\": the default is 0");
    bad("{\"workers\": 1.5}", "graft.json:1:13: workers: expected a whole number from 0 to 1024, "
                              "found \"1.5\": the default is 0");
    bad("{\"watch\": 1}", "graft.json:1:11: watch: expected true or false, found a number");
    bad("{\"watch\": null}", "graft.json:1:11: watch: expected true or false, found null");
    bad("{\"limits\": 5}", "graft.json:1:12: limits: expected an object, found a number");
    bad("{\"limits\": {\"field_bytes\": 8192}}",
        "graft.json:1:28: limits.field_bytes: expected a whole number from 16 to 8191, found "
        "\"8192\": the default is 8000");
    bad("{\"limits\": {\"target_bytes\": 9000}}",
        "graft.json:1:29: limits.target_bytes: expected a whole number from 16 to 8191, found "
        "\"9000\": the default is 8000");
    bad("{\"listen\": \":80\"}", "graft.json:1:12: listen: expected an array of addresses, found a "
                                 "string: write it in [ ]");
    bad("{\"listen\": []}", "graft.json:1:12: listen: expected at least one address, found none: "
                            "remove the key for the default 127.0.0.1:8080");
    bad("{\"listen\": [\":80\", \":80\"]}",
        "graft.json:1:20: listen: \":80\" is named twice: remove one");
    ok(from("{\"plugin_dir\": \"\"}") == NULL);
    ok(strstr(error.text, "plugin_dir: expected a path, found \"\"") != NULL);
    bad("{\"log\": {\"level\": \"warning\"}}",
        "graft.json:1:19: log.level: expected debug, info, warn or error, found \"warning\": the "
        "default is info");
    bad("{\"log\": {\"format\": \"xml\"}}", "graft.json:1:20: log.format: expected json or text, "
                                            "found \"xml\": the default is json");
    ok(from("{\"server_header\": \"a\\r\\nX: y\"}") == NULL);
    ok(strstr(error.text, "server_header: expected visible ASCII") != NULL);
    bad("{\"watch\": true, \"watch\": true}",
        "graft.json:1:17: the key \"watch\" stands here a second time (first in line 1): remove "
        "one");
    bad("{} x", "graft.json:1:4: expected nothing behind the end of the value, found 'x'");
}

TEST(names_mounts_and_matches)
{
    static const char *const mounts[] = { "x",    "/",    "/a/",     "//a",     "/a//b",
                                          "/:x",  "/*",   "/a/../b", "/./a",    "/a?",
                                          "/a#b", "/%41", "/a*b",    "/\\u0001" };
    static const char *const matches[] = { "",        "GET",    "get /x", "GET  /x", "GET x",
                                           "/a/*/b",  "/*r/x",  "/:",     "/:1",     "/a*",
                                           "/:x/:x",  "/:x/*x", "/a?b",   "/../a",   " /x",
                                           "GE(T /x", "/%41",   "*" };
    char text[256];
    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        snprintf(text, sizeof(text), "{\"plugins\": {\"a\": {\"mount\": \"%s\"}}}", mounts[i]);
        if (!ok(from(text) == NULL))
            fprintf(stderr, "# accepted: mount %s\n", mounts[i]);
        ok(strstr(error.text, "graft.json:1:29: mount: found \"") == error.text);
    }
    for (size_t i = 0; i < ARRAY_LEN(matches); i++) {
        snprintf(text, sizeof(text), "{\"routes\": [{\"match\": \"%s\", \"middleware\": []}]}",
                 matches[i]);
        if (!ok(from(text) == NULL))
            fprintf(stderr, "# accepted: match %s\n", matches[i]);
        ok(strstr(error.text, "graft.json:1:23: match: found \"") == error.text);
    }
    ok(from("{\"middleware\": [\"Upper\"]}") == NULL);
    ok(from("{\"middleware\": [\"\"]}") == NULL);
    ok(from("{\"middleware\": [1]}") == NULL);
    ok(from("{\"plugins\": {\"1a\": {}}}") == NULL);
    ok(from("{\"plugins\": {\"a_b\": {}}}") == NULL);
    ok(from("{\"plugins\": {\"a\": {\"config\": []}}}") == NULL);
    ok(from("{\"plugins\": {\"a\": []}}") == NULL);
    ok(from("{\"routes\": [{\"match\": \"/x\"}]}") == NULL);
    ok(from("{\"routes\": [{\"middleware\": []}]}") == NULL);
    ok(from("{\"routes\": [{\"match\": \"/x\", \"middleware\": [], \"plugin\": \"A\"}]}") == NULL);
    config_free(good("{\"plugins\": {\"a\": {\"mount\": \"/a%2Fb/c d\"}}}"));
}

TEST(flag_before_variable_before_file_before_default)
{
    char *envp[] = { "GRAFT_WORKERS=5", "GRAFT_OPS=", "GRAFT_WATCH=yes", "GRAFT_WORKERS=9", NULL };
    struct options opt = { .settings = { { "--workers", "workers", "7" } }, .setting_count = 1 };
    static const char text[] = "{\"workers\": 3, \"ops\": \":99\", \"user\": \"www\"}";
    write_file(text, sizeof(text) - 1);
    struct config *c = load(&opt, envp);
    must(c != NULL);
    is(c->workers, 7);
    is_str(c->ops, "");
    is_str(c->user, "www");
    ok(c->watch);
    is_str(c->path, file);
    config_free(c);
    opt.setting_count = 0;
    c = load(&opt, envp);
    must(c != NULL);
    is(c->workers, 5);
    config_free(c);
    c = load(&opt, NULL);
    must(c != NULL);
    is(c->workers, 3);
    is_str(c->ops, ":99");
    config_free(c);
    file_gone();
}

TEST(every_key_has_a_variable_named_after_it)
{
    for (size_t i = 0; i < config_key_count; i++) {
        char name[64] = "GRAFT_";
        size_t n = strlen(name);
        for (const char *k = config_keys[i].name; *k != '\0'; k++)
            name[n++] = (char)(*k == '.' ? '_' : *k >= 'a' && *k <= 'z' ? *k - 'a' + 'A' : *k);
        name[n] = '\0';
        is_str(config_keys[i].variable, name);
    }
}

TEST(arrays_and_objects_in_variables)
{
    char *envp[] = { "GRAFT_LIMITS_BODY_BYTES=77",
                     "GRAFT_MIDDLEWARE=[\"one\", \"two\"]",
                     "GRAFT_PLUGINS={\"shop\": {\"mount\": \"/shop\", \"config\": {\"a\": 1}}}",
                     "GRAFT_ROUTES=[{\"match\": \"GET /x\", \"middleware\": [\"auth\"]}]",
                     "GRAFT_VERSION_HEADER_FROM=[\"10.0.0.0/8\"]",
                     "GRAFT_CONTROL_GROUPS=[\"0\"]",
                     "GRAFT_SIGNATURES={\"required\": false}",
                     NULL };
    static const char text[] = "{\"middleware\": [\"three\"], \"plugins\": {\"a\": {}, \"b\": {}},"
                               " \"routes\": [], \"version_header_from\": [\"unix\"],"
                               " \"control_groups\": [], \"limits\": {\"body_bytes\": 5}}";
    struct options opt = { 0 };
    write_file(text, sizeof(text) - 1);
    struct config *c = load(&opt, envp);
    must(c != NULL);
    is(c->limits.body_bytes, 77);
    is(c->middleware_count, 2);
    is_str(c->middleware[1], "two");
    is(c->plugin_count, 1);
    is_str(config_plugin(c, "shop")->mount, "/shop");
    is(c->route_count, 1);
    is(c->version_header_from_count, 1);
    is(c->control_group_count, 1);
    config_free(c);
    c = load(&opt, NULL);
    must(c != NULL);
    is(c->plugin_count, 2);
    is_str(c->middleware[0], "three");
    config_free(c);
    file_gone();
}

TEST(listen_from_every_source)
{
    char *envp[] = { "GRAFT_LISTEN=127.0.0.1:1, [::1]:2,unix:/x", NULL };
    struct options opt = { .settings = { { "--listen", "listen", "127.0.0.1:3" },
                                         { "--listen", "listen", ":4" } } };
    write_file("{\"listen\": [\":9\"]}", 18);
    struct config *c = load(&opt, envp);
    must(c != NULL);
    is(c->listen_count, 3);
    is_str(c->listen[1].text, "[::1]:2");
    config_free(c);
    opt.setting_count = 2;
    c = load(&opt, envp);
    must(c != NULL);
    is(c->listen_count, 2);
    is_str(c->listen[0].text, "127.0.0.1:3");
    is_str(c->listen[1].text, ":4");
    config_free(c);
    file_gone();
}

static void bad_variable(const char *assignment, const char *message)
{
    char copy[128];
    snprintf(copy, sizeof(copy), "%s", assignment);
    char *envp[] = { copy, NULL };
    struct options opt = { 0 };
    ok(load(&opt, envp) == NULL);
    is_str(error.text, message);
}

TEST(bad_variables_and_flags_are_named)
{
    struct options opt = { .settings = { { "--ops", "ops", "9180" } }, .setting_count = 1 };
    write_file("{}", 2);
    bad_variable("GRAFT_WATCH=maybe", "variable GRAFT_WATCH: expected true or false, found "
                                      "\"maybe\": the default is false");
    bad_variable("GRAFT_WORKERS=",
                 "variable GRAFT_WORKERS: expected a whole number from 0 to 1024, "
                 "found \"\": the default is 0");
    bad_variable("GRAFT_LISTEN=", "variable GRAFT_LISTEN: expected host:port, [v6]:port, :port, "
                                  "unix:/path or fd:N, found \"\"");
    bad_variable("GRAFT_PLUGINS={\"shop\": {\"mont\": \"/\"}}",
                 "variable GRAFT_PLUGINS:1:11: unknown key \"mont\": did you mean \"mount\"?");
    bad_variable("GRAFT_MIDDLEWARE=auth",
                 "variable GRAFT_MIDDLEWARE:1:1: expected a value, found 'a'");
    bad_variable("GRAFT_MIDDLEWARE={}",
                 "variable GRAFT_MIDDLEWARE:1:1: expected an array of plugin "
                 "names, found an object");
    bad_variable("GRAFT_DRAIN_TIMEOUT_MS=8s",
                 "variable GRAFT_DRAIN_TIMEOUT_MS: expected a whole number from 0 to 604800000, "
                 "found \"8s\": the default is 30000");
    ok(load(&opt, NULL) == NULL);
    is_str(error.text,
           "--ops: expected host:port, [v6]:port, :port, unix:/path or fd:N, found \"9180\"");
    file_gone();
}

TEST(booleans_in_variables)
{
    static const char *const words[] = { "true", "1", "yes", "on", "false", "0", "no", "off" };
    struct options opt = { 0 };
    write_file("{}", 2);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        char text[32];
        snprintf(text, sizeof(text), "GRAFT_WATCH=%s", words[i]);
        char *envp[] = { text, NULL };
        struct config *c = load(&opt, envp);
        must(c != NULL);
        is(c->watch, i < 4);
        config_free(c);
    }
    file_gone();
}

static unsigned unknown;

static void count_unknown(const char *name, void *arg)
{
    (void)arg;
    unknown++;
    ok(strcmp(name, "GRAFT_PORT") == 0 || strcmp(name, "GRAFT_SERVICE_HOST") == 0 ||
       strcmp(name, "GRAFT_X") == 0);
}

TEST(unknown_variables_are_no_errors)
{
    char *envp[] = { "GRAFT_PORT=tcp://10.0.0.1:80",
                     "GRAFT_SERVICE_HOST=10.0.0.1",
                     "PATH=/bin",
                     "GRAFT_WORKERS=2",
                     "GRAFT_X",
                     NULL };
    struct options opt = { 0 };
    write_file("{}", 2);
    struct config *c = load(&opt, envp);
    must(c != NULL);
    is(c->workers, 2);
    is(c->listen_count, 1);
    config_free(c);
    config_unknown_variables(envp, count_unknown, NULL);
    is(unknown, 3);
    file_gone();
}

TEST(files_that_cannot_be_read)
{
    static char big[CONFIG_FILE_MAX + 1];
    struct options opt = { 0 };
    memset(big, ' ', sizeof(big));
    memcpy(big, "{}", 2);
    write_file(big, sizeof(big));
    ok(load(&opt, NULL) == NULL);
    ok(strstr(error.text, "expected at most 4194304 bytes, found more") != NULL);
    is(truncate(file, CONFIG_FILE_MAX), 0);
    struct config *c = load(&opt, NULL);
    ok(c != NULL);
    config_free(c);
    is(truncate(file, 0), 0);
    ok(load(&opt, NULL) == NULL);
    ok(strstr(error.text, ":1:1: expected a value, found the end of the text") != NULL);
    unlink(file);
    ok(load(&opt, NULL) == NULL);
    ok(strstr(error.text, "cannot open the configuration: No such file") != NULL);
    must(mkfifo(file, 0600) == 0);
    ok(load(&opt, NULL) == NULL);
    ok(strstr(error.text, "expected a regular file, found a device, pipe or socket") != NULL);
    unlink(file);
    must(mkdir(file, 0700) == 0);
    ok(load(&opt, NULL) == NULL);
    ok(strstr(error.text, "expected a regular file, found a folder") != NULL);
    rmdir(file);
    file_gone();
}

static char later[256];

static void add_later(const char *key, void *arg)
{
    (void)arg;
    strncat(later, key, sizeof(later) - strlen(later) - 1);
    strncat(later, " ", sizeof(later) - strlen(later) - 1);
}

TEST(what_is_not_in_effect_is_named_when_set)
{
    struct config *c = good("{}");
    config_not_in_effect(c, add_later, NULL);
    is_str(later, "");
    config_free(c);
    c = good("{\"supervise\": true, \"state_dir\": \"/x\", \"timeouts_ms\": {\"handover\": 100}}");
    config_not_in_effect(c, add_later, NULL);
    is_str(later, "");
    config_free(c);
}

static void changed(const char *a, const char *b, const char *want)
{
    struct config *ca = good(a), *cb = good(b);
    const char *names[4];
    char got[256] = "";
    int n = config_restart_keys_changed(ca, cb, names, ARRAY_LEN(names));
    for (int i = 0; i < n && i < 4; i++) {
        strncat(got, names[i], sizeof(got) - strlen(got) - 1);
        strncat(got, " ", sizeof(got) - strlen(got) - 1);
    }
    is_str(got, want);
    config_free(ca);
    config_free(cb);
}

TEST(what_needs_a_restart_is_named)
{
    changed("{}", "{}", "");
    changed("{}", "{\"listen\": [\"127.0.0.1:8080\"], \"workers\": 0, \"ops\": \"127.0.0.1:9180\"}",
            "");
    changed("{\"listen\": [\":1\", \":2\"]}", "{\"listen\": [\":2\", \":1\"]}", "");
    changed("{}", "{\"listen\": [\":1\"], \"workers\": 2, \"user\": \"x\"}",
            "listen workers user ");
    changed("{}", "{\"stage_dir\": \"/s\", \"control\": \"/c\", \"ops\": \"\"}",
            "stage_dir control ops ");
    changed("{}", "{\"offload\": {\"queue\": 3}}", "offload.queue ");
    changed("{}", "{\"plugin_dir\": \"/x\", \"watch\": true, \"limits\": {\"versions\": 3}}", "");
    struct config *a = good("{}");
    struct config *b = good("{\"listen\": [\":1\"], \"workers\": 2, \"user\": \"x\"}");
    is(config_restart_keys_changed(a, b, NULL, 0), 3);
    config_free(a);
    config_free(b);
}

/* -- addresses ----------------------------------------------------------------------------- */

static struct addr address(const char *text)
{
    struct addr a;
    if (!ok(addr_parse(&a, text, true, &error) == 0))
        fprintf(stderr, "# %s: %s\n", text, error.text);
    return a;
}

TEST(addresses_of_every_form)
{
    char text[ADDR_FORMAT_SIZE];
    struct addr a = address("192.0.2.1:80");
    addr_format((struct sockaddr *)&a.sa, a.len, text);
    is_str(text, "192.0.2.1:80");
    a = address("[2001:DB8::1]:443");
    addr_format((struct sockaddr *)&a.sa, a.len, text);
    is_str(text, "[2001:db8::1]:443");
    a = address("[::ffff:192.0.2.9]:7");
    addr_format((struct sockaddr *)&a.sa, a.len, text);
    is_str(text, "192.0.2.9:7");
    a = address(":8080");
    ok(a.dual && a.sa.ss_family == AF_INET6 && a.any4.ss_family == AF_INET);
    is(ntohs(((struct sockaddr_in *)&a.any4)->sin_port), 8080);
    a = address("unix:/run/graft/x");
    addr_format((struct sockaddr *)&a.sa, a.len, text);
    is_str(text, "unix");
    a = address("fd:12");
    ok(a.kind == ADDR_FD && a.fd == 12);
    a = address("localhost:65535");
    ok(a.kind == ADDR_TCP && a.len > 0);
    a = address("127.0.0.1:0"); /* any free port: the `listening` event says which */
    ok(a.kind == ADDR_TCP && a.len > 0);
    a = address("[fe80::1%lo]:1");
    ok(((struct sockaddr_in6 *)&a.sa)->sin6_scope_id != 0);
}

TEST(what_is_no_address)
{
    static const char *const wrong[] = {
        "",        "8080",          "127.0.0.1", "127.0.0.1:",  ":",
        ":65536",  ":-1",           ":80x",      "::1:80",      "[::1]",
        "[::1]80", "[::1:80",       "[x]:80",    "[]:80",       "127.0.0.256:1",
        "1.2.3:1", "unix:",         "unix:x",    "fd:",         "fd:-1",
        "fd:x",    "fd:9999999999", "a b:80",    "http://x:80", "[::1%nosuchif]:80",
        "*:80"
    };
    struct addr a;
    char text[300];
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        if (!ok(addr_parse(&a, wrong[i], false, &error) == -1))
            fprintf(stderr, "# accepted: %s\n", wrong[i]);
    }
    memset(text, 'x', sizeof(text));
    memcpy(text, "unix:/", 6);
    text[5 + 107] = '\0';
    is(addr_parse(&a, text, false, &error), 0);
    text[5 + 107] = 'x';
    text[5 + 108] = '\0';
    is(addr_parse(&a, text, false, &error), -1);
    text[299] = '\0';
    is(addr_parse(&a, text, false, &error), -1);
}

TEST(port_0_twice_is_two_addresses)
{
    struct config *cfg = from("{\"listen\": [\"127.0.0.1:0\", \"127.0.0.1:0\", \"[::1]:0\", "
                              "\"[::1]:0\", \":0\", \":0\"]}");
    ok(cfg != NULL);
    is(cfg->listen_count, 6);
    config_free(cfg);
    ok(!addr_picks_port(&(struct addr){ .kind = ADDR_FD, .fd = 3 }));
    struct addr a = address("127.0.0.1:80"), name = address("localhost:0");
    ok(!addr_picks_port(&a));
    ok(addr_picks_port(&name));
    bad("{\"listen\": [\"unix:/a\", \"unix:/a\"]}",
        "graft.json:1:24: listen: \"unix:/a\" is named twice: remove one");
}

TEST(equal_addresses)
{
    struct addr a = address("127.0.0.1:80"), b = address("127.0.0.1:80");
    struct addr c = address("[::]:80"), d = address(":80");
    ok(addr_equal(&a, &b));
    ok(!addr_equal(&a, &c));
    ok(!addr_equal(&c, &d));
    a = address("fd:3");
    b = address("fd:4");
    ok(!addr_equal(&a, &b));
    a = address("unix:/a");
    b = address("unix:/ab");
    ok(!addr_equal(&a, &b));
}
