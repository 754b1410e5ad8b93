/* plugin/generation.c: which chain a request gets. Versions made by hand; nothing is loaded. */
#include "plugin/generation.h"
#include "base/clock.h"
#include "http/head.h"
#include "tap.h"

static struct loop loop, *loops[] = { &loop };
static struct generation_fault fault;
static struct version *versions[16];
static unsigned nversions;
static struct canary canaries[CANARIES_MAX];
static unsigned ncanaries, met;
static struct config *config;
static struct generation *generation;

static graft_next nothing(graft_req *req, void *state)
{
    (void)req, (void)state;
    return GRAFT_DONE;
}

/* "GET /a;POST /b;* /c": the routes; middleware when `mw`. */
static struct version *add(const char *name, const char *routes, bool mw)
{
    struct version *v = version_new(loops, 1);
    char text[512], *save = NULL;
    must(v != NULL);
    v->plugin = strdup(name);
    v->desc.name = strdup(name);
    v->desc.version = strdup("1");
    v->desc.summary = strdup("");
    snprintf(v->id, sizeof v->id, "%s.1", name);
    if (mw) {
        v->desc.on_request = nothing;
        v->desc.callbacks |= DESCRIPTOR_ON_REQUEST;
    }
    v->desc.routes = calloc(16, sizeof *v->desc.routes);
    snprintf(text, sizeof text, "%s", routes);
    for (char *at = strtok_r(text, ";", &save); at != NULL; at = strtok_r(NULL, ";", &save)) {
        struct descriptor_route *r = &v->desc.routes[v->desc.route_count++];
        char *space = strchr(at, ' ');
        *space = '\0';
        r->method = strcmp(at, "*") == 0 ? NULL : strdup(at);
        r->pattern = strdup(space + 1);
        r->handler = nothing;
    }
    versions[nversions++] = v;
    return v;
}

static bool build(const char *text)
{
    struct err err;
    config = config_from_text("test", text, strlen(text), &err);
    if (config == NULL)
        fprintf(stderr, "# %s\n", err.text);
    must(config != NULL);
    fault.err.text[0] = '\0';
    generation = generation_new(1, versions, nversions, canaries, ncanaries, config, &fault);
    return generation != NULL;
}

static void done(void)
{
    generation_free(generation);
    generation = NULL;
    config_free(config);
    while (nversions > 0) {
        struct version *v = versions[--nversions];
        version_free(&v);
    }
}

/* What is found for "GET /x": "status name name", the handler's name in brackets. */
static const char *found(const char *method, const char *path)
{
    static char text[512];
    static char room[16384];
    struct arena arena;
    struct head head = { .method = str_of(method), .method_id = head_method_id(str_of(method)) };
    struct target target;
    struct head_verdict verdict;
    struct choice choice;
    arena_init(&arena, room, sizeof room);
    must(target_parse(&arena, str_of(path), &target, &verdict) == 0);
    generation_find(generation, met, &head, &target, &choice);
    size_t len = (size_t)snprintf(text, sizeof text, "%u", choice.status);
    for (unsigned i = 0; i < choice.nlinks; i++)
        len += (size_t)snprintf(text + len, sizeof text - len,
                                choice.links[i].handler != NULL ? " [%s]" : " %s",
                                choice.links[i].version->plugin);
    arena_reset(&arena);
    return text;
}

static bool says(const char *text, const char *part)
{
    bool there = strstr(text, part) != NULL;
    if (!there)
        fprintf(stderr, "# \"%s\" does not say \"%s\"\n", text, part);
    return there;
}

static void canary_of(struct version *stable, struct version *canary)
{
    nversions--; /* it is no version of its own */
    canaries[ncanaries++] = (struct canary){ .version = canary, .stable = stable, .weight = 50 };
}

static const char *met_found(unsigned which, const char *path)
{
    met = which;
    const char *text = found("GET", path);
    met = 0;
    return text;
}

static void note_row(const struct generation_row *row, void *arg)
{
    struct buf *out = arg;
    char line[256];
    int len = snprintf(line, sizeof line, "%s %s %s;", row->method, row->pattern, row->version->id);
    buf_add(out, line, (size_t)len);
}

