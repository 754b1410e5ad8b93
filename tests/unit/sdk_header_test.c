/*
 * graft.h: the layout that is ABI, what GRAFT_PLUGIN() defines, and that each wrapper reaches its
 * own member of the table with its arguments, given a table of the test's own.
 */
#include <graft/graft.h>

#include "tap.h"

static graft_next hello(graft_req *req, void *state)
{
    (void)state;
    return graft_text(req, 200, "hello\n");
}

GRAFT_PLUGIN(
    .name    = "header-test",
    .version = "1.0.0",
    .routes  = (const graft_route[]){ { "GET", "/hello", hello, 0 }, { 0 } },
)

TEST(numbers_are_abi)
{
    is(GRAFT_ABI, 1);
    is(GRAFT_NEXT, 0);
    is(GRAFT_DONE, 1);
    is(GRAFT_LATER, 2);
    is(GRAFT_ERROR, 3);
    is(GRAFT_STREAM, 1);
    is(GRAFT_SERIAL, 1);
    is(GRAFT_NEED_BODY, 2);
    is(GRAFT_DEBUG, 0);
    is(GRAFT_INFO, 1);
    is(GRAFT_WARN, 2);
    is(GRAFT_ERR, 3);
}

TEST(macro_fills_the_sizes)
{
    is(graft_plugin_v1.size, sizeof(graft_plugin));
    is(graft_plugin_v1.needs, GRAFT_MINOR);
    is(graft_plugin_v1.route_size, sizeof(graft_route));
    is(graft_plugin_v1.flags, 0);
    is_str(graft_plugin_v1.name, "header-test");
    ok(graft_plugin_v1.routes[0].handler == hello);
    ok(!graft_plugin_v1.init && !graft_plugin_v1.on_finish);
}

#define OFFSET(member) offsetof(graft_plugin, member)
TEST(descriptor_order_is_abi)
{
    static const size_t at[] = {
        OFFSET(size),        OFFSET(needs),      OFFSET(route_size),  OFFSET(flags),
        OFFSET(name),        OFFSET(version),    OFFSET(summary),     OFFSET(scratch_size),
        OFFSET(init),        OFFSET(ready),      OFFSET(worker_init), OFFSET(start),
        OFFSET(cool),        OFFSET(worker_fini), OFFSET(fini),       OFFSET(routes),
        OFFSET(on_request),  OFFSET(on_response), OFFSET(on_finish),  OFFSET(state_schema),
        OFFSET(export_state), OFFSET(import_state), OFFSET(health),
    };
    is(at[0], 0);
    for (size_t i = 1; i < sizeof at / sizeof at[0]; i++)
        is(at[i], at[i - 1] + (i <= 4 ? sizeof(uint32_t) : sizeof(void *)));
    is(sizeof(graft_plugin), at[22] + sizeof(void *));
}
#undef OFFSET

/* Every member of the table, in the contract's order. */
#define MEMBERS(X)                                                                                 \
    X(method) X(path) X(target) X(param) X(query) X(header) X(header_count) X(header_at) X(body)   \
    X(peer) X(request_id) X(route_pattern) X(is_tls)                                               \
    X(status) X(set_header) X(add_header) X(remove_header) X(write) X(write_static) X(vprintf)     \
    X(send_file) X(flush) X(text) X(json) X(error) X(response_status) X(response_header)           \
    X(response_body) X(reset_response) X(streaming) X(response_bytes) X(elapsed_us)                \
    X(done) X(resume) X(abort) X(gone) X(post) X(offload) X(after) X(deadline) X(on_abort)         \
    X(on_body) X(body_pause) X(body_resume) X(on_writable) X(pending) X(alloc) X(scratch)          \
    X(config) X(config_str) X(config_int) X(config_bool) X(vfail) X(vfail_req) X(vlog) X(self_of)  \
    X(worker) X(workers) X(loop) X(cooling) X(every) X(counter) X(add)  \
    X(shared) X(shared_old) X(buf_add)

