/* server/ctl: the client's parser, tables, durations, and answers as people see them. */
#include "tap.h"

#include "ctl/client.h"
#include "ctl/show.h"
#include "ctl/table.h"

static int parse(const char *text, int *status, struct buf *body, struct err *err)
{
    struct buf answer = { 0 };
    must(buf_puts(&answer, text) == 0);
    int rc = client_parse(&answer, status, body, err);
    buf_fini(&answer);
    return rc;
}

TEST(reads_an_answer)
{
    struct buf body = { 0 };
    struct err err;
    int status;
    is(parse("HTTP/1.1 409 Conflict\r\nA: b\r\nContent-Length: 3\r\n\r\n{}\n", &status, &body,
             &err),
       0);
    is(status, 409);
    is_str(body.data, "{}\n");
    buf_fini(&body);
}

TEST(refuses_cut_and_foreign_answers)
{
    static const char *const bad[] = {
        "",
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n{}",
        "HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct buf body = { 0 };
        struct err err;
        int status;
        is(parse(bad[i], &status, &body, &err), -1);
        buf_fini(&body);
    }
}

static char *printed(void (*print)(FILE *out))
{
    static char text[8192];
    FILE *out = fmemopen(text, sizeof text, "w");
    must(out != NULL);
    print(out);
    fclose(out);
    return text;
}

static void print_table(FILE *out)
{
    struct table t;
    table_init(&t, (const char *const[]){ "NAME", ">N", "LAST", NULL });
    table_add(&t, STR("\xc3\xa4\xc3\xb6"));
    table_addf(&t, "%d", 1234);
    table_add(&t, (struct str){ 0 });
    table_add(&t, STR("a\x1b[2Jb\n"));
    table_addf(&t, "%d", 5);
    table_add(&t, STR("x"));
    table_print(&t, out);
    table_fini(&t);
}

TEST(tables_are_aligned_and_safe)
{
    is_str(printed(print_table), "NAME        N  LAST\n"
                                 "\xc3\xa4\xc3\xb6       1234  -\n"
                                 "a?[2Jb?     5  x\n");
}

TEST(durations_are_short)
{
    static const struct {
        uint64_t us;
        const char *want;
    } cases[] = {
        { 0, "0 us" },
        { 999, "999 us" },
        { 1500, "1.5 ms" },
        { 2500000, "2.5 s" },
        { 600000000, "10 min" },
        { 7200000000, "2 h" },
        { 864000000000, "10 d" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char got[32];
        show_duration(got, cases[i].us);
        is_str(got, cases[i].want);
    }
}

static struct json *answer;
static show_fn *show;

static void print_answer(FILE *out)
{
    show(json_root(answer), out);
}

static char *shown(show_fn *fn, const char *json)
{
    struct err err;
    answer = json_parse("test", json, strlen(json), &err);
    must(answer != NULL);
    show = fn;
    char *text = printed(print_answer);
    json_free(answer);
    return text;
}

TEST(shows_a_failed_reload)
{
    is_str(shown(show_reload,
                 "{\"ok\":false,\"generation\":3,\"changed\":[],"
                 "\"unchanged\":[{\"plugin\":\"echo\",\"id\":\"ab.1\",\"error\":null}],"
                 "\"failed\":[{\"plugin\":\"hello\",\"id\":null,\"error\":\"init: no\"}],"
                 "\"duration_us\":1500}"),
           "unchanged  echo@ab.1\n"
           "failed     hello: init: no\n"
           "generation 3, after 1.5 ms\n");
}

TEST(shows_what_holds_a_version)
{
    char *text = shown(show_versions,
                       "{\"versions\":[{\"plugin\":\"slow\",\"version\":\"1\",\"id\":\"ab.1\","
                       "\"state\":\"stuck\",\"oldest\":{\"age_ms\":1500,\"route\":\"/slow\","
                       "\"waits_for\":\"timer\"},\"reason\":\"a thread\"}]}");
    ok(strstr(text, "1.5 s /slow, waits for timer\n") != NULL);
    ok(strstr(text, "slow@ab.1: a thread\n") != NULL);
}

TEST(shows_odd_answers_without_harm)
{
    show_fn *const all[] = { show_status, show_versions, show_reload, show_routes, show_done };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        ok(shown(all[i], "{}")[0] != '\0');
        shown(all[i], "{\"versions\":[1,null,{\"plugin\":7}],\"routes\":[{\"chain\":{}}],"
                      "\"failed\":\"x\",\"workers\":[[]],\"connections\":5,\"generation\":-1}");
    }
}
