/*
 * graft/harness.h: unit tests of plugins, in process, without a server and without sockets.
 *
 *     #include <graft/harness.h>
 *
 *     int main(void)
 *     {
 *         graft_test_start(&graft_plugin_v1, "{\"greeting\": \"hi\"}");
 *         graft_test_req *r = graft_test_request("GET", "/hello");
 *         GRAFT_IS(graft_test_status(r), 200);
 *         GRAFT_IS_TEXT(graft_test_body(r), "hi, world\n");
 *         return graft_test_end();
 *     }
 *
 *     cc $(pkg-config --cflags graft-harness) -o hello-test hello-test.c hello.c
 *        $(pkg-config --libs graft-harness)
 *
 * What answers is the server's own code: guard, parser, router, chain, body, response, hand-over,
 * built with the checks that find calls on a wrong thread. Four things are the harness's: the
 * connections are memory, the clock moves only when the test moves it, the pool's jobs run one
 * after the other in the order in which they were given, and so do workers, loader and pool, all of
 * them on the thread of main. So each run of a test is the same as the last.
 *
 * After every call here that can make something happen all that can happen has happened: what still
 * waits, waits for the clock, for the client, for a thread that the plugin itself has started, or
 * for an answer that the plugin owes.
 *
 * What breaks the contract fails the test with a sentence that names plugin and culprit: an answer
 * that was given twice, or never; a handle that is used when its request is over; a call on the
 * wrong thread; a status or a Content-Length that cannot be; a thread that outlives fini. A crash
 * (also "free(): double free") ends the program, and the sentence names the callback that ran.
 *
 * Threads: all calls are made on the thread of main, and none of them from inside a plugin's
 * callback. Lifetime: what a call returns belongs to the harness and lives until
 * graft_test_forget() of its request, or graft_test_end(). Errors: what cannot be for want of
 * memory ends the program. Times are milliseconds of the harness's clock, which begins at
 * 2026-01-01T00:00:00Z.
 *
 * What it is not: no TLS, no canaries, no preflight (graftctl check does that), and what a library
 * does on graft_loop() happens in real time.
 *
 * C11, C++17.
 */
#ifndef GRAFT_HARNESS_H
#define GRAFT_HARNESS_H

#include <graft/graft.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What GRAFT_PLUGIN() of a plugin that is linked into the test has defined. */
extern const graft_plugin graft_plugin_v1;

/* One client and its one request, on a connection of its own; its peer is 192.0.2.1:40001. */
typedef struct graft_test_req graft_test_req;

/* ---- The server ---------------------------------------------------------------------------- */

/*
 * The settings of the server, as graft.json has them; without this, or NULL: none. "workers" is 1
 * when nothing is said. What is about sockets, files and processes is read and has no effect.
 * "middleware": when nothing is said all plugins that are middleware, in the order of their start.
 * Before the first plugin is started. A fault in it ends the program.
 */
void graft_test_settings(const char *json);

/*
 * Starts a plugin that is linked into the test: init, ready, worker_init, start. `config` is its
 * "config" object as JSON; NULL: what the settings say, or {}. If a plugin of that name serves it
 * is replaced as in the server: with export_state and import_state where both have them, requests
 * in progress end on the old version, and its cool, worker_fini and fini follow. The descriptor may
 * be the test's own, for a second version or a handler behind a middleware: see GRAFT_TEST_PLUGIN.
 * 0; -1: it was refused, all was undone, graft_test_why() and a line of comment say what the
 * server's log would.
 */
int graft_test_start(const graft_plugin *plugin, const char *config);

/* The same with a plugin file (dlopen). The path is used as it is; of one file only one version can
 * be loaded at a time, so a second version is a second file. */
int graft_test_load(const char *path, const char *config);

/* Takes a plugin out: no new request meets it, requests in progress end, then fini. 0; -1: no
 * plugin of that name serves, or another needs it (a route of the settings). */
int graft_test_stop(const char *name);