/* A request meets each plugin in one version, wherever that stands in the chain. */
TEST(canaries)
{
    struct version *a1 = add("a", "GET /a;GET /old", false);
    struct version *mw1 = add("mw", "GET /mw", true);
    struct version *a2 = add("a", "GET /a;GET /new", false);
    canary_of(a1, a2);
    struct version *mw2 = add("mw", "GET /mw", true);
    canary_of(mw1, mw2);
    strcpy(a2->id, "a.2");
    strcpy(mw2->id, "mw.2");
    must(build("{\"middleware\":[\"mw\"]}"));
    is_str(met_found(0, "/a"), "200 mw [a]");
    is_str(met_found(0, "/new"), "404 mw");
    is_str(met_found(1, "/new"), "200 mw [a]");
    is_str(met_found(1, "/old"), "404 mw");
    is_str(met_found(2, "/old"), "200 mw [a]");
    is_str(met_found(3, "/new"), "200 mw [a]");
    struct head head = { .method = STR("GET"), .method_id = HEAD_GET };
    char room[4096];
    struct arena arena;
    struct target target;
    struct head_verdict verdict;
    struct choice choice;
    arena_init(&arena, room, sizeof room);
    must(target_parse(&arena, STR("/a"), &target, &verdict) == 0);
    for (unsigned which = 0; which < 4; which++) {
        generation_find(generation, which, &head, &target, &choice);
        must(choice.nlinks == 2);
        ok(choice.links[0].version == (which & 2 ? mw2 : mw1));
        ok(choice.links[1].version == (which & 1 ? a2 : a1));
    }
    arena_reset(&arena);
    thread_kind = THREAD_CONTROL;
    struct buf rows = { 0 };
    generation_routes(generation, note_row, &rows);
    buf_add(&rows, "", 1);
    is_str(rows.data, "GET /a a.1;GET /old a.1;GET /mw mw.1;GET /a a.2;GET /new a.2;GET /mw mw.2;");
    buf_fini(&rows);
    done();
    version_free(&a2);
    version_free(&mw2);
}

TEST(a_canary_that_conflicts_is_to_blame)
{
    struct version *a1 = add("a", "GET /a", false);
    struct version *b = add("b", "GET /b", false);
    struct version *a2 = add("a", "GET /a;GET /b", false);
    canary_of(a1, a2);
    a1->state = b->state = VERSION_ACTIVE;
    must(!build("{}"));
    ok(says(fault.err.text, "route conflict: GET /b"));
    ok(fault.blame == a2 && fault.other == b);
    done();
    version_free(&a2);
}

TEST(plain_routes)
{
    add("a", "GET /a;POST /p", false);
    add("b", "* /b/:id", false);
    must(build("{}"));
    is_str(found("GET", "/a"), "200 [a]");
    is_str(found("HEAD", "/a"), "200 [a]");
    is_str(found("POST", "/a"), "405");
    is_str(found("PUT", "/b/7"), "200 [b]");
    is_str(found("GET", "/c"), "404");
    done();
}

TEST(global_middleware_surrounds_everything)
{
    add("one", "", true);
    add("two", "", true);
    add("a", "GET /a", false);
    must(build("{\"middleware\":[\"two\",\"one\",\"two\"]}"));
    is_str(found("GET", "/a"), "200 two one [a]");
    is_str(found("POST", "/a"), "405 two one");
    is_str(found("GET", "/nothing"), "404 two one");
    done();
}

TEST(matches_add_up_in_file_order)
{
    add("m1", "", true);
    add("m2", "", true);
    add("g", "", true);
    add("a", "GET /x/a", false);
    must(build("{\"middleware\":[\"g\"],\"routes\":["
               "{\"match\":\"/x/*\",\"middleware\":[\"m2\",\"g\"]},"
               "{\"match\":\"GET /x/a\",\"middleware\":[\"m1\",\"m2\"]}]}"));
    is_str(found("GET", "/x/a"), "200 g m2 m1 [a]");
    is_str(found("HEAD", "/x/a"), "200 g m2 m1 [a]"); /* GET covers HEAD */
    is_str(found("GET", "/x/other"), "404 g m2");
    is_str(found("POST", "/x/a"), "405 g m2");
    is_str(found("GET", "/y"), "404 g");
    done();
}

TEST(no_path_escapes_a_narrow_match)
{
    add("auth", "", true);
    add("files", "GET /*rest", false);
    add("user", "GET /users/:id", false);
    must(build("{\"routes\":[{\"match\":\"/admin/*\",\"middleware\":[\"auth\"]},"
               "{\"match\":\"/users/root\",\"middleware\":[\"auth\"]}]}"));
    is_str(found("GET", "/free"), "200 [files]");
    is_str(found("GET", "/admin/x"), "200 auth [files]");
    is_str(found("GET", "/admin"), "200 auth [files]");
    is_str(found("GET", "//admin/x"), "200 auth [files]");
    is_str(found("GET", "/a/../admin/x"), "200 auth [files]");
    is_str(found("GET", "/%61dmin/x"), "200 auth [files]");
    is_str(found("GET", "/users/7"), "200 [user]");
    is_str(found("GET", "/users/root"), "200 auth [user]");
    is_str(found("POST", "/admin/x"), "405 auth");
    done();
}

TEST(a_match_with_a_method)
{
    add("auth", "", true);
    add("a", "* /a", false);
    add("b", "GET /b", false);
    must(build("{\"routes\":[{\"match\":\"POST /a\",\"middleware\":[\"auth\"]},"
               "{\"match\":\"HEAD /b\",\"middleware\":[\"auth\"]}]}"));
    is_str(found("GET", "/a"), "200 [a]");
    is_str(found("POST", "/a"), "200 auth [a]");
    is_str(found("GET", "/b"), "200 [b]");
    is_str(found("HEAD", "/b"), "200 auth [b]");
    done();
}