TEST(table_order_is_abi)
{
#define OFFSET(member) offsetof(graft_host, member),
    static const size_t at[] = { MEMBERS(OFFSET) };
    is(offsetof(graft_host, size), 0);
    is(at[0], 8);
    for (size_t i = 1; i < sizeof at / sizeof at[0]; i++)
        is(at[i], at[i - 1] + sizeof(void (*)(void)));
    is(sizeof(graft_host), at[sizeof at / sizeof at[0] - 1] + sizeof(void (*)(void)));
}

TEST(has_asks_the_table_how_far_it_reaches)
{
    graft_host host = { .size = sizeof host };
    ok(GRAFT_HAS(&host, graft_host, add));
    host.size = offsetof(graft_host, add);
    ok(!GRAFT_HAS(&host, graft_host, add));
    ok(GRAFT_HAS(&host, graft_host, counter));
    host.size = offsetof(graft_host, add) + 1;
    ok(!GRAFT_HAS(&host, graft_host, add));
}

/* ---- A table of our own: each function notes its name and checks what it was handed ---- */

static const char *called;
static char text[128];
static int x; /* something to point to */

#define CALLED(name, right)                                                                        \
    do {                                                                                           \
        called = #name;                                                                            \
        ok(right);                                                                                 \
    } while (0)