/* Cuts what still runs on versions that were replaced or stopped, as timeouts_ms.retire does when
 * it has passed. */
void graft_test_retire(void);

/* Why the last call returned -1; "" when none has. */
const char *graft_test_why(void);

/* Asks the plugin's health callback, on the pool. 0 it is well (also when it has none), -1 and
 * graft_test_why(). */
int graft_test_health(const char *name);

/* The value of a counter: "graft_plugin_<plugin>_<name>", as /metrics shows it; 0: there is none.
 */
uint64_t graft_test_counter(const char *full_name);

/* The worker that takes the next connections, 0 at first. */
void graft_test_worker(unsigned number);

/* A descriptor of the test's own:
 *     static const graft_route app_routes[] = { { "GET", "/app", app, 0 }, { 0 } };
 *     GRAFT_TEST_PLUGIN(app_plugin, .name = "app", .version = "1", .routes = app_routes)
 *     graft_test_start(&app_plugin, NULL); */
#define GRAFT_TEST_PLUGIN(id, ...)                                                                 \
    GRAFT_QUIET_                                                                                   \
    static const graft_plugin id = { .size = sizeof(graft_plugin),                                 \
                                     .needs = GRAFT_NEEDS,                                         \
                                     .route_size = sizeof(graft_route),                            \
                                     __VA_ARGS__ };                                                \
    GRAFT_LOUD_

/* ---- Requests ------------------------------------------------------------------------------ */

/*
 * A request without a body: graft_test_request("GET", "/hello", "Accept: text/plain", ...). Header
 * lines follow, each "Name: value"; "Host: test" is added when none is given. HTTP/1.1. Never NULL.
 */
#define graft_test_request(...) graft_test_request_(__VA_ARGS__, (const char *)NULL)

/* With a body that comes with the head: graft_test_request_body("POST", "/echo", "abc", 3, ...);
 * Content-Length is added. */
#define graft_test_request_body(...) graft_test_request_body_(__VA_ARGS__, (const char *)NULL)

/* The head only. The body follows by graft_test_send, in pieces and at times of the test's choice:
 * chunked, or as the given "Content-Length: ..." says. */
#define graft_test_open(...) graft_test_open_(__VA_ARGS__, (const char *)NULL)

graft_test_req *graft_test_request_(const char *method, const char *target, ...)
    __attribute__((__sentinel__));
graft_test_req *graft_test_request_body_(const char *method, const char *target, const void *body,
                                         size_t len, ...) __attribute__((__sentinel__));
graft_test_req *graft_test_open_(const char *method, const char *target, ...)
    __attribute__((__sentinel__));

/* A piece of the body; len 0 does nothing. */
void graft_test_send(graft_test_req *req, const void *data, size_t len);
/* The end of a chunked body; nothing when it has a Content-Length. */
void graft_test_send_end(graft_test_req *req);

/* These bytes on a new connection, whatever they are. */
graft_test_req *graft_test_raw(const void *data, size_t len);

/* The client leaves (FIN): graft_gone, graft_on_abort. Harmless when the answer is complete. */
void graft_test_hangup(graft_test_req *req);

/* How many bytes of its answer, head included, each client of the requests that follow takes by
 * itself; SIZE_MAX, as at first: all. What it does not take waits in the server: then
 * graft_pending() tells of it, and writing answers 1 above limits.send_bytes. */
void graft_test_window(size_t bytes);
/* This client takes so many more; SIZE_MAX: all from now on. */
void graft_test_take(graft_test_req *req, size_t bytes);

/* The client leaves if it is there still, and what was returned of it is freed. */
void graft_test_forget(graft_test_req *req);

/* ---- Answers: what has reached the client ---------------------------------------------------- */

/* The status; 0: no head has come. */
int graft_test_status(graft_test_req *req);
/* The value of a field of the answer's head, NUL-terminated, in the first field of that name; NULL:
 * there is none. */