TEST(a_match_with_a_plugin)
{
    add("auth", "", true);
    add("a", "GET /x/a", false);
    add("b", "GET /x/b", false);
    must(build("{\"routes\":[{\"match\":\"/x/*\",\"middleware\":[\"auth\"],\"plugin\":\"b\"}]}"));
    is_str(found("GET", "/x/a"), "200 [a]");
    is_str(found("GET", "/x/b"), "200 auth [b]");
    is_str(found("GET", "/x/c"), "404"); /* no handler of b's serves it */
    done();
}

TEST(a_mount_goes_before)
{
    add("a", "GET /a", false);
    add("auth", "", true);
    must(build("{\"plugins\":{\"a\":{\"mount\":\"/m\"}},"
               "\"routes\":[{\"match\":\"/m/*\",\"middleware\":[\"auth\"]}]}"));
    is_str(found("GET", "/a"), "404");
    is_str(found("GET", "/m/a"), "200 auth [a]");
    done();
}

TEST(what_cannot_be_says_where)
{
    add("a", "GET /a", false);
    struct version *b = add("b", "GET /a", false);
    ok(!build("{}"));
    ok(says(fault.err.text, "route conflict"));
    ok(says(fault.err.text, "plugin \"a\""));
    ok(fault.blame == b && fault.other != NULL);
    config_free(config);
    ok(!build("{\"plugins\":{\"b\":{\"mount\":\"/b\"}},\"middleware\":[\"nobody\"]}"));
    ok(says(fault.err.text, "middleware[0] names \"nobody\""));
    config_free(config);
    ok(!build("{\"plugins\":{\"b\":{\"mount\":\"/b\"}},"
              "\"routes\":[{\"match\":\"/x\",\"middleware\":[\"a\"]}]}"));
    ok(says(fault.err.text, "routes[0].middleware[0] names \"a\", which is no middleware"));
    done();
}

TEST(a_new_version_is_blamed_rather_than_one_that_serves)
{
    struct version *a = add("a", "GET /x", false);
    struct version *b = add("b", "GET /x", false);
    b->state = VERSION_ACTIVE;
    ok(!build("{}"));
    ok(fault.blame == a && fault.other == b);
    done();
}

/* ---- Rows and warnings ----------------------------------------------------------------------- */

static char rows[2048];

static void row(const struct generation_row *r, void *arg)
{
    (void)arg;
    size_t len = strlen(rows);
    len += (size_t)snprintf(rows + len, sizeof rows - len, "%s %s", r->method, r->pattern);
    for (unsigned i = 0; i < r->nchain; i++)
        len += (size_t)snprintf(rows + len, sizeof rows - len, " %s", r->chain[i]);
    snprintf(rows + len, sizeof rows - len, ";");
}

static void warned(const char *text, void *arg)
{
    (void)arg;
    strcat(rows, text);
}

TEST(rows_show_the_part_that_is_covered)
{
    add("auth", "", true);
    add("files", "GET /*rest", false);
    add("any", "* /any", false);
    must(build("{\"routes\":[{\"match\":\"/admin/*\",\"middleware\":[\"auth\"]},"
               "{\"match\":\"POST /any\",\"middleware\":[\"auth\"]},"
               "{\"match\":\"POST /nowhere\",\"middleware\":[\"auth\"]}]}"));
    thread_kind = THREAD_CONTROL;
    generation_routes(generation, row, NULL);
    is_str(rows, "* /any any;POST /any auth any;GET /*rest files;GET /admin/* auth files;");
    rows[0] = '\0';
    generation_warnings(generation, warned, NULL);
    is_str(rows, "routes[2].match \"POST /nowhere\" covers no route");
    done();
}

TEST(finding_is_quick)
{
    enum { N = 200000 };
    char room[4096];
    struct arena arena;
    struct head head = { .method = STR("GET"), .method_id = head_method_id(STR("GET")) };
    struct target target;
    struct head_verdict verdict;
    struct choice choice;
    add("hello", "GET /hello;GET /hello/:name", false);
    add("log", "", true);
    must(build("{\"middleware\":[\"log\"]}"));
    arena_init(&arena, room, sizeof room);
    must(target_parse(&arena, STR("/hello"), &target, &verdict) == 0);
    uint64_t begin = clock_us();
    for (int i = 0; i < N; i++)
        generation_find(generation, met, &head, &target, &choice);
    uint64_t ns = (clock_us() - begin) * 1000 / N;
    fprintf(stderr, "# %llu ns to find /hello\n", (unsigned long long)ns);
    is(choice.nlinks, 2);
    ok(ns < 20000); /* a sanitizer on a busy machine; it is some tens */
    done();
}