#define REQ_STR(name)                                                                              \
    static graft_str fake_##name(const graft_req *req)                                             \
    {                                                                                              \
        CALLED(name, req);                                                                         \
        return (graft_str){ #name, 3 };                                                            \
    }
REQ_STR(method)
REQ_STR(path)
REQ_STR(target)
REQ_STR(peer)
REQ_STR(request_id)
REQ_STR(route_pattern)

#define REQ_NAMED(name, constness)                                                                 \
    static graft_str fake_##name(constness graft_req *req, const char *key)                        \
    {                                                                                              \
        CALLED(name, req && strcmp(key, "key") == 0);                                              \
        return (graft_str){ #name, 3 };                                                            \
    }
REQ_NAMED(param, const)
REQ_NAMED(query, )
REQ_NAMED(header, const)
REQ_NAMED(response_header, const)

#define REQ_VALUE(type, name, constness)                                                           \
    static type fake_##name(constness graft_req *req)                                              \
    {                                                                                              \
        CALLED(name, req);                                                                         \
        return (type)7;                                                                            \
    }
REQ_VALUE(size_t, header_count, const)
REQ_VALUE(bool, is_tls, const)
REQ_VALUE(int, flush, )
REQ_VALUE(int, response_status, const)
REQ_VALUE(int, reset_response, )
REQ_VALUE(bool, streaming, const)
REQ_VALUE(uint64_t, response_bytes, const)
REQ_VALUE(uint64_t, elapsed_us, const)
REQ_VALUE(int, done, )
REQ_VALUE(bool, gone, const)
REQ_VALUE(size_t, pending, const)

#define REQ_ACT(name)                                                                              \
    static void fake_##name(graft_req *req)                                                        \
    {                                                                                              \
        CALLED(name, req);                                                                         \
    }
REQ_ACT(abort)
REQ_ACT(body_pause)
REQ_ACT(body_resume)

static graft_str fake_body(graft_req *req)
{
    CALLED(body, req);
    return (graft_str){ "", 0 };
}

static graft_str fake_response_body(graft_req *req)
{
    CALLED(response_body, req);
    return (graft_str){ NULL, 0 };
}

static bool fake_header_at(const graft_req *req, size_t i, graft_str *name, graft_str *value)
{
    CALLED(header_at, req && i == 3);
    *name = *value = (graft_str){ "n", 1 };
    return true;
}

static int fake_status(graft_req *req, int code)
{
    CALLED(status, req && code == 404);
    return 1;
}

#define REQ_FIELD(name)                                                                            \
    static int fake_##name(graft_req *req, const char *key, const char *value)                     \
    {                                                                                              \
        CALLED(name, req && strcmp(key, "key") == 0 && strcmp(value, "value") == 0);               \
        return 1;                                                                                  \
    }
REQ_FIELD(set_header)
REQ_FIELD(add_header)

static int fake_remove_header(graft_req *req, const char *key)
{
    CALLED(remove_header, req && strcmp(key, "key") == 0);
    return 1;
}

#define REQ_WRITE(name)                                                                            \
    static int fake_##name(graft_req *req, const void *data, size_t len)                           \
    {                                                                                              \
        CALLED(name, req && data == &x && len == 5);                                               \
        return 1;                                                                                  \
    }
REQ_WRITE(write)
REQ_WRITE(write_static)

static int fake_vprintf(graft_req *req, const char *fmt, va_list args)
{
    CALLED(vprintf, req);
    return vsnprintf(text, sizeof text, fmt, args);
}

static int fake_send_file(graft_req *req, int fd, int64_t offset, uint64_t len)
{
    CALLED(send_file, req && fd == 5 && offset == 1LL << 40 && len == 1ULL << 50);
    return 1;
}

#define REQ_ANSWER(name)                                                                           \
    static graft_next fake_##name(graft_req *req, int code, const char *detail)                    \
    {                                                                                              \
        CALLED(name, req && code == 404 && strcmp(detail, "detail") == 0);                         \
        return GRAFT_DONE;                                                                         \
    }
REQ_ANSWER(text)
REQ_ANSWER(error)

static graft_next fake_json(graft_req *req, int code, const char *json, size_t len)
{
    CALLED(json, req && code == 200 && strcmp(json, "{}") == 0 && len == 2);
    return GRAFT_DONE;
}

static int fake_resume(graft_req *req, graft_next how)
{
    CALLED(resume, req && how == GRAFT_ERROR);
    return 1;
}

static void fn(graft_req *req, void *arg)
{
    (void)req;
    (void)arg;
}

static void work(void *arg)
{
    (void)arg;
}

static void body_fn(graft_req *req, graft_str chunk, bool last, void *arg)
{
    (void)req;
    (void)chunk;
    (void)last;
    (void)arg;
}

static int fake_post(graft_req *req, void (*f)(graft_req *, void *), void *arg)
{
    CALLED(post, req && f == fn && arg == &x);
    return 1;
}

static int fake_offload(graft_req *req, void (*w)(void *), void (*then)(graft_req *, void *),
                        void *arg)
{
    CALLED(offload, req && w == work && then == fn && arg == &x);
    return 1;
}

static int fake_after(graft_req *req, unsigned ms, void (*f)(graft_req *, void *), void *arg)
{
    CALLED(after, req && ms == 9 && f == fn && arg == &x);
    return 1;
}

static int fake_deadline(graft_req *req, unsigned ms)
{
    CALLED(deadline, req && ms == 9);
    return 1;
}

static void fake_on_abort(graft_req *req, void (*f)(graft_req *, void *), void *arg)
{
    CALLED(on_abort, req && f == fn && arg == &x);
}

static void fake_on_body(graft_req *req, void (*f)(graft_req *, graft_str, bool, void *), void *arg)
{
    CALLED(on_body, req && f == body_fn && arg == &x);
}

static void fake_on_writable(graft_req *req, void (*f)(graft_req *, void *), void *arg)
{
    CALLED(on_writable, req && f == fn && arg == &x);
}

static void *fake_alloc(graft_req *req, size_t size)
{
    CALLED(alloc, req && size == 5);
    return &x;
}

static void *fake_scratch(graft_req *req)
{
    CALLED(scratch, req);
    return &x;
}

static graft_str fake_config(graft_self *self)
{
    CALLED(config, self);
    return (graft_str){ "{}", 2 };
}

static const char *fake_config_str(graft_self *self, const char *key, const char *fallback)
{
    CALLED(config_str, self && strcmp(key, "key") == 0);
    return fallback;
}

static int64_t fake_config_int(graft_self *self, const char *key, int64_t fallback)
{
    CALLED(config_int, self && strcmp(key, "key") == 0);
    return fallback;
}

static bool fake_config_bool(graft_self *self, const char *key, bool fallback)
{
    CALLED(config_bool, self && strcmp(key, "key") == 0);
    return fallback;
}

static int fake_vfail(graft_self *self, const char *fmt, va_list args)
{
    CALLED(vfail, self);
    vsnprintf(text, sizeof text, fmt, args);
    return -1;
}

static graft_next fake_vfail_req(graft_req *req, const char *fmt, va_list args)
{
    CALLED(vfail_req, req);
    vsnprintf(text, sizeof text, fmt, args);
    return GRAFT_ERROR;
}

static void fake_vlog(graft_self *self, int level, const char *fmt, va_list args)
{
    CALLED(vlog, self && level == GRAFT_WARN);
    vsnprintf(text, sizeof text, fmt, args);
}

static graft_self *fake_self_of(graft_req *req)
{
    CALLED(self_of, req);
    return NULL;
}

#define SELF_VALUE(type, name, value)                                                              \
    static type fake_##name(graft_self *self)                                                      \
    {                                                                                              \
        CALLED(name, self);                                                                        \
        return (value);                                                                            \
    }
SELF_VALUE(unsigned, worker, 3)
SELF_VALUE(unsigned, workers, 4)
SELF_VALUE(struct event_base *, loop, NULL)
SELF_VALUE(bool, cooling, true)

static int fake_every(graft_self *self, unsigned ms, void (*f)(void *), void *state)
{
    CALLED(every, self && ms == 9 && f == work && state == &x);
    return 1;
}

static graft_metric *fake_counter(graft_self *self, const char *name, const char *help)
{
    CALLED(counter, self && strcmp(name, "key") == 0 && strcmp(help, "help") == 0);
    return NULL;
}

static void fake_add(graft_metric *metric, uint64_t n)
{
    CALLED(add, metric && n == 1ULL << 60);
}

#define FAKE(member) .member = fake_##member,
static void *fake_shared(graft_self *self, const char *name, size_t size, uint32_t schema,
                         bool *fresh)
{
    CALLED(shared, self && strcmp(name, "key") == 0 && size == 5 && schema == 9 && fresh);
    return &x;
}

static const void *fake_shared_old(graft_self *self, const char *name, size_t *size,
                                   uint32_t *schema)
{
    CALLED(shared_old, self && strcmp(name, "key") == 0 && size && schema);
    return &x;
}

static int fake_buf_add(graft_buf *buf, const void *data, size_t len)
{
    CALLED(buf_add, buf && data == &x && len == 5);
    return 1;
}

static const graft_host host = { .size = sizeof(graft_host), MEMBERS(FAKE) };
static graft_req req = { &host };
static graft_self self = { &host };
static graft_metric metric = { &host };

#define REACHES(member, expression)                                                                \
    do {                                                                                           \
        called = "nothing";                                                                        \
        ok(expression);                                                                            \
        is_str(called, #member);                                                                   \
    } while (0)
#define ACTS(member, statement) REACHES(member, (statement, true))

TEST(wrappers_of_the_request)
{
    graft_str name, value;
    REACHES(method, graft_method(&req).len == 3);
    REACHES(path, graft_path(&req).len == 3);
    REACHES(target, graft_target(&req).len == 3);
    REACHES(param, graft_param(&req, "key").len == 3);
    REACHES(query, graft_query(&req, "key").len == 3);
    REACHES(header, graft_header(&req, "key").len == 3);
    REACHES(header_count, graft_header_count(&req) == 7);
    REACHES(header_at, graft_header_at(&req, 3, &name, &value) && name.len == 1);
    REACHES(body, graft_body(&req).ptr != NULL);
    REACHES(peer, graft_peer(&req).len == 3);
    REACHES(request_id, graft_request_id(&req).len == 3);
    REACHES(route_pattern, graft_route_pattern(&req).len == 3);
    REACHES(is_tls, graft_is_tls(&req));
}

TEST(wrappers_of_the_response)
{
    REACHES(status, graft_status(&req, 404) == 1);
    REACHES(set_header, graft_set_header(&req, "key", "value") == 1);
    REACHES(add_header, graft_add_header(&req, "key", "value") == 1);
    REACHES(remove_header, graft_remove_header(&req, "key") == 1);
    REACHES(write, graft_write(&req, &x, 5) == 1);
    REACHES(write_static, graft_write_static(&req, &x, 5) == 1);
    REACHES(vprintf, graft_printf(&req, "%d %s", 1, "two") == 5);
    is_str(text, "1 two");
    REACHES(send_file, graft_send_file(&req, 5, 1LL << 40, 1ULL << 50) == 1);
    REACHES(flush, graft_flush(&req) == 7);
    REACHES(text, graft_text(&req, 404, "detail") == GRAFT_DONE);
    REACHES(json, graft_json(&req, 200, "{}", 2) == GRAFT_DONE);
    REACHES(error, graft_error(&req, 404, "detail") == GRAFT_DONE);
    REACHES(response_status, graft_response_status(&req) == 7);
    REACHES(response_header, graft_response_header(&req, "key").len == 3);
    REACHES(response_body, graft_response_body(&req).ptr == NULL);
    REACHES(reset_response, graft_reset_response(&req) == 7);
    REACHES(streaming, graft_streaming(&req));
    REACHES(response_bytes, graft_response_bytes(&req) == 7);
    REACHES(elapsed_us, graft_elapsed_us(&req) == 7);
}

TEST(wrappers_of_work_that_takes_time)
{
    REACHES(done, graft_done(&req) == 7);
    REACHES(resume, graft_continue(&req, GRAFT_ERROR) == 1);
    ACTS(abort, graft_abort(&req));
    REACHES(gone, graft_gone(&req));
    REACHES(post, graft_post(&req, fn, &x) == 1);
    REACHES(offload, graft_offload(&req, work, fn, &x) == 1);
    REACHES(after, graft_after(&req, 9, fn, &x) == 1);
    REACHES(deadline, graft_deadline(&req, 9) == 1);
    ACTS(on_abort, graft_on_abort(&req, fn, &x));
    ACTS(on_body, graft_on_body(&req, body_fn, &x));
    ACTS(body_pause, graft_body_pause(&req));
    ACTS(body_resume, graft_body_resume(&req));
    ACTS(on_writable, graft_on_writable(&req, fn, &x));
    REACHES(pending, graft_pending(&req) == 7);
    REACHES(alloc, graft_alloc(&req, 5) == &x);
    REACHES(scratch, graft_scratch(&req) == &x);
}

TEST(wrappers_of_the_plugin_itself)
{
    REACHES(config, graft_config(&self).len == 2);
    REACHES(config_str, strcmp(graft_config_str(&self, "key", "f"), "f") == 0);
    REACHES(config_int, graft_config_int(&self, "key", -5) == -5);
    REACHES(config_bool, graft_config_bool(&self, "key", true));
    REACHES(vfail, graft_fail(&self, "%s %d", "why", 2) == -1);
    is_str(text, "why 2");
    REACHES(vfail_req, graft_fail_req(&req, "%s %d", "why", 3) == GRAFT_ERROR);
    is_str(text, "why 3");
    ACTS(vlog, graft_log(&self, GRAFT_WARN, "%s %d", "line", 4));
    is_str(text, "line 4");
    REACHES(self_of, graft_self_of(&req) == NULL);
    REACHES(worker, graft_worker(&self) == 3);
    REACHES(workers, graft_workers(&self) == 4);
    REACHES(loop, graft_loop(&self) == NULL);
    REACHES(cooling, graft_cooling(&self));
    REACHES(every, graft_every(&self, 9, work, &x) == 1);
    REACHES(counter, graft_counter(&self, "key", "help") == NULL);
    ACTS(add, graft_add(&metric, 1ULL << 60));
    static graft_buf buf = { &host };
    bool fresh;
    size_t size;
    uint32_t schema;
    REACHES(shared, graft_shared(&self, "key", 5, 9, &fresh) == &x);
    REACHES(shared_old, graft_shared_old(&self, "key", &size, &schema) == &x);
    REACHES(buf_add, graft_buf_add(&buf, &x, 5) == 1);
    REACHES(add, (called = "add", graft_add(NULL, 1), true)); /* NULL is ignored */
}