const char *graft_test_header(graft_test_req *req, const char *name);
/* The body so far, without the framing; a NUL stands behind it. */
graft_str graft_test_body(graft_test_req *req);
/* The answer has come whole, as its framing says. */
bool graft_test_complete(graft_test_req *req);
/* The connection ended before the answer was whole. */
bool graft_test_cut(graft_test_req *req);
/* The server has closed the connection. */
bool graft_test_closed(graft_test_req *req);
/* Interim answers "100 Continue" that came before the answer. */
unsigned graft_test_continued(graft_test_req *req);
/* Of a chunked answer: how many chunks have come, and each of them; absent past the last. */
unsigned graft_test_pieces(graft_test_req *req);
graft_str graft_test_piece(graft_test_req *req, unsigned i);
/* All that came, as it came. */
graft_str graft_test_received(graft_test_req *req);

/* Requests that have not ended: the client waits, or the plugin owes something. */
unsigned graft_test_unfinished(void);

/* ---- Time and threads ------------------------------------------------------------------------ */

/* Lets so much time pass: graft_after and graft_every at their very time, timeouts and deadlines
 * within 50 ms behind it, as in the server. */
void graft_test_advance(unsigned ms);
/* Milliseconds since the beginning. */
uint64_t graft_test_now(void);

/* true: what is given to the pool waits there (as many as "offload" of the settings says). false:
 * all runs. */
void graft_test_hold_pool(bool hold);
/* Runs that many of what waits, in order; returns how many there were. */
unsigned graft_test_run_pool(unsigned n);

/* For plugins with threads of their own: waits, in real time, until the answer is complete or cut,
 * `ms` at most. Whether it is. */
bool graft_test_wait(graft_test_req *req, unsigned ms);

/* ---- The log --------------------------------------------------------------------------------- */

/* Whether a line of the log so far contains the text: {"ts":..., "level":..., "event":..., "msg":
 * ...} with the fields that the server's have. Level as in the settings ("log": {"level": ...}). */
bool graft_test_logged(const char *text);
/* How many do. */
unsigned graft_test_log_count(const char *text);
/* The i-th of the lines so far, as the server's log would have it; NULL past the last. Lives until
 * they are forgotten. */
const char *graft_test_log_line(unsigned i);
/* Forgets the lines so far. */
void graft_test_forget_log(void);

/* The next breach of the contract whose sentence contains the text is what the test wants: it does
 * not fail. What is expected and has not come by graft_test_end() is a failure. */
void graft_test_expect_misuse(const char *text);

/* ---- Checks, in TAP ---------------------------------------------------------------------------
 *
 * Each prints one line, "ok N - what" or "not ok N - what" and why. They go on; each is whether it
 * held.
 */
#define GRAFT_OK(condition)                                                                        \
    graft_test_ok((condition) ? true : false, __FILE__, __LINE__, #condition)
#define GRAFT_IS(got, want)                                                                        \
    graft_test_is((long long)(got), (long long)(want), __FILE__, __LINE__, #got)
/* A graft_str and a C string; NULL is absent. */
#define GRAFT_IS_TEXT(got, want) graft_test_is_text((got), (want), __FILE__, __LINE__, #got)
/* Two C strings, or NULL. */
#define GRAFT_IS_STR(got, want) graft_test_is_str((got), (want), __FILE__, __LINE__, #got)

bool graft_test_ok(bool held, const char *file, int line, const char *what);
bool graft_test_is(long long got, long long want, const char *file, int line, const char *what);
bool graft_test_is_text(graft_str got, const char *want, const char *file, int line,
                        const char *what);
bool graft_test_is_str(const char *got, const char *want, const char *file, int line,
                       const char *what);

/*
 * The end: the clients leave, up to timeouts_ms.retire (or ten minutes) passes, all plugins are
 * taken out, and who still owes an answer then is named and fails the test. Prints the plan. What
 * main returns: 0 when all held, 1 when not. Nothing of the harness may be called behind it. A
 * program that ends without it, also by an exit() in a plugin, fails.
 */
int graft_test_end(void);

#ifdef __cplusplus
}
#endif

#endif
